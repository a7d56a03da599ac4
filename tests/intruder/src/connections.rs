//! Row 72: connections, as many as there may be, and as much in them as they take.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::kernel::{attempt, end_on_sigterm, error_name, fork, say};

/// Processes that connect at a time; each has descriptors of its own.
const PROCESSES: usize = 8;
/// Connections of each: few, and each as full as it gets.
const CONNECTIONS: usize = 50;
/// Ports of a neighbour to which one datagram each is sent: more than a task may have connections.
const FLOODED_PORTS: std::ops::Range<u16> = 1_000..21_000;
/// What each puts into its connections at most, so that a machine without a limit is not used up: 1 GiB in all.
const BYTES_MAX: usize = 128 << 20;

/// Tries to reach others, then connects to itself and lets nobody read. Prints what the connections took, and holds it.
pub(crate) fn connections() {
    end_on_sigterm();
    for (name, address) in [
        ("a neighbour", "10.0.0.2:80"),
        ("the metadata service", "169.254.169.254:80"),
        ("the world", "192.0.2.1:80"),
        ("the world by IPv6", "[2001:db8::1]:80"),
    ] {
        attempt(&format!("connect to {name}"), || connect(address));
        attempt(&format!("send to {name}"), || send(address));
    }
    let (mut reader, writer) = match std::io::pipe() {
        Ok(pipe) => pipe,
        Err(error) => return say("pipe", error),
    };
    for _ in 0..PROCESSES {
        match fork() {
            Ok(0) => hold(writer),
            Ok(_) => {}
            Err(error) => say("fork", error_name(error)),
        }
    }
    drop(writer);
    let mut told = String::new();
    // Each process keeps its end open until it has told.
    let _ = reader.read_to_string(&mut told);
    let bytes: usize = told.lines().filter_map(|line| line.parse::<usize>().ok()).sum();
    say("MiB in connections", bytes >> 20);
    println!("held");
    loop {
        std::thread::park();
    }
}

/// Has every router on the way to a neighbour keep as many connections as there are ports, then makes one more, and
/// holds them.
pub(crate) fn track(arguments: &[&str]) {
    end_on_sigterm();
    let [neighbour] = arguments else { return say("track", "whom?") };
    let Ok(socket) = UdpSocket::bind("0.0.0.0:0") else { return say("bind", "refused") };
    for port in FLOODED_PORTS {
        // One that has no room now is sent again by nobody: there are enough of them.
        let _ = socket.send_to(b"x", format!("{neighbour}:{port}"));
    }
    attempt("connect once more", || connect(&format!("{neighbour}:81")));
    println!("held");
    loop {
        std::thread::park();
    }
}

fn error_of(error: std::io::Error) -> i32 {
    let made_up = if error.kind() == std::io::ErrorKind::TimedOut { libc::ETIMEDOUT } else { libc::EIO };
    error.raw_os_error().unwrap_or(made_up)
}

fn connect(address: &str) -> crate::kernel::Outcome {
    let address: SocketAddr = address.parse().map_err(|_| libc::EINVAL)?;
    TcpStream::connect_timeout(&address, Duration::from_secs(2)).map(|_| 0).map_err(error_of)
}

fn send(address: &str) -> crate::kernel::Outcome {
    let address: SocketAddr = address.parse().map_err(|_| libc::EINVAL)?;
    let own = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    UdpSocket::bind(own).and_then(|socket| socket.send_to(b"x", address)).map_err(error_of)
}

fn hold(mut told: std::io::PipeWriter) -> ! {
    let held = fill();
    let bytes: usize = held.iter().map(|(_, bytes)| bytes).sum();
    let _ = writeln!(told, "{bytes}");
    drop(told);
    loop {
        std::thread::park();
    }
}

/// Both ends of connections, and what was written to them.
fn fill() -> Vec<([TcpStream; 2], usize)> {
    let mut held = Vec::new();
    let Ok(listener) = TcpListener::bind("127.0.0.1:0") else { return held };
    let Ok(address) = listener.local_addr() else { return held };
    let mut left = BYTES_MAX;
    for _ in 0..CONNECTIONS {
        let Ok(near) = TcpStream::connect(address) else { break };
        let Ok((far, _)) = listener.accept() else { break };
        let ends = [near, far];
        let bytes = ends.iter().map(|end| write_all_it_takes(end, left / 2)).sum();
        left -= bytes;
        held.push((ends, bytes));
    }
    held
}

fn write_all_it_takes(mut end: &TcpStream, most: usize) -> usize {
    let chunk = [0; 64 * 1024];
    let mut written = 0;
    if end.set_nonblocking(true).is_err() {
        return 0;
    }
    while written + chunk.len() <= most {
        match end.write(&chunk) {
            Ok(bytes) => written += bytes,
            Err(_) => break,
        }
    }
    written
}

/// What a neighbour must still be able to do: a connection of its own, and 4 MiB through it.
pub(crate) fn talk() {
    attempt("talk", || {
        const MIB: usize = 1 << 20;
        let listener = TcpListener::bind("127.0.0.1:0").map_err(error_of)?;
        let mut near = listener.local_addr().and_then(TcpStream::connect).map_err(error_of)?;
        let (mut far, _) = listener.accept().map_err(error_of)?;
        for end in [&near, &far] {
            end.set_read_timeout(Some(Duration::from_secs(10))).map_err(error_of)?;
            end.set_write_timeout(Some(Duration::from_secs(10))).map_err(error_of)?;
        }
        let mut chunk = vec![0; 16 * 1024];
        for _ in 0..4 * MIB / chunk.len() {
            near.write_all(&chunk).map_err(error_of)?;
            far.read_exact(&mut chunk).map_err(error_of)?;
        }
        Ok(0)
    });
}
