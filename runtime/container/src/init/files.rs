//! Files in a container's root: the ones that are written, read, and hidden.

use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags};

use super::{mounts, paths};
use crate::failure::{Failure, Step};
use crate::rootfs::{NETWORK_FILES, clone_tree, new_tmpfs};
use crate::sys;

/// A path of proc or sysfs that is hidden or made read-only.
#[derive(Clone, Debug)]
pub(crate) struct MaskedPath {
    path: CString,
    read_only: bool,
}

/// Hidden, as moby does: they tell of the host or its other tenants.
const HIDDEN: [&str; 12] = [
    "proc/asound",
    "proc/acpi",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/timer_list",
    "proc/timer_stats",
    "proc/sched_debug",
    "proc/scsi",
    "sys/firmware",
    "sys/devices/virtual/powercap",
];
/// Readable but not writable, as moby does.
const READ_ONLY: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

/// The paths to mask on this host: those that it has. Looked up once, since every missing one would cost
/// each start a system call.
pub(crate) fn masked_paths() -> Vec<MaskedPath> {
    let hidden = HIDDEN.iter().map(|path| (*path).to_owned()).chain(thermal_throttle());
    let all = hidden.map(|p| (p, false)).chain(READ_ONLY.iter().map(|p| ((*p).to_owned(), true)));
    all.filter(|(path, _)| Path::new("/").join(path).symlink_metadata().is_ok())
        .filter_map(|(path, read_only)| Some(MaskedPath { path: CString::new(path).ok()?, read_only }))
        .collect()
}

/// Per-CPU counters that let tenants time each other's load (moby masks them since 28.2).
fn thermal_throttle() -> Vec<String> {
    let Ok(cpus) = fs::read_dir("/sys/devices/system/cpu") else { return Vec::new() };
    let dir = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let dir = format!("sys/devices/system/cpu/{name}/thermal_throttle");
        Path::new("/").join(&dir).is_dir().then_some(dir)
    };
    cpus.flatten().filter_map(dir).collect()
}

/// Hides and write-protects; done before the change of root, with devices that the image cannot have
/// touched.
pub(super) fn mask(root: BorrowedFd<'_>, masked: &[MaskedPath]) -> Result<(), Failure> {
    let mut empty_dir = None;
    for one in masked {
        mask_one(root, one, &mut empty_dir).step(&format!("mask /{}", one.path.to_string_lossy()))?;
    }
    Ok(())
}

fn mask_one(root: BorrowedFd<'_>, one: &MaskedPath, empty_dir: &mut Option<OwnedFd>) -> io::Result<()> {
    let path = Path::new(std::str::from_utf8(one.path.to_bytes()).map_err(io::Error::other)?);
    let target = match paths::open_plain(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let cover = if one.read_only {
        let clone = clone_mount(target.as_fd())?;
        sys::mount_setattr(clone.as_fd(), libc::MOUNT_ATTR_RDONLY, None)?;
        clone
    } else if FileType::from_raw_mode(rustix::fs::fstat(&target)?.st_mode) == FileType::Directory {
        match empty_dir {
            Some(attached) => clone_mount(attached.as_fd())?,
            None => {
                let dir = new_empty_dir()?;
                mounts::attach(dir.as_fd(), target.as_fd())?;
                *empty_dir = Some(dir);
                return Ok(());
            }
        }
    } else {
        mounts::device("null", 1, 3)?
    };
    Ok(mounts::attach(cover.as_fd(), target.as_fd())?)
}

fn clone_mount(fd: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    clone_tree(fd, OpenTreeFlags::empty())
}

fn new_empty_dir() -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_RDONLY;
    Ok(new_tmpfs(c"4k", c"0555", attributes)?)
}

/// Writes `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` into the container's own layer.
///
/// Whatever the image has in their place, a link for example, is replaced and not followed. Volumes are
/// mounted later and may cover them. Where they were made ahead they are `in_place`.
pub(super) fn write_network_files(
    root: BorrowedFd<'_>,
    hostname: &str,
    (hosts, resolv_conf): (&[u8], &[u8]),
    in_place: bool,
) -> Result<(), Failure> {
    let etc = paths::open_or_make(root, Path::new("/etc"), true).step("open /etc")?;
    let hostname = format!("{hostname}\n");
    let contents = [hosts, hostname.as_bytes(), resolv_conf];
    for (name, content) in NETWORK_FILES.into_iter().zip(contents) {
        let opened = if in_place { open_for_writing(etc.as_fd(), name) } else { replace(etc.as_fd(), name) };
        opened.and_then(|file| write_all(&file, content)).step(&format!("write /etc/{name}"))?;
    }
    Ok(())
}

fn open_for_writing(dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    paths::open_plain(dir, name, OFlags::WRONLY | OFlags::NOFOLLOW)
}

/// Makes a file in the place of whatever has the name.
fn replace(dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o644))
}

fn write_all(file: &OwnedFd, mut content: &[u8]) -> rustix::io::Result<()> {
    while !content.is_empty() {
        let count = rustix::io::write(file, content)?;
        content = &content[count..];
    }
    Ok(())
}

/// Longest passwd or group file that is read, in bytes.
const FILE_MAX: u64 = 4 * 1024 * 1024;

/// Reads a regular file of the image; a missing one is empty.
pub(super) fn read_in_root(root: BorrowedFd<'_>, path: &CStr) -> io::Result<Vec<u8>> {
    let path = Path::new(path.to_str().map_err(io::Error::other)?);
    // Without O_NONBLOCK a FIFO in its place would block for ever.
    let fd = match paths::open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        other => other?,
    };
    if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut content = Vec::new();
    fs::File::from(fd).take(FILE_MAX).read_to_end(&mut content)?;
    Ok(content)
}
