//! Sockets that were handed over, in the place of those that the kernel would make.
//!
//! wasmtime makes a guest's sockets itself, by socket(2), in the network namespace of the calling thread; it has no way
//! to be given one. A worker's thread is in an empty namespace and has no right to enter another, and its filter of
//! system calls lets no socket be made ([`neargate_driver::ProcessNetwork::Handed`]): the kernel sends SIGSYS instead.
//! The handler here answers the call with the socket that the thread has laid ready for it, which the supervisor has made
//! in the network of the guest's task, or else refuses it. Chromium answers system calls of its renderers in the same
//! way (`sandbox/linux/seccomp-bpf/trap.cc`).
//!
//! So nothing is asked of wasmtime but that it makes its socket by one call of socket(2), on the thread that asks for
//! it. Should it ever do that elsewhere, the call is refused.

// The handler of a signal looks at raw memory: what the kernel says of the interrupted thread.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// `si_code` of a SIGSYS that comes from a filter (sigaction(2)); the libc crate does not have it.
const SYS_SECCOMP: libc::c_int = 1;
/// No socket is ready.
const NONE: RawFd = -1;

thread_local! {
    /// The socket that the next socket(2) of this thread gets. A constant without a destructor, so that the handler
    /// finds it without any code of std's being run.
    static READY: Cell<RawFd> = const { Cell::new(NONE) };
}

/// What became of a socket that was laid ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Laid {
    /// The thread has asked for a socket and got it.
    Taken,
    /// It has not, and it is closed.
    Left,
}

/// Runs `make` on this thread, whose first socket(2) then gets `socket`.
pub(super) fn with<T>(socket: OwnedFd, make: impl FnOnce() -> T) -> (T, Laid) {
    let ready = Ready::lay(socket);
    let made = make();
    (made, ready.clear())
}

/// A socket that is ready until this is dropped.
struct Ready;

impl Ready {
    fn lay(socket: OwnedFd) -> Self {
        let before = READY.replace(socket.into_raw_fd());
        debug_assert_eq!(before, NONE, "one call asks for one socket");
        Self
    }

    fn clear(self) -> Laid {
        match take_back() {
            Some(_) => Laid::Left,
            None => Laid::Taken,
        }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        drop(take_back());
    }
}

fn take_back() -> Option<OwnedFd> {
    let ready = READY.replace(NONE);
    // SAFETY: `Ready::lay` has put a descriptor there that nobody else has, and it is there no more.
    (ready != NONE).then(|| unsafe { OwnedFd::from_raw_fd(ready) })
}

/// Has this process answer its own calls of socket(2), where the kernel does not.
pub(crate) fn install() -> io::Result<()> {
    // SAFETY: zero is valid for the plain structure, and the handler is one that SA_SIGINFO asks for. It does nothing
    // that signal-safety(7) forbids: it reads and writes the memory that it is given, and a thread-local cell.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = answer as extern "C" fn(_, _, _) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Writes what socket(2) returns into the registers of the thread that has called it.
extern "C" fn answer(_signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO pointers to both structures, which are valid and nobody else's
    // while it runs.
    let (code, context) = unsafe { ((*info).si_code, &mut *context.cast::<libc::ucontext_t>()) };
    if code != SYS_SECCOMP || called(context) != libc::SYS_socket {
        return;
    }
    let ready = READY.replace(NONE);
    let refused = -libc::EPERM;
    give(context, if ready == NONE { refused } else { ready });
}

/// The number of the call that the filter has stopped: the kernel has put the registers back to what they were
/// (`syscall_rollback()`).
#[cfg(target_arch = "x86_64")]
fn called(context: &libc::ucontext_t) -> libc::c_long {
    context.uc_mcontext.gregs[libc::REG_RAX as usize]
}

#[cfg(target_arch = "x86_64")]
fn give(context: &mut libc::ucontext_t, result: libc::c_int) {
    context.uc_mcontext.gregs[libc::REG_RAX as usize] = result.into();
}

#[cfg(target_arch = "aarch64")]
fn called(context: &libc::ucontext_t) -> libc::c_long {
    context.uc_mcontext.regs[8] as libc::c_long
}

#[cfg(target_arch = "aarch64")]
fn give(context: &mut libc::ucontext_t, result: libc::c_int) {
    context.uc_mcontext.regs[0] = i64::from(result) as u64;
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// As the filter of a worker does it, for the one call.
    fn trap_sockets() {
        let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
        let number = std::mem::offset_of!(libc::seccomp_data, nr) as u32;
        let filter = [
            op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, number),
            op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_socket as u32),
            op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_TRAP),
            op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: `program` points to as many instructions as it says, which the kernel copies.
        unsafe {
            assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1u64, 0u64, 0u64, 0u64), 0);
            let mode = libc::SECCOMP_SET_MODE_FILTER;
            assert_eq!(libc::syscall(libc::SYS_seccomp, mode, 0u32, &raw const program), 0);
        }
    }

    #[test]
    fn the_kernel_makes_no_socket_and_one_that_is_ready_is_taken_once() {
        // A filter is a thread's own.
        let thread = std::thread::spawn(|| {
            install().unwrap();
            let made = || std::net::UdpSocket::bind("127.0.0.1:0");
            let is_closed = |mut reader: io::PipeReader| reader.read(&mut [0]).unwrap() == 0;
            trap_sockets();
            assert_eq!(made().unwrap_err().raw_os_error(), Some(libc::EPERM));
            // What is no socket cannot be bound, and is closed by whoever took it.
            let (reader, writer) = io::pipe().unwrap();
            let ((first, second), laid) = with(writer.into(), || (made(), made()));
            assert_eq!(first.unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
            assert_eq!(second.unwrap_err().raw_os_error(), Some(libc::EPERM));
            assert_eq!(laid, Laid::Taken);
            assert!(is_closed(reader));
            let (reader, writer) = io::pipe().unwrap();
            assert_eq!(with(writer.into(), || 7), (7, Laid::Left));
            assert!(is_closed(reader), "nobody took it");
            assert_eq!(made().unwrap_err().raw_os_error(), Some(libc::EPERM));
        });
        thread.join().unwrap();
    }
}
