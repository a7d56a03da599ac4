//! The resolver of tasks: control's names behind the crate's contract, and the sockets on which it answers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use neargate_control::Control;
use neargate_dns::{PrivateNames, Resolver, Servers};
use neargate_driver::ResolverSockets;
use neargate_model::names::{PrivateAnswer, RecordKind};
use neargate_node::Names;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Where the host says whom it asks.
const HOST_SERVERS: &str = "/etc/resolv.conf";

/// Names as control has them.
struct ControlNames(Control);

impl PrivateNames for ControlNames {
    fn knows(&self, client: Ipv4Addr) -> bool {
        self.0.is_task_address(client)
    }

    fn look_up(&self, client: Ipv4Addr, name: &str, kind: RecordKind) -> PrivateAnswer {
        self.0.look_up_name(client, name, kind)
    }
}

/// The resolver for tasks that ask it in this process.
pub(crate) struct TaskNames(pub(crate) Arc<Resolver>);

#[async_trait]
impl Names for TaskNames {
    async fn addresses(&self, client: Ipv4Addr, name: &str) -> Option<Vec<IpAddr>> {
        self.0.addresses(client, name).await
    }
}

/// A resolver with control's names.
pub(crate) fn of(control: Control, servers: Servers) -> Arc<Resolver> {
    Arc::new(Resolver::new(Arc::new(ControlNames(control)), servers))
}

/// Whom to ask for what is not ours: the named servers, or those of the host.
pub(crate) fn servers(named: &[SocketAddr]) -> Servers {
    match named {
        [] => Servers::of_file(HOST_SERVERS),
        named => Servers::Named(named.to_vec()),
    }
}

/// Answers on the sockets that were supplied last, until there are no more or it is cancelled.
pub(crate) async fn answer(
    mut supply: mpsc::Receiver<ResolverSockets>,
    resolver: Arc<Resolver>,
    end: CancellationToken,
) {
    let mut sockets = supply.recv().await;
    while let Some(supplied) = sockets {
        let (udp, tcp) = match open(supplied) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "tasks have no names");
                sockets = supply.recv().await;
                continue;
            }
        };
        let serving = neargate_dns::serve(udp, tcp, resolver.clone(), end.clone());
        tokio::select! {
            () = serving => return,
            // Those of a network that is gone are closed.
            next = supply.recv() => sockets = next,
        }
    }
}

fn open(sockets: ResolverSockets) -> Result<(UdpSocket, TcpListener)> {
    let udp = UdpSocket::from_std(sockets.udp).context("use the socket of the resolver")?;
    let tcp = TcpListener::from_std(sockets.tcp).context("use the listener of the resolver")?;
    Ok((udp, tcp))
}

/// The address of a resolver, with the usual port if none is said.
pub(crate) fn parse_server(text: &str) -> Result<SocketAddr, String> {
    let without_port = || text.parse().map(|address| SocketAddr::new(address, neargate_dns::PORT));
    text.parse().or_else(|_| without_port()).map_err(|_| "say ADDR or ADDR:PORT".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read() {
        let check = |text: &str, expect: Option<&str>| {
            assert_eq!(parse_server(text).ok().map(|server| server.to_string()).as_deref(), expect, "{text}");
        };
        check("192.0.2.1", Some("192.0.2.1:53"));
        check("192.0.2.1:5353", Some("192.0.2.1:5353"));
        check("2001:db8::1", Some("[2001:db8::1]:53"));
        check("[2001:db8::1]:54", Some("[2001:db8::1]:54"));
        check("dns.example.com", None);
    }
}
