//! Digest → compiled code.
//!
//! ```text
//!  Library   what is known in memory; one making per image however many ask
//!    │ uses
//!  store     files: code and what was seen of the binary, checked when they are read
//!  compile   the child that compiles
//! ```

mod compile;
mod store;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use neargate_driver::{ProcessError, ProcessHost, StartError, WasmModule};
use neargate_model::chain;
use tokio::sync::watch;

use crate::config::{Config, SetupError};
use crate::jobs::Jobs;
use crate::protocol::{CodeInfo, Inspection};
use compile::Compiler;
use store::CodeStore;

/// Images that may wait for the compiler; a client that names ever new images must not fill memory.
const MAKING_MAX: usize = 256;
/// Images that are known in memory; each is an open file and a description.
const KNOWN_MAX: usize = 256;
/// How long a binary that cannot be compiled is refused without another look.
const REFUSED: Duration = Duration::from_secs(300);
/// How long an image is refused whose compilation failed for another reason; short, for the reason may pass.
const FAILED: Duration = Duration::from_secs(5);

/// Compiled code that is ready to be given to a worker.
#[derive(Debug)]
pub(crate) struct Code {
    pub(crate) digest: String,
    pub(crate) inspection: Inspection,
    file: File,
}

impl Code {
    pub(crate) fn info(&self) -> CodeInfo {
        CodeInfo { kind: self.inspection.kind.clone(), engine: self.inspection.engine.clone() }
    }

    /// The code's file opened anew, read-only: no two workers share a file position.
    pub(crate) fn open(&self) -> io::Result<std::os::fd::OwnedFd> {
        use rustix::fs::{Mode, OFlags};
        use std::os::fd::AsRawFd;
        // By this name (proc(5)) it is the very file that was checked, even if its own name is gone.
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }
}

/// Why there is no code of an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It is no Wasm binary.
    #[error("the file is {what}")]
    NotWasm {
        /// What it is.
        what: String,
    },
    /// It is not what its digest says.
    #[error("the file does not have the digest {digest} but {found}")]
    Digest {
        /// What it should have.
        digest: String,
        /// What it has.
        found: String,
    },
    /// It or its code is too large.
    #[error("compile: {bytes} bytes are more than the {bytes_max} that are allowed")]
    TooLarge {
        /// How many there are.
        bytes: u64,
        /// How many there may be.
        bytes_max: u64,
    },
    /// It is not valid, or uses what the engine does not have.
    #[error("compile: {why}")]
    Invalid {
        /// The compiler's words.
        why: String,
    },
    /// It imports what the host does not give.
    #[error("{why}")]
    Import {
        /// Which imports these are.
        why: String,
        /// What else was seen of it.
        seen: Box<Inspection>,
    },
    /// It is no program.
    #[error("{why}")]
    NoEntry {
        /// What is missing.
        why: String,
        /// What else was seen of it.
        seen: Box<Inspection>,
    },
    /// It could not be read.
    #[error("read wasm binary")]
    Read(#[source] io::Error),
    /// The compiler took too long.
    #[error("compile: took longer than {} s", limit.as_secs_f64())]
    TooSlow {
        /// How long it may take.
        limit: Duration,
    },
    /// The compiler took too much CPU time.
    #[error("compile: needed more than {seconds} s of CPU time")]
    CpuTime {
        /// How much it may take.
        seconds: u64,
    },
    /// The compiler took too much memory.
    #[error("compile: needed more than {} MiB of memory", bytes >> 20)]
    Memory {
        /// How much it may take.
        bytes: u64,
    },
    /// The compiler ended without an answer.
    #[error("compile: the compiler ended unexpectedly ({how})")]
    Died {
        /// How.
        how: String,
    },
    /// Too many images wait for the compiler.
    #[error("compile: {waiting} images are waiting for the compiler; try again later")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// The compiler could not be started.
    #[error("start the compiler")]
    Process(#[source] ProcessError),
    /// A step of the compiler, or on its behalf, failed in the kernel.
    #[error("{step}")]
    System {
        /// The step.
        step: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl ImageError {
    /// Whether the image itself is at fault, and so will be tomorrow.
    fn is_of_image(&self) -> bool {
        match self {
            Self::NotWasm { .. }
            | Self::Digest { .. }
            | Self::TooLarge { .. }
            | Self::Invalid { .. }
            | Self::Import { .. }
            | Self::NoEntry { .. }
            | Self::TooSlow { .. }
            | Self::CpuTime { .. }
            | Self::Memory { .. } => true,
            Self::Read(_)
            | Self::Died { .. }
            | Self::Busy { .. }
            | Self::Process(_)
            | Self::System { .. } => false,
        }
    }

    /// Whether another try would end in the same way, or cost too much to be made soon.
    fn is_lasting(&self) -> bool {
        // The digest is that of the right file, which may come to be there.
        self.is_of_image() && !matches!(self, Self::Digest { .. })
    }

    /// The same for the starter of a container; several may wait for one image, so the cause is copied as text.
    pub(crate) fn to_start_error(&self) -> StartError {
        if self.is_of_image() {
            return StartError::InvalidImage { why: self.to_string() };
        }
        let source = match std::error::Error::source(self) {
            Some(source) => io::Error::other(chain(source)),
            None => io::ErrorKind::Other.into(),
        };
        StartError::System { step: self.to_string(), source }
    }
}

type Made = Result<Arc<Code>, Arc<ImageError>>;

enum Known {
    Ready { code: Arc<Code>, used: u64 },
    Making(watch::Receiver<Option<Made>>),
    Refused { error: Arc<ImageError>, until: Instant },
}

/// The images that can be run.
pub(crate) struct Library {
    shared: Arc<Shared>,
}

struct Shared {
    store: CodeStore,
    compiler: Compiler,
    images: Mutex<Images>,
}

#[derive(Default)]
struct Images {
    uses: u64,
    by_digest: HashMap<String, Known>,
}

impl Library {
    pub(crate) fn open(config: &Config, processes: Arc<dyn ProcessHost>) -> Result<Self, SetupError> {
        let store =
            CodeStore::open(&config.code_dir, config.code_owner, config.code_bytes_max, &config.compiler_id)
                .map_err(|source| SetupError::CodeDir { dir: config.code_dir.clone(), source })?;
        let compiler = Compiler::new(processes, config.compile.clone(), config.compiler_id.clone());
        let shared = Shared { store, compiler, images: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The code of an image, from memory, from its file or from the compiler. Cancelling the future leaves the
    /// making of it to go on for others.
    pub(crate) async fn get(&self, jobs: &Jobs, module: &WasmModule) -> Made {
        let mut made = match self.look_up(jobs, module)? {
            Found::Code(code) => return Ok(code),
            Found::Making(made) => made,
        };
        match made.wait_for(Option::is_some).await.map(|made| made.clone()) {
            Ok(Some(made)) => made,
            _ => Err(Arc::new(ImageError::Died { how: "the driver ended".to_owned() })),
        }
    }

    fn look_up(&self, jobs: &Jobs, module: &WasmModule) -> Result<Found, Arc<ImageError>> {
        let mut images = self.shared.lock();
        images.uses += 1;
        let now = images.uses;
        match images.by_digest.get_mut(&module.digest) {
            Some(Known::Ready { code, used }) => {
                *used = now;
                return Ok(Found::Code(code.clone()));
            }
            Some(Known::Making(made)) => return Ok(Found::Making(made.clone())),
            Some(Known::Refused { error, until }) if *until > Instant::now() => return Err(error.clone()),
            Some(Known::Refused { .. }) | None => {}
        }
        let is_making = |known: &&Known| matches!(known, Known::Making(_));
        let waiting = images.by_digest.values().filter(is_making).count();
        if waiting >= MAKING_MAX {
            return Err(Arc::new(ImageError::Busy { waiting }));
        }
        let (sender, made) = watch::channel(None);
        images.by_digest.insert(module.digest.clone(), Known::Making(made.clone()));
        let making = make(self.shared.clone(), module.clone(), sender);
        jobs.spawn(making);
        Ok(Found::Making(made))
    }
}

enum Found {
    Code(Arc<Code>),
    Making(watch::Receiver<Option<Made>>),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Images> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets an image whose file should go; not one that a run uses or that is being made.
    fn give_up(&self, digest: &str) -> bool {
        let mut images = self.lock();
        let is_in_use = match images.by_digest.get(digest) {
            Some(Known::Ready { code, .. }) => Arc::strong_count(code) > 1,
            Some(Known::Making(_)) => true,
            Some(Known::Refused { .. }) | None => return true,
        };
        if !is_in_use {
            // Its open file would keep the space.
            images.by_digest.remove(digest);
        }
        !is_in_use
    }

    fn load(&self, digest: &str) -> Option<Code> {
        let (inspection, file) = self.store.load(digest)?;
        Some(Code { digest: digest.to_owned(), inspection, file })
    }
}

/// Makes one image ready; runs to its end whoever waits.
async fn make(shared: Arc<Shared>, module: WasmModule, sender: watch::Sender<Option<Made>>) {
    let made = match find_or_compile(&shared, &module).await {
        Ok(code) => Ok(Arc::new(code)),
        Err(error) => Err(Arc::new(error)),
    };
    {
        let mut images = shared.lock();
        let used = images.uses;
        let known = match &made {
            Ok(code) => Known::Ready { code: code.clone(), used },
            Err(error) => {
                let pause = if error.is_lasting() { REFUSED } else { FAILED };
                Known::Refused { error: error.clone(), until: Instant::now() + pause }
            }
        };
        images.by_digest.insert(module.digest, known);
        images.forget_some();
    }
    sender.send_replace(Some(made));
}

impl Images {
    /// Keeps what is known within its bound: refusals that are over go first, then the image unused longest.
    fn forget_some(&mut self) {
        if self.by_digest.len() <= KNOWN_MAX {
            return;
        }
        let now = Instant::now();
        self.by_digest.retain(|_, known| !matches!(known, Known::Refused { until, .. } if *until <= now));
        while self.by_digest.len() > KNOWN_MAX {
            let age = |known: &Known| match known {
                Known::Ready { used, .. } => Some(*used),
                Known::Refused { .. } => Some(0),
                Known::Making(_) => None,
            };
            let oldest =
                self.by_digest.iter().filter_map(|(digest, known)| Some((age(known)?, digest))).min();
            let Some(digest) = oldest.map(|(_, digest)| digest.clone()) else { return };
            self.by_digest.remove(&digest);
        }
    }
}

async fn find_or_compile(shared: &Arc<Shared>, module: &WasmModule) -> Result<Code, ImageError> {
    if store::parse_digest(&module.digest).is_none() {
        let found = "no sha256 digest".to_owned();
        return Err(ImageError::Digest { digest: module.digest.clone(), found });
    }
    let digest = module.digest.clone();
    if let Some(code) = blocking(shared, move |shared| Ok(shared.load(&digest))).await? {
        return Ok(code);
    }
    // The semaphore is never closed.
    let _permit = shared.compiler.permit().await;
    let output = blocking(shared, |shared| {
        shared.store.begin().map_err(|source| system("make a file for compiled code", source))
    })
    .await?;
    let (inspection, output) = shared.compiler.compile(module, output).await?;
    let digest = module.digest.clone();
    blocking(shared, move |shared| {
        let keep = |source| system("keep compiled code", source);
        let file = shared.store.keep(&digest, output, &inspection).map_err(keep)?;
        shared.store.evict(|other| other != digest && shared.give_up(other));
        Ok(Code { digest, inspection, file })
    })
    .await
}

fn system(step: &str, source: io::Error) -> ImageError {
    ImageError::System { step: step.to_owned(), source }
}

/// Runs what reads and writes files on a thread for that.
async fn blocking<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let shared = shared.clone();
    match tokio::task::spawn_blocking(move || work(&shared)).await {
        Ok(result) => result,
        Err(error) => Err(ImageError::Died { how: error.to_string() }),
    }
}
