//! Control groups: one directory per server, per task and per container.
//!
//! Three layouts are first class. On a pure v2 host one directory does all. On a hybrid host a v2
//! directory without controllers gives atomic placement (`CLONE_INTO_CGROUP`), `cgroup.kill` and
//! `cpu.stat`, and the v1 directories of cpu, memory and pids give limits. On a v1 host there are only
//! the latter. Existing mounts are used as they are; only directories below `neargate/` are made and
//! removed.
//!
//! cgroups-rs sets the limits and cannot do the rest (no directory descriptors, no `cgroup.kill`, no OOM
//! counters). Traps of it that this module avoids:
//! * `Cgroup::apply` throws away the errors of writing memory limits, so a container could run without
//!   one; the setters of each controller are called instead.
//! * `V1::new` parses the whole mountinfo; it is done once.
//! * `add_task` writes a pid, which on v1 takes a global lock and can wait for an RCU grace period; a child
//!   writes "0", itself, to a `tasks` file that was opened for it.
//! * `FsManager::destroy` moves living processes out of all limits; only `rmdir(2)` is used here.

mod bpf;
mod detect;
mod devices;
mod limits;
mod process;
mod reserve;
mod usage;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use neargate_driver::{Limits, Stats};

use crate::failure::{Failure, Step};
pub(crate) use detect::{Controller, Layout};
use devices::Fence;
pub(crate) use devices::{DeviceRule, Fencing, READ, WRITE};
pub(crate) use process::{container_of, nominal_name};

/// The directory that holds all servers' groups, in every hierarchy.
const TOP: &str = "neargate";

/// Names an instance's journal, on its directory in the primary hierarchy; kernfs keeps such attributes as long as the
/// directory.
const JOURNAL_ATTRIBUTE: &str = "trusted.neargate.journal";

/// Names the task whose group a directory is: groups are made before their tasks are known, and v2 has no new names
/// for directories.
const TASK_ATTRIBUTE: &str = "trusted.neargate.task";

/// The name of the group of the container for which a process was made ahead in a cell. Others have the container's id
/// and a number.
fn first_of(cell: &str) -> String {
    format!("{cell}.0")
}

/// This server's part of all hierarchies, held by a lock.
#[derive(Debug)]
pub(crate) struct Groups {
    layout: Layout,
    fence: Fence,
    /// `neargate/<instance>`.
    path: String,
    /// `flock(2)` on the primary hierarchy's directory: whoever can take it knows that the server is gone. None where
    /// there are no hierarchies.
    _lock: Option<fs::File>,
    /// Whether a limit that nothing enforces is refused.
    is_strict: bool,
}

/// A task's or container's group.
#[derive(Debug)]
pub(crate) struct Group {
    /// Path below each hierarchy's root.
    path: String,
    /// The v2 directory, where there is one.
    unified: Option<(PathBuf, OwnedFd)>,
    /// v1 directories that were made for it.
    v1: Vec<(Controller, PathBuf)>,
    /// v1 directories that its processes belong to: its own or, where it has none, its parent's.
    member_of: Vec<(Controller, PathBuf)>,
}

impl Groups {
    /// Takes the instance's directory, after removing what dead servers have left.
    ///
    /// What runs in an instance with a `journal` is not given up with its server: only who has that file, or
    /// finds it gone, removes its groups. Such an instance is not emptied here; see [`Groups::sweep`].
    ///
    /// A server that ends meanwhile may remove `neargate` while it is empty; then all is tried again.
    ///
    /// `fencing` tells how the devices of what runs in it are fenced.
    pub(crate) fn open(instance: &str, journal: Option<&Path>, fencing: Fencing) -> Result<Self, Failure> {
        const ATTEMPTS: usize = 20;
        let layout = Layout::detect().step("read mountinfo")?;
        remove_leftovers(&layout);
        let mut opened = Self::take(&layout, instance);
        for _ in 1..ATTEMPTS {
            match &opened {
                Err(Failure::System { errno: libc::ENOENT, .. }) => opened = Self::take(&layout, instance),
                Ok(_) | Err(_) => break,
            }
        }
        let lock = opened?;
        if let Some(journal) = journal {
            let value = journal.as_os_str().as_encoded_bytes();
            rustix::fs::fsetxattr(&lock, JOURNAL_ATTRIBUTE, value, rustix::fs::XattrFlags::empty())
                .step("mark the server's cgroup")?;
        }
        let path = format!("{TOP}/{instance}");
        let fence = fence(&layout, &path, fencing);
        Ok(Self { layout, fence, path, _lock: Some(lock), is_strict: true })
    }

    /// Groups in name only, for a supervisor that may make none: an ordinary user's, unless somebody has given it a part
    /// of a hierarchy.
    ///
    /// They have no directories. A container's is named after its first process ([`Group::name_after`]), by which it is
    /// found again; what would be a group's to end is ended with the PID namespace. Limits that take a group are refused,
    /// or, if `is_strict` is false, not enforced.
    pub(crate) fn nominal(instance: &str, is_strict: bool) -> Self {
        let (layout, path) = (Layout::none(), format!("{TOP}/{instance}"));
        Self { layout, fence: Fence::None, path, _lock: None, is_strict }
    }

    /// Sets whether limits that nothing enforces are refused from now on.
    pub(crate) fn be_strict(&mut self, is_strict: bool) {
        self.is_strict = is_strict;
    }

    /// Whether its groups are cgroups.
    pub(crate) fn are_real(&self) -> bool {
        self.layout.is_any()
    }

    /// Sets limits, as far as there is anything that enforces them.
    fn apply(&self, group: &Group, is_container: bool, limits: &Limits) -> Result<(), Failure> {
        match self.are_real() {
            true => limits::apply(&self.layout, group, is_container, limits),
            false if self.is_strict => limits::refuse(limits),
            false => Ok(()),
        }
    }

    /// Kills and removes what is in the instance's directories but the groups of `kept` with those in them, by name,
    /// and groups whose names begin with `spared`.
    pub(crate) fn sweep(&self, kept: &HashMap<&str, HashSet<String>>, spared: Option<&str>) {
        for root in primary_last(&self.layout) {
            let is_spared = |name: &str| spared.is_some_and(|spared| name.starts_with(spared));
            let all = directories(&root.join(&self.path)).into_iter();
            for (dir, name) in all.filter(|(_, name)| name != devices::CONFINED && !is_spared(name)) {
                let Some(containers) = kept.get(name.as_str()) else {
                    reserve::take_back(&dir, 2);
                    remove_tree(&dir);
                    continue;
                };
                for (dir, _) in directories(&dir).iter().filter(|(_, name)| !containers.contains(name)) {
                    reserve::take_back(dir, 3);
                    remove_tree(dir);
                }
            }
        }
    }

    /// A task's group that an earlier supervisor has made; `None` when a part of it is gone.
    pub(crate) fn find_task(&self, name: &str, limits: &Limits) -> Option<Group> {
        self.find(format!("{}/{name}", self.path), None, limits, false)
    }

    /// A container's group below its task's that an earlier supervisor has made.
    pub(crate) fn find_container(
        &self,
        task: &Group,
        name: &str,
        limits: &Limits,
        has_devices: bool,
    ) -> Option<Group> {
        self.find(format!("{}/{name}", task.path), Some(task), limits, has_devices)
    }

    fn find(
        &self,
        path: String,
        parent: Option<&Group>,
        limits: &Limits,
        has_devices: bool,
    ) -> Option<Group> {
        let mut group = Group::at(path);
        let exists = |dir: &Path| fs::metadata(dir).map(drop);
        self.gather_dirs(&mut group, parent, limits, has_devices, exists).ok()?;
        Some(group)
    }

    /// Makes the instance's directories; the lock comes first, so that no cleaner takes them for leftovers.
    fn take(layout: &Layout, instance: &str) -> Result<fs::File, Failure> {
        let path = format!("{TOP}/{instance}");
        for root in layout.roots() {
            make_dir(&root.join(TOP)).step("make cgroup directory")?;
        }
        layout.enable_controllers("")?;
        layout.enable_controllers(TOP)?;
        let lock = lock_instance(&layout.primary().join(&path)).step("lock the server's cgroup")?;
        for root in layout.roots() {
            make_dir(&root.join(&path)).step("make cgroup directory")?;
        }
        layout.enable_controllers(&path)?;
        // The kernel changes its own code when the first group counts sockets and when the last one ends; as long as this
        // one is there no task has to wait for that.
        if let Some((_, root)) = layout.v1.iter().find(|(controller, _)| *controller == Controller::Memory) {
            limits::count_connections(&root.join(&path)).step("count connections")?;
        }
        Ok(lock)
    }

    /// Makes a group for a task that is not known yet, with a directory in every hierarchy.
    pub(crate) fn make_cell(&self, name: &str) -> Result<Group, Failure> {
        let cell = self.make(format!("{}/{name}", self.path), None, &Limits::default(), &[])?;
        self.layout.enable_controllers(&cell.path).inspect_err(|_| {
            cell.remove();
        })?;
        Ok(cell)
    }

    /// Makes the group of its first container, which is not known either.
    pub(crate) fn make_first(&self, cell: &Group) -> Result<Group, Failure> {
        self.make_container(cell, &first_of(cell.name()), &Limits::default(), &[])
    }

    /// Both, which another process has made.
    pub(crate) fn open_cell(&self, name: &str) -> Result<(Group, Group), Failure> {
        let (limits, is_made) = (Limits::default(), |_: &Path| Ok(()));
        let mut cell = Group::at(format!("{}/{name}", self.path));
        self.gather_dirs(&mut cell, None, &limits, false, is_made)?;
        let mut first = Group::at(format!("{}/{}", cell.path, first_of(name)));
        self.gather_dirs(&mut first, Some(&cell), &limits, false, is_made)?;
        Ok((cell, first))
    }

    /// Gives a group to a task, with these limits.
    pub(crate) fn give_to_task(&self, cell: &Group, task: &str, limits: &Limits) -> Result<(), Failure> {
        cell.mark(TASK_ATTRIBUTE, task);
        self.apply(cell, false, limits)
    }

    /// Sets the limits of a container whose group was made without.
    pub(crate) fn limit_container(&self, group: &Group, limits: &Limits) -> Result<(), Failure> {
        self.apply(group, true, limits)
    }

    /// Makes a container's group below its task's, for devices beyond those that all may open.
    pub(crate) fn make_container(
        &self,
        task: &Group,
        name: &str,
        limits: &Limits,
        devices: &[DeviceRule],
    ) -> Result<Group, Failure> {
        self.make(format!("{}/{name}", task.path), Some(task), limits, devices)
    }

    /// Makes the group of a process that belongs to no task.
    ///
    /// Where CPU time is v1's it has none of its own but competes as the server does: one group of all workers beside
    /// the rest of the machine would be starved by the kernel for hundreds of milliseconds when it is busy (seen with
    /// Linux 6.18 and pinned threads).
    pub(crate) fn make_process(&self, name: &str, limits: &Limits) -> Result<Group, Failure> {
        let in_instance = |(controller, root): &(Controller, PathBuf)| (*controller, root.join(&self.path));
        let counted = |(controller, _): &&(Controller, PathBuf)| controller.is_needed(&Limits::default());
        let member_of = self.layout.v1.iter().filter(counted).map(in_instance).collect();
        let home = Group { path: self.path.clone(), unified: None, v1: Vec::new(), member_of };
        self.make_container(&home, name, limits, &[])
    }

    fn make(
        &self,
        path: String,
        parent: Option<&Group>,
        limits: &Limits,
        devices: &[DeviceRule],
    ) -> Result<Group, Failure> {
        let mut group = Group::at(path);
        let made = self
            .gather_dirs(&mut group, parent, limits, !devices.is_empty(), |dir| fs::create_dir(dir))
            .and_then(|()| self.apply(&group, parent.is_some(), limits))
            .and_then(|()| self.fence(&group, devices).step("set device rules"));
        match made {
            Ok(()) => Ok(group),
            Err(failure) => {
                group.remove();
                Err(failure)
            }
        }
    }

    /// Enters the group's directories, each of which `ensure` makes, or finds.
    fn gather_dirs(
        &self,
        group: &mut Group,
        parent: Option<&Group>,
        limits: &Limits,
        has_devices: bool,
        ensure: impl Fn(&Path) -> io::Result<()>,
    ) -> Result<(), Failure> {
        if let Some(root) = &self.layout.unified {
            let dir = root.join(&group.path);
            ensure(&dir).step("make cgroup directory")?;
            let fd = fs::File::open(&dir).step("open cgroup directory")?;
            group.unified = Some((dir, fd.into()));
        }
        for (controller, root) in &self.layout.v1 {
            if *controller == Controller::Devices {
                self.gather_device_dir(group, parent, root, has_devices, &ensure)?;
                continue;
            }
            // The first container's is made before its limits are known.
            let needed = controller.is_needed(limits)
                || parent.is_some_and(|parent| group.name() == first_of(parent.name()));
            let inherited = parent.filter(|_| !needed).and_then(|parent| parent.dir(*controller));
            if let Some(dir) = inherited {
                group.member_of.push((*controller, dir.to_owned()));
                continue;
            }
            if !needed && parent.is_some() {
                continue;
            }
            let dir = root.join(&group.path);
            match ensure(&dir) {
                // It only counts, and an earlier version has made none.
                Err(error) if *controller == Controller::Blkio && error.kind() == io::ErrorKind::NotFound => {
                    continue;
                }
                ensured => ensured.step("make cgroup directory")?,
            }
            group.v1.push((*controller, dir.clone()));
            group.member_of.push((*controller, dir));
        }
        Ok(())
    }

    /// Enters the group that fences a container's devices: the one of all, or its own.
    fn gather_device_dir(
        &self,
        group: &mut Group,
        parent: Option<&Group>,
        root: &Path,
        has_devices: bool,
        ensure: &impl Fn(&Path) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let (Some(parent), Fence::Group(confined)) = (parent, &self.fence) else { return Ok(()) };
        if !has_devices {
            group.member_of.push((Controller::Devices, confined.clone()));
            return Ok(());
        }
        // Its task has a directory only for containers like this one.
        make_dir(&root.join(&parent.path)).step("make cgroup directory")?;
        let dir = root.join(&group.path);
        ensure(&dir).step("make cgroup directory")?;
        group.v1.push((Controller::Devices, dir.clone()));
        group.member_of.push((Controller::Devices, dir));
        Ok(())
    }

    fn fence(&self, group: &Group, devices: &[DeviceRule]) -> io::Result<()> {
        if let Some((_, dir)) = group.v1.iter().find(|(controller, _)| *controller == Controller::Devices) {
            return devices::write_rules(dir, devices);
        }
        match group.unified_fd() {
            Some(unified) => self.fence.fence_unified(unified, devices),
            None => Ok(()),
        }
    }

    /// Whether threads of one process can be in different groups of CPU time, which only v1 allows.
    pub(crate) fn divides_processes(&self) -> bool {
        self.layout.v1.iter().any(|(controller, _)| *controller == Controller::Cpu)
    }

    /// Whether containers see a cgroup2 file system; a hybrid host's has nothing of use to them.
    pub(crate) fn mounts_cgroup2(&self) -> bool {
        self.layout.unified_controls && self.layout.unified.is_some()
    }

    /// Removes the instance's directories. Best effort: what is left is found by the next server.
    pub(crate) fn close(&self) {
        for root in primary_last(&self.layout) {
            // Fails with EBUSY while a group lives, and for `neargate` while another server does.
            let _ = fs::remove_dir(root.join(&self.path).join(devices::CONFINED));
            let _ = fs::remove_dir(root.join(&self.path));
            let _ = fs::remove_dir(root.join(TOP));
        }
    }
}

impl Group {
    /// A group at a path below each hierarchy's root, without directories.
    fn at(path: String) -> Self {
        Self { path, unified: None, v1: Vec::new(), member_of: Vec::new() }
    }

    /// Writes an attribute on its directories, for who looks at the hierarchies; where there is none, nothing else
    /// depends on it.
    fn mark(&self, attribute: &str, value: &str) {
        for dir in self.dirs() {
            let _ = rustix::fs::setxattr(dir, attribute, value.as_bytes(), rustix::fs::XattrFlags::empty());
        }
    }

    /// The v2 directory for `CLONE_INTO_CGROUP`.
    pub(crate) fn unified_fd(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(|(_, fd)| fd.as_fd())
    }

    /// Opened v1 `tasks` files; writing "0" to each moves the writing thread in.
    ///
    /// The kernel checks the rights of the opener, so a child in a user namespace may write to them.
    pub(crate) fn open_tasks(&self) -> io::Result<Vec<fs::File>> {
        let open =
            |(_, dir): &(Controller, PathBuf)| fs::OpenOptions::new().write(true).open(dir.join("tasks"));
        self.member_of.iter().map(open).collect()
    }

    /// The v1 `tasks` files of CPU time alone, which threads may join by themselves.
    pub(crate) fn open_thread_tasks(&self) -> io::Result<Vec<fs::File>> {
        let is_cpu = |controller: &Controller| matches!(controller, Controller::Cpu | Controller::Cpuacct);
        let open =
            |(_, dir): &(Controller, PathBuf)| fs::OpenOptions::new().write(true).open(dir.join("tasks"));
        self.member_of.iter().filter(|(controller, _)| is_cpu(controller)).map(open).collect()
    }

    /// The last part of its path.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The processes in the group, by their ids in the reader's namespace. Of a group in name only all that there are:
    /// whoever asks for them knows them by something else as well.
    pub(crate) fn members(&self) -> Vec<i32> {
        if self.is_nominal() {
            let names = directories(Path::new("/proc")).into_iter().map(|(_, name)| name);
            return names.filter_map(|name| name.parse().ok()).collect();
        }
        let listed = |dir: &PathBuf| fs::read_to_string(dir.join("cgroup.procs")).ok();
        let text = self.dirs().find_map(listed).unwrap_or_default();
        text.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Names a container's group that is none after its first process: after the moment at which that was started, which
    /// together with its id no other process of this boot has.
    pub(crate) fn name_after(&mut self, pid: i32) -> Result<(), Failure> {
        if self.is_nominal() {
            let parent = self.path.rsplit_once('/').map_or("", |(parent, _)| parent);
            self.path = format!("{parent}/{}", nominal_name(pid).step("look at new process")?);
        }
        Ok(())
    }

    fn is_nominal(&self) -> bool {
        self.unified.is_none() && self.member_of.is_empty()
    }

    /// Whether a process is in the group, also one that has ended and was not reaped, as far as v2 tells that.
    pub(crate) fn holds(&self, pid: i32) -> bool {
        if self.is_nominal() {
            return nominal_name(pid).is_ok_and(|name| name == self.name());
        }
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        text.lines().any(|line| line.strip_suffix(&self.path).is_some_and(|rest| rest.ends_with('/')))
    }

    /// Its directories. Of v1 ones, each lists all processes.
    fn dirs(&self) -> impl Iterator<Item = &PathBuf> {
        self.v1.iter().map(|(_, dir)| dir).chain(self.unified.iter().map(|(dir, _)| dir))
    }

    /// Kills every process in the group, found by its own list where the kernel does not do it.
    pub(crate) fn kill_listed(&self) {
        self.kill();
        let v1 = self.v1.iter().find(|(controller, _)| *controller == Controller::Pids);
        let Some((_, dir)) = v1 else { return };
        kill_listed(dir);
    }

    /// Kills the processes of the group that belong to a session, which its leader's id names.
    ///
    /// The leader must not have been reaped, so that no other session can have its id.
    pub(crate) fn kill_session(&self, leader: i32) {
        // What was forked meanwhile is in the next list; a group that forks faster than this is its limit's to stop.
        const ROUNDS: usize = 8;
        for _ in 0..ROUNDS {
            if self.members().into_iter().filter(|pid| kill_member(*pid, leader)).count() == 0 {
                break;
            }
        }
    }

    /// How many groups there are above it that are ours.
    fn depth(&self) -> usize {
        Path::new(&self.path).components().count().saturating_sub(1)
    }

    fn dir(&self, controller: Controller) -> Option<&Path> {
        self.member_of.iter().find(|(own, _)| *own == controller).map(|(_, dir)| dir.as_path())
    }

    /// The directory that holds a controller's files: its v1 one or the v2 one.
    fn files_of(&self, controller: Controller) -> Option<&Path> {
        self.dir(controller).or(self.unified.as_ref().map(|(dir, _)| dir.as_path()))
    }

    fn is_v1(&self, controller: Controller) -> bool {
        self.dir(controller).is_some()
    }

    /// Kills every process in the group, where the kernel can do that by itself (v2, Linux 5.14).
    ///
    /// Elsewhere killing the container's first process is enough: it is PID 1 of a namespace that holds
    /// all the others.
    pub(crate) fn kill(&self) {
        if let Some((dir, _)) = &self.unified {
            // A group whose directory is gone has no process.
            let _ = fs::write(dir.join("cgroup.kill"), "1");
        }
    }

    /// Whether no process is in the group. Those that have ended and were not reaped do not count
    /// (`css_task_iter_advance()`).
    pub(crate) fn is_empty(&self) -> bool {
        // v2's has them from the clone on.
        let dir = self.unified.iter().map(|(dir, _)| dir).chain(self.v1.iter().map(|(_, dir)| dir)).next();
        let listed = dir.map(|dir| fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default());
        listed.is_none_or(|text| text.is_empty())
    }

    /// Kills every process in the group, however fast they fork, where no other namespace than the group holds them. To
    /// be called again until it is empty; no process can be started in it any more.
    pub(crate) fn end_all(&self) {
        self.kill();
        if self.unified.is_none()
            && let Some((_, dir)) = self.v1.iter().find(|(controller, _)| *controller == Controller::Pids)
        {
            // A group that is over its limit already can have no more either.
            let _ = fs::write(dir.join("pids.max"), "0");
            kill_listed(dir);
        }
    }

    /// How many processes of the group the OOM killer has killed.
    pub(crate) fn oom_kills(&self) -> u64 {
        let file = if self.is_v1(Controller::Memory) { "memory.oom_control" } else { "memory.events" };
        let Some(dir) = self.files_of(Controller::Memory) else { return 0 };
        keyed(&dir.join(file), "oom_kill").unwrap_or(0)
    }

    /// Registers `eventfd` for OOM events (v1 only: v2 kills the whole group itself).
    ///
    /// The kernel also tells the groups below the one that is out of memory, so a container's
    /// registration covers its task's limit.
    pub(crate) fn watch_oom(&self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let Some(dir) = self.dir(Controller::Memory) else { return Ok(()) };
        let control = fs::File::open(dir.join("memory.oom_control"))?;
        let line = format!("{} {}", eventfd.as_raw_fd(), control.as_raw_fd());
        fs::write(dir.join("cgroup.event_control"), line)
    }

    /// Whether the group is watched for OOM events by an eventfd.
    pub(crate) fn needs_oom_watch(&self) -> bool {
        self.is_v1(Controller::Memory)
    }

    /// What the group has used; zero where the kernel does not tell.
    pub(crate) fn stats(&self) -> Stats {
        let number = |controller, v1: &str, v2: &str| {
            let file = if self.is_v1(controller) { v1 } else { v2 };
            self.files_of(controller).and_then(|dir| read_number(&dir.join(file))).unwrap_or(0)
        };
        let cpu_ns = match &self.unified {
            // cpu.stat is in every v2 group, with or without the cpu controller (Linux 4.15).
            Some((dir, _)) => keyed(&dir.join("cpu.stat"), "usage_usec").unwrap_or(0).saturating_mul(1000),
            None => number(Controller::Cpuacct, "cpuacct.usage", "cpuacct.usage"),
        };
        let pids = number(Controller::Pids, "pids.current", "pids.current");
        Stats {
            cpu_ns,
            memory_bytes: number(Controller::Memory, "memory.usage_in_bytes", "memory.current"),
            memory_peak_bytes: number(Controller::Memory, "memory.max_usage_in_bytes", "memory.peak"),
            pids: u32::try_from(pids).unwrap_or(u32::MAX),
            wasm: None,
        }
    }

    /// Removes the directories; `false` when one is still busy, so that it must be tried again. The kernel
    /// lets go of a dead process's group a moment after the process was reaped.
    pub(crate) fn remove(&self) -> bool {
        if let Some((dir, _)) = &self.unified {
            reserve::take_back(dir, self.depth());
        }
        let unified = self.unified.iter().map(|(dir, _)| dir);
        let all = unified.chain(self.v1.iter().map(|(_, dir)| dir));
        // Tries each, whatever became of the others.
        let is_gone = all.filter(|dir| !is_removed(dir)).count() == 0;
        if let Some((_, dir)) = self.v1.iter().find(|(controller, _)| *controller == Controller::Devices) {
            // Its task's, unless another container of it has one.
            let _ = dir.parent().map(fs::remove_dir);
        }
        is_gone
    }
}

/// Fences the devices of all containers; without a fence they are kept from devices by having no nodes of them.
fn fence(layout: &Layout, path: &str, fencing: Fencing) -> Fence {
    if fencing == Fencing::None {
        return Fence::None;
    }
    let is_device = |controller: &Controller| *controller == Controller::Devices && fencing == Fencing::Any;
    let v1 = layout.v1.iter().find(|(controller, _)| is_device(controller));
    let v1 = v1.map(|(_, root)| root.join(path));
    let unified = layout.unified.as_ref().and_then(|root| fs::File::open(root.join(path)).ok());
    let built = Fence::build(v1.as_deref(), unified.as_ref().map(fs::File::as_fd));
    built.unwrap_or_else(|error| {
        eprintln!("neargate-supervisor: containers are not fenced from devices by cgroup: {error}");
        Fence::None
    })
}

/// How devices are fenced on this machine; an error says why they are not.
pub(crate) fn device_fence() -> io::Result<&'static str> {
    let layout = Layout::detect()?;
    let has_v1 = layout.v1.iter().any(|(controller, _)| *controller == Controller::Devices);
    devices::look(has_v1, layout.unified.is_some())
}

fn is_removed(dir: &Path) -> bool {
    match fs::remove_dir(dir) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn read_number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn keyed(file: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The hierarchies' roots, the one with the lock at the end: as soon as its directory is gone a new server of
/// the same instance may lock another and make its directories, which must not be removed with the old.
fn primary_last(layout: &Layout) -> Vec<&Path> {
    let mut roots = layout.roots();
    // The primary is the first.
    roots.reverse();
    roots
}

/// Makes and locks a directory, so that the locked one is the one that the path names.
fn lock_instance(dir: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::MetadataExt;
    // A cleaner may take the lock of a directory that was just made, and remove it; it does not take long.
    const ATTEMPTS: usize = 100;
    const PAUSE: Duration = Duration::from_millis(20);
    for _ in 0..ATTEMPTS {
        make_dir(dir)?;
        let Ok(file) = fs::File::open(dir) else { continue };
        match try_lock(&file) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(PAUSE);
                continue;
            }
            other => other?,
        }
        let same =
            fs::metadata(dir).is_ok_and(|named| file.metadata().is_ok_and(|own| own.ino() == named.ino()));
        if same {
            return Ok(file);
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

fn try_lock(file: &fs::File) -> io::Result<()> {
    rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from)
}

/// Kills and removes the groups of servers that no longer hold their lock.
fn remove_leftovers(layout: &Layout) {
    for (path, instance) in directories(&layout.primary().join(TOP)) {
        let Ok(dir) = fs::File::open(&path) else { continue };
        if try_lock(&dir).is_ok() && !has_journal(&dir) {
            reserve::take_back(&path, 1);
            for root in primary_last(layout) {
                remove_tree(&root.join(TOP).join(&instance));
            }
        }
    }
}

/// Whether the file exists from which the instance's next server will know what runs in it.
fn has_journal(instance: &fs::File) -> bool {
    let mut path = [0; libc::PATH_MAX as usize];
    match rustix::fs::fgetxattr(instance, JOURNAL_ATTRIBUTE, &mut path[..]) {
        Ok(length) => Path::new(OsStr::from_bytes(&path[..length])).exists(),
        Err(_) => false,
    }
}

/// The directories in a directory, and their names.
fn directories(dir: &Path) -> Vec<(PathBuf, String)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned())).collect()
}

/// Kills all processes of a group and those below, then removes it, leaves first.
fn remove_tree(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let _ = fs::write(dir.join("cgroup.kill"), "1");
    kill_listed(dir);
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_tree(&entry.path());
    }
    remove_patiently(dir);
}

/// Kills a process if it belongs to the session; false if it does not, or is dead already.
fn kill_member(pid: i32, leader: i32) -> bool {
    let Some(process) = rustix::process::Pid::from_raw(pid) else { return false };
    // Opened before the look, so that another process that got the id meanwhile is not hit.
    let flags = rustix::process::PidfdFlags::empty();
    let Ok(pidfd) = rustix::process::pidfd_open(process, flags) else { return false };
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    is_alive_in_session(&stat, leader) && crate::sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL).is_ok()
}

/// Reads state and session of proc_pid_stat(5).
fn is_alive_in_session(stat: &str, leader: i32) -> bool {
    // The name, in parentheses, may hold anything.
    let Some((_, rest)) = stat.rsplit_once(") ") else { return false };
    let mut fields = rest.split(' ');
    let is_alive = fields.next().is_some_and(|state| !matches!(state, "Z" | "X"));
    is_alive && fields.nth(2).and_then(|session| session.parse().ok()) == Some(leader)
}

fn kill_listed(dir: &Path) {
    for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
        // A process that has ended meanwhile is as good as killed.
        let _ = pid.parse().map(|pid: i32| crate::sys::kill(pid, libc::SIGKILL));
    }
}

fn remove_patiently(dir: &Path) {
    // Killed processes leave within milliseconds unless they hang in the kernel; then the next start-up tries.
    const ATTEMPTS: usize = 200;
    for _ in 0..ATTEMPTS {
        if is_removed(dir) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Moves the calling thread into the groups of the opened `tasks` files.
pub(crate) fn join(tasks: &mut [fs::File]) -> io::Result<()> {
    tasks.iter_mut().try_for_each(|file| file.write_all(b"0"))
}
