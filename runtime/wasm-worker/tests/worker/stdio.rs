//! Standard streams: every byte, every kind of descriptor, and back-pressure.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{OFlags, fcntl_getfl};

use crate::guests::{cat, exit, module};
use crate::harness::{Setup, Worker, exited, stopped, told};

/// A mebibyte in which no stretch repeats soon.
fn noise() -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..1 << 20).map(|_| next()).collect()
}

fn null() -> OwnedFd {
    OpenOptions::new().read(true).write(true).open("/dev/null").unwrap().into()
}

#[test]
fn pipes_carry_every_byte() {
    let worker = Worker::new();
    let input = noise();
    let outcome = worker.run(&cat(), Setup { stdin: &input, ..Setup::default() });
    assert_eq!(told(&outcome.exit), exited(0));
    assert!(outcome.stdout == input, "{} bytes came back", outcome.stdout.len());
    assert_eq!(outcome.stderr, b"");
    assert_eq!(outcome.exit.usage.memory_bytes, 0, "what waited in the streams is given back");
}

#[test]
fn files_and_devices() {
    let worker = Worker::new();
    let (from, to) = (worker.dir.path().join("from"), worker.dir.path().join("to"));
    fs::write(&from, noise()).unwrap();
    let stdio = vec![File::open(&from).unwrap().into(), File::create(&to).unwrap().into(), null()];
    let run = worker.start_with(&cat(), &Setup::default(), stdio).unwrap();
    assert_eq!(told(&worker.exit(run)), exited(0));
    assert!(fs::read(&to).unwrap() == noise());

    let run = worker.start_with(&cat(), &Setup::default(), vec![null(), null(), null()]).unwrap();
    assert_eq!(told(&worker.exit(run)), exited(0), "/dev/null is at its end and takes everything");
}

#[test]
fn sockets() {
    let worker = Worker::new();
    let (guest, mut host) = UnixStream::pair().unwrap();
    let stdio = vec![guest.try_clone().unwrap().into(), guest.into(), null()];
    let run = worker.start_with(&cat(), &Setup::default(), stdio).unwrap();
    let mut writer = host.try_clone().unwrap();
    let feed = std::thread::spawn(move || {
        writer.write_all(&noise()).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    host.read_to_end(&mut back).unwrap();
    feed.join().unwrap();
    assert_eq!(told(&worker.exit(run)), exited(0));
    assert!(back == noise());
}

/// A guest that writes faster than anybody reads waits, and can be ended while it does.
#[test]
fn a_full_pipe_holds_the_guest_back() {
    let worker = Worker::new();
    let flood = module("(loop $l (call $put (i32.const 1) (i32.const 0) (i32.const 65536)) (br $l))");
    let mut started = worker.start(&flood, &Setup::default()).unwrap();
    let mut some = vec![0; 1 << 20];
    started.stdout.read_exact(&mut some).unwrap();
    // Others run meanwhile, on the same single thread.
    assert_eq!(told(&worker.run(&exit(3), Setup::default()).exit), exited(3));
    let waiting = worker.usage(started.run).memory_bytes;
    assert!(waiting > 4 << 16, "what waits counts as memory: {waiting}");
    assert_eq!(told(&worker.kill(started.run)), stopped(137));
    let mut rest = Vec::new();
    started.stdout.read_to_end(&mut rest).unwrap();
    assert!(rest.len() <= 64 << 10, "{} bytes were left in a pipe of 64 KiB", rest.len());
}

#[test]
fn a_reader_that_is_gone_is_an_error_to_the_guest() {
    let worker = Worker::new();
    // The error number that fd_write returns.
    let write = module(
        "(i32.store (i32.const 4) (i32.const 1))
         (call $exit (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))",
    );
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let run = worker.start_with(&write, &Setup::default(), vec![null(), writer.into(), null()]).unwrap();
    // EIO: wasmtime's preview 1 has it for a closed stream, where a component is told `closed`.
    assert_eq!(told(&worker.exit(run)), exited(29));
}

/// The flag belongs to the open file description, which is shared: a log pipe of several containers, a terminal.
#[test]
fn shared_descriptions_stay_blocking() {
    let worker = Worker::new();
    let (_reader, writer) = std::io::pipe().unwrap();
    let stdio = vec![null(), writer.try_clone().unwrap().into(), null()];
    let run = worker.start_with(&exit(0), &Setup::default(), stdio).unwrap();
    worker.exit(run);
    assert!(!fcntl_getfl(writer.as_fd()).unwrap().contains(OFlags::NONBLOCK));
}
