//! The making of sockets, where that is not left to the kernel: those of a run with the network of its task.
//!
//! The server is asked for a socket, and wasmtime's own function then takes that for the one that it makes
//! ([`handed`](super::handed)). With the host's network nothing is asked.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Poll;

use neargate_wasm::protocol::{HostReply, HostRequest, SocketPlan};
use wasmtime::component::{Linker, Resource};
use wasmtime::{Result, StoreContextMut, bail};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily};
use wasmtime_wasi::p2::bindings::sockets::{tcp_create_socket, udp_create_socket};
use wasmtime_wasi::p3::bindings::sockets::types as p3;
use wasmtime_wasi::sockets::WasiSocketsView;
use wasmtime_wasi::{p2, sockets};

use super::Policy;
use super::handed::{self, Laid};
use crate::instance::State;
use crate::upcall::{UpcallError, Upcalls};

/// Why there is no socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SocketError {
    /// It could not be made.
    #[error("the server made no socket")]
    Failed,
    /// The run has too many questions open.
    #[error("too many questions at a time")]
    TooMany,
}

/// Gets sockets for one run.
#[derive(Clone)]
pub(crate) struct Sockets {
    policy: Arc<Policy>,
    upcalls: Upcalls,
}

impl Sockets {
    /// For a run with this policy, by questions of its own.
    pub(crate) fn new(policy: Arc<Policy>, upcalls: Upcalls) -> Self {
        Self { policy, upcalls }
    }

    /// A socket in the network of the run's task; `None` where the kernel is to be asked as usual.
    pub(crate) async fn make(&self, socket: SocketPlan) -> Result<Option<OwnedFd>, SocketError> {
        if !self.policy.takes_sockets() {
            return Ok(None);
        }
        match self.upcalls.ask_for_socket(HostRequest::Socket { socket }).await {
            Ok((HostReply::Socket {}, Some(socket))) => Ok(Some(socket)),
            Ok(_) | Err(UpcallError::Gone | UpcallError::Late) => Err(SocketError::Failed),
            Err(UpcallError::TooMany) => Err(SocketError::TooMany),
        }
    }
}

/// The versions under which wasmtime-wasi defines the interfaces; see those of the name look-up.
const P2_TCP: &str = "wasi:sockets/tcp-create-socket@0.2.12";
const P2_UDP: &str = "wasi:sockets/udp-create-socket@0.2.12";
const P3: &str = "wasi:sockets/types@0.3.0";

/// Takes the place of what makes sockets in WASI 0.2. The linker must allow shadowing.
pub(super) fn add_p2(linker: &mut Linker<State>) -> Result<()> {
    linker.instance(P2_TCP)?.func_wrap_async("create-tcp-socket", |cx, (family,): (IpAddressFamily,)| {
        Box::new(async move { Ok((p2_tcp(cx, family).await?,)) })
    })?;
    linker.instance(P2_UDP)?.func_wrap_async("create-udp-socket", |cx, (family,): (IpAddressFamily,)| {
        Box::new(async move { Ok((p2_udp(cx, family).await?,)) })
    })
}

/// The same for WASI 0.3.
pub(super) fn add_p3(linker: &mut Linker<State>) -> Result<()> {
    let mut types = linker.instance(P3)?;
    types.func_wrap_async("[static]tcp-socket.create", |cx, (family,): (p3::IpAddressFamily,)| {
        Box::new(async move { Ok((p3_tcp(cx, family).await?,)) })
    })?;
    types.func_wrap_async("[static]udp-socket.create", |cx, (family,): (p3::IpAddressFamily,)| {
        Box::new(async move { Ok((p3_udp(cx, family).await?,)) })
    })
}

type P2Made<T> = Result<Resource<T>, ErrorCode>;
type P3Made<T> = Result<Resource<T>, p3::ErrorCode>;

async fn p2_tcp(
    mut cx: StoreContextMut<'_, State>,
    family: IpAddressFamily,
) -> Result<P2Made<p2::TcpSocket>> {
    let plan = SocketPlan::Stream { is_v6: family == IpAddressFamily::Ipv6 };
    let socket = match sockets_of(&cx).make(plan).await {
        Ok(socket) => socket,
        Err(error) => return Ok(Err(p2_code(error))),
    };
    let make = std::future::poll_fn(|_| {
        Poll::Ready(tcp_create_socket::Host::create_tcp_socket(&mut cx.data_mut().sockets(), family))
    });
    settle(in_place(socket, make).await, p2::SocketError::downcast)
}

async fn p2_udp(
    mut cx: StoreContextMut<'_, State>,
    family: IpAddressFamily,
) -> Result<P2Made<p2::UdpSocket>> {
    let plan = SocketPlan::Datagram { is_v6: family == IpAddressFamily::Ipv6 };
    let socket = match sockets_of(&cx).make(plan).await {
        Ok(socket) => socket,
        Err(error) => return Ok(Err(p2_code(error))),
    };
    let mut view = cx.data_mut().sockets();
    let make = udp_create_socket::Host::create_udp_socket(&mut view, family);
    settle(in_place(socket, make).await, p2::SocketError::downcast)
}

async fn p3_tcp(
    mut cx: StoreContextMut<'_, State>,
    family: p3::IpAddressFamily,
) -> Result<P3Made<sockets::TcpSocket>> {
    let plan = SocketPlan::Stream { is_v6: family == p3::IpAddressFamily::Ipv6 };
    let socket = match sockets_of(&cx).make(plan).await {
        Ok(socket) => socket,
        Err(error) => return Ok(Err(p3_code(error))),
    };
    let make = std::future::poll_fn(|_| {
        Poll::Ready(p3::HostTcpSocket::create(&mut cx.data_mut().sockets(), family))
    });
    settle(in_place(socket, make).await, wasmtime_wasi::p3::sockets::SocketError::downcast)
}

async fn p3_udp(
    mut cx: StoreContextMut<'_, State>,
    family: p3::IpAddressFamily,
) -> Result<P3Made<sockets::UdpSocket>> {
    let plan = SocketPlan::Datagram { is_v6: family == p3::IpAddressFamily::Ipv6 };
    let socket = match sockets_of(&cx).make(plan).await {
        Ok(socket) => socket,
        Err(error) => return Ok(Err(p3_code(error))),
    };
    let mut view = cx.data_mut().sockets();
    let make = p3::HostUdpSocket::create(&mut view, family);
    settle(in_place(socket, make).await, wasmtime_wasi::p3::sockets::SocketError::downcast)
}

fn sockets_of(cx: &StoreContextMut<'_, State>) -> Sockets {
    cx.data().sockets_of_task().clone()
}

/// Polls what makes a socket, for the first time with the socket that it is to get. It asks for one in its first step.
async fn in_place<T>(socket: Option<OwnedFd>, make: impl Future<Output = T>) -> (T, Laid) {
    let mut make = std::pin::pin!(make);
    let (mut socket, mut laid) = (socket, Laid::Taken);
    let made = std::future::poll_fn(|cx| match socket.take() {
        Some(socket) => {
            let (polled, became) = handed::with(socket, || make.as_mut().poll(cx));
            laid = became;
            polled
        }
        None => make.as_mut().poll(cx),
    });
    (made.await, laid)
}

/// The guest's answer. A socket that is not the one which was handed over would be in another network.
fn settle<T, E, C>(
    (made, laid): (Result<T, E>, Laid),
    code: impl FnOnce(E) -> Result<C>,
) -> Result<Result<T, C>> {
    match (made, laid) {
        (Ok(made), Laid::Taken) => Ok(Ok(made)),
        (Ok(_), Laid::Left) => bail!("a socket was made elsewhere than in the network of the task"),
        (Err(error), _) => Ok(Err(code(error)?)),
    }
}

fn p2_code(error: SocketError) -> ErrorCode {
    match error {
        SocketError::Failed => ErrorCode::Unknown,
        SocketError::TooMany => ErrorCode::NewSocketLimit,
    }
}

fn p3_code(error: SocketError) -> p3::ErrorCode {
    p3::ErrorCode::Other(Some(error.to_string()))
}
