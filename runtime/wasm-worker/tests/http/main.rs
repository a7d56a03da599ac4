//! `wasi:http` and the network over real sockets: the guests of `tests/guests` in a worker, clients that behave
//! and clients that do not.

// clippy takes only functions marked `#[test]` for tests, not what they call.
#![allow(clippy::unwrap_used)]

mod bodies;
mod client;
mod failures;
#[path = "../worker/harness.rs"]
#[allow(dead_code)]
mod harness;
mod hostile;
mod life;
mod outgoing;
mod requests;
mod served;
mod sockets;
mod third;
