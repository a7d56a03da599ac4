//! What the guests have in common: answers in one piece.

use wasip2::http::types::{Fields, OutgoingBody, OutgoingResponse, ResponseOutparam};

/// Answers with this status and text.
pub fn answer(out: ResponseOutparam, status: u16, text: &[u8]) {
    let response = OutgoingResponse::new(Fields::new());
    response.set_status_code(status).expect("a status");
    let body = response.body().expect("the first body");
    ResponseOutparam::set(out, Ok(response));
    write(&body, text);
    OutgoingBody::finish(body, None).expect("the whole body");
}

/// Writes all of it, waiting as long as it takes. Says whether somebody took it.
pub fn write(body: &OutgoingBody, bytes: &[u8]) -> bool {
    let stream = body.write().expect("the first stream");
    bytes.chunks(4096).all(|part| stream.blocking_write_and_flush(part).is_ok())
}
