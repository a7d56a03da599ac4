//! Tasks with interfaces come and go by the thousand, and leave the router as it was.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use neargate_tests::client::Api;
use neargate_tests::leaks::Snapshot;
use neargate_tests::router::Router;
use neargate_tests::{Server, eventually};
use serde_json::json;

use crate::long::SETTLE_LIMIT;
use crate::suite::{Case, Needs};
use crate::{furnish, register, start, until_stopped};

pub(crate) const CASES: &[Case] = &[("churn/tasks_with_interfaces", Needs::Root, tasks_with_interfaces)];

/// Tasks that come and go, unless the variable below says how many.
const TASKS: usize = 1_000;
const VARIABLE: &str = "NEARGATE_CHURN";
/// How many there are at a time.
const AT_ONCE: usize = 16;
/// Links that a router may have without a task: loopback, the uplink, those of cells that are ready, and those of networks
/// that are to be used again.
const LINKS_MAX: usize = 2 + 32 + 32;

/// What a router has for the tasks that there are.
#[derive(Debug, PartialEq, Eq)]
struct OfTasks {
    routes: usize,
    neighbours: usize,
    elements: usize,
    connections: usize,
    /// Interfaces that the EC2 API tells of.
    interfaces: usize,
}

impl OfTasks {
    fn count(router: &Router, server: &Server) -> Result<Self> {
        let count = router.run(&["sysctl", "-n", "net.netfilter.nf_conntrack_count"])?;
        let described = server.client().post(
            Api::Ec2,
            "DescribeNetworkInterfaces",
            b"Action=DescribeNetworkInterfaces&Version=2016-11-15",
        )?;
        ensure!(described.status == 200, "describe interfaces: {}", described.status);
        let described = String::from_utf8_lossy(&described.body).matches("<networkInterfaceId>").count();
        Ok(Self {
            routes: router.lines(&["ip", "route", "show"])?,
            neighbours: router.lines(&["ip", "neigh", "show", "nud", "permanent"])?,
            elements: router
                .run(&["nft", "list", "map", "inet", "neargate", "policies"])?
                .matches(" : 0x")
                .count(),
            connections: count.trim().parse().context("read the number of connections")?,
            interfaces: described,
        })
    }
}

fn tasks_with_interfaces() -> Result<()> {
    let count = std::env::var(VARIABLE).map_or(Ok(TASKS), |text| text.parse()).context(VARIABLE)?;
    let before = Snapshot::take();
    let mut server = Server::start()?;
    furnish(&server)?;
    register(&mut server.client(), "churn", "busybox", &["true"])?;
    churn(&server, 2 * AT_ONCE)?;
    let router = Router::of(&server)?;
    let settled = || OfTasks::count(&router, &server).ok().filter(|of_tasks| of_tasks.interfaces == 0);
    let morning = eventually(SETTLE_LIMIT, settled).context("interfaces are left after a few tasks")?;
    let begun = Instant::now();
    churn(&server, count)?;
    println!("{count} tasks, {:.0} a second", count as f64 / begun.elapsed().as_secs_f64());
    let is_as_before = || (OfTasks::count(&router, &server).ok()? == morning).then_some(());
    let settled = eventually(SETTLE_LIMIT, is_as_before);
    assert!(settled.is_some(), "before {morning:?}, after {:?}", OfTasks::count(&router, &server));
    let links = router.lines(&["ip", "-oneline", "link", "show"])?;
    assert!(links <= LINKS_MAX, "{links} links in the router, {}", router.run(&["ip", "-oneline", "link"])?);
    server.stop()?;
    let left = before.settle(SETTLE_LIMIT);
    assert!(left.is_ok(), "left when the server had ended: {left:?}");
    Ok(())
}

/// Runs so many tasks, several at a time.
fn churn(server: &Server, count: usize) -> Result<()> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            let mut client = server.client();
            while next.fetch_add(1, Ordering::Relaxed) < count {
                let arn = start(&mut client, "churn", 1)?.remove(0);
                let task = until_stopped(&mut client, &arn)?;
                ensure!(task["containers"][0]["exitCode"] == json!(0), "{task}");
            }
            Ok(())
        };
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })
}
