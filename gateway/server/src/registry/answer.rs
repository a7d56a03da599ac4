//! Answers, and what all of them have.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use neargate_model::image::Digest;

use crate::body::Body;

pub(super) const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(super) const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
pub(super) const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
pub(super) const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
const VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// The answer to whoever asks whether this is a registry.
pub(super) fn empty_json() -> Response<Body> {
    json(Bytes::from_static(b"{}"), "application/json")
}

/// A document.
pub(super) fn json(text: Bytes, media_type: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    set(&mut response, header::CONTENT_TYPE, media_type);
    response
}

/// Sets a header; one that cannot be a header's value is left out.
pub(super) fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Says which content an answer is about.
pub(super) fn set_digest(response: &mut Response<Body>, digest: Digest) {
    set(response, DIGEST, &digest.to_string());
    set(response, header::ETAG, &format!("\"{digest}\""));
}

/// Adds what every answer of the registry has.
pub(super) fn finish(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(VERSION, HeaderValue::from_static("registry/2.0"));
    // What somebody has put here is nothing that a browser may take for a page.
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
