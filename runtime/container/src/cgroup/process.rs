//! Which container a process is of.

use std::fs;
use std::io;

use super::TOP;
use crate::standing::Standing;

/// The name of the container's group that a process is in, also one that has ended and was not reaped, as far as v2 tells
/// that; `None` for a process that is in none.
pub(crate) fn container_of(pid: i32) -> Option<String> {
    if !Standing::own().is_host() {
        return nominal_name(pid).ok();
    }
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(container_in).map(str::to_owned)
}

/// The name of the group of the container whose first process this is or was, where groups are so in name only.
pub(crate) fn nominal_name(pid: i32) -> io::Result<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let began = began_at(&stat).ok_or(io::ErrorKind::InvalidData)?;
    Ok(format!("@{began}"))
}

/// When a process was started, in clock ticks since the boot, of proc_pid_stat(5).
fn began_at(stat: &str) -> Option<u64> {
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19)?.parse().ok())
}

/// The container's group in a line of `/proc/PID/cgroup`: `0::/neargate/INSTANCE/TASK/CONTAINER` and perhaps more.
fn container_in(line: &str) -> Option<&str> {
    let mut parts = line.splitn(3, ':').nth(2)?.split('/').skip_while(|part| *part != TOP);
    let name = parts.nth(3)?;
    // What the kernel puts behind the path of a directory that is gone.
    Some(name.strip_suffix(" (deleted)").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::{began_at, container_in};

    #[test]
    fn reads_when_a_process_was_started() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 99 1\n";
        assert_eq!(began_at(stat), Some(12345));
        assert_eq!(began_at("7 (a) S 1"), None);
    }

    #[test]
    fn finds_the_container_in_a_line() {
        let check = |line: &str, expect: Option<&str>| assert_eq!(container_in(line), expect, "{line}");
        check("0::/neargate/0a/t1/c-1.7", Some("c-1.7"));
        check("0::/neargate/0a/t1/c-1.7 (deleted)", Some("c-1.7"));
        check("0::/outer/neargate/0a/t1/c-1.7/inner (deleted)", Some("c-1.7"));
        check("4:pids:/neargate/0a/t1/c-1.7", Some("c-1.7"));
        check("4:memory:/neargate/0a/t1", None);
        check("0::/", None);
        check("0::/system.slice/neargate.service", None);
    }
}
