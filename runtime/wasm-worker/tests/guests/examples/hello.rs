//! The smallest handler, for measurements.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Hello;

impl wasip2::exports::http::incoming_handler::Guest for Hello {
    fn handle(_request: IncomingRequest, out: ResponseOutparam) {
        worker_test_guests::answer(out, 200, b"hello\n");
    }
}

wasip2::http::proxy::export!(Hello);
