//! The images that are ready to run: each is compiled and linked once, however many ask at a time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{OnceCell, Semaphore};

use crate::old::engine::{Config, Engine, ImageError, SetupError};
use crate::old::instance::{Code, Linkers};

/// Images that are loaded at a time. Compiling one uses all cores by itself.
const LOADS_MAX: usize = 1;

pub(crate) struct Library {
    shared: Arc<Shared>,
    loads: Semaphore,
    images: Mutex<Images>,
}

struct Shared {
    engine: Engine,
    linkers: Linkers,
}

/// The images by digest; the one used longest ago makes room.
struct Images {
    max: usize,
    uses: u64,
    by_digest: HashMap<String, Image>,
}

struct Image {
    used: u64,
    /// Empty while it is being loaded.
    code: Arc<OnceCell<Arc<Code>>>,
}

impl Library {
    pub(crate) fn new(config: &Config) -> Result<Self, SetupError> {
        let engine = Engine::new(config)?;
        let linkers = Linkers::new(engine.wasmtime())?;
        Ok(Self {
            shared: Arc::new(Shared { engine, linkers }),
            loads: Semaphore::new(LOADS_MAX),
            images: Mutex::new(Images { max: config.images_max.max(1), uses: 0, by_digest: HashMap::new() }),
        })
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// The linked code of an image, loaded on a blocking thread of `runtime` unless it is here. An image that
    /// cannot be loaded is tried anew the next time: its file may have been the trouble.
    pub(crate) async fn get(
        &self,
        runtime: &Handle,
        path: &Path,
        digest: &str,
    ) -> Result<Arc<Code>, ImageError> {
        let image = self.images.lock().unwrap_or_else(PoisonError::into_inner).get(digest);
        image.get_or_try_init(|| self.load(runtime, path.to_owned(), digest.to_owned())).await.cloned()
    }

    async fn load(&self, runtime: &Handle, path: PathBuf, digest: String) -> Result<Arc<Code>, ImageError> {
        // The semaphore is never closed; without a permit we would merely load two at a time.
        let _permit = self.loads.acquire().await;
        let shared = Arc::clone(&self.shared);
        let load = move || shared.linkers.link(shared.engine.load(&path, &digest)?);
        match runtime.spawn_blocking(load).await {
            Ok(loaded) => loaded.map(Arc::new),
            Err(error) => Err(ImageError::Compile { why: format!("the compiler did not finish: {error}") }),
        }
    }
}

impl Images {
    fn get(&mut self, digest: &str) -> Arc<OnceCell<Arc<Code>>> {
        self.uses += 1;
        if !self.by_digest.contains_key(digest) && self.by_digest.len() >= self.max {
            let oldest =
                self.by_digest.iter().min_by_key(|(_, image)| image.used).map(|(key, _)| key.clone());
            self.by_digest.remove(&oldest.unwrap_or_default());
        }
        let image = self
            .by_digest
            .entry(digest.to_owned())
            .or_insert_with(|| Image { used: 0, code: Arc::default() });
        image.used = self.uses;
        Arc::clone(&image.code)
    }
}
