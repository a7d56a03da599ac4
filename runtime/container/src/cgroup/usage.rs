//! What a group uses in detail, from the files of both versions of cgroups.
//!
//! Sources: Documentation/admin-guide/cgroup-v2.rst (`cpu.stat`, `memory.stat`, `io.stat`), cgroup-v1/blkio-controller.rst,
//! cgroup-v1/cpuacct.rst, and `throttled_time` of scheduler/sched-bwc.rst.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use neargate_driver::{BlockUse, CpuSplit, Throttling, UsageDetails};

use super::{Controller, Group, keyed, read_number};

/// More devices are not told of; a machine with as many disks is none of ours.
const DEVICES_MAX: usize = 64;
/// Lines of `memory.stat` that are told; Linux 6.18 has 60.
const MEMORY_LINES_MAX: usize = 128;

impl Group {
    /// What it uses in detail.
    pub(crate) fn usage_details(&self) -> UsageDetails {
        let read = |dir: &Path, file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
        let memory = self.files_of(Controller::Memory).map(|dir| read(dir, "memory.stat"));
        UsageDetails {
            cpu: self.cpu_split(),
            throttling: self.throttling(),
            memory: memory.map(|text| numbers(&text)).unwrap_or_default(),
            block: match (self.own_v1(Controller::Blkio), &self.unified) {
                (Some(dir), _) => {
                    let bytes = read(dir, "blkio.throttle.io_service_bytes_recursive");
                    block_v1(&bytes, &read(dir, "blkio.throttle.io_serviced_recursive"))
                }
                (None, Some((dir, _))) => block_v2(&read(dir, "io.stat")),
                (None, None) => Vec::new(),
            },
        }
    }

    fn cpu_split(&self) -> Option<CpuSplit> {
        if let Some((dir, _)) = &self.unified {
            let micros = |key| Some(keyed(&dir.join("cpu.stat"), key)?.saturating_mul(1000));
            return Some(CpuSplit { user_ns: micros("user_usec")?, kernel_ns: micros("system_usec")? });
        }
        let dir = self.dir(Controller::Cpuacct)?;
        let number = |file| read_number(&dir.join(file));
        Some(CpuSplit { user_ns: number("cpuacct.usage_user")?, kernel_ns: number("cpuacct.usage_sys")? })
    }

    /// Only of its own limit: a v1 group without one shares its task's, whose numbers are of all containers.
    fn throttling(&self) -> Option<Throttling> {
        let (dir, time, unit_ns) = match (self.own_v1(Controller::Cpu), &self.unified) {
            (Some(dir), _) => (dir, "throttled_time", 1),
            (None, Some((dir, _))) => (dir.as_path(), "throttled_usec", 1000),
            (None, None) => return None,
        };
        let number = |key| keyed(&dir.join("cpu.stat"), key);
        Some(Throttling {
            periods: number("nr_periods")?,
            throttled_periods: number("nr_throttled")?,
            throttled_ns: number(time)?.saturating_mul(unit_ns),
        })
    }

    fn own_v1(&self, controller: Controller) -> Option<&Path> {
        self.v1.iter().find(|(own, _)| *own == controller).map(|(_, dir)| dir.as_path())
    }
}

/// Lines of a name and a number.
fn numbers(text: &str) -> Vec<(String, u64)> {
    let number = |line: &str| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    text.lines().filter_map(number).take(MEMORY_LINES_MAX).collect()
}

/// `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn block_v2(text: &str) -> Vec<BlockUse> {
    let device = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let (major, minor) = numbers_of(device)?;
        let value = |key: &str| {
            let found = rest.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            found.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        let (read_bytes, written_bytes) = (value("rbytes"), value("wbytes"));
        Some(BlockUse {
            major,
            minor,
            read_bytes,
            written_bytes,
            reads: value("rios"),
            writes: value("wios"),
        })
    };
    text.lines().filter_map(device).take(DEVICES_MAX).collect()
}

/// Two files of lines like `8:0 Read 4096`.
fn block_v1(bytes: &str, operations: &str) -> Vec<BlockUse> {
    let mut devices: BTreeMap<(u32, u32), BlockUse> = BTreeMap::new();
    for (text, is_bytes) in [(bytes, true), (operations, false)] {
        for (numbers, operation, value) in text.lines().filter_map(line_v1) {
            if devices.len() >= DEVICES_MAX && !devices.contains_key(&numbers) {
                continue;
            }
            let (major, minor) = numbers;
            let device = devices.entry(numbers).or_insert(BlockUse { major, minor, ..BlockUse::default() });
            match (operation, is_bytes) {
                ("Read", true) => device.read_bytes = value,
                ("Write", true) => device.written_bytes = value,
                ("Read", false) => device.reads = value,
                ("Write", false) => device.writes = value,
                _ => {}
            }
        }
    }
    devices.into_values().collect()
}

fn line_v1(line: &str) -> Option<((u32, u32), &str, u64)> {
    let mut words = line.split(' ');
    let numbers = numbers_of(words.next()?)?;
    Some((numbers, words.next()?, words.next()?.parse().ok()?))
}

fn numbers_of(device: &str) -> Option<(u32, u32)> {
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_tell_of_devices() {
        let disk =
            BlockUse { major: 8, minor: 16, read_bytes: 4096, written_bytes: 8192, reads: 1, writes: 2 };
        let other = BlockUse { major: 254, read_bytes: 512, reads: 3, ..BlockUse::default() };
        let v2 = "8:16 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n254:0 rbytes=512 rios=3\nx\n";
        assert_eq!(block_v2(v2), [disk, other]);
        let bytes = "8:16 Read 4096\n8:16 Write 8192\n8:16 Sync 12288\n8:16 Total 12288\n254:0 Read 512\nTotal 12800\n";
        let operations = "8:16 Read 1\n8:16 Write 2\n8:16 Total 3\n254:0 Read 3\nTotal 6\n";
        assert_eq!(block_v1(bytes, operations), [disk, other]);
        assert_eq!((block_v2(""), block_v1("Total 0\n", "")), (Vec::new(), Vec::new()));
    }

    #[test]
    fn there_is_an_end_to_devices() {
        let lines: String = (0..100).map(|minor| format!("8:{minor} Read 1\n")).collect();
        assert_eq!(block_v1(&lines, &lines).len(), DEVICES_MAX);
    }

    #[test]
    fn lines_of_numbers_are_read() {
        let expect = [("anon".to_owned(), 5), ("file".to_owned(), 6)];
        assert_eq!(numbers("anon 5\nbroken\nfile 6\nx y\n"), expect);
    }
}
