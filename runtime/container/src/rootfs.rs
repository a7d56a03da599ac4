//! Makes the mounts that a container takes over as descriptors: root, volumes, sysfs.
//!
//! All are detached: no mount of a container ever appears in a mount namespace that outlives it, so a
//! killed supervisor leaves none behind and the host's mount table stays short.
//!
//! Files keep the owners that the image gave them. Each layer is an id-mapped mount (`mount_setattr(2)`,
//! Linux 5.12; below overlay since 5.19; tmpfs since 6.3), so that id 0 on disk is the container's root,
//! whatever host ids its range has, and nothing is copied to be chowned.
//!
//! The directory that receives writes is not id-mapped. Overlay makes files in it with the ids of whoever
//! mounted, host root, which such a mount cannot express (it answers EOVERFLOW, and overlay then turns
//! read-only). So what a container writes belongs to its range on disk, too: it can never leave a setuid
//! program of host root behind.

use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, IFlags, Mode, OFlags, RenameFlags, ResolveFlags, Statx, StatxFlags, Uid,
    chmodat, chownat, fchown, ioctl_getflags, ioctl_setflags, mkdirat, openat, openat2, renameat_with,
    statat, statx, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

use crate::failure::{Failure, Step, errno};
use crate::launchpad::{LAYERS_DIR, Launchpad};
use crate::protocol::{MountPlan, SourcePlan, StartPlan};
use crate::standing::Standing;
use crate::sys;
use crate::user::ID_RANGE;

/// Docker's own limit; overlay itself allows 500.
const LAYERS_MAX: usize = 127;

/// How overlay is told its layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayerPassing {
    /// As descriptors of detached mounts: `FSCONFIG_SET_FD` since Linux 6.13, detached since 6.15.
    Descriptors,
    /// As paths in the launch namespace, for older kernels.
    Paths,
}

/// Has overlay keep what it must remember in attributes `user.overlay.*`, for in a user namespace it may write no others
/// (Linux 5.11).
const USER_ATTRIBUTES: &CStr = c"userxattr";

/// A root file system that is mounted nowhere yet.
#[derive(Debug)]
pub(crate) struct Root {
    /// The detached overlay.
    pub(crate) overlay: OwnedFd,
    /// The id-mapped layers that it was made of. It holds references of its own; these are kept only because
    /// closing the last descriptor of a detached mount waits for an RCU grace period, half a millisecond.
    /// The container attaches them to what it unmounts anyway.
    pub(crate) layers: Vec<OwnedFd>,
    /// Whether its `/etc` has the [`NETWORK_FILES`] already, empty, in the container's own layer.
    pub(crate) has_network_files: bool,
}

/// A volume ready to be put in place.
#[derive(Debug)]
pub(crate) struct Volume {
    /// The detached mount; `None` is a tmpfs, which the container's own namespaces make.
    pub(crate) mount: Option<OwnedFd>,
    /// Whether the source is a directory.
    pub(crate) is_dir: bool,
    /// What was asked for.
    pub(crate) plan: MountPlan,
}

fn open_tree_clone(path: &Path) -> rustix::io::Result<OwnedFd> {
    open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE)
}

/// Directories for what a container writes, made before it is known where they are to be.
///
/// To make a file or a directory on disk takes longer than most else that depends on neither image nor program. In the
/// upper one there is `/etc` already with the [`NETWORK_FILES`], which are the container's own whatever the image has in
/// their places.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

/// The files in `/etc` that each container gets.
pub(crate) const NETWORK_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

impl Scratch {
    /// Empties the directory in which they are made ahead, and asks the file system to divide it over the disk.
    ///
    /// Without a journal ext4 looks for an inode by reading all those nearby that were freed in the last minute, which
    /// after a few hundred tasks takes longer than all else of a start. So the directories are on 256 shelves, which are
    /// far apart (`FS_TOPDIR_FL`, ioctl_iflags(2)).
    pub(crate) fn prepare(directory: &Path) -> io::Result<()> {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::DirBuilder::new().mode(0o700).create(directory)?;
        let opened = fs::File::open(directory)?;
        // Most other file systems do not know it and do not need it.
        let _ = ioctl_getflags(&opened).and_then(|flags| ioctl_setflags(&opened, flags | IFlags::TOPDIR));
        Ok(())
    }

    /// Where those of a cell are in a directory that was prepared. Names end with a number that counts up.
    pub(crate) fn place(directory: &Path, cell: &str) -> PathBuf {
        let shelf = cell.bytes().fold(0u8, |sum, byte| sum.wrapping_mul(10).wrapping_add(byte));
        directory.join(format!("{shelf:02x}")).join(cell)
    }

    /// Makes them in a directory of this path, with `ids` as the host's id of the container's root.
    pub(crate) fn make(path: PathBuf, ids: u32) -> Result<Self, Failure> {
        let ids = Standing::own().root_of(ids);
        let made = || -> io::Result<()> {
            match path.parent().map(|shelf| fs::DirBuilder::new().mode(0o700).create(shelf)) {
                Some(Err(error)) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let directories = [path.clone(), path.join("work"), path.join("upper"), path.join("upper/etc")];
            for directory in &directories {
                fs::DirBuilder::new().mode(0o755).create(directory)?;
            }
            for directory in &directories[2..] {
                std::os::unix::fs::chown(directory, Some(ids), Some(ids))?;
            }
            for name in NETWORK_FILES {
                let file = fs::File::create_new(path.join("upper/etc").join(name))?;
                file.set_permissions(fs::Permissions::from_mode(0o644))?;
                fchown(&file, Some(Uid::from_raw(ids)), Some(Gid::from_raw(ids)))?;
            }
            Ok(())
        };
        let scratch = Self { path: path.clone() };
        match made().step("make directories ahead") {
            Ok(()) => Ok(scratch),
            Err(failure) => {
                scratch.remove();
                Err(failure)
            }
        }
    }

    /// Directories that another process has made.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where they are.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes them, because nobody needs them. What cannot be removed goes with the next supervisor.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_dir_all(&self.path);
    }

    /// Moves one of them.
    fn give(&self, to: &OwnedFd, base: &str, name: &str) -> rustix::io::Result<()> {
        renameat_with(CWD, self.path.join(base), to, name, RenameFlags::NOREPLACE)
    }
}

/// Mounts the root file system over the plan's layers. `userns` holds the task's id map, whose first id on
/// the host is `ids`. Directories made ahead become the plan's.
pub(crate) fn mount_root(
    plan: &StartPlan,
    userns: BorrowedFd<'_>,
    ids: u32,
    ahead: Option<&Scratch>,
    passing: &mut LayerPassing,
    launchpad: &Launchpad,
) -> Result<Root, Failure> {
    if plan.layers.is_empty() || plan.layers.len() > LAYERS_MAX {
        let why = format!("it has {} layers; 1 to {LAYERS_MAX} are possible", plan.layers.len());
        return Err(Failure::InvalidImage { why });
    }
    let ids = Standing::own().root_of(ids);
    // By descriptors and without links: the directory belongs to the server, which may have less rights than we.
    let scratch = open_real(path_of(&plan.scratch)).step("open scratch directory")?;
    const STEP: &str = "make overlay directories";
    let (upper_name, upper) = new_directory(&scratch, "upper", ahead).step(STEP)?;
    let (work_name, work) = new_directory(&scratch, "work", ahead).step(STEP)?;
    // The root directory is the container root's own.
    fchown(&upper, Some(Uid::from_raw(ids)), Some(Gid::from_raw(ids))).step("give root to container")?;
    if let Some(ahead) = ahead {
        // Empty now.
        let _ = fs::remove_dir(ahead.path());
    }
    let layers: Result<Vec<_>, _> = plan.layers.iter().map(|layer| mapped(path_of(layer), userns)).collect();
    let layers = layers?;
    let has_network_files = match ahead {
        Some(_) => fit_etc(&upper, &layers, ids).step("fit /etc to the image")?,
        None => false,
    };
    let whole = |overlay, layers| Root { overlay, layers, has_network_files };
    if *passing == LayerPassing::Descriptors {
        match overlay_from_descriptors(&layers, &upper, &work) {
            // Kernels that do not know the parameter, or not in this form, answer EINVAL; those before 6.5, where
            // overlay takes text alone, EOPNOTSUPP.
            Err(Failure::System { errno: libc::EINVAL | libc::EOPNOTSUPP, .. }) => {
                *passing = LayerPassing::Paths;
            }
            other => return other.map(|overlay| whole(overlay, layers)),
        }
    }
    // One mount for upper and work: overlay wants both on the same one.
    let writable = clone_tree(scratch.as_fd(), OpenTreeFlags::empty()).step("open scratch directory")?;
    let names = [upper_name.as_str(), work_name.as_str()];
    let overlay = launchpad.in_launch(|| overlay_from_paths(&layers, &writable, names))?;
    Ok(whole(overlay, Vec::new()))
}

/// Gives the `/etc` that was made ahead the owner and the mode of the image's, with which it is merged. It is taken away
/// and the answer false where the image has something else there, a link for example, which it would hide.
fn fit_etc(upper: &OwnedFd, layers: &[OwnedFd], ids: u32) -> rustix::io::Result<bool> {
    const ETC: &str = "etc";
    let look = |layer: &OwnedFd| statat(layer, ETC, AtFlags::SYMLINK_NOFOLLOW).ok();
    let Some(lower) = layers.iter().rev().find_map(look) else { return Ok(true) };
    match FileType::from_raw_mode(lower.st_mode) {
        FileType::Directory => {
            if (lower.st_uid, lower.st_gid) != (ids, ids) {
                let (owner, group) = (Uid::from_raw(lower.st_uid), Gid::from_raw(lower.st_gid));
                chownat(upper, ETC, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            if lower.st_mode & 0o7777 != 0o755 {
                chmodat(upper, ETC, Mode::from_raw_mode(lower.st_mode & 0o7777), AtFlags::empty())?;
            }
            Ok(true)
        }
        // A whiteout: the image has taken it away.
        FileType::CharacterDevice if lower.st_rdev == 0 => Ok(true),
        _ => {
            for name in NETWORK_FILES {
                unlinkat(upper, format!("{ETC}/{name}"), AtFlags::empty())?;
            }
            unlinkat(upper, ETC, AtFlags::REMOVEDIR)?;
            Ok(false)
        }
    }
}

/// A directory that nobody has used, and its name. What a start has left that was cut off in the middle cannot be used
/// again: overlay marks the directories of a volatile mount, and refuses them with EINVAL from then on.
fn new_directory(
    scratch: &OwnedFd,
    base: &str,
    ahead: Option<&Scratch>,
) -> rustix::io::Result<(String, OwnedFd)> {
    const CUT_OFF_MAX: u32 = 100;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut name = base.to_owned();
    for number in 1..=CUT_OFF_MAX {
        let made = match ahead {
            Some(ahead) => ahead.give(scratch, base, &name),
            // Everybody in the container may enter its root directory.
            None => mkdirat(scratch, &name, Mode::from_raw_mode(0o755)),
        };
        match made {
            Err(Errno::EXIST) => name = format!("{base}-{number}"),
            Err(error) => return Err(error),
            Ok(()) => return openat(scratch, &name, flags, Mode::empty()).map(|directory| (name, directory)),
        }
    }
    Err(Errno::EXIST)
}

fn mapped(dir: &Path, userns: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let tree = open_real(dir).and_then(|real| clone_tree(real.as_fd(), OpenTreeFlags::empty()));
    let tree = tree.step(&format!("open layer {}", dir.display()))?;
    if !Standing::own().is_host() {
        return Ok(tree);
    }
    sys::mount_setattr(tree.as_fd(), 0, Some(userns)).map_err(|error| map_refused(dir, &error))?;
    Ok(tree)
}

fn map_refused(dir: &Path, error: &io::Error) -> Failure {
    if error.raw_os_error() == Some(libc::EINVAL) {
        return Failure::Unsupported {
            what: format!("the file system of {}", dir.display()),
            why: "it has no id-mapped mounts; use ext4, xfs, btrfs, or tmpfs on Linux 6.3 or newer"
                .to_owned(),
        };
    }
    Failure::System { step: format!("map ids of {}", dir.display()), errno: errno(error) }
}

fn overlay_from_descriptors(lower: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd) -> Result<OwnedFd, Failure> {
    const STEP: &str = "mount overlay";
    let overlay = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC).step("open overlay")?;
    // Appended from the top down, each below the one before.
    for layer in lower.iter().rev() {
        fsconfig_set_fd(overlay.as_fd(), c"lowerdir+", layer).step(STEP)?;
    }
    for (key, dir) in [(c"upperdir", upper), (c"workdir", work)] {
        fsconfig_set_fd(overlay.as_fd(), key, dir).step(STEP)?;
    }
    // No fsync for the sake of files that are thrown away with the container (Linux 5.10).
    fsconfig_set_flag(overlay.as_fd(), c"volatile").step(STEP)?;
    if !Standing::own().is_host() {
        fsconfig_set_flag(overlay.as_fd(), USER_ATTRIBUTES).step(STEP)?;
    }
    fsconfig_create(overlay.as_fd()).step(STEP)?;
    fsmount(overlay.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV).step(STEP)
}

/// Mounts an overlay as a container's root is mounted, of nothing.
pub(crate) fn try_overlay() -> io::Result<()> {
    let tmpfs = new_tmpfs(c"1m", c"0755", MountAttrFlags::empty())?;
    let place = Path::new("/proc");
    move_mount(&tmpfs, c"", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    for dir in ["lower", "upper", "work"] {
        fs::create_dir(place.join(dir))?;
    }
    let overlay = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, dir) in [(c"lowerdir", "lower"), (c"upperdir", "upper"), (c"workdir", "work")] {
        fsconfig_set_string(overlay.as_fd(), key, place.join(dir))?;
    }
    fsconfig_set_flag(overlay.as_fd(), USER_ATTRIBUTES)?;
    Ok(fsconfig_create(overlay.as_fd())?)
}

/// `mount(2)` with one page of options, as all kernels take it: layers are attached one after the other
/// under short names of the launch namespace, and everything is detached again before this returns.
fn overlay_from_paths(lower: &[OwnedFd], writable: &OwnedFd, names: [&str; 2]) -> Result<OwnedFd, Failure> {
    let mut attached = Vec::with_capacity(lower.len() + 2);
    let result = attach_and_mount(lower, writable, names, &mut attached);
    for dir in attached.iter().rev() {
        // The overlay holds its own references; what stays attached would only be seen by us.
        let _ = unmount(dir, UnmountFlags::DETACH);
    }
    result
}

fn attach_and_mount(
    lower: &[OwnedFd],
    writable: &OwnedFd,
    [upper, work]: [&str; 2],
    attached: &mut Vec<String>,
) -> Result<OwnedFd, Failure> {
    const STEP: &str = "mount overlay";
    let mut lower_dirs = Vec::with_capacity(lower.len());
    for (index, layer) in lower.iter().enumerate().rev() {
        lower_dirs.push(attach_new(layer, &format!("{LAYERS_DIR}/{index}"), attached).step(STEP)?);
    }
    let write = attach_new(writable, &format!("{LAYERS_DIR}/w"), attached).step(STEP)?;
    let lower_dirs = lower_dirs.join(":");
    let attributes = if Standing::own().is_host() { "" } else { "userxattr," };
    let options =
        format!("{attributes}volatile,lowerdir={lower_dirs},upperdir={write}/{upper},workdir={write}/{work}");
    let options = CString::new(options).map_err(io::Error::from).step(STEP)?;
    let merged = format!("{LAYERS_DIR}/merged");
    make_dir(Path::new(&merged)).step(STEP)?;
    let flags = rustix::mount::MountFlags::NODEV;
    rustix::mount::mount(c"overlay", &merged, c"overlay", flags, Some(options.as_c_str())).step(STEP)?;
    attached.push(merged.clone());
    open_tree_clone(Path::new(&merged)).step(STEP)
}

fn attach_new(mount: &OwnedFd, dir: &str, attached: &mut Vec<String>) -> io::Result<String> {
    make_dir(Path::new(dir))?;
    move_mount(mount, c"", CWD, dir, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    attached.push(dir.to_owned());
    Ok(dir.to_owned())
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// A detached tmpfs.
pub(crate) fn new_tmpfs(size: &CStr, mode: &CStr, attributes: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), c"size", size)?;
    fsconfig_set_string(context.as_fd(), c"mode", mode)?;
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A detached, read-only sysfs of the current network namespace.
///
/// The kernel lets only the owner of a network namespace mount its sysfs, and that is the host.
pub(crate) fn new_sysfs() -> rustix::io::Result<OwnedFd> {
    let context = fsopen(c"sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Opens the sources of a plan's volumes. `ids` is the first id of the task's range, `stored` that of the
/// range in which volumes are kept on disk.
///
/// A volume outlives the task, whose range does not, so it is id-mapped: what the container's user n
/// writes is owned by `stored + n` on the host, and never by host root. The owner of the source directory
/// itself, unless it is root, is shown as the container's root, so that a directory of an ordinary user
/// can be written to. A directory of host root is foreign to the container: it can read what everyone can
/// read. Submounts of the source are not carried along.
pub(crate) fn open_volumes(plan: &StartPlan, ids: u32, stored: u32) -> Result<Vec<Volume>, Failure> {
    plan.mounts.iter().map(|mount| open_volume(mount, ids, stored)).collect()
}

/// Opens a path of the host no part of which is a link; others answer ELOOP.
///
/// Paths were checked without links. Whoever may write to a directory on the way, a task with a volume for example,
/// could put a link there at any time after that, also between a check and a mount (CVE-2021-30465 was of this kind).
pub(crate) fn open_real(path: &Path) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// A detached copy of the mount of which a descriptor is a part, from there on.
pub(crate) fn clone_tree(from: BorrowedFd<'_>, flags: OpenTreeFlags) -> rustix::io::Result<OwnedFd> {
    let clone =
        OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(from, c"", clone | flags)
}

/// Tells owner and kind as the kernel knows them. A file system in user space, or of another machine, is not asked
/// (AT_STATX_DONT_SYNC, statx(2)): one that does not answer would hold up all containers.
fn look_at(file: BorrowedFd<'_>) -> rustix::io::Result<Statx> {
    let wanted = StatxFlags::TYPE | StatxFlags::UID | StatxFlags::GID;
    statx(file, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, wanted)
}

fn open_volume(plan: &MountPlan, ids: u32, stored: u32) -> Result<Volume, Failure> {
    let SourcePlan::Host { path: source } = &plan.source else {
        return Ok(Volume { mount: None, is_dir: true, plan: plan.clone() });
    };
    let fail = |error: io::Error| Failure::Mount {
        source_path: source.clone(),
        target: plan.target.clone(),
        errno: errno(&error),
    };
    let tree = open_real(path_of(source)).and_then(|real| clone_tree(real.as_fd(), OpenTreeFlags::empty()));
    let tree = tree.map_err(|e| fail(e.into()))?;
    let seen = look_at(tree.as_fd()).map_err(|e| fail(e.into()))?;
    let mut attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    if plan.read_only {
        attributes |= libc::MOUNT_ATTR_RDONLY;
    }
    let map = |owner| volume_map(owner, ids, stored);
    let userns = match Standing::own() {
        Standing::Host => Some(make_userns(&map(seen.stx_uid), &map(seen.stx_gid))?),
        // The user's own files are the container's root's as they are.
        Standing::Realm => None,
    };
    sys::mount_setattr(tree.as_fd(), attributes, userns.as_ref().map(OwnedFd::as_fd)).map_err(fail)?;
    let is_dir = FileType::from_raw_mode(seen.stx_mode.into()) == FileType::Directory;
    Ok(Volume { mount: Some(tree), is_dir, plan: plan.clone() })
}

/// The id map of a volume whose directory belongs to `owner`: lines of id on disk, host id, count.
fn volume_map(owner: u32, ids: u32, stored: u32) -> String {
    if owner == 0 || (stored..stored + ID_RANGE).contains(&owner) {
        return format!("{stored} {ids} {ID_RANGE}");
    }
    format!("{owner} {ids} 1\n{} {} {}", stored + 1, ids + 1, ID_RANGE - 1)
}

/// A user namespace with the given maps, which lives as long as the descriptor.
pub(crate) fn make_userns(uid_map: &str, gid_map: &str) -> Result<OwnedFd, Failure> {
    const STEP: &str = "make user namespace";
    let (wait, hold) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step(STEP)?;
    match sys::clone3(libc::CLONE_NEWUSER as u64, None).step(STEP)? {
        sys::Clone::Child => {
            drop(hold);
            // Returns when the supervisor has closed its end, or has died.
            let _ = rustix::io::read(&wait, &mut [0u8; 1]);
            sys::exit_now(0)
        }
        sys::Clone::Parent { pid, pidfd } => {
            let made = write_maps(pid, uid_map, gid_map)
                .and_then(|()| fs::File::open(format!("/proc/{pid}/ns/user")))
                .step(STEP);
            drop(hold);
            sys::wait_child(Some(pidfd.as_fd()), true).step(STEP)?;
            made.map(OwnedFd::from)
        }
    }
}

/// Writes the id maps of a process in a new user namespace (user_namespaces(7)).
pub(crate) fn write_maps(pid: i32, uid_map: &str, gid_map: &str) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/uid_map"), uid_map)?;
    fs::write(format!("/proc/{pid}/gid_map"), gid_map)
}

pub(crate) fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(owner: u32, expect: &str) {
        assert_eq!(volume_map(owner, 2_000_000_000, 1_000_000_000), expect, "owner {owner}");
    }

    #[test]
    fn host_root_is_in_no_volume_map() {
        check(0, "1000000000 2000000000 65536");
        check(1000, "1000 2000000000 1\n1000000001 2000000001 65535");
        check(1_000_000_000, "1000000000 2000000000 65536");
        check(1_000_000_033, "1000000000 2000000000 65536");
    }
}
