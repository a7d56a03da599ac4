//! Starting the supervisor, which must happen before this process has a second thread.

use std::path::Path;

use anyhow::{Context, Result, bail};
use neargate_container::{ContainerDriver, Need, Supervisor, SupervisorConfig};
use neargate_model::Policy;

use crate::data_dir::DataDir;

/// What to do where the kernel makes no user namespace for an ordinary user; each of these is one that may hinder it.
pub(crate) const NAMESPACES_HINT: &str = "start neargate as root, or allow user namespaces to ordinary users: \
    sysctl user.max_user_namespaces=10000, kernel.unprivileged_userns_clone=1 (Debian), \
    kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), or seccomp=unconfined for a container around it";

/// What becomes of limits that nothing can enforce, because there is no cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unenforced {
    Refused,
    /// By the operator's word.
    Ignored,
}

impl Unenforced {
    /// What `--without-limits` asks for, which is for ordinary users.
    pub(crate) fn of_option(without_limits: bool) -> Result<Self> {
        match (without_limits, is_root()) {
            (false, _) => Ok(Self::Refused),
            (true, false) => Ok(Self::Ignored),
            (true, true) => bail!("--without-limits is for an ordinary user; as root limits are enforced"),
        }
    }

    fn configure(self, config: SupervisorConfig) -> SupervisorConfig {
        match self {
            Self::Refused => config,
            Self::Ignored => config.with_unenforced_limits(),
        }
    }
}

/// Attaches to the supervisor of a data directory, which outlives this process with all containers, for a server that
/// will be this user's and keeps to this policy.
pub(crate) fn attach(
    data: &DataDir,
    server_uid: u32,
    policy: &Policy,
    unenforced: Unenforced,
) -> Result<Option<ContainerDriver>> {
    if !may_run() {
        return Ok(None);
    }
    if !is_root() {
        eprintln!(
            "note: not started as root: containers run in a user namespace; `neargate doctor` tells what they lack"
        );
    }
    if unenforced == Unenforced::Ignored {
        eprintln!("warning: --without-limits: no task's limits of CPU and memory are enforced");
    }
    let config = SupervisorConfig::for_data_dir(data.root()).with_server_uid(server_uid);
    let config = unenforced.configure(config.with_policy(policy.clone()));
    Supervisor::attach(&config, &data.run()).context("attach to the supervisor").map(Some)
}

/// Starts a supervisor that ends with this process.
pub(crate) fn start(data: &Path, unenforced: Unenforced) -> Result<Option<ContainerDriver>> {
    if !may_run() {
        return Ok(None);
    }
    let config = unenforced.configure(SupervisorConfig::for_data_dir(data));
    Supervisor::spawn(&config).context("start the supervisor").map(Some)
}

/// Whether this process may make namespaces; without them there are only Wasm tasks.
fn may_run() -> bool {
    if is_root() {
        return true;
    }
    let tried = neargate_container::try_without_root(Need::Namespaces);
    if let Err(error) = &tried {
        eprintln!("note: only Wasm tasks can run: make a user namespace: {error}; {NAMESPACES_HINT}");
    }
    tried.is_ok()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
