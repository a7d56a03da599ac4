//! Starting what runs Wasm: the launcher, before this process has a second thread, and the driver over it.

use std::sync::Arc;

use anyhow::{Context, Result};
use neargate_container::{ContainerDriver, Launcher, LauncherClient, Policy, Roles, SandboxProcesses};
use neargate_driver::SandboxProcessHost;
use neargate_keyvalue::SqliteKeyValues;
use neargate_wasm::{Config, Parts, WasmDriver};

use crate::data_dir::DataDir;
use crate::keeper;

const LAUNCH: &str = "start the launcher of Wasm workers";
/// What fenced processes do; they are copies of this one.
pub(crate) const ROLES: Roles =
    Roles::new(neargate_wasm_worker::worker_main, neargate_wasm_worker::compiler_main)
        .with_files(keeper::keeper_main, keeper::unpacker_main)
        .prepared_by(neargate_wasm_worker::prepare);

/// Starts the launcher of fenced processes.
pub(crate) fn launch(policy: Policy) -> Result<LauncherClient> {
    Launcher::fork(ROLES, policy).context(LAUNCH)
}

/// Starts the launcher of fenced processes beside a supervisor, whose steward it replaces when that is killed.
pub(crate) fn launch_beside(containers: Option<&ContainerDriver>, policy: Policy) -> Result<LauncherClient> {
    let succession = containers.and_then(ContainerDriver::take_succession);
    Launcher::fork_with(ROLES, policy, succession).context(LAUNCH)
}

/// The usual settings, with this binary's compiler.
pub(crate) fn config(data: &DataDir) -> Config {
    Config::new(data.wasm_code(), neargate_wasm_worker::compiler_id())
}

/// Sets up the driver. Without containers no task has a sandbox, and none can be asked for.
pub(crate) fn driver(
    config: Config,
    data: &DataDir,
    launcher: &LauncherClient,
    containers: Option<&ContainerDriver>,
) -> Result<Arc<WasmDriver>> {
    let in_sandboxes = |containers: &ContainerDriver| {
        Arc::new(SandboxProcesses::new(containers.clone(), launcher.clone())) as Arc<dyn SandboxProcessHost>
    };
    let parts = Parts {
        processes: Arc::new(launcher.clone()),
        sandbox_processes: containers.map(in_sandboxes),
        key_values: Arc::new(SqliteKeyValues::new(data.key_values())),
    };
    WasmDriver::new(config, parts).map(Arc::new).context("set up Wasm")
}
