//! Writes members below a directory descriptor.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::member::{Kind, Member, Members, display};
use super::{Limits, Ownership, Reason, UnpackError};
use crate::tree;
use crate::write_out::WriteOut;

const PATH_BYTES_MAX: usize = 4095;
const NAME_BYTES_MAX: usize = 255;
/// Paths of directories are kept until the end, when their modes and times are set.
const DIRECTORY_PATH_BYTES_MAX: u64 = 128 << 20;
const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
const COPY_BYTES: usize = 128 << 10;

/// Path of a member, taken apart: no empty part, no `.`, no `..`.
struct Place {
    parent: Vec<u8>,
    name: Vec<u8>,
}

pub(super) struct Extractor<'a> {
    root: BorrowedFd<'a>,
    limits: Limits,
    ownership: Ownership,
    /// The directory of the last member: members of one directory follow each other.
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Modes and times of directories, set last: writing into a directory changes its time.
    directories: BTreeMap<Vec<u8>, (u32, Timestamps)>,
    directory_path_bytes: u64,
    buffer: Vec<u8>,
    bytes: u64,
    skipped: u64,
}

impl<'a> Extractor<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, limits: &Limits, ownership: Ownership) -> Self {
        Self {
            root,
            limits: *limits,
            ownership,
            parent: None,
            directories: BTreeMap::new(),
            directory_path_bytes: 0,
            buffer: vec![0; COPY_BYTES],
            bytes: 0,
            skipped: 0,
        }
    }

    /// Gives the root directory to root: an archive need not say whose it is.
    pub(super) fn begin(&self) -> Result<(), UnpackError> {
        if self.ownership == Ownership::Caller {
            return Ok(());
        }
        fs::fchown(self.root, Some(Uid::ROOT), Some(Gid::ROOT))
            .map_err(|e| write_error("set owner of", "/", e))
    }

    /// Writes one member; its data is read from `members`.
    pub(super) fn place<R: Read>(
        &mut self,
        member: &Member,
        members: &mut Members<R>,
    ) -> Result<(), UnpackError> {
        let Some(place) = self.split(member)? else { return self.place_root(member) };
        if let Some(hidden) = place.name.strip_prefix(WHITEOUT) {
            return self.place_whiteout(member, &place, hidden);
        }
        match member.kind {
            Kind::Device => {
                self.skipped += 1;
                Ok(())
            }
            Kind::File => self.place_file(member, &place, members),
            Kind::Directory => self.place_directory(member, &place),
            Kind::Symlink => self.place_symlink(member, &place),
            Kind::HardLink => self.place_hard_link(member, &place),
            Kind::Fifo => self.place_fifo(member, &place),
        }
    }

    /// Sets what had to wait, deepest directories first, and returns bytes written and members skipped.
    pub(super) fn finish(mut self) -> Result<(u64, u64), UnpackError> {
        self.parent = None;
        for (path, (mode, times)) in self.directories.iter().rev() {
            let wrong = |e| write_error("set mode and time of directory", &display(path), e);
            let path = if path.is_empty() { b"." } else { path.as_slice() };
            match open_beneath(self.root, path, OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(directory) => {
                    fs::fchmod(&directory, Mode::from_raw_mode(*mode)).map_err(wrong)?;
                    fs::futimens(&directory, times).map_err(wrong)?;
                }
                // It was replaced by something else later in the archive.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(wrong(error)),
            }
        }
        Ok((self.bytes, self.skipped))
    }

    /// Parent and name of a member, or `None` for the root itself.
    fn split(&self, member: &Member) -> Result<Option<Place>, UnpackError> {
        let mut parts = parts(&member.path).map_err(|reason| member.refuse(reason))?;
        if parts.len() > self.limits.depth {
            return Err(UnpackError::TooLarge {
                what: "directories below one another",
                limit: self.limits.depth as u64,
            });
        }
        let Some(name) = parts.pop() else { return Ok(None) };
        if parts.iter().any(|part| part.starts_with(WHITEOUT)) {
            return Err(member.refuse(Reason::Whiteout));
        }
        Ok(Some(Place { parent: parts.join(&b'/'), name: name.to_vec() }))
    }

    fn place_root(&mut self, member: &Member) -> Result<(), UnpackError> {
        if member.kind != Kind::Directory {
            return Err(member.refuse(Reason::Root));
        }
        let root = self.root;
        self.own(root, member)?;
        self.set_xattrs(root, member)?;
        self.remember_directory(Vec::new(), member)
    }

    fn place_whiteout(&mut self, member: &Member, place: &Place, hidden: &[u8]) -> Result<(), UnpackError> {
        if place.name == WHITEOUT_OPAQUE {
            let directory = self.open_parent(member, &place.parent)?;
            return self.mark_opaque(directory.as_fd(), member);
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(member.refuse(Reason::Whiteout));
        }
        if place.name.starts_with(WHITEOUT_META) {
            self.skipped += 1;
            return Ok(());
        }
        let parent = self.open_parent(member, &place.parent)?;
        match stat(&parent, hidden) {
            // A whiteout hides lower layers only; a directory of this layer then starts empty.
            Ok(FileType::Directory) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let directory = fs::openat(&parent, hidden, flags, Mode::empty())
                    .map_err(|e| write_error("open directory", &member.display(), e))?;
                self.mark_opaque(directory.as_fd(), member)
            }
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => fs::mknodat(&parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)
                .map_err(|e| write_error("create whiteout", &member.display(), e)),
            Err(error) => Err(write_error("look up", &member.display(), error)),
        }
    }

    fn place_file<R: Read>(
        &mut self,
        member: &Member,
        place: &Place,
        members: &mut Members<R>,
    ) -> Result<(), UnpackError> {
        let name = place.name.as_slice();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self.create(member, place, "create file", |parent| {
            fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
        })?;
        let mut file = File::from(file);
        let (mut write_out, mut written) = (WriteOut::default(), 0);
        loop {
            let n = members.read(&mut self.buffer).map_err(|source| members.read_error(source))?;
            if n == 0 {
                break;
            }
            file.write_all(&self.buffer[..n]).map_err(|e| write_io_error("write", &member.display(), e))?;
            self.bytes += n as u64;
            written += n as u64;
            write_out.reached(file.as_fd(), written);
        }
        // Changing the owner clears setuid bits and file capabilities, so it comes first.
        self.own(file.as_fd(), member)?;
        let wrong = |e| write_error("set mode and time of", &member.display(), e);
        fs::fchmod(&file, Mode::from_raw_mode(member.mode)).map_err(wrong)?;
        self.set_xattrs(file.as_fd(), member)?;
        fs::futimens(&file, &times(member)).map_err(wrong)
    }

    fn place_directory(&mut self, member: &Member, place: &Place) -> Result<(), UnpackError> {
        let parent = self.open_parent(member, &place.parent)?;
        if !matches!(stat(&parent, &place.name), Ok(FileType::Directory)) {
            let is_whiteout = matches!(stat(&parent, &place.name), Ok(FileType::CharacterDevice));
            self.create(member, place, "create directory", |p| {
                fs::mkdirat(p, place.name.as_slice(), Mode::RWXU)
            })?;
            if is_whiteout {
                let directory = open_directory(&parent, &place.name, member)?;
                self.mark_opaque(directory.as_fd(), member)?;
            }
        }
        let directory = open_directory(&parent, &place.name, member)?;
        self.own(directory.as_fd(), member)?;
        self.set_xattrs(directory.as_fd(), member)?;
        let path = [place.parent.as_slice(), place.name.as_slice()].join(&b'/');
        self.remember_directory(path.strip_prefix(b"/").unwrap_or(&path).to_vec(), member)
    }

    fn place_symlink(&mut self, member: &Member, place: &Place) -> Result<(), UnpackError> {
        if member.link.is_empty() || member.link.len() > PATH_BYTES_MAX || member.link.contains(&0) {
            return Err(member.refuse(Reason::LinkTarget));
        }
        let (target, name) = (member.link.as_slice(), place.name.as_slice());
        self.create(member, place, "create symbolic link", |parent| fs::symlinkat(target, parent, name))?;
        self.own_by_name(member, place)
    }

    fn place_fifo(&mut self, member: &Member, place: &Place) -> Result<(), UnpackError> {
        let (mode, name) = (Mode::from_raw_mode(member.mode), place.name.as_slice());
        let make = |parent: &OwnedFd| fs::mknodat(parent, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0);
        self.create(member, place, "create fifo", make)?;
        self.own_by_name(member, place)?;
        let parent = self.open_parent(member, &place.parent)?;
        fs::chmodat(&parent, name, mode, AtFlags::empty())
            .map_err(|e| write_error("set mode of", &member.display(), e))
    }

    fn place_hard_link(&mut self, member: &Member, place: &Place) -> Result<(), UnpackError> {
        let mut target = match parts(&member.link) {
            Ok(target) if target.len() <= self.limits.depth => target,
            Err(Reason::DotDot) => return Err(member.refuse(Reason::LinkDotDot)),
            _ => return Err(member.refuse(Reason::LinkTarget)),
        };
        let Some(target_name) = target.pop() else { return Err(member.refuse(Reason::LinkMissing)) };
        let target_parent = target.join(&b'/');
        let from = open_beneath(self.root, non_empty(&target_parent), OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|_| member.refuse(Reason::LinkMissing))?;
        if !matches!(stat(&from, target_name), Ok(FileType::RegularFile | FileType::Symlink | FileType::Fifo))
        {
            return Err(member.refuse(Reason::LinkMissing));
        }
        if target_parent == place.parent && target_name == place.name {
            return Ok(());
        }
        // Without AT_SYMLINK_FOLLOW a symbolic link is linked itself, not what it points to.
        self.create(member, place, "create hard link", |parent| {
            fs::linkat(&from, target_name, parent, place.name.as_slice(), AtFlags::empty())
        })
    }

    /// Makes something new, in place of what an earlier member of the same name made.
    fn create<T>(
        &mut self,
        member: &Member,
        place: &Place,
        action: &'static str,
        make: impl Fn(&OwnedFd) -> rustix::io::Result<T>,
    ) -> Result<T, UnpackError> {
        let wrong = |e| write_error(action, &member.display(), e);
        let parent = self.open_parent(member, &place.parent)?;
        match make(&parent) {
            Err(Errno::EXIST) => {}
            made => return made.map_err(wrong),
        }
        self.parent = None;
        tree::remove_at(parent.as_fd(), OsStr::from_bytes(&place.name))
            .map_err(|e| write_io_error("replace", &member.display(), e))?;
        make(&parent).map_err(wrong)
    }

    /// The directory at `path`, made if it is missing.
    fn open_parent(&mut self, member: &Member, path: &[u8]) -> Result<Rc<OwnedFd>, UnpackError> {
        let wrong = |e: Errno| match e {
            Errno::LOOP => member.refuse(Reason::SymlinkParent),
            Errno::NOTDIR => member.refuse(Reason::FileParent),
            e => write_error("open the directory of", &member.display(), e),
        };
        if let Some((cached, fd)) = &self.parent
            && cached == path
        {
            return Ok(fd.clone());
        }
        let fd = match open_beneath(self.root, non_empty(path), OFlags::PATH | OFlags::DIRECTORY) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_parents(member, path, wrong)?,
            Err(error) => return Err(wrong(error)),
        };
        let fd = Rc::new(fd);
        self.parent = Some((path.to_vec(), fd.clone()));
        Ok(fd)
    }

    fn make_parents(
        &self,
        member: &Member,
        path: &[u8],
        wrong: impl Fn(Errno) -> UnpackError,
    ) -> Result<OwnedFd, UnpackError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut current = open_beneath(self.root, b".", flags).map_err(&wrong)?;
        for part in path.split(|b| *b == b'/') {
            let is_whiteout = matches!(stat(&current, part), Ok(FileType::CharacterDevice));
            if is_whiteout {
                fs::unlinkat(&current, part, AtFlags::empty()).map_err(&wrong)?;
            }
            match fs::mkdirat(&current, part, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    let made = open_directory(&current, part, member)?;
                    fs::fchmod(&made, Mode::from_raw_mode(0o755)).map_err(&wrong)?;
                    if is_whiteout {
                        self.mark_opaque(made.as_fd(), member)?;
                    }
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(wrong(error)),
            }
            current = open_beneath(current.as_fd(), part, flags).map_err(&wrong)?;
        }
        Ok(current)
    }

    fn remember_directory(&mut self, path: Vec<u8>, member: &Member) -> Result<(), UnpackError> {
        self.directory_path_bytes += path.len() as u64;
        if self.directory_path_bytes > DIRECTORY_PATH_BYTES_MAX {
            return Err(UnpackError::TooLarge {
                what: "bytes of directory paths",
                limit: DIRECTORY_PATH_BYTES_MAX,
            });
        }
        self.directories.insert(path, (member.mode, times(member)));
        Ok(())
    }

    fn mark_opaque(&self, directory: BorrowedFd<'_>, member: &Member) -> Result<(), UnpackError> {
        let name = match self.ownership {
            Ownership::Preserve => "trusted.overlay.opaque",
            Ownership::Caller => "user.overlay.opaque",
        };
        // A descriptor opened with O_PATH can reach the directory but takes no attributes (open(2)).
        open_beneath(directory, b".", OFlags::RDONLY | OFlags::DIRECTORY)
            .and_then(|directory| fs::fsetxattr(directory, name, b"y", XattrFlags::empty()))
            .map_err(|e| write_error("mark as opaque the directory of", &member.display(), e))
    }

    fn own(&self, fd: BorrowedFd<'_>, member: &Member) -> Result<(), UnpackError> {
        if self.ownership == Ownership::Caller {
            return Ok(());
        }
        fs::fchown(fd, Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)))
            .map_err(|e| write_error("set owner of", &member.display(), e))
    }

    /// Owner and time of something that cannot be opened.
    fn own_by_name(&mut self, member: &Member, place: &Place) -> Result<(), UnpackError> {
        let parent = self.open_parent(member, &place.parent)?;
        let name = place.name.as_slice();
        if self.ownership == Ownership::Preserve {
            let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
            fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| write_error("set owner of", &member.display(), e))?;
        }
        fs::utimensat(&parent, name, &times(member), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| write_error("set time of", &member.display(), e))
    }

    fn set_xattrs(&self, fd: BorrowedFd<'_>, member: &Member) -> Result<(), UnpackError> {
        for (name, value) in &member.xattrs {
            if !self.is_kept(name) {
                continue;
            }
            let wrong = |e| write_error("set extended attributes of", &member.display(), e);
            let name = CString::new(name.as_slice()).map_err(|_| member.refuse(Reason::Pax))?;
            match fs::fsetxattr(fd, &name, value, XattrFlags::empty()) {
                // tmpfs before Linux 6.6 has no user attributes; no program depends on them.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(error) => return Err(wrong(error)),
            }
        }
        Ok(())
    }

    /// `trusted.overlay.*` and `user.overlay.*` from an image would let it redirect what overlayfs shows.
    fn is_kept(&self, name: &[u8]) -> bool {
        match name.strip_prefix(b"user.") {
            Some(rest) => !rest.starts_with(b"overlay."),
            None => name == b"security.capability" && self.ownership == Ownership::Preserve,
        }
    }
}

/// The parts of a path; `.`, empty parts and a leading `/` mean nothing, `..` is refused.
fn parts(path: &[u8]) -> Result<Vec<&[u8]>, Reason> {
    if path.len() > PATH_BYTES_MAX || path.contains(&0) {
        return Err(Reason::Path);
    }
    let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|p| !matches!(*p, b"" | b".")).collect();
    if parts.contains(&b"..".as_slice()) {
        return Err(Reason::DotDot);
    }
    if parts.iter().any(|part| part.len() > NAME_BYTES_MAX) {
        return Err(Reason::Path);
    }
    Ok(parts)
}

fn non_empty(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}

fn open_beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn open_directory(parent: &OwnedFd, name: &[u8], member: &Member) -> Result<OwnedFd, UnpackError> {
    open_beneath(parent.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY)
        .map_err(|e| write_error("open directory", &member.display(), e))
}

fn stat(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<FileType> {
    let stat = fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

fn times(member: &Member) -> Timestamps {
    let time = Timespec { tv_sec: member.mtime.0, tv_nsec: member.mtime.1.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn write_error(action: &'static str, member: &str, error: Errno) -> UnpackError {
    write_io_error(action, member, error.into())
}

fn write_io_error(action: &'static str, member: &str, source: io::Error) -> UnpackError {
    let member = member.to_owned();
    if crate::error::is_no_space(&source) {
        return UnpackError::NoSpace { member };
    }
    UnpackError::Write { action, member, source }
}
