//! System calls by number, attempts in processes of their own, and the names of what came of them.

use std::ffi::{CStr, c_char, c_int, c_long};
use std::fmt::Display;
use std::io::Write as _;
use std::os::fd::{FromRawFd as _, OwnedFd};

/// What the kernel answered: a result, or an error number.
pub(crate) type Outcome = Result<usize, i32>;

/// Makes a system call; arguments that are not given are 0.
///
/// Every caller passes numbers, addresses of memory that it holds, or addresses that no process has, which the kernel
/// refuses with EFAULT. What is passed through a [`pointer`] stays alive until the call returns.
pub(crate) fn call(number: c_long, arguments: &[usize]) -> Outcome {
    let argument = |at: usize| arguments.get(at).copied().unwrap_or(0);
    // SAFETY: see above; no caller asks for memory of its own to be unmapped or overwritten beyond a buffer.
    let result = unsafe {
        libc::syscall(number, argument(0), argument(1), argument(2), argument(3), argument(4), argument(5))
    };
    if result < 0 { Err(last_error()) } else { Ok(result.cast_unsigned() as usize) }
}

/// The error of the last call of the C library.
pub(crate) fn last_error() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// The address of a value for a system call.
pub(crate) fn pointer<T>(value: &T) -> usize {
    std::ptr::from_ref(value).expose_provenance()
}

/// The address of a value that a system call writes to.
pub(crate) fn pointer_mut<T>(value: &mut T) -> usize {
    std::ptr::from_mut(value).expose_provenance()
}

/// Takes over a descriptor that a system call has just made.
pub(crate) fn owned(fd: usize) -> OwnedFd {
    // SAFETY: callers pass what a call returned a moment ago, once.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// The address of a C string for a system call.
pub(crate) fn text(value: &CStr) -> usize {
    value.as_ptr().expose_provenance()
}

/// Prints one line.
pub(crate) fn say(name: &str, what: impl Display) {
    // A pipe that is closed means that nobody wants to know.
    let _ = writeln!(std::io::stdout().lock(), "{name}: {what}");
}

/// Tries something in a process of its own, and prints what came of it.
pub(crate) fn attempt(name: &str, what: impl FnOnce() -> Outcome) {
    say(name, outcome_of(what));
}

/// What comes of something in a process of its own.
pub(crate) fn outcome_of(what: impl FnOnce() -> Outcome) -> String {
    match fork() {
        Ok(0) => exit(what().map_or_else(|error| error, |_| 0)),
        Ok(child) => end(wait(child)),
        Err(error) => format!("fork: {}", error_name(error)),
    }
}

/// The name of an outcome in this process.
pub(crate) fn name(outcome: Outcome) -> String {
    outcome.map_or_else(error_name, |_| "success".to_owned())
}

fn end(status: c_int) -> String {
    if libc::WIFSIGNALED(status) {
        return format!("killed {}", signal_name(libc::WTERMSIG(status)));
    }
    match libc::WEXITSTATUS(status) {
        0 => "success".to_owned(),
        error => error_name(error),
    }
}

/// A copy of this process, which has one thread.
pub(crate) fn fork() -> Result<i32, i32> {
    // SAFETY: one thread means that no lock is held by one that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(last_error()),
        pid => Ok(pid),
    }
}

/// Waits for a child and returns its status.
pub(crate) fn wait(child: i32) -> c_int {
    let mut status = 0;
    // SAFETY: `status` is a live integer.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 && last_error() == libc::EINTR {}
    status
}

/// Ends this process without what was inherited from the parent: its buffers are not written twice.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(code) }
}

/// Ends the process when it gets SIGTERM; as the first one of its namespace it would ignore it.
pub(crate) fn end_on_sigterm() {
    extern "C" fn end_now(_: c_int) {
        exit(0);
    }
    // SAFETY: the handler does nothing but `_exit`, which may be called in one (signal-safety(7)).
    unsafe { libc::signal(libc::SIGTERM, end_now as extern "C" fn(c_int) as libc::sighandler_t) };
}

unsafe extern "C" {
    /// From `string.h` of glibc 2.32.
    safe fn strerrorname_np(error: c_int) -> *const c_char;
    /// From `string.h` of glibc 2.32.
    safe fn sigabbrev_np(signal: c_int) -> *const c_char;
}

/// `EPERM` for 1.
pub(crate) fn error_name(error: i32) -> String {
    static_text(strerrorname_np(error)).unwrap_or_else(|| format!("error {error}"))
}

fn signal_name(signal: i32) -> String {
    static_text(sigabbrev_np(signal)).map_or_else(|| format!("signal {signal}"), |name| format!("SIG{name}"))
}

fn static_text(text: *const c_char) -> Option<String> {
    // SAFETY: both functions answer null or a constant of the C library.
    let text = (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) })?;
    Some(text.to_string_lossy().into_owned())
}
