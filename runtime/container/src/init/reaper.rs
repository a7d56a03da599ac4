//! The first process for `init: true`, PID 1 unless its namespace is shared: forwards signals to the program, reaps
//! orphans, ends with the program's code.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::sys;

/// Which side of the fork this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// PID 1.
    Reaper,
    /// Its child, which becomes the program.
    Program,
}

/// The program's process id, known to the reaper alone.
static PROGRAM: AtomicI32 = AtomicI32::new(0);

/// Forks. All privileges are dropped already, on both sides.
pub(super) fn fork_program() -> io::Result<Role> {
    // Before the fork, so that no signal is lost. The kernel keeps a blocked signal for PID 1 even where it
    // would drop one that is not handled (pid_namespaces(7)).
    sys::block_all_signals();
    // PID 1 gets the orphans anyway; in a PID namespace that is shared this is not it.
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1)?;
    match sys::fork()? {
        0 => Ok(Role::Program),
        pid => {
            PROGRAM.store(pid, Ordering::Relaxed);
            Ok(Role::Reaper)
        }
    }
}

/// Runs until the program ends.
pub(super) fn run() -> ! {
    // The socket that reports a failed exec must have no other holder than the program.
    if sys::close_from_3().is_err() {
        sys::exit_now(126);
    }
    loop {
        match sys::wait_signal() {
            Ok(libc::SIGCHLD) => reap(),
            // Stopping PID 1 would stop the forwarding, too.
            Ok(libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU) | Err(_) => {}
            Ok(signal) => {
                // The program may have ended just now; SIGCHLD comes next.
                let _ = sys::kill(PROGRAM.load(Ordering::Relaxed), signal);
            }
        }
    }
}

fn reap() {
    while let Ok(Some((pid, code))) = sys::wait_child(None, false) {
        if pid == PROGRAM.load(Ordering::Relaxed) {
            sys::exit_now(code);
        }
    }
}
