//! Images that are ready to run.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use neargate_wasm::protocol::{CodeInfo, EngineKind};
use wasmtime::{ExternType, Store};
use wasmtime_wasi::{p2, p3};

use crate::engine::{Binary, Engines, load};
use crate::instance::{Code, Linkers, State};

/// The interface by which a guest learns that it was asked to end.
const CONTEXT_INTERFACE: &str = "neargate:task/context";

/// Linked code and what is known of it.
pub(crate) struct Image {
    /// Where stores for it are made.
    pub(crate) engine: wasmtime::Engine,
    /// The code.
    pub(crate) code: Code,
    /// Its program, or why it has none.
    pub(crate) program: Result<Program, &'static str>,
    /// Whether it imports the interface by which it learns that it was asked to end.
    pub(crate) knows_stop: bool,
    /// What a task definition must grant for its imports.
    pub(crate) grants: Vec<&'static str>,
}

/// A program, found in the code once for all runs.
pub(crate) enum Program {
    /// `_start` of a module.
    Start(wasmtime::InstancePre<State>),
    /// `wasi:cli/run` of WASI 0.2.
    Run(p2::bindings::CommandPre<State>),
    /// `wasi:cli/run` of WASI 0.3.
    ConcurrentRun(p3::bindings::CommandPre<State>),
}

impl Program {
    fn of(code: &Code, kind: &EngineKind) -> Result<Self, &'static str> {
        let pre = match code {
            Code::Module(pre) => {
                return match pre.module().get_export("_start") {
                    Some(ExternType::Func(ty)) if ty.params().len() + ty.results().len() == 0 => {
                        Ok(Self::Start(pre.clone()))
                    }
                    Some(_) => Err("the module's `_start` is not a function without parameters and results"),
                    None => Err("the module is a library: it exports no function `_start`"),
                };
            }
            Code::Component(pre) => pre,
        };
        // A component that has both versions is run as the newer one.
        if let EngineKind::Concurrent {} = kind
            && let Ok(run) = p3::bindings::CommandPre::new(pre.clone())
        {
            return Ok(Self::ConcurrentRun(run));
        }
        let why = "the component is no program: it does not export `wasi:cli/run`";
        p2::bindings::CommandPre::new(pre.clone()).map(Self::Run).map_err(|_| why)
    }

    /// Instantiates and runs it; `ready` is told when it is about to begin. `Ok` holds the exit code.
    pub(super) async fn run(&self, store: &mut Store<State>, ready: impl FnOnce()) -> wasmtime::Result<i32> {
        match self {
            Self::Start(pre) => {
                let instance = pre.instantiate_async(&mut *store).await?;
                let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
                ready();
                start.call_async(store, ()).await?;
                Ok(0)
            }
            Self::Run(pre) => {
                let command = pre.instantiate_async(&mut *store).await?;
                ready();
                let ended = command.wasi_cli_run().call_run(store).await?;
                Ok(i32::from(ended.is_err()))
            }
            Self::ConcurrentRun(pre) => {
                let command = pre.instantiate_async(&mut *store).await?;
                ready();
                let run = async |store: &_| command.wasi_cli_run().call_run(store).await;
                let ended = store.run_concurrent(run).await??;
                Ok(i32::from(ended.is_err()))
            }
        }
    }
}

/// What images are loaded with.
pub(crate) struct Loader {
    engines: Engines,
    /// Linkers of the two kinds of engine.
    linkers: [OnceLock<Linkers>; 2],
}

impl Loader {
    pub(crate) fn new(engines: Engines) -> Self {
        Self { engines, linkers: Default::default() }
    }

    pub(crate) fn engines(&self) -> &Engines {
        &self.engines
    }

    /// Maps and links compiled code; an error is for people.
    pub(crate) fn load(&self, code: CodeInfo, file: OwnedFd) -> Result<Image, String> {
        let engine = self.engines.get(&code.engine).map_err(|error| error.to_string())?;
        let text = |error: wasmtime::Error| format!("{error:#}");
        let binary = load(engine, &code.kind, file).map_err(text)?;
        let linkers = self.linkers(engine, &code.engine);
        let (knows_stop, grants) = match &binary {
            Binary::Module(_) => (false, Vec::new()),
            Binary::Component(component) => {
                let ty = component.component_type();
                let knows_stop = ty.imports(engine).any(|(name, _)| name.starts_with(CONTEXT_INTERFACE));
                (knows_stop, crate::host::grants_needed(component))
            }
        };
        let linked = linkers.link(&binary).map_err(text)?;
        let program = Program::of(&linked, &code.engine);
        Ok(Image { engine: engine.clone(), code: linked, program, knows_stop, grants })
    }

    fn linkers(&self, engine: &wasmtime::Engine, kind: &EngineKind) -> &Linkers {
        let place = match kind {
            EngineKind::Sync {} => &self.linkers[0],
            EngineKind::Concurrent {} => &self.linkers[1],
        };
        place.get_or_init(|| Linkers::new(engine, kind))
    }
}
