//! Starting a worker process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use neargate_driver::{
    Limits, Process, ProcessError, ProcessHost, ProcessMount, ProcessNetwork, ProcessRole, ProcessSpec,
    ProcessUser, Sandbox, SandboxProcessHost,
};
use neargate_ipc::channel;
use neargate_ipc::wire::{decode, encode};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::Worker;
use crate::config::Config;
use crate::protocol::{FromWorker, VERSION, WorkerSetup};

/// What a worker is fenced with: all its runs may see what it may.
#[derive(Clone, Debug)]
pub(crate) struct Fences {
    pub(crate) tenant: String,
    pub(crate) mounts: Vec<ProcessMount>,
    pub(crate) user: ProcessUser,
    pub(crate) network: ProcessNetwork,
    pub(crate) memory_bytes: Option<u64>,
    /// The sandbox that it is in, with its own limits there; `None` for workers that tasks share.
    pub(crate) sandbox: Option<(Sandbox, Limits)>,
}

/// What starts workers.
#[derive(Clone)]
pub(crate) struct Hosts {
    pub(crate) processes: Arc<dyn ProcessHost>,
    pub(crate) sandboxed: Option<Arc<dyn SandboxProcessHost>>,
}

/// Why there is no worker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnFailure {
    #[error("make a socket for a Wasm worker")]
    Socket(#[source] io::Error),
    #[error("start a Wasm worker")]
    Process(#[source] ProcessError),
    #[error("start a Wasm worker: took longer than {} s", .0.as_secs_f64())]
    TooSlow(Duration),
    #[error("wait for a Wasm worker to be ready")]
    Ready(#[source] io::Error),
    #[error("the Wasm worker is of another version than this program")]
    Version,
    #[error("the driver has ended")]
    Ended,
}

/// Starts a worker and waits until it is ready.
pub(crate) async fn spawn(
    hosts: &Hosts,
    config: &Config,
    fences: &Fences,
    core: Option<usize>,
    runs_max: u32,
) -> Result<(Arc<Worker>, Arc<dyn Process>), SpawnFailure> {
    let (ours, theirs) = pair().map_err(SpawnFailure::Socket)?;
    let name = name(&fences.tenant, core);
    let spec = process(config, fences, name.clone(), core, runs_max, theirs);
    let deadline = config.deadlines.spawn;
    let process = match timeout(deadline, hosts.start(fences, spec)).await {
        Ok(process) => process.map_err(SpawnFailure::Process)?,
        Err(_) => return Err(SpawnFailure::TooSlow(deadline)),
    };
    let started = Started { process: Some(process) };
    let worker =
        Worker::new(name, ours, config.deadlines.clone(), config.images_max).map_err(SpawnFailure::Socket)?;
    match timeout(deadline, ready(&worker.socket)).await {
        Ok(Ok(VERSION)) => Ok((Arc::new(worker), started.keep())),
        Ok(Ok(_)) => Err(SpawnFailure::Version),
        Ok(Err(source)) => Err(SpawnFailure::Ready(source)),
        Err(_) => Err(SpawnFailure::TooSlow(deadline)),
    }
}

impl Hosts {
    async fn start(&self, fences: &Fences, spec: ProcessSpec) -> Result<Arc<dyn Process>, ProcessError> {
        match (&fences.sandbox, &self.sandboxed) {
            (None, _) => self.processes.spawn(spec).await,
            (Some((sandbox, limits)), Some(sandboxed)) => sandboxed.spawn_in(sandbox, limits, spec).await,
            // Such runs are refused before; a fence that is missing must not go unnoticed all the same.
            (Some(_), None) => Err(ProcessError::Unavailable { source: io::ErrorKind::Unsupported.into() }),
        }
    }
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = channel::pair()?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// `wasm-TENANT-CORE` of the characters that process names may have.
fn name(tenant: &str, core: Option<usize>) -> String {
    const TENANT_LEN_MAX: usize = 28;
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    let tenant: String = tenant.chars().filter(is_plain).take(TENANT_LEN_MAX).collect();
    match core {
        Some(core) => format!("wasm-{tenant}-{core}"),
        None => format!("wasm-{tenant}"),
    }
}

fn process(
    config: &Config,
    fences: &Fences,
    name: String,
    core: Option<usize>,
    runs_max: u32,
    socket: OwnedFd,
) -> ProcessSpec {
    let setup = WorkerSetup {
        version: VERSION,
        runs_max,
        images_max: config.images_max,
        network: fences.network != ProcessNetwork::None,
    };
    ProcessSpec {
        role: ProcessRole::WasmWorker,
        name,
        input: encode(&setup),
        fds: vec![socket],
        mounts: fences.mounts.clone(),
        user: fences.user,
        network: fences.network,
        memory_bytes: fences.memory_bytes,
        address_space_bytes: None,
        cpu_seconds: None,
        core,
    }
}

/// The version in the worker's first message.
async fn ready(socket: &AsyncFd<OwnedFd>) -> io::Result<u32> {
    let mut buffer = Vec::new();
    let receive = |socket: &OwnedFd| channel::receive(socket.as_fd(), &mut buffer, false);
    let frame = socket.async_io(Interest::READABLE, receive).await?;
    let frame = frame.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "it ended"))?;
    match decode(&frame.message) {
        Ok(FromWorker::Ready { version }) => Ok(version),
        Ok(FromWorker::Notice { text }) => Err(io::Error::other(super::owner::plain(&text))),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it did not say that it is ready")),
    }
}

/// A process that is killed unless it is kept.
struct Started {
    process: Option<Arc<dyn Process>>,
}

impl Started {
    fn keep(mut self) -> Arc<dyn Process> {
        self.process.take().expect("a started process is kept once")
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(process) = &self.process {
            process.kill();
        }
    }
}
