//! What a run leaves behind for people: a core dump, a profile.
//!
//! A file appears whole under its name, so that who looks at a task that still runs sees all of it or nothing.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::protocol::{ATTACHMENT_BYTES_MAX, Attachment};

/// Writes what came with an exit to the container's directory, in the place of what is there. The descriptors come
/// from a process that runs what users bring: only regular files are read, a bounded part of each, and never to wait.
pub(super) fn store(dir: &Path, attachments: &[Attachment], fds: Vec<OwnedFd>) -> io::Result<()> {
    for (attachment, fd) in attachments.iter().zip(fds) {
        let part = write_part(dir, attachment, fd)?;
        fs::rename(&part.0, dir.join(name(attachment)))?;
    }
    Ok(())
}

/// The same for what a run leaves while it goes on, unless another part of the container has left it before.
pub(super) fn store_first(dir: &Path, attachment: &Attachment, fds: Vec<OwnedFd>) -> io::Result<()> {
    let path = dir.join(name(attachment));
    let Some(fd) = fds.into_iter().next() else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an attachment came without its file"));
    };
    if path.exists() {
        return Ok(());
    }
    let part = write_part(dir, attachment, fd)?;
    match renameat_with(CWD, &part.0, CWD, &path, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => Ok(()),
        renamed => Ok(renamed?),
    }
}

fn name(attachment: &Attachment) -> &'static str {
    match attachment {
        Attachment::CoreDump {} => "core",
        Attachment::Profile {} => "profile.json",
    }
}

/// A file that is not known under its name yet; it goes unless it was renamed.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn write_part(dir: &Path, attachment: &Attachment, from: OwnedFd) -> io::Result<Part> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // Who lists the directory passes over names with a dot before them.
    let part = Part(dir.join(format!(".{}.{number}", name(attachment))));
    copy(&File::from(from), &part.0)?;
    Ok(part)
}

fn copy(from: &File, path: &Path) -> io::Result<()> {
    if !from.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an attachment is no file"));
    }
    let mut options = OpenOptions::new();
    let nofollow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let to = options.write(true).create(true).truncate(true).mode(0o600).custom_flags(nofollow).open(path)?;
    let mut chunk = vec![0; 256 * 1024];
    let mut offset = 0;
    while offset < ATTACHMENT_BYTES_MAX {
        let want = chunk.len().min(ATTACHMENT_BYTES_MAX - offset);
        let count = from.read_at(&mut chunk[..want], offset as u64)?;
        if count == 0 {
            break;
        }
        to.write_all_at(&chunk[..count], offset as u64)?;
        offset += count;
    }
    Ok(())
}
