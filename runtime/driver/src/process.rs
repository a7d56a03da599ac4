//! Processes of our own that hold nothing worth taking.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use crate::spec::{Limits, Sandbox};

/// Starts processes of this program in fences: Wasm workers, the compiler, and those that look after files.
#[async_trait]
pub trait ProcessHost: Send + Sync {
    /// Starts a process and returns once it is behind its fences. On an error nothing is left behind.
    async fn spawn(&self, spec: ProcessSpec) -> Result<Arc<dyn Process>, ProcessError>;
}

/// Starts processes of this program inside a task's sandbox, where they are limited and killed with it.
#[async_trait]
pub trait SandboxProcessHost: Send + Sync {
    /// Starts a process as [`ProcessHost::spawn`] does, but in the sandbox: in a cgroup with `limits` below the
    /// task's, and in the task's network namespace, in which it can make sockets with
    /// [`ProcessNetwork::Host`]. The limits replace [`ProcessSpec::memory_bytes`].
    async fn spawn_in(
        &self,
        sandbox: &Sandbox,
        limits: &Limits,
        spec: ProcessSpec,
    ) -> Result<Arc<dyn Process>, ProcessError>;

    /// Prepares a place in the sandbox for one thread of a process that is elsewhere. Only CPU time can be
    /// limited for a thread alone; `limits` says nothing else here. Unsupported in a cgroup v2 hierarchy, where a
    /// thread can only move within the group that its process is in (cgroups(7)).
    async fn thread_slot(&self, sandbox: &Sandbox, limits: &Limits) -> Result<ThreadSlot, ProcessError>;
}

/// A place for a thread in a sandbox. To be dropped once the thread has ended.
pub struct ThreadSlot {
    /// Opened cgroup `tasks` files: a thread that writes `0` to each of them is in.
    pub tasks: Vec<OwnedFd>,
    release: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl ThreadSlot {
    /// A slot that calls `release` when it is dropped.
    pub fn new(tasks: Vec<OwnedFd>, release: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self { tasks, release: Some(Box::new(release)) }
    }
}

impl std::fmt::Debug for ThreadSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadSlot").field("tasks", &self.tasks).finish_non_exhaustive()
    }
}

impl Drop for ThreadSlot {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release();
        }
    }
}

/// A started process. Dropping the last reference to it kills nothing; it ends when the host does.
#[async_trait]
pub trait Process: Send + Sync {
    /// Waits for the end; may be called any number of times and may be cancelled.
    async fn wait(&self) -> ProcessExit;

    /// Ends it with SIGKILL. A process that has ended already is not an error.
    fn kill(&self);

    /// Its id in the host's PID namespace.
    fn id(&self) -> u32;
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessExit {
    /// The exit code, 128 + n after signal n.
    pub code: i32,
    /// Whether the kernel ended it for going over its memory limit.
    pub oom: bool,
}

/// What a process is and what it is left with. It gets nothing that is not named here: no file, no
/// network, no variable, no capability.
#[derive(Debug)]
pub struct ProcessSpec {
    /// What it does.
    pub role: ProcessRole,
    /// Its name for people, in process listings and cgroups: letters, digits and `-`, at most 40.
    pub name: String,
    /// Handed to the role as it is.
    pub input: Vec<u8>,
    /// Handed to the role in this order.
    pub fds: Vec<OwnedFd>,
    /// All that its root directory holds besides; directories of the host.
    pub mounts: Vec<ProcessMount>,
    /// Whose files it may use.
    pub user: ProcessUser,
    /// Its network.
    pub network: ProcessNetwork,
    /// The most memory, in bytes, that it may use: enforced by its cgroup where there is one.
    pub memory_bytes: Option<u64>,
    /// The most address space, in bytes (`RLIMIT_AS`, setrlimit(2)).
    pub address_space_bytes: Option<u64>,
    /// The most CPU time, in seconds (`RLIMIT_CPU`); it is killed at that.
    pub cpu_seconds: Option<u64>,
    /// The core that it stays on.
    pub core: Option<usize>,
}

/// The roles that a process may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProcessRole {
    /// Runs compiled Wasm.
    WasmWorker,
    /// Compiles one Wasm binary.
    WasmCompiler,
    /// Removes, moves and measures trees whose files belong to users of containers, and gives directories to them.
    FileKeeper,
    /// Unpacks one layer of an image, with the owners that it names.
    Unpacker,
}

impl ProcessRole {
    /// Whether it is about files of foreign owners: such a process, and no other, is [`ProcessUser::Root`].
    pub fn keeps_files(self) -> bool {
        matches!(self, Self::FileKeeper | Self::Unpacker)
    }
}

/// Whose files a process may use; it is root in a user namespace of its own, with one id in it, unless it is
/// [`Root`](Self::Root).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessUser {
    /// Nobody's. Without root that cannot be had and is the invoking user, who then has no file in reach.
    Nobody,
    /// Those of volumes ([`VOLUME_ID_BASE`](crate::VOLUME_ID_BASE)); without root the invoking user's.
    Volumes,
    /// Those of the user who runs this program.
    Invoker,
    /// Everybody's beneath its mounts: host root, with no capability but those over files. Only for
    /// [`ProcessRole::keeps_files`], and only where this program was started as root; elsewhere a
    /// [`ProcessRole::FileKeeper`] has these rights over the invoking user's files.
    Root,
}

/// The network of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProcessNetwork {
    /// An empty network namespace, and sockets cannot be made; those handed over work.
    None,
    /// The host's, and TCP and UDP sockets can be made.
    Host,
    /// An empty network namespace, and sockets cannot be made; those handed over can be bound and connected. Where the
    /// process asks the kernel for one it gets SIGSYS, so that it can put one that was handed over in its place.
    Handed,
}

/// A directory of the host that a process sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessMount {
    /// The directory on the host.
    pub source: PathBuf,
    /// Its name below the root, one component of letters, digits and `-`.
    pub name: String,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// A directory cannot be mounted.
    #[error("mount {}", path.display())]
    Mount {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A step failed in the kernel.
    #[error("{step}")]
    System {
        /// The step, for example `make network namespace`.
        step: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// This machine cannot do it.
    #[error("{what} is not supported: {why}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why, and what to do.
        why: String,
    },
    /// The process that starts others is gone.
    #[error("reach the launcher")]
    Unavailable {
        /// The cause.
        #[source]
        source: io::Error,
    },
}
