//! Starting the supervisor, which must happen before this process has a second thread.

use std::path::Path;

use anyhow::{Context, Result};
use neargate_container::{ContainerDriver, Supervisor, SupervisorConfig};
use neargate_model::Policy;

use crate::data_dir::DataDir;

/// Attaches to the supervisor of a data directory, which outlives this process with all containers, for a server that
/// will be this user's and keeps to this policy.
pub(crate) fn attach(data: &DataDir, server_uid: u32, policy: &Policy) -> Result<Option<ContainerDriver>> {
    if !may_run() {
        return Ok(None);
    }
    let config = SupervisorConfig::for_data_dir(data.root()).with_server_uid(server_uid);
    let config = config.with_policy(policy.clone());
    Supervisor::attach(&config, &data.run()).context("attach to the supervisor").map(Some)
}

/// Starts a supervisor that ends with this process.
pub(crate) fn start(data: &Path) -> Result<Option<ContainerDriver>> {
    if !may_run() {
        return Ok(None);
    }
    let config = SupervisorConfig::for_data_dir(data);
    Supervisor::spawn(&config).context("start the supervisor").map(Some)
}

/// Whether this process may make namespaces; without root there are only Wasm tasks.
fn may_run() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("note: not started as root, so only Wasm tasks can run; `neargate doctor` tells more");
    }
    is_root
}
