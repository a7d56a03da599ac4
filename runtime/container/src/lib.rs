//! Linux container driver and its supervisor; the launcher of fenced processes.
//!
//! ```text
//!  client.rs   Driver and SandboxHost over a socket            (server, any runtime)
//!  spawn.rs    the supervisor from a sealed copy of the binary (server, before threads)
//!  steward.rs  starts it, and the next one                 (a fork of the server, before threads)
//!  ends.rs     what the steward learns of containers       (steward, supervisor)
//!  ─────────── protocol.rs, failure.rs ───────────
//!  supervisor/ one thread, root: sandboxes, clone, reap        (supervisor)
//!  launchpad.rs, rootfs.rs, cgroup.rs                          (supervisor, before the clone)
//!  pause.rs    holds what the containers of a task share       (a child of the supervisor)
//!  init/       from clone to exec                              (in the container)
//!
//!  launcher/   processes of this program behind fences         (a fork of the server, before threads)
//!  fence/      what such a process does to itself              (in the process)
//!  sandboxed.rs  such processes in a sandbox of the supervisor (server)
//! ```
//!
//! A container has a user namespace with 65,536 host ids that no other task has, PID, mount, IPC, UTS and
//! cgroup namespaces of its own, its task's network namespace, limits, 11 capabilities, `no_new_privs`
//! and a seccomp filter. It shares the kernel with the host, and page cache with other containers of the same
//! image: this is not a virtual machine.
//!
//! The [launcher](Launcher) starts what runs or compiles Wasm: processes of this very program, without
//! `execve(2)`, that have no file, no network, no capability and no descriptor but what their spec names. It
//! works without root, too. [`SandboxProcesses`] puts them into a task's sandbox.
//!
//! [`Supervisor::spawn`] starts a supervisor that ends with the server, and all containers with it;
//! [`Supervisor::attach`] one that goes on, with its containers, when the server ends or is killed, and that is
//! replaced, without harm to them, when it is killed itself.
//!
//! Not here yet: a network beyond `lo`.
//!
//! `main` of a binary that uses this driver begins with
//!
//! ```no_run
//! if let Some(role) = neargate_container::role_from_args() {
//!     role.run();
//! }
//! fn work(_input: &[u8], _fds: Vec<std::os::fd::OwnedFd>) -> i32 {
//!     0
//! }
//! let roles = neargate_container::Roles::new(work, work);
//! let launcher = neargate_container::Launcher::fork(roles, Default::default())?; // before anything secret is in memory
//! let config = neargate_container::SupervisorConfig::for_data_dir("/var/lib/neargate".as_ref());
//! let driver = neargate_container::Supervisor::spawn(&config)?; // before the first thread
//! # Ok::<(), neargate_container::SpawnError>(())
//! ```

#[cfg(not(target_os = "linux"))]
compile_error!("containers need Linux");

mod bridge;
mod capabilities;
mod cgroup;
mod client;
mod clock;
mod config;
mod devices;
mod ends;
mod failure;
mod fence;
mod hosts;
mod id_range;
mod identity;
mod init;
mod interface;
mod launcher;
mod launchpad;
mod names;
mod pause;
mod peer;
mod protocol;
mod realm;
mod rootfs;
mod sandboxed;
mod seccomp;
mod spawn;
mod standing;
mod steward;
mod supervisor;
mod sys;
mod user;

pub use client::{ContainerDriver, Supervisor, SupervisorClient};
pub use clock::{ClockState, clock_state};
pub use config::{DEFAULT_ID_BASE, SupervisorConfig};
pub use identity::{Rights, become_user, make_files_of};
pub use launcher::{Fences, Launcher, LauncherClient, Policy, Preparation, Role, Roles};
pub use realm::Need;
pub use sandboxed::SandboxProcesses;
pub use spawn::{SpawnError, SupervisorRole, role_from_args};
pub use steward::Succession;

/// Whether this machine has what an ordinary user needs to run containers: tries, in a process of its own. Must be called
/// while this process has one thread.
pub fn try_without_root(need: Need) -> std::io::Result<()> {
    spawn::check_threads().map_err(std::io::Error::other)?;
    realm::try_out(need)
}

/// How the devices of containers are fenced on this machine, where their absence is the first fence; an error says why
/// they are not. Only root is answered rightly.
pub fn device_fence() -> std::io::Result<&'static str> {
    cgroup::device_fence()
}

/// Runs the supervisor role of this process, which must have been started with it; never returns.
pub fn supervisor_main(role: SupervisorRole) -> ! {
    role.run()
}
