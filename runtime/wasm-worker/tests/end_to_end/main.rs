//! The driver over the real roles, which are threads here: from a binary to the end of its run.

// clippy takes only functions marked `#[test]` for tests, not what they call.
#![allow(clippy::unwrap_used)]

mod containers;
mod harness;
mod latency;
