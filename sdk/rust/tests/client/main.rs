//! The client against a server that verifies signatures and answers from a script.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod calls;
mod server;
mod tasks;
