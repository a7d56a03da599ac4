//! For tests of the driver: roles as threads of the test's own process, without fences.
//!
//! Nothing here is for production: a guest that escapes from wasmtime finds the whole process. What is tested this
//! way is the conversation between the driver and its processes, which is the same.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use neargate_driver::{Process, ProcessError, ProcessExit, ProcessHost, ProcessRole, ProcessSpec};
use neargate_wasm::protocol::{BinaryKind, CodeInfo, EngineKind, Entry, Network, RunLimits, RunPlan};
use tokio::sync::watch;

use crate::engine;

thread_local! {
    /// The mounts of a role that runs on this thread; a process has its root directory instead.
    static MOUNTS: RefCell<Option<HashMap<String, PathBuf>>> = const { RefCell::new(None) };
}

/// Where a directory of a plan is: below the root, or where a test says.
pub(crate) fn below_root(name: &str) -> PathBuf {
    let mounted = MOUNTS.with_borrow(|mounts| mounts.as_ref().and_then(|mounts| mounts.get(name).cloned()));
    mounted.unwrap_or_else(|| PathBuf::from("/").join(name))
}

/// Starts each process as a thread. It can end by itself only: [`Process::kill`] does nothing but tell that it was
/// killed, and the thread goes on until its control socket is closed.
#[derive(Clone, Debug, Default)]
pub struct ThreadHost;

struct ThreadProcess {
    id: u32,
    exit: Arc<watch::Sender<Option<ProcessExit>>>,
}

#[async_trait]
impl ProcessHost for ThreadHost {
    async fn spawn(&self, spec: ProcessSpec) -> Result<Arc<dyn Process>, ProcessError> {
        static IDS: AtomicU32 = AtomicU32::new(1);
        let exit = Arc::new(watch::Sender::new(None));
        let told = Arc::clone(&exit);
        let role = match spec.role {
            ProcessRole::WasmWorker => crate::worker_main,
            ProcessRole::WasmCompiler => crate::compiler_main,
            ProcessRole::FileKeeper | ProcessRole::Unpacker => {
                let (what, why) = (format!("the role {:?}", spec.role), "it is not of this crate".to_owned());
                return Err(ProcessError::Unsupported { what, why });
            }
        };
        let mounts: HashMap<_, _> = spec.mounts.into_iter().map(|mount| (mount.name, mount.source)).collect();
        let (input, fds): (Vec<u8>, Vec<OwnedFd>) = (spec.input, spec.fds);
        let live = move || {
            MOUNTS.set(Some(mounts));
            let code = role(&input, fds);
            tell(&told, ProcessExit { code, oom: false });
        };
        std::thread::Builder::new()
            .name(spec.name)
            .spawn(live)
            .map_err(|source| ProcessError::System { step: "start a thread".into(), source })?;
        Ok(Arc::new(ThreadProcess { id: IDS.fetch_add(1, Ordering::Relaxed), exit }))
    }
}

/// The first exit counts.
fn tell(exit: &watch::Sender<Option<ProcessExit>>, ended: ProcessExit) {
    exit.send_if_modified(|exit| {
        let first = exit.is_none();
        exit.get_or_insert(ended);
        first
    });
}

#[async_trait]
impl Process for ThreadProcess {
    async fn wait(&self) -> ProcessExit {
        let mut exit = self.exit.subscribe();
        match exit.wait_for(Option::is_some).await.map(|exit| *exit) {
            Ok(Some(exit)) => exit,
            _ => ProcessExit { code: 1, oom: false },
        }
    }

    fn kill(&self) {
        tell(&self.exit, ProcessExit { code: 137, oom: false });
    }

    fn id(&self) -> u32 {
        self.id
    }
}

/// The plan of a program that is given nothing and has no limits.
pub fn plan() -> RunPlan {
    RunPlan {
        image: 0,
        entry: Entry::Command {},
        task: "00000000000000000000000000000001".to_owned(),
        attempt: 1,
        deadline_ms: None,
        argv: Vec::new(),
        env: Vec::new(),
        preopens: Vec::new(),
        limits: RunLimits::default(),
        task_limits: RunLimits::default(),
        grants: Vec::new(),
        config: Vec::new(),
        network: Network::None {},
        own_thread: false,
        listeners: 0,
        cgroups: 0,
        core_dump: false,
        profile: false,
    }
}

/// Compiles a binary here and now for an engine of workers; an error is for people.
pub fn compile(wasm: &[u8], kind: &EngineKind) -> Result<(CodeInfo, Vec<u8>), String> {
    let text = |error: wasmtime::Error| format!("{error:#}");
    let binary = engine::detect(wasm)?;
    let engine = wasmtime::Engine::new(&engine::settings(kind)).map_err(text)?;
    let code = match binary {
        BinaryKind::Module {} => engine.precompile_module(wasm),
        BinaryKind::Component {} => engine.precompile_component(wasm),
    };
    Ok((CodeInfo { kind: binary, engine: kind.clone() }, code.map_err(text)?))
}
