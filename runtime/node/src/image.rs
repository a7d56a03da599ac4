//! Images as the node sees them.

use std::any::Any;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use neargate_driver::{Rootfs, WasmModule};
use neargate_image::{ImageConfig, ImageKind, ImageStore, Pin, ResolveError, ResolvedImage};
use neargate_model::chain;
use neargate_model::image::{Digest, ImageReference};
use tokio::time::Instant;

/// An image that is ready to run.
#[derive(Clone)]
pub struct TaskImage {
    /// The digest of its manifest.
    pub digest: String,
    /// What a container of it runs from.
    pub rootfs: Rootfs,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// The default arguments.
    pub cmd: Vec<String>,
    /// The environment.
    pub env: Vec<(String, String)>,
    /// The working directory; empty is `/`.
    pub working_dir: PathBuf,
    /// `user[:group]`.
    pub user: Option<String>,
    /// The number of the signal that asks it to end.
    pub stop_signal: Option<i32>,
    /// Keeps the image from being removed while it is held.
    pub pin: Arc<dyn Any + Send + Sync>,
}

/// Why an image cannot be had, in ECS's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ImageProblem {
    /// For example `CannotPullContainerError: …`.
    pub reason: String,
}

/// Finds images.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// Finds the image that a task definition names.
    async fn resolve(&self, image: &str) -> Result<TaskImage, ImageProblem>;

    /// Finds the image that a container has been started from, by the digest of its manifest if that is known. Nobody
    /// else is asked: it is here, or what ran of it is of no more use.
    async fn find_again(&self, image: &str, digest: Option<&str>) -> Result<TaskImage, ImageProblem>;
}

/// When a registry is asked for an image, as `ECS_IMAGE_PULL_BEHAVIOR` of ECS's agent has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullBehavior {
    /// Before each task, whether the name of a pulled image leads elsewhere by now; if nobody can say, the image that is
    /// there is used.
    #[default]
    Default,
    /// Before each task; a task whose image cannot be pulled does not start.
    Always,
    /// Once: what is there is used until it is removed.
    Once,
    /// If there is no image of that name; and what is there is not removed to make room.
    PreferCached,
}

/// Brings images from registries into the store.
#[async_trait]
pub trait Registries: Send + Sync + 'static {
    /// What a reference leads to now.
    async fn current(&self, reference: &ImageReference) -> Result<Digest, ImageProblem>;

    /// Brings an image.
    async fn pull(&self, reference: &ImageReference) -> Result<(), ImageProblem>;
}

/// For so long what a registry has said of a name is believed, so that many tasks that come together ask once.
const FRESH: Duration = Duration::from_secs(10);
/// Names of which that is remembered.
const FRESH_NAMES_MAX: usize = 1024;

/// The images of the local store, and those that are brought into it.
pub struct LocalImages {
    store: ImageStore,
    remote: Option<Remote>,
}

struct Remote {
    registries: Arc<dyn Registries>,
    behavior: PullBehavior,
    /// When a registry last said that what is here is what a name leads to.
    asked: Mutex<HashMap<ImageReference, Instant>>,
}

impl LocalImages {
    /// Images of this store and no others.
    pub fn new(store: ImageStore) -> Self {
        Self { store, remote: None }
    }

    /// Images of this store, and of registries.
    pub fn pulling(store: ImageStore, registries: Arc<dyn Registries>, behavior: PullBehavior) -> Self {
        Self { store, remote: Some(Remote { registries, behavior, asked: Mutex::default() }) }
    }

    /// What is here.
    async fn local(&self, reference: &ImageReference) -> Result<Here, ResolveProblem> {
        // A few system calls take less than handing them to another thread.
        if let Some((resolved, pin)) = self.store.resolve_known(reference) {
            return Ok(Here::new(reference, &resolved, pin));
        }
        let (store, reference) = (self.store.clone(), reference.clone());
        let resolved = tokio::task::spawn_blocking(move || resolve_in(&store, &reference)).await;
        resolved.unwrap_or_else(|_| {
            let problem = problem("the image store failed unexpectedly");
            Err(ResolveProblem { is_absent: false, problem })
        })
    }
}

/// An image that is here.
struct Here {
    image: TaskImage,
    /// What its name leads to: the manifest, or the index that it was chosen from.
    digest: Digest,
    pulled: bool,
}

impl Here {
    fn new(reference: &ImageReference, resolved: &ResolvedImage, pin: Pin) -> Self {
        let image = task_image(reference, resolved, pin);
        Self { image, digest: resolved.digest, pulled: resolved.pulled }
    }
}

/// Why an image is not here.
struct ResolveProblem {
    /// Whether there is none; else there is one, and it is of no use.
    is_absent: bool,
    problem: ImageProblem,
}

/// What is done to have an image that is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Use,
    /// Ask whether its name leads elsewhere.
    Ask,
    Pull,
}

/// What is done for an image that is here. One that was imported has nowhere to be asked for.
fn step(behavior: PullBehavior, pulled: bool, is_pinned: bool, is_fresh: bool) -> Step {
    match behavior {
        PullBehavior::Always if is_fresh && pulled => Step::Use,
        PullBehavior::Always => Step::Pull,
        PullBehavior::Default if pulled && !is_pinned && !is_fresh => Step::Ask,
        PullBehavior::Default | PullBehavior::Once | PullBehavior::PreferCached => Step::Use,
    }
}

#[async_trait]
impl Images for LocalImages {
    async fn resolve(&self, image: &str) -> Result<TaskImage, ImageProblem> {
        let reference = parse(image)?;
        let here = self.local(&reference).await;
        let Some(remote) = &self.remote else {
            return here.map(|here| here.image).map_err(|absent| absent.problem);
        };
        match here {
            Ok(here) => self.refresh(remote, &reference, here).await,
            // One that is damaged is as good as absent, if it can be had again.
            Err(absent) => match remote.pull(&reference).await {
                Ok(()) => {
                    self.local(&reference).await.map(|here| here.image).map_err(|absent| absent.problem)
                }
                Err(problem) if absent.is_absent => Err(problem),
                Err(_) => Err(absent.problem),
            },
        }
    }

    async fn find_again(&self, image: &str, digest: Option<&str>) -> Result<TaskImage, ImageProblem> {
        let reference = parse(image)?;
        let digest = digest.and_then(|digest| digest.parse::<Digest>().ok());
        let (store, name) = (self.store.clone(), reference.clone());
        let find = move || {
            let resolved = store.resolve_manifest(digest?)?;
            let pin = store.pin(&resolved).ok()?;
            Some(task_image(&name, &resolved, pin))
        };
        match tokio::task::spawn_blocking(find).await {
            Ok(Some(found)) => Ok(found),
            _ => self.local(&reference).await.map(|here| here.image).map_err(|absent| absent.problem),
        }
    }
}

fn parse(image: &str) -> Result<ImageReference, ImageProblem> {
    image.parse().map_err(|error| problem(&format!("invalid reference format: {error}")))
}

impl LocalImages {
    async fn refresh(
        &self,
        remote: &Remote,
        reference: &ImageReference,
        here: Here,
    ) -> Result<TaskImage, ImageProblem> {
        let is_pinned = reference.digest().is_some();
        let step = step(remote.behavior, here.pulled, is_pinned, remote.is_fresh(reference));
        if step == Step::Use {
            return Ok(here.image);
        }
        let is_current = match step {
            Step::Ask => remote.registries.current(reference).await.map(|digest| digest == here.digest),
            _ => Ok(false),
        };
        let pulled = match is_current {
            Ok(true) => {
                remote.note(reference);
                return Ok(here.image);
            }
            Ok(false) => remote.pull(reference).await,
            Err(problem) => Err(problem),
        };
        match pulled {
            Ok(()) => self.local(reference).await.map(|here| here.image).map_err(|absent| absent.problem),
            Err(problem) if remote.behavior == PullBehavior::Always => Err(problem),
            Err(problem) => {
                tracing::info!(image = %reference, reason = problem.reason, "image that is here is used, its registry does not answer for it");
                Ok(here.image)
            }
        }
    }
}

impl Remote {
    async fn pull(&self, reference: &ImageReference) -> Result<(), ImageProblem> {
        self.registries.pull(reference).await?;
        self.note(reference);
        Ok(())
    }

    fn is_fresh(&self, reference: &ImageReference) -> bool {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.get(reference).is_some_and(|at| at.elapsed() < FRESH)
    }

    fn note(&self, reference: &ImageReference) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|_, at| at.elapsed() < FRESH);
        if asked.len() < FRESH_NAMES_MAX {
            asked.insert(reference.clone(), Instant::now());
        }
    }
}

fn problem(why: &str) -> ImageProblem {
    ImageProblem::cannot_pull(why)
}

impl ImageProblem {
    /// An image that cannot be had.
    pub fn cannot_pull(why: &str) -> Self {
        Self { reason: format!("CannotPullContainerError: {why}") }
    }
}

/// Resolves and pins; an image that is removed between the two is resolved again.
const PIN_ATTEMPTS: usize = 3;

fn resolve_in(store: &ImageStore, reference: &ImageReference) -> Result<Here, ResolveProblem> {
    let mut attempt = 1;
    loop {
        let resolved = store.resolve(reference).map_err(|error| ResolveProblem {
            is_absent: matches!(error, ResolveError::NotFound { .. }),
            problem: resolve_problem(reference, &error),
        })?;
        match store.pin(&resolved) {
            Ok(pin) => return Ok(Here::new(reference, &resolved, pin)),
            Err(error) if attempt == PIN_ATTEMPTS => {
                return Err(ResolveProblem { is_absent: false, problem: problem(&chain(&error)) });
            }
            Err(_) => attempt += 1,
        }
    }
}

fn task_image(reference: &ImageReference, resolved: &ResolvedImage, pin: Pin) -> TaskImage {
    let ImageConfig { entrypoint, cmd, env, working_dir, user, stop_signal, .. } = resolved.config.clone();
    let (rootfs, entrypoint) = match &resolved.kind {
        ImageKind::Oci { layers } => (Rootfs::Layers(layers.clone()), entrypoint),
        ImageKind::Wasm { path, digest, .. } => {
            let module = WasmModule { path: path.clone(), digest: digest.to_string() };
            let named = if entrypoint.is_empty() { vec![program_name(reference)] } else { entrypoint };
            (Rootfs::Wasm(module), named)
        }
    };
    TaskImage {
        digest: resolved.manifest.to_string(),
        rootfs,
        entrypoint,
        cmd,
        env,
        working_dir: working_dir.into(),
        user,
        stop_signal: stop_signal.as_deref().and_then(signal_number),
        pin: Arc::new(pin),
    }
}

/// What a Wasm artifact, which names no program, sees as its own name.
fn program_name(reference: &ImageReference) -> String {
    reference.repository().rsplit('/').next().unwrap_or_default().to_owned()
}

fn resolve_problem(reference: &ImageReference, error: &ResolveError) -> ImageProblem {
    let name = reference.canonical();
    match error {
        ResolveError::NotFound { .. } => problem(&format!(
            "failed to resolve ref {name}: not found in the image store; bring it with `neargate image pull` or `import`"
        )),
        _ => problem(&format!("failed to resolve ref {name}: {}", chain(error))),
    }
}

/// The number of `SIGTERM`, `TERM` or `15`.
fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    name.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests;
