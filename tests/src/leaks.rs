//! What a program may leave behind in the kernel: processes, mounts, control groups, network namespaces, descriptors.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::eventually;
use crate::groups::is_in_stock;

/// Depth to which control groups are searched; ours lie near the top.
const CGROUP_DEPTH_MAX: usize = 8;
/// Processes that a server keeps in stock for tasks to come, by name.
const IN_STOCK: &str = "ng-parked";
/// The process that holds a server's router, which is there from the first look at its networks on.
const ROUTER: &str = "ng-router";
/// Descriptors that a server holds of each: a process, its socket, two namespaces and two groups.
const DESCRIPTORS_IN_STOCK: usize = 6;

/// What there was at one moment, machine-wide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    processes: BTreeSet<String>,
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    network_namespaces: BTreeSet<String>,
    stock: Stock,
}

/// What of it is there for tasks to come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stock {
    processes: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    network_namespaces: BTreeSet<String>,
}

impl Stock {
    fn take(cgroups: &BTreeSet<String>) -> Self {
        let is_stock = |pid: &u32| is_called(*pid, IN_STOCK) || is_called(*pid, ROUTER);
        let processes: Vec<u32> = pids().into_iter().filter(is_stock).collect();
        Self {
            network_namespaces: processes.iter().filter_map(|pid| network_namespace(*pid)).collect(),
            processes: processes.iter().map(u32::to_string).collect(),
            cgroups: cgroups.iter().filter(|path| is_in_stock(Path::new(path))).cloned().collect(),
        }
    }
}

impl Snapshot {
    /// Looks now.
    pub fn take() -> Self {
        let mut cgroups = BTreeSet::new();
        find_cgroups(Path::new("/sys/fs/cgroup"), 0, &mut cgroups);
        let (stock, network_namespaces) = (Stock::take(&cgroups), network_namespaces());
        Self { processes: processes(), mounts: mounts(), cgroups, network_namespaces, stock }
    }

    /// What there is now and was not in `self`, as lines for a person.
    pub fn grown(&self) -> Vec<String> {
        let now = Self::take();
        let kinds = [
            ("process", &self.processes, &now.processes),
            ("mount", &self.mounts, &now.mounts),
            ("cgroup", &self.cgroups, &now.cgroups),
            ("network namespace", &self.network_namespaces, &now.network_namespaces),
        ];
        let grown = kinds
            .iter()
            .flat_map(|(kind, before, now)| now.difference(before).map(move |new| format!("{kind} {new}")));
        grown.collect()
    }

    /// Waits until nothing is left that was not in `self`; otherwise the list of what is.
    pub fn settle(&self, limit: Duration) -> Result<(), Vec<String>> {
        match eventually(limit, || self.grown().is_empty().then_some(())) {
            Some(()) => Ok(()),
            None => Err(self.grown()),
        }
    }

    /// How many of each there are without what servers keep in stock, which is more at one time than at another.
    pub fn counts(&self) -> [(&'static str, usize); 4] {
        let stock = &self.stock;
        [
            ("processes", self.processes.difference(&stock.processes).count()),
            ("mounts", self.mounts.len()),
            ("cgroups", self.cgroups.difference(&stock.cgroups).count()),
            ("network namespaces", self.network_namespaces.difference(&stock.network_namespaces).count()),
        ]
    }
}

/// Open descriptors and resident memory of a process and all its descendants, without those in stock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Processes in the family.
    pub processes: usize,
    /// Open file descriptors of all of them.
    pub descriptors: usize,
    /// Resident memory of all of them, in KiB.
    pub resident_kib: u64,
}

/// The footprint of a process and its descendants now.
pub fn footprint(pid: u32) -> Footprint {
    let (stock, family): (Vec<u32>, Vec<u32>) =
        family(pid).into_iter().partition(|pid| is_called(*pid, IN_STOCK));
    let mut total = Footprint { processes: family.len(), ..Footprint::default() };
    for pid in family {
        total.descriptors += fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        total.resident_kib += status_field(pid, "VmRSS:").unwrap_or(0);
    }
    total.descriptors = total.descriptors.saturating_sub(stock.len() * DESCRIPTORS_IN_STOCK);
    total
}

/// The open descriptors of a supervisor without those of what it keeps in stock; `None` when it is gone.
pub fn descriptors_in_use(supervisor: u32) -> Option<usize> {
    let stock = descendants(supervisor, IN_STOCK).len() * DESCRIPTORS_IN_STOCK;
    let open = fs::read_dir(format!("/proc/{supervisor}/fd")).ok()?.count();
    Some(open.saturating_sub(stock))
}

/// The ids of a process and its descendants.
fn family(pid: u32) -> BTreeSet<u32> {
    let mut family = BTreeSet::from([pid]);
    let parents: Vec<(u32, u32)> = pids().into_iter().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    loop {
        let before = family.len();
        family.extend(
            parents
                .iter()
                .filter(|(_, parent)| family.contains(parent))
                .map(|(pid, _)| *pid)
                .collect::<Vec<_>>(),
        );
        if family.len() == before {
            break;
        }
    }
    family
}

/// The descendants of a process whose names begin like this, as process listings show them.
pub fn descendants(pid: u32, name: &str) -> Vec<u32> {
    family(pid).into_iter().filter(|pid| is_called(*pid, name)).collect()
}

/// Whether a process has a name that begins like this.
fn is_called(pid: u32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(name))
}

fn network_namespace(pid: u32) -> Option<String> {
    Some(fs::read_link(format!("/proc/{pid}/ns/net")).ok()?.to_string_lossy().into_owned())
}

fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn parent(pid: u32) -> Option<u32> {
    status_field(pid, "PPid:").and_then(|pid| u32::try_from(pid).ok())
}

fn status_field(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Processes of ours by name, and those whose program lies in one of our data directories or images.
fn processes() -> BTreeSet<String> {
    let is_ours = |pid: &u32| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let file = exe.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_zombie =
            fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
        !is_zombie
            && (comm.starts_with("neargate")
                || file.starts_with("neargate")
                || file.starts_with("memfd:neargate"))
    };
    pids().into_iter().filter(is_ours).map(|pid| pid.to_string()).collect()
}

fn mounts() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

fn find_cgroups(directory: &Path, depth: usize, found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let path = entry.path();
        if path.to_string_lossy().contains("neargate") {
            found.insert(path.to_string_lossy().into_owned());
        }
        if depth < CGROUP_DEPTH_MAX {
            find_cgroups(&path, depth + 1, found);
        }
    }
}

/// Network namespaces that a process is in or that are mounted somewhere.
fn network_namespaces() -> BTreeSet<String> {
    let mut found: BTreeSet<String> = pids().into_iter().filter_map(network_namespace).collect();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(
        table
            .lines()
            .filter_map(|line| line.split(' ').nth(3))
            .filter(|root| root.starts_with("net:["))
            .map(str::to_owned),
    );
    found
}
