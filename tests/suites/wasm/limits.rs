//! Limits, each driven over its edge, and up to it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use neargate_tests::cli::Cli;
use neargate_tests::process::Finished;
use serde_json::Value;

use crate::suite::{Case, Needs};
use crate::{KILLED, TRAP, guests};

pub(crate) const CASES: &[Case] = &[
    ("limits/memory", Needs::Wasm, memory),
    ("limits/cpu_budget", Needs::Wasm, cpu_budget),
    ("limits/cpu_share", Needs::Wasm, cpu_share),
    ("limits/timeout", Needs::Wasm, timeout),
    ("limits/recursion", Needs::Wasm, recursion),
    ("limits/usage_is_reported", Needs::Wasm, usage_is_reported),
];

/// The last line of standard error, which `--json` writes.
fn record(finished: &Finished) -> Result<Value> {
    let last = finished.stderr.lines().last().unwrap_or_default();
    serde_json::from_str(last).with_context(|| format!("read {last:?}"))
}

/// A number of the record, wherever it lies in it.
fn number(record: &Value, name: &str) -> Option<u64> {
    match record {
        Value::Object(fields) => fields
            .get(name)
            .and_then(Value::as_u64)
            .or_else(|| fields.values().find_map(|field| number(field, name))),
        Value::Array(items) => items.iter().find_map(|item| number(item, name)),
        _ => None,
    }
}

fn memory() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        let within = cli.run(&["--quiet", "--memory", "64", &image, "--", "take", "40"])?;
        assert_eq!((within.text().as_str(), within.code), ("took 40\n", 0), "{}", within.stderr);
        let over = cli.run(&["--memory", "64", &image, "--", "take", "80"])?;
        assert_eq!((over.text().as_str(), over.code), ("", KILLED), "{}", over.stderr);
        assert!(over.stderr.contains("OutOfMemoryError"), "the reason is not said: {:?}", over.stderr);
        let unlimited = cli.run(&["--quiet", &image, "--", "take", "80"])?;
        assert_eq!((unlimited.text().as_str(), unlimited.code), ("took 80\n", 0), "{}", unlimited.stderr);
    }
    Ok(())
}

/// What waits uses no CPU time.
fn cpu_budget() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        let within = cli.run(&["--quiet", "--cpu-budget", "20", &image, "--", "burn", "50"])?;
        assert_eq!((within.text().as_str(), within.code), ("burnt\n", 0), "{}", within.stderr);
        let waiting = cli.run(&["--quiet", "--cpu-budget", "0.3", &image, "--", "sleep", "600"])?;
        assert_eq!(waiting.code, 0, "{}", waiting.stderr);
        let over = cli.run(&["--cpu-budget", "0.2", &image, "--", "burn", "30000"])?;
        assert_eq!((over.text().as_str(), over.code), ("", KILLED), "{}", over.stderr);
        assert!(over.stderr.contains("CPU"), "the reason is not said: {:?}", over.stderr);
        assert!(over.elapsed < Duration::from_secs(20), "it ran for {:?}", over.elapsed);
    }
    Ok(())
}

/// Over its share a task is slowed down, not ended.
fn cpu_share() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        let finished = cli.run(&["--quiet", "--json", "--cpu", "256", &image, "--", "burn", "2000"])?;
        assert_eq!((finished.text().as_str(), finished.code), ("burnt\n", 0), "{}", finished.stderr);
        let record = record(&finished)?;
        let cpu_ns = number(&record, "cpu_ns").with_context(|| format!("no CPU time in {record}"))?;
        // A quarter of two seconds, and a period's tolerance at either end.
        assert!((1..900_000_000).contains(&cpu_ns), "it used {cpu_ns} ns of CPU time in 2 s: {record}");
    }
    Ok(())
}

fn timeout() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        for arguments in [["burn", "60000"], ["sleep", "60000"]] {
            let finished = cli.run(&[&["--timeout", "0.5", &image, "--"], &arguments[..]].concat())?;
            assert_eq!((finished.text().as_str(), finished.code), ("", 124), "{}", finished.stderr);
            assert!(finished.elapsed < Duration::from_secs(20), "it ran for {:?}", finished.elapsed);
        }
        let within = cli.run(&["--quiet", "--timeout", "50", &image, "--", "sleep", "10"])?;
        assert_eq!(within.code, 0, "{}", within.stderr);
    }
    Ok(())
}

fn recursion() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for probe in [neargate_tests::fixtures::module(), neargate_tests::fixtures::component()] {
        let finished = cli.run(&[&crate::text(&probe.context("the case needs Wasm")?), "--", "recurse"])?;
        assert_eq!(finished.code, TRAP, "{}", finished.stderr);
        // A guest that keeps its own stack in its memory runs into the end of that first.
        let is_named = ["stack", "out of bounds"].iter().any(|text| finished.stderr.contains(text));
        assert!(is_named, "{:?}", finished.stderr);
    }
    Ok(())
}

fn usage_is_reported() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        let finished = cli.run(&["--quiet", "--json", &image, "--", "take", "32"])?;
        let record = record(&finished)?;
        let of = |name: &str| number(&record, name).with_context(|| format!("no {name} in {record}"));
        assert!(of("memory_peak_bytes")? >= 32 << 20, "{record}");
        assert!(of("memory_peak_bytes")? < 128 << 20, "{record}");
        assert!(of("cpu_ns")? > 0, "{record}");
        assert!(of("instantiate_ns")? > 0, "{record}");
        assert!(of("run_ns")? > 0, "{record}");
        assert_eq!(of("exit_code")?, 0, "{record}");
    }
    Ok(())
}
