//! Images that are ready to run.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use neargate_wasm::protocol::{CodeInfo, EngineKind};

use crate::engine::{Binary, Engines, load};
use crate::instance::{Code, Linkers};

/// The interface by which a guest learns that it was asked to end.
const CONTEXT_INTERFACE: &str = "neargate:task/context";

/// Linked code and what is known of it.
pub(crate) struct Image {
    /// Where stores for it are made.
    pub(crate) engine: wasmtime::Engine,
    /// The engine's kind.
    pub(crate) kind: EngineKind,
    /// The code.
    pub(crate) code: Code,
    /// Whether it imports the interface by which it learns that it was asked to end.
    pub(crate) knows_stop: bool,
    /// What a task definition must grant for its imports.
    pub(crate) grants: Vec<&'static str>,
}

/// What images are loaded with.
pub(crate) struct Loader {
    engines: Engines,
    /// Linkers of the two kinds of engine, made when first needed: that takes half a millisecond.
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
        let linkers = self.linkers(engine, &code.engine).map_err(text)?;
        let (knows_stop, grants) = match &binary {
            Binary::Module(_) => (false, Vec::new()),
            Binary::Component(component) => {
                let ty = component.component_type();
                let knows_stop = ty.imports(engine).any(|(name, _)| name.starts_with(CONTEXT_INTERFACE));
                (knows_stop, crate::host::grants_needed(component))
            }
        };
        let linked = linkers.link(&binary).map_err(text)?;
        Ok(Image { engine: engine.clone(), kind: code.engine, code: linked, knows_stop, grants })
    }

    fn linkers(&self, engine: &wasmtime::Engine, kind: &EngineKind) -> wasmtime::Result<&Linkers> {
        let place = match kind {
            EngineKind::Sync {} => &self.linkers[0],
            EngineKind::Concurrent {} => &self.linkers[1],
        };
        match place.get() {
            Some(linkers) => Ok(linkers),
            None => {
                let linkers = Linkers::new(engine, kind)?;
                Ok(place.get_or_init(|| linkers))
            }
        }
    }
}
