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
/// What is to be gone is gone within this.
pub(crate) const SETTLE_LIMIT: Duration = Duration::from_secs(30);

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
    let morning = Measured::take(&server);
    run(count)?;
    morning.assert_kept(&server);
    server.stop()?;
    let left = before.settle(SETTLE_LIMIT);
    assert!(left.is_ok(), "left when the server had ended: {left:?}");
    Ok(())
}

/// What the machine and a server's processes hold at one moment.
#[derive(Debug)]
pub(crate) struct Measured {
    snapshot: Snapshot,
    footprint: Footprint,
}

impl Measured {
    /// Looks now.
    pub(crate) fn take(server: &Server) -> Self {
        Self { snapshot: Snapshot::take(), footprint: footprint(server.pid()) }
    }

    /// Waits until no more is held than then.
    #[track_caller]
    pub(crate) fn assert_kept(&self, server: &Server) {
        let settled = eventually(SETTLE_LIMIT, || Self::take(server).is_within(self).then_some(()));
        if settled.is_none() {
            let (now, grown) = (Self::take(server), self.snapshot.grown());
            panic!("before {:?}, after all tasks {:?}; new are {grown:#?}", self.footprint, now.footprint);
        }
    }

    fn is_within(&self, then: &Self) -> bool {
        let (now, before) = (self.snapshot.counts(), then.snapshot.counts());
        let counts = now.iter().zip(&before).all(|((_, now), (_, then))| now <= then);
        let (now, then) = (&self.footprint, &then.footprint);
        counts
            && now.processes <= then.processes
            && now.descriptors <= then.descriptors + DESCRIPTORS_MAX
            && now.resident_kib <= then.resident_kib + GROWTH_KIB_MAX
    }
}
