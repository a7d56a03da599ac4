//! Messages with descriptors between the processes of one Neargate.
//!
//! ```text
//!  wire     values ⇄ bytes, checked
//!  channel  bytes and descriptors as datagrams of a SOCK_SEQPACKET pair
//! ```
//!
//! All ends are the same executable. Whoever reads still trusts nothing: the other end may be a process that
//! runs what users bring.

#![forbid(unsafe_code)]

pub mod channel;
pub mod wire;
