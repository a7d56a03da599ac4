//! The launcher: starts processes of this very program behind fences, without `execve(2)`.
//!
//! ```text
//!             spawn, kill                     clone3, no exec
//!   program ───────────────▶ launcher ─────────────────────────▶ process with a role
//!           ◀───────────────          ◀─────────────────────────   "unshared", "ready" or a failure
//!             spawned, exits          ── id maps, go ──────────▶
//! ```
//!
//! It is forked from the program before that has a second thread, a configuration or a secret, and never has
//! a second thread itself. So each process that it clones starts from a small, clean copy of the program: no
//! loader, no copy of the binary, about half a millisecond. The price of not executing anew is one
//! address-space layout for all of them and the program itself: a leaked pointer of one is a pointer of all.
//!
//! Fences of a process, outermost first (`process.rs` and [`fence`](crate::fence) put them up):
//!
//! 1. namespaces: user (one id), pid, mount (an empty read-only root and the mounts of its spec), network
//!    (an empty one, unless it has the host's), ipc, uts. They are owned by the launcher's user namespace
//!    and only then is the process's own user namespace made, so even all capabilities in that one give no
//!    right over the others;
//! 2. a cgroup with limits, where the launcher is root;
//! 3. resource limits, no capability, no descriptor but its own and those of its [preparation](Preparation), no
//!    variable, no argument;
//! 4. Landlock: no file but beneath its mounts, no TCP port, no signal and no abstract socket outside;
//! 5. a seccomp list of what the role needs; what is only good for an escape kills.
//!
//! A process that keeps files of foreign owners ([`ProcessUser::Root`](neargate_driver::ProcessUser::Root)) is the
//! exception to the first and the third: it stays in the launcher's user namespace, because files belong to users of
//! that, and keeps the capabilities over files, which reach what is beneath its mounts and nothing else. There is none
//! without root.
//!
//! All processes without a network share one empty network namespace: making one takes 0.7 ms of a kernel-wide
//! lock, more than everything else together. What can be shared through it are abstract UNIX sockets and
//! its devices, of which it has none that is up; but the filter of such a process allows neither `bind` nor
//! `connect` nor any socket but a connected pair of UNIX streams, so there is nothing to share.
//!
//! Without root the launcher makes itself a user namespace first, and everything else is the same but for
//! cgroups and foreign ids. Where the kernel refuses that, processes have the fences from 3 on;
//! [`LauncherClient::fences`] tells.
//!
//! Forked early and there as long as the program, it also replaces the [steward](crate::steward) of a supervisor when
//! that is killed.
//!
//! When the program ends, its end of the socket closes; the launcher kills all processes and waits for them. When
//! the launcher is killed, `PR_SET_PDEATHSIG` kills them: its usual gap, a parent that died before the call,
//! is closed by looking at the launcher's socket after it, and it is set after the last change of
//! ids, which clears it (prctl(2)).

mod client;
mod ground;
mod place;
mod process;
mod protocol;
mod server;
mod succession;

use std::os::fd::{OwnedFd, RawFd};
use std::path::{Component, Path, PathBuf};

use neargate_driver::ProcessRole;
use neargate_ipc::channel;

pub(crate) use client::Place;
pub use client::{Fences, LauncherClient};

use crate::spawn::{SpawnError, check_threads};
use crate::steward::Succession;
use crate::sys;

/// What a process does: gets the input and the descriptors of its spec and returns its exit code.
pub type Role = fn(&[u8], Vec<OwnedFd>) -> i32;

/// What a process does before its fences stand: opens files of its own in `/proc`, which it will not see any
/// more, and returns the descriptors. It is called with no capability in effect.
pub type Preparation = fn(ProcessRole) -> Vec<RawFd>;

/// What the roles of processes do.
#[derive(Clone, Copy, Debug)]
pub struct Roles {
    worker: Role,
    compiler: Role,
    /// What looks after files, and what unpacks layers.
    files: Option<(Role, Role)>,
    preparation: Preparation,
}

impl Roles {
    /// `worker` runs compiled Wasm ([`ProcessRole::WasmWorker`]), `compiler` compiles one Wasm binary
    /// ([`ProcessRole::WasmCompiler`]).
    pub const fn new(worker: Role, compiler: Role) -> Self {
        Self { worker, compiler, files: None, preparation: |_| Vec::new() }
    }

    /// Adds what looks after files of foreign owners ([`ProcessRole::FileKeeper`]) and what unpacks layers
    /// ([`ProcessRole::Unpacker`]).
    pub const fn with_files(self, keeper: Role, unpacker: Role) -> Self {
        Self { files: Some((keeper, unpacker)), ..self }
    }

    /// What a role does, if this program has it.
    fn of(&self, role: ProcessRole) -> Option<Role> {
        match role {
            ProcessRole::WasmWorker => Some(self.worker),
            ProcessRole::WasmCompiler => Some(self.compiler),
            ProcessRole::FileKeeper => self.files.map(|(keeper, _)| keeper),
            ProcessRole::Unpacker => self.files.map(|(_, unpacker)| unpacker),
        }
    }

    /// Has each process prepare itself.
    pub const fn prepared_by(self, preparation: Preparation) -> Self {
        Self { preparation, ..self }
    }
}

/// What a launcher does not do for its program, whoever that becomes and whoever takes it over.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// User and group of [`ProcessUser::Invoker`](neargate_driver::ProcessUser::Invoker), if the program becomes another
    /// user; else the launcher's own.
    pub invoker: Option<(u32, u32)>,
    /// Directories, without links in their paths, beneath which keepers of files get mounts; none elsewhere.
    pub kept: Vec<PathBuf>,
}

impl Policy {
    /// For a program that keeps its rights, so that nothing is to be kept from it.
    pub fn of_a_root_program() -> Self {
        Self { invoker: None, kept: vec![PathBuf::from("/")] }
    }

    /// Whether a path leads beneath a directory of keepers. Links are refused where it is opened.
    fn keeps(&self, path: &Path) -> bool {
        let is_plain =
            path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        is_plain && self.kept.iter().any(|kept| path.starts_with(kept))
    }
}

/// Starts the launcher.
#[derive(Debug)]
pub struct Launcher;

impl Launcher {
    /// Forks the launcher. To be called first in `main`: before there is a second thread, and before
    /// anything secret is in memory, since every process starts as a copy of what is there now. Arguments and
    /// environment, which are there already, are wiped in the copy.
    ///
    /// This succeeds wherever processes can be made at all; see [`LauncherClient::fences`].
    pub fn fork(roles: Roles, policy: Policy) -> Result<LauncherClient, SpawnError> {
        Self::fork_with(roles, policy, None)
    }

    /// Forks a launcher that replaces the steward of a supervisor, too, when that is killed.
    pub fn fork_with(
        roles: Roles,
        policy: Policy,
        succession: Option<Succession>,
    ) -> Result<LauncherClient, SpawnError> {
        check_threads()?;
        let (ours, theirs) = channel::pair().map_err(SpawnError::Socket)?;
        match sys::fork().map_err(SpawnError::Fork)? {
            0 => {
                drop(ours);
                // rustix reads the auxiliary vector once, from /proc or by a prctl(2) that the fences refuse;
                // its clock needs it. Whatever is started from here has what was read.
                let _ = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
                server::run(theirs, roles, policy, succession)
            }
            pid => Ok(LauncherClient::new(ours, pid)),
        }
    }
}
