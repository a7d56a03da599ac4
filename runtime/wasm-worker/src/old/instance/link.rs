//! Compiled code bound to the host functions, ready to be instantiated.

use wasmtime::component::Linker as ComponentLinker;
use wasmtime::{ExternType, InstancePre, Linker};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{I32Exit, p1, p2};

use super::State;
use crate::old::engine::{Binary, ImageError, SetupError};

/// Linked code.
pub(crate) enum Code {
    Module(InstancePre<State>),
    Component(CommandPre<State>),
}

/// The host functions, bound once for all runs.
pub(crate) struct Linkers {
    module: Linker<State>,
    component: ComponentLinker<State>,
}

impl Linkers {
    pub(crate) fn new(engine: &wasmtime::Engine) -> Result<Self, SetupError> {
        Self::build(engine).map_err(|error| SetupError::Engine { why: format!("{error:#}") })
    }

    fn build(engine: &wasmtime::Engine) -> wasmtime::Result<Self> {
        let mut module = Linker::new(engine);
        p1::add_to_linker_async(&mut module, State::preview1)?;
        // wasmtime-wasi refuses codes from 126 on with a plain error. A process has them, and shells give
        // them a meaning, so they are passed on; like exit(3) we keep the low eight bits.
        module.allow_shadowing(true);
        module.func_wrap("wasi_snapshot_preview1", "proc_exit", |code: i32| -> wasmtime::Result<()> {
            Err(I32Exit(code & 0xff).into())
        })?;
        module.allow_shadowing(false);
        let mut component = ComponentLinker::new(engine);
        p2::add_to_linker_async(&mut component)?;
        Ok(Self { module, component })
    }

    /// Checks that the code is a program and binds its imports.
    pub(crate) fn link(&self, binary: Binary) -> Result<Code, ImageError> {
        let missing = |error: wasmtime::Error| ImageError::Import { why: format!("{error:#}") };
        match binary {
            Binary::Module(module) => {
                match module.get_export("_start") {
                    Some(ExternType::Func(ty)) if ty.params().len() + ty.results().len() == 0 => {}
                    Some(_) => {
                        let why = "the module's `_start` is not a function without parameters and results";
                        return Err(ImageError::NoEntry { why });
                    }
                    None => {
                        let why = "the module is a library: it exports no function `_start`";
                        return Err(ImageError::NoEntry { why });
                    }
                }
                self.module.instantiate_pre(&module).map(Code::Module).map_err(missing)
            }
            Binary::Component(component) => {
                let pre = self.component.instantiate_pre(&component).map_err(missing)?;
                let why = "the component is no program: it does not export `wasi:cli/run` of WASI 0.2";
                CommandPre::new(pre).map(Code::Component).map_err(|_| ImageError::NoEntry { why })
            }
        }
    }
}
