//! Telling the service manager how the server fares, by the protocol of sd_notify(3).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where the service manager listens; unset if there is none.
const SOCKET: &str = "NOTIFY_SOCKET";

/// Requests are accepted.
pub(crate) const READY: &str = "READY=1";
/// The server has begun to end.
pub(crate) const STOPPING: &str = "STOPPING=1";

/// Tells the service manager, if there is one. A server that cannot goes on all the same.
pub(crate) fn notify(state: &str) {
    if let Some(socket) = std::env::var_os(SOCKET)
        && let Err(error) = send(&socket, state)
    {
        tracing::warn!(%error, state, "the service manager cannot be told");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(address: &SocketAddr, name: &OsStr) {
        let manager = UnixDatagram::bind_addr(address).unwrap();
        manager.set_nonblocking(true).unwrap();
        send(name, READY).unwrap();
        let mut told = [0; 64];
        let length = manager.recv(&mut told).unwrap();
        assert_eq!(&told[..length], b"READY=1");
    }

    #[test]
    fn both_kinds_of_address() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        check(&SocketAddr::from_pathname(&path).unwrap(), path.as_os_str());
        let name = format!("neargate-test-{}", std::process::id());
        check(&SocketAddr::from_abstract_name(&name).unwrap(), OsStr::new(&format!("@{name}")));
    }

    #[test]
    fn nobody_listens() {
        let directory = tempfile::tempdir().unwrap();
        assert!(send(directory.path().join("none").as_os_str(), READY).is_err());
        assert!(send(OsStr::new(""), READY).is_err());
    }
}
