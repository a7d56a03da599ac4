//! Compiled code bound to the host functions, ready to be instantiated.

use neargate_wasm::protocol::EngineKind;
use wasmtime::component::{InstancePre as ComponentPre, Linker as ComponentLinker};
use wasmtime::{InstancePre, Linker};
use wasmtime_wasi::{I32Exit, p1, p2, p3};

use super::State;
use crate::engine::Binary;

/// Linked code.
pub(crate) enum Code {
    Module(InstancePre<State>),
    Component(ComponentPre<State>),
}

/// The host functions of one engine, bound once for all runs.
pub(crate) struct Linkers {
    module: Linker<State>,
    component: ComponentLinker<State>,
}

impl Linkers {
    pub(crate) fn new(engine: &wasmtime::Engine, kind: &EngineKind) -> wasmtime::Result<Self> {
        let mut module = Linker::new(engine);
        p1::add_to_linker_async(&mut module, State::preview1)?;
        // wasmtime-wasi refuses codes from 126 on with a plain error. A process has them, and shells give
        // them a meaning, so they are passed on; like exit(3) we keep the low eight bits.
        module.allow_shadowing(true);
        module.func_wrap("wasi_snapshot_preview1", "proc_exit", |code: i32| -> wasmtime::Result<()> {
            Err(I32Exit(code & 0xff).into())
        })?;
        module.allow_shadowing(false);
        Ok(Self { module, component: component_linker(engine, kind)? })
    }

    /// Binds the imports of the code.
    pub(crate) fn link(&self, binary: &Binary) -> wasmtime::Result<Code> {
        match binary {
            Binary::Module(module) => self.module.instantiate_pre(module).map(Code::Module),
            Binary::Component(component) => self.component.instantiate_pre(component).map(Code::Component),
        }
    }
}

/// The host functions for components.
fn component_linker(
    engine: &wasmtime::Engine,
    kind: &EngineKind,
) -> wasmtime::Result<ComponentLinker<State>> {
    let mut component = ComponentLinker::new(engine);
    p2::add_to_linker_async(&mut component)?;
    if matches!(kind, EngineKind::Concurrent {}) {
        p3::add_to_linker(&mut component)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut component)?;
    }
    crate::http::add_to_linker(&mut component)?;
    crate::host::add_to_linker(&mut component)?;
    component.allow_shadowing(true);
    crate::net::add_to_linker(&mut component, kind)?;
    component.allow_shadowing(false);
    Ok(component)
}
