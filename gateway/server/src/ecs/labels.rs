//! Docker labels that mean something here: `neargate.wasm.…` say how a Wasm image is run,
//! `neargate.timeout-s` how long a task may, and `neargate.network-mbps` how fast its network is.
//!
//! Task definitions have no field of their own for that, and labels are what AWS's tools pass through
//! unchanged. Other labels are kept and shown again, and mean nothing.

use std::collections::BTreeMap;

use neargate_model::policy::HostNamespace;
use neargate_model::{ContainerName, NetworkMode, Policy, TaskShape, WasmIsolation, WasmOptions};
use neargate_wire::ecs::EcsError;

use super::error::client;

/// Labels that begin like this are ours, and an unknown one is a mistake.
const OURS: &str = "neargate.";

/// What all known labels begin with.
const WASM: &str = "neargate.wasm.";

/// Seconds after the start of its first container at which the task is stopped.
const TIMEOUT: &str = "neargate.timeout-s";

/// Megabits a second that may leave the task's interface, and as many that may come in.
const BANDWIDTH: &str = "neargate.network-mbps";

/// Labels that are about the task.
const OF_TASK: [&str; 2] = [TIMEOUT, BANDWIDTH];

/// The known labels, after [`WASM`].
const KNOWN: [&str; 9] = [
    "isolation",
    "export",
    "reuse",
    "grants",
    "config.NAME",
    "cpu-budget-ms",
    "network",
    "core-dump",
    "profile",
];

/// Names and values of `wasi:config` may not be longer than this, in bytes.
const CONFIG_BYTES_MAX: usize = 4096;

/// How a container's labels want a Wasm image to be run.
pub(super) fn wasm_options(
    labels: &BTreeMap<String, String>,
    name: &ContainerName,
    policy: &Policy,
) -> Result<WasmOptions, EcsError> {
    let mut options = WasmOptions::default();
    let is_ours = |label: &str| label.starts_with(OURS) && !OF_TASK.contains(&label);
    for (label, value) in labels.iter().filter(|(label, _)| is_ours(label)) {
        let setting = label.strip_prefix(WASM).unwrap_or_default();
        set(&mut options, setting, value, policy).map_err(|why| refuse(name, label, value, &why))?;
    }
    if options.export.is_some() && options.reuse.is_some() {
        let why = "a function that is exported by name is called once; leave one of the two labels away";
        let label = format!("{WASM}reuse");
        return Err(refuse(name, &label, labels.get(&label).map_or("", String::as_str), why));
    }
    Ok(options)
}

/// How long the labels of a container let its task run, in seconds.
pub(super) fn timeout_s(
    labels: Option<&BTreeMap<String, String>>,
    name: &ContainerName,
) -> Result<Option<u32>, EcsError> {
    let Some(value) = labels.and_then(|labels| labels.get(TIMEOUT)) else { return Ok(None) };
    let seconds = number(value, u64::from(TaskShape::TIMEOUT_S_MAX));
    seconds.map(|seconds| u32::try_from(seconds).ok()).map_err(|why| refuse(name, TIMEOUT, value, &why))
}

/// How many megabits the labels of a container let pass its task's interface each second, each way.
pub(super) fn network_mbps(
    labels: Option<&BTreeMap<String, String>>,
    name: &ContainerName,
    mode: NetworkMode,
) -> Result<Option<u32>, EcsError> {
    let Some(value) = labels.and_then(|labels| labels.get(BANDWIDTH)) else { return Ok(None) };
    let mbps = match mode {
        NetworkMode::Awsvpc => number(value, u64::from(TaskShape::NETWORK_MBPS_MAX)),
        NetworkMode::Bridge | NetworkMode::Host | NetworkMode::None => {
            Err("a task has an interface of its own with networkMode awsvpc only".to_owned())
        }
    };
    mbps.map(|mbps| u32::try_from(mbps).ok()).map_err(|why| refuse(name, BANDWIDTH, value, &why))
}

fn refuse(name: &ContainerName, label: &str, value: &str, why: &str) -> EcsError {
    client(format!("Invalid 'dockerLabels' of container '{name}': {label:.128} = {value:.128?}: {why}."))
}

fn set(options: &mut WasmOptions, setting: &str, value: &str, policy: &Policy) -> Result<(), String> {
    if let Some(name) = setting.strip_prefix("config.") {
        if name.is_empty() || name.len() + value.len() > CONFIG_BYTES_MAX {
            return Err(format!("a name, and at most {CONFIG_BYTES_MAX} bytes with its value, are needed"));
        }
        options.config.push((name.to_owned(), value.to_owned()));
        return Ok(());
    }
    match setting {
        "isolation" => options.isolation = isolation(value)?,
        "export" if value.is_empty() => return Err("the name of an exported function is needed".to_owned()),
        "export" => options.export = Some(value.to_owned()),
        "reuse" => options.reuse = Some(number(value, u64::from(WasmOptions::REUSE_MAX))? as u32),
        "grants" => options.grants = grants(value)?,
        "cpu-budget-ms" => options.cpu_budget_ms = Some(number(value, WasmOptions::CPU_BUDGET_MS_MAX)?),
        "network" => {
            options.host_network = is_of_host(value, policy)?;
            options.no_network = !options.host_network;
        }
        "core-dump" => options.no_core_dump = !is_true(value)?,
        "profile" => options.profile = is_true(value)?,
        _ => {
            return Err(format!(
                "there is no such label; known are {WASM}{}, {}",
                KNOWN.join(&format!(", {WASM}")),
                OF_TASK.join(", ")
            ));
        }
    }
    Ok(())
}

fn isolation(value: &str) -> Result<WasmIsolation, String> {
    match value {
        "shared" => Ok(WasmIsolation::Shared),
        "thread" => Ok(WasmIsolation::Thread),
        "process" => Ok(WasmIsolation::Process),
        _ => Err("known are shared, thread and process".to_owned()),
    }
}

fn number(value: &str, max: u64) -> Result<u64, String> {
    match value.parse() {
        Ok(number) if (1..=max).contains(&number) => Ok(number),
        _ => Err(format!("a whole number between 1 and {max} is needed")),
    }
}

/// A list with commas; each interface once, however often it is named.
fn grants(value: &str) -> Result<Vec<String>, String> {
    let mut grants: Vec<String> = Vec::new();
    for grant in value.split(',').map(str::trim) {
        if !WasmOptions::GRANTS.contains(&grant) {
            return Err(format!(
                "{grant:.64?} cannot be granted; known are {}",
                WasmOptions::GRANTS.join(", ")
            ));
        }
        if !grants.iter().any(|earlier| earlier == grant) {
            grants.push(grant.to_owned());
        }
    }
    Ok(grants)
}

/// Whether a network is the host's, or else none.
fn is_of_host(value: &str, policy: &Policy) -> Result<bool, String> {
    match value {
        "none" => Ok(false),
        "host" if policy.shares(HostNamespace::Network) => Ok(true),
        "host" => {
            Err("the operator does not allow it; `neargate serve --allow-host-network` does".to_owned())
        }
        _ => Err("known are none and host".to_owned()),
    }
}

fn is_true(value: &str) -> Result<bool, String> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("known are true and false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(labels: &[(&str, &str)], host_network: bool) -> Result<WasmOptions, String> {
        let labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let name = ContainerName::new("main").unwrap();
        let host_namespaces = if host_network { vec![HostNamespace::Network] } else { Vec::new() };
        let policy = Policy { host_namespaces, ..Policy::default() };
        wasm_options(&labels, &name, &policy).map_err(|error| match error {
            EcsError::Client { message } => message,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn labels_say_how_wasm_is_run() {
        let check = |labels: &[(&str, &str)], expect: WasmOptions| {
            assert_eq!(read(labels, true), Ok(expect), "{labels:?}");
        };
        let plain = WasmOptions::default;
        check(&[], plain());
        check(&[("com.example", "x"), ("neargate", "x")], plain());
        check(&[("neargate.wasm.isolation", "shared")], plain());
        check(
            &[("neargate.wasm.isolation", "thread")],
            WasmOptions { isolation: WasmIsolation::Thread, ..plain() },
        );
        check(&[("neargate.wasm.reuse", "1000000")], WasmOptions { reuse: Some(1_000_000), ..plain() });
        check(&[("neargate.wasm.export", "add")], WasmOptions { export: Some("add".to_owned()), ..plain() });
        check(
            &[("neargate.wasm.grants", "wasi:config, wasi:keyvalue,wasi:config")],
            WasmOptions { grants: vec!["wasi:config".to_owned(), "wasi:keyvalue".to_owned()], ..plain() },
        );
        check(
            &[("neargate.wasm.config.b", "2"), ("neargate.wasm.config.a", "")],
            WasmOptions {
                config: vec![("a".to_owned(), String::new()), ("b".to_owned(), "2".to_owned())],
                ..plain()
            },
        );
        check(&[("neargate.wasm.cpu-budget-ms", "250")], WasmOptions { cpu_budget_ms: Some(250), ..plain() });
        check(&[("neargate.wasm.network", "host")], WasmOptions { host_network: true, ..plain() });
        check(&[("neargate.wasm.network", "none")], WasmOptions { no_network: true, ..plain() });
        check(
            &[("neargate.wasm.core-dump", "false"), ("neargate.wasm.profile", "true")],
            WasmOptions { no_core_dump: true, profile: true, ..plain() },
        );
    }

    #[test]
    fn a_timeout_is_a_number_of_seconds() {
        let name = ContainerName::new("main").unwrap();
        let read = |value: &str| {
            let labels = [(TIMEOUT.to_owned(), value.to_owned())].into();
            assert_eq!(read(&[(TIMEOUT, value)], false), Ok(WasmOptions::default()));
            timeout_s(Some(&labels), &name).map_err(|error| format!("{error:?}"))
        };
        assert_eq!(read("90"), Ok(Some(90)));
        assert_eq!(timeout_s(None, &name), Ok(None));
        for bad in ["0", "-1", "1.5", "", "31622401"] {
            assert!(read(bad).unwrap_err().contains("neargate.timeout-s"), "{bad}");
        }
    }

    #[test]
    fn a_limit_is_a_number_of_megabits() {
        let name = ContainerName::new("main").unwrap();
        let read = |value: &str, mode| {
            let labels = [(BANDWIDTH.to_owned(), value.to_owned())].into();
            assert_eq!(read(&[(BANDWIDTH, value)], false), Ok(WasmOptions::default()));
            network_mbps(Some(&labels), &name, mode).map_err(|error| format!("{error:?}"))
        };
        assert_eq!(read("100000", NetworkMode::Awsvpc), Ok(Some(100_000)));
        assert_eq!(network_mbps(None, &name, NetworkMode::Bridge), Ok(None));
        for bad in ["0", "-1", "0.5", "", "20M", "100001"] {
            let message = read(bad, NetworkMode::Awsvpc).unwrap_err();
            assert!(
                message.contains("neargate.network-mbps") && message.contains("1 and 100000"),
                "{message}"
            );
        }
        for mode in [NetworkMode::Bridge, NetworkMode::Host, NetworkMode::None] {
            assert!(read("20", mode).unwrap_err().contains("networkMode awsvpc only"), "{mode:?}");
        }
    }

    #[test]
    fn wrong_labels_are_refused_by_name() {
        let check = |label: &str, value: &str, expect: &str| {
            let message = read(&[(label, value)], false).unwrap_err();
            let begin = format!("Invalid 'dockerLabels' of container 'main': {label} = {value:?}: ");
            assert!(message.starts_with(&begin) && message.contains(expect), "{message}");
        };
        check("neargate.wasm.isolatoin", "shared", "known are neargate.wasm.isolation, neargate.wasm.export");
        check("neargate.other", "x", "there is no such label");
        check("neargate.wasm.isolation", "vm", "shared, thread and process");
        check("neargate.wasm.isolation", "Shared", "shared, thread and process");
        check("neargate.wasm.export", "", "name of an exported function");
        check("neargate.wasm.reuse", "0", "between 1 and 1000000");
        check("neargate.wasm.reuse", "1000001", "between 1 and 1000000");
        check("neargate.wasm.reuse", "many", "between 1 and 1000000");
        check("neargate.wasm.grants", "wasi:nn", "\"wasi:nn\" cannot be granted");
        check("neargate.wasm.grants", "", "\"\" cannot be granted");
        check("neargate.wasm.config.", "x", "a name");
        check("neargate.wasm.cpu-budget-ms", "-1", "whole number");
        check("neargate.wasm.network", "host", "--allow-host-network");
        check("neargate.wasm.network", "bridge", "none and host");
        check("neargate.wasm.core-dump", "yes", "true and false");
        check("neargate.wasm.profile", "", "true and false");
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        let labels = [("neargate.wasm.export", "add"), ("neargate.wasm.reuse", "5")];
        assert!(read(&labels, false).unwrap_err().contains("neargate.wasm.reuse = \"5\""));
    }
}
