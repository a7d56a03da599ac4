//! Which capabilities a container has.
//!
//! Docker's default set without NET_RAW, MKNOD and AUDIT_WRITE. As Fargate does, only SYS_PTRACE can be
//! added. All of them count within the container's own user namespace only; the network namespace
//! belongs to the host's, so NET_BIND_SERVICE has no effect there and low ports are opened by a sysctl.

use neargate_driver::StartError;

/// Bit numbers by name, from `linux/capability.h`.
const NAMES: [(&str, u32); 41] = [
    ("CHOWN", 0),
    ("DAC_OVERRIDE", 1),
    ("DAC_READ_SEARCH", 2),
    ("FOWNER", 3),
    ("FSETID", 4),
    ("KILL", 5),
    ("SETGID", 6),
    ("SETUID", 7),
    ("SETPCAP", 8),
    ("LINUX_IMMUTABLE", 9),
    ("NET_BIND_SERVICE", 10),
    ("NET_BROADCAST", 11),
    ("NET_ADMIN", 12),
    ("NET_RAW", 13),
    ("IPC_LOCK", 14),
    ("IPC_OWNER", 15),
    ("SYS_MODULE", 16),
    ("SYS_RAWIO", 17),
    ("SYS_CHROOT", 18),
    ("SYS_PTRACE", SYS_PTRACE),
    ("SYS_PACCT", 20),
    ("SYS_ADMIN", 21),
    ("SYS_BOOT", 22),
    ("SYS_NICE", 23),
    ("SYS_RESOURCE", 24),
    ("SYS_TIME", 25),
    ("SYS_TTY_CONFIG", 26),
    ("MKNOD", 27),
    ("LEASE", 28),
    ("AUDIT_WRITE", 29),
    ("AUDIT_CONTROL", 30),
    ("SETFCAP", 31),
    ("MAC_OVERRIDE", 32),
    ("MAC_ADMIN", 33),
    ("SYSLOG", 34),
    ("WAKE_ALARM", 35),
    ("BLOCK_SUSPEND", 36),
    ("AUDIT_READ", 37),
    ("PERFMON", 38),
    ("BPF", 39),
    ("CHECKPOINT_RESTORE", 40),
];

const SYS_PTRACE: u32 = 19;

/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, SYS_CHROOT and
/// SETFCAP.
const DEFAULT: u64 = 0x8004_05fb;
/// All that a plan may hold; the supervisor cuts everything else off.
pub(crate) const ALLOWED: u64 = DEFAULT | 1 << SYS_PTRACE;
/// The last capability that Linux 6.18 knows; the bounding set is emptied up to the kernel's own last.
pub(crate) const LAST: u64 = 63;

/// Whether the set holds SYS_PTRACE, which also opens system calls.
pub(crate) fn has_ptrace(set: u64) -> bool {
    set & 1 << SYS_PTRACE != 0
}

/// The set after a spec's additions and removals; removals are applied first, as Docker does for `ALL`.
pub(crate) fn resolve(add: &[String], drop: &[String]) -> Result<u64, StartError> {
    let mut set = DEFAULT;
    for name in drop {
        match name.to_ascii_uppercase().as_str() {
            "ALL" => set = 0,
            other => set &= !(1 << bit(name, other)?),
        }
    }
    for name in add {
        if !name.eq_ignore_ascii_case("SYS_PTRACE") {
            let why = "only SYS_PTRACE can be added, as on Fargate".to_owned();
            return Err(StartError::Unsupported { what: format!("adding capability {name:?}"), why });
        }
        set |= 1 << SYS_PTRACE;
    }
    Ok(set)
}

fn bit(given: &str, name: &str) -> Result<u32, StartError> {
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, bit)| *bit).ok_or_else(|| {
        StartError::Unsupported {
            what: format!("dropping capability {given:?}"),
            why: "there is no capability of that name; names have no CAP_ prefix".to_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], expect: Option<u64>) {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(resolve(&owned(add), &owned(drop)).ok(), expect, "+{add:?} -{drop:?}");
    }

    #[test]
    fn additions_and_removals() {
        check(&[], &[], Some(0x8004_05fb));
        check(&["SYS_PTRACE"], &[], Some(0x800c_05fb));
        check(&["sys_ptrace"], &["ALL"], Some(0x0008_0000));
        check(&[], &["all"], Some(0));
        check(&[], &["CHOWN", "SETFCAP"], Some(0x0004_05fa));
        check(&[], &["NET_ADMIN"], Some(0x8004_05fb));
        check(&[], &["CAP_CHOWN"], None);
        check(&[], &[""], None);
        for refused in ["SYS_ADMIN", "NET_ADMIN", "NET_RAW", "ALL", "CHOWN", "CAP_SYS_PTRACE", ""] {
            check(&[refused], &[], None);
        }
    }
}
