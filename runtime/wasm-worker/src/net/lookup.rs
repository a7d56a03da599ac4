//! `wasi:sockets/ip-name-lookup` by the server.
//!
//! wasmtime's own calls getaddrinfo(3), which reads files that a worker does not have and opens sockets that it
//! may not. The server looks names up instead; what it answers passes the [`Policy`].

use std::net::IpAddr;
use std::sync::Arc;

use neargate_wasm::protocol::{HostReply, HostRequest};
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, Network};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi::p3::bindings::sockets::{ip_name_lookup as p3_lookup, types as p3_types};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};

use super::Policy;
use crate::instance::State;
use crate::upcall::{UpcallError, Upcalls};

/// Addresses that a name may stand for; more are left out.
const ADDRESSES_MAX: usize = 64;
/// The longest name in text form, in bytes (RFC 1035, 3.1, without the last dot).
const NAME_BYTES_MAX: usize = 253;

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    /// The run has no network, or the name stands for addresses that are denied and for no other.
    #[error("look-ups of this name are denied")]
    Denied,
    /// It is neither a name nor an address.
    #[error("not a host name")]
    Invalid,
    /// There is no such name.
    #[error("the name has no address: {why}")]
    Unknown {
        /// The server's words.
        why: String,
    },
    /// The server did not say.
    #[error("the server gave no answer")]
    NoAnswer,
    /// The run has too many questions open.
    #[error("too many look-ups at a time")]
    TooMany,
}

/// Looks names up for one run.
#[derive(Clone)]
pub(crate) struct Resolver {
    policy: Arc<Policy>,
    upcalls: Upcalls,
}

impl Resolver {
    /// For a run with this policy, by questions of its own.
    pub(crate) fn new(policy: Arc<Policy>, upcalls: Upcalls) -> Self {
        Self { policy, upcalls }
    }

    /// What the addresses are checked with.
    pub(crate) fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// The addresses of a name, which may be an address itself. There is at least one.
    pub(crate) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        if !self.policy.allows_network() {
            return Err(LookupError::Denied);
        }
        let policy = &self.policy;
        let allowed: Vec<IpAddr> = match parse(name)? {
            Host::Address(address) => Vec::from_iter(policy.allows_literal(address).then_some(address)),
            Host::Name(name) => {
                self.ask(name).await?.into_iter().filter(|address| policy.allows_answer(*address)).collect()
            }
        };
        if allowed.is_empty() { Err(LookupError::Denied) } else { Ok(allowed) }
    }

    async fn ask(&self, name: String) -> Result<Vec<IpAddr>, LookupError> {
        let reply = self.upcalls.ask(HostRequest::Resolve { name }).await.map_err(|error| match error {
            UpcallError::TooMany => LookupError::TooMany,
            UpcallError::Gone | UpcallError::Late => LookupError::NoAnswer,
        })?;
        let addresses = match reply {
            HostReply::Addresses { addresses } => addresses,
            HostReply::Failed { why } => return Err(LookupError::Unknown { why }),
            _ => return Err(LookupError::NoAnswer),
        };
        let parsed: Vec<IpAddr> = addresses
            .iter()
            .take(ADDRESSES_MAX)
            .filter_map(|text| text.parse().ok())
            .map(|address: IpAddr| address.to_canonical())
            .collect();
        match parsed.is_empty() {
            true => Err(LookupError::Unknown { why: "the answer is empty".to_owned() }),
            false => Ok(parsed),
        }
    }
}

enum Host {
    Address(IpAddr),
    Name(String),
}

/// Tells an address from a name. Names of other alphabets become ASCII ones, as the interface asks for.
fn parse(name: &str) -> Result<Host, LookupError> {
    // A bare IPv6 address has no brackets, which `url` wants.
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(Host::Address(address));
    }
    match url::Host::parse(name) {
        Ok(url::Host::Ipv4(address)) => Ok(Host::Address(address.into())),
        Ok(url::Host::Ipv6(address)) => Ok(Host::Address(address.into())),
        Ok(url::Host::Domain(domain)) if is_host_name(&domain) => Ok(Host::Name(domain)),
        Ok(url::Host::Domain(_)) | Err(_) => Err(LookupError::Invalid),
    }
}

fn is_host_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    name.len() <= NAME_BYTES_MAX
        && name.split('.').all(|label| (1..=63).contains(&label.len()) && label.bytes().all(of_name))
}

/// A look-up of WASI 0.2: the guest asks for one address after another.
pub(crate) struct Lookup(Progress);

enum Progress {
    Asked(AbortOnDropJoinHandle<Result<Vec<IpAddr>, LookupError>>),
    Answered(Result<std::vec::IntoIter<IpAddr>, LookupError>),
}

impl Lookup {
    fn take(&mut self, answer: Result<Vec<IpAddr>, LookupError>) {
        self.0 = Progress::Answered(answer.map(Vec::into_iter));
    }

    fn next(&mut self) -> Result<Option<IpAddress>, ErrorCode> {
        if let Progress::Asked(asked) = &mut self.0
            && let Some(answer) = wasmtime_wasi::runtime::poll_noop(std::pin::Pin::new(asked))
        {
            self.take(answer);
        }
        match &mut self.0 {
            Progress::Asked(_) => Err(ErrorCode::WouldBlock),
            Progress::Answered(Ok(addresses)) => Ok(addresses.next().map(IpAddress::from)),
            Progress::Answered(Err(error)) => Err(p2_code(error)),
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        if let Progress::Asked(asked) = &mut self.0 {
            let answer = asked.await;
            self.take(answer);
        }
    }
}

fn p2_code(error: &LookupError) -> ErrorCode {
    match error {
        LookupError::Denied => ErrorCode::AccessDenied,
        LookupError::Invalid => ErrorCode::InvalidArgument,
        LookupError::Unknown { .. } => ErrorCode::NameUnresolvable,
        LookupError::NoAnswer | LookupError::TooMany => ErrorCode::TemporaryResolverFailure,
    }
}

fn p3_code(error: &LookupError) -> p3_lookup::ErrorCode {
    match error {
        LookupError::Denied => p3_lookup::ErrorCode::AccessDenied,
        LookupError::Invalid => p3_lookup::ErrorCode::InvalidArgument,
        LookupError::Unknown { .. } => p3_lookup::ErrorCode::NameUnresolvable,
        LookupError::NoAnswer | LookupError::TooMany => p3_lookup::ErrorCode::TemporaryResolverFailure,
    }
}

/// The version under which wasmtime-wasi defines the interface: a linker finds a compatible version by its
/// newest definition, so another one would leave wasmtime's own in place for some guests.
const P2: &str = "wasi:sockets/ip-name-lookup@0.2.12";
const P3: &str = "wasi:sockets/ip-name-lookup@0.3.0";

/// Takes the place of the interface of WASI 0.2. The linker must allow shadowing.
pub(super) fn add_p2(linker: &mut Linker<State>) -> Result<()> {
    let mut instance = linker.instance(P2)?;
    instance.resource("resolve-address-stream", ResourceType::host::<Lookup>(), |mut cx, rep| {
        cx.data_mut().ctx().table.delete(Resource::<Lookup>::new_own(rep))?;
        Ok(())
    })?;
    instance.func_wrap(
        "resolve-addresses",
        |mut cx: StoreContextMut<'_, State>, (network, name): (Resource<Network>, String)| {
            Ok((start(cx.data_mut(), &network, name)?,))
        },
    )?;
    instance.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut cx: StoreContextMut<'_, State>, (lookup,): (Resource<Lookup>,)| {
            Ok((cx.data_mut().ctx().table.get_mut(&lookup)?.next(),))
        },
    )?;
    instance.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut cx: StoreContextMut<'_, State>, (lookup,): (Resource<Lookup>,)| {
            let pollable: Resource<DynPollable> = subscribe(cx.data_mut().ctx().table, lookup)?;
            Ok((pollable,))
        },
    )
}

fn start(
    state: &mut State,
    network: &Resource<Network>,
    name: String,
) -> Result<Result<Resource<Lookup>, ErrorCode>> {
    // The resource stands for the permission to ask; that it exists is all there is to it.
    state.ctx().table.get(network)?;
    let resolver = state.resolver().clone();
    if !resolver.policy().allows_network() {
        return Ok(Err(p2_code(&LookupError::Denied)));
    }
    let asked = spawn(async move { resolver.resolve(&name).await });
    Ok(Ok(state.ctx().table.push(Lookup(Progress::Asked(asked)))?))
}

/// Takes the place of the interface of WASI 0.3. The linker must allow shadowing, and its engine must support
/// concurrency.
pub(super) fn add_p3(linker: &mut Linker<State>) -> Result<()> {
    linker.instance(P3)?.func_wrap_concurrent("resolve-addresses", |accessor, (name,): (String,)| {
        Box::pin(async move {
            let resolver = accessor.with(|mut cx| cx.data_mut().resolver().clone());
            let found = resolver.resolve(&name).await;
            let answer: Result<Vec<p3_types::IpAddress>, p3_lookup::ErrorCode> = match found {
                Ok(addresses) => Ok(addresses.into_iter().map(Into::into).collect()),
                Err(error) => Err(p3_code(&error)),
            };
            Ok((answer,))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_told_apart() {
        for (text, address) in
            [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("[::1]", "::1"), ("0x7f.1", "127.0.0.1")]
        {
            let Ok(Host::Address(found)) = parse(text) else { panic!("{text} is an address") };
            assert_eq!(found, address.parse::<IpAddr>().unwrap());
        }
        for (text, name) in [("Example.COM", "example.com"), ("bücher.example", "xn--bcher-kva.example")] {
            let Ok(Host::Name(found)) = parse(text) else { panic!("{text} is a name") };
            assert_eq!(found, name);
        }
        let long = "a.".repeat(127) + "a";
        for text in ["", "a b", "a/b", "a:80", "user@a", "..", long.as_str(), &"a".repeat(64)] {
            assert!(matches!(parse(text), Err(LookupError::Invalid)), "{text:?} is nothing");
        }
    }
}
