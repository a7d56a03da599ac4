//! Removes directory trees whose contents came from elsewhere, without following any link.

use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{self, AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

/// Removes the file or tree at `path`; that there is none is no error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    remove_at(fs::CWD, path.as_os_str())
}

/// Removes `name` in `parent`, with all that is below it; that there is none is no error.
pub(crate) fn remove_at(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says EISDIR for a directory; POSIX, and some file systems, EPERM.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let directory = open(parent, name)?;
    for child in children(&directory)? {
        remove_at(directory.as_fd(), &child)?;
    }
    match fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Opens a directory so that its entries can be removed, also when an image made it read-only and we are not
/// root.
fn open(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if !rustix::process::geteuid().is_root() {
        let look = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(parent, name, look, Mode::empty())?;
        fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
    }
    Ok(fs::openat(parent, name, flags, Mode::empty())?)
}

fn children(directory: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(OsString::from_vec(name.to_bytes().to_vec()));
        }
    }
    Ok(names)
}

/// Total bytes of the regular files below `path`.
pub(crate) fn size(path: &Path) -> u64 {
    fn walk(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<u64> {
        let stat = fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if fs::FileType::from_raw_mode(stat.st_mode) != fs::FileType::Directory {
            return Ok(u64::try_from(stat.st_size).unwrap_or(0));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = fs::openat(parent, name, flags, Mode::empty())?;
        let mut bytes = 0;
        for child in children(&directory)? {
            bytes += walk(directory.as_fd(), OsStr::from_bytes(child.as_bytes())).unwrap_or(0);
        }
        Ok(bytes)
    }
    walk(fs::CWD, path.as_os_str()).unwrap_or(0)
}
