//! Rows 33 to 44: what a definition may not ask for.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{CWD, RenameFlags};
use serde_json::{Value, json};

use crate::lab::{Course, lab};
use crate::suite::{Case, Needs};

pub(crate) const CASES: &[Case] = &[
    ("row_33_rights_over_the_host", Needs::Root, row_33_rights_over_the_host),
    ("row_34_host_paths", Needs::Root, row_34_host_paths),
    ("row_34_host_path_that_changes", Needs::Root, row_34_host_path_that_changes),
    ("row_35_mount_targets", Needs::Root, row_35_mount_targets),
    ("row_37_sizes", Needs::Root, row_37_sizes),
    ("row_44_ulimits", Needs::Root, row_44_ulimits),
];

/// Tasks that are started while a directory and a link change places.
const RACES: usize = 40;

/// Sets a member of the definition, or of its container for a path that begins with a slash.
fn set(definition: &mut Value, member: &str, value: Value) {
    match member.strip_prefix('/') {
        Some(member) => definition["containerDefinitions"][0][member] = value,
        None => definition[member] = value,
    }
}

/// Fails unless the API refuses the definition as a mistake of the client's.
fn refused(what: &str, definition: &Value) -> Result<()> {
    match lab()?.try_run(definition)? {
        Course::Refused(code, message) => {
            let codes = ["ClientException", "InvalidParameterException", "SerializationException"];
            ensure!(codes.contains(&code.as_str()) && !message.is_empty(), "{what}: {code}: {message}");
            Ok(())
        }
        other => bail!("{what} was accepted: {other:?}"),
    }
}

fn row_33_rights_over_the_host() -> Result<()> {
    let lab = lab()?;
    let check = |member: &str, value: Value| {
        let mut definition = lab.definition(&["descriptors"]);
        set(&mut definition, member, value.clone());
        refused(&format!("{member}: {value}"), &definition)?;
        definition["requiresCompatibilities"] = json!(["EC2"]);
        refused(&format!("{member} on EC2: {value}"), &definition)
    };
    check("/privileged", json!(true))?;
    for capability in
        ["ALL", "SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_MODULE", "MKNOD", "DAC_READ_SEARCH", "BPF"]
    {
        check("/linuxParameters", json!({"capabilities": {"add": [capability]}}))?;
    }
    for device in ["/dev/kmsg", "/dev/sda", "/dev/fuse"] {
        check("/linuxParameters", json!({"devices": [{"hostPath": device}]}))?;
    }
    check("pidMode", json!("host"))?;
    check("ipcMode", json!("host"))?;
    check("networkMode", json!("host"))?;
    for option in ["no-new-privileges:false", "seccomp=unconfined", "apparmor=unconfined", "label:disable"] {
        check("/dockerSecurityOptions", json!([option]))?;
    }
    check("/systemControls", json!([{"namespace": "kernel.core_pattern", "value": "|/bin/x"}]))
}

/// A definition that mounts a directory of the host at `/data` and reads two files there.
fn mounting(source: &Path) -> Result<Value> {
    let mut definition = lab()?.definition(&["read", "/data/inside", "/data/secret"]);
    definition["volumes"] = json!([{"name": "v", "host": {"sourcePath": source}}]);
    set(&mut definition, "/mountPoints", json!([{"sourceVolume": "v", "containerPath": "/data"}]));
    Ok(definition)
}

fn row_34_host_paths() -> Result<()> {
    let lab = lab()?;
    let volumes = lab.volumes();
    symlink("/etc", volumes.join("to-etc"))?;
    symlink("..", volumes.join("to-the-outside"))?;
    for path in [
        "/".into(),
        "/var/run".into(),
        "/etc".into(),
        "/proc/1/root".into(),
        "/sys/fs/cgroup".into(),
        "relative".into(),
        lab.server.data.clone(),
        volumes.join(".."),
        volumes.join("../volumes/../.."),
        volumes.join("to-etc"),
        volumes.join("to-the-outside"),
        volumes.join("absent"),
        volumes.with_file_name("volumes-beside"),
    ] {
        refused(&path.display().to_string(), &mounting(&path)?)?;
    }
    Ok(())
}

/// The directory and the link change places all the time: a task mounts the directory, or nothing.
fn row_34_host_path_that_changes() -> Result<()> {
    let lab = lab()?;
    let outside = lab.volumes().with_file_name("outside");
    let (place, link) = (lab.volumes().join("changing"), lab.volumes().join("changing-link"));
    fs::create_dir(&outside)?;
    fs::write(outside.join("secret"), "secret")?;
    fs::create_dir(&place)?;
    fs::write(place.join("inside"), "inside")?;
    symlink(&outside, &link)?;
    let done = AtomicBool::new(false);
    let exchange = || -> Result<u64> {
        let mut times = 0;
        while !done.load(Ordering::Relaxed) {
            rustix::fs::renameat_with(CWD, &place, CWD, &link, RenameFlags::EXCHANGE)
                .context("exchange them")?;
            times += 1;
            thread::yield_now();
        }
        Ok(times)
    };
    let (mut inside, mut turned_away) = (0, 0);
    let mut run = || -> Result<()> {
        for _ in 0..RACES {
            match lab.try_run(&mounting(&place)?)? {
                Course::Ran(output) => {
                    ensure!(
                        output == "/data/inside: something\n/data/secret: ENOENT\n",
                        "it is outside: {output}"
                    );
                    inside += 1;
                }
                Course::Failed(_) | Course::Refused(..) => turned_away += 1,
            }
        }
        Ok(())
    };
    let times = thread::scope(|scope| {
        let exchanging = scope.spawn(exchange);
        let ran = run();
        done.store(true, Ordering::Relaxed);
        let times = exchanging.join().expect("the thread does not panic")?;
        ran.map(|()| times)
    })?;
    ensure!(
        times > 1000 && inside + turned_away == RACES,
        "{times} exchanges, {inside} inside, {turned_away} not"
    );
    Ok(())
}

fn row_35_mount_targets() -> Result<()> {
    let lab = lab()?;
    for target in [
        "/proc",
        "/proc/sys",
        "/sys",
        "/sys/fs/cgroup",
        "/dev",
        "/dev/..",
        "/",
        "//",
        "/.",
        "../x",
        "x",
        "",
        "/a/../../proc",
    ] {
        let mut volume = lab.definition(&["descriptors"]);
        volume["volumes"] = json!([{"name": "v"}]);
        set(&mut volume, "/mountPoints", json!([{"sourceVolume": "v", "containerPath": target}]));
        let mut tmpfs = lab.definition(&["descriptors"]);
        set(&mut tmpfs, "/linuxParameters", json!({"tmpfs": [{"containerPath": target, "size": 1}]}));
        for definition in [volume, tmpfs] {
            match lab.try_run(&definition)? {
                Course::Refused(code, _) => ensure!(code == "ClientException", "{target:?}: {code}"),
                Course::Failed(reason) => ensure!(reason.contains("mount"), "{target:?}: {reason}"),
                Course::Ran(_) => bail!("{target:?} was mounted on: {definition}"),
            }
        }
    }
    Ok(())
}

fn row_37_sizes() -> Result<()> {
    let lab = lab()?;
    for (member, value) in [
        ("/memory", "0"),
        ("/memory", "-1"),
        ("/memory", "5"),
        ("/memory", "513"),
        ("/memory", "1e309"),
        ("/memory", "NaN"),
        ("/memory", "1.5"),
        ("/memory", "2147483648"),
        ("/memory", "18446744073709551616"),
        ("/memoryReservation", "0"),
        ("/memoryReservation", "-1"),
        ("/cpu", "-1"),
        ("/cpu", "1e309"),
        ("/cpu", "257"),
        ("memory", "\"0\""),
        ("memory", "\"-1\""),
        ("memory", "\"NaN\""),
        ("memory", "\"1e309\""),
        ("memory", "\"512.5\""),
        ("memory", "\"99999999999999999999\""),
        ("memory", "\"\""),
        ("cpu", "\"0\""),
        ("cpu", "\"-256\""),
        ("cpu", "\"inf\""),
        ("cpu", "\"256 vCPU\""),
    ] {
        // As text, because the numbers are those that a JSON library would not write.
        let mut definition = lab.definition(&["descriptors"]);
        set(&mut definition, member, json!("VALUE"));
        let body = definition.to_string().replace("\"VALUE\"", value);
        let answer =
            lab.client().post(neargate_tests::client::Api::Ecs, "RegisterTaskDefinition", body.as_bytes())?;
        let codes = ["ClientException", "InvalidParameterException", "SerializationException"];
        ensure!(
            answer.status == 400 && codes.contains(&answer.error_code().as_str()),
            "{member}: {value}: {}",
            String::from_utf8_lossy(&answer.body)
        );
    }
    let mut definition = lab.definition(&["descriptors"]);
    let mut second = definition["containerDefinitions"][0].clone();
    second["name"] = json!("second");
    definition["containerDefinitions"].as_array_mut().context("a list of containers")?.push(second);
    for container in 0..2 {
        definition["containerDefinitions"][container]["memory"] = json!(300);
    }
    refused("two containers of 300 MiB in a task of 512", &definition)
}

/// More than the host allows is refused by name, and no limit of a container lifts one of its task.
fn row_44_ulimits() -> Result<()> {
    let lab = lab()?;
    let with = |name: &str, value: i64| {
        let mut definition = lab.definition(&["descriptors"]);
        set(&mut definition, "/ulimits", json!([{"name": name, "softLimit": value, "hardLimit": value}]));
        lab.try_run(&definition)
    };
    for value in [i64::from(i32::MAX), i64::MAX, -2] {
        match with("nofile", value)? {
            Course::Failed(reason) => ensure!(reason.contains("fs.nr_open"), "{value}: {reason}"),
            Course::Refused(code, _) => ensure!(
                ["ClientException", "SerializationException"].contains(&code.as_str()),
                "{value}: {code}"
            ),
            Course::Ran(_) => bail!("{value} open files were given"),
        }
    }
    for name in ["rtprio", "nice"] {
        match with(name, 20)? {
            Course::Failed(reason) => ensure!(!reason.is_empty(), "{name}"),
            Course::Refused(code, _) => ensure!(code == "ClientException", "{name}: {code}"),
            Course::Ran(_) => bail!("{name} was given"),
        }
    }
    Ok(())
}
