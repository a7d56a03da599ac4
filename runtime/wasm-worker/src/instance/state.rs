//! The data of a store: what is behind a guest's host calls.

use std::sync::Arc;

use wasmtime::{GuestProfiler, ResourceLimiter};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::budget::{Account, Meter};
use crate::engine::MEMORY_BYTES_MAX;
use crate::host::{Host, HostCtx, HostView};
use crate::http::Hooks;
use crate::net::{Resolver, Sockets};

/// Bytes that one table element takes: a pointer.
const TABLE_ELEMENT_BYTES: u64 = 8;

/// The data of a store.
pub(crate) struct State {
    pub(super) wasi: WasiP1Ctx,
    pub(super) http: WasiHttpCtx,
    pub(super) hooks: Hooks,
    pub(super) host: Host,
    pub(super) memory: Memory,
    pub(super) meter: Arc<Meter>,
    /// Takes a sample at each epoch, when a profile is wanted.
    pub(super) profiler: Option<Box<GuestProfiler>>,
}

impl State {
    pub(super) fn preview1(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }

    pub(super) fn limiter(&mut self) -> &mut dyn ResourceLimiter {
        &mut self.memory
    }

    /// Looks up names for the guest.
    pub(crate) fn resolver(&self) -> &Resolver {
        self.hooks.resolver()
    }

    /// Gets sockets for the guest.
    pub(crate) fn sockets_of_task(&self) -> &Sockets {
        self.hooks.sockets()
    }

    /// What the store's CPU time is measured with.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Has samples taken at each epoch.
    pub(crate) fn set_profiler(&mut self, profiler: GuestProfiler) {
        self.profiler = Some(Box::new(profiler));
    }

    /// What was sampled.
    pub(crate) fn take_profiler(&mut self) -> Option<Box<GuestProfiler>> {
        self.profiler.take()
    }

    /// Whether the guest's most recent attempt to grow a memory or table was refused.
    pub(crate) fn growth_was_refused(&self) -> bool {
        self.memory.refused
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: self.wasi.ctx().table, ctx: &mut self.http }
    }
}

impl HostView for State {
    fn host(&mut self) -> HostCtx<'_> {
        HostCtx::new(&mut self.host, self.wasi.ctx().table)
    }
}

/// Counts the memory of an instance over all its memories and tables.
///
/// wasmtime asks at each growth of each of them, so a limit per memory would be none: a guest may have
/// several. What an instance has is given back when its store is dropped; Wasm memories never shrink.
pub(super) struct Memory {
    account: Account,
    taken: u64,
    refused: bool,
}

impl Memory {
    pub(super) fn new(account: Account) -> Self {
        Self { account, taken: 0, refused: false }
    }

    fn grow(&mut self, bytes: u64) -> bool {
        self.refused = !self.account.take(bytes);
        if !self.refused {
            self.taken += bytes;
        }
        !self.refused
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        max: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // Beyond the memory's own maximum wasmtime refuses by itself; that has nothing to do with a limit of
        // ours, and nothing must be taken for it.
        if max.is_some_and(|max| desired > max) {
            return Ok(true);
        }
        // The same for what the pool's slots cannot hold, which only a 64-bit memory can ask for.
        if desired > MEMORY_BYTES_MAX {
            self.refused = true;
            return Ok(false);
        }
        Ok(self.grow(desired.saturating_sub(current) as u64))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        max: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if max.is_some_and(|max| desired > max) {
            return Ok(true);
        }
        Ok(self.grow((desired.saturating_sub(current) as u64).saturating_mul(TABLE_ELEMENT_BYTES)))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.account.give_back(self.taken);
    }
}
