//! Rows 51, 52, 54 and 57: files of the kernel, programs of the runtime, devices.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use neargate_tests::{binary, process};
use serde_json::json;

use crate::expect::expect;
use crate::lab::{Lab, TASK_LIMIT, lab};
use crate::suite::{Case, Needs};

pub(crate) const CASES: &[Case] = &[
    ("row_51_kernel_settings", Needs::Root, row_51_kernel_settings),
    ("row_51_no_file_of_the_kernel_is_writable", Needs::Root, row_51_no_file_of_the_kernel_is_writable),
    ("row_51_control_groups", Needs::Root, row_51_control_groups),
    ("row_52_masked_files", Needs::Root, row_52_masked_files),
    ("row_54_programs_of_the_runtime", Needs::Root, row_54_programs_of_the_runtime),
    ("row_54_script_of_the_runtime", Needs::Root, row_54_script_of_the_runtime),
    ("row_57_devices", Needs::Root, row_57_devices),
];

/// Settings of the kernel that are programs which the host runs, or switches of the host.
const SETTINGS: [&str; 20] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hotplug",
    "/proc/sys/kernel/poweroff_cmd",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/kernel/yama/ptrace_scope",
    "/proc/sys/kernel/unprivileged_bpf_disabled",
    "/proc/sys/fs/suid_dumpable",
    "/proc/sys/fs/protected_symlinks",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/user/max_user_namespaces",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sysrq-trigger",
    "/proc/irq/default_smp_affinity",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/power/state",
    "/sys/module/kernel/parameters/panic",
];
/// What is masked, below the ways that lead to it.
const MASKED: [&str; 14] = [
    "proc/kcore",
    "proc/keys",
    "proc/timer_list",
    "proc/timer_stats",
    "proc/sched_debug",
    "proc/latency_stats",
    "proc/interrupts",
    "proc/scsi",
    "proc/acpi",
    "proc/asound",
    "sys/firmware",
    "sys/devices/virtual/powercap",
    "sys/devices/system/cpu/cpu0/thermal_throttle",
    "sys/devices/system/cpu/cpu1/thermal_throttle",
];
const WAYS: [&str; 5] = ["", "/proc/self/root", "/proc/1/root", "/proc/thread-self/root", "/proc/self/cwd"];
/// How long a task looks for programs of the runtime, in milliseconds.
const LOOKING_MS: &str = "3000";
/// A script by a relative path, which its interpreter takes for the task whose logs it is to print.
const SCRIPT: &str = "arn:aws:ecs:us-east-1:123456789012:task/adversarial/0123456789abcdef0123456789abcdef";
/// Commands that are at least run in the task meanwhile, one after the other.
const COMMANDS_MIN: usize = 3;

fn row_51_kernel_settings() -> Result<()> {
    let arguments = [&["write"], &SETTINGS[..]].concat();
    let lines = |refused: &str| SETTINGS.map(|path| format!("{path}: {refused}")).join("\n");
    expect(&lines("EROFS|EACCES|ENOENT"), &lab()?.run(&arguments)?)?;
    // The root of the image being read-only changes nothing there, and neither does the runtime's first process.
    let output = lab()?.run_with(&arguments, |container| {
        container["readonlyRootFilesystem"] = json!(true);
        container["linuxParameters"] = json!({"initProcessEnabled": true});
    })?;
    expect(&lines("EROFS|EACCES|ENOENT"), &output)
}

/// Everything below these directories is opened, so that no list has to be complete.
fn row_51_no_file_of_the_kernel_is_writable() -> Result<()> {
    let directories =
        ["/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/tty", "/proc/driver", "/sys"];
    let arguments = [&["writable"], &directories[..]].concat();
    let output = lab()?.run(&arguments)?;
    let expected = directories.map(|directory| match directory {
        "/proc/sys" | "/sys" => format!("{directory}: searched, writable: none"),
        _ => String::new(),
    });
    for (line, expected) in output.lines().zip(&expected) {
        ensure!(line.ends_with(", writable: none"), "{line}");
        ensure!(expected.is_empty() || line == expected, "{line}");
    }
    ensure!(output.lines().count() == directories.len(), "{output}");
    Ok(())
}

fn row_51_control_groups() -> Result<()> {
    let output = lab()?.run(&["cgroups"])?;
    // Where there is one unified hierarchy the task sees its own group in it.
    let output = output.replace("/sys/fs/cgroup: searched, ", "/sys/fs/cgroup: nothing there, ");
    expect(include_str!("expected/cgroups.txt"), &output)
}

fn row_52_masked_files() -> Result<()> {
    let paths: Vec<String> = WAYS
        .iter()
        .flat_map(|way| MASKED.map(|path| format!("{way}/{path}")))
        .chain(["/proc/version".to_owned()])
        .collect();
    let mut arguments = vec!["read"];
    arguments.extend(paths.iter().map(String::as_str));
    let expected: Vec<String> = paths
        .iter()
        .map(|path| {
            if path == "/proc/version" {
                format!("{path}: something")
            } else {
                format!("{path}: empty|ENOENT")
            }
        })
        .collect();
    let there = MASKED.iter().filter(|path| PathBuf::from("/").join(path).exists()).count();
    ensure!(there > 2, "this host has almost nothing of what is masked");
    expect(&expected.join("\n"), &lab()?.run(&arguments)?)
}

/// CVE-2019-5736: a task looks for processes of the runtime on their way into it, and writes to what they run.
fn row_54_programs_of_the_runtime() -> Result<()> {
    let lab = lab()?;
    let before = programs(&lab)?;
    let mut definition = lab.definition(&["programs", LOOKING_MS]);
    definition["containerDefinitions"][0]["linuxParameters"] = json!({"initProcessEnabled": true});
    let task = lab.start(&definition)?;
    task.until_printed("looking")?;
    let mut commands = 0;
    // The last one may be cut off by the end of the task.
    while lab.server.run(&["exec", &task.arn, "--", "/bin/intruder", "descriptors"])?.code == 0 {
        commands += 1;
    }
    ensure!(commands >= COMMANDS_MIN, "only {commands} commands ran while the task looked");
    let output = task.finish()?;
    let outcomes: Vec<&str> = output.lines().skip_while(|line| !line.starts_with("programs: ")).collect();
    // It came upon processes whose program it may not even name, and upon no other.
    ensure!(outcomes.first() == Some(&"programs: ") && outcomes.contains(&"look: EACCES"), "{output}");
    let is_refused = |outcome: &&str| ["EACCES", "ENOENT", "ESRCH"].iter().any(|why| outcome.ends_with(why));
    ensure!(outcomes.iter().skip(1).all(is_refused), "{output}");
    ensure!(programs(&lab)? == before, "a program of the runtime was changed");
    Ok(())
}

/// The other way of CVE-2019-5736: a script whose interpreter is `/proc/self/exe`, which for the process that is to run it
/// is the runtime's own program. It then runs as a program of the task, which may open it, and must not write to it.
fn row_54_script_of_the_runtime() -> Result<()> {
    let lab = lab()?;
    let before = programs(&lab)?;
    lab.pack("with-script", |root| {
        let script = root.join(SCRIPT);
        fs::create_dir_all(script.parent().context("the script lies in a directory")?)?;
        fs::write(&script, "#!/proc/self/exe logs\n")?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        libraries()?.iter().try_for_each(|library| {
            let to = root.join(library.strip_prefix("/")?);
            fs::create_dir_all(to.parent().context("a library lies in a directory")?)?;
            fs::copy(library, &to).map(drop).with_context(|| format!("copy {}", library.display()))
        })
    })?;
    let mut definition = lab.definition(&["programs", LOOKING_MS]);
    definition["containerDefinitions"][0]["image"] = json!("with-script");
    let task = lab.start(&definition)?;
    task.until_printed("looking")?;
    // A client of a server that never answers: it stays until the task ends.
    let mut exec = lab.server.command(&["exec"]);
    for variable in
        ["AWS_ENDPOINT_URL=http://127.0.0.1:7070", "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b"]
    {
        exec.args(["-e", variable]);
    }
    exec.args([&task.arn, "--", SCRIPT]);
    let finished = process::run(&mut exec, b"", TASK_LIMIT)?;
    let output = task.finish()?;
    let outcomes: Vec<&str> = output.lines().skip_while(|line| !line.starts_with("programs: ")).collect();
    let came_upon_it = outcomes.first().is_some_and(|programs| programs.contains("memfd:neargate"));
    ensure!(came_upon_it && outcomes.contains(&"write: ETXTBSY"), "{output}\n{}", finished.stderr);
    let is_refused = |outcome: &&str| {
        ["EACCES", "ENOENT", "EPERM", "ESRCH", "ETXTBSY"].iter().any(|why| outcome.ends_with(why))
    };
    ensure!(outcomes.iter().skip(1).all(is_refused), "{output}");
    ensure!(programs(&lab)? == before, "a program of the runtime was changed");
    Ok(())
}

/// The shared libraries of the binary under test, and what loads them; none where it is static.
fn libraries() -> Result<Vec<PathBuf>> {
    let finished = process::run(Command::new("ldd").arg(binary()), b"", TASK_LIMIT)?;
    let text = finished.text();
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// What the server and the supervisor run, byte by byte.
fn programs(lab: &Lab) -> Result<Vec<Vec<u8>>> {
    let supervisor = lab.server.supervisor().context("find the supervisor")?.as_raw_nonzero().get();
    let read = |pid: i32| fs::read(format!("/proc/{pid}/exe"));
    let programs: io::Result<Vec<_>> =
        [lab.server.pid().cast_signed(), supervisor].map(read).into_iter().collect();
    programs.context("read the programs of the runtime")
}

fn row_57_devices() -> Result<()> {
    expect(include_str!("expected/devices.txt"), &lab()?.run(&["devices"])?)
}
