//! What a run leaves behind for people: a core dump, a profile.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use crate::protocol::{ATTACHMENT_BYTES_MAX, Attachment};

/// Writes what came with an exit to the container's directory. The descriptors come from a process that runs what
/// users bring: only regular files are read, a bounded part of each, and never to wait.
pub(super) fn store(dir: &Path, attachments: &[Attachment], fds: Vec<OwnedFd>) -> io::Result<()> {
    if !attachments.is_empty() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    for (attachment, fd) in attachments.iter().zip(fds) {
        let name = match attachment {
            Attachment::CoreDump {} => "core",
            Attachment::Profile {} => "profile.json",
        };
        copy(&File::from(fd), &dir.join(name))?;
    }
    Ok(())
}

fn copy(from: &File, path: &Path) -> io::Result<()> {
    if !from.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an attachment is no file"));
    }
    let mut options = OpenOptions::new();
    let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
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
