//! What a guest is given, and the state behind its host calls.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use wasmtime::ResourceLimiter;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder, WasiCtxView, WasiView};

use crate::old::budget::{Account, Meter};
use crate::old::engine::MEMORY_BYTES_MAX;
use crate::old::stdio::{Input, Output};

/// The most WASI resources (open files, streams, pollables) of a run; wasmtime's default is a million.
const RESOURCES_MAX: usize = 10_000;
/// The most random bytes that a guest gets from one call; wasmtime's default is 64 MiB.
const RANDOM_BYTES_MAX: u64 = 1 << 20;
/// Bytes that one table element takes: a pointer.
const TABLE_ELEMENT_BYTES: u64 = 8;

/// A directory of the host that the guest sees.
pub(crate) struct Preopen {
    pub(crate) host: PathBuf,
    pub(crate) guest: String,
    pub(crate) perms: FsPerms,
}

/// All that one guest is given. Nothing of the host's own is added to it.
pub(crate) struct Guest {
    wasi: WasiP1Ctx,
    outputs: [Output; 2],
    account: Account,
    meter: Arc<Meter>,
}

/// What could not be given to a guest.
pub(crate) enum GuestError {
    Preopen { index: usize, source: io::Error },
    Stdio { source: io::Error },
}

impl Guest {
    pub(crate) fn new(
        args: &[String],
        env: &[(String, String)],
        preopens: &[Preopen],
        stdio: [OwnedFd; 3],
        account: Account,
    ) -> Result<Self, GuestError> {
        let failed = |source| GuestError::Stdio { source };
        let [stdin, stdout, stderr] = stdio;
        let outputs = [Output::new(stdout).map_err(failed)?, Output::new(stderr).map_err(failed)?];
        let mut builder = WasiCtxBuilder::new();
        builder.args(args).envs(env).max_random_size(RANDOM_BYTES_MAX);
        builder.stdin(Input::new(stdin).map_err(failed)?);
        builder.stdout(outputs[0].clone()).stderr(outputs[1].clone());
        for (index, preopen) in preopens.iter().enumerate() {
            builder
                .preopened_dir(&preopen.host, &preopen.guest, preopen.perms)
                .map_err(|error| GuestError::Preopen { index, source: io_error(error) })?;
        }
        let mut wasi = builder.build_p1();
        wasi.ctx().table.set_max_capacity(RESOURCES_MAX);
        let meter = Meter::new(account.clone());
        Ok(Self { wasi, outputs, account, meter })
    }

    /// Its standard output and error.
    pub(super) fn outputs(&self) -> [Output; 2] {
        self.outputs.clone()
    }

    /// What its CPU time is measured with.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }
}

fn io_error(error: wasmtime::Error) -> io::Error {
    match error.downcast::<io::Error>() {
        Ok(error) => error,
        Err(error) => io::Error::other(format!("{error:#}")),
    }
}

/// The data of a store.
pub(crate) struct State {
    wasi: WasiP1Ctx,
    memory: Memory,
    meter: Arc<Meter>,
}

impl State {
    pub(super) fn new(guest: Guest) -> Self {
        let memory = Memory { account: guest.account, taken: 0, refused: false };
        Self { wasi: guest.wasi, memory, meter: guest.meter }
    }

    pub(super) fn preview1(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }

    pub(super) fn memory(&mut self) -> &mut dyn ResourceLimiter {
        &mut self.memory
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Whether the guest's most recent attempt to grow a memory or table was refused.
    pub(super) fn growth_was_refused(&self) -> bool {
        self.memory.refused
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

/// Counts the memory of a run over all its memories and tables.
///
/// wasmtime asks at each growth of each of them, so a limit per memory would be none: a guest may have
/// several. What an instance has is given back when the run ends; Wasm memories never shrink.
struct Memory {
    account: Account,
    taken: u64,
    refused: bool,
}

impl Memory {
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
