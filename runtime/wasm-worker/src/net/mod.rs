//! Sockets and name look-ups of guests, guarded.
//!
//! wasmtime makes the sockets, or takes those that the server has made in the network of the task ([`create`]); [`Policy`]
//! decides which may be made and whom they reach. Names are looked up by the server ([`lookup`]). Outgoing HTTP is
//! `crate::http`'s and asks the same policy.

mod create;
mod handed;
mod lookup;
mod policy;

use neargate_wasm::protocol::EngineKind;
use wasmtime::component::Linker;

pub(crate) use create::Sockets;
pub(crate) use handed::install as answer_own_calls;
pub(crate) use lookup::{LookupError, Resolver};
pub(crate) use policy::Policy;

use crate::instance::State;

/// Puts guarded versions in the place of `wasi:sockets`, which the linker must allow.
pub(crate) fn add_to_linker(linker: &mut Linker<State>, kind: &EngineKind) -> wasmtime::Result<()> {
    create::add_p2(linker)?;
    lookup::add_p2(linker)?;
    if matches!(kind, EngineKind::Concurrent {}) {
        create::add_p3(linker)?;
        lookup::add_p3(linker)?;
    }
    Ok(())
}
