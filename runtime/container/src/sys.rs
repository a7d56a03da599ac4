//! System calls that neither std nor rustix wraps, each behind a safe function.
//!
//! Everything here is synchronous and allocates nothing, so that it may run between clone and exec.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::standing::Standing;

/// Turns the `-1` convention of a system call into a result.
fn check(value: libc::c_long) -> io::Result<libc::c_long> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// From `linux/sched.h`; the constant of the libc crate has too few bits for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which of the two processes `clone3` returned in.
pub(crate) enum Clone {
    /// The new process.
    Child,
    /// The caller.
    Parent {
        /// The child's id in the caller's PID namespace.
        pid: i32,
        /// Refers to the child; close-on-exec.
        pidfd: OwnedFd,
    },
}

/// `clone3(2)` with `CLONE_PIDFD` and, when `cgroup` is given, `CLONE_INTO_CGROUP` (Linux 5.7).
///
/// Without `CLONE_VM` the child gets a copy of the caller's memory, as with `fork(2)`.
pub(crate) fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Clone> {
    let mut pidfd: RawFd = -1;
    let into_cgroup = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    let args = libc::clone_args {
        flags: flags | libc::CLONE_PIDFD as u64 | into_cgroup,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        // A child of the caller's parent has the caller's own, and clone3 wants none to be given.
        exit_signal: if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 },
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: `args` is a valid clone_args of the given size and outlives the call. No flag shares
    // memory or the stack, so the child continues on its own copy of both. The supervisor has one
    // thread, so no lock of the C library is held by a thread that the child lacks.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) })?;
    if pid == 0 {
        return Ok(Clone::Child);
    }
    // SAFETY: with CLONE_PIDFD the kernel has stored a new descriptor, owned by nobody else.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Clone::Parent { pid: pid as i32, pidfd })
}

/// `unshare(2)` for namespaces of the calling, only thread.
pub(crate) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: takes no pointers; CLONE_FILES, which rustix rightly calls unsafe, is never passed.
    check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// `setns(2)`; `fd` is a namespace or a pidfd.
pub(crate) fn setns(fd: BorrowedFd<'_>, flags: i32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::setns(fd.as_raw_fd(), flags) }.into()).map(drop)
}

/// The user namespace that owns a namespace (`NS_GET_USERNS`, ioctl_nsfs(2)).
pub(crate) fn owner_of(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const NS_GET_USERNS: libc::Ioctl = (0xb7 << 8) | 1;
    // SAFETY: takes no pointers; the returned descriptor is new and ours.
    unsafe {
        let fd = check(libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS).into())?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// The user namespace in which a user namespace was made (`NS_GET_PARENT`, ioctl_nsfs(2)).
pub(crate) fn parent_of(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const NS_GET_PARENT: libc::Ioctl = (0xb7 << 8) | 2;
    // SAFETY: takes no pointers; the returned descriptor is new and ours.
    unsafe {
        let fd = check(libc::ioctl(namespace.as_raw_fd(), NS_GET_PARENT).into())?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// `mount_setattr(2)` (Linux 5.12) on the mount that `fd` refers to; `id_map` is a user namespace for
/// `MOUNT_ATTR_IDMAP`.
pub(crate) fn mount_setattr(fd: BorrowedFd<'_>, set: u64, id_map: Option<BorrowedFd<'_>>) -> io::Result<()> {
    mount_setattr_with(fd, 0, set, id_map)
}

/// The same on all mounts of the tree that `fd` refers to.
pub(crate) fn mount_setattr_all(fd: BorrowedFd<'_>, set: u64) -> io::Result<()> {
    mount_setattr_with(fd, libc::AT_RECURSIVE, set, None)
}

fn mount_setattr_with(
    fd: BorrowedFd<'_>,
    flags: i32,
    set: u64,
    id_map: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: set | if id_map.is_some() { libc::MOUNT_ATTR_IDMAP } else { 0 },
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: id_map.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: the path is a valid C string and `attr` a valid mount_attr of the given size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    check(result).map(drop)
}

/// Sets close-on-exec on every descriptor from 3 up (`close_range(2)`, flag since Linux 5.11).
pub(crate) fn cloexec_from_3() -> io::Result<()> {
    // SAFETY: takes no pointers and closes nothing now.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    check(result).map(drop)
}

/// Closes every descriptor from 3 up.
///
/// Only for a process that will never again use an [`OwnedFd`] it inherited.
pub(crate) fn close_from_3() -> io::Result<()> {
    // SAFETY: takes no pointers; the caller uses no such descriptor afterwards.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) }).map(drop)
}

/// Closes every descriptor from 3 up but `kept`, which it sorts.
///
/// Only for a process that will never again use an [`OwnedFd`] it inherited, those of `kept` excepted, and that
/// ends without dropping one.
pub(crate) fn close_all_but(kept: &mut [RawFd]) -> io::Result<()> {
    kept.sort_unstable();
    let mut first = 3u32;
    for fd in kept.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd >= 3) {
        if first < fd {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX)
}

/// Closes, in a cloned child, its copy of a descriptor that only its parent uses.
///
/// Only for a process that will never use or drop the owner that it has a copy of, as for [`close_all_but`].
pub(crate) fn close_copy(fd: BorrowedFd<'_>) -> io::Result<()> {
    let number = fd.as_raw_fd().cast_unsigned();
    close_range(number, number)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: takes no pointers; the callers' contract is that nobody uses these descriptors afterwards.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) }).map(drop)
}

/// `dup2(2)` onto a standard stream.
pub(crate) fn dup2(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    // SAFETY: takes no pointers; `to` is 0, 1 or 2, which no OwnedFd owns.
    check(unsafe { libc::dup2(from.as_raw_fd(), to) }.into()).map(drop)
}

/// Puts every signal but SIGPIPE back to its default action, once, so that what the supervisor was started
/// with does not reach containers: `execve(2)` keeps ignored signals ignored.
///
/// By the bare system call, because the C library touches no action of the two signals that it keeps for itself. It
/// sets theirs where it needs them, when threads are cancelled or change their user.
pub(crate) fn reset_inherited_signals() {
    // The kernel's sigaction has no more than four words: handler, flags, restorer and mask.
    let default = [0u64; 4];
    const MASK_BYTES: usize = 8;
    for signal in (1..=64).filter(|signal| *signal != libc::SIGPIPE) {
        // SAFETY: all zeroes is SIG_DFL, which installs no handler; the kernel reads no more than `default` has and
        // writes nothing. SIGKILL and SIGSTOP are refused, which is as wanted.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                MASK_BYTES,
            )
        };
    }
}

/// Puts SIGPIPE, which Rust's start-up code ignores, back to its default action, and unblocks all signals.
pub(crate) fn reset_signals() {
    // SAFETY: SIG_DFL installs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    set_blocked(&[], libc::SIG_SETMASK);
}

/// Has the kernel reap the children of this process, also those that it inherits (`SIG_IGN` for SIGCHLD, sigaction(2)).
pub(crate) fn ignore_children() -> io::Result<()> {
    // SAFETY: SIG_IGN installs no handler.
    match unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Has these signals end the process with the exit code that a shell gives a process which they end: 128 and the
/// number. By default they do nothing to the first process of a PID namespace (pid_namespaces(7)), and abort(3),
/// which is not ended by its own SIGABRT there, falls back on an illegal instruction.
pub(crate) fn exit_on_signals(signals: &[i32]) -> io::Result<()> {
    extern "C" fn exit(signal: libc::c_int) {
        exit_now(128 + signal);
    }
    for signal in signals {
        // SAFETY: all zeroes is an action with an empty mask. The handler calls `_exit`, which is safe in one
        // (signal-safety(7)), and does not return.
        let installed = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = exit as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_ONSTACK;
            libc::sigaction(*signal, &raw const action, std::ptr::null_mut())
        };
        check(installed.into())?;
    }
    Ok(())
}

/// Blocks all signals; the reaper of `init: true` takes them with [`wait_signal`].
pub(crate) fn block_all_signals() {
    // SAFETY: `set` is initialised by sigfillset before it is read.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

/// Changes the calling thread's signal mask.
pub(crate) fn set_blocked(signals: &[i32], how: i32) {
    // SAFETY: `set` is initialised by sigemptyset before it is read; sigaddset refuses bad numbers.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        libc::sigprocmask(how, &set, std::ptr::null_mut());
    }
}

/// Takes one blocked signal (`sigwaitinfo(2)`), returning its number.
pub(crate) fn wait_signal() -> io::Result<i32> {
    // SAFETY: `set` is initialised by sigfillset; a null info pointer is allowed.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        check(libc::sigwaitinfo(&set, std::ptr::null_mut()).into()).map(|signal| signal as i32)
    }
}

/// A descriptor that becomes readable when one of `signals`, which are blocked, arrives.
pub(crate) fn signalfd(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: `set` is initialised by sigemptyset; the returned descriptor is new and ours.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        let fd = check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into())?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// `kill(2)`.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// `pidfd_send_signal(2)` with any signal number, real-time ones included.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo pointer is allowed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0u32,
        )
    };
    check(result).map(drop)
}

/// Whether the process of a pidfd has ended, reaped or not.
pub(crate) fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], Some(&none)).is_ok_and(|count| count > 0)
}

/// Reaps a child: `pidfd` when given, else any. `None` when none has ended and `hang` is false.
///
/// The code is the exit status, or 128 + n after signal n.
pub(crate) fn wait_child(pidfd: Option<BorrowedFd<'_>>, hang: bool) -> io::Result<Option<(i32, i32)>> {
    wait(pidfd, if hang { 0 } else { libc::WNOHANG })
}

/// A child that has ended, `pidfd` when given, which is not reaped: it is told again. `None` when there is none.
pub(crate) fn peek_child(pidfd: Option<BorrowedFd<'_>>) -> io::Result<Option<(i32, i32)>> {
    wait(pidfd, libc::WNOHANG | libc::WNOWAIT)
}

/// Reaps a child that has ended.
pub(crate) fn reap_child(pid: i32) -> io::Result<()> {
    wait_for((libc::P_PID, pid as libc::id_t), libc::WNOHANG).map(drop)
}

/// Waits for the end of a child and reaps it; returns its code as [`wait_child`] does.
pub(crate) fn wait_process(pid: i32) -> io::Result<i32> {
    let ended = wait_for((libc::P_PID, pid as libc::id_t), 0)?;
    ended.map(|(_, code)| code).ok_or_else(|| io::Error::from_raw_os_error(libc::ECHILD))
}

/// Waits for a child: `pidfd` when given, else any.
fn wait(pidfd: Option<BorrowedFd<'_>>, options: libc::c_int) -> io::Result<Option<(i32, i32)>> {
    let child = pidfd.map_or((libc::P_ALL, 0), |fd| (libc::P_PIDFD, fd.as_raw_fd() as libc::id_t));
    wait_for(child, options)
}

/// `waitid(2)` for children that have ended: which one, and its code as [`wait_child`] tells it.
fn wait_for(
    (kind, id): (libc::idtype_t, libc::id_t),
    options: libc::c_int,
) -> io::Result<Option<(i32, i32)>> {
    // SAFETY: siginfo_t is plain data for which zero is valid, and the kernel fills it.
    let info = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        check(libc::waitid(kind, id, &mut info, libc::WEXITED | options).into())?;
        info
    };
    // SAFETY: after a successful waitid the SIGCHLD fields are set (all zero when nothing ended).
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let code = if info.si_code == libc::CLD_EXITED { status } else { 128 + status };
    Ok(Some((pid, code)))
}

/// The exit status, or 128 + n after signal n, of a process that its parent has reaped; `None` while it has not.
///
/// Fails with ENOTTY or EINVAL before Linux 6.15, which brought `PIDFD_INFO_EXIT` (`linux/pidfd.h`).
pub(crate) fn pidfd_exit_code(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    /// `struct pidfd_info` in its first form, of 64 bytes.
    #[repr(C)]
    #[derive(Default)]
    struct PidfdInfo {
        mask: u64,
        cgroup: u64,
        /// Process, thread group and parent, then real, effective, saved and file system user and group.
        ids: [u32; 11],
        exit_code: i32,
    }
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    /// `_IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)`.
    const PIDFD_GET_INFO: libc::Ioctl =
        (3 << 30) | ((size_of::<PidfdInfo>() as libc::Ioctl) << 16) | (0xff << 8) | 11;
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the ioctl reads and writes one structure of the size that its number tells.
    check(unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) }.into())?;
    if info.mask & PIDFD_INFO_EXIT == 0 {
        return Ok(None);
    }
    Ok(Some(code_of(info.exit_code)))
}

/// The code, as [`wait_child`] tells it, of a process that has ended and was not reaped; `None` for others, and without
/// the right to know, for which the kernel tells 0 (exit_code in proc_pid_stat(5)).
pub(crate) fn unreaped_exit_code(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let capabilities = rustix::thread::capabilities(None).ok()?;
    let may_know = capabilities.effective.contains(rustix::thread::CapabilitySet::SYS_PTRACE);
    may_know.then(|| zombie_code(&stat))?
}

fn zombie_code(stat: &str) -> Option<i32> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
    // Fields of which the first is the third.
    let status: i32 = fields.get(52 - 3)?.parse().ok()?;
    (fields.first() == Some(&"Z")).then(|| code_of(status))
}

/// The exit status, or 128 + n after signal n, in the status word of wait(2).
fn code_of(status: i32) -> i32 {
    let signal = status & 0x7f;
    if signal == 0 { (status >> 8) & 0xff } else { 128 + signal }
}

/// `fork(2)` of a process with one thread: the reaper, and a program that starts its launcher.
pub(crate) fn fork() -> io::Result<i32> {
    // SAFETY: the caller has one thread (the reaper never makes a second, `Launcher::fork` has counted), so no
    // lock is held by a thread that the child lacks, and the child may go on as the parent would.
    check(unsafe { libc::fork() }.into()).map(|pid| pid as i32)
}

/// `_exit(2)`: no destructors, no exit handlers of the copied process image.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(code) }
}

/// `execve(2)`; returns only on failure.
pub(crate) fn execve(program: &CStr, argv: &[*const libc::c_char], env: &[*const libc::c_char]) -> io::Error {
    assert!(argv.last().is_some_and(|p| p.is_null()) && env.last().is_some_and(|p| p.is_null()));
    // SAFETY: both arrays end with a null pointer (asserted) and point to C strings that the caller keeps.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Sets user, group and supplementary groups with raw system calls; glibc's wrappers would signal
/// other threads, of which there are none.
///
/// In a realm `setgroups(2)` is denied: those of the user who has made it stay, and count for nothing that
/// a container sees.
pub(crate) fn set_ids(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    if Standing::own().is_host() {
        set_groups(groups)?;
    }
    set_user(uid, gid)
}

/// `setgroups(2)`.
pub(crate) fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: `groups` is a valid array of the given length.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// Real, effective and saved user and group.
pub(crate) fn set_user(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: take no pointers.
    unsafe {
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    forbid_dumps()
}

/// Shuts this process to debuggers and core dumps until it executes a program. A change of user sets instead what
/// `fs.suid_dumpable` says, which may be that the new user can look into it (proc_sys_fs(5)).
fn forbid_dumps() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0)
}

/// The user and group that the calling thread, and those that it will start, make files as.
pub(crate) fn set_fs_ids(uid: u32, gid: u32) -> io::Result<()> {
    const NONE: u32 = u32::MAX;
    // SAFETY: take no pointers.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        // They answer the id before and tell no failure; an id that cannot be had changes nothing (setfsuid(2)).
        let now = (libc::syscall(libc::SYS_setfsuid, NONE), libc::syscall(libc::SYS_setfsgid, NONE));
        match now == (uid.into(), gid.into()) {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EPERM)),
        }
    }
}

/// Sets the effective user id alone. The capabilities stay: the kernel would take them with user id 0
/// (capabilities(7)).
pub(crate) fn set_effective_user(uid: u32) -> io::Result<()> {
    let capabilities = rustix::thread::capabilities(None)?;
    const UNCHANGED: u32 = u32::MAX;
    // SAFETY: takes no pointers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, UNCHANGED, uid, UNCHANGED) })?;
    rustix::thread::set_capabilities(None, capabilities)?;
    forbid_dumps()
}

/// `prctl(2)` with one integer argument.
pub(crate) fn prctl(option: i32, argument: u64) -> io::Result<()> {
    // SAFETY: only options that take integers are passed.
    check(unsafe { libc::prctl(option, argument, 0u64, 0u64, 0u64) }.into()).map(drop)
}

/// `PR_CAP_AMBIENT_CLEAR_ALL`.
pub(crate) fn clear_ambient() -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64)
}

/// Installs a seccomp filter; needs `no_new_privs`.
pub(crate) fn seccomp(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` points to `len` instructions, which the kernel copies and verifies.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0u32, &raw const program) };
    check(result).map(drop)
}

/// Our end of a new terminal, `ptmx`, made ready, and the other end, opened without a path (`TIOCGPTPEER`, Linux
/// 4.13; ioctl_tty(2)).
pub(crate) fn terminal_peer(ptmx: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let locked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    check(unsafe { libc::ioctl(ptmx.as_raw_fd(), libc::TIOCSPTLCK, &raw const locked) }.into())?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: takes an integer; the returned descriptor is new and ours.
    unsafe {
        let fd = check(libc::ioctl(ptmx.as_raw_fd(), libc::TIOCGPTPEER, flags).into())?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// The version of Landlock that the running kernel has (landlock_create_ruleset(2)); 0 for none.
pub(crate) fn landlock_abi() -> u32 {
    const VERSION: u32 = 1;
    // SAFETY: with this flag there is no attribute, and its size must be 0.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, VERSION) };
    u32::try_from(version).unwrap_or(0)
}

/// Whether this process may raise hard resource limits.
pub(crate) fn may_raise_limits() -> bool {
    let capabilities = rustix::thread::capabilities(None);
    // One in a user namespace does not count.
    Standing::own().is_host()
        && capabilities.is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_RESOURCE))
}

/// The hard resource limit of this process; what it inherits to others.
pub(crate) fn own_hard_limit(resource: u32) -> u64 {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the call and no new value is given.
    let result = unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, std::ptr::null::<libc::rlimit64>(), &raw mut limit)
    };
    // The call fails for resources that the kernel does not know alone, which cannot be set either.
    if result < 0 { 0 } else { limit.rlim_max }
}

/// Sets one resource limit of a process, 0 for the caller (`prlimit(2)`).
pub(crate) fn prlimit(pid: i32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` is valid for the call and no old value is asked for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid,
            resource,
            &raw const limit,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    };
    check(result).map(drop)
}

/// Sets how long the calling thread, and those that it will start, may run before another one's turn comes
/// (`sched_setattr(2)`; a slice of its own since Linux 6.12).
pub(crate) fn set_slice(slice: std::time::Duration) -> io::Result<()> {
    /// `struct sched_attr` in its first form, of 48 bytes.
    #[repr(C)]
    #[derive(Default)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime_ns: u64,
        deadline_ns: u64,
        period_ns: u64,
    }
    let (size, runtime_ns) = (size_of::<SchedAttr>() as u32, slice.as_nanos() as u64);
    let nice = rustix::process::getpriority_process(None)?;
    // Policy 0 is the usual one, which it has already.
    let attr = SchedAttr { size, nice, runtime_ns, ..SchedAttr::default() };
    // SAFETY: `attr` is a valid sched_attr of the size that it tells.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0u32) }).map(drop)
}

/// Gives the process a session keyring of its own, so that it possesses no key of who started it.
pub(crate) fn join_new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: u32 = 1;
    // SAFETY: a null name makes an anonymous keyring.
    let result = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    };
    check(result).map(drop)
}

/// Brings the loopback device of the current network namespace up.
pub(crate) fn bring_loopback_up() -> io::Result<()> {
    // SAFETY: ifreq is plain data for which zero is valid; the name is shorter than its field and the
    // ioctls read and write only that structure.
    unsafe {
        let fd = check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0).into())?;
        let socket = OwnedFd::from_raw_fd(fd as RawFd);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request).into()).map(drop)
    }
}

/// A new eventfd, close-on-exec and non-blocking.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: the returned descriptor is new and ours.
    unsafe {
        let fd = check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).into())?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Reaps the child with this id.
pub(crate) fn wait_pid(pid: i32) -> io::Result<()> {
    loop {
        // SAFETY: a null status pointer is allowed.
        match check(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }.into()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(drop),
        }
    }
}

/// Overwrites the arguments and the environment that this process was started with, in the memory where the
/// kernel put them, and leaves `name` for process listings.
///
/// Only for a process with one thread that never again looks at its arguments or environment: they read as
/// empty afterwards.
pub(crate) fn wipe_arguments(name: &[u8]) -> io::Result<()> {
    // SAFETY: one thread, so nobody reads the environment meanwhile.
    unsafe { libc::clearenv() };
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (first, last) = argument_area(&stat).ok_or(io::ErrorKind::InvalidData)?;
    let length = last.checked_sub(first).filter(|length| *length > 0).ok_or(io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has put the strings of arguments and environment between the two addresses, one after
    // the other, on the stack of the first thread, which is this one's; that memory is writable and lives as
    // long as the process. No Rust reference points to it: std copies what it hands out. The area ends
    // with a NUL, so every pointer into it still points to a terminated string.
    let area = unsafe { std::slice::from_raw_parts_mut(first as *mut u8, length) };
    // No further than the first argument, so that the others are empty.
    let first_argument = area.iter().position(|&byte| byte == 0).unwrap_or(0);
    area.fill(0);
    let length = name.len().min(first_argument);
    area[..length].copy_from_slice(&name[..length]);
    Ok(())
}

/// `arg_start` and `env_end` of proc_pid_stat(5).
fn argument_area(stat: &str) -> Option<(usize, usize)> {
    // The name, in parentheses, may hold anything; the fields after it are counted from 3.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse().ok();
    Some((field(48)?, field(51)?))
}

/// `adjtimex(2)` that only reads.
pub(crate) fn adjtimex() -> io::Result<libc::timex> {
    // SAFETY: `timex` is made of integers alone, for all of which zero is a value; with `modes` 0 nothing is set.
    let mut read: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `read` is a `timex` that lives until the call returns.
    check(unsafe { libc::adjtimex(&raw mut read) }.into())?;
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_an_unreaped_process_is_told() {
        let stat = |state: &str, status: i32| format!("7 (a) b) {state} {}{status}", "0 ".repeat(48));
        let check = |stat: &str, expect: Option<i32>| assert_eq!(zombie_code(stat), expect, "{stat}");
        check(&stat("Z", 5 << 8), Some(5));
        check(&stat("Z", 9), Some(137));
        check(&stat("Z", 11 | 0x80), Some(139));
        check(&stat("S", 0), None);
        check("7 (a) Z 0", None);
        let mut child = std::process::Command::new("sh").args(["-c", "exit 5"]).spawn().unwrap();
        let pid = child.id().cast_signed();
        while !std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z ") {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let may_know = rustix::process::geteuid().is_root();
        assert_eq!(unreaped_exit_code(pid), may_know.then_some(5));
        child.wait().unwrap();
    }
}
