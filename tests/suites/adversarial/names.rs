//! Row 84: tasks that ask the resolver too much, or what is no question.

use anyhow::{Context as _, Result, ensure};

use crate::expect::expect;
use crate::lab::lab;
use crate::suite::{Case, Needs};

pub(crate) const CASES: &[Case] = &[
    ("row_84_no_questions", Needs::Root, row_84_no_questions),
    ("row_84_flood_of_questions", Needs::Root, row_84_flood_of_questions),
];

/// The most that the server may grow while a task floods its resolver, in bytes: its caches are 8 MiB, and what it asks
/// of others at a time has some KiB each.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// What is answered to messages that are malformed, or ask for what nobody is told.
fn row_84_no_questions() -> Result<()> {
    expect(include_str!("expected/names.txt"), &lab()?.run(&["names"])?)
}

/// A task that asks all that it can has few connections and few answers, and its neighbour is answered all the same.
fn row_84_flood_of_questions() -> Result<()> {
    let lab = lab()?;
    let before = resident_bytes(lab.server.pid())?;
    let flood = lab.start(&lab.definition(&["names-flood"]))?;
    let said = flood.until_printed("held")?;
    expect("connections that are answered: 8\na flood: cut down", &said)?;
    expect(include_str!("expected/names.txt"), &lab.run(&["names"])?)?;
    let grown = resident_bytes(lab.server.pid())?.saturating_sub(before);
    ensure!(grown < GROWTH_BYTES_MAX, "the server grew by {grown} bytes");
    flood.stop()?;
    Ok(())
}

/// Memory of a process (proc_pid_status(5)).
fn resident_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).with_context(|| text.clone())?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
