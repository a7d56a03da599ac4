//! The seccomp lists of roles.
//!
//! What a role needs is allowed. What is good for nothing but an escape, or for another program, kills: such a call
//! comes from code that is not ours any more. The rest answers EPERM, as files do to a worker without any:
//! libraries ask for this and that, and go on without it.
//!
//! A keeper of files: threads, the calls of `wasi:filesystem`, and those that change owners and modes. An unpacker
//! also makes links to everything, extended attributes, pipes and the device 0:0. Which files they reach is the matter
//! of their mounts and Landlock. An unpacker's SYS_ADMIN has no call here to be used with but `fsetxattr`.
//!
//! A worker: a tokio runtime on one thread, wasmtime with its signal handlers and code memory, helper
//! threads. A compiler: memory, threads, and the descriptors that it was given.
//!
//! wasmtime finds dirty pages with an ioctl on its `/proc/self/pagemap`, which was opened before the fences; so
//! that resetting a memory costs what was written to, and no page fault afterwards.
//!
//! `statx` and `newfstatat` are allowed to all, since std and the C library need them for descriptors and a filter
//! cannot see whether the path is empty. In the empty root there is nothing to look at; without namespaces, names and sizes of the host's files
//! can be seen.
//!
//! A worker to which sockets are handed over makes none: `socket` is trapped, and the kernel does nothing but to tell the
//! worker so, which then answers the call itself with a socket that somebody else has made.
//!
//! `clone` makes threads only and `clone3`, whose flags a filter cannot see, is answered ENOSYS, so nothing
//! forks. `socketpair` makes connected streams only: a datagram socket, even one of a pair, could send to any
//! address in its network namespace.

use std::collections::HashMap;
use std::io;

use neargate_driver::{ProcessNetwork, ProcessRole};
use seccompiler::{BackendError, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use crate::seccomp::{self, Lists, NEW_NAMESPACES, Rules};

/// What a filter depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Needs {
    /// Whose list.
    pub(crate) role: ProcessRole,
    /// Whether there are directories to use.
    pub(crate) files: bool,
    /// Whether sockets can be made, or used that were.
    pub(crate) network: ProcessNetwork,
    /// The process's own id in its namespace, the only one that it may signal.
    pub(crate) pid: u32,
}

/// Filters that were compiled once; a launcher's children find them in their copy of its memory.
#[derive(Debug, Default)]
pub(crate) struct Filters(HashMap<Needs, Vec<libc::sock_filter>>);

impl Filters {
    /// The filter for what a process needs.
    pub(crate) fn get(&mut self, needs: Needs) -> io::Result<&[libc::sock_filter]> {
        match self.0.entry(needs) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                Ok(entry.insert(compile(needs).map_err(|error| io::Error::other(error.to_string()))?))
            }
        }
    }
}

fn compile(needs: Needs) -> Result<Vec<libc::sock_filter>, BackendError> {
    let mut allowed = [COMMON, COMMON_ON_ARCH].concat();
    if needs.role == ProcessRole::WasmWorker {
        allowed.extend_from_slice(WORKER);
        allowed.extend_from_slice(WORKER_ON_ARCH);
        if needs.files {
            allowed.extend_from_slice(FILES);
            allowed.extend_from_slice(FILES_ON_ARCH);
        }
        if needs.network != ProcessNetwork::None {
            allowed.extend_from_slice(NETWORK);
        }
    }
    if needs.role.keeps_files() {
        allowed.extend_from_slice(OWNERS);
        if needs.files {
            allowed.extend_from_slice(FILES);
            allowed.extend_from_slice(FILES_ON_ARCH);
        }
    }
    let mut killed = [KILLED, KILLED_ON_ARCH].concat();
    let mut by_argument = by_argument(needs)?;
    if needs.role == ProcessRole::Unpacker {
        allowed.push(libc::SYS_fsetxattr);
        killed.retain(|number| *number != libc::SYS_mknodat);
        by_argument.push((libc::SYS_mknodat, unpacked_nodes()?));
    }
    let trapped: &[i64] = match needs.network {
        ProcessNetwork::Handed => &[libc::SYS_socket],
        ProcessNetwork::None | ProcessNetwork::Host => &[],
    };
    seccomp::compile_lists(Lists { allowed: &allowed, killed: &killed, trapped }, by_argument)
}

/// mknodat(2): a pipe, or the device 0:0, which is none.
fn unpacked_nodes() -> Result<Vec<SeccompRule>, BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq};
    let kind = |kind: u32| when(2, MaskedEq(libc::S_IFMT.into()), kind.into());
    Ok(vec![
        SeccompRule::new(vec![kind(libc::S_IFIFO)?])?,
        SeccompRule::new(vec![kind(libc::S_IFCHR)?, when(3, Eq, 0)?])?,
    ])
}

fn when(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)
}

/// One rule for each set of values that a call may have.
fn any_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    values.iter().map(|&value| SeccompRule::new(vec![when(argument, SeccompCmpOp::Eq, value)?])).collect()
}

fn by_argument(needs: Needs) -> Result<Rules, BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq};
    let thread = libc::CLONE_THREAD as u64;
    let threads_only = SeccompRule::new(vec![when(0, MaskedEq(NEW_NAMESPACES | thread), thread)?])?;
    // prlimit64(0, resource, NULL, old): only reads. A pointer is looked at as two halves.
    let own = when(0, Eq, 0)?;
    let reads = SeccompCondition::new(2, SeccompCmpArgLen::Qword, Eq, 0)?;
    let mut rules = vec![
        (libc::SYS_clone, vec![threads_only]),
        (libc::SYS_prlimit64, vec![SeccompRule::new(vec![own, reads])?]),
        (libc::SYS_prctl, any_of(0, PRCTLS)?),
        (libc::SYS_tgkill, any_of(0, &[needs.pid.into()])?),
    ];
    if needs.role == ProcessRole::WasmWorker {
        const TYPE_MASK: u64 = 0xf;
        let stream = SeccompRule::new(vec![
            when(0, Eq, libc::AF_UNIX as u64)?,
            when(1, MaskedEq(TYPE_MASK), libc::SOCK_STREAM as u64)?,
        ])?;
        rules.push((libc::SYS_socketpair, vec![stream]));
        rules.push((libc::SYS_ioctl, any_of(1, IOCTLS)?));
        if needs.network == ProcessNetwork::Host {
            let mut sockets = Vec::new();
            for family in [libc::AF_INET, libc::AF_INET6] {
                for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
                    sockets.push(SeccompRule::new(vec![
                        when(0, Eq, family as u64)?,
                        when(1, MaskedEq(TYPE_MASK), kind as u64)?,
                    ])?);
                }
            }
            rules.push((libc::SYS_socket, sockets));
        }
    }
    Ok(rules)
}

/// Names of threads and of memory (`PR_SET_VMA`), which the C library and wasmtime give.
const PRCTLS: &[u64] = &[libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, 0x5356_4d41];

/// Non-blocking and close-on-exec, the number of bytes to read, whether it is a terminal, and dirty pages.
const IOCTLS: &[u64] = &[
    libc::FIONBIO,
    libc::FIOCLEX,
    libc::FIONCLEX,
    libc::FIONREAD,
    libc::TCGETS,
    libc::TIOCGWINSZ,
    PAGEMAP_SCAN,
];

/// `PAGEMAP_SCAN` (Linux 6.7): `_IOWR('f', 16, struct pm_scan_arg)`, with a structure of 96 bytes.
const PAGEMAP_SCAN: u64 = 0xc060_6610;

macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

/// Memory, threads, time, and descriptors that are there.
const COMMON: &[i64] = calls![
    SYS_brk SYS_clock_getres SYS_clock_gettime SYS_clock_nanosleep SYS_close SYS_close_range SYS_exit
    SYS_exit_group SYS_fcntl SYS_fstat SYS_futex SYS_futex_waitv SYS_getcpu SYS_getegid SYS_geteuid SYS_getgid SYS_getpid SYS_getppid
    SYS_getrandom SYS_getrusage SYS_gettid SYS_gettimeofday SYS_getuid SYS_lseek SYS_madvise SYS_membarrier
    SYS_memfd_create SYS_mincore SYS_mmap SYS_mprotect SYS_mremap SYS_munmap SYS_nanosleep SYS_newfstatat SYS_ppoll
    SYS_pread64 SYS_preadv SYS_pwrite64 SYS_pwritev SYS_read SYS_readv SYS_restart_syscall SYS_rseq
    SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_sched_getaffinity SYS_sched_yield SYS_sendmsg
    SYS_set_robust_list SYS_sigaltstack SYS_statx SYS_sysinfo SYS_uname SYS_write SYS_writev SYS_ftruncate
];

/// Events, pipes, sockets that were handed over, CPU affinity of helper threads.
const WORKER: &[i64] = calls![
    SYS_accept4 SYS_dup SYS_dup3 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2
    SYS_getpeername SYS_getsockname SYS_getsockopt SYS_pipe2 SYS_preadv2 SYS_pwritev2 SYS_recvfrom
    SYS_recvmmsg SYS_recvmsg SYS_sched_setaffinity SYS_sendfile SYS_sendmmsg SYS_sendto SYS_setsockopt
    SYS_shutdown SYS_splice SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime
];

/// With directories: what `wasi:filesystem` needs.
const FILES: &[i64] = calls![
    SYS_copy_file_range SYS_faccessat SYS_faccessat2 SYS_fadvise64 SYS_fallocate SYS_fdatasync SYS_flock
    SYS_fstatfs SYS_fsync SYS_getdents64 SYS_linkat SYS_mkdirat SYS_openat SYS_openat2
    SYS_readlinkat SYS_renameat SYS_renameat2 SYS_statfs SYS_symlinkat SYS_sync_file_range
    SYS_unlinkat SYS_utimensat
];

/// Owners and modes, and the socket over which requests come.
const OWNERS: &[i64] = calls![
    SYS_fchmod SYS_fchmodat SYS_fchmodat2 SYS_fchown SYS_fchownat SYS_recvmsg
];

/// With a network.
const NETWORK: &[i64] = calls![SYS_bind SYS_connect SYS_listen];

/// Not for a program that lives in its own memory and talks through its own descriptors.
const KILLED: &[i64] = calls![
    SYS_acct SYS_add_key SYS_bpf SYS_capset SYS_chroot SYS_clock_adjtime SYS_clock_settime SYS_delete_module
    SYS_execve SYS_execveat SYS_fanotify_init SYS_fanotify_mark SYS_finit_module SYS_fsconfig SYS_fsmount
    SYS_fsopen SYS_fspick SYS_init_module SYS_io_setup SYS_io_uring_enter SYS_io_uring_register
    SYS_io_uring_setup SYS_kcmp SYS_kexec_load SYS_keyctl SYS_mknodat SYS_mount SYS_mount_setattr
    SYS_move_mount SYS_move_pages SYS_name_to_handle_at SYS_nfsservctl SYS_open_by_handle_at SYS_open_tree
    SYS_perf_event_open SYS_personality SYS_pidfd_getfd SYS_pidfd_open SYS_pidfd_send_signal SYS_pivot_root SYS_process_vm_readv
    SYS_process_vm_writev SYS_ptrace SYS_quotactl SYS_reboot SYS_request_key SYS_setdomainname
    SYS_setfsgid SYS_setfsuid SYS_setgid SYS_setgroups SYS_sethostname SYS_setns SYS_setregid SYS_setresgid
    SYS_setresuid SYS_setreuid SYS_settimeofday SYS_setuid SYS_swapoff SYS_swapon SYS_syslog SYS_umount2
    SYS_unshare SYS_userfaultfd SYS_vhangup
];

#[cfg(target_arch = "x86_64")]
const COMMON_ON_ARCH: &[i64] = calls![SYS_poll SYS_arch_prctl SYS_time];
#[cfg(target_arch = "x86_64")]
const WORKER_ON_ARCH: &[i64] = calls![SYS_dup2 SYS_epoll_wait SYS_pipe];
#[cfg(target_arch = "x86_64")]
const FILES_ON_ARCH: &[i64] = calls![
    SYS_access SYS_link SYS_lstat SYS_mkdir SYS_open SYS_readlink SYS_rename SYS_rmdir SYS_stat SYS_symlink SYS_unlink
];
#[cfg(target_arch = "x86_64")]
const KILLED_ON_ARCH: &[i64] =
    calls![SYS_fork SYS_ioperm SYS_iopl SYS_kexec_file_load SYS_mknod SYS_modify_ldt SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const COMMON_ON_ARCH: &[i64] = &[];
#[cfg(not(target_arch = "x86_64"))]
const WORKER_ON_ARCH: &[i64] = &[];
#[cfg(not(target_arch = "x86_64"))]
const FILES_ON_ARCH: &[i64] = &[];
#[cfg(not(target_arch = "x86_64"))]
const KILLED_ON_ARCH: &[i64] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(role: ProcessRole, files: bool, network: ProcessNetwork) -> Needs {
        Needs { role, files, network, pid: 1 }
    }

    #[test]
    fn lists_do_not_contradict_each_other() {
        let allowed =
            [COMMON, COMMON_ON_ARCH, WORKER, WORKER_ON_ARCH, FILES, FILES_ON_ARCH, NETWORK, OWNERS].concat();
        let mut killed = [KILLED, KILLED_ON_ARCH].concat();
        killed.extend(
            by_argument(needs(ProcessRole::WasmWorker, true, ProcessNetwork::Host))
                .unwrap()
                .iter()
                .map(|(n, _)| *n),
        );
        for number in killed {
            assert!(!allowed.contains(&number), "system call {number} is in two lists");
        }
    }

    #[test]
    fn every_filter_compiles_and_stays_small() {
        for role in [
            ProcessRole::WasmWorker,
            ProcessRole::WasmCompiler,
            ProcessRole::FileKeeper,
            ProcessRole::Unpacker,
        ] {
            for network in [ProcessNetwork::None, ProcessNetwork::Host, ProcessNetwork::Handed] {
                for files in [false, true] {
                    let mut filters = Filters::default();
                    let filter = filters.get(needs(role, files, network)).unwrap();
                    // The kernel takes 4,096, and runs it for every number when it is installed.
                    assert!(filter.len() < 512, "{role:?}: {} instructions", filter.len());
                }
            }
        }
    }
}
