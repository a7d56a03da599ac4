//! Opening paths inside an image, which may be hostile, without ever leaving it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// `openat2(2)` answers EAGAIN when something was renamed meanwhile; more often than this is an attack.
const ATTEMPTS: usize = 64;

/// Opens `path` as a process whose root is `root` would, except that magic links of proc, which lead
/// anywhere, are refused.
pub(super) fn open(
    root: BorrowedFd<'_>,
    path: impl AsRef<Path>,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    open_with(root, path.as_ref(), flags, resolve)
}

/// Opens `path` below `dir` without following any link.
pub(super) fn open_plain(
    dir: BorrowedFd<'_>,
    path: impl AsRef<Path>,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    open_with(dir, path.as_ref(), flags, resolve)
}

fn open_with(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    for _ in 0..ATTEMPTS {
        match openat2(dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// A directory directly below the root, made when missing. A link or a file in its place is refused.
pub(super) fn open_top_dir(root: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    match open_plain(root, name, flags) {
        Err(Errno::NOENT) => {
            rustix::fs::mkdirat(root, name, Mode::from_raw_mode(0o755))?;
            open_plain(root, name, flags)
        }
        other => other,
    }
}

/// Opens `path` in the root, making what is missing: directories on the way, and a directory or an empty
/// file at its end. Links are followed inside the root; a dangling one is refused.
pub(super) fn open_or_make(root: BorrowedFd<'_>, path: &Path, is_dir: bool) -> io::Result<OwnedFd> {
    if path.components().any(|part| matches!(part, Component::ParentDir)) {
        return Err(Errno::INVAL.into());
    }
    match open(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        other => return other.map_err(io::Error::from),
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL.into());
    };
    let parent = open_or_make(root, parent, true)?;
    use std::os::fd::AsFd;
    if is_dir {
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        drop(rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?);
    }
    Ok(open_plain(parent.as_fd(), Path::new(name), OFlags::PATH)?)
}

/// Whether two descriptors refer to the same file.
pub(super) fn is_same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let (a, b) = (rustix::fs::fstat(a)?, rustix::fs::fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// Whether a descriptor is the character device with these numbers (CVE-2025-31133: a `/dev/null` that is
/// something else must never be mounted).
pub(super) fn is_device(fd: BorrowedFd<'_>, major: u32, minor: u32) -> rustix::io::Result<bool> {
    let stat = rustix::fs::statat(fd, c"", AtFlags::EMPTY_PATH)?;
    let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && device == (major, minor))
}
