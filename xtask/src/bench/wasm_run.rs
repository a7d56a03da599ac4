//! Running a small Wasm program, beside `wasmtime run`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use neargate_tests::{Server, binary, fixtures};
use serde_json::json;

use super::{
    CLUSTER, Course, See, Way, Worker, measure, prepare, prepare_with, submit, through_api, timed, wasmtime,
};
use crate::shell::run;
use crate::statistics::Row;

/// Images that are seen for the first time; each costs a compilation.
const FIRST_STARTS: usize = 20;

/// A small component that was compiled before.
pub(super) fn wasm_run() -> Result<Vec<Row>> {
    let probe = fixtures::probe("wasm32-wasip2").context("build the probe as a component")?;
    let server = Server::start()?;
    server.import(&probe, "probe")?;
    prepare(&server, "probe", "probe", &["echo", "hello"])?;
    let without = json!({"networkMode": "none", "requiresCompatibilities": ["EC2"]});
    prepare_with(&server, ("alone", "probe", &["echo", "hello"]), &without)?;
    let alone = json!({"cluster": CLUSTER, "taskDefinition": "alone", "launchType": "EC2"});
    let whole =
        |_: &mut Worker| timed(Command::new(binary()).arg("run").arg(&probe).args(["--", "echo", "hello"]));
    let mut ways: Vec<Way<'_>> = vec![
        (vec!["neargate run, whole process".to_owned()], Box::new(whole)),
        (
            vec!["neargate API, submit to start".to_owned(), "neargate API, submit to exit seen".to_owned()],
            Box::new(|worker| through_api(worker, "probe", See::ByAsking)),
        ),
        // What an address, groups and rules cost a task that opens no socket.
        (
            ["start", "exit seen"]
                .map(|end| format!("neargate API, networkMode none, submit to {end}"))
                .to_vec(),
            Box::new(move |worker| {
                let Course { start, seen, .. } = submit(worker, &alone, See::ByAsking)?;
                Ok(vec![start, seen])
            }),
        ),
    ];
    let compiled = tempfile::tempdir().context("create directory for compiled code")?;
    let module = compiled.path().join("probe.cwasm");
    if let Some(wasmtime) = wasmtime() {
        run(Command::new(&wasmtime).arg("compile").arg(&probe).arg("-o").arg(&module))?;
        let way = move |_: &mut Worker| {
            timed(
                Command::new(&wasmtime)
                    .args(["run", "--allow-precompiled"])
                    .arg(&module)
                    .args(["echo", "hello"]),
            )
        };
        ways.push((vec!["wasmtime run, precompiled, whole process".to_owned()], Box::new(way)));
    }
    measure(&ways, Some(&server))
}

/// A component that nobody has seen before: compiled and run.
pub(super) fn first_start() -> Result<Vec<Row>> {
    let probe = fixtures::probe("wasm32-wasip2").context("build the probe as a component")?;
    let scratch = tempfile::tempdir().context("create directory for images")?;
    let next = AtomicUsize::new(0);
    let fresh = || -> Result<_> {
        let path = scratch.path().join(format!("{}.wasm", next.fetch_add(1, Ordering::Relaxed)));
        write_variant(&probe, &path)?;
        Ok(path)
    };
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..FIRST_STARTS {
        let image = fresh()?;
        ours.extend(timed(Command::new(binary()).arg("run").arg(&image).args(["--", "echo", "hello"]))?);
        if let Some(wasmtime) = wasmtime() {
            let (image, code) = (fresh()?, scratch.path().join("code.cwasm"));
            let compiling = timed(Command::new(&wasmtime).arg("compile").arg(&image).arg("-o").arg(&code))?;
            let running = timed(
                Command::new(&wasmtime)
                    .args(["run", "--allow-precompiled"])
                    .arg(&code)
                    .args(["echo", "hello"]),
            )?;
            theirs.push(compiling.iter().chain(&running).sum());
        }
    }
    let mut rows = vec![Row::new("neargate run, whole process", 1, ours)];
    if !theirs.is_empty() {
        rows.push(Row::new("wasmtime compile, then run", 1, theirs));
    }
    Ok(rows)
}

/// The same component with another digest: a custom section holds the file's name and this process's id.
fn write_variant(component: &Path, path: &Path) -> Result<()> {
    let mut bytes = fs::read(component).with_context(|| format!("read {}", component.display()))?;
    let text = format!("{} {}", std::process::id(), path.display());
    let name = b"bench";
    let length = u8::try_from(1 + name.len() + text.len()).context("fit a section's length into a byte")?;
    // LEB128 of a number below 128 is the number; longer ones take a second byte.
    bytes.push(0);
    match length {
        0..0x80 => bytes.push(length),
        _ => bytes.extend([length & 0x7f | 0x80, length >> 7]),
    }
    bytes.push(name.len() as u8);
    bytes.extend(name);
    bytes.extend(text.as_bytes());
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}
