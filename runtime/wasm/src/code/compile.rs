//! The child that compiles.
//!
//! It gets the binary, an empty file and a pipe, and nothing else of the machine. A binary can be made to take
//! any amount of time, memory and space, so all three are bounded, and what it wrote is used only when it has ended.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use neargate_driver::{
    Process, ProcessError, ProcessExit, ProcessHost, ProcessNetwork, ProcessRole, ProcessSpec, ProcessUser,
    WasmModule,
};
use neargate_ipc::wire::{decode, encode};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use tempfile::NamedTempFile;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::{ImageError, system};
use crate::config::CompileLimits;
use crate::protocol::{COMPILE_REPLY_BYTES_MAX, CompileOrder, CompileRefusal, CompileReply, Inspection};

/// How long starting the child may take.
const SPAWN: Duration = Duration::from_secs(10);
/// How long the end of a child may take that has answered or was killed.
const END: Duration = Duration::from_secs(10);
/// How often is looked whether its file has grown too long.
const LOOK: Duration = Duration::from_millis(250);
/// Address space beside the memory that may be used: the program itself, its threads' stacks, and what an
/// allocator reserves.
const ADDRESS_SPACE_EXTRA: u64 = 1 << 30;
const SIGABRT: i32 = 6;
const SIGXCPU: i32 = 24;

pub(super) struct Compiler {
    processes: Arc<dyn ProcessHost>,
    limits: CompileLimits,
    compiler_id: String,
    permits: Semaphore,
}

impl Compiler {
    pub(super) fn new(processes: Arc<dyn ProcessHost>, limits: CompileLimits, compiler_id: String) -> Self {
        let permits = Semaphore::new(limits.at_a_time.max(1));
        Self { processes, limits, compiler_id, permits }
    }

    /// Waits until another child may run.
    pub(super) async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.acquire().await.ok()
    }

    /// Compiles a binary into `output`, which is whole when this returns.
    pub(super) async fn compile(
        &self,
        module: &WasmModule,
        output: NamedTempFile,
    ) -> Result<(Inspection, NamedTempFile), ImageError> {
        let path = module.path.clone();
        let opened = tokio::task::spawn_blocking(move || open_binary(&path)).await;
        let wasm = opened.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(ImageError::Read)?;
        let (reply, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
            .map_err(|error| system("make a pipe for the compiler", error.into()))?;
        let reply = pipe::Receiver::from_owned_fd(reply)
            .map_err(|source| system("read from the compiler", source))?;
        let written = output.as_file().try_clone();
        let written = written.map_err(|source| system("give the compiler its file", source))?;
        let spec = self.process(&module.digest, vec![wasm, written.into(), theirs]);
        let child = match timeout(SPAWN, self.processes.spawn(spec)).await {
            Ok(child) => child.map_err(ImageError::Process)?,
            Err(_) => {
                let source = io::ErrorKind::TimedOut.into();
                return Err(ImageError::Process(ProcessError::Unavailable { source }));
            }
        };
        let watched = Child { process: child, limits: &self.limits };
        let answer = watched.answer(reply, output.as_file()).await?;
        let inspection = self.judge(&module.digest, &answer)?;
        Ok((inspection, output))
    }

    fn process(&self, digest: &str, fds: Vec<OwnedFd>) -> ProcessSpec {
        let order = CompileOrder {
            digest: digest.to_owned(),
            wasm_bytes_max: self.limits.wasm_bytes_max,
            code_bytes_max: self.limits.code_bytes_max,
        };
        ProcessSpec {
            role: ProcessRole::WasmCompiler,
            name: format!("wasm-compiler-{}", digest.get(7..19).unwrap_or_default()),
            input: encode(&order),
            fds,
            mounts: Vec::new(),
            user: ProcessUser::Nobody,
            network: ProcessNetwork::None,
            memory_bytes: Some(self.limits.memory_bytes),
            address_space_bytes: Some(self.limits.memory_bytes + ADDRESS_SPACE_EXTRA),
            cpu_seconds: Some(self.limits.cpu_seconds),
            core: None,
        }
    }

    fn judge(&self, digest: &str, answer: &[u8]) -> Result<Inspection, ImageError> {
        let died = |how: &str| ImageError::Died { how: how.to_owned() };
        match decode(answer).map_err(|_| died("its answer cannot be read"))? {
            CompileReply::Done { inspection } if inspection.compiler == self.compiler_id => Ok(inspection),
            CompileReply::Done { .. } => Err(died("it is of another version than this program")),
            CompileReply::Refused { reason } => Err(refusal(digest, reason)),
            CompileReply::Failed { errno, .. } if errno == rustix::io::Errno::NOMEM.raw_os_error() => {
                Err(ImageError::Memory { bytes: self.limits.memory_bytes })
            }
            CompileReply::Failed { step, errno } => {
                let source = io::Error::from_raw_os_error(errno);
                Err(ImageError::System { step: format!("compile: {step}"), source })
            }
        }
    }
}

fn refusal(digest: &str, reason: CompileRefusal) -> ImageError {
    match reason {
        CompileRefusal::NotWasm { what } => ImageError::NotWasm { what },
        CompileRefusal::Digest { found } => ImageError::Digest { digest: digest.to_owned(), found },
        CompileRefusal::Invalid { why } => ImageError::Invalid { why },
        CompileRefusal::TooLarge { bytes, bytes_max } => ImageError::TooLarge { bytes, bytes_max },
        CompileRefusal::Import { why, seen, .. } => ImageError::Import { why, seen },
        CompileRefusal::NoEntry { why, seen } => ImageError::NoEntry { why, seen },
    }
}

/// Opens the binary; a path that names a pipe or a device is refused without waiting for it.
fn open_binary(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    Ok(file.into())
}

/// A running compiler; dropping it kills it.
struct Child<'a> {
    process: Arc<dyn Process>,
    limits: &'a CompileLimits,
}

impl Drop for Child<'_> {
    fn drop(&mut self) {
        self.process.kill();
    }
}

impl Child<'_> {
    /// Its encoded answer, once it has ended.
    async fn answer(&self, reply: pipe::Receiver, output: &File) -> Result<Vec<u8>, ImageError> {
        let deadline = Instant::now() + self.limits.wall;
        let reading = read(reply);
        tokio::pin!(reading);
        let answer = loop {
            tokio::select! {
                answer = &mut reading => break answer.map_err(|source| system("read from the compiler", source))?,
                () = tokio::time::sleep_until(deadline) => {
                    return Err(ImageError::TooSlow { limit: self.limits.wall });
                }
                () = tokio::time::sleep(LOOK) => self.check_output(output)?,
            }
        };
        let exit = match timeout(END, self.process.wait()).await {
            Ok(exit) => exit,
            Err(_) => return Err(ImageError::Died { how: "it did not end after its answer".to_owned() }),
        };
        self.check_output(output)?;
        if answer.is_empty() { Err(self.death(exit)) } else { Ok(answer) }
    }

    /// The file is bounded here too, for the child may be under the control of what it compiles.
    fn check_output(&self, output: &File) -> Result<(), ImageError> {
        let bytes = output.metadata().map_err(|source| system("look at compiled code", source))?.len();
        let bytes_max = self.limits.code_bytes_max;
        if bytes > bytes_max { Err(ImageError::TooLarge { bytes, bytes_max }) } else { Ok(()) }
    }

    fn death(&self, exit: ProcessExit) -> ImageError {
        const CPU_ENDS: i32 = 128 + SIGXCPU;
        const ABORTED: i32 = 128 + SIGABRT;
        match exit {
            // An allocation that the address space has no room for ends in abort(3).
            ProcessExit { oom: true, .. } | ProcessExit { code: ABORTED, .. } => {
                ImageError::Memory { bytes: self.limits.memory_bytes }
            }
            ProcessExit { code: CPU_ENDS, .. } => ImageError::CpuTime { seconds: self.limits.cpu_seconds },
            ProcessExit { code, .. } => ImageError::Died { how: crate::worker::describe_code(code) },
        }
    }
}

async fn read(reply: pipe::Receiver) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let limit = COMPILE_REPLY_BYTES_MAX as u64 + 1;
    reply.take(limit).read_to_end(&mut answer).await?;
    match answer.len() > COMPILE_REPLY_BYTES_MAX {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, "its answer is too long")),
        false => Ok(answer),
    }
}
