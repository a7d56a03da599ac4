//! What guests ask of the server: names and what they keep.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use neargate_model::chain;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::key_values::{KeyValueError, KeyValues};
use crate::protocol::{HostReply, HostRequest};
use crate::worker::Permissions;

/// How long a name look-up may take.
const RESOLVE: Duration = Duration::from_secs(5);
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
    pub(crate) async fn answer(&self, may: Permissions, request: HostRequest) -> HostReply {
        match request {
            HostRequest::Resolve { name } if may.resolve => self.resolve(name).await,
            HostRequest::Resolve { .. } => refused("look up a name: the task has no network"),
            _ if !may.key_values => refused("wasi:keyvalue is not granted"),
            request => match timeout(KEY_VALUES, self.key_values(request)).await {
                Ok(Ok(reply)) => reply,
                Ok(Err(error)) => HostReply::Failed { why: chain(&error) },
                Err(_) => refused("the key-value store took too long"),
            },
        }
    }

    async fn resolve(&self, name: String) -> HostReply {
        if name.is_empty() || name.len() > NAME_LEN_MAX || name.contains('\0') {
            return refused("look up a name: it is none");
        }
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
            Ok(Ok(found)) => {
                let addresses = found.iter().take(ADDRESSES_MAX).map(IpAddr::to_string).collect();
                HostReply::Addresses { addresses }
            }
            Ok(Err(error)) => HostReply::Failed { why: error.to_string() },
            Err(_) => refused("look up a name: it took too long"),
        }
    }

    async fn key_values(&self, request: HostRequest) -> Result<HostReply, KeyValueError> {
        let (store, tenant) = (&self.shared.key_values, self.tenant.as_str());
        Ok(match request {
            HostRequest::Resolve { .. } => refused("not a key-value operation"),
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

fn refused(why: &str) -> HostReply {
    HostReply::Failed { why: why.to_owned() }
}
