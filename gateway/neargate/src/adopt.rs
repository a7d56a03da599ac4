//! Gives a data directory to the user that the server becomes.
//!
//! ```text
//! DATA               root's, and writable to the user's group, but sticky: who has taken the server over can
//!                    neither remove nor replace what root keeps there
//!   run/             root's: socket, journal and locks of the supervisor
//!   images/layers/*  whose the images say
//!   scratch/*/*/*    the containers'; volume-* in scratch/* and all below volumes/*/*/* too
//!   all else         the user's
//! ```
//!
//! It is done once, when the user changes; what is written last, the directory's own owner and mode, tells that it
//! was. No link is followed, and a file of several names is left alone: one of them might be somewhere else.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, fchmod, fchown, fstat, openat, statat,
};
use rustix::io::Errno;

use crate::data_dir::DataDir;
use crate::user::HostUser;

/// The directories that are there from the first start on, so that nobody else makes them.
const KEPT: [&str; 4] = ["images", "scratch", "volumes", "run"];
/// Mode of a directory that another user than root may use: sticky, and writable to the group.
const SHARED: u32 = 0o1770;
const PRIVATE: u32 = 0o700;
/// Directories below one another that are followed; the server's own have a handful.
const DEPTH_MAX: usize = 32;

/// Gives the directory to a user. Must be called as root, while no server uses it.
pub(crate) fn give(data: &DataDir, user: HostUser) -> Result<()> {
    let root = open(rustix::fs::CWD, data.root().as_os_str())
        .with_context(|| format!("open data directory {}", data.root().display()))?;
    let found = fstat(&root).context("look at the data directory")?;
    if found.st_uid != 0 {
        bail!(
            "data directory {} belongs to uid {}, not to root; name another with --data, or give it to root",
            data.root().display(),
            found.st_uid
        );
    }
    for name in KEPT {
        make(data, name)?;
    }
    let (gid, mode) = if user.is_root() { (0, PRIVATE) } else { (user.gid, SHARED) };
    if (found.st_gid, found.st_mode & 0o7777) == (gid, mode) && owner(data, "images")? == user.uid {
        return Ok(());
    }
    tracing::info!(data = %data.root().display(), uid = user.uid, gid = user.gid, "give the data directory to the server's user");
    let mut path = Vec::new();
    give_below(root.as_fd(), &mut path, user)?;
    fchown(&root, Some(Uid::ROOT), Some(Gid::from_raw(gid)))
        .and_then(|()| fchmod(&root, Mode::from_raw_mode(mode)))
        .with_context(|| format!("give data directory {} to the server", data.root().display()))
}

/// The user of a data directory; root where no server has become another.
pub(crate) fn user_of(data: &DataDir) -> Result<HostUser> {
    let path = data.root().join("images");
    match statat(rustix::fs::CWD, &path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(HostUser { uid: found.st_uid, gid: found.st_gid }),
        Err(Errno::NOENT) => Ok(HostUser { uid: 0, gid: 0 }),
        Err(error) => Err(error).with_context(|| format!("look at {}", path.display())),
    }
}

fn make(data: &DataDir, name: &str) -> Result<()> {
    let path = data.root().join(name);
    let mode = if name == "run" { 0o711 } else { PRIVATE };
    match DirBuilder::new().mode(mode).create(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("make {}", path.display()));
        }
        _ => {}
    }
    let kind =
        fs::symlink_metadata(&path).with_context(|| format!("look at {}", path.display()))?.file_type();
    if !kind.is_dir() {
        bail!(
            "{} is no directory; to keep it elsewhere mount a directory there, a link is not followed",
            path.display()
        );
    }
    Ok(())
}

fn owner(data: &DataDir, name: &str) -> Result<u32> {
    let path = data.root().join(name);
    let found = statat(rustix::fs::CWD, &path, AtFlags::SYMLINK_NOFOLLOW);
    found.map(|found| found.st_uid).with_context(|| format!("look at {}", path.display()))
}

/// Gives all entries of a directory, whose path below the data directory is `path`, as far as they are the server's.
fn give_below(dir: BorrowedFd<'_>, path: &mut Vec<OsString>, user: HostUser) -> Result<()> {
    if path.len() > DEPTH_MAX {
        bail!("directories are nested deeper than {DEPTH_MAX} in {}", shown(path).display());
    }
    let entries = Dir::read_from(dir).with_context(|| format!("read {}", shown(path).display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", shown(path).display()))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        path.push(OsString::from_vec(name.to_bytes().to_vec()));
        if is_servers(path) {
            give_one(dir, path, user)
                .with_context(|| format!("give {} to the server", shown(path).display()))?;
        }
        path.pop();
    }
    Ok(())
}

fn give_one(dir: BorrowedFd<'_>, path: &mut Vec<OsString>, user: HostUser) -> Result<()> {
    let Some(name) = path.last().cloned() else { return Ok(()) };
    let (uid, gid) = (Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)));
    let found: Stat = match statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        found => found?,
    };
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => {
            let below = open(dir, &name)?;
            fchown(&below, uid, gid)?;
            if is_servers_below(path) {
                give_below(below.as_fd(), path, user)?;
            }
        }
        FileType::RegularFile if found.st_nlink == 1 => {
            rustix::fs::chownat(dir, &name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        _ => tracing::warn!(path = %shown(path).display(), "left as it is: no plain file of one name"),
    }
    Ok(())
}

fn open(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

fn shown(path: &[OsString]) -> PathBuf {
    path.iter().fold(PathBuf::from("the data directory"), |shown, part| shown.join(Path::new(part)))
}

/// Whether an entry of the data directory is to be the server's.
fn is_servers(path: &[OsString]) -> bool {
    let parts: Vec<&[u8]> = path.iter().map(|part| part.as_bytes()).collect();
    match parts[..] {
        [b"run"] => false,
        // The scratch directory of a `neargate run`, which removes it itself.
        [top] => !top.starts_with(b"run-"),
        [b"scratch", _, of_task] => of_task.starts_with(b"container-"),
        _ => true,
    }
}

/// Whether what is in a directory of the server's is the server's, too.
fn is_servers_below(path: &[OsString]) -> bool {
    let parts: Vec<&[u8]> = path.iter().map(|part| part.as_bytes()).collect();
    match parts[..] {
        [b"images", b"layers"] | [b"images", b"tmp", _, ..] => false,
        [b"scratch", _, _, ..] => false,
        // ACCOUNT/REGION/CLUSTER, and in it volumes.
        [b"volumes", _, _, _, ..] => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str) -> Vec<OsString> {
        path.split('/').map(OsString::from).collect()
    }

    #[test]
    fn what_is_the_servers() {
        let check = |path: &str, itself: bool, below: bool| {
            let path = parts(path);
            assert_eq!((is_servers(&path), is_servers_below(&path)), (itself, below), "{path:?}");
        };
        check("control.db", true, true);
        check("images", true, true);
        check("images/blobs/sha256", true, true);
        check("images/layers", true, false);
        check("images/tmp", true, true);
        check("images/tmp/7-0", true, false);
        check("logs", true, true);
        check("scratch", true, true);
        check("scratch/task", true, true);
        check("scratch/task/container-0", true, false);
        check("volumes", true, true);
        check("volumes/1/r/c", true, false);
        assert!(!is_servers(&parts("run")));
        assert!(!is_servers(&parts("run-0a1b")));
        assert!(!is_servers(&parts("scratch/task/volume-0")));
    }

    #[test]
    fn links_and_files_of_several_names_stay_whose_they_are() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: files can be given away by root only");
            return;
        }
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        let (outside, root) = (directory.path().join("outside"), directory.path().join("data"));
        fs::create_dir_all(root.join("logs/a")).unwrap();
        fs::write(root.join("logs/a/own"), "x").unwrap();
        fs::write(&outside, "x").unwrap();
        std::os::unix::fs::symlink(&outside, root.join("logs/link")).unwrap();
        fs::hard_link(&outside, root.join("logs/again")).unwrap();
        let data = DataDir::open(Some(&root)).unwrap();
        let user = HostUser { uid: 4711, gid: 4712 };
        give(&data, user).unwrap();
        let of = |path: &Path| fs::symlink_metadata(path).map(|found| (found.uid(), found.gid())).unwrap();
        assert_eq!(of(&root.join("logs/a/own")), (4711, 4712));
        assert_eq!(of(&root.join("images")), (4711, 4712));
        assert_eq!(of(&outside), (0, 0));
        assert_eq!(of(&root.join("logs/link")), (0, 0));
        assert_eq!(of(&root.join("run")), (0, 0));
        assert_eq!(of(&root), (0, 4712));
        assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, SHARED);
        assert_eq!(user_of(&data).unwrap(), user);
        give(&data, HostUser { uid: 0, gid: 0 }).unwrap();
        assert_eq!(of(&root.join("logs/a/own")), (0, 0));
        assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, PRIVATE);
    }
}
