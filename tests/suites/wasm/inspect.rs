//! `neargate image inspect`: what is told of a binary is what running it shows.

use std::fs;

use anyhow::{Context as _, Result};
use neargate_tests::cli::Cli;
use neargate_tests::fixtures::{example, language_example};
use serde_json::{Value, json};

use crate::suite::{Case, Needs};
use crate::{component, module, text};

pub(crate) const CASES: &[Case] = &[
    ("inspect/entries", Needs::Wasm, entries),
    ("inspect/functions_have_their_types", Needs::Wasm, functions_have_their_types),
    ("inspect/imports_say_who_gives_them", Needs::Wasm, imports_say_who_gives_them),
    ("inspect/what_can_never_run", Needs::Wasm, what_can_never_run),
    ("inspect/what_is_no_wasm", Needs::Nothing, what_is_no_wasm),
    ("inspect/a_file_and_its_image_are_alike", Needs::Wasm, a_file_and_its_image_are_alike),
];

fn inspect(cli: &Cli, image: &str) -> Result<Value> {
    let finished = cli.image(&["inspect", "--output", "json", image])?;
    anyhow::ensure!(finished.code == 0, "{image}: {}", finished.stderr);
    let shown: Value = serde_json::from_str(&finished.text()).context("read what is said of an image")?;
    Ok(shown["wasm"].clone())
}

fn entries() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let check = |image: &str, binary: &str, runs_as: Option<&str>, also: &[&str]| -> Result<()> {
        let wasm = inspect(&cli, image)?;
        assert_eq!((&wasm["binary"], &wasm["runs_as"]), (&json!(binary), &json!(runs_as)), "{image}");
        assert_eq!(wasm["refused"], Value::Null, "{image}");
        let mut entries: Vec<&str> =
            wasm["entries"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        entries.sort_unstable();
        let mut expect: Vec<&str> = runs_as.iter().chain(also).copied().collect();
        expect.sort_unstable();
        assert_eq!(entries, expect, "{image}");
        Ok(())
    };
    check(&module()?, "module", Some("command"), &[])?;
    check(&component()?, "component", Some("command"), &[])?;
    check(&text(&example("greet")?), "component", None, &[])?;
    check(&text(&example("greet-task")?), "component", Some("command"), &["handler"])?;
    // Rust makes a program of whatever has a `main`.
    check(&text(&example("web")?), "component", Some("http"), &["command"])
}

/// One interface in two languages.
fn functions_have_their_types() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in [example("greet")?, language_example("javascript/greet")?] {
        let wasm = inspect(&cli, &text(&image))?;
        let function = json!({
            "name": "greet",
            "type": "func(name: string, times: u32) -> result<list<string>, string>",
        });
        // The engine that JavaScript is packed with exports a function of its own.
        let functions = wasm["exports"].as_array().context("a list of functions")?;
        assert!(functions.contains(&function), "{}: {functions:?}", image.display());
        let shown = cli.image(&["inspect", &text(&image)])?.text();
        assert!(shown.contains("func(name: string, times: u32)"), "{shown}");
    }
    Ok(())
}

fn imports_say_who_gives_them() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let wasm = inspect(&cli, &text(&example("counter")?))?;
    assert_eq!(wasm["grants"], json!(["wasi:keyvalue"]));
    let import = |wasm: &Value, name: &str| {
        let imports = wasm["imports"].as_array().cloned().unwrap_or_default();
        imports
            .into_iter()
            .find(|import| import["name"].as_str().is_some_and(|found| found.starts_with(name)))
    };
    let store = import(&wasm, "wasi:keyvalue/store@").context("it imports the store")?;
    assert_eq!((&store["offered"], &store["grant"]), (&json!("granted"), &json!("wasi:keyvalue")));
    let stdout = import(&wasm, "wasi:cli/stdout@").context("it imports standard output")?;
    assert_eq!((&stdout["offered"], &stdout["grant"]), (&json!("always"), &Value::Null));
    assert_eq!(stdout["needs_network"], json!(false));
    let wasm = inspect(&cli, &component()?)?;
    assert_eq!(wasm["grants"], json!([]));
    let tcp = import(&wasm, "wasi:sockets/tcp@").context("it imports sockets")?;
    assert_eq!((&tcp["offered"], &tcp["needs_network"]), (&json!("always"), &json!(true)));
    Ok(())
}

/// `(module (import "env" "f" (func)) (func (export "_start")))`
const UNKNOWN_IMPORT: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02\x09\x01\x03env\x01f\0\0\
    \x03\x02\x01\0\x07\x0a\x01\x06_start\0\x01\x0a\x04\x01\x02\0\x0b";
/// `(module)`
const NOTHING: &[u8] = b"\0asm\x01\0\0\0";

/// It is told all the same what they are, and why they do not run.
fn what_can_never_run() -> Result<()> {
    let cli = Cli::new()?;
    let image = cli.path("stranger.wasm");
    fs::write(&image, UNKNOWN_IMPORT)?;
    let wasm = inspect(&cli, &image)?;
    let import = json!({"name": "env.f", "offered": "never", "grant": null, "needs_network": false});
    assert_eq!((&wasm["imports"], &wasm["entries"]), (&json!([import]), &json!(["command"])));
    assert_eq!(wasm["refused"], json!("it imports `env.f`, which Neargate does not offer"));
    let finished = cli.run(&[&image])?;
    assert_eq!(finished.code, 125);
    assert!(
        finished.stderr.contains("it imports `env.f`, which Neargate does not offer"),
        "{}",
        finished.stderr
    );
    let image = cli.path("nothing.wasm");
    fs::write(&image, NOTHING)?;
    let wasm = inspect(&cli, &image)?;
    assert!(wasm["refused"].as_str().is_some_and(|why| why.contains("_start")), "{wasm}");
    Ok(())
}

fn what_is_no_wasm() -> Result<()> {
    let cli = Cli::new()?;
    let check = |content: &[u8], says: &str| -> Result<()> {
        let image = cli.path("other.wasm");
        fs::write(&image, content)?;
        let finished = cli.image(&["inspect", &image])?;
        assert_eq!((finished.code, finished.text().as_str()), (1, ""), "{}", finished.stderr);
        assert!(finished.stderr.contains("other.wasm"), "{}", finished.stderr);
        assert!(finished.stderr.contains(says), "{says:?} is not in {}", finished.stderr);
        Ok(())
    };
    check(b"\x7fELF\x02\x01\x01\0", "not a Wasm binary")?;
    check(b"", "not a Wasm binary")?;
    check(&UNKNOWN_IMPORT[..20], "compile:")
}

fn a_file_and_its_image_are_alike() -> Result<()> {
    let cli = Cli::new()?;
    let file = module()?;
    let imported = cli.image(&["import", &file, "--name", "alike"])?;
    assert_eq!(imported.code, 0, "{}", imported.stderr);
    assert_eq!(inspect(&cli, "alike")?, inspect(&cli, &file)?);
    Ok(())
}
