//! Sockets and name look-ups of guests, guarded.
//!
//! wasmtime makes the sockets; [`Policy`] decides which may be made and whom they reach. Names are looked up
//! by the server ([`lookup`]). Outgoing HTTP is `crate::http`'s and asks the same policy.

mod lookup;
mod policy;

use neargate_wasm::protocol::EngineKind;
use wasmtime::component::Linker;

pub(crate) use lookup::{LookupError, Resolver};
pub(crate) use policy::Policy;

use crate::instance::State;

/// Puts guarded versions in the place of `wasi:sockets`, which the linker must allow.
pub(crate) fn add_to_linker(linker: &mut Linker<State>, kind: &EngineKind) -> wasmtime::Result<()> {
    lookup::add_p2(linker)?;
    if matches!(kind, EngineKind::Concurrent {}) {
        lookup::add_p3(linker)?;
    }
    Ok(())
}
