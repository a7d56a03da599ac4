//! A terminal for a command, made by the command itself, so that it is one of the container's own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use neargate_ipc::channel;
use rustix::fs::{OFlags, fchown, fstatfs};
use rustix::process::Uid;
use rustix::termios::{Winsize, tcsetwinsize};

use super::{TERMINAL, paths};
use crate::failure::{Failure, Step};
use crate::sys;
use crate::user::User;

/// `DEVPTS_SUPER_MAGIC` of `linux/magic.h`.
const DEVPTS_MAGIC: u64 = 0x1cd1;

/// Makes a terminal, hands our end of it over, and makes the other end the controlling terminal and the standard
/// streams of the caller's new session.
///
/// What is at `/dev/pts/ptmx` is checked, because the container may have put something else there
/// (CVE-2025-52565 was of that kind); the other end is opened by ioctl, so that no path can mislead.
pub(super) fn attach(
    root: BorrowedFd<'_>,
    user: &User,
    (rows, columns): (u16, u16),
    sync: &OwnedFd,
) -> Result<(), Failure> {
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    // Looked at before it is opened for use: opening a device may already act on it.
    let place = paths::open_plain(root, "dev/pts/ptmx", OFlags::PATH).step("find /dev/pts/ptmx")?;
    let is_devpts = fstatfs(&place).step("check /dev/pts")?.f_type as u64 == DEVPTS_MAGIC;
    if !is_devpts || !paths::is_device(place.as_fd(), 5, 2).step("check /dev/pts/ptmx")? {
        return Err(Failure::System { step: "check /dev/pts/ptmx".to_owned(), errno: libc::ENODEV });
    }
    let ours = paths::open_plain(root, "dev/pts/ptmx", flags).step("open /dev/pts/ptmx")?;
    let theirs = sys::terminal_peer(ours.as_fd()).step("make terminal")?;
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&ours, size).step("set size of terminal")?;
    // The user may open it again, as /dev/stdout for example.
    fchown(&theirs, Some(Uid::from_raw(user.uid)), None).step("give terminal to user")?;
    rustix::process::ioctl_tiocsctty(&theirs).step("take terminal")?;
    for number in 0..3 {
        sys::dup2(theirs.as_fd(), number).step("connect standard streams")?;
    }
    channel::send(sync.as_fd(), TERMINAL, &[], &[ours.as_fd()], true).step("hand over terminal")
}
