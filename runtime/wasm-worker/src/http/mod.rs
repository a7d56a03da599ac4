//! `wasi:http`: requests that a guest serves, and those that it sends.
//!
//! ```text
//!  server      listening sockets, connections, their end      send   requests of guests
//!    │ per connection: hyper, watched by `connection`           │ by
//!  request     one request → one answer                       tls    and crate::net's policy and names
//!    │ calls
//!  handler     a fresh instance for each request, or one that waits      p3   handlers of WASI 0.3
//!    │ answers with
//!  reply       what is written, or a body that the guest still writes      charged  parts on the run's account
//! ```
//!
//! The worker itself accepts and answers; no process is in between.

mod charged;
mod connection;
mod handler;
mod p3;
mod reply;
mod request;
mod send;
mod server;
mod tls;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use wasmtime::component::Linker;
use wasmtime::error::Context as _;

pub(crate) use send::{Hooks, Sender};

use crate::instance::{RunContext, State};
use handler::Handler;
use request::Calls;
use server::Server;

/// A run that serves requests.
pub(crate) struct HttpRun {
    /// The run. A store for a request comes from [`RunContext::new_store`], and what polls the guest in it is
    /// wrapped with [`RunContext::metered`].
    pub(crate) context: Arc<RunContext>,
    /// Listening TCP sockets.
    pub(crate) listeners: Vec<OwnedFd>,
    /// How many requests an instance may serve; `None` is one.
    pub(crate) reuse: Option<u32>,
}

/// Serves until the run is asked to stop and the last request is answered. Dropping it ends all at once.
///
/// A guest that fails costs its client an answer and the run nothing. An error means that the run cannot
/// serve at all.
pub(crate) async fn serve(run: HttpRun) -> wasmtime::Result<()> {
    let handler = Handler::new(run.context.code())?;
    let listeners = run.listeners.into_iter().map(server::listener).collect::<Result<Vec<_>, _>>();
    let listeners = listeners.context("take over the listening sockets")?;
    let calls = Calls::new(run.context, handler, run.reuse);
    Server::new(calls).run(listeners).await;
    Ok(())
}

/// Adds `wasi:http` of WASI 0.2 to the linker of an engine.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)
}
