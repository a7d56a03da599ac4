//! A process that appends is killed with -9, several times over the same directory.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use neargate_model::Timestamp;
use neargate_telemetry::{Appended, Create, GetQuery, LogStore, LogStoreConfig};

use crate::{now, scope};

const STREAMS: usize = 8;
const DIR: &str = "NEARGATE_TEST_LOG_DIR";
const ROUND: &str = "NEARGATE_TEST_LOG_ROUND";

fn config() -> LogStoreConfig {
    LogStoreConfig { segment_bytes: 256 << 10, ..LogStoreConfig::default() }
}

fn line(round: usize, number: usize) -> String {
    format!("{round} {number} {}", "payload ".repeat(number % 13))
}

/// The process to be killed: appends lines to eight streams in turn, never flushes, and reports how many the
/// writer thread says are with the kernel. Lines reach it in order, so a count says which.
#[test]
#[ignore = "the child of lines_with_the_kernel_survive_kill_9"]
fn child() {
    let dir = std::env::var(DIR).expect("run by its parent only");
    let round: usize = std::env::var(ROUND).unwrap().parse().unwrap();
    let store = LogStore::open(dir, config()).unwrap();
    let open = |i| store.open_writer(&scope(), "g", &format!("s{i}"), Create::GroupAndStream).unwrap();
    let writers: Vec<_> = (0..STREAMS).map(open).collect();
    let mut out = std::io::stdout();
    let mut reported = 0;
    for number in 0.. {
        let writer = &writers[number % STREAMS];
        let appended = writer.append_blocking(Timestamp(now()), line(round, number).as_bytes());
        assert_eq!(appended, Appended::Queued);
        let written = store.stats().events_written;
        if written > reported {
            reported = written;
            writeln!(out, "\nwritten {written} of {number}").unwrap();
            out.flush().unwrap();
        }
    }
}

fn spawn(dir: &std::path::Path, round: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["crash::child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills the child after some reports; returns the last count that it reported.
fn run_and_kill(dir: &std::path::Path, round: usize, lines_min: usize) -> usize {
    let mut child = spawn(dir, round);
    let mut written = 0;
    let mut killed = false;
    // Reports that were in the pipe when the child died count too.
    for report in BufReader::new(child.stdout.take().unwrap()).lines() {
        let report = report.unwrap();
        if let Some(count) = report.strip_prefix("written ").and_then(|rest| rest.split(' ').next()) {
            written = count.parse().unwrap();
        }
        if written >= lines_min && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(killed, "the child ended by itself");
    written
}

#[test]
fn lines_with_the_kernel_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut before = vec![Vec::new(); STREAMS];
    for (round, lines_min) in [1, 700, 5_000, 20_000].into_iter().enumerate() {
        let written = run_and_kill(dir.path(), round, lines_min);
        let store = LogStore::open(dir.path(), config()).unwrap();
        let mut survived = 0;
        for (stream, earlier) in before.iter_mut().enumerate() {
            let found = all_messages(&store, &format!("s{stream}"));
            let (old, new) = found.split_at(earlier.len());
            assert!(old == earlier.as_slice(), "round {round}: lines of earlier rounds changed");
            for (i, message) in new.iter().enumerate() {
                assert_eq!(*message, line(round, i * STREAMS + stream), "round {round}");
            }
            survived += new.len();
            *earlier = found;
        }
        assert!(survived >= written, "round {round}: {survived} of {written} lines");
    }
}

fn all_messages(store: &LogStore, stream: &str) -> Vec<String> {
    let mut query = GetQuery { start_from_head: true, ..GetQuery::default() };
    let mut messages = Vec::new();
    loop {
        let page = store.get_events(&scope(), "g", stream, &query).unwrap();
        if page.events.is_empty() {
            return messages;
        }
        messages.extend(page.events.into_iter().map(|event| event.message));
        query.token = Some(page.next_forward_token);
    }
}
