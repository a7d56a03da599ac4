//! Row 63: what one task keeps under names that another knows.

use std::fs;
use std::io::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use crate::kernel::{Outcome, attempt, call, end_on_sigterm, outcome_of, say, text};

/// The key of the System V objects.
const KEY: usize = 0x4e67_0001;
/// The name of everything else.
const NAME: &str = "neargate-intruder";
const SHARED: &str = "/dev/shm/neargate-intruder";

fn error_of(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

/// Makes one of each, looks for them as [`seek`] does, and keeps them until it is told to end.
pub(crate) fn hold() {
    end_on_sigterm();
    let create = (libc::IPC_CREAT | 0o666) as usize;
    let mode = 0o666;
    let flags = (libc::O_CREAT | libc::O_RDWR) as usize;
    let made: [Outcome; 5] = [
        call(libc::SYS_shmget, &[KEY, 4096, create]),
        call(libc::SYS_semget, &[KEY, 1, create]),
        call(libc::SYS_msgget, &[KEY, create]),
        call(libc::SYS_mq_open, &[text(c"neargate-intruder"), flags, mode, 0]),
        fs::write(SHARED, "x").map(|()| 0).map_err(error_of),
    ];
    let listener = SocketAddr::from_abstract_name(NAME).and_then(|address| UnixListener::bind_addr(&address));
    say("made", if made.iter().all(Result::is_ok) && listener.is_ok() { "all" } else { "not all" });
    seek();
    println!("held");
    // The runtime ends whoever waits here.
    let _ = std::io::stdout().flush();
    loop {
        std::thread::park();
    }
}

/// Looks for what another task holds.
pub(crate) fn seek() {
    attempt("shared memory of System V", || call(libc::SYS_shmget, &[KEY, 0, 0]));
    attempt("semaphores of System V", || call(libc::SYS_semget, &[KEY, 0, 0]));
    attempt("messages of System V", || call(libc::SYS_msgget, &[KEY, 0]));
    attempt("message queue of POSIX", || {
        call(libc::SYS_mq_open, &[text(c"neargate-intruder"), libc::O_RDONLY as usize])
    });
    attempt("shared memory of POSIX", || fs::read(SHARED).map(|bytes| bytes.len()).map_err(error_of));
    attempt("abstract socket", || {
        let address = SocketAddr::from_abstract_name(NAME).map_err(error_of)?;
        UnixStream::connect_addr(&address).map(|_| 0).map_err(error_of)
    });
    attempt("key by request", || call(libc::SYS_request_key, &[text(c"user"), text(c"neargate-intruder")]));
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    say("sockets in the table", table.lines().skip(1).filter(|line| line.contains(NAME)).count());
    say(
        "sockets of the runtime",
        table.lines().skip(1).filter(|line| line.contains("/run") || line.contains("ng-")).count(),
    );
    let mut byte = outcome_of(|| call(libc::SYS_keyctl, &[0, usize::MAX - 2]));
    byte.push_str(" for the session's");
    say("keyring", byte);
}
