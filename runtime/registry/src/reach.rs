//! How far inside an address lies, and connections that go no further inside than they may.
//!
//! A registry chooses where its blobs and tokens are. Without a bound, one on the Internet could have the server ask
//! services of its own network, its loopback or its cloud's metadata. Names are looked up here and the answers judged, so
//! that a name that changes its address between two look-ups gains nothing.

use std::collections::HashSet;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tower_service::Service;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// How far inside an address lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reach {
    /// Anybody's.
    Public,
    /// Of a private network (RFC 1918, RFC 4193, RFC 6598).
    Private,
    /// This machine's.
    Loopback,
}

/// How far inside `address` lies; `None` for those that are nobody's registry: link-local with the metadata of clouds
/// and tasks, unspecified, multicast, reserved.
pub(crate) fn reach(address: IpAddr) -> Option<Reach> {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            match (a, b) {
                (127, _) => Some(Reach::Loopback),
                (10, _) | (172, 16..=31) | (192, 168) | (100, 64..=127) | (198, 18..=19) => {
                    Some(Reach::Private)
                }
                (0, _) | (169, 254) | (224..=255, _) => None,
                _ => Some(Reach::Public),
            }
        }
        IpAddr::V6(v6) => reach_v6(v6),
    }
}

fn reach_v6(v6: Ipv6Addr) -> Option<Reach> {
    // Mapped, and what translators (RFC 6052) and 6to4 (RFC 3056) make of an address of IPv4.
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        reach(IpAddr::from([a, b, c, d]))
    };
    match (a, b, c, d, e, f) {
        _ if v6 == Ipv6Addr::LOCALHOST => Some(Reach::Loopback),
        (0, 0, 0, 0, 0, 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => v4(g, h),
        (0x2002, ..) => v4(b, c),
        (0xfd00, 0xec2, ..) => None,
        (0xfc00..=0xfdff, ..) => Some(Reach::Private),
        (0x2000..=0x3fff, ..) => Some(Reach::Public),
        _ => None,
    }
}

/// Names that are of a private network. They stay so: a name that was private once, to be allowed to lead inside, and is
/// public now is not connected to.
#[derive(Clone, Debug, Default)]
pub(crate) struct PrivateNames(Arc<Mutex<HashSet<String>>>);

/// More names are not believed to be private.
const PRIVATE_NAMES_MAX: usize = 1024;

impl PrivateNames {
    fn add(&self, host: &str) -> bool {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.contains(host) || (names.len() < PRIVATE_NAMES_MAX && names.insert(host.to_owned()))
    }

    fn has(&self, host: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(host)
    }
}

/// Connects to addresses that are no further inside than `most`.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    pub(crate) most: Reach,
    pub(crate) private: PrivateNames,
    /// For the look-up, and for each address.
    pub(crate) limit: Duration,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(&uri).await.map(TokioIo::new) })
    }
}

impl Connector {
    async fn connect(&self, uri: &Uri) -> io::Result<TcpStream> {
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let addresses = self.addresses(host, port).await?;
        let mut last = None;
        for address in addresses {
            match timeout(self.limit, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => {
                    last = Some(io::Error::new(error.kind(), format!("dial tcp {address}: {error}")))
                }
                Err(_) => {
                    let text = format!("dial tcp {address}: i/o timeout");
                    last = Some(io::Error::new(io::ErrorKind::TimedOut, text));
                }
            }
        }
        Err(last.unwrap_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("lookup {host}: no such host"))
        }))
    }

    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found: Vec<SocketAddr> = match bare.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => {
                let found = timeout(self.limit, lookup_host((bare, port))).await;
                let found = found.map_err(|_| {
                    io::Error::new(io::ErrorKind::TimedOut, format!("lookup {bare}: i/o timeout"))
                })?;
                found.map_err(|error| lookup_error(bare, &error))?.collect()
            }
        };
        let must_be_private = self.private.has(host);
        let allowed = |address: &SocketAddr| {
            let reach = reach(address.ip());
            reach.is_some_and(|reach| reach <= self.most)
                && (!must_be_private || reach == Some(Reach::Private))
        };
        let allowed: Vec<_> = found.iter().copied().filter(allowed).take(ADDRESSES_MAX).collect();
        match (found.first(), allowed.is_empty()) {
            (Some(refused), true) => Err(refusal(bare, *refused)),
            _ => Ok(allowed),
        }
    }
}

/// A name that does not exist is told from one that nobody could say anything about (getaddrinfo(3), EAI_NONAME).
fn lookup_error(host: &str, error: &io::Error) -> io::Error {
    match error.to_string().contains("Name or service not known") {
        true => io::Error::new(io::ErrorKind::NotFound, format!("dial tcp: lookup {host}: no such host")),
        false => io::Error::other(format!("dial tcp: lookup {host}: {error}")),
    }
}

/// An address that is not connected to.
#[derive(Debug, thiserror::Error)]
#[error("{host} is at {address}, which a registry may not lead to")]
pub(crate) struct Refusal {
    host: String,
    address: IpAddr,
}

fn refusal(host: &str, address: SocketAddr) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, Refusal { host: host.to_owned(), address: address.ip() })
}

/// Whether a connection is of no use however often it is tried: its address is refused, or its name is nobody's.
pub(crate) fn is_hopeless(error: &(dyn std::error::Error + 'static)) -> bool {
    causes(error).any(|error| {
        let kinds = [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied];
        error.downcast_ref::<io::Error>().is_some_and(|error| kinds.contains(&error.kind()))
    })
}

fn causes<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// Whether an address was refused.
#[cfg(test)]
fn is_refusal(error: &(dyn std::error::Error + 'static)) -> bool {
    causes(error).any(|error| {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.is_some_and(|inner| inner.is::<Refusal>())
    })
}

/// How far inside the registry at `host` is, as far as its name tells: what it leads to may be as far.
pub(crate) async fn reach_of(host: &str, private: &PrivateNames, limit: Duration) -> Reach {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return reach(address).unwrap_or(Reach::Public);
    }
    if bare == "localhost" || bare.ends_with(".localhost") {
        return Reach::Loopback;
    }
    let found = timeout(limit, lookup_host((bare, 443))).await;
    let found: Vec<_> = found.ok().and_then(Result::ok).map(Iterator::collect).unwrap_or_default();
    // A registry of a private network has a name in it. That a name is this machine's only the operator says.
    let is_private = |address: &SocketAddr| reach(address.ip()) == Some(Reach::Private);
    let all_are = !found.is_empty() && found.iter().all(is_private);
    if all_are && private.add(host) { Reach::Private } else { Reach::Public }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_98_addresses() {
        let check = |address: &str, expect: Option<Reach>| {
            assert_eq!(reach(address.parse().unwrap()), expect, "{address}");
        };
        check("1.1.1.1", Some(Reach::Public));
        check("127.0.0.1", Some(Reach::Loopback));
        check("127.9.9.9", Some(Reach::Loopback));
        check("10.0.0.1", Some(Reach::Private));
        check("172.31.255.255", Some(Reach::Private));
        check("172.32.0.1", Some(Reach::Public));
        check("192.168.1.1", Some(Reach::Private));
        check("100.64.0.1", Some(Reach::Private));
        check("169.254.169.254", None);
        check("169.254.170.2", None);
        check("0.0.0.0", None);
        check("224.0.0.1", None);
        check("255.255.255.255", None);
        check("::1", Some(Reach::Loopback));
        check("::", None);
        check("2606:4700::1111", Some(Reach::Public));
        check("fd00::1", Some(Reach::Private));
        check("fd00:ec2::254", None);
        check("fe80::1", None);
        check("ff02::1", None);
        check("::ffff:127.0.0.1", Some(Reach::Loopback));
        check("::ffff:169.254.169.254", None);
        check("64:ff9b::a9fe:a9fe", None);
        check("64:ff9b::101:101", Some(Reach::Public));
        check("2002:a9fe:a9fe::1", None);
        check("2002:7f00:1::1", Some(Reach::Loopback));
    }

    #[tokio::test]
    async fn row_98_connections_go_no_further_inside() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let check = async |host: &str, most, is_allowed: bool| {
            let connector =
                Connector { most, private: PrivateNames::default(), limit: Duration::from_secs(5) };
            let uri: Uri = format!("http://{host}:{port}/").parse().unwrap();
            match connector.connect(&uri).await {
                Ok(_) => assert!(is_allowed, "{host} {most:?}"),
                Err(error) => assert_eq!(is_refusal(&error), !is_allowed, "{host} {most:?} {error}"),
            }
        };
        check("127.0.0.1", Reach::Loopback, true).await;
        check("localhost", Reach::Loopback, true).await;
        check("127.0.0.1", Reach::Private, false).await;
        check("localhost", Reach::Public, false).await;
        check("[::ffff:127.0.0.1]", Reach::Public, false).await;
        check("169.254.169.254", Reach::Loopback, false).await;
    }

    #[tokio::test]
    async fn row_98_a_private_name_does_not_become_another() {
        let private = PrivateNames::default();
        assert!(private.add("localhost"));
        let connector = Connector { most: Reach::Loopback, private, limit: Duration::from_secs(5) };
        let error = connector.connect(&"http://localhost:1/".parse().unwrap()).await.unwrap_err();
        assert!(is_refusal(&error), "{error}");
    }
}
