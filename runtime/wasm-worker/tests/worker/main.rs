//! The worker role over its control socket: small guests written as text, and the programs of `examples/`.

// clippy takes only functions marked `#[test]` for tests, not what they call.
#![allow(clippy::unwrap_used)]

mod budgets;
mod conversation;
mod escapes;
mod examples;
mod fairness;
mod files;
mod guests;
mod harness;
mod images;
mod interfaces;
mod limits;
mod program;
mod remains;
mod stdio;
mod threads;
