//! Calls of what is no program: `neargate:task/handler` and typed exports. And programs of WASI 0.3.

use wasmtime::Store;
use wasmtime::component::InstancePre;

use crate::instance::{RunContext, State};

/// Calls `neargate:task/handler` and returns the exit code.
pub(crate) async fn handler(
    _store: &mut Store<State>,
    _pre: &InstancePre<State>,
    _run: &RunContext,
) -> wasmtime::Result<i32> {
    Ok(1)
}

/// Calls the export of this name with the arguments of the plan, and returns the exit code.
pub(crate) async fn export(
    _store: &mut Store<State>,
    _pre: &InstancePre<State>,
    _run: &RunContext,
    _name: &str,
) -> wasmtime::Result<i32> {
    Ok(1)
}
