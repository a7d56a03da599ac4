//! How much passes the interface of a task that has a limit, and of others.

use std::time::{Duration, Instant};

use neargate_driver::{SandboxHost, SandboxNetwork};
use neargate_model::Traffic;

use crate::cases;
use crate::fixture::{Fixture, Task, eventually};
use crate::network::{contents, from_anywhere, interface, routers, rules, run_in, vpc, vpcs};

cases![limits_of_interfaces_hold];

/// A megabyte a second.
const MBPS: u32 = 8;
/// The router lets one second's worth pass at once, so that this takes two seconds.
const SENT_BYTES: u32 = 3_000_000;
/// Half of what it takes with the limit.
const LONG: Duration = Duration::from_secs(1);
/// Tells everybody how much has come, when all has.
const SINK: &str = "while :; do nc -l -p 99 -e wc -c; done & echo ready; wait";

/// How long a task takes to send to another.
async fn send(task: &Task<'_>, address: &str) -> Duration {
    let begun = Instant::now();
    // A listener that is between two connections refuses.
    let send = format!("head -c {SENT_BYTES} /dev/zero | nc {address} 99 | grep .");
    let script = format!("for i in 1 2 3 4 5; do {send} && exit; sleep 0.1; done");
    assert_eq!(task.sh(&script).await.text(), SENT_BYTES.to_string(), "to {address}");
    begun.elapsed()
}

async fn limits_of_interfaces_hold(fixture: &Fixture) {
    let client = &fixture.client;
    client.set_groups(&[rules('a', vec![from_anywhere(Traffic::All)])], &vpcs()).await.unwrap();
    let narrow = |address| SandboxNetwork::Vpc {
        interface: Box::new(interface(address, &['a'])),
        mbps: Some(MBPS),
        managed: false,
    };
    let limited = fixture.task_on_network(client, narrow([10, 77, 2, 1])).await;
    let free = fixture.task_on_network(client, vpc([10, 77, 2, 2], &['a'], false)).await;
    let other = fixture.task_on_network(client, vpc([10, 77, 2, 3], &['a'], false)).await;
    let (_of_limited, _) = limited.start_ready(SINK, |_| {}).await;
    let (_of_free, _) = free.start_ready(SINK, |_| {}).await;
    let unlimited = send(&other, "10.77.2.2").await;
    let (sent, received) = (send(&limited, "10.77.2.2").await, send(&other, "10.77.2.1").await);
    println!(
        "{SENT_BYTES} bytes: {unlimited:?} without a limit, {sent:?} and {received:?} with {MBPS} Mbit/s"
    );
    assert!(sent > LONG && received > LONG, "{sent:?}, {received:?}");
    assert!(unlimited * 2 < sent, "{unlimited:?}, {sent:?}");
    // Rules that somebody removes come back with it.
    let router = routers().into_iter().find(|router| contents(*router).contains("10.77.2.1 ")).unwrap();
    let is_limited = || contents(router).contains(r#" : "sent_ng"#);
    assert!(is_limited());
    run_in(router, &["nft", "flush", "map", "inet", "neargate", "sent"]);
    eventually("the limit comes back", is_limited).await;
    assert!(send(&limited, "10.77.2.2").await > LONG);
    // It goes with the task.
    limited.release().await;
    assert!(!contents(router).contains("sent_ng"));
    for task in [free, other] {
        task.release().await;
    }
}
