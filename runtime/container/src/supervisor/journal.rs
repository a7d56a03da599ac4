//! The journal: what a supervisor needs to find its sandboxes and containers again.
//!
//! ```text
//!  prepared task ─▶ started container ─▶ ended container ─▶ released task
//! ```
//!
//! A file of records, appended to with one `write(2)` each and never synced: it has to outlive the supervisor, and
//! nothing of what it tells outlives the machine. A record that a kill has cut off ends it. A container's record is
//! written before its process may go on, so a process without one has never run a program.
//!
//! It holds environments, which may be secret: only root can read it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use neargate_driver::Limits;
use neargate_ipc::wire::{decode, encode};
use neargate_ipc::wire_enum;
use rustix::fs::{FallocateFlags, fallocate};

use crate::cgroup::nominal_name;
use crate::protocol::{End, NetworkPlan, SharingPlan, StartPlan};

/// Both writer and reader must agree on this number; a journal of another version is not understood.
const VERSION: u32 = 8;

/// Name of the file in the supervisor's directory.
const FILE: &str = "journal";

/// A journal is written anew when it is twice as long as it was then, and at least this long: some thousand tasks.
const COMPACT_BYTES_MIN: u64 = 4 << 20;

/// Longest record; a start is bounded by the longest message of a server.
const RECORD_BYTES_MAX: usize = neargate_ipc::channel::MESSAGE_MAX;

/// Length and checksum before each record.
const HEADER_BYTES: usize = 8;

wire_enum! {
    /// One record.
    pub(crate) enum Entry {
        /// The first one: version, and the boot that the process ids belong to.
        0 => Begin { version: u32, boot: String },
        /// A sandbox was made; `group` is the last part of its cgroup's path.
        1 => Prepared {
            task: String,
            group: String,
            hostname: String,
            ids: u32,
            limits: Limits,
            network: NetworkPlan,
            sharing: SharingPlan,
        },
        /// A container's process, an id in the host's namespace, is about to be told what to become. `group` is the
        /// last part of its cgroup's path, `pipes` are the inodes of its standard output and error, 0 for what is no
        /// pipe.
        2 => Started { number: u64, plan: StartPlan, group: String, pid: i32, pipes: (u64, u64) },
        /// A container has ended.
        3 => Ended { number: u64, task: String, end: End },
        /// A sandbox is gone, with all its containers.
        4 => Released { task: String },
        /// A sandbox has a pause process with this id in the host's namespace, in place of an earlier one.
        5 => Paused { number: u64, task: String, group: String, pid: i32 },
    }
}

/// A sandbox as the journal tells it.
#[derive(Debug, PartialEq)]
pub(super) struct KnownSandbox {
    pub(super) group: String,
    pub(super) hostname: String,
    pub(super) ids: u32,
    pub(super) limits: Limits,
    pub(super) network: NetworkPlan,
    pub(super) sharing: SharingPlan,
    pub(super) pause: Option<KnownPause>,
    /// By number, which grows: of a container that was started again, only the last start.
    pub(super) containers: BTreeMap<u64, KnownContainer>,
}

/// A pause process as the journal tells it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct KnownPause {
    pub(super) number: u64,
    pub(super) group: String,
    pub(super) pid: i32,
}

/// A container as the journal tells it.
#[derive(Debug, PartialEq)]
pub(super) struct KnownContainer {
    pub(super) plan: StartPlan,
    pub(super) group: String,
    pub(super) pid: i32,
    pub(super) pipes: (u64, u64),
    pub(super) end: Option<End>,
}

/// Sandboxes by task.
pub(super) type Known = BTreeMap<String, KnownSandbox>;

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// How long it was when it was last written anew.
    compacted_bytes: u64,
}

impl Journal {
    /// Opens the journal in a directory; returns what it tells of this boot.
    pub(super) fn open(directory: &Path) -> io::Result<(Self, Known)> {
        let path = path(directory);
        let boot = boot()?;
        let known = match fs::read(&path) {
            Ok(bytes) => replay(&bytes, &boot),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Known::new(),
            Err(error) => return Err(error),
        };
        let (file, bytes) = match write_anew(&path, &boot, &known) {
            // On a full disk the old one goes on.
            Err(error) if error.kind() == io::ErrorKind::StorageFull && !known.is_empty() => go_on(&path)?,
            written => written?,
        };
        Ok((Self { path, file, bytes, compacted_bytes: bytes }, known))
    }

    /// Appends a record.
    pub(super) fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let record = record(entry);
        neargate_failpoint::reach("container::journal::before");
        let written = self.file.write_all(&record);
        if written.is_err() {
            // What comes after a part of a record would not be found.
            self.file.set_len(self.bytes)?;
            return written;
        }
        neargate_failpoint::reach("container::journal::after");
        self.bytes += record.len() as u64;
        Ok(())
    }

    /// Leaves out what is over, if that is worth it.
    pub(super) fn compact(&mut self) -> io::Result<()> {
        if self.bytes < COMPACT_BYTES_MIN.max(2 * self.compacted_bytes) {
            return Ok(());
        }
        let boot = boot()?;
        let known = replay(&fs::read(&self.path)?, &boot);
        (self.file, self.bytes) = write_anew(&self.path, &boot, &known)?;
        self.compacted_bytes = self.bytes;
        Ok(())
    }

    /// Removes the file, because nothing is left that it could tell.
    pub(super) fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Where the journal of a directory is.
pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// Names the time since the machine was started.
pub(super) fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Writes what is known to a new file, which then takes the place of the old one.
fn write_anew(path: &Path, boot: &str, known: &Known) -> io::Result<(File, u64)> {
    let new = path.with_extension("new");
    let mut bytes = record(&Entry::Begin { version: VERSION, boot: boot.to_owned() });
    for (task, sandbox) in known {
        for entry in entries(task, sandbox) {
            bytes.extend(record(&entry));
        }
    }
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&new)?;
    if let Err(error) = file.write_all(&bytes) {
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    // So that tasks that fill the disk do not keep their own ends from being noted. Where the file system cannot, or has
    // no room any more, the ends are heard all the same.
    let _ = fallocate(&file, FallocateFlags::KEEP_SIZE, 0, COMPACT_BYTES_MIN);
    neargate_failpoint::reach("container::renewal::before");
    fs::rename(&new, path)?;
    neargate_failpoint::reach("container::renewal::after");
    Ok((file, bytes.len() as u64))
}

/// Opens a journal to append to it as it is, without a record that was cut off.
fn go_on(path: &Path) -> io::Result<(File, u64)> {
    let bytes = fs::read(path)?;
    let mut entries = Entries { rest: &bytes };
    entries.by_ref().for_each(drop);
    let whole = (bytes.len() - entries.rest.len()) as u64;
    let file = OpenOptions::new().append(true).open(path)?;
    file.set_len(whole)?;
    Ok((file, whole))
}

fn entries(task: &str, sandbox: &KnownSandbox) -> Vec<Entry> {
    let KnownSandbox { group, hostname, ids, limits, network, sharing, pause, containers } = sandbox;
    let (task, group, hostname) = (task.to_owned(), group.clone(), hostname.clone());
    let (ids, limits, network, sharing) = (*ids, limits.clone(), network.clone(), sharing.clone());
    let mut entries =
        vec![Entry::Prepared { task: task.clone(), group, hostname, ids, limits, network, sharing }];
    if let Some(KnownPause { number, group, pid }) = pause.clone() {
        entries.push(Entry::Paused { number, task: task.clone(), group, pid });
    }
    for (number, KnownContainer { plan, group, pid, pipes, end }) in containers {
        let (plan, group) = (plan.clone(), group.clone());
        entries.push(Entry::Started { number: *number, plan, group, pid: *pid, pipes: *pipes });
        let ended = |end: &End| Entry::Ended { number: *number, task: task.clone(), end: end.clone() };
        entries.extend(end.as_ref().map(ended));
    }
    entries
}

fn record(entry: &Entry) -> Vec<u8> {
    let body = encode(entry);
    let mut record = Vec::with_capacity(HEADER_BYTES + body.len());
    // Bounded far below 4 GiB by what a message may be.
    record.extend_from_slice(&(body.len() as u32).to_le_bytes());
    record.extend_from_slice(&checksum(&body).to_le_bytes());
    record.extend_from_slice(&body);
    record
}

/// FNV-1a: tells a whole record from a part of one, and needs no more, because only root can write here.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The processes of a directory's journal that are still there, of groups in name only; for who looks without a
/// supervisor.
pub(crate) fn containers_of(directory: &Path) -> Vec<i32> {
    let (Ok(bytes), Ok(boot)) = (fs::read(path(directory)), boot()) else { return Vec::new() };
    replay(&bytes, &boot).values().flat_map(KnownSandbox::nominal_processes).collect()
}

impl KnownSandbox {
    /// The first processes of its containers, and its pause process, that are still there; only of groups in name only,
    /// which tell processes apart.
    pub(super) fn nominal_processes(&self) -> Vec<i32> {
        let containers = self.containers.values().filter(|container| container.end.is_none());
        let containers = containers.map(|container| (container.pid, &container.group));
        let all = containers.chain(self.pause.iter().map(|pause| (pause.pid, &pause.group)));
        let there = all.filter(|(pid, group)| nominal_name(*pid).is_ok_and(|name| name == **group));
        there.map(|(pid, _)| pid).collect()
    }
}

/// What a journal's bytes tell; nothing if they are of another boot or version.
fn replay(bytes: &[u8], boot: &str) -> Known {
    let mut known = Known::new();
    let mut entries = Entries { rest: bytes };
    match entries.next() {
        Some(Entry::Begin { version: VERSION, boot: of }) if of == boot => {}
        _ => return known,
    }
    entries.for_each(|entry| apply(&mut known, entry));
    known
}

struct Entries<'a> {
    rest: &'a [u8],
}

impl Iterator for Entries<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let (header, rest) = self.rest.split_at_checked(HEADER_BYTES)?;
        let (length, sum) = header.split_at(4);
        let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
        let sum = u32::from_le_bytes(sum.try_into().ok()?);
        let (body, rest) = rest.split_at_checked(length).filter(|_| length <= RECORD_BYTES_MAX)?;
        let entry = decode(body).ok().filter(|_| checksum(body) == sum)?;
        self.rest = rest;
        Some(entry)
    }
}

fn apply(known: &mut Known, entry: Entry) {
    match entry {
        Entry::Begin { .. } => {}
        Entry::Prepared { task, group, hostname, ids, limits, network, sharing } => {
            let (pause, containers) = (None, BTreeMap::new());
            let sandbox = KnownSandbox { group, hostname, ids, limits, network, sharing, pause, containers };
            known.insert(task, sandbox);
        }
        Entry::Paused { number, task, group, pid } => {
            if let Some(sandbox) = known.get_mut(&task) {
                sandbox.pause = Some(KnownPause { number, group, pid });
            }
        }
        Entry::Started { number, plan, group, pid, pipes } => {
            if let Some(sandbox) = known.get_mut(&plan.task) {
                sandbox.containers.retain(|_, earlier| earlier.plan.container != plan.container);
                sandbox.containers.insert(number, KnownContainer { plan, group, pid, pipes, end: None });
            }
        }
        Entry::Ended { number, task, end } => {
            let container = known.get_mut(&task).and_then(|sandbox| sandbox.containers.get_mut(&number));
            if let Some(container) = container {
                container.end = Some(end);
            }
        }
        Entry::Released { task } => drop(known.remove(&task)),
    }
}

#[cfg(test)]
pub(super) mod testing {
    use neargate_driver::ContainerNames;

    use super::*;
    use crate::names::NamesPlan;

    /// The plan of a container of a task.
    pub(in crate::supervisor) fn plan(task: &str, container: &str) -> StartPlan {
        StartPlan {
            container: container.to_owned(),
            task: task.to_owned(),
            layers: vec![b"/layer".to_vec()],
            argv: vec!["true".to_owned()],
            env: vec![("A".to_owned(), "1".to_owned())],
            working_dir: b"/".to_vec(),
            user: None,
            limits: Limits::default(),
            ulimits: Vec::new(),
            read_only_root: false,
            mounts: Vec::new(),
            shm_bytes: 1,
            capabilities: 0,
            privileged: false,
            devices: Vec::new(),
            init: false,
            scratch: b"/scratch".to_vec(),
            names: NamesPlan::of(&ContainerNames::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use neargate_driver::Stats;

    use super::testing::plan;
    use super::*;

    fn prepared(task: &str) -> Entry {
        let (task, group, hostname) = (task.to_owned(), format!("cell-{task}"), "host".to_owned());
        let (limits, network, sharing) = (Limits::default(), NetworkPlan::Own {}, SharingPlan::NONE);
        Entry::Prepared { task, group, hostname, ids: 65_536, limits, network, sharing }
    }

    fn started(number: u64, task: &str, container: &str) -> Entry {
        let (plan, group) = (plan(task, container), format!("{container}.{number}"));
        Entry::Started { number, plan, group, pid: 7, pipes: (8, 9) }
    }

    fn ended(number: u64, task: &str, code: i32) -> Entry {
        let end = End { code: Some(code), oom: false, stats: Stats::default() };
        Entry::Ended { number, task: task.to_owned(), end }
    }

    /// A task with its containers' numbers and exit codes.
    type Told<'a> = (&'a str, Vec<(u64, Option<i32>)>);

    fn told(known: &Known) -> Vec<Told<'_>> {
        let code = |container: &KnownContainer| container.end.as_ref().and_then(|end| end.code);
        let containers = |sandbox: &KnownSandbox| {
            sandbox.containers.iter().map(|(number, container)| (*number, code(container))).collect()
        };
        known.iter().map(|(task, sandbox)| (task.as_str(), containers(sandbox))).collect()
    }

    #[track_caller]
    fn check(entries: &[Entry], expect: &[Told<'_>]) {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, known) = Journal::open(directory.path()).unwrap();
        assert_eq!(known, Known::new());
        entries.iter().for_each(|entry| journal.append(entry).unwrap());
        for _ in 0..2 {
            let (_, known) = Journal::open(directory.path()).unwrap();
            assert_eq!(told(&known), expect);
        }
    }

    #[test]
    fn what_is_not_over_is_told_again() {
        check(&[], &[]);
        check(&[prepared("a"), prepared("b")], &[("a", vec![]), ("b", vec![])]);
        let running = [prepared("a"), started(1, "a", "x"), started(2, "a", "y"), ended(1, "a", 3)];
        check(&running, &[("a", vec![(1, Some(3)), (2, None)])]);
        let again = [prepared("a"), started(1, "a", "x"), ended(1, "a", 3), started(2, "a", "x")];
        check(&again, &[("a", vec![(2, None)])]);
        check(&[prepared("a"), started(1, "a", "x"), Entry::Released { task: "a".to_owned() }], &[]);
    }

    #[test]
    fn the_last_pause_process_counts() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path()).unwrap();
        let paused = |number: u64, task: &str, pid| {
            let (task, group) = (task.to_owned(), format!("pause.{number}"));
            Entry::Paused { number, task, group, pid }
        };
        for entry in [prepared("a"), paused(1, "a", 7), paused(2, "a", 8), prepared("b"), paused(3, "c", 9)] {
            journal.append(&entry).unwrap();
        }
        for _ in 0..2 {
            let (_, known) = Journal::open(directory.path()).unwrap();
            let expect = KnownPause { number: 2, group: "pause.2".to_owned(), pid: 8 };
            assert_eq!(known["a"].pause, Some(expect));
            assert_eq!(known["b"].pause, None);
        }
    }

    #[test]
    fn a_cut_journal_tells_what_is_whole() {
        let records = [prepared("a"), started(1, "a", "x")].map(|entry| record(&entry));
        let begin = record(&Entry::Begin { version: VERSION, boot: "now".to_owned() });
        let whole = [begin, records.concat()].concat();
        let first = whole.len() - records[1].len();
        for length in first..whole.len() {
            assert_eq!(told(&replay(&whole[..length], "now")), [("a", vec![])], "cut at {length}");
        }
        assert_eq!(told(&replay(&whole, "now")), [("a", vec![(1, None)])]);
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(told(&replay(&damaged, "now")), [("a", vec![])]);
    }

    #[test]
    fn on_a_full_disk_the_old_one_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path()).unwrap();
        journal.append(&prepared("a")).unwrap();
        let bytes = journal.bytes;
        let path = path(directory.path());
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"cut off").unwrap();
        let (file, whole) = go_on(&path).unwrap();
        assert_eq!(whole, bytes);
        let mut journal = Journal { path, file, bytes: whole, compacted_bytes: whole };
        journal.append(&started(1, "a", "x")).unwrap();
        let (_, known) = Journal::open(directory.path()).unwrap();
        assert_eq!(told(&known), [("a", vec![(1, None)])]);
    }

    #[test]
    fn another_boot_is_over() {
        let begin = record(&Entry::Begin { version: VERSION, boot: "then".to_owned() });
        let bytes = [begin, record(&prepared("a"))].concat();
        assert_eq!(replay(&bytes, "now"), Known::new());
    }

    #[test]
    fn a_long_journal_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path()).unwrap();
        journal.append(&prepared("stays")).unwrap();
        while journal.bytes < COMPACT_BYTES_MIN {
            journal.append(&prepared("goes")).unwrap();
            journal.append(&Entry::Released { task: "goes".to_owned() }).unwrap();
        }
        journal.compact().unwrap();
        assert!(journal.bytes < 1024, "{} bytes are left", journal.bytes);
        journal.append(&started(1, "stays", "x")).unwrap();
        let (_, known) = Journal::open(directory.path()).unwrap();
        assert_eq!(told(&known), [("stays", vec![(1, None)])]);
    }

    #[test]
    fn only_root_can_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let _journal = Journal::open(directory.path()).unwrap();
        let mode = fs::metadata(path(directory.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
