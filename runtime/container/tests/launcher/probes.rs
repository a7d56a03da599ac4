//! What a process tries from inside. Each probe runs as the role of a process, with the name of the probe as
//! input, and writes what it found to its first descriptor, if it has one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use neargate_driver::ProcessRole;

/// Where the first variable of the environment of the test program lies in memory.
pub(crate) static ENVIRONMENT: AtomicUsize = AtomicUsize::new(0);

/// Exit code of a process that a filter has killed: 128 + SIGSYS.
pub(crate) const KILLED: i32 = 128 + libc::SIGSYS;

/// The descriptor of its memory's pages that a process has opened before its fences stood.
static PAGES: AtomicI32 = AtomicI32::new(-1);

/// What each process of the tests does before its fences stand.
pub(crate) fn prepare(_role: ProcessRole) -> Vec<RawFd> {
    let pages = File::open("/proc/self/pagemap").unwrap().into_raw_fd();
    PAGES.store(pages, Ordering::Relaxed);
    vec![pages]
}

/// The role of all processes of the tests.
pub(crate) fn role(input: &[u8], mut fds: Vec<OwnedFd>) -> i32 {
    let (name, argument) = match input.iter().position(|&b| b == b' ') {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[][..]),
    };
    let argument = std::str::from_utf8(argument).unwrap_or_default();
    let found = match name {
        b"exit" => return argument.parse().unwrap(),
        b"panic" => panic!("as asked for"),
        b"wait" => wait(&fds),
        b"echo" => format!("{} bytes", argument.len()),
        b"count" => format!("{} descriptors", fds.len()),
        b"call" => call(argument),
        b"open" => open(argument),
        b"create" => create(argument),
        b"list" => list(argument),
        b"own" => own(argument),
        b"unlink" => std::fs::remove_file(argument).map_or_else(|_| errno(), |()| "ok".to_owned()),
        b"node" => node(argument),
        b"opaque" => opaque(argument),
        b"connect" => connect(argument),
        b"descriptors" => descriptors(),
        b"pages" => pages(),
        b"environment" => environment(),
        b"threads" => threads(),
        b"thread-bomb" => thread_bomb(),
        b"memory-bomb" => memory_bomb(),
        b"spin" => spin(),
        b"deaf-spin" => deaf_spin(),
        b"abort" => std::process::abort(),
        b"large-allocation" => format!("{} bytes", std::hint::black_box(vec![0u8; 2 << 30]).len()),
        b"address-space" => address_space(),
        b"cores" => cores(),
        b"host-name" => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        b"ids" => {
            format!("{} {}", rustix::process::getuid().as_raw(), rustix::process::getpid().as_raw_nonzero())
        }
        b"runtime" => runtime(fds.split_off(1)),
        other => format!("no probe {}", String::from_utf8_lossy(other)),
    };
    if fds.is_empty() {
        return 1;
    }
    File::from(fds.remove(0)).write_all(found.as_bytes()).map_or(2, |()| 0)
}

/// Waits until the other end of the second descriptor is closed.
fn wait(fds: &[OwnedFd]) -> String {
    let _ = rustix::io::write(&fds[0], b"here");
    let mut rest = Vec::new();
    File::from(fds[1].try_clone().unwrap()).read_to_end(&mut rest).unwrap();
    String::new()
}

fn errno() -> String {
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EPERM) => "EPERM".to_owned(),
        Some(libc::EACCES) => "EACCES".to_owned(),
        Some(libc::ENOENT) => "ENOENT".to_owned(),
        Some(libc::EROFS) => "EROFS".to_owned(),
        Some(libc::ENOSYS) => "ENOSYS".to_owned(),
        Some(libc::ENOMEM) => "ENOMEM".to_owned(),
        other => format!("{other:?}"),
    }
}

fn result(value: libc::c_long) -> String {
    if value < 0 { errno() } else { "ok".to_owned() }
}

/// Makes a system call that is given as numbers: the call's and its arguments'.
fn call(argument: &str) -> String {
    let n: Vec<i64> = argument.split(' ').map(|n| n.parse().unwrap()).collect();
    let at = |index: usize| n.get(index).copied().unwrap_or(0);
    // SAFETY: the tests pass null pointers only, and a system call that works anyway is a failed test.
    result(unsafe { libc::syscall(n[0], at(1), at(2), at(3), at(4), at(5), at(6)) })
}

fn open(path: &str) -> String {
    File::open(path).map_or_else(|_| errno(), |_| "ok".to_owned())
}

/// Gives a file to user 1.
fn own(path: &str) -> String {
    let path = std::ffi::CString::new(path).unwrap();
    // SAFETY: `path` is a C string.
    let result_of =
        unsafe { libc::fchownat(libc::AT_FDCWD, path.as_ptr(), 1, u32::MAX, libc::AT_SYMLINK_NOFOLLOW) };
    result(result_of.into())
}

/// Makes and removes `/layer/node`, of a kind and a device that are given as numbers.
fn node(argument: &str) -> String {
    let n: Vec<u64> = argument.split(' ').map(|n| n.parse().unwrap()).collect();
    let (kind, device) = (u32::try_from(n[0]).unwrap(), n[1]);
    let path = c"/layer/node".as_ptr();
    // SAFETY: `path` is a C string.
    let made = unsafe { libc::syscall(libc::SYS_mknodat, libc::AT_FDCWD, path, kind | 0o600, device) };
    let found = result(made);
    let _ = std::fs::remove_file("/layer/node");
    found
}

/// Marks a directory as overlayfs does one that hides those below it.
fn opaque(path: &str) -> String {
    let directory = File::open(path).unwrap();
    // SAFETY: name and value are valid for the call.
    let set = unsafe {
        let (name, value) = (c"trusted.overlay.opaque".as_ptr(), c"y".as_ptr());
        libc::syscall(libc::SYS_fsetxattr, directory.as_raw_fd(), name, value, 1, 0)
    };
    result(set)
}

fn create(path: &str) -> String {
    File::create(path)
        .and_then(|mut file| file.write_all(b"x"))
        .map_or_else(|_| errno(), |()| "ok".to_owned())
}

fn list(path: &str) -> String {
    let Ok(entries) = std::fs::read_dir(path) else { return errno() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.join(" ")
}

fn connect(address: &str) -> String {
    match std::net::TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(5)) {
        Ok(_) => "ok".to_owned(),
        Err(_) => errno(),
    }
}

fn descriptors() -> String {
    // SAFETY: takes no pointers.
    let open = (0..4096).filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0);
    open.map(|fd| fd.to_string()).collect::<Vec<_>>().join(" ")
}

/// What the kernel tells of a page: whether it is there (bit 63), and where in the machine's memory (the lower 55
/// bits), see proc_pid_pagemap(5).
fn pages() -> String {
    // SAFETY: the descriptor was opened by `prepare` in this process, and nothing else owns it.
    let pages = unsafe { File::from_raw_fd(PAGES.load(Ordering::Relaxed)) };
    let page = vec![1u8; 4096];
    let mut entry = [0; 8];
    let read = pages.read_exact_at(&mut entry, page.as_ptr() as u64 / 4096 * 8);
    let entry = u64::from_ne_bytes(entry);
    format!("{} {} {}", read.is_ok(), entry >> 63, entry & ((1 << 55) - 1))
}

/// What is left of arguments and environment, also in the memory where they were.
fn environment() -> String {
    let first = ENVIRONMENT.load(Ordering::Relaxed) as *const u8;
    // SAFETY: the address was taken of the first string of the environment, which has more than 8 bytes; its
    // memory, on the stack of the first thread, is there as long as the process.
    let left = unsafe { std::slice::from_raw_parts(first, 8) }.iter().filter(|&&byte| byte != 0).count();
    let arguments = std::env::args().skip(1).filter(|argument| !argument.is_empty()).count();
    format!("{} {arguments} {left}", std::env::vars_os().count())
}

fn threads() -> String {
    let threads: Vec<_> = (0..8).map(|n| std::thread::spawn(move || n)).collect();
    let sum: i32 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    sum.to_string()
}

fn thread_bomb() -> String {
    let (hold, wait) = std::sync::mpsc::sync_channel::<()>(1);
    let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
    let mut threads = Vec::new();
    for _ in 0..5_000 {
        let wait = std::sync::Arc::clone(&wait);
        let thread = std::thread::Builder::new().stack_size(16 * 1024);
        match thread.spawn(move || drop(wait.lock().map(|wait| wait.recv()))) {
            Ok(thread) => threads.push(thread),
            Err(_) => break,
        }
    }
    let count = threads.len();
    drop(hold);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    if (500..1024).contains(&count) { "limited".to_owned() } else { format!("{count} threads") }
}

fn memory_bomb() -> String {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for _ in 0..1024 {
        all.push(vec![1; 1 << 20]);
    }
    std::hint::black_box(&all);
    "a GiB".to_owned()
}

fn spin() -> String {
    let mut n = 0u64;
    loop {
        n = std::hint::black_box(n.wrapping_add(1));
    }
}

/// Computes without hearing of the time that it takes.
fn deaf_spin() -> String {
    // SAFETY: SIG_IGN installs no handler.
    unsafe { libc::signal(libc::SIGXCPU, libc::SIG_IGN) };
    spin()
}

fn address_space() -> String {
    // SAFETY: an anonymous mapping that nobody uses.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            1 << 40,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED { errno() } else { "ok".to_owned() }
}

fn cores() -> String {
    let set = rustix::thread::sched_getaffinity(None).unwrap();
    (0..1024).filter(|core| set.is_set(*core)).map(|core| core.to_string()).collect::<Vec<_>>().join(" ")
}

/// A runtime as a worker has one, with all that it may use: timers, a handed-over socket, blocking threads,
/// signals, wake-ups.
fn runtime(mut fds: Vec<OwnedFd>) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let sum = tokio::task::spawn_blocking(|| 1 + 1).await.unwrap();
        let socket = std::os::unix::net::UnixStream::from(fds.remove(0));
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::UnixStream::from_std(socket).unwrap();
        let mut text = [0u8; 5];
        loop {
            socket.readable().await.unwrap();
            match socket.try_read(&mut text) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                other => break assert_eq!(other.unwrap(), 5),
            }
        }
        // SAFETY: a descriptor that is new and ours.
        let memory = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"code".as_ptr(), 0)) };
        assert!(memory.as_raw_fd() > 2);
        format!("{sum} {}", String::from_utf8_lossy(&text))
    })
}
