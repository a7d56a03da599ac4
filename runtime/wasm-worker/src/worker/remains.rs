//! What a run leaves for people: a core dump, a profile.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use neargate_wasm::protocol::{ATTACHMENT_BYTES_MAX, Attachment};
use rustix::fs::MemfdFlags;
use wasmtime::{GuestProfiler, Store, WasmCoreDump};

use crate::instance::{Code, RunContext, State};

/// Bytes of a core dump beside its memories: stacks, globals, names.
const DUMP_OVERHEAD_BYTES: usize = 1 << 20;

/// Attachments of an exit, with their files.
pub(super) type Remains = Vec<(Attachment, OwnedFd)>;

/// The core dump of a trap, in the format of the tool conventions, when there is one and its memories fit into an
/// attachment. What is too large is not written at all: a cut dump cannot be read.
pub(crate) fn core_dump(
    error: &wasmtime::Error,
    store: &mut Store<State>,
    run: &RunContext,
) -> io::Result<Option<OwnedFd>> {
    let name = run.plan().argv.first().map_or("guest", String::as_str);
    let Some(dump) = error.downcast_ref::<WasmCoreDump>() else { return Ok(None) };
    let bytes: usize = dump.memories().iter().map(|memory| memory.data_size(&*store)).sum();
    if bytes > ATTACHMENT_BYTES_MAX - DUMP_OVERHEAD_BYTES {
        return Ok(None);
    }
    let dump = dump.serialize(&mut *store, name);
    memfd(c"core", |file| file.write_all(&dump)).map(Some)
}

/// A profiler for a store of the run.
pub(super) fn profiler(run: &RunContext, interval: Duration) -> wasmtime::Result<GuestProfiler> {
    let name = run.plan().argv.first().map_or("guest", String::as_str);
    let engine = &run.image().engine;
    match run.code() {
        Code::Module(pre) => {
            let module = pre.module().clone();
            GuestProfiler::new(engine, name, interval, [(name.to_owned(), module)])
        }
        Code::Component(pre) => {
            GuestProfiler::new_component(engine, name, interval, pre.component().clone(), [])
        }
    }
}

/// The profile of a finished run, in the format of the Firefox Profiler.
pub(super) fn profile(profiler: GuestProfiler) -> io::Result<OwnedFd> {
    memfd(c"profile", |file| {
        let file = io::BufWriter::new(file);
        profiler.finish(file).map_err(|error| io::Error::other(format!("{error:#}")))
    })
}

/// A file of the worker's own memory, refused when it is larger than an attachment may be.
fn memfd(
    name: &std::ffi::CStr,
    fill: impl FnOnce(&mut std::fs::File) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let mut file = std::fs::File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?);
    fill(&mut file)?;
    if file.metadata()?.len() > ATTACHMENT_BYTES_MAX as u64 {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(file.into())
}
