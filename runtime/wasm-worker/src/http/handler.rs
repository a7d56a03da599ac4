//! The guest's handler, and instances of it that wait for their next request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::Request;
use wasmtime::Store;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p3::bindings::ServicePre;

use super::p3;
use super::request::{Awaited, Calls, Failure, Slot};
use crate::instance::{Code, RunContext, State};

/// Idle instances that are kept. More than that many requests at a time are rare for one worker.
const IDLE_MAX: usize = 32;
/// How long an instance waits for its next request.
const IDLE_WAIT: Duration = Duration::from_secs(10);

/// What answers requests.
pub(super) enum Handler {
    /// `wasi:http/incoming-handler` of WASI 0.2.
    P2(ProxyPre<State>),
    /// `wasi:http/handler` of WASI 0.3.
    P3(ServicePre<State>),
}

/// One instance, which serves one request at a time.
pub(super) struct Instance {
    pub(super) store: Store<State>,
    pub(super) exports: Option<Exports>,
    served: u32,
}

/// What of an instance is called.
pub(super) enum Exports {
    P2(Proxy),
    P3(wasmtime_wasi_http::p3::bindings::Service),
}

impl Handler {
    /// The handler of linked code.
    pub(super) fn new(code: &Code) -> wasmtime::Result<Self> {
        let Code::Component(pre) = code else {
            wasmtime::bail!(
                "a core module has no HTTP handler; build a component of the world wasi:http/proxy"
            );
        };
        match ServicePre::new(pre.clone()) {
            Ok(service) => Ok(Self::P3(service)),
            Err(_) => ProxyPre::new(pre.clone()).map(Self::P2),
        }
    }

    /// Gives a request to an instance. The answer appears in the slot.
    pub(super) fn call(
        &self,
        calls: &Arc<Calls>,
        request: Request<Awaited>,
        slot: Slot,
    ) -> impl Future<Output = Result<(), Failure>> + Send + use<> {
        let calls = Arc::clone(calls);
        async move {
            let instance = match calls.idle().take() {
                Some(instance) => instance,
                None => Instance::new(calls.context())?,
            };
            let meter = Arc::clone(instance.store.data().meter());
            let context = Arc::clone(calls.context());
            let call = instance.serve(Arc::clone(&calls), request, slot);
            context.metered(&meter, call).await
        }
    }
}

impl Instance {
    fn new(context: &RunContext) -> Result<Self, Failure> {
        let store = context.new_store().map_err(|failure| Failure::SetUp { why: format!("{failure:?}") })?;
        Ok(Self { store, exports: None, served: 0 })
    }

    async fn serve(
        mut self,
        calls: Arc<Calls>,
        request: Request<Awaited>,
        slot: Slot,
    ) -> Result<(), Failure> {
        if self.exports.is_none()
            && let Err(error) = self.instantiate(&calls).await
        {
            return Err(calls.failed_to_instantiate(&error, &mut self.store));
        }
        let called = match &self.exports {
            Some(Exports::P2(proxy)) => call_p2(&mut self.store, proxy, request, slot).await,
            Some(Exports::P3(service)) => p3::call(&mut self.store, service, request, slot).await,
            None => Ok(()),
        };
        if let Err(error) = called {
            return Err(calls.failed_to_answer(&error, &mut self.store));
        }
        self.served += 1;
        calls.idle().give_back(self);
        Ok(())
    }

    async fn instantiate(&mut self, calls: &Calls) -> wasmtime::Result<()> {
        let began = Instant::now();
        self.exports = Some(match calls.handler() {
            Handler::P2(pre) => Exports::P2(pre.instantiate_async(&mut self.store).await?),
            Handler::P3(pre) => Exports::P3(pre.instantiate_async(&mut self.store).await?),
        });
        calls.context().instance_is_ready(began.elapsed());
        Ok(())
    }
}

async fn call_p2(
    store: &mut Store<State>,
    proxy: &Proxy,
    request: Request<Awaited>,
    slot: Slot,
) -> wasmtime::Result<()> {
    let mut view = store.data_mut().http();
    let request = view.new_incoming_request(Scheme::Http, request)?;
    let answer = view.new_response_outparam_from_callback(move |answer| {
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    })?;
    proxy.wasi_http_incoming_handler().call_handle(store, request, answer).await
}

/// Instances that wait for their next request.
pub(super) struct Idle {
    /// Requests that an instance may serve.
    requests_max: u32,
    /// With the time since which each waits; the last one is the warmest.
    instances: Mutex<Vec<(Instance, Instant)>>,
}

impl Idle {
    pub(super) fn new(reuse: Option<u32>) -> Self {
        Self { requests_max: reuse.unwrap_or(1), instances: Mutex::default() }
    }

    fn instances(&self) -> MutexGuard<'_, Vec<(Instance, Instant)>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Instance> {
        self.instances().pop().map(|(instance, _)| instance)
    }

    fn give_back(&self, instance: Instance) {
        let mut instances = self.instances();
        if instance.served < self.requests_max && instances.len() < IDLE_MAX {
            instances.push((instance, Instant::now()));
        }
    }

    /// Forgets those that have waited for too long.
    pub(super) fn sweep(&self) {
        self.instances().retain(|(_, since)| since.elapsed() < IDLE_WAIT);
    }
}
