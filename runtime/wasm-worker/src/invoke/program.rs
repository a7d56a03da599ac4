//! `wasi:cli/run`, of WASI 0.2 or 0.3.

use neargate_wasm::protocol::EngineKind;
use wasmtime::Store;
use wasmtime::component::InstancePre;
use wasmtime_wasi::{p2, p3};

use crate::instance::{RunContext, State};

/// Runs the program and returns its exit code. A component that has both is run as the newer one.
pub(super) async fn run(
    store: &mut Store<State>,
    pre: &InstancePre<State>,
    run: &RunContext,
) -> wasmtime::Result<i32> {
    if matches!(run.image().kind, EngineKind::Concurrent {})
        && let Ok(pre) = p3::bindings::CommandPre::new(pre.clone())
    {
        let command = pre.instantiate_async(&mut *store).await?;
        run.instance_is_ready(run.age());
        let ended =
            store.run_concurrent(async |store| command.wasi_cli_run().call_run(store).await).await??;
        return Ok(i32::from(ended.is_err()));
    }
    let command = p2::bindings::CommandPre::new(pre.clone())?.instantiate_async(&mut *store).await?;
    run.instance_is_ready(run.age());
    let ended = command.wasi_cli_run().call_run(store).await?;
    Ok(i32::from(ended.is_err()))
}
