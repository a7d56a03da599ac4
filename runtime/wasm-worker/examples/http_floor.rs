//! Serves a `wasi:http` component by the worker role alone, to put load on: no server, no fences.
//!
//! `http_floor COMPONENT [PROCESSES [REUSE]]` starts so many worker processes (1 unless said), each pinned to
//! a core, that share one port, and prints its address. They end with it.

#![allow(missing_docs)]

use std::fs::File;
use std::io::{Error, Result};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use neargate_ipc::{channel, wire};
use neargate_wasm::protocol::{
    CodeInfo, EngineKind, Entry, FromWorker, RunPlan, ToWorker, VERSION, WorkerSetup,
};
use neargate_wasm_worker::{testing, worker_main};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::thread::CpuSet;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).skip(1).collect();
    match arguments[..] {
        ["worker", core, code, reuse] => work(number(core)?, code, number(reuse)?),
        [component] => serve(component, 1, 0),
        [component, processes] => serve(component, number(processes)?, 0),
        [component, processes, reuse] => serve(component, number(processes)?, number(reuse)?),
        _ => Err(Error::other("usage: http_floor COMPONENT [PROCESSES [REUSE]]")),
    }
}

fn number(text: &str) -> Result<usize> {
    text.parse().map_err(|_| Error::other(format!("{text} is no number")))
}

fn serve(component: &str, processes: usize, reuse: usize) -> Result<()> {
    let (_, code) =
        testing::compile(&std::fs::read(component)?, &EngineKind::Sync {}).map_err(Error::other)?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("code");
    std::fs::write(&file, code)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let children: Vec<Child> = (0..processes)
        .map(|core| {
            Command::new(std::env::current_exe()?)
                .args(["worker", &core.to_string()])
                .arg(&file)
                .arg(reuse.to_string())
                .stdin(Stdio::from(OwnedFd::from(listener.try_clone()?)))
                .spawn()
        })
        .collect::<Result<_>>()?;
    println!("http://{}/", listener.local_addr()?);
    for mut child in children {
        child.wait()?;
    }
    Ok(())
}

/// A worker on this thread, and its server on another. The listening socket is standard input.
fn work(core: usize, code: &str, reuse: usize) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let mut cores = CpuSet::new();
    cores.set(core);
    // Without it the numbers are worse and still true.
    let _ = rustix::thread::sched_setaffinity(None, &cores);
    let listener = std::io::stdin().as_fd().try_clone_to_owned()?;
    let code = File::open(code)?;
    let (server, worker) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    std::thread::spawn(move || drive(&server, &code, &listener, reuse));
    let setup = WorkerSetup { version: VERSION, runs_max: 1000, images_max: 1, network: false };
    match worker_main(&wire::encode(&setup), vec![worker]) {
        0 => Ok(()),
        code => Err(Error::other(format!("the worker ended with {code}"))),
    }
}

/// What a server does: loads the code, starts the run, and says what goes wrong.
fn drive(socket: &OwnedFd, code: &File, listener: &OwnedFd, reuse: usize) -> Result<()> {
    let send = |message: ToWorker, fds: &[BorrowedFd<'_>]| {
        channel::send(socket.as_fd(), 0, &wire::encode(&message), fds, true)
    };
    let kind = neargate_wasm::protocol::BinaryKind::Component {};
    send(ToWorker::Load { image: 1, code: CodeInfo { kind, engine: EngineKind::Sync {} } }, &[code.as_fd()])?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let stderr = std::io::stderr().as_fd().try_clone_to_owned()?;
    while let Some(frame) = channel::receive(socket.as_fd(), &mut Vec::new(), true)? {
        match wire::decode(&frame.message) {
            Ok(FromWorker::Loaded { .. }) => {
                let fds = [null.as_fd(), null.as_fd(), stderr.as_fd(), listener.as_fd()];
                send(
                    ToWorker::Start { run: 1, plan: plan(u32::try_from(reuse).ok().filter(|n| *n > 0)) },
                    &fds,
                )?;
            }
            Ok(FromWorker::Ready { .. } | FromWorker::Started { .. }) => {}
            other => eprintln!("{other:?}"),
        }
    }
    Ok(())
}

fn plan(reuse: Option<u32>) -> RunPlan {
    RunPlan { image: 1, entry: Entry::Http { reuse }, listeners: 1, ..testing::plan() }
}
