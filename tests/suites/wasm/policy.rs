//! What a task must be granted, and the classes of isolation.

use std::fs;

use anyhow::Result;
use neargate_tests::cli::Cli;
use neargate_tests::fixtures::{example, language_example};

use crate::suite::{Case, Needs};
use crate::{guests, text};

pub(crate) const CASES: &[Case] = &[
    ("policy/config_needs_a_grant", Needs::Wasm, config_needs_a_grant),
    ("policy/key_values_need_a_grant_and_last", Needs::Wasm, key_values_need_a_grant_and_last),
    ("policy/unknown_grants_are_refused", Needs::Wasm, unknown_grants_are_refused),
    ("policy/classes_run_alike", Needs::RootAndWasm, classes_run_alike),
    ("policy/unknown_class_is_refused", Needs::Wasm, unknown_class_is_refused),
    ("policy/precompiled_code_is_refused", Needs::Wasm, precompiled_code_is_refused),
];

fn config_needs_a_grant() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let image = text(&example("settings")?);
    let settings = ["--config", "colour=blue", "--config", "a=b=c", "--config", "empty="];
    let finished = cli.run(&[&["--quiet", "--grant", "wasi:config"], &settings[..], &[&image]].concat())?;
    assert_eq!(finished.text(), "a = b=c\ncolour = blue\nempty = \n", "{}", finished.stderr);
    let finished = cli.run(&["--quiet", "--grant", "wasi:config", &image])?;
    assert_eq!((finished.text().as_str(), finished.code), ("", 0), "{}", finished.stderr);
    let denied = cli.run(&[&image])?;
    assert_ne!(denied.code, 0);
    assert!(denied.stderr.contains("wasi:config"), "the import is not named: {:?}", denied.stderr);
    Ok(())
}

fn key_values_need_a_grant_and_last() -> Result<()> {
    let cli = Cli::new()?;
    let image = text(&example("counter")?);
    for run in 1..=3 {
        let finished = cli.run(&["--quiet", "--grant", "wasi:keyvalue", &image])?;
        assert_eq!(finished.text(), format!("run {run}\n"), "{}", finished.stderr);
    }
    let denied = cli.run(&[&image])?;
    assert_ne!(denied.code, 0);
    assert!(denied.stderr.contains("wasi:keyvalue"), "the import is not named: {:?}", denied.stderr);
    // Another grant is not this one.
    let denied = cli.run(&["--grant", "wasi:config", &image])?;
    assert_ne!(denied.code, 0);
    // Another data directory is another store.
    let finished = Cli::new()?.run(&["--quiet", "--grant", "wasi:keyvalue", &image])?;
    assert_eq!(finished.text(), "run 1\n", "{}", finished.stderr);
    Ok(())
}

fn unknown_grants_are_refused() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        let finished = cli.run(&["--grant", "wasi:nn", &image, "--", "exit", "0"])?;
        assert_ne!(finished.code, 0);
        assert!(finished.stderr.contains("wasi:nn"), "{:?}", finished.stderr);
    }
    Ok(())
}

/// One image, three classes: the same bytes, codes, directories and limits.
fn classes_run_alike() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let host = cli.path("shared");
    fs::create_dir(&host)?;
    fs::write(format!("{host}/file"), "inside")?;
    let given = format!("{host}:/data:ro");
    for class in ["shared", "thread", "process"] {
        for image in guests()? {
            let start = ["--quiet", "--isolation", class];
            let finished = cli.run_with(&[&start[..], &[&image, "--", "copy"]].concat(), b"as it is")?;
            assert_eq!(
                (finished.text().as_str(), finished.code),
                ("as it is", 0),
                "{class}: {}",
                finished.stderr
            );
            let finished = cli.run(&[&start[..], &[&image, "--", "panic"]].concat())?;
            assert_eq!(finished.code, crate::TRAP, "{class}: {}", finished.stderr);
            let arguments = ["--memory", "64", &image, "--", "take", "80"];
            let finished = cli.run(&[&start[..], &arguments].concat())?;
            assert_eq!(finished.code, crate::KILLED, "{class}: {}", finished.stderr);
            let arguments = ["--timeout", "0.5", &image, "--", "burn", "60000"];
            let finished = cli.run(&[&start[..], &arguments].concat())?;
            assert_eq!(finished.code, 124, "{class}: {}", finished.stderr);
            let arguments = ["--dir", &given, &image, "--", "file", "read", "/data/file"];
            let finished = cli.run(&[&start[..], &arguments].concat())?;
            assert_eq!(finished.text(), "inside\n", "{class}: {}", finished.stderr);
        }
    }
    Ok(())
}

fn unknown_class_is_refused() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let finished = cli.run(&["--isolation", "vm", &text(&language_example("c/hello")?)])?;
    assert_ne!(finished.code, 0);
    for known in ["vm", "shared", "thread", "process"] {
        assert!(finished.stderr.contains(known), "{known} is not in {:?}", finished.stderr);
    }
    Ok(())
}

/// Machine code in an image would be run without the sandbox's checks.
fn precompiled_code_is_refused() -> Result<()> {
    let cli = Cli::new()?;
    let image = guests()?[0].clone();
    assert_eq!(cli.run(&[&image, "--", "exit", "0"])?.code, 0);
    let compiled = find_elf(cli.data().as_ref())?;
    anyhow::ensure!(!compiled.is_empty(), "the store has no compiled code");
    for file in compiled {
        let copy = cli.path("precompiled.wasm");
        fs::copy(&file, &copy)?;
        let finished = cli.run(&[&copy, "--", "exit", "0"])?;
        assert_eq!(finished.code, 125, "{}", finished.stderr);
        assert!(finished.stderr.contains("precompiled.wasm"), "{:?}", finished.stderr);
    }
    Ok(())
}

fn find_elf(directory: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(find_elf(&path)?);
        } else if fs::read(&path)?.starts_with(b"\x7fELF") {
            found.push(path);
        }
    }
    Ok(found)
}
