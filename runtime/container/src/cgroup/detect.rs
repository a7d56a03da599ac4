//! Which hierarchies are mounted, and where.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use neargate_driver::Limits;

use crate::failure::{Failure, Step};

/// A controller that this driver uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controller {
    /// Quota and shares.
    Cpu,
    /// CPU time used; only where no v2 hierarchy tells it.
    Cpuacct,
    /// Limit and usage.
    Memory,
    /// Limit and count.
    Pids,
    /// Which devices may be opened; v2 has programs for that.
    Devices,
    /// What passes between containers and block devices, which is only counted; v2 calls it `io`.
    Blkio,
}

impl Controller {
    const ALL: [Controller; 6] = [
        Controller::Cpu,
        Controller::Cpuacct,
        Controller::Memory,
        Controller::Pids,
        Controller::Devices,
        Controller::Blkio,
    ];

    /// Its name in mount options and in `cgroup.controllers`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Controller::Cpu => "cpu",
            Controller::Cpuacct => "cpuacct",
            Controller::Memory => "memory",
            Controller::Pids => "pids",
            Controller::Devices => "devices",
            Controller::Blkio => "blkio",
        }
    }

    /// Whether it limits what a container uses: who has these has the rest of them, too.
    fn has_limits(self) -> bool {
        !matches!(self, Controller::Devices | Controller::Blkio)
    }

    /// Whether a container with these limits has a directory of its own. Memory, pids and block devices are counted for
    /// each; cpu directories cost a `mkdir` and a `rmdir` that most containers do not need.
    pub(super) fn is_needed(self, limits: &Limits) -> bool {
        match self {
            Controller::Cpu => limits.cpu_millis.is_some() || limits.cpu_shares.is_some(),
            Controller::Cpuacct | Controller::Memory | Controller::Pids | Controller::Blkio => true,
            // Has rules of its own in `Groups`.
            Controller::Devices => false,
        }
    }
}

/// The mounted hierarchies.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Root of the v2 hierarchy.
    pub(super) unified: Option<PathBuf>,
    /// Whether the v2 hierarchy has the controllers.
    pub(super) unified_controls: bool,
    /// Roots of v1 hierarchies, one entry per controller.
    pub(super) v1: Vec<(Controller, PathBuf)>,
    /// What cgroups-rs knows of the v1 hierarchies; parsed once.
    pub(super) v1_hierarchy: Option<cgroups_rs::fs::hierarchies::V1>,
}

impl Layout {
    /// Reads what is mounted.
    pub(super) fn detect() -> io::Result<Self> {
        let (unified, v1) = parse_mountinfo(&fs::read_to_string("/proc/self/mountinfo")?);
        if unified.is_none() && v1.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no cgroup hierarchy is mounted"));
        }
        let limits_by_v1 = v1.iter().any(|(controller, _)| controller.has_limits());
        let v1_hierarchy = limits_by_v1.then(cgroups_rs::fs::hierarchies::V1::new);
        // A host of v2 may have v1's devices mounted beside it.
        let unified_controls = !limits_by_v1;
        Ok(Self { unified_controls, unified, v1, v1_hierarchy })
    }

    /// None that could be used.
    pub(super) fn none() -> Self {
        Self { unified: None, unified_controls: false, v1: Vec::new(), v1_hierarchy: None }
    }

    /// Whether there is a hierarchy that can be used.
    pub(super) fn is_any(&self) -> bool {
        self.unified.is_some() || !self.v1.is_empty()
    }

    /// Roots of all hierarchies, each once: controllers may share a mount.
    pub(super) fn roots(&self) -> Vec<&Path> {
        let mut roots: Vec<&Path> = Vec::new();
        for root in self.unified.iter().chain(self.v1.iter().map(|(_, root)| root)) {
            if !roots.contains(&root.as_path()) {
                roots.push(root);
            }
        }
        roots
    }

    /// The hierarchy whose directory carries the lock.
    pub(super) fn primary(&self) -> &Path {
        // Empty only where nobody asks: what `detect` tells is not, and without hierarchies nothing is locked.
        self.roots().first().copied().unwrap_or(Path::new("/"))
    }

    /// Lets the children of a v2 group have limits.
    pub(super) fn enable_controllers(&self, path: &str) -> Result<(), Failure> {
        const STEP: &str = "enable cgroup controllers";
        let Some(root) = self.unified.as_ref().filter(|_| self.unified_controls) else { return Ok(()) };
        // Without an end that is empty, which would be seen in what is told.
        let dir: PathBuf = root.join(path).components().collect();
        // Only counts, and not every group is given it.
        let _ = fs::write(dir.join("cgroup.subtree_control"), "+io");
        match fs::write(dir.join("cgroup.subtree_control"), "+cpu +memory +pids") {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(has_processes(&dir)),
            // Also the answer where the directory is gone, which has no list of controllers either.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let available = fs::read_to_string(dir.join("cgroup.controllers")).step(STEP)?;
                lacking(&dir, &available).map_or_else(|| Err(error).step(STEP), Err)
            }
            other => other.step(STEP),
        }
    }
}

/// No group but the root of all has both processes and children with limits (cgroups(7), "no internal processes").
/// The root that a cgroup namespace shows, as in a container, is none.
fn has_processes(dir: &Path) -> Failure {
    let why = format!(
        "there are processes in {0}, and a group with processes can have no children with limits; \
         move them into a group of their own before: mkdir {0}/init; \
         for p in $(cat {0}/cgroup.procs); do echo $p > {0}/init/cgroup.procs; done",
        dir.display()
    );
    Failure::Unsupported { what: "a container with limits".to_owned(), why }
}

/// A group can only give on what it has been given.
fn lacking(dir: &Path, available: &str) -> Option<Failure> {
    let is_missing = |name: &&str| !available.split_whitespace().any(|given| given == *name);
    let missing: Vec<&str> = ["cpu", "memory", "pids"].into_iter().filter(is_missing).collect();
    let why = format!(
        "{} lacks the cgroup controllers {}; whoever has made that group must enable them, as systemd does with \
         Delegate=yes, or the kernel's command line must not disable them",
        dir.display(),
        missing.join(" and ")
    );
    (!missing.is_empty()).then(|| Failure::Unsupported { what: "a container with limits".to_owned(), why })
}

/// The v2 mount, and the v1 mounts of our controllers, from the text of proc_pid_mountinfo(5).
fn parse_mountinfo(text: &str) -> (Option<PathBuf>, Vec<(Controller, PathBuf)>) {
    let mut unified = None;
    let mut v1: Vec<(Controller, PathBuf)> = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        let (kind, options) = (right.next(), right.nth(1).unwrap_or_default());
        let Some(point) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
        match kind {
            Some("cgroup2") => unified = unified.or(Some(point)),
            Some("cgroup") => {
                let has = |controller: &Controller| options.split(',').any(|o| o == controller.name());
                for controller in Controller::ALL.into_iter().filter(has) {
                    if v1.iter().all(|(known, _)| *known != controller) {
                        v1.push((controller, point.clone()));
                    }
                }
            }
            _ => {}
        }
    }
    // cpu.stat of v2 tells the CPU time already, and a shared mount needs its directory once.
    let cpu = v1.iter().find(|(c, _)| *c == Controller::Cpu).map(|(_, dir)| dir.clone());
    v1.retain(|(c, dir)| *c != Controller::Cpuacct || (unified.is_none() && Some(dir) != cpu.as_ref()));
    (unified, v1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mountinfo: &str, unified: Option<&str>, v1: &[(Controller, &str)]) {
        let v1: Vec<_> = v1.iter().map(|(controller, dir)| (*controller, PathBuf::from(dir))).collect();
        assert_eq!(parse_mountinfo(mountinfo), (unified.map(PathBuf::from), v1));
    }

    #[test]
    fn missing_controllers_are_named() {
        let check = |available: &str, expect: Option<&str>| {
            let why = lacking(Path::new("/g"), available).map(|failure| match failure {
                Failure::Unsupported { why, .. } => why,
                other => panic!("{other:?}"),
            });
            assert_eq!(why.as_ref().map(|why| why.split(';').next().unwrap()), expect, "{available:?}");
        };
        check("cpuset cpu io memory hugetlb pids rdma\n", None);
        check("memory pids\n", Some("/g lacks the cgroup controllers cpu"));
        check("cpuset io\n", Some("/g lacks the cgroup controllers cpu and memory and pids"));
        check("", Some("/g lacks the cgroup controllers cpu and memory and pids"));
    }

    #[test]
    fn layouts() {
        let v2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        check(v2, Some("/sys/fs/cgroup"), &[]);
        let root = "27 1 254:0 / / rw - ext4 /dev/vda rw\n";
        check(root, None, &[]);
        check("garbage\n1 2 - \n - cgroup\n", None, &[]);
        let hybrid = "32 31 0:29 / /c/cpu rw,relatime - cgroup cgroup rw,cpu\n\
            33 31 0:30 / /c/cpuacct rw - cgroup cgroup rw,cpuacct\n\
            35 31 0:32 / /c/memory rw - cgroup cgroup rw,memory\n\
            39 31 0:36 / /c/pids rw - cgroup cgroup rw,pids\n\
            40 31 0:37 / /c/systemd rw - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /c/unified rw - cgroup2 cgroup2 rw\n";
        let with_devices = format!("{hybrid}42 31 0:39 / /c/devices rw - cgroup cgroup rw,devices\n");
        let three =
            [(Controller::Cpu, "/c/cpu"), (Controller::Memory, "/c/memory"), (Controller::Pids, "/c/pids")];
        check(hybrid, Some("/c/unified"), &three);
        let four = [three.to_vec(), vec![(Controller::Devices, "/c/devices")]].concat();
        check(&with_devices, Some("/c/unified"), &four);
        let shared = "32 31 0:29 / /c/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n";
        check(shared, None, &[(Controller::Cpu, "/c/cpu,cpuacct")]);
        let separate = "32 31 0:29 / /c/cpu rw - cgroup cgroup rw,cpu\n33 31 0:30 / /c/acct rw - cgroup cgroup rw,cpuacct\n";
        check(separate, None, &[(Controller::Cpu, "/c/cpu"), (Controller::Cpuacct, "/c/acct")]);
    }
}
