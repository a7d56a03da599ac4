//! Row 46: who a task is to the kernel. Row 55: what it has open from the start.

use std::fs;

use crate::kernel::{self, call, error_name, pointer_mut, say, text};

const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

/// The names of `linux/capability.h` by number.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Numbers and kinds of the open descriptors, without the one that looks.
pub(crate) fn open_descriptors() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for number in 0..4096 {
        let link = fs::read_link(format!("/proc/self/fd/{number}"));
        if let Ok(link) = link {
            let link = link.to_string_lossy().into_owned();
            let kind = link.split_once(":[").map_or(link.clone(), |(kind, _)| kind.to_owned());
            found.push((number.to_string(), kind));
        }
    }
    found
}

/// Everything that tells tasks apart from what runs on the host. The arguments are the host's namespaces, as
/// `readlink /proc/self/ns/*` shows them.
pub(crate) fn identity(hosts: &[&str]) {
    for kind in NAMESPACES {
        let own = fs::read_link(format!("/proc/self/ns/{kind}"));
        let own = own.map(|link| link.to_string_lossy().into_owned()).unwrap_or_default();
        let whose = if hosts.contains(&own.as_str()) { "the host's" } else { "its own" };
        say(&format!("namespace {kind}"), if own.is_empty() { "none" } else { whose });
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or("none").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for name in
        ["Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Seccomp_filters", "SigBlk", "SigIgn", "SigCgt"]
    {
        say(name, field(name));
    }
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        say(name, capabilities(&field(name)));
    }
    for map in ["uid_map", "gid_map"] {
        let text = fs::read_to_string(format!("/proc/self/{map}")).unwrap_or_default();
        let [inside, outside, length] = text.split_whitespace().collect::<Vec<_>>()[..] else {
            say(map, format!("{text:?}"));
            continue;
        };
        let outside = if outside.parse().is_ok_and(|id: u32| id >= 65_536) { "elsewhere" } else { outside };
        say(map, format!("{inside} {outside} {length}"));
    }
    let prctl = |option: i32| {
        call(libc::SYS_prctl, &[option as usize]).map_or_else(error_name, |value| value.to_string())
    };
    say("securebits", prctl(libc::PR_GET_SECUREBITS));
    say("parent", call(libc::SYS_getppid, &[]).unwrap_or(usize::MAX));
    say("session", call(libc::SYS_getsid, &[0]).unwrap_or(usize::MAX));
    let terminal = fs::File::open("/dev/tty").map_err(|error| error.raw_os_error().unwrap_or(0));
    say("controlling terminal", kernel::name(terminal.map(|_| 0)));
    say("oom_score_adj", line("/proc/self/oom_score_adj"));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let managed = |line: &&str| ["memory", "pids", ""].contains(&line.split(':').nth(1).unwrap_or("-"));
    let mut paths: Vec<&str> =
        groups.lines().filter(managed).filter_map(|line| line.splitn(3, ':').nth(2)).collect();
    paths.sort_unstable();
    paths.dedup();
    say("cgroups", paths.join(" "));
    let mut names: Vec<String> =
        std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    names.sort();
    say("environment", names.join(" "));
}

/// Names of the capabilities in a mask as `/proc` shows it.
fn capabilities(mask: &str) -> String {
    let Ok(mask) = u64::from_str_radix(mask, 16) else { return format!("not a mask: {mask}") };
    let names: Vec<&str> = CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(bit, _)| mask >> bit & 1 == 1)
        .map(|(_, name)| *name)
        .collect();
    let unknown = mask >> CAPABILITIES.len();
    match (names.is_empty(), unknown) {
        (true, 0) => "none".to_owned(),
        (_, 0) => names.join(" "),
        _ => format!("{} and {unknown:#x} beyond", names.join(" ")),
    }
}

/// Row 11: the ids and capabilities of a program that was executed; for files that would give more.
pub(crate) fn effective_user() {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata("/proc/self/exe").map_or(0, |meta| meta.permissions().mode() & 0o7777);
    let mut capabilities = [0u8; 64];
    let name = c"security.capability";
    let read = call(
        libc::SYS_getxattr,
        &[text(c"/proc/self/exe"), text(name), pointer_mut(&mut capabilities), size_of_val(&capabilities)],
    );
    say("mode and capabilities of the program", format!("{mode:o} {}", read.unwrap_or(0)));
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for name in ["Uid", "Gid", "CapPrm", "CapEff"] {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        say(name, line.unwrap_or("none").split_whitespace().collect::<Vec<_>>().join(" "));
    }
}

/// Row 19: where the task stands, by name and by what is above it.
pub(crate) fn working_directory() {
    let current = std::env::current_dir();
    say(
        "working directory",
        current.map_or_else(|error| error.to_string(), |path| path.display().to_string()),
    );
    let identity = |path: &str| {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok()
    };
    let mut above = ".".to_owned();
    for _ in 0..16 {
        above.push_str("/..");
    }
    say("the top above it", if identity(&above) == identity("/") { "the root" } else { "not the root" });
}

fn line(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|error| error.to_string(), |text| text.trim().to_owned())
}
