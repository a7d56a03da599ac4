//! `wasi:http`: requests that a guest serves, and those that it sends.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use wasmtime::component::Linker;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::instance::{RunContext, State};

/// What of `wasi:http` a store decides by itself.
pub(crate) struct Hooks {}

impl Hooks {
    /// For a new store of a run.
    pub(crate) fn new(_run: &RunContext) -> Self {
        Self {}
    }
}

type Transmitted = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Result<(hyper::Response<WasiBody>, Transmitted), Error>;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        _request: hyper::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _transmitted: Transmitted,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}

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

/// Serves until the run is asked to stop and the last request is answered. An error ends the run.
pub(crate) async fn serve(run: HttpRun) -> wasmtime::Result<()> {
    drop((run.listeners, run.reuse));
    run.context.stop().requested().await;
    Ok(())
}

/// Adds `wasi:http` to the linker of an engine.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)
}
