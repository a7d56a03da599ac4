//! A long day of tasks leaves the server as it was in the morning.

use std::time::Duration;

use anyhow::Result;
use neargate_tests::leaks::{Footprint, Snapshot, footprint};
use neargate_tests::{Server, eventually};
use serde_json::json;

use crate::suite::{Case, Needs};
use crate::{furnish, register, start, until_stopped};

pub(crate) const CASES: &[Case] = &[
    ("long/a_thousand_wasm_tasks", Needs::Wasm, a_thousand_wasm_tasks),
    ("long/two_hundred_container_tasks", Needs::Root, two_hundred_container_tasks),
];

/// Memory may grow by this much: the records of stopped tasks, which are kept to be described, and the allocator's
/// slack. A leak of one task's memory, or of a page table, a thousand times is far more.
const GROWTH_KIB_MAX: u64 = 48 << 10;
/// Descriptors may differ by this: connections that come and go.
const DESCRIPTORS_MAX: usize = 16;
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

fn a_thousand_wasm_tasks() -> Result<()> {
    many("probe", &["exit", "0"], 100, 1_000)
}

fn two_hundred_container_tasks() -> Result<()> {
    many("busybox", &["true"], 20, 200)
}

/// Runs `warm_up` tasks one after another, looks, runs `count` more, and looks again.
fn many(image: &str, command: &[&str], warm_up: usize, count: usize) -> Result<()> {
    let before = Snapshot::take();
    let mut server = Server::start()?;
    furnish(&server)?;
    let mut client = server.client();
    register(&mut client, "one-of-many", image, command)?;
    let mut run = |times: usize| -> Result<()> {
        for i in 0..times {
            let arn = start(&mut client, "one-of-many", 1)?.remove(0);
            let task = until_stopped(&mut client, &arn)?;
            assert_eq!(task["containers"][0]["exitCode"], json!(0), "task {i}: {task}");
        }
        Ok(())
    };
    run(warm_up)?;
    let morning = (Snapshot::take().counts(), footprint(server.pid()));
    run(count)?;
    let is_as_before = || {
        let evening = (Snapshot::take().counts(), footprint(server.pid()));
        let counts = evening.0.iter().zip(&morning.0).all(|((_, now), (_, then))| now <= then);
        (counts && is_similar(&evening.1, &morning.1)).then_some(())
    };
    let settled = eventually(SETTLE_LIMIT, is_as_before);
    let evening = (Snapshot::take().counts(), footprint(server.pid()));
    assert!(settled.is_some(), "before {morning:?}, after {count} tasks {evening:?}");
    server.stop()?;
    let left = before.settle(SETTLE_LIMIT);
    assert!(left.is_ok(), "left when the server had ended: {left:?}");
    Ok(())
}

fn is_similar(now: &Footprint, then: &Footprint) -> bool {
    now.processes <= then.processes
        && now.descriptors <= then.descriptors + DESCRIPTORS_MAX
        && now.resident_kib <= then.resident_kib + GROWTH_KIB_MAX
}
