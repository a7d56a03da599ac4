//! The resolver over real sockets, with tasks and the resolvers of the host on loopback addresses.

mod bench;
mod cases;
mod hostile;
