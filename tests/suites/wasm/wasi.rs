//! Clocks, random numbers, arguments, environment, exit codes, and waiting.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use neargate_tests::cli::Cli;

use crate::suite::{Case, Needs};
use crate::{component, guests, module};

pub(crate) const CASES: &[Case] = &[
    ("wasi/arguments_are_exact", Needs::Wasm, arguments_are_exact),
    ("wasi/environment_is_exact", Needs::Wasm, environment_is_exact),
    ("wasi/exit_codes", Needs::Wasm, exit_codes),
    ("wasi/clocks", Needs::Wasm, clocks),
    ("wasi/sleep_takes_its_time", Needs::Wasm, sleep_takes_its_time),
    ("wasi/random_differs", Needs::Wasm, random_differs),
    ("wasi/timers_in_order", Needs::Wasm, timers_in_order),
];

fn arguments_are_exact() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        let arguments = ["args", "", "two words", "--quiet", "漢字", "a\nb", "$HOME", "'\""];
        let finished = cli.run(&[&["--quiet", &image, "--"], &arguments[..]].concat())?;
        assert_eq!(finished.text(), format!("{arguments:?}\n"), "{}", finished.stderr);
    }
    Ok(())
}

/// What the task is given and nothing of the host's; what Neargate adds has the names that ECS adds.
fn environment_is_exact() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        let arguments = ["--env", "A=b=c", "--env", "EMPTY=", "--env", "HOME=/x", "--env", "N=漢字"];
        let mut command = cli.run_command(&[&arguments[..], &[&image, "--", "env"]].concat());
        command.env("SECRET_OF_THE_HOST", "x");
        let finished = neargate_tests::process::run(&mut command, b"", neargate_tests::cli::LIMIT)?;
        let text = finished.text();
        let own: Vec<&str> =
            text.lines().filter(|line| !line.starts_with("ECS_") && !line.starts_with("AWS_")).collect();
        assert_eq!(own, ["A=\"b=c\"", "EMPTY=\"\"", "HOME=\"/x\"", "N=\"漢字\""], "{}", finished.stderr);
    }
    Ok(())
}

/// Preview 1 has numbers; `wasi:cli/exit` of WASI 0.2 knows success and failure, unless a code is given to it.
fn exit_codes() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for code in ["0", "1", "3", "125"] {
        let finished = cli.run(&[&module()?, "--", "exit-at-once", code])?;
        assert_eq!(finished.code.to_string(), code, "{}", finished.stderr);
        let finished = cli.run(&[&component()?, "--", "exit-at-once", code])?;
        assert_eq!(finished.code != 0, code != "0", "{code} became {}", finished.code);
    }
    for image in guests()? {
        assert_eq!(cli.run(&[&image, "--", "exit", "0"])?.code, 0);
        assert_ne!(cli.run(&[&image, "--", "exit", "7"])?.code, 0);
    }
    Ok(())
}

fn clocks() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let before = now();
        let finished = cli.run(&["--quiet", &image, "--", "clocks"])?;
        let after = now();
        let text = finished.text();
        let lines: Vec<&str> = text.lines().collect();
        let wall = lines.first().and_then(|line| line.strip_prefix("wall: ")).context(finished.stderr)?;
        let wall: u64 = wall.parse()?;
        assert!((before..=after).contains(&wall), "{wall} is not between {before} and {after}");
        assert_eq!(lines[1..], ["monotonic: true", "moves: true"]);
    }
    Ok(())
}

fn sleep_takes_its_time() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        let finished = cli.run(&["--quiet", &image, "--", "sleep", "300"])?;
        let slept_ms: u64 = finished.text().trim().parse().context(finished.stderr)?;
        assert!(slept_ms >= 300, "it slept {slept_ms} ms by its own clock");
        assert!(finished.elapsed.as_millis() >= 300, "it took {:?} by ours", finished.elapsed);
    }
    Ok(())
}

fn random_differs() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..8 {
            let finished = cli.run(&["--quiet", &image, "--", "random"])?;
            let number = finished.text().trim().to_owned();
            assert_eq!(number.len(), 16, "{number:?}: {}", finished.stderr);
            assert!(seen.insert(number), "a number came twice: {seen:?}");
        }
    }
    Ok(())
}

fn timers_in_order() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let finished = cli.run(&["--quiet", &component()?, "--", "timers"])?;
    assert_eq!(finished.text(), "fast\nmiddle\nslow\n", "{}", finished.stderr);
    Ok(())
}
