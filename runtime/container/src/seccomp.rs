//! The seccomp filter: what moby's default profile allows, and nothing else.
//!
//! Order of checks: a foreign architecture (int 0x80) or the x32 bit kills the process; `clone3` answers
//! ENOSYS, so that the C library falls back to `clone`, whose flags a filter can see; what is listed is
//! allowed; the rest answers EPERM. `socket` refuses AF_ALG and AF_VSOCK (CVE-2026-31431), `clone` refuses
//! new namespaces, `ioctl` refuses pushing input into a terminal (CVE-2017-5226), `personality` allows
//! the usual five values. ptrace and its kin come with the SYS_PTRACE capability only, and mounting and new namespaces
//! with SYS_ADMIN, as in moby's profile; what the kernel asks the host's own SYS_ADMIN for (bpf, perf_event_open,
//! quotactl) does not.
//!
//! Where the host hands core dumps to a program, the kernel starts that program, as the host's root, for a crash in a
//! container, too, and heeds no limit but one of exactly 1 byte, which stands for none (core(5); `coredump_pipe` in
//! fs/coredump.c). Every process may lower its limit, to 0 for example. So a container whose definition names no such
//! limit keeps 1: `setrlimit` and `prlimit64` say yes to another one and change nothing, because programs that guard
//! secrets end when they cannot forbid core dumps, and nobody gets any here either way.
//!
//! The kernel remembers per system call number whether a filter always allows it (Linux 5.11), so most calls
//! cost nothing later; but to find that out it runs the filter for every number when the filter is
//! installed, which is at every start of a container. With the chain of comparisons that seccompiler makes of
//! a list, 1,561 instructions long, that took about a millisecond. So numbers are looked up by binary
//! search here, and seccompiler compiles what looks at arguments.

use std::collections::BTreeMap;
use std::io;
use std::sync::OnceLock;

use neargate_model::capability::{SYS_ADMIN, SYS_PTRACE};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use crate::failure::{Failure, Step};
use crate::init::NO_CORE;
use crate::protocol::StartPlan;

/// Compiled filters, each made once.
#[derive(Debug)]
pub(crate) struct Filters {
    default: Vec<libc::sock_filter>,
    ptrace: Vec<libc::sock_filter>,
    /// Those that few containers have, by [`Kind::index`]: compiled at need.
    others: [OnceLock<Vec<libc::sock_filter>>; 8],
}

/// What tells filters apart.
#[derive(Clone, Copy, Debug)]
struct Kind {
    /// The container's capabilities.
    capabilities: u64,
    /// Whether its definition names the limit of core dumps.
    names_core: bool,
}

impl Kind {
    fn has(self, capability: u64) -> bool {
        self.capabilities & capability != 0
    }

    fn index(self) -> usize {
        usize::from(self.has(SYS_PTRACE))
            | usize::from(self.has(SYS_ADMIN)) << 1
            | usize::from(self.names_core) << 2
    }
}

impl Filters {
    /// Compiles the filters that most containers have.
    pub(crate) fn compile() -> Result<Self, seccompiler::BackendError> {
        let usual = |capabilities| compile(Kind { capabilities, names_core: false });
        Ok(Self { default: usual(0)?, ptrace: usual(SYS_PTRACE)?, others: Default::default() })
    }

    /// The filter for a plan's container.
    pub(crate) fn of(&self, plan: &StartPlan) -> Result<&[libc::sock_filter], Failure> {
        let kind = Kind { capabilities: plan.capabilities, names_core: names_core(plan) };
        let filter = self.get(kind).map_err(|error| io::Error::other(error.to_string()));
        filter.step("compile seccomp filter")
    }

    fn get(&self, kind: Kind) -> Result<&[libc::sock_filter], seccompiler::BackendError> {
        match (kind.names_core, kind.has(SYS_ADMIN), kind.has(SYS_PTRACE)) {
            (false, false, false) => return Ok(&self.default),
            (false, false, true) => return Ok(&self.ptrace),
            _ => {}
        }
        let cell = &self.others[kind.index()];
        if let Some(filter) = cell.get() {
            return Ok(filter);
        }
        let compiled = compile(kind)?;
        Ok(cell.get_or_init(|| compiled))
    }
}

/// Whether a definition asks for core dumps.
pub(crate) fn names_core(plan: &StartPlan) -> bool {
    plan.ulimits.iter().any(|&(resource, (_, hard))| resource == libc::RLIMIT_CORE && hard > NO_CORE)
}

fn compile(kind: Kind) -> Result<Vec<libc::sock_filter>, seccompiler::BackendError> {
    let has = |capability, list| if kind.has(capability) { list } else { &[][..] };
    let with_ptrace: &[i64] = has(SYS_PTRACE, ALLOWED_WITH_PTRACE);
    let with_admin: &[i64] = has(SYS_ADMIN, ALLOWED_WITH_ADMIN);
    let allowed = [ALLOWED, ALLOWED_BY_NUMBER, ALLOWED_ON_ARCH, with_ptrace, with_admin].concat();
    let mut by_argument = filtered_by_argument()?;
    by_argument.retain(|(number, _)| !with_admin.contains(number));
    let mut verdicts = Lists { allowed: &allowed, killed: &[], trapped: &[] }.verdicts();
    if kind.names_core {
        return assemble(verdicts, &[], by_argument);
    }
    for number in [libc::SYS_prlimit64, libc::SYS_setrlimit] {
        verdicts.insert(number as u32, Verdict::LookAtArguments);
    }
    assemble(verdicts, &keep_core_limit(), by_argument)
}

/// Answers success, and does nothing, where the limit of core dumps is to be another; allows the two calls otherwise.
/// Finds the number of the call in the accumulator, and goes on behind its end with any other.
fn keep_core_limit() -> [libc::sock_filter; 14] {
    const DONE: u32 = libc::SECCOMP_RET_ERRNO;
    // The low half of an argument: both architectures are little-endian.
    let load = |argument: usize, half: usize| {
        op(LOAD, 0, 0, (std::mem::offset_of!(libc::seccomp_data, args) + 8 * argument + 4 * half) as u32)
    };
    [
        op(JUMP_EQ, 0, 8, libc::SYS_prlimit64 as u32),
        load(1, 0),
        op(JUMP_EQ, 0, 4, libc::RLIMIT_CORE),
        // Without a new limit it only tells the old one.
        load(2, 0),
        op(JUMP_EQ, 0, 3, 0),
        load(2, 1),
        op(JUMP_EQ, 0, 1, 0),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        op(RETURN, 0, 0, DONE),
        op(JUMP_EQ, 0, 4, libc::SYS_setrlimit as u32),
        load(0, 0),
        op(JUMP_EQ, 0, 1, libc::RLIMIT_CORE),
        op(RETURN, 0, 0, DONE),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

/// Compiles a filter that does with what is listed as the lists say, allows what a rule lets through, and answers EPERM
/// to the rest.
pub(crate) fn compile_lists(
    lists: Lists<'_>,
    by_argument: Rules,
) -> Result<Vec<libc::sock_filter>, seccompiler::BackendError> {
    assemble(lists.verdicts(), &[], by_argument)
}

/// System calls whose numbers decide; others are refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lists<'a> {
    pub(crate) allowed: &'a [i64],
    pub(crate) killed: &'a [i64],
    /// Those that are not done, and of which the process is told by SIGSYS.
    pub(crate) trapped: &'a [i64],
}

impl Lists<'_> {
    fn verdicts(self) -> BTreeMap<u32, Verdict> {
        let lists =
            [(self.allowed, Verdict::Allow), (self.killed, Verdict::Kill), (self.trapped, Verdict::Trap)];
        let numbers = |(list, verdict): (&[i64], Verdict)| {
            list.iter().map(move |number| (*number as u32, verdict)).collect::<Vec<_>>()
        };
        lists.into_iter().flat_map(numbers).collect()
    }
}

/// Puts a filter together: the search tree, then `first` for calls whose arguments decide, then the rules.
fn assemble(
    mut verdicts: BTreeMap<u32, Verdict>,
    first: &[libc::sock_filter],
    by_argument: Rules,
) -> Result<Vec<libc::sock_filter>, seccompiler::BackendError> {
    verdicts.extend(by_argument.iter().map(|(number, _)| (*number as u32, Verdict::LookAtArguments)));
    let filter = SeccompFilter::new(
        by_argument.into_iter().collect(),
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        TargetArch::try_from(std::env::consts::ARCH)?,
    )?;
    let tail: BpfProgram = filter.try_into()?;
    let mut program = prelude();
    program.extend(search_tree(&ranges(&verdicts)));
    program.extend(first);
    program.extend(tail.into_iter().map(|i| op(i.code, i.jt, i.jf, i.k)));
    Ok(program)
}

/// What the number of a system call decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allow,
    Refuse,
    /// For calls that no honest process of the kind makes.
    Kill,
    /// Answered by the process itself, in its handler of SIGSYS.
    Trap,
    /// Go on behind the search tree.
    LookAtArguments,
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_EQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_GE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

fn op(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// Kills foreign ABIs and answers ENOSYS to `clone3`, before anything is looked up; leaves the number of
/// the call in the accumulator.
fn prelude() -> Vec<libc::sock_filter> {
    #[cfg(target_arch = "x86_64")]
    const AUDIT_ARCH: u32 = 0xc000_003e;
    #[cfg(target_arch = "aarch64")]
    const AUDIT_ARCH: u32 = 0xc000_00b7;
    const X32_BIT: u32 = 0x4000_0000;
    vec![
        op(LOAD, 0, 0, std::mem::offset_of!(libc::seccomp_data, arch) as u32),
        op(JUMP_EQ, 1, 0, AUDIT_ARCH),
        op(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        op(LOAD, 0, 0, std::mem::offset_of!(libc::seccomp_data, nr) as u32),
        op(JUMP_GE, 0, 1, X32_BIT),
        op(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        op(JUMP_EQ, 0, 1, libc::SYS_clone3 as u32),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    ]
}

/// Ranges of numbers with one verdict each, by their first number; the first range begins at 0 and each
/// ends where the next begins.
fn ranges(verdicts: &BTreeMap<u32, Verdict>) -> Vec<(u32, Verdict)> {
    let mut ranges = vec![(0, Verdict::Refuse)];
    let mut next = 0;
    for (&number, &verdict) in verdicts {
        if number > next {
            ranges.push((next, Verdict::Refuse));
        }
        ranges.push((number, verdict));
        next = number + 1;
    }
    ranges.push((next, Verdict::Refuse));
    // Of two that begin at one number the later holds; neighbours with one verdict are one range.
    ranges.reverse();
    ranges.dedup_by_key(|(first, _)| *first);
    ranges.reverse();
    ranges.dedup_by_key(|(_, verdict)| *verdict);
    ranges
}

/// A binary search for the range of the number in the accumulator. Falls off its end for
/// [`Verdict::LookAtArguments`].
fn search_tree(ranges: &[(u32, Verdict)]) -> Vec<libc::sock_filter> {
    let mut tree = Vec::new();
    grow(ranges, &mut tree);
    let end = tree.len();
    for (at, op) in tree.iter_mut().enumerate().filter(|(_, op)| op.code == JUMP) {
        op.k = (end - at - 1) as u32;
    }
    tree
}

fn grow(ranges: &[(u32, Verdict)], tree: &mut Vec<libc::sock_filter>) {
    if let [(_, verdict)] = ranges {
        tree.push(match verdict {
            Verdict::Allow => op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
            Verdict::Refuse => op(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
            Verdict::Kill => op(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
            Verdict::Trap => op(RETURN, 0, 0, libc::SECCOMP_RET_TRAP),
            Verdict::LookAtArguments => op(JUMP, 0, 0, 0),
        });
        return;
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    // A subtree of n ranges has 2n - 1 instructions, and a jump reaches 255.
    let low_length = 2 * low.len() - 1;
    assert!(low_length <= usize::from(u8::MAX), "the list of system calls has too many gaps for short jumps");
    tree.push(op(JUMP_GE, low_length as u8, 0, high[0].0));
    grow(low, tree);
    grow(high, tree);
}

/// System calls whose arguments decide: allowed if one of the rules holds.
pub(crate) type Rules = Vec<(i64, Vec<SeccompRule>)>;

fn filtered_by_argument() -> Result<Rules, seccompiler::BackendError> {
    use SeccompCmpArgLen::Dword;
    let when = |argument, op, value| SeccompCondition::new(argument, Dword, op, value);
    let personalities: Result<Vec<_>, _> = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff]
        .into_iter()
        .map(|value| SeccompRule::new(vec![when(0, SeccompCmpOp::Eq, value)?]))
        .collect();
    Ok(vec![
        (libc::SYS_personality, personalities?),
        (
            libc::SYS_socket,
            vec![SeccompRule::new(vec![
                when(0, SeccompCmpOp::Ne, libc::AF_ALG as u64)?,
                when(0, SeccompCmpOp::Ne, libc::AF_VSOCK as u64)?,
            ])?],
        ),
        (libc::SYS_clone, vec![SeccompRule::new(vec![when(0, SeccompCmpOp::MaskedEq(NEW_NAMESPACES), 0)?])?]),
        (
            libc::SYS_ioctl,
            vec![SeccompRule::new(vec![
                when(1, SeccompCmpOp::Ne, libc::TIOCSTI)?,
                when(1, SeccompCmpOp::Ne, libc::TIOCLINUX)?,
            ])?],
        ),
    ])
}

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET. NEWTIME cannot be given to `clone`:
/// its bit belongs to the exit signal there.
pub(crate) const NEW_NAMESPACES: u64 = 0x7e02_0000;

macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

const ALLOWED_WITH_PTRACE: &[i64] = calls![
    SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_kcmp SYS_pidfd_getfd SYS_process_madvise
];

const ALLOWED_WITH_ADMIN: &[i64] = calls![
    SYS_clone SYS_fsconfig SYS_fsmount SYS_fsopen SYS_fspick SYS_mount SYS_mount_setattr SYS_move_mount
    SYS_open_tree SYS_pivot_root SYS_setdomainname SYS_sethostname SYS_setns SYS_umount2 SYS_unshare
];

const ALLOWED: &[i64] = calls![
    SYS_accept SYS_accept4 SYS_adjtimex SYS_bind SYS_brk SYS_capget SYS_capset SYS_chdir
    SYS_clock_adjtime SYS_clock_getres SYS_clock_gettime SYS_clock_nanosleep SYS_close SYS_close_range
    SYS_connect SYS_copy_file_range SYS_dup SYS_dup3 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait
    SYS_epoll_pwait2 SYS_eventfd2 SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_faccessat SYS_faccessat2
    SYS_fadvise64 SYS_fallocate SYS_fanotify_mark SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchmodat2
    SYS_fchown SYS_fchownat SYS_fcntl SYS_fdatasync SYS_fgetxattr SYS_flistxattr SYS_flock SYS_fremovexattr
    SYS_fsetxattr SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex
    SYS_futex_waitv SYS_get_robust_list SYS_getcpu SYS_getcwd SYS_getdents64 SYS_getegid
    SYS_geteuid SYS_getgid SYS_getgroups SYS_getitimer SYS_getpeername SYS_getpgid SYS_getpid SYS_getppid
    SYS_getpriority SYS_getrandom SYS_getresgid SYS_getresuid SYS_getrlimit SYS_getrusage SYS_getsid
    SYS_getsockname SYS_getsockopt SYS_gettid SYS_gettimeofday SYS_getuid SYS_getxattr
    SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch SYS_io_cancel SYS_io_destroy SYS_io_getevents
    SYS_io_setup SYS_io_submit SYS_ioprio_get SYS_ioprio_set SYS_kill SYS_landlock_add_rule
    SYS_landlock_create_ruleset SYS_landlock_restrict_self SYS_lgetxattr SYS_linkat SYS_listen SYS_listxattr SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr SYS_madvise SYS_membarrier
    SYS_memfd_create SYS_memfd_secret SYS_mincore SYS_mkdirat SYS_mknodat SYS_mlock SYS_mlock2 SYS_mlockall
    SYS_mmap SYS_mprotect SYS_mq_getsetattr SYS_mq_notify SYS_mq_open SYS_mq_timedreceive SYS_mq_timedsend
    SYS_mq_unlink SYS_mremap SYS_mseal SYS_msgctl SYS_msgget SYS_msgrcv SYS_msgsnd SYS_msync SYS_munlock
    SYS_munlockall SYS_munmap SYS_name_to_handle_at SYS_nanosleep SYS_newfstatat SYS_openat SYS_openat2
    SYS_pidfd_open SYS_pidfd_send_signal SYS_pipe2 SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect SYS_ppoll
    SYS_prctl SYS_pread64 SYS_preadv SYS_preadv2 SYS_prlimit64 SYS_process_mrelease SYS_pselect6 SYS_pwrite64
    SYS_pwritev SYS_pwritev2 SYS_read SYS_readahead SYS_readlinkat SYS_readv SYS_recvfrom SYS_recvmmsg
    SYS_recvmsg SYS_remap_file_pages SYS_removexattr SYS_renameat SYS_renameat2
    SYS_restart_syscall SYS_rseq SYS_rt_sigaction SYS_rt_sigpending SYS_rt_sigprocmask SYS_rt_sigqueueinfo
    SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait SYS_rt_tgsigqueueinfo SYS_sched_get_priority_max
    SYS_sched_get_priority_min SYS_sched_getaffinity SYS_sched_getattr SYS_sched_getparam
    SYS_sched_getscheduler SYS_sched_rr_get_interval SYS_sched_setaffinity SYS_sched_setattr
    SYS_sched_setparam SYS_sched_setscheduler SYS_sched_yield SYS_seccomp SYS_semctl SYS_semget SYS_semop
    SYS_semtimedop SYS_sendfile SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_set_robust_list SYS_set_tid_address
    SYS_setfsgid SYS_setfsuid SYS_setgid SYS_setgroups SYS_setitimer SYS_setpgid SYS_setpriority SYS_setregid
    SYS_setresgid SYS_setresuid SYS_setreuid SYS_setrlimit SYS_setsid SYS_setsockopt SYS_setuid SYS_setxattr SYS_shmat SYS_shmctl SYS_shmdt SYS_shmget SYS_shutdown SYS_sigaltstack SYS_signalfd4
    SYS_socketpair SYS_splice SYS_statfs SYS_statx SYS_symlinkat SYS_sync SYS_sync_file_range
    SYS_syncfs SYS_sysinfo SYS_tee SYS_tgkill SYS_timer_create SYS_timer_delete SYS_timer_getoverrun
    SYS_timer_gettime SYS_timer_settime SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime SYS_times
    SYS_tkill SYS_truncate SYS_umask SYS_uname SYS_unlinkat SYS_utimensat SYS_vmsplice SYS_wait4 SYS_waitid
    SYS_write SYS_writev SYS_chroot
];

/// `io_pgetevents`, which the libc crate does not name.
const IO_PGETEVENTS: i64 = if cfg!(target_arch = "x86_64") { 333 } else { 292 };

/// More calls that the libc crate does not name; their numbers are the same on every architecture:
/// cachestat, map_shadow_stack, futex_wake, futex_wait, futex_requeue, and the four of `*xattrat`.
const ALLOWED_BY_NUMBER: &[i64] = &[IO_PGETEVENTS, 451, 453, 454, 455, 456, 463, 464, 465, 466];

#[cfg(target_arch = "x86_64")]
const ALLOWED_ON_ARCH: &[i64] = calls![
    SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create
    SYS_epoll_ctl_old SYS_epoll_wait SYS_epoll_wait_old SYS_eventfd SYS_fork SYS_futimesat SYS_get_thread_area
    SYS_getdents SYS_getpgrp SYS_inotify_init SYS_lchown SYS_link SYS_lstat SYS_mkdir
    SYS_mknod SYS_modify_ldt SYS_open SYS_pause SYS_pipe SYS_poll SYS_readlink SYS_rename SYS_rmdir SYS_select
    SYS_set_thread_area SYS_signalfd SYS_stat SYS_symlink SYS_time SYS_unlink SYS_utime SYS_utimes SYS_vfork
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_ON_ARCH: &[i64] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets the few instructions that the compiler emits, as the kernel would.
    fn run(filter: &[libc::sock_filter], arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(arch.to_le_bytes());
        data.extend(0u64.to_le_bytes());
        args.iter().for_each(|argument| data.extend(argument.to_le_bytes()));
        let (mut accumulator, mut at) = (0u32, 0usize);
        loop {
            let op = &filter[at];
            at += 1;
            let jump = |hit: bool| if hit { op.jt as usize } else { op.jf as usize };
            match op.code {
                0x20 => accumulator = u32::from_le_bytes(data[op.k as usize..][..4].try_into().unwrap()),
                0x54 => accumulator &= op.k,
                0x05 => at += op.k as usize,
                0x15 => at += jump(accumulator == op.k),
                0x25 => at += jump(accumulator > op.k),
                0x35 => at += jump(accumulator >= op.k),
                0x06 => return op.k,
                other => panic!("unexpected instruction {other:#x}"),
            }
        }
    }

    const NATIVE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

    fn usual(capabilities: u64) -> Kind {
        Kind { capabilities, names_core: false }
    }

    fn check(number: i64, argument: (usize, u64), expect: u32) {
        static FILTERS: std::sync::LazyLock<Filters> =
            std::sync::LazyLock::new(|| Filters::compile().unwrap());
        let filters = &*FILTERS;
        let mut args = [0; 6];
        args[argument.0] = argument.1;
        let got = run(filters.get(usual(0)).unwrap(), NATIVE, number as u32, args);
        assert_eq!(got, expect, "system call {number} with argument {argument:x?}");
    }

    #[test]
    fn arguments_decide() {
        check(libc::SYS_read, (0, 0), ALLOW);
        check(libc::SYS_chroot, (0, 0), ALLOW);
        check(libc::SYS_socket, (0, libc::AF_INET as u64), ALLOW);
        check(libc::SYS_socket, (0, libc::AF_ALG as u64), EPERM);
        check(libc::SYS_socket, (0, 0x1_0000_0000 | libc::AF_ALG as u64), EPERM);
        check(libc::SYS_socket, (0, libc::AF_VSOCK as u64), EPERM);
        check(libc::SYS_clone, (0, libc::SIGCHLD as u64), ALLOW);
        check(libc::SYS_clone, (0, libc::CLONE_NEWUSER as u64), EPERM);
        check(libc::SYS_clone, (0, (libc::CLONE_NEWNS | libc::SIGCHLD) as u64), EPERM);
        check(libc::SYS_ioctl, (1, libc::TIOCGWINSZ), ALLOW);
        check(libc::SYS_ioctl, (1, libc::TIOCSTI), EPERM);
        check(libc::SYS_ioctl, (1, 0xdead_0000_0000_0000 | libc::TIOCSTI), EPERM);
        check(libc::SYS_personality, (0, 0x2_0008), ALLOW);
        check(libc::SYS_personality, (0, 0x40_0000), EPERM);
        check(libc::SYS_clone3, (0, 0), libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
    }

    #[test]
    fn the_limit_of_core_dumps_stays() {
        const DONE: u32 = libc::SECCOMP_RET_ERRNO;
        let filters = Filters::compile().unwrap();
        let (core, files) = (u64::from(libc::RLIMIT_CORE), u64::from(libc::RLIMIT_NOFILE));
        let check = |number: i64, args: [u64; 3], expect| {
            let mut all = [7; 6];
            all[..3].copy_from_slice(&args);
            for capabilities in [0, SYS_PTRACE, SYS_ADMIN] {
                let filter = filters.get(usual(capabilities)).unwrap();
                assert_eq!(run(filter, NATIVE, number as u32, all), expect, "{number} {args:x?}");
                let filter = filters.get(Kind { capabilities, names_core: true }).unwrap();
                assert_eq!(run(filter, NATIVE, number as u32, all), ALLOW, "{number} {args:x?}");
            }
        };
        check(libc::SYS_prlimit64, [0, core, 0x7fff_0000_0000], DONE);
        check(libc::SYS_prlimit64, [0, core, 0x1000], DONE);
        check(libc::SYS_prlimit64, [9, core | 1 << 32, 0x1000], DONE);
        check(libc::SYS_prlimit64, [0, core, 0], ALLOW);
        check(libc::SYS_prlimit64, [0, files, 0x1000], ALLOW);
        check(libc::SYS_setrlimit, [core, 0x1000, 0], DONE);
        check(libc::SYS_setrlimit, [core | 1 << 32, 0x1000, 0], DONE);
        check(libc::SYS_setrlimit, [files, 0x1000, 0], ALLOW);
    }

    #[test]
    fn dangerous_calls_are_absent() {
        for number in [
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_pivot_root,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_open_by_handle_at,
            libc::SYS_kexec_load,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_fsopen,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_mount_setattr,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_pidfd_getfd,
            libc::SYS_swapon,
            libc::SYS_reboot,
            libc::SYS_sethostname,
            libc::SYS_clock_settime,
            libc::SYS_syslog,
            libc::SYS_quotactl,
            libc::SYS_acct,
            libc::SYS_lookup_dcookie,
            libc::SYS_move_pages,
            libc::SYS_fanotify_init,
        ] {
            check(number, (0, 0), EPERM);
        }
    }

    #[test]
    fn the_search_finds_what_is_listed() {
        let filters = Filters::compile().unwrap();
        let listed = [ALLOWED, ALLOWED_BY_NUMBER, ALLOWED_ON_ARCH].concat();
        let by_argument: Vec<i64> =
            filtered_by_argument().unwrap().iter().map(|(number, _)| *number).collect();
        let by_argument =
            [by_argument, vec![libc::SYS_clone3, libc::SYS_setrlimit, libc::SYS_prlimit64]].concat();
        for number in (0..2_000).filter(|n| !by_argument.contains(n)) {
            let expect = if listed.contains(&number) { ALLOW } else { EPERM };
            check(number, (0, 0), expect);
        }
        let longest = filters.get(usual(SYS_ADMIN | SYS_PTRACE)).unwrap().len();
        assert!(longest < 400, "{longest} instructions");
    }

    #[test]
    fn ranges_are_joined() {
        let verdicts =
            [(0, Verdict::Allow), (1, Verdict::Allow), (3, Verdict::Allow), (4, Verdict::LookAtArguments)];
        let expect = [
            (0, Verdict::Allow),
            (2, Verdict::Refuse),
            (3, Verdict::Allow),
            (4, Verdict::LookAtArguments),
            (5, Verdict::Refuse),
        ];
        assert_eq!(ranges(&verdicts.into_iter().collect()), expect);
    }

    #[test]
    fn foreign_abis_are_killed() {
        let filters = Filters::compile().unwrap();
        let kill = libc::SECCOMP_RET_KILL_PROCESS;
        assert_eq!(run(filters.get(usual(0)).unwrap(), 0x4000_0003, 1, [0; 6]), kill);
        assert_eq!(
            run(
                filters.get(usual(SYS_PTRACE | SYS_ADMIN)).unwrap(),
                NATIVE,
                0x4000_0000 | libc::SYS_read as u32,
                [0; 6]
            ),
            kill
        );
    }

    #[test]
    fn ptrace_comes_with_its_capability() {
        let filters = Filters::compile().unwrap();
        for &number in ALLOWED_WITH_PTRACE {
            assert_eq!(run(filters.get(usual(SYS_PTRACE)).unwrap(), NATIVE, number as u32, [0; 6]), ALLOW);
            assert_eq!(run(filters.get(usual(SYS_ADMIN)).unwrap(), NATIVE, number as u32, [0; 6]), EPERM);
        }
    }

    #[test]
    fn mounts_and_namespaces_come_with_theirs() {
        let filters = Filters::compile().unwrap();
        let mut arguments = [0; 6];
        arguments[0] = libc::CLONE_NEWNS as u64;
        for &number in ALLOWED_WITH_ADMIN {
            for (capabilities, expect) in
                [(SYS_ADMIN, ALLOW), (SYS_ADMIN | SYS_PTRACE, ALLOW), (SYS_PTRACE, EPERM), (0, EPERM)]
            {
                let filter = filters.get(usual(capabilities)).unwrap();
                assert_eq!(
                    run(filter, NATIVE, number as u32, arguments),
                    expect,
                    "{number} {capabilities:x}"
                );
            }
        }
        for number in [libc::SYS_bpf, libc::SYS_init_module, libc::SYS_open_by_handle_at] {
            assert_eq!(run(filters.get(usual(u64::MAX)).unwrap(), NATIVE, number as u32, arguments), EPERM);
        }
        let socket = [libc::AF_ALG as u64, 0, 0, 0, 0, 0];
        assert_eq!(
            run(filters.get(usual(SYS_ADMIN)).unwrap(), NATIVE, libc::SYS_socket as u32, socket),
            EPERM
        );
    }
}
