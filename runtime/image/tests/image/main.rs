//! The store from outside: imports of every kind, hostile archives, and what remains after a crash.
//! `row_N` is row N of the adversarial test list, group A.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

mod build;
mod held;
mod import;
mod kill;
mod lifecycle;
mod tidy;
mod unpack;
