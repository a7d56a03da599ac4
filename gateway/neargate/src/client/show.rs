//! Tasks as people and programs are shown them.

use std::collections::BTreeMap;

use clap::ValueEnum;
use neargate_sdk::types::{Timestamp, ecs};
use serde_json::Value;

/// The form of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs; members are only ever added.
    Json,
}

/// The last part of an ARN: `web:3`, a cluster's name, a task's id.
pub(crate) fn last_part(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}

/// The exit codes of a task's containers by their names; those that never ran are left out.
pub(crate) fn exit_codes(task: &ecs::Task) -> BTreeMap<String, i32> {
    let containers = task.containers.iter().flatten();
    containers.filter_map(|container| Some((container.name.clone()?, container.exit_code?))).collect()
}

/// `0`, or `app:0,side:137` when there are several containers.
pub(crate) fn exit_column(task: &ecs::Task) -> String {
    let codes = exit_codes(task);
    let is_single = task.containers.iter().flatten().count() == 1;
    match codes.values().next() {
        None => "-".to_owned(),
        Some(code) if is_single => code.to_string(),
        Some(_) => codes.iter().map(|(name, code)| format!("{name}:{code}")).collect::<Vec<_>>().join(","),
    }
}

/// Why a task stopped, and what its containers say to it; empty while there is nothing to say.
pub(crate) fn reason(task: &ecs::Task) -> String {
    let containers = task.containers.iter().flatten().filter_map(|container| container.reason.as_deref());
    let mut reasons: Vec<&str> = Vec::new();
    for reason in task.stopped_reason.as_deref().into_iter().chain(containers) {
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    reasons.join("; ")
}

/// A span since `since`, in its largest unit: `12s`, `3m`, `5h`, `2d`.
pub(crate) fn age(since: Option<Timestamp>, now_ms: i64) -> String {
    let Some(since) = since else { return "-".to_owned() };
    let seconds = (now_ms - since.as_millis()).max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A span in microseconds with three significant digits: `850 µs`, `1.23 ms`, `45.6 s`.
pub(crate) fn span(us: u64) -> String {
    let digits = |value: f64, unit: &str| {
        let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
        format!("{value:.decimals$} {unit}")
    };
    match us {
        0..1000 => format!("{us} µs"),
        1000..1_000_000 => digits(us as f64 / 1e3, "ms"),
        _ => digits(us as f64 / 1e6, "s"),
    }
}

/// A span in nanoseconds: `850 ns`, and above that as [`span`].
pub(crate) fn span_ns(ns: u64) -> String {
    if ns < 1000 { format!("{ns} ns") } else { span(ns / 1000) }
}

/// A size for people, in powers of 1024.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// What a container has used, for people; what is not known is absent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu: Option<String>,
    pub(crate) memory_peak: Option<String>,
    pub(crate) instantiate: Option<String>,
    pub(crate) run: Option<String>,
}

/// The usage of a container of [`neargate_sdk::Client::details`].
pub(crate) fn usage(container: &Value) -> Usage {
    let number = |name: &str| container.get("usage")?.get(name)?.as_u64();
    Usage {
        cpu: number("cpu_ns").map(span_ns),
        memory_peak: number("memory_peak_bytes").map(size),
        instantiate: number("instantiate_ns").map(span_ns),
        run: number("run_ns").map(span_ns),
    }
}

/// Where the ports of a task can be reached: `8080->80`, empty when it has none.
pub(crate) fn ports(containers: &[ecs::Container]) -> String {
    let bindings = containers.iter().flat_map(|container| container.network_bindings.iter().flatten());
    let port =
        |binding: &ecs::NetworkBinding| Some(format!("{}->{}", binding.host_port?, binding.container_port?));
    bindings.filter_map(port).collect::<Vec<_>>().join(",")
}

/// The time spent in each phase up to RUNNING, in order, in microseconds; empty before that.
pub(crate) fn phases(task: &ecs::Task) -> Vec<(&'static str, u64)> {
    const PHASES: [&str; 5] = ["queue", "image", "network", "create", "start"];
    let read = |phase: &'static str| {
        let name = format!("neargate.{phase}-us");
        let attribute = task.attributes.iter().flatten().find(|attribute| attribute.name == name)?;
        Some((phase, attribute.value.as_deref()?.parse().ok()?))
    };
    PHASES.into_iter().filter_map(read).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn container(name: &str, exit_code: Option<i32>, reason: Option<&str>) -> ecs::Container {
        ecs::Container {
            name: Some(name.to_owned()),
            exit_code,
            reason: reason.map(str::to_owned),
            ..Default::default()
        }
    }

    fn task(containers: Vec<ecs::Container>) -> ecs::Task {
        ecs::Task { containers: Some(containers), ..Default::default() }
    }

    #[test]
    fn exit_codes_name_containers_only_when_there_are_several() {
        let check = |containers, expect: &str| assert_eq!(exit_column(&task(containers)), expect);
        check(vec![], "-");
        check(vec![container("app", None, None)], "-");
        check(vec![container("app", Some(3), None)], "3");
        check(vec![container("side", Some(137), None), container("app", Some(0), None)], "app:0,side:137");
        check(vec![container("side", None, None), container("app", Some(0), None)], "app:0");
    }

    #[test]
    fn reasons_are_said_once() {
        let oom = "OutOfMemoryError: Container killed due to memory usage";
        let task = ecs::Task {
            stopped_reason: Some("Essential container in task exited".into()),
            ..task(vec![
                container("a", None, Some(oom)),
                container("b", None, Some(oom)),
                container("c", None, None),
            ])
        };
        assert_eq!(reason(&task), format!("Essential container in task exited; {oom}"));
        assert_eq!(reason(&ecs::Task::default()), "");
    }

    #[test]
    fn ages_and_spans_are_short() {
        let check = |seconds: i64, expect: &str| {
            let since = Timestamp::from_millis(1_000_000);
            assert_eq!(age(Some(since), 1_000_000 + seconds * 1000 + 999), expect);
        };
        for (seconds, expect) in [
            (-5, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3599, "59m"),
            (3600, "1h"),
            (86_399, "23h"),
            (200_000, "2d"),
        ] {
            check(seconds, expect);
        }
        assert_eq!(age(None, 5), "-");
        for (us, expect) in [
            (0, "0 µs"),
            (999, "999 µs"),
            (1234, "1.23 ms"),
            (9_996, "10.0 ms"),
            (45_678, "45.7 ms"),
            (678_901, "679 ms"),
            (1_000_000, "1.00 s"),
            (61_000_000, "61.0 s"),
        ] {
            assert_eq!(span(us), expect);
        }
    }

    #[test]
    fn sizes_and_short_spans() {
        let check = |bytes, expect| assert_eq!(size(bytes), expect);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1536, "1.5 KiB");
        check(5 << 40, "5120.0 GiB");
        assert_eq!((span_ns(999), span_ns(1_000)), ("999 ns".to_owned(), "1 µs".to_owned()));
    }

    #[test]
    fn ports_are_where_they_can_be_reached() {
        let bound = |host: i32, container: i32| ecs::NetworkBinding {
            host_port: Some(host),
            container_port: Some(container),
            ..Default::default()
        };
        let with = |bindings| ecs::Container { network_bindings: Some(bindings), ..Default::default() };
        assert_eq!(ports(&[]), "");
        assert_eq!(ports(&[with(vec![])]), "");
        assert_eq!(ports(&[with(vec![bound(8080, 80)]), with(vec![bound(1, 2)])]), "8080->80,1->2");
    }

    #[test]
    fn phases_come_in_the_order_of_a_start() {
        let attribute = |name: &str, value: &str| ecs::Attribute {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            ..Default::default()
        };
        let attributes = vec![
            attribute("neargate.start-us", "7"),
            attribute("neargate.queue-us", "1"),
            attribute("neargate.image-us", "many"),
            attribute("ecs.cpu-architecture", "arm64"),
        ];
        let task = ecs::Task { attributes: Some(attributes), ..Default::default() };
        assert_eq!(phases(&task), [("queue", 1), ("start", 7)]);
        assert_eq!(last_part("arn:aws:ecs:r:1:task-definition/web:3"), "web:3");
    }
}
