//! The Wasm driver through its contract: small guests written as text, and the programs of `examples/`.

// clippy takes only functions marked `#[test]` for tests, not what they call.
#![allow(clippy::unwrap_used)]

mod examples;
mod files;
mod guests;
mod harness;
mod images;
mod limits;
mod program;
mod stdio;
