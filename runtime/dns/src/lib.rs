//! The resolver that tasks ask, at 169.254.169.253.
//!
//! ```text
//!              ┌─ refuse ── malformed, transfers, ANY, too many
//!  task ─▶ read┼─ private ─ the VPC's names and Cloud Map's, from memory
//!              └─ others ── cache, or the host's resolvers ─▶ guard ─▶ cache
//! ```
//!
//! Who asks is told by the address, which the router keeps tasks from forging; what a task may see of private names is
//! decided above, behind [`PrivateNames`]. What everybody knows is asked of the resolvers of the host, and what they say
//! passes the `guard` first. Nothing that a task sends makes anything here grow without bound (`meter`, `cache`).
//!
//! It is no full resolver: it asks no name servers by itself, has no zones to be transferred, and checks no DNSSEC.

#![forbid(unsafe_code)]

mod addresses;
mod cache;
mod guard;
mod message;
mod meter;
mod name;
mod private;
mod resolver;
mod server;
mod servers;
mod under_way;
mod upstream;

use std::net::Ipv4Addr;

use neargate_model::names::{PrivateAnswer, RecordKind};

pub use resolver::Resolver;
pub use server::serve;
pub use servers::{PORT, Servers, ServersFile};

/// The names that are answered here. Whoever keeps them answers from memory: it is asked for each message.
pub trait PrivateNames: Send + Sync + 'static {
    /// Whether an address is a task's. Nobody else is answered.
    fn knows(&self, client: Ipv4Addr) -> bool;

    /// What a task is told of a name, which is in lower case and without a dot at its end.
    fn look_up(&self, client: Ipv4Addr, name: &str, kind: RecordKind) -> PrivateAnswer;
}
