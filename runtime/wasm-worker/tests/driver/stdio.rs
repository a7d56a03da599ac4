//! Standard streams: every byte, every kind of descriptor, and back-pressure.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use neargate_driver::{Exit, Signal, Stdio};
use rustix::fs::{OFlags, fcntl_getfl};

use crate::guests::{cat, exit, module};
use crate::harness::{Bench, Setup};

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

#[tokio::test]
async fn pipes_carry_every_byte() {
    let bench = Bench::new();
    let input = noise();
    let outcome = bench.run(&cat(), Setup { stdin: &input, ..Setup::default() }).await;
    assert_eq!(outcome.exit, Exit::code(0));
    assert!(outcome.stdout == input, "{} bytes came back", outcome.stdout.len());
    assert_eq!(outcome.stderr, b"");
}

#[tokio::test]
async fn files_and_devices() {
    let bench = Bench::new();
    let (from, to) = (bench.dir.path().join("from"), bench.dir.path().join("to"));
    fs::write(&from, noise()).unwrap();
    let stdio = Stdio {
        stdin: File::open(&from).unwrap().into(),
        stdout: File::create(&to).unwrap().into(),
        stderr: null(),
    };
    let handle = bench.start_with(&cat(), &Setup::default(), stdio).await.unwrap();
    assert_eq!(handle.wait().await, Exit::code(0));
    assert!(fs::read(&to).unwrap() == noise());

    let stdio = Stdio { stdin: null(), stdout: null(), stderr: null() };
    let handle = bench.start_with(&cat(), &Setup::default(), stdio).await.unwrap();
    assert_eq!(handle.wait().await, Exit::code(0), "/dev/null is at its end and takes everything");
}

#[tokio::test]
async fn sockets() {
    let bench = Bench::new();
    let (guest, mut host) = UnixStream::pair().unwrap();
    let stdio = Stdio { stdin: guest.try_clone().unwrap().into(), stdout: guest.into(), stderr: null() };
    let handle = bench.start_with(&cat(), &Setup::default(), stdio).await.unwrap();
    let mut writer = host.try_clone().unwrap();
    let feed = std::thread::spawn(move || {
        writer.write_all(&noise()).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    host.read_to_end(&mut back).unwrap();
    feed.join().unwrap();
    assert_eq!(handle.wait().await, Exit::code(0));
    assert!(back == noise());
}

/// A guest that writes faster than anybody reads waits, and can be ended while it does.
#[tokio::test]
async fn a_full_pipe_holds_the_guest_back() {
    let bench = Bench::new();
    let flood = module("(loop $l (call $put (i32.const 1) (i32.const 0) (i32.const 65536)) (br $l))");
    let mut started = bench.start(&flood, &Setup::default()).await.unwrap();
    let mut some = vec![0; 1 << 20];
    started.stdout.read_exact(&mut some).unwrap();
    // Others run meanwhile, on the same single thread.
    assert_eq!(bench.run(&exit(3), Setup::default()).await.exit, Exit::code(3));
    started.handle.signal(Signal::Kill).await.unwrap();
    assert_eq!(started.handle.wait().await, Exit::code(137));
    let mut rest = Vec::new();
    started.stdout.read_to_end(&mut rest).unwrap();
    assert!(rest.len() <= 64 << 10, "{} bytes were left in a pipe of 64 KiB", rest.len());
}

#[tokio::test]
async fn a_reader_that_is_gone_is_an_error_to_the_guest() {
    let bench = Bench::new();
    // The error number that fd_write returns.
    let write = module(
        "(i32.store (i32.const 4) (i32.const 1))
         (call $exit (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))",
    );
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let stdio = Stdio { stdin: null(), stdout: writer.into(), stderr: null() };
    let handle = bench.start_with(&write, &Setup::default(), stdio).await.unwrap();
    let code = handle.wait().await.code.unwrap();
    // EIO: wasmtime's preview 1 has it for a closed stream, where a component is told `closed`.
    assert_eq!(code, 29);
}

/// The flag belongs to the open file description, which is shared.
#[tokio::test]
async fn shared_descriptions_stay_blocking() {
    let bench = Bench::new();
    let (_reader, writer) = std::io::pipe().unwrap();
    let stdio = Stdio { stdin: null(), stdout: writer.try_clone().unwrap().into(), stderr: null() };
    let handle = bench.start_with(&exit(0), &Setup::default(), stdio).await.unwrap();
    handle.wait().await;
    assert!(!fcntl_getfl(writer.as_fd()).unwrap().contains(OFlags::NONBLOCK));
}
