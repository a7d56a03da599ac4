//! Pulls: from a reference to an image in the store. Those of one image are one, and those that share layers share them.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use neargate_image::{BlobRef, ImageStore, ImportError, Imported, Next, Platform, Pull, PullLayer};
use neargate_model::image::{Digest, ImageReference};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedMutexGuard, Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::client::{Client, RawManifest, Session};
use crate::config::{Endpoint, RegistryConfig};
use crate::credentials::{Credential, CredentialFiles};
use crate::download::{Counter, document, download, retry};
use crate::error::{PullError, RequestError};
use crate::transport::Patience;

/// Connections of one pull at a time.
const CONNECTIONS_MAX: usize = 6;
/// Layers of one pull that are unpacked at a time: each is a process.
const UNPACKING_MAX: usize = 3;
/// Pulls at a time; others wait, so that memory and processes are bounded.
const PULLS_MAX: usize = 4;
/// The longest pull: one that gets on at all, but not on a day's work.
const PULL_LIMIT: Duration = Duration::from_secs(2 * 3600);

/// What is to be pulled.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// The image.
    pub reference: ImageReference,
    /// The platform of an image for several; the store's unless it says otherwise.
    pub platform: Option<Platform>,
    /// Who asks, instead of what is configured for the registry.
    pub credential: Option<Credential>,
}

impl PullRequest {
    /// A pull of `reference` for this machine, with what is configured.
    pub fn new(reference: ImageReference) -> Self {
        Self { reference, platform: None, credential: None }
    }

    fn key(&self) -> Key {
        let platform = self.platform.as_ref().map(ToString::to_string);
        let fingerprint = self.credential.as_ref().map(Credential::fingerprint);
        (self.reference.clone(), platform, fingerprint)
    }
}

/// Pulls are one only if whoever asks is one, too.
type Key = (ImageReference, Option<String>, Option<[u8; 32]>);
type Ended = Result<Imported, Arc<PullError>>;

/// Pulls images into a store. Clones share connections, tokens and pulls.
#[derive(Clone, Debug)]
pub struct Puller {
    shared: Arc<Shared>,
}

/// Held by whoever brings a layer.
type LayerLock = tokio::sync::Mutex<()>;

#[derive(Debug)]
struct Shared {
    client: Arc<Client>,
    store: ImageStore,
    flights: Mutex<HashMap<Key, Weak<Flight>>>,
    layers: Mutex<HashMap<(String, Digest), Weak<LayerLock>>>,
    turns: Arc<Semaphore>,
}

/// A pull under way. It is given up when nobody holds it any more.
#[derive(Debug)]
pub struct Flight {
    progress: Arc<Progress>,
    result: watch::Receiver<Option<Ended>>,
    task: AbortHandle,
}

impl Flight {
    /// Waits for its end.
    pub async fn wait(&self) -> Ended {
        let mut result = self.result.clone();
        let ended = result.wait_for(Option::is_some).await;
        ended.ok().and_then(|ended| ended.clone()).unwrap_or_else(|| Err(Arc::new(PullError::Ended)))
    }

    /// How far it is.
    pub fn progress(&self) -> Vec<LayerProgress> {
        let layers = self.progress.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let one = |(blob, counter): &(BlobRef, Option<Arc<Counter>>)| LayerProgress {
            digest: blob.digest,
            size_bytes: blob.size,
            came_bytes: counter.as_ref().map_or(blob.size, |counter| counter.0.load(Ordering::Relaxed)),
            was_here: counter.is_none(),
        };
        layers.iter().map(one).collect()
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How far a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerProgress {
    /// The layer's blob.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
    /// What has come of it.
    pub came_bytes: u64,
    /// Whether the store had it.
    pub was_here: bool,
}

#[derive(Debug, Default)]
struct Progress {
    layers: Mutex<Vec<(BlobRef, Option<Arc<Counter>>)>>,
}

impl Puller {
    /// Pulls into `store`, with credentials of `credentials`.
    pub fn new(store: ImageStore, config: RegistryConfig, credentials: CredentialFiles) -> Self {
        Self::with_patience(store, config, credentials, Patience::default())
    }

    /// As [`Puller::new`], with other limits of time.
    pub fn with_patience(
        store: ImageStore,
        config: RegistryConfig,
        credentials: CredentialFiles,
        patience: Patience,
    ) -> Self {
        let client = Arc::new(Client::new(config, credentials, patience));
        let (flights, layers) = Default::default();
        let turns = Arc::new(Semaphore::new(PULLS_MAX));
        Self { shared: Arc::new(Shared { client, store, flights, layers, turns }) }
    }

    /// Pulls an image, or waits for the pull of it that is under way.
    pub async fn pull(&self, request: PullRequest) -> Ended {
        self.start(request).wait().await
    }

    /// Begins a pull, or finds the one that is under way. To be called on a runtime of tokio.
    pub fn start(&self, request: PullRequest) -> Arc<Flight> {
        let mut flights = self.shared.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.strong_count() > 0);
        let key = request.key();
        if let Some(flight) = flights.get(&key).and_then(Weak::upgrade)
            && flight.result.borrow().is_none()
        {
            return flight;
        }
        let (sender, result) = watch::channel(None);
        let progress = Arc::new(Progress::default());
        let work = Work { shared: self.shared.clone(), request, progress: progress.clone() };
        let task = tokio::spawn(async move {
            let ended = tokio::time::timeout(PULL_LIMIT, work.run()).await;
            let ended = ended.unwrap_or(Err(PullError::Ended));
            sender.send_replace(Some(ended.map_err(Arc::new)));
        });
        let flight = Arc::new(Flight { progress, result, task: task.abort_handle() });
        flights.insert(key, Arc::downgrade(&flight));
        flight
    }

    /// The digest that a reference leads to now, for whoever asks; also of one that is pinned: whether it may be had is
    /// the registry's to say.
    pub async fn resolve(&self, request: &PullRequest) -> Result<Digest, PullError> {
        let reference = &request.reference;
        let mut last = None;
        for endpoint in self.shared.client.endpoints(reference.registry()) {
            let session = self.shared.client.session(endpoint, reference, request.credential.clone()).await;
            let session = session.map_err(|source| resolve_error(reference, 1, source))?;
            let name = name_of(reference);
            let ask = || async {
                match session.manifest_digest(&name).await? {
                    Some(digest) => Ok(digest),
                    None => session.manifest(&name).await.map(|manifest| sha256(&manifest.bytes)),
                }
            };
            match retry(&session, ask).await {
                Ok(digest) => {
                    check(reference, digest, None)?;
                    return Ok(digest);
                }
                Err((attempts, source)) => last = Some(resolve_error(reference, attempts, source)),
            }
        }
        Err(last.unwrap_or(PullError::Ended))
    }
}

/// The last part of a manifest's URL.
fn name_of(reference: &ImageReference) -> String {
    let digest = reference.digest().map(|digest| digest.to_string());
    digest.or(reference.tag().map(str::to_owned)).unwrap_or_default()
}

fn resolve_error(reference: &ImageReference, attempts: u32, source: RequestError) -> PullError {
    let source = match source {
        RequestError::NotFound { .. } => RequestError::NotFound { what: reference.canonical() },
        source => source,
    };
    PullError::Resolve { reference: Box::new(reference.clone()), attempts, source }
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// Compares what came with the reference and with what the registry says.
fn check(reference: &ImageReference, actual: Digest, told: Option<Digest>) -> Result<(), PullError> {
    match reference.digest().or(told) {
        Some(expected) if expected != actual => {
            Err(PullError::WrongDigest { reference: Box::new(reference.clone()), expected, actual })
        }
        _ => Ok(()),
    }
}

/// One pull.
struct Work {
    shared: Arc<Shared>,
    request: PullRequest,
    progress: Arc<Progress>,
}

impl Work {
    async fn run(self) -> Result<Imported, PullError> {
        let _turn = self.shared.turns.clone().acquire_owned().await.map_err(|_| PullError::Ended)?;
        let registry = self.request.reference.registry();
        let mut last = PullError::Ended;
        for endpoint in self.shared.client.endpoints(registry) {
            let is_mirror = endpoint.is_mirror;
            let place = endpoint.origin.to_string();
            match self.run_at(endpoint).await {
                Ok(imported) => return Ok(imported),
                Err(error) if is_mirror => {
                    let reference = &self.request.reference;
                    tracing::info!(image = %reference, mirror = place, error = neargate_model::chain(&error), "mirror does not have it");
                    last = error;
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    async fn run_at(&self, endpoint: Endpoint) -> Result<Imported, PullError> {
        let reference = &self.request.reference;
        let session = self.shared.client.session(endpoint, reference, self.request.credential.clone()).await;
        let session = Arc::new(session.map_err(|source| resolve_error(reference, 1, source))?);
        let manifest = self.manifest(&session, &name_of(reference)).await?;
        let (store, name, platform) =
            (self.shared.store.clone(), reference.clone(), self.request.platform.clone());
        let pull = blocking(move || store.begin_pull(name, platform)).await?;
        let mut pull = Whole(Some(Arc::new(pull)));
        let mut next =
            pull.change(|pull| pull.document(&manifest.bytes, manifest.media_type.as_deref(), None))?;
        let config = loop {
            match next {
                Next::Config(config) => break config,
                Next::Document(blob) => {
                    let manifest = self.manifest(&session, &blob.digest.to_string()).await?;
                    let media_type = Some(blob.media_type.as_str());
                    next = pull.change(|pull| pull.document(&manifest.bytes, media_type, Some(&blob)))?;
                }
            }
        };
        let config = document(&session, &config).await?;
        let mut layers = pull.change(|pull| pull.config(&config))?;
        let _locks = self.lock(&layers).await;
        let pull = pull.shared()?;
        layers.iter_mut().for_each(|layer| pull.look(layer));
        self.layers(&session, &pull, layers).await?;
        let committing = pull.clone();
        blocking(move || committing.commit()).await
    }

    async fn manifest(&self, session: &Session, name: &str) -> Result<RawManifest, PullError> {
        let reference = &self.request.reference;
        let manifest = retry(session, || session.manifest(name)).await;
        let manifest = manifest.map_err(|(attempts, source)| resolve_error(reference, attempts, source))?;
        let actual = sha256(&manifest.bytes);
        if name == name_of(reference) {
            check(reference, actual, manifest.told)?;
        }
        Ok(manifest)
    }

    /// Waits until nobody else brings one of these layers. All take the locks in the same order.
    async fn lock(&self, layers: &[PullLayer]) -> Vec<OwnedMutexGuard<()>> {
        let mut wanted: Vec<Digest> =
            layers.iter().filter(|layer| !layer.is_here).map(|layer| layer.blob.digest).collect();
        wanted.sort();
        let mut guards = Vec::new();
        for digest in wanted {
            let key = (self.request.reference.registry().to_owned(), digest);
            let lock = {
                let mut locks = self.shared.layers.lock().unwrap_or_else(PoisonError::into_inner);
                locks.retain(|_, lock| lock.strong_count() > 0);
                let lock = locks.get(&key).and_then(Weak::upgrade).unwrap_or_default();
                locks.insert(key, Arc::downgrade(&lock));
                lock
            };
            guards.push(lock.lock_owned().await);
        }
        guards
    }

    async fn layers(
        &self,
        session: &Arc<Session>,
        pull: &Arc<Pull>,
        layers: Vec<PullLayer>,
    ) -> Result<(), PullError> {
        let (connections, unpacking) =
            (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Arc::new(Semaphore::new(UNPACKING_MAX)));
        let mut running = JoinSet::new();
        for layer in layers {
            let counter = (!layer.is_here).then(Arc::default);
            self.note(&layer.blob, counter.clone());
            let one = Layer {
                session: session.clone(),
                pull: pull.clone(),
                layer,
                connections: connections.clone(),
                progress: self.progress.clone(),
                counter,
            };
            let unpacking = unpacking.clone();
            running.spawn(async move {
                let _permit = unpacking.acquire_owned().await.map_err(|_| PullError::Ended)?;
                one.bring().await
            });
        }
        while let Some(ended) = running.join_next().await {
            ended.map_err(|_| PullError::Ended)??;
        }
        Ok(())
    }

    fn note(&self, blob: &BlobRef, counter: Option<Arc<Counter>>) {
        let mut layers = self.progress.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.retain(|(known, _)| known.digest != blob.digest);
        layers.push((blob.clone(), counter));
    }
}

/// One layer of one pull.
struct Layer {
    session: Arc<Session>,
    pull: Arc<Pull>,
    layer: PullLayer,
    connections: Arc<Semaphore>,
    progress: Arc<Progress>,
    counter: Option<Arc<Counter>>,
}

impl Layer {
    async fn bring(self) -> Result<(), PullError> {
        let digest = self.layer.blob.digest;
        if self.layer.is_here {
            // What is here came for somebody else: the registry says whether it is for this one, too.
            let asked = retry(&self.session, || self.session.has_blob(digest)).await;
            let is_given =
                asked.map_err(|(attempts, source)| PullError::Fetch { digest, attempts, source })?;
            let (pull, layer) = (self.pull.clone(), self.layer.clone());
            if is_given && blocking(move || pull.reuse(&layer)).await? {
                return Ok(());
            }
        }
        let counter = self.counter.clone().unwrap_or_else(|| self.count());
        let (pull, layer) = (self.pull.clone(), self.layer.clone());
        let (writer, incoming) = blocking(move || pull.open(&layer)).await?;
        let pull = self.pull.clone();
        let receiving = tokio::task::spawn_blocking(move || pull.receive(&incoming));
        let blob = self.layer.blob.clone();
        let downloading = download(self.session.clone(), blob, writer, self.connections.clone(), counter);
        tokio::pin!(receiving);
        let downloaded = tokio::select! {
            // An archive that is refused need not come to its end.
            received = &mut receiving => return received.map_err(|_| PullError::Ended)?.map_err(PullError::Store),
            downloaded = downloading => downloaded,
        };
        let received = receiving.await.map_err(|_| PullError::Ended)?;
        downloaded?;
        Ok(received?)
    }

    /// Counts a layer that turned out not to be here.
    fn count(&self) -> Arc<Counter> {
        let counter = Arc::new(Counter::default());
        let mut layers = self.progress.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = layers.iter_mut().find(|(blob, _)| blob.digest == self.layer.blob.digest);
        if let Some((_, slot)) = entry {
            *slot = Some(counter.clone());
        }
        counter
    }
}

/// The pull, which is taken apart where that may take as long as it likes.
struct Whole(Option<Arc<Pull>>);

impl Whole {
    fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Pull) -> Result<T, ImportError>,
    ) -> Result<T, PullError> {
        let pull = self.0.as_mut().and_then(Arc::get_mut).ok_or(PullError::Ended)?;
        Ok(change(pull)?)
    }

    fn shared(&self) -> Result<Arc<Pull>, PullError> {
        self.0.clone().ok_or(PullError::Ended)
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        let pull = self.0.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(pull));
        }
    }
}

/// Runs what waits for the disk where that holds nobody up.
async fn blocking<T, F>(work: F) -> Result<T, PullError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ImportError> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| PullError::Ended)?;
    Ok(done?)
}
