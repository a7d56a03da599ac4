//! Starting the supervisor, which must happen before this process has a second thread.

use std::path::Path;

use anyhow::{Context, Result};
use neargate_container::{ContainerDriver, Supervisor, SupervisorConfig};

/// Starts the supervisor where this process may make namespaces; without root there are only Wasm tasks.
pub(crate) fn start(data: &Path) -> Result<Option<ContainerDriver>> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("note: not started as root, so only Wasm tasks can run; `neargate doctor` tells more");
        return Ok(None);
    }
    let config = SupervisorConfig::for_data_dir(data);
    Supervisor::spawn(&config).context("start the supervisor").map(Some)
}
