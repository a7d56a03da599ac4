//! The compiler role: one Wasm binary to compiled code and what is known of it.
//!
//! ```text
//!  order ─► read, check the digest ─► scan: which engine? ─► compile ─► inspect ─► code, reply
//! ```
//!
//! It runs in a process of its own, behind fences and limits, for one binary and no longer: compilers take
//! their input's word for how large things are, and wasmtime does not count it as a fault when compiling
//! takes all memory or time there is. Whoever started the process notices its end and kills it when it takes
//! too long. What was never compiled here is never run.

mod id;
mod inspect;
mod scan;

use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use neargate_ipc::wire::{decode, encode};
use neargate_wasm::protocol::{
    BinaryKind, COMPILE_REPLY_BYTES_MAX, CompileOrder, CompileRefusal, CompileReply, EngineKind, Inspection,
};
use sha2::{Digest, Sha256};
use wasmtime::component::Component;
use wasmtime::{Engine, InstanceAllocationStrategy, Module};

use crate::engine;
pub use id::compiler_id;

/// Threads that compile at most: beyond that memory, not time, is what a compilation needs.
const THREADS_MAX: usize = 8;
/// Stack of each of them, in bytes. Only the part that is used takes memory.
const STACK_BYTES: usize = 8 << 20;
/// Characters of what is wrong with a binary that are told.
const WHY_CHARS_MAX: usize = 4000;

/// The role function of a compiler process.
///
/// `input` is an encoded [`CompileOrder`], which names the descriptors. Returns 0 when a reply was written,
/// whatever it says.
pub fn compiler_main(input: &[u8], fds: Vec<OwnedFd>) -> i32 {
    let (Ok(order), Ok([wasm, code, reply])) = (decode::<CompileOrder>(input), <[OwnedFd; 3]>::try_from(fds))
    else {
        return 2;
    };
    let said = compile(&order, File::from(wasm), File::from(code)).unwrap_or_else(Failure::reply);
    let mut bytes = encode(&said);
    if bytes.len() > COMPILE_REPLY_BYTES_MAX {
        let why = "its imports and exports are too many to be told".to_owned();
        bytes = encode(&CompileReply::Refused { reason: CompileRefusal::Invalid { why } });
    }
    match File::from(reply).write_all(&bytes) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// Why there is no code.
enum Failure {
    /// It is the binary's fault.
    Refused(CompileRefusal),
    /// It is not.
    System { step: &'static str, source: io::Error },
}

impl Failure {
    fn at(step: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { step, source }
    }

    fn invalid(why: &str) -> Self {
        Self::Refused(CompileRefusal::Invalid { why: why.chars().take(WHY_CHARS_MAX).collect() })
    }

    fn reply(self) -> CompileReply {
        match self {
            Self::Refused(reason) => CompileReply::Refused { reason },
            Self::System { step, source } => {
                CompileReply::Failed { step: step.to_owned(), errno: source.raw_os_error().unwrap_or(0) }
            }
        }
    }
}

impl From<CompileRefusal> for Failure {
    fn from(refusal: CompileRefusal) -> Self {
        Self::Refused(refusal)
    }
}

fn compile(order: &CompileOrder, wasm: File, mut code: File) -> Result<CompileReply, Failure> {
    let wasm = read(order, wasm)?;
    let (inspection, bytes) = translate(&wasm)?;
    if bytes.len() as u64 > order.code_bytes_max {
        let (bytes, bytes_max) = (bytes.len() as u64, order.code_bytes_max);
        return Err(CompileRefusal::TooLarge { bytes, bytes_max }.into());
    }
    code.write_all(&bytes).map_err(Failure::at("write compiled code"))?;
    Ok(CompileReply::Done { inspection })
}

/// The binary, which has the size and the digest that were ordered.
fn read(order: &CompileOrder, file: File) -> Result<Vec<u8>, Failure> {
    let (mut wasm, bytes_max) = (Vec::new(), order.wasm_bytes_max);
    // One byte more tells a file that is too large.
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut wasm).map_err(Failure::at("read wasm binary"))?;
    if wasm.len() as u64 > bytes_max {
        return Err(CompileRefusal::TooLarge { bytes: wasm.len() as u64, bytes_max }.into());
    }
    let found = format!("sha256:{}", hex::encode(Sha256::digest(&wasm)));
    match found == order.digest {
        true => Ok(wasm),
        false => Err(CompileRefusal::Digest { found }.into()),
    }
}

/// Compiles and inspects. The compiler's threads end with it.
fn translate(wasm: &[u8]) -> Result<(Inspection, Vec<u8>), Failure> {
    let kind = engine::detect(wasm).map_err(|what| CompileRefusal::NotWasm { what })?;
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(THREADS_MAX);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).stack_size(STACK_BYTES).build();
    // Where the fences allow no threads it is done without.
    let run = || match &pool {
        Ok(pool) => pool.install(|| translate_kind(wasm, kind, true)),
        Err(_) => translate_kind(wasm, kind, false),
    };
    // What the compiler did not expect of a binary is that binary's fault as far as anybody else can tell.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(Failure::invalid("the compiler panicked")))
}

fn translate_kind(wasm: &[u8], kind: BinaryKind, parallel: bool) -> Result<(Inspection, Vec<u8>), Failure> {
    let invalid = |error: wasmtime::Error| Failure::invalid(&format!("{error:#}"));
    match kind {
        BinaryKind::Module {} => {
            let engine = compiler(&EngineKind::Sync {}, parallel).map_err(invalid)?;
            let module = Module::from_binary(&engine, wasm).map_err(invalid)?;
            let inspection = inspect::module(&module)?;
            Ok((inspection, module.serialize().map_err(invalid)?))
        }
        BinaryKind::Component {} => {
            let kind = scan::engine_of(wasm).map_err(|error| Failure::invalid(&error.to_string()))?;
            let engine = compiler(&kind, parallel).map_err(invalid)?;
            let component = Component::from_binary(&engine, wasm).map_err(invalid)?;
            let inspection = inspect::component(&component, kind)?;
            Ok((inspection, component.serialize().map_err(invalid)?))
        }
    }
}

/// An engine that compiles exactly what a worker's engine of that kind loads. How a worker allocates instances
/// has no part in that, and its pools would reserve address space in vain.
fn compiler(kind: &EngineKind, parallel: bool) -> wasmtime::Result<Engine> {
    let mut settings = engine::settings(kind);
    settings.allocation_strategy(InstanceAllocationStrategy::OnDemand).parallel_compilation(parallel);
    Engine::new(&settings)
}

#[cfg(test)]
mod tests;
