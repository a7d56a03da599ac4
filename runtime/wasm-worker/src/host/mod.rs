//! The host interfaces of a guest beyond WASI's own: `neargate:task`, `wasi:config`, `wasi:keyvalue`, `wasi:logging`.

use wasmtime::component::Linker;

use crate::instance::{RunContext, State};

/// What the interfaces of this module keep in a store.
pub(crate) struct Host {}

impl Host {
    /// For a new store of a run.
    pub(crate) fn new(_run: &RunContext) -> Self {
        Self {}
    }
}

/// Gives the interfaces of this module access to a store's data.
pub(crate) trait HostView: Send {
    /// What they keep there.
    fn host(&mut self) -> &mut Host;
}

/// Adds the interfaces of this module.
pub(crate) fn add_to_linker(_linker: &mut Linker<State>) -> wasmtime::Result<()> {
    Ok(())
}
