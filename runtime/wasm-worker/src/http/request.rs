//! One request: an instance, a call, an answer.
//!
//! ```text
//!  hyper's task of the connection
//!    answer ── polls ──► call: instantiate, wasi:http/incoming-handler#handle, drop the store
//!       │                  │
//!       │ ◄── slot ────────┘ response-outparam#set
//!       └─ Reply: what is written, or the body with the call in it
//! ```
//!
//! What a client is told when there is no response: 500 when the guest trapped, exited or never responded;
//! 503 when there was no room for an instance, which another time may have; 400 and 501 for requests that no
//! guest could be given. A guest that is out of memory has trapped: to try again would not help it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use neargate_wasm::protocol::Attachment;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use wasmtime::{PoolConcurrencyLimitError, Store};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::WasiBody;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;

use super::charged::charged_frame;
use super::connection::Marks;
use super::handler::{Handler, Idle};
use super::reply::Reply;
use crate::budget::Account;
use crate::instance::{self as guest, RunContext, State};
use crate::worker::{core_dump, reason};

/// Requests of one run in one worker that guests work on at a time. The others wait.
const PLACES: usize = 512;
/// How long a request waits for a place before the client is told to come back.
const PLACE_WAIT: Duration = Duration::from_secs(10);
/// How long a guest may go on after its response is out.
const LINGER_MAX: Duration = Duration::from_secs(300);
/// Failures that are written to the run's log in a second. A handler that always traps would fill it.
const REPORTS_MAX: u32 = 10;

/// How a call ended.
pub(super) struct Ended {
    number: u64,
    result: Result<(), Failure>,
}

/// A guest at work on a request. Dropping it ends the guest.
pub(super) type Call = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// What a guest answered.
type Answer = Result<Response<WasiBody>, ErrorCode>;
/// Where a guest's answer appears. It outlives neither the call nor the request.
pub(super) type Slot = Arc<Mutex<Option<Answer>>>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// There is no room for an instance at the moment.
    #[error("no room for an instance: {why}")]
    NoRoom {
        /// What there is no room in.
        why: String,
    },
    /// The run cannot be given what its plan says.
    #[error("set up an instance: {why}")]
    SetUp {
        /// What is wrong.
        why: String,
    },
    /// The guest trapped. The text has the backtrace.
    #[error("the handler trapped: {what}")]
    Trapped {
        /// wasmtime's words.
        what: String,
        /// Whether its core dump was handed over.
        dumped: bool,
    },
    /// The guest ended its program.
    #[error("the handler exited with code {code} before it had responded")]
    Exited {
        /// The code.
        code: i32,
    },
}

/// What the requests of a run share.
pub(super) struct Calls {
    context: Arc<RunContext>,
    handler: Handler,
    idle: Idle,
    places: Arc<Semaphore>,
    lingering: Mutex<JoinSet<()>>,
    /// Whether the core dump of a request has been handed over: one for a run, of which a handler has one on each
    /// core. The first of them all is kept.
    dumped: AtomicBool,
    numbers: AtomicU64,
    reports: AtomicU32,
}

impl Calls {
    pub(super) fn new(context: Arc<RunContext>, handler: Handler, reuse: Option<u32>) -> Arc<Self> {
        Arc::new(Self {
            context,
            handler,
            idle: Idle::new(reuse),
            places: Arc::new(Semaphore::new(PLACES)),
            lingering: Mutex::default(),
            dumped: AtomicBool::new(false),
            numbers: AtomicU64::new(0),
            reports: AtomicU32::new(0),
        })
    }

    pub(super) fn context(&self) -> &Arc<RunContext> {
        &self.context
    }

    pub(super) fn handler(&self) -> &Handler {
        &self.handler
    }

    pub(super) fn idle(&self) -> &Idle {
        &self.idle
    }

    /// Answers a request. Dropping the future, as hyper does when the client goes away, ends the guest.
    pub(super) async fn answer(
        self: Arc<Self>,
        marks: Arc<Marks>,
        request: Request<Incoming>,
    ) -> Response<Reply> {
        let serving = marks.serve();
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let response = match refusal(&request) {
            Some((status, why)) => Reply::text(status, why.to_owned()),
            None => self.serve(serving.marks(), request, number).await,
        };
        self.context.request_was_answered();
        response.map(|reply| reply.with(serving))
    }

    async fn serve(
        self: &Arc<Self>,
        marks: &Arc<Marks>,
        request: Request<Incoming>,
        number: u64,
    ) -> Response<Reply> {
        let Ok(Ok(place)) = tokio::time::timeout(PLACE_WAIT, Arc::clone(&self.places).acquire_owned()).await
        else {
            return self.text(StatusCode::SERVICE_UNAVAILABLE, "too many requests are being served", number);
        };
        let bodiless = request.method() == Method::HEAD;
        let slot = Slot::default();
        let account = self.context.account();
        let body = |incoming| Awaited { incoming, marks: Arc::clone(marks), account: account.clone() };
        let call = self.handler.call(self, request.map(body), Arc::clone(&slot));
        let mut call: Call = Box::pin(async move {
            let _place = place;
            Ended { number, result: call.await }
        });
        // The guest sets the slot while it is polled, so after each poll is when to look.
        let (answer, ended) = std::future::poll_fn(|cx| {
            let polled = call.as_mut().poll(cx);
            let answer = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            match polled {
                Poll::Ready(ended) => Poll::Ready((answer, Some(ended))),
                Poll::Pending if answer.is_some() => Poll::Ready((answer, None)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        if let Some(ended) = &ended
            && self.ended(ended).is_err()
        {
            return self.failed(ended);
        }
        match (answer, ended) {
            (Some(Ok(response)), Some(_)) => {
                response.map(|body| Reply::written(body, self.context.account()))
            }
            (Some(Ok(response)), None) => self.going(response, call, bodiless),
            (Some(Err(code)), _) => {
                self.report(number, &format!("the handler gave an error for a response: {code:?}"));
                self.text(StatusCode::INTERNAL_SERVER_ERROR, "the handler gave no response", number)
            }
            (None, _) => {
                self.report(number, "the handler returned without a response");
                self.text(StatusCode::INTERNAL_SERVER_ERROR, "the handler gave no response", number)
            }
        }
    }

    fn going(self: &Arc<Self>, response: Response<WasiBody>, call: Call, bodiless: bool) -> Response<Reply> {
        let (head, body) = response.into_parts();
        let bodiless = bodiless
            || head.status.is_informational()
            || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let said = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let length = if bodiless { Some(0) } else { said };
        Response::from_parts(head, Reply::going(body, call, Arc::clone(self), length))
    }

    fn failed(&self, ended: &Ended) -> Response<Reply> {
        let (status, text) = match &ended.result {
            Err(Failure::NoRoom { .. }) => (StatusCode::SERVICE_UNAVAILABLE, "no room for an instance"),
            Err(Failure::SetUp { .. }) => (StatusCode::INTERNAL_SERVER_ERROR, "no instance could be made"),
            Err(Failure::Trapped { .. }) => (StatusCode::INTERNAL_SERVER_ERROR, "the handler trapped"),
            Ok(()) | Err(Failure::Exited { .. }) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "the handler gave no response")
            }
        };
        self.text(status, text, ended.number)
    }

    fn text(&self, status: StatusCode, text: &str, number: u64) -> Response<Reply> {
        Reply::text(status, format!("{status}: {text} (request {}-{number})\n", self.context.run()))
    }

    /// Looks at how a call ended, and tells the run's log of a failure.
    pub(super) fn ended(&self, ended: &Ended) -> Result<(), ()> {
        match &ended.result {
            Ok(()) => Ok(()),
            Err(failure) => {
                self.report(ended.number, &failure.to_string());
                if let Failure::Trapped { dumped: true, .. } = failure {
                    self.report(
                        ended.number,
                        "its core dump is kept unless another part of this handler left one before",
                    );
                }
                Err(())
            }
        }
    }

    /// Why there is no answer of an instance that could not be made.
    pub(super) fn failed_to_instantiate(&self, error: &wasmtime::Error, store: &mut Store<State>) -> Failure {
        if error.is::<PoolConcurrencyLimitError>() || store.data().growth_was_refused() {
            return Failure::NoRoom { why: format!("{error:#}") };
        }
        self.failed_to_answer(error, store)
    }

    /// Why a call has no answer.
    pub(super) fn failed_to_answer(&self, error: &wasmtime::Error, store: &mut Store<State>) -> Failure {
        if let Some(exit) = error.downcast_ref::<I32Exit>() {
            return Failure::Exited { code: exit.0 };
        }
        let memory = if store.data().growth_was_refused() { "its memory limit was reached; " } else { "" };
        let dumped = !error.is::<guest::Ended>() && self.keep_core_dump(error, store);
        Failure::Trapped { what: format!("{memory}{}", reason(error)), dumped }
    }

    /// Of the traps of a run the first leaves a core dump: what follows is often its consequence, and who can make
    /// a handler trap must not be able to fill a disk with that, nor a worker's time.
    fn keep_core_dump(&self, error: &wasmtime::Error, store: &mut Store<State>) -> bool {
        if !self.context.plan().core_dump || self.dumped.load(Ordering::Relaxed) {
            return false;
        }
        let make = || match core_dump(error, store, &self.context) {
            Ok(dump) => dump,
            Err(error) => {
                tracing::warn!(run = self.context.run(), %error, "keep what a request left");
                None
            }
        };
        let left = self.context.upcalls().leave(Attachment::CoreDump {}, make);
        // The requests of a run share a thread, so that nobody was faster.
        self.dumped.fetch_or(left, Ordering::Relaxed);
        left
    }

    fn report(&self, number: u64, what: &str) {
        if self.reports.fetch_add(1, Ordering::Relaxed) < REPORTS_MAX {
            self.context.log(&format!("neargate: request {}-{number}: {what}\n", self.context.run()));
        }
    }

    /// Lets a call go on after its response is out.
    pub(super) fn linger(self: &Arc<Self>, call: Call) {
        let calls = Arc::clone(self);
        let lingering = async move {
            match tokio::time::timeout(LINGER_MAX, call).await {
                Ok(ended) => drop(calls.ended(&ended)),
                Err(_) => calls.report(0, "a handler was ended: its response was out long ago"),
            }
        };
        let mut all = self.lingering();
        while all.try_join_next().is_some() {}
        all.spawn(lingering);
    }

    fn lingering(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.lingering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Once a second: forgets old idle instances, and says what the log was spared.
    pub(super) fn sweep(&self) {
        self.idle.sweep();
        let spared = self.reports.swap(0, Ordering::Relaxed).saturating_sub(REPORTS_MAX);
        if spared > 0 {
            self.context.log(&format!("neargate: {spared} more requests failed within a second\n"));
        }
    }

    /// Waits until no call lingers.
    pub(super) async fn finished(&self) {
        std::future::poll_fn(|cx| {
            let mut all = self.lingering();
            loop {
                match all.poll_join_next(cx) {
                    Poll::Ready(Some(_)) => {}
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }
}

/// Why no guest is given this request.
fn refusal(request: &Request<Incoming>) -> Option<(StatusCode, &'static str)> {
    if request.method() == Method::CONNECT {
        return Some((StatusCode::NOT_IMPLEMENTED, "501 Not Implemented: this is no proxy\n"));
    }
    // RFC 9112, 3.2: exactly one Host, in a request that names no authority otherwise.
    let mut hosts = request.headers().get_all(HOST).iter();
    let fine = match (hosts.next(), hosts.next()) {
        (Some(host), None) => is_host(host),
        (None, None) => request.uri().authority().is_some(),
        _ => false,
    };
    (!fine).then_some((StatusCode::BAD_REQUEST, "400 Bad Request: one Host header is needed\n"))
}

/// Whether it is a name or address with or without a port, or empty, which RFC 9112 allows.
fn is_host(host: &HeaderValue) -> bool {
    host.is_empty() || Authority::try_from(host.as_bytes()).is_ok()
}

/// A request's body that marks when the client is waited for.
pub(super) struct Awaited {
    incoming: Incoming,
    marks: Arc<Marks>,
    /// What the guest has not read yet is on it.
    account: Account,
}

impl Body for Awaited {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        self.marks.body_is_awaited(polled.is_pending());
        polled.map_ok(|frame| charged_frame(frame, &self.account))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
