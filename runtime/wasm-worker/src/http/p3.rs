//! Handlers of WASI 0.3, which give their response back as a value.
//!
//! The body is a stream that the guest writes while the store runs, and the guest may go on when all is
//! written; so the call lasts until the body is out and the guest has nothing left to do.

use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p3::Request as GuestRequest;
use wasmtime_wasi_http::p3::bindings::Service;
use wasmtime_wasi_http::{Error, FieldMap, WasiBody, WasiHttpView};

use super::request::{Awaited, Slot};
use crate::instance::State;

/// Calls the handler. The answer appears in the slot, long before this returns.
pub(super) async fn call(
    store: &mut Store<State>,
    service: &Service,
    request: Request<Awaited>,
    slot: Slot,
) -> wasmtime::Result<()> {
    let (head, body) = request.into_parts();
    let authority = match head.uri.authority() {
        Some(authority) => Some(authority.clone()),
        // It was looked at before; an empty one is none.
        None => head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok()?.parse().ok()),
    };
    let headers = FieldMap::new_immutable(store.data_mut().http().hooks, head.headers);
    let path = head.uri.path_and_query().cloned();
    let scheme = Some(http::uri::Scheme::HTTP);
    let (request, sent) = GuestRequest::new(head.method, scheme, authority, path, headers, None, body);
    store
        .run_concurrent(async move |accessor| {
            let answer = match service.handle(accessor, request).await? {
                Ok(response) => {
                    // What becomes of the request's body is the guest's affair alone.
                    drop(sent);
                    let response = accessor.with(|mut cx| response.into_http(&mut cx, async { Ok(()) }))?;
                    let (out, is_out) = oneshot::channel();
                    let response = response.map(|body| WasiBody::new(Told { body, _out: out }));
                    Ok((response, is_out))
                }
                Err(code) => Err(ErrorCode::InternalError(Some(format!("{code:?}")))),
            };
            let put = |answer: Result<Response<WasiBody>, ErrorCode>| {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
            };
            match answer {
                Ok((response, is_out)) => {
                    put(Ok(response));
                    // Its sender is never used but to be dropped with the body.
                    let _ = is_out.await;
                }
                Err(code) => put(Err(code)),
            }
            std::future::poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
            wasmtime::error::Ok(())
        })
        .await?
}

/// A body that tells when it is gone.
struct Told {
    body: http_body_util::combinators::UnsyncBoxBody<Bytes, Error>,
    _out: oneshot::Sender<()>,
}

impl Body for Told {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
