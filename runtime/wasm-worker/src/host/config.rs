//! `wasi:config`: the values of the plan.

use super::bindings::wasi::config::store::{Error, Host};
use super::{HostCtx, not_granted};

impl HostCtx<'_> {
    fn config(&self) -> wasmtime::Result<&[(String, String)]> {
        self.host.config.as_deref().ok_or_else(|| not_granted("wasi:config"))
    }
}

impl Host for HostCtx<'_> {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, Error>> {
        let found = self.config()?.iter().rev().find(|(name, _)| *name == key);
        Ok(Ok(found.map(|(_, value)| value.clone())))
    }

    async fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, Error>> {
        Ok(Ok(self.config()?.to_vec()))
    }
}
