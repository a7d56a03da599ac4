//! Log segments: append, query, retain.

#![forbid(unsafe_code)]

pub mod pattern;
