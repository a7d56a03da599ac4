//! Neargate's own HTTP API: what is no AWS service's.

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use neargate_wire::{Mark, fidelity};
use serde_json::json;

/// The answer to a request that no AWS service claims.
pub(crate) fn answer(method: &Method, path: &str) -> Response<Bytes> {
    match (method, path) {
        (&Method::GET, "/healthz") => reply(StatusCode::OK, &json!({ "status": "ok" })),
        (&Method::GET, "/v1/fidelity") => reply(StatusCode::OK, &ledger()),
        _ => problem(path),
    }
}

/// The fidelity ledger: what each operation of each AWS service really does.
fn ledger() -> serde_json::Value {
    let row = |row: neargate_wire::Fidelity| {
        let mark = match row.mark {
            Mark::Real => "real",
            Mark::Stored => "stored only",
            Mark::Refused => "refused",
        };
        json!({ "service": row.service, "operation": row.operation, "mark": mark, "note": row.note })
    };
    json!({ "operations": fidelity().map(row).collect::<Vec<_>>() })
}

/// RFC 9457 problem details.
fn problem(path: &str) -> Response<Bytes> {
    let path: String = path.chars().take(128).collect();
    let body = json!({
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": format!(
            "nothing is served at {path}; AWS requests are POSTed to / with X-Amz-Target or Action, see GET /v1/fidelity"
        ),
    });
    let mut response = reply(StatusCode::NOT_FOUND, &body);
    let media_type = http::HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, media_type);
    response
}

fn reply(status: StatusCode, body: &serde_json::Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    let media_type = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, media_type);
    response
}
