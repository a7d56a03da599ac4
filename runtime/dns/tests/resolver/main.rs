//! The resolver over real sockets, with tasks and the resolvers of the host on loopback addresses.

// What helps the tests outside of them fails as they do.
#![allow(clippy::unwrap_used)]

mod bench;
mod cases;
mod hostile;
