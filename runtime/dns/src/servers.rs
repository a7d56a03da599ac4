//! Whom to ask: resolvers that the operator names, or those of the host.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// The port of resolvers.
pub const PORT: u16 = 53;
/// How often it is looked whether the host asks others by now.
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// Servers of a file that are read (resolv.conf(5): MAXNS).
const SERVERS_MAX: usize = 3;
/// Bytes of the file that are read.
const FILE_BYTES_MAX: usize = 64 << 10;

/// Whom to ask.
#[derive(Debug)]
pub enum Servers {
    /// These, in this order.
    Named(Vec<SocketAddr>),
    /// Those of a file like `/etc/resolv.conf`, which may change.
    OfFile(ServersFile),
}

/// A file like `/etc/resolv.conf`, and what it said last.
#[derive(Debug)]
pub struct ServersFile {
    path: PathBuf,
    last: Mutex<Option<Look>>,
}

#[derive(Debug)]
struct Look {
    at: Instant,
    modified: Option<SystemTime>,
    servers: Vec<SocketAddr>,
    /// How often they have become others.
    generation: u64,
}

impl Servers {
    /// Those of a file like `/etc/resolv.conf`.
    pub fn of_file(path: impl Into<PathBuf>) -> Self {
        Self::OfFile(ServersFile { path: path.into(), last: Mutex::default() })
    }

    /// A number that is another one when others are to be asked than before.
    pub(crate) fn generation(&self) -> u64 {
        match self {
            Self::Named(_) => 0,
            Self::OfFile(file) => file.look(Instant::now(), |look| look.generation),
        }
    }

    /// Whom to ask now, in this order.
    pub(crate) fn list(&self) -> Vec<SocketAddr> {
        match self {
            Self::Named(servers) => servers.clone(),
            Self::OfFile(file) => file.look(Instant::now(), |look| look.servers.clone()),
        }
    }
}

impl ServersFile {
    /// Tells something of what the file says, which is looked at again when the last look was a while ago.
    fn look<T>(&self, now: Instant, tell: impl FnOnce(&Look) -> T) -> T {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let look = match last.take() {
            Some(last) if now.saturating_duration_since(last.at) < LOOK_PAUSE => last,
            last => self.look_again(now, last),
        };
        tell(last.insert(look))
    }

    fn look_again(&self, now: Instant, last: Option<Look>) -> Look {
        let modified = fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok();
        match last {
            Some(last) if last.modified == modified => Look { at: now, ..last },
            last => {
                let servers = self.read();
                let generation = last.map_or(0, |last| last.generation + u64::from(last.servers != servers));
                Look { at: now, modified, servers, generation }
            }
        }
    }

    /// A file that is not there names nobody.
    fn read(&self) -> Vec<SocketAddr> {
        let text = fs::read(&self.path).unwrap_or_default();
        parse(&String::from_utf8_lossy(&text[..text.len().min(FILE_BYTES_MAX)]))
    }
}

/// The addresses of the lines that begin with `nameserver`. One of IPv6 with a zone is passed over.
fn parse(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, PORT))
    };
    text.lines().filter_map(server).take(SERVERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read() {
        let check = |text: &str, expect: &[&str]| {
            let expect: Vec<SocketAddr> = expect.iter().map(|one| one.parse().unwrap()).collect();
            assert_eq!(parse(text), expect, "{text:?}");
        };
        check("", &[]);
        check("# nameserver 192.0.2.9\nsearch a\nnameserver 192.0.2.1\n", &["192.0.2.1:53"]);
        check("nameserver\t::1 \n nameserver 192.0.2.2 # two", &["[::1]:53", "192.0.2.2:53"]);
        check("nameserver nobody\nnameserver\nnameserver fe80::1%eth0", &[]);
        check(&"nameserver 192.0.2.1\n".repeat(5), &["192.0.2.1:53"; 3]);
    }

    #[test]
    fn a_file_is_read_again_when_it_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let Servers::OfFile(file) = Servers::of_file(&path) else { unreachable!() };
        let start = Instant::now();
        let look = |at: Instant| file.look(at, |look| (look.servers.clone(), look.generation));
        assert_eq!(look(start), (vec![], 0));
        fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(look(start + LOOK_PAUSE / 2), (vec![], 0), "it was just looked at");
        assert_eq!(look(start + LOOK_PAUSE), (vec!["192.0.2.1:53".parse().unwrap()], 1));
        let later = SystemTime::now() + Duration::from_secs(60);
        fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        assert_eq!(look(start + 2 * LOOK_PAUSE).1, 1, "it says what it said");
        fs::remove_file(&path).unwrap();
        assert_eq!(look(start + 4 * LOOK_PAUSE), (vec![], 2));
    }
}
