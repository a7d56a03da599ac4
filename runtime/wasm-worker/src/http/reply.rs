//! Bodies of responses.
//!
//! A guest may go on after it has given its response: to write the body, or with something else. Its call then
//! moves into the body and is polled with it, so a request needs no task of its own, and a client that goes
//! away takes the guest with it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::{Error, WasiBody};

use super::charged::{charged, charged_frame};
use super::connection::Serving;
use super::request::{Call, Calls};
use crate::budget::Account;

/// Parts of a body that are looked at ahead. A guest can have written two when its call ends: more do not fit
/// into the channel between it and hyper.
const PARTS_MAX: usize = 3;

/// Parts of a response that is whole which are together smaller than this are not put on the account: they are
/// written as soon as they are there, and most responses are small.
const CHARGED_MIN: usize = 4 << 10;

/// The body of a response, and what has to live as long as it.
pub(super) struct Reply {
    parts: [Bytes; PARTS_MAX],
    /// Where in `parts` the next one is.
    next: usize,
    rest: Rest,
    _serving: Option<Serving>,
}

enum Rest {
    None,
    /// The guest is done.
    Written(WasiBody),
    /// The guest goes on.
    Going(Box<Going>),
}

/// A guest that goes on after its response.
pub(super) struct Going {
    body: WasiBody,
    call: Option<Call>,
    calls: Arc<Calls>,
    /// What the response's length is, and how much of it is still to come.
    remaining: Option<u64>,
    /// The client gets no more: what the guest does from here on is its own affair.
    delivered: bool,
    trapped: bool,
}

impl Reply {
    /// A text of the server's own.
    pub(super) fn text(status: StatusCode, text: String) -> Response<Self> {
        let mut response = Response::new(Self::of_parts([text.into(), Bytes::new(), Bytes::new()]));
        *response.status_mut() = status;
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, plain);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    fn of_parts(parts: [Bytes; PARTS_MAX]) -> Self {
        Self { parts, next: 0, rest: Rest::None, _serving: None }
    }

    /// The body of a guest that is done. When all of it is there, its length is known and it is sent in one
    /// piece instead of in chunks.
    pub(super) fn written(mut body: WasiBody, account: &Account) -> Self {
        let mut parts = [Bytes::new(), Bytes::new(), Bytes::new()];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for part in &mut parts {
            match Pin::new(&mut body).poll_frame(&mut cx) {
                Poll::Ready(Some(Ok(frame))) if frame.is_data() => {
                    *part = frame.into_data().unwrap_or_default();
                }
                Poll::Ready(None) => return Self::of_parts(on_account(parts, account)),
                Poll::Ready(Some(other)) => {
                    let first = http_body_util::StreamBody::new(futures_util::stream::iter([other]));
                    let rest = Rest::Written(WasiBody::new(first));
                    return Self { parts: on_account(parts, account), next: 0, rest, _serving: None };
                }
                Poll::Pending => break,
            }
        }
        let parts = on_account(parts, account);
        Self { parts, next: 0, rest: Rest::Written(body), _serving: None }
    }

    /// The body of a guest that goes on. `length` is what the response says that it has.
    pub(super) fn going(body: WasiBody, call: Call, calls: Arc<Calls>, length: Option<u64>) -> Self {
        let going = Going {
            body,
            call: Some(call),
            calls,
            remaining: length,
            delivered: length == Some(0),
            trapped: false,
        };
        let parts = [Bytes::new(), Bytes::new(), Bytes::new()];
        Self { parts, next: PARTS_MAX, rest: Rest::Going(Box::new(going)), _serving: None }
    }

    /// Marks the connection as busy until this is gone.
    pub(super) fn with(mut self, serving: Serving) -> Self {
        self._serving = Some(serving);
        self
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        while let Some(part) = this.parts.get_mut(this.next) {
            this.next += 1;
            if !part.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(std::mem::take(part)))));
            }
        }
        match &mut this.rest {
            Rest::None => Poll::Ready(None),
            Rest::Written(body) => Pin::new(body).poll_frame(cx),
            Rest::Going(going) => going.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.rest, Rest::None) && self.parts.iter().skip(self.next).all(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        match self.rest {
            Rest::None => {
                SizeHint::with_exact(self.parts.iter().skip(self.next).map(|part| part.len() as u64).sum())
            }
            Rest::Written(_) | Rest::Going(_) => SizeHint::default(),
        }
    }
}

impl Going {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        // The guest first: it may be what the body waits for.
        if let Some(call) = &mut self.call
            && let Poll::Ready(ended) = call.as_mut().poll(cx)
        {
            self.call = None;
            self.trapped = self.calls.ended(&ended).is_err();
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(remaining), Some(data)) = (&mut self.remaining, frame.data_ref()) {
                    *remaining = remaining.saturating_sub(data.len() as u64);
                    self.delivered = *remaining == 0;
                }
            }
            // What a guest that trapped has written ends like a body that is whole. The client must be able to
            // tell, so the connection is cut.
            Poll::Ready(None) if self.trapped => {
                return Poll::Ready(Some(Err(Error::HttpResponseIncomplete)));
            }
            Poll::Ready(None) => self.delivered = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled.map_ok(|frame| charged_frame(frame, self.calls.context().account()))
    }
}

/// What hyper holds until the client takes it.
fn on_account(parts: [Bytes; PARTS_MAX], account: &Account) -> [Bytes; PARTS_MAX] {
    match parts.iter().map(Bytes::len).sum::<usize>() {
        0..CHARGED_MIN => parts,
        _ => parts.map(|part| charged(part, account)),
    }
}

impl Drop for Going {
    /// A response that is out frees the connection; the guest's call may need more time. One that is not out
    /// has lost its client, and the call ends here.
    fn drop(&mut self) {
        if self.delivered
            && let Some(call) = self.call.take()
        {
            self.calls.linger(call);
        }
    }
}
