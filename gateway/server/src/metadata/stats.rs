//! What containers use, in the form of Docker's statistics.
//!
//! Docker tells two samples, so that a client can work out rates: the second one here is what was told the time before.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use neargate_control::DescribedTask;
use neargate_model::ContainerId;
use neargate_wire::Timestamp as WireTimestamp;
use serde_json::{Map, Value, json};

use super::task::docker_id;
use super::{BlockUsage, ContainerUsage, InterfaceUsage, Metadata, Throttling};

/// Containers whose last sample is kept; with more, all are forgotten, and the next ones have none before them.
const SAMPLES_MAX: usize = 4096;
/// Nanoseconds of one tick of `/proc/stat` (proc_stat(5): USER_HZ, 100 on every Linux).
const TICK_NS: u64 = 10_000_000;
/// Kinds of CPU time in `/proc/stat` that make up the whole; what follows is part of the first two.
const CPU_KINDS: usize = 8;

/// What was told last.
#[derive(Default)]
pub(super) struct Samples(Mutex<HashMap<ContainerId, Sample>>);

/// What was known at a moment.
#[derive(Clone, Debug)]
struct Sample {
    at_ms: i64,
    usage: ContainerUsage,
    interface: Option<InterfaceUsage>,
    /// CPU time of the whole machine.
    system_ns: Option<u64>,
}

impl Samples {
    /// Keeps a sample; tells the one before.
    fn replace(&self, container: &ContainerId, sample: Sample) -> Option<Sample> {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() >= SAMPLES_MAX && !samples.contains_key(container) {
            samples.clear();
        }
        samples.insert(container.clone(), sample)
    }
}

impl Metadata {
    /// Those of a container; null of one that does not run.
    pub(super) async fn container_stats(&self, task: &DescribedTask, index: usize) -> Value {
        let (Some(id), Some(definition)) =
            (task.spec.container_ids.get(index), task.spec.shape.containers.get(index))
        else {
            return Value::Null;
        };
        let Some(usage) = self.usage.container(id).await else { return Value::Null };
        let interface = self.usage.interface(&task.spec.id).await;
        let system_ns = std::fs::read_to_string("/proc/stat").ok().as_deref().and_then(system_ns);
        let sample = Sample { at_ms: now_ms(), usage, interface, system_ns };
        let before = self.samples.replace(id, sample.clone());
        let limit_mib = definition.memory_mib.or(task.task.memory_mib);
        let id = docker_id(task.task.status.containers.get(index));
        render(
            &id,
            definition.name.as_str(),
            (&sample, before.as_ref()),
            limit_mib.map(|mib| u64::from(mib) << 20),
        )
    }

    /// Those of all containers, by their ids.
    pub(super) async fn task_stats(&self, task: &DescribedTask) -> Value {
        let mut all = Map::new();
        for index in 0..task.spec.container_ids.len() {
            let id = docker_id(task.task.status.containers.get(index));
            if !id.is_empty() {
                all.insert(id, self.container_stats(task, index).await);
            }
        }
        all.into()
    }
}

fn render(
    id: &str,
    name: &str,
    (now, before): (&Sample, Option<&Sample>),
    limit_bytes: Option<u64>,
) -> Value {
    let mut told = json!({
        "read": time(Some(now)),
        "preread": time(before),
        "id": id,
        "name": format!("/{name}"),
        "num_procs": 0,
        "pids_stats": { "current": now.usage.pids },
        "cpu_stats": cpu(Some(now)),
        "precpu_stats": cpu(before),
        "memory_stats": {
            "usage": now.usage.memory_bytes,
            "max_usage": now.usage.memory_peak_bytes,
            "limit": limit_bytes,
            "stats": now.usage.memory_stat.iter().map(|(name, number)| (name.clone(), json!(number))).collect::<Map<_, _>>(),
        },
        "blkio_stats": block(&now.usage),
        "storage_stats": {},
    });
    if let Some(interface) = now.interface {
        told["networks"] = json!({ "eth0": network(&interface) });
        told["network_rate_stats"] = rates(now, before);
    }
    told
}

fn cpu(sample: Option<&Sample>) -> Value {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let total = sample.map_or(0, |sample| sample.usage.cpu_ns);
    let mut told = json!({ "cpu_usage": { "total_usage": total } });
    if let Some((user_ns, kernel_ns)) = sample.and_then(|sample| sample.usage.cpu_split_ns) {
        told["cpu_usage"]["usage_in_usermode"] = json!(user_ns);
        told["cpu_usage"]["usage_in_kernelmode"] = json!(kernel_ns);
    }
    if let Some(throttling) = sample.and_then(|sample| sample.usage.throttling) {
        let Throttling { periods, throttled_periods, throttled_ns } = throttling;
        told["throttling_data"] = json!({ "periods": periods, "throttled_periods": throttled_periods, "throttled_time": throttled_ns });
    }
    if let Some(system_ns) = sample.and_then(|sample| sample.system_ns) {
        told["system_cpu_usage"] = json!(system_ns);
        told["online_cpus"] = json!(cores);
    }
    told
}

/// An entry for each device and direction; null where the kernel told of no device, as Docker has it.
fn block(usage: &ContainerUsage) -> Value {
    let entries = |of: fn(&BlockUsage) -> (u64, u64)| -> Option<Vec<Value>> {
        let of_device = |block: &BlockUsage| {
            let ((major, minor), (read, written)) = (block.device, of(block));
            [("read", read), ("write", written)]
                .map(|(op, value)| json!({ "major": major, "minor": minor, "op": op, "value": value }))
        };
        (!usage.block.is_empty()).then(|| usage.block.iter().flat_map(of_device).collect())
    };
    json!({
        "io_service_bytes_recursive": entries(|block| block.bytes),
        "io_serviced_recursive": entries(|block| block.operations),
    })
}

fn network(interface: &InterfaceUsage) -> Value {
    let InterfaceUsage { received, sent } = interface;
    json!({
        "rx_bytes": received.bytes, "rx_packets": received.packets,
        "rx_errors": received.errors, "rx_dropped": received.dropped,
        "tx_bytes": sent.bytes, "tx_packets": sent.packets,
        "tx_errors": sent.errors, "tx_dropped": sent.dropped,
    })
}

/// Bytes a second since the sample before.
fn rates(now: &Sample, before: Option<&Sample>) -> Value {
    let rate = |bytes: fn(&InterfaceUsage) -> u64| {
        let (earlier, before) = before.and_then(|before| Some((before, before.interface?)))?;
        let seconds = (now.at_ms - earlier.at_ms) as f64 / 1000.0;
        let bytes = bytes(&now.interface?).saturating_sub(bytes(&before));
        (seconds > 0.0).then(|| bytes as f64 / seconds)
    };
    json!({
        "rx_bytes_per_sec": rate(|interface| interface.received.bytes).unwrap_or_default(),
        "tx_bytes_per_sec": rate(|interface| interface.sent.bytes).unwrap_or_default(),
    })
}

pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The time of a sample; Go's zero where there is none, as Docker writes it.
fn time(sample: Option<&Sample>) -> String {
    let zero = || "0001-01-01T00:00:00Z".to_owned();
    sample.map_or_else(zero, |sample| WireTimestamp::from_millis(sample.at_ms).to_string())
}

/// CPU time of all cores together, of `/proc/stat`.
fn system_ns(stat: &str) -> Option<u64> {
    let first = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks = first.split_whitespace().take(CPU_KINDS).map(str::parse::<u64>);
    let ticks = ticks.sum::<Result<u64, _>>().ok()?;
    ticks.checked_mul(TICK_NS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::InterfaceCounters;

    fn sample(at_ms: i64, cpu_ns: u64, bytes: u64) -> Sample {
        let counters = InterfaceCounters { bytes, ..InterfaceCounters::default() };
        let interface = Some(InterfaceUsage { received: counters, sent: InterfaceCounters::default() });
        let usage = ContainerUsage {
            cpu_ns,
            memory_bytes: 5,
            memory_peak_bytes: 6,
            pids: 2,
            cpu_split_ns: Some((30, 20)),
            throttling: Some(Throttling { periods: 9, throttled_periods: 4, throttled_ns: 7 }),
            memory_stat: vec![("anon".to_owned(), 3)],
            block: vec![BlockUsage { device: (8, 16), bytes: (4096, 512), operations: (2, 1) }],
        };
        Sample { at_ms, usage, interface, system_ns: Some(1000) }
    }

    #[test]
    fn two_samples_tell_rates() {
        let told = render("id", "web", (&sample(3000, 50, 700), Some(&sample(1000, 20, 100))), Some(512));
        assert_eq!(told["cpu_stats"]["cpu_usage"]["total_usage"], 50);
        assert_eq!(told["precpu_stats"]["cpu_usage"]["total_usage"], 20);
        assert_eq!(told["network_rate_stats"]["rx_bytes_per_sec"], 300.0);
        assert_eq!(told["networks"]["eth0"]["rx_bytes"], 700);
        assert_eq!(told["memory_stats"]["limit"], 512);
        assert_eq!(
            (&told["read"], &told["preread"]),
            (&json!("1970-01-01T00:00:03Z"), &json!("1970-01-01T00:00:01Z"))
        );
        assert_eq!(told["cpu_stats"]["cpu_usage"]["usage_in_kernelmode"], 20);
        assert_eq!(told["cpu_stats"]["throttling_data"]["throttled_periods"], 4);
        assert_eq!(told["memory_stats"]["stats"], json!({ "anon": 3 }));
        let entry = |op: &str, value: u64| json!({ "major": 8, "minor": 16, "op": op, "value": value });
        let block = &told["blkio_stats"];
        assert_eq!(block["io_service_bytes_recursive"], json!([entry("read", 4096), entry("write", 512)]));
        assert_eq!(block["io_serviced_recursive"], json!([entry("read", 2), entry("write", 1)]));
        let first = render("id", "web", (&sample(3000, 50, 700), None), None);
        assert_eq!(first["preread"], "0001-01-01T00:00:00Z");
        assert_eq!(first["network_rate_stats"]["rx_bytes_per_sec"], 0.0);
    }

    #[test]
    fn the_time_of_the_machine_is_read() {
        assert_eq!(system_ns("cpu  1 2 3 4 5 6 7 8 100 100\ncpu0 1"), Some(36 * TICK_NS));
        assert_eq!(system_ns("intr 1"), None);
    }
}
