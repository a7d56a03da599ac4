//! `neargate:task/context`: how a guest learns that it is to end.

use wasmtime::component::Resource;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};

use super::HostCtx;
use super::bindings::neargate::task::context::Host;
use crate::worker::Stopping;

/// Ready once the run has been asked to end.
struct Stop(Stopping);

#[async_trait::async_trait]
impl Pollable for Stop {
    async fn ready(&mut self) {
        self.0.requested().await;
    }
}

impl Host for HostCtx<'_> {
    async fn stop_requested(&mut self) -> wasmtime::Result<bool> {
        Ok(self.host.stop.is_requested())
    }

    async fn subscribe_stop(&mut self) -> wasmtime::Result<Resource<DynPollable>> {
        let stop = self.table.push(Stop(self.host.stop.clone()))?;
        subscribe(self.table, stop)
    }
}
