//! Linux capabilities: their names and bits, and which of them count for a container.
//!
//! A container has a user namespace of its own. A capability in it counts for what that namespace owns: ids, mounts,
//! and, where a task is given it, a network. Much that capabilities guard the kernel asks of the host's namespace
//! alone (loading modules, setting the clock, making device nodes), so that naming them would do nothing.

/// Names without `CAP_`, and bit numbers, from `linux/capability.h`.
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
    ("SYS_PTRACE", 19),
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

/// Stands for all of them.
pub const EVERY: &str = "ALL";

/// Docker's default set without NET_RAW, MKNOD and AUDIT_WRITE: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID,
/// SETUID, SETPCAP, NET_BIND_SERVICE, SYS_CHROOT and SETFCAP.
pub const DEFAULT: u64 = 0x8004_05fb;

/// May be added without anyone's permission, as on Fargate.
pub const SYS_PTRACE: u64 = 1 << 19;
/// Locks memory; a container that has it gets no limit of locked memory, which is what the kernel looks at.
pub const IPC_LOCK: u64 = 1 << 14;
/// Raises priorities; a container that has it may lower its niceness, which is what the kernel looks at.
pub const SYS_NICE: u64 = 1 << 23;
/// Mounts, and makes namespaces.
pub const SYS_ADMIN: u64 = 1 << 21;
/// NET_ADMIN and NET_RAW: they count where the task's network belongs to its user namespace.
pub const NETWORK: u64 = 1 << 12 | 1 << 13;

/// What the kernel grants a container beyond [`DEFAULT`] if it has the capability in its own user namespace:
/// DAC_READ_SEARCH, NET_ADMIN, NET_RAW, IPC_LOCK, IPC_OWNER, SYS_PTRACE, SYS_ADMIN and SYS_NICE.
pub const USEFUL: u64 = 1 << 2 | NETWORK | IPC_LOCK | 1 << 15 | SYS_PTRACE | SYS_ADMIN | SYS_NICE;

/// Every bit that [`bit`] can return.
pub const KNOWN: u64 = (1 << 41) - 1;

/// The bit of a capability, by its name in any case, without `CAP_`.
pub fn bit(name: &str) -> Option<u64> {
    NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, number)| 1 << number)
}

/// The names in a set, by their numbers.
pub fn names(set: u64) -> Vec<&'static str> {
    NAMES.iter().filter(|(_, number)| set & 1 << number != 0).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bits() {
        for (index, (name, number)) in NAMES.iter().enumerate() {
            assert_eq!((index as u32, bit(name)), (*number, Some(1 << number)), "{name}");
        }
        assert_eq!(bit("sys_ptrace"), Some(SYS_PTRACE));
        for unknown in ["", "ALL", "CAP_CHOWN", "MAGIC"] {
            assert_eq!(bit(unknown), None, "{unknown:?}");
        }
        assert_eq!(names(SYS_ADMIN | 1), ["CHOWN", "SYS_ADMIN"]);
        assert_eq!(names(KNOWN).len(), NAMES.len());
        assert_eq!(names(DEFAULT).len(), 11);
        for missing in ["NET_RAW", "MKNOD", "AUDIT_WRITE"] {
            assert_eq!(DEFAULT & bit(missing).unwrap(), 0, "{missing}");
        }
    }
}
