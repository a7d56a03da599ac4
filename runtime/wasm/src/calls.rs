//! What guests ask of the server: names, sockets, and what they keep.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use neargate_driver::{IpVersion, SocketKind, TaskSockets};
use neargate_model::chain;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::key_values::{KeyValueError, KeyValues};
use crate::protocol::{HostReply, HostRequest, SocketPlan};
use crate::worker::{Permissions, Reach};

/// How long a name look-up may take.
const RESOLVE: Duration = Duration::from_secs(5);
/// How long it may take to make a socket: the first one of a task takes its network, of which many may be wanted at once.
const SOCKET: Duration = Duration::from_secs(8);
/// Look-ups at a time, over all workers: each holds a thread for as long as the resolver takes.
const RESOLVES_MAX: usize = 16;
/// Addresses that a look-up tells.
const ADDRESSES_MAX: usize = 64;
/// Longest name that is looked up (RFC 1035, 2.3.4).
const NAME_LEN_MAX: usize = 253;
/// How long a key-value operation may take.
const KEY_VALUES: Duration = Duration::from_secs(10);

/// What all workers share for answering.
pub(crate) struct Shared {
    pub(crate) key_values: Arc<dyn KeyValues>,
    resolves: Arc<Semaphore>,
}

impl Shared {
    pub(crate) fn new(key_values: Arc<dyn KeyValues>) -> Self {
        Self { key_values, resolves: Arc::new(Semaphore::new(RESOLVES_MAX)) }
    }
}

/// Answers the guests of one worker.
pub(crate) struct Calls {
    pub(crate) shared: Arc<Shared>,
    /// Whose buckets they see.
    pub(crate) tenant: String,
}

impl Calls {
    /// The answer, with the socket that may be part of it.
    pub(crate) async fn answer(
        &self,
        may: Permissions,
        request: HostRequest,
    ) -> (HostReply, Option<OwnedFd>) {
        let reply = match (request, may.reach) {
            (HostRequest::Socket { socket }, Reach::Own(sockets)) => match make(&*sockets, &socket).await {
                Ok(socket) => return (HostReply::Socket {}, Some(socket)),
                Err(why) => HostReply::Failed { why },
            },
            (HostRequest::Socket { .. }, _) => refused("make a socket: the task has no network of its own"),
            (HostRequest::Resolve { name }, _) if !is_name(&name) => refused("look up a name: it is none"),
            (HostRequest::Resolve { name }, Reach::Own(sockets)) => look_up(&*sockets, &name).await,
            (HostRequest::Resolve { name }, Reach::Host) => self.resolve(name).await,
            (HostRequest::Resolve { .. }, Reach::Nothing) => {
                refused("look up a name: the task has no network")
            }
            _ if !may.key_values => refused("wasi:keyvalue is not granted"),
            (request, _) => match timeout(KEY_VALUES, self.key_values(request)).await {
                Ok(Ok(reply)) => reply,
                Ok(Err(error)) => HostReply::Failed { why: chain(&error) },
                Err(_) => refused("the key-value store took too long"),
            },
        };
        (reply, None)
    }

    /// The addresses of a name as the host has them.
    async fn resolve(&self, name: String) -> HostReply {
        let permits = self.shared.resolves.clone();
        let looking = async move {
            let permit = permits.acquire_owned().await;
            // A look-up that takes too long holds its thread, and so its permit, to its end.
            let job = tokio::spawn(async move {
                let found = tokio::net::lookup_host((name.as_str(), 0)).await;
                drop(permit);
                found.map(|found| found.map(|address| address.ip()).collect::<BTreeSet<IpAddr>>())
            });
            job.await.map_err(std::io::Error::other).flatten()
        };
        match timeout(RESOLVE, looking).await {
            Ok(Ok(found)) => addresses(found),
            Ok(Err(error)) => HostReply::Failed { why: error.to_string() },
            Err(_) => refused("look up a name: it took too long"),
        }
    }

    async fn key_values(&self, request: HostRequest) -> Result<HostReply, KeyValueError> {
        let (store, tenant) = (&self.shared.key_values, self.tenant.as_str());
        Ok(match request {
            HostRequest::Resolve { .. } | HostRequest::Socket { .. } => refused("not a key-value operation"),
            HostRequest::KvGet { bucket, key } => {
                HostReply::Value { value: store.get(tenant, &bucket, &key).await? }
            }
            HostRequest::KvSet { bucket, key, value } => {
                store.set(tenant, &bucket, &key, value).await?;
                HostReply::Done {}
            }
            HostRequest::KvDelete { bucket, key } => {
                store.delete(tenant, &bucket, &key).await?;
                HostReply::Done {}
            }
            HostRequest::KvExists { bucket, key } => {
                HostReply::Is { is: store.get(tenant, &bucket, &key).await?.is_some() }
            }
            HostRequest::KvList { bucket, cursor } => {
                let page = store.list(tenant, &bucket, cursor.as_deref()).await?;
                HostReply::Keys { keys: page.keys, cursor: page.cursor }
            }
            HostRequest::KvIncrement { bucket, key, delta } => {
                HostReply::Number { number: store.increment(tenant, &bucket, &key, delta).await? }
            }
            HostRequest::KvSwap { bucket, key, old, new } => {
                HostReply::Is { is: store.swap(tenant, &bucket, &key, old, new).await? }
            }
        })
    }
}

async fn make(sockets: &dyn TaskSockets, plan: &SocketPlan) -> Result<OwnedFd, String> {
    let version = |is_v6| if is_v6 { IpVersion::V6 } else { IpVersion::V4 };
    let kind = match *plan {
        SocketPlan::Stream { is_v6 } => SocketKind::Stream(version(is_v6)),
        SocketPlan::Datagram { is_v6 } => SocketKind::Datagram(version(is_v6)),
    };
    match timeout(SOCKET, sockets.make(kind)).await {
        Ok(made) => made.map_err(|error| chain(&error)),
        Err(_) => Err("make a socket: it took too long".to_owned()),
    }
}

async fn look_up(sockets: &dyn TaskSockets, name: &str) -> HostReply {
    match timeout(RESOLVE, sockets.look_up(name)).await {
        Ok(Ok(found)) => addresses(found),
        Ok(Err(error)) => HostReply::Failed { why: error.to_string() },
        Err(_) => refused("look up a name: it took too long"),
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_LEN_MAX && !name.contains('\0')
}

fn addresses(found: impl IntoIterator<Item = IpAddr>) -> HostReply {
    let addresses = found.into_iter().take(ADDRESSES_MAX).map(|address| address.to_string()).collect();
    HostReply::Addresses { addresses }
}

fn refused(why: &str) -> HostReply {
    HostReply::Failed { why: why.to_owned() }
}
