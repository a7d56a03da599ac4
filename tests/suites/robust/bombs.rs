//! Wasm binaries that are small, and for whose compilation there is never enough memory or time.
//!
//! The compiler is the real one, in its own process behind its fences. What counts is that it dies alone: other tasks
//! run meanwhile, the task's reason says which limit it was, and nothing is left of it.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use neargate_tests::leaks::{self, Snapshot};
use neargate_tests::server::scratch_directory;
use neargate_tests::{Client, Server, eventually};
use serde_json::{Value, json};

use crate::long::{Measured, SETTLE_LIMIT};
use crate::suite::{Case, Needs};
use crate::{describe, furnish, register, start, until_stopped};

pub(crate) const CASES: &[Case] = &[
    ("bombs/memory_while_compiling", Needs::Wasm, memory_while_compiling),
    ("bombs/time_while_compiling", Needs::Wasm, time_while_compiling),
];

/// How the names of compilers begin in process listings.
const COMPILER: &str = "ng-wasm-comp";
/// A compiler is ended after a minute at the latest, and a task may find another one at work before its own.
const BOMB_LIMIT: Duration = Duration::from_secs(180);
/// Tasks that run beside a bomb. The server keeps what it knows of each, which is no leak but memory.
const BESIDE: usize = 100;

/// So many variables that change in the innermost of so many loops: each is a value of its own in each of them, so
/// that the compiler needs as many as their product.
struct Bomb {
    variables: usize,
    loops: usize,
}

/// 180 million values of half a megabyte of code.
const MEMORY: Bomb = Bomb { variables: 45_000, loops: 4_000 };
/// The time that loops within loops take grows with more than the square of their depth.
const TIME: Bomb = Bomb { variables: 10, loops: 200_000 };

impl Bomb {
    /// The binary: a module with a valid `_start`.
    fn binary(&self) -> Vec<u8> {
        const LOOP: u8 = 0x03;
        const END: u8 = 0x0b;
        const BR_IF: u8 = 0x0d;
        const GET: u8 = 0x20;
        const SET: u8 = 0x21;
        const CONST: u8 = 0x41;
        const ADD: u8 = 0x6a;
        const EMPTY: u8 = 0x40;
        const I32: u8 = 0x7f;
        let mut body = [vec![1], number(self.variables), vec![I32]].concat();
        body.extend([LOOP, EMPTY].repeat(self.loops));
        for variable in 0..self.variables {
            let variable = number(variable);
            body.extend([&[GET], &variable[..], &[CONST, 1, ADD, SET], &variable[..]].concat());
        }
        body.extend([GET, 0, BR_IF, 0, END].repeat(self.loops));
        body.push(END);
        let code = [vec![1], number(body.len()), body].concat();
        let section = |id: u8, bytes: &[u8]| [&[id], &number(bytes.len())[..], bytes].concat();
        [
            b"\0asm\x01\0\0\0".to_vec(),
            section(1, &[1, 0x60, 0, 0]),
            section(3, &[1, 0]),
            section(7, b"\x01\x06_start\x00\x00"),
            section(10, &code),
        ]
        .concat()
    }
}

/// A number as Wasm writes it: LEB128.
fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn memory_while_compiling() -> Result<()> {
    explode(&MEMORY, "needed more than 2048 MiB of memory", 3)
}

fn time_while_compiling() -> Result<()> {
    explode(&TIME, "took longer than 60 s", 1)
}

/// Runs a bomb a few times, and other tasks beside it.
fn explode(bomb: &Bomb, why: &str, times: usize) -> Result<()> {
    let before = Snapshot::take();
    let mut server = Server::start()?;
    furnish(&server)?;
    let scratch = scratch_directory()?;
    let file = scratch.path().join("bomb.wasm");
    fs::write(&file, bomb.binary()).context("write the bomb")?;
    server.import(&file, "bomb")?;
    let mut client = server.client();
    register(&mut client, "quick", "probe", &["exit", "0"])?;
    run_beside(&mut client)?;
    let morning = Measured::take(&server);
    // It is compiled from here on.
    register(&mut client, "bomb", "bomb", &[])?;
    let mut beside = 0;
    for _ in 0..times {
        let arn = start(&mut client, "bomb", 1)?.remove(0);
        for _ in 0..BESIDE {
            let compiles = !leaks::descendants(server.pid(), COMPILER).is_empty();
            run_beside(&mut client)?;
            beside += usize::from(compiles);
        }
        let stopped = || describe(&mut client, &arn).ok().filter(|task| task["lastStatus"] == "STOPPED");
        let task = eventually(BOMB_LIMIT, stopped);
        let task = task.with_context(|| format!("{arn} did not stop within {BOMB_LIMIT:?}"))?;
        assert_failed(&task, why);
    }
    ensure!(beside > 0, "nothing has run while a process was called {COMPILER}…");
    let gone =
        eventually(SETTLE_LIMIT, || leaks::descendants(server.pid(), COMPILER).is_empty().then_some(()));
    ensure!(gone.is_some(), "a compiler is left");
    let unfinished: Vec<_> = fs::read_dir(server.data.join("wasm-code"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .filter(|name: &Result<String>| name.as_ref().is_ok_and(|name| name.starts_with('.')))
        .collect::<Result<_>>()?;
    ensure!(unfinished.is_empty(), "unfinished code is left: {unfinished:?}");
    morning.assert_kept(&server);
    server.stop()?;
    let left = before.settle(SETTLE_LIMIT);
    ensure!(left.is_ok(), "left when the server had ended: {left:?}");
    Ok(())
}

/// A task of another image, from start to end.
fn run_beside(client: &mut Client) -> Result<()> {
    let arn = start(client, "quick", 1)?.remove(0);
    let task = until_stopped(client, &arn)?;
    ensure!(task["containers"][0]["exitCode"] == json!(0), "a task beside the bomb: {task}");
    Ok(())
}

#[track_caller]
fn assert_failed(task: &Value, why: &str) {
    assert_eq!(task["stopCode"], json!("TaskFailedToStart"), "{task}");
    let reason = task["stoppedReason"].as_str().unwrap_or_default();
    assert!(reason.contains(why), "the reason is {reason:?}, not {why:?}");
}
