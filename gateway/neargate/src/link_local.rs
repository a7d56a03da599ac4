//! The link-local addresses of tasks: takes their sockets, and hands them to what answers there.
//!
//! A network that is made anew has new sockets; whoever answers then goes on with these. A server that has just been
//! replaced may hold the old ones until it has ended.

use std::net::TcpListener;
use std::time::Duration;

use neargate_driver::{LinkLocalError, LinkLocalSockets, NetworkTurn, ResolverSockets, SandboxHost};
use neargate_model::chain;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// How long after a failure it is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// To those who answer at the link-local addresses. Each receives sockets at first, and others in their place
/// when the network is another one.
#[derive(Debug)]
pub(crate) struct Answerers {
    /// To those who answer tasks about themselves.
    pub(crate) metadata: mpsc::Sender<TcpListener>,
    /// To those who resolve names.
    pub(crate) resolver: mpsc::Sender<ResolverSockets>,
}

/// What answerers receive from.
#[derive(Debug)]
pub(crate) struct Supplies {
    /// For those who answer tasks about themselves.
    pub(crate) metadata: mpsc::Receiver<TcpListener>,
    /// For those who resolve names.
    pub(crate) resolver: mpsc::Receiver<ResolverSockets>,
}

/// Both ends of the way to the answerers.
pub(crate) fn channels() -> (Answerers, Supplies) {
    let (metadata, metadata_supply) = mpsc::channel(1);
    let (resolver, resolver_supply) = mpsc::channel(1);
    (Answerers { metadata, resolver }, Supplies { metadata: metadata_supply, resolver: resolver_supply })
}

/// Hands over sockets as long as somebody takes them.
pub(crate) async fn supply(host: &dyn SandboxHost, answerers: Answerers) {
    let mut turn = NetworkTurn::default();
    let mut holds = false;
    loop {
        turn = host.network_after(turn).await;
        let Some(LinkLocalSockets { metadata, resolver }) = take(host, holds).await else { continue };
        holds = true;
        // One that nobody takes is closed, and who asks there is refused.
        let metadata = answerers.metadata.send(metadata).await;
        let resolver = answerers.resolver.send(resolver).await;
        if metadata.is_err() && resolver.is_err() {
            return;
        }
    }
}

/// Takes sockets, which may last; none where those that this process holds already are of the same network.
async fn take(host: &dyn SandboxHost, holds: bool) -> Option<LinkLocalSockets> {
    let mut has_told = false;
    loop {
        let error = match host.link_local().await {
            Ok(sockets) => return Some(sockets),
            Err(LinkLocalError::InUse) if holds => return None,
            Err(error) => error,
        };
        let (error, is_held) = (chain(&error), matches!(error, LinkLocalError::InUse));
        match (has_told, is_held) {
            (true, _) => {}
            // By a server that has been replaced and has not ended yet.
            (false, true) => tracing::info!(error, "tasks are not answered yet; tried again"),
            (false, false) => tracing::warn!(error, "tasks are not answered yet; tried again"),
        }
        has_told = true;
        sleep(RETRY_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use neargate_driver::sim::SimDriver;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn sockets_come_when_there_is_a_network_that_nobody_else_answers_in() {
        let (driver, vpc) = (SimDriver::new(), "10.0.0.0/16".parse().unwrap());
        let (answerers, Supplies { metadata: mut listeners, .. }) = channels();
        let host = driver.clone();
        let _supplying = tokio::spawn(async move { supply(&host, answerers).await });
        assert!(timeout(RETRY_PAUSE / 5, listeners.recv()).await.is_err());
        driver.set_groups(&[], &[vpc]).await.unwrap();
        // Nothing has run yet that could have taken them.
        let before = driver.link_local().await.unwrap();
        assert!(timeout(RETRY_PAUSE * 3 / 2, listeners.recv()).await.is_err());
        let address = before.metadata.local_addr().unwrap();
        drop(before);
        let listener = timeout(RETRY_PAUSE * 3, listeners.recv()).await.unwrap().unwrap();
        assert_eq!(listener.local_addr().unwrap(), address);
    }
}
