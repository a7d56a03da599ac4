//! Compiled code bound to the host functions, ready to be instantiated.

use std::sync::OnceLock;

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

/// The host functions of one engine, bound once for all runs. To bind them all takes half a millisecond, as long as a
/// small program runs, so each set is made when the first image needs it.
pub(crate) struct Linkers {
    engine: wasmtime::Engine,
    kind: EngineKind,
    module: OnceLock<Linker<State>>,
    /// What nearly every component does with: [`is_plain`].
    plain: OnceLock<ComponentLinker<State>>,
    full: OnceLock<ComponentLinker<State>>,
}

impl Linkers {
    pub(crate) fn new(engine: &wasmtime::Engine, kind: &EngineKind) -> Self {
        Self {
            engine: engine.clone(),
            kind: kind.clone(),
            module: OnceLock::new(),
            plain: OnceLock::new(),
            full: OnceLock::new(),
        }
    }

    /// Binds the imports of the code.
    pub(crate) fn link(&self, binary: &Binary) -> wasmtime::Result<Code> {
        match binary {
            Binary::Module(module) => {
                let linker = or_make(&self.module, || module_linker(&self.engine))?;
                linker.instantiate_pre(module).map(Code::Module)
            }
            Binary::Component(component) => {
                let ty = component.component_type();
                let is_sync = matches!(self.kind, EngineKind::Sync {});
                let linker = match is_sync && ty.imports(&self.engine).all(|(name, _)| is_plain(name)) {
                    true => or_make(&self.plain, || component_linker(&self.engine, &self.kind, false))?,
                    false => or_make(&self.full, || component_linker(&self.engine, &self.kind, true))?,
                };
                linker.instantiate_pre(component).map(Code::Component)
            }
        }
    }
}

fn or_make<T>(place: &OnceLock<T>, make: impl FnOnce() -> wasmtime::Result<T>) -> wasmtime::Result<&T> {
    match place.get() {
        Some(made) => Ok(made),
        None => {
            let made = make()?;
            Ok(place.get_or_init(|| made))
        }
    }
}

/// Whether an import is of the packages of WASI 0.2 that a program has without further ado.
fn is_plain(import: &str) -> bool {
    const PACKAGES: [&str; 6] =
        ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];
    PACKAGES.iter().any(|package| import.starts_with(package))
}

/// The host functions for modules.
fn module_linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<State>> {
    let mut module = Linker::new(engine);
    p1::add_to_linker_async(&mut module, State::preview1)?;
    // wasmtime-wasi refuses codes from 126 on with a plain error. A process has them, and shells give
    // them a meaning, so they are passed on; like exit(3) we keep the low eight bits.
    module.allow_shadowing(true);
    module.func_wrap("wasi_snapshot_preview1", "proc_exit", |code: i32| -> wasmtime::Result<()> {
        Err(I32Exit(code & 0xff).into())
    })?;
    module.allow_shadowing(false);
    Ok(module)
}

/// The host functions for components: those of [`is_plain`] packages, or all.
fn component_linker(
    engine: &wasmtime::Engine,
    kind: &EngineKind,
    all: bool,
) -> wasmtime::Result<ComponentLinker<State>> {
    let mut component = ComponentLinker::new(engine);
    p2::add_to_linker_async(&mut component)?;
    if all {
        if matches!(kind, EngineKind::Concurrent {}) {
            p3::add_to_linker(&mut component)?;
            wasmtime_wasi_http::p3::add_to_linker(&mut component)?;
        }
        crate::http::add_to_linker(&mut component)?;
        crate::host::add_to_linker(&mut component)?;
    }
    component.allow_shadowing(true);
    crate::net::add_to_linker(&mut component, kind)?;
    component.allow_shadowing(false);
    Ok(component)
}
