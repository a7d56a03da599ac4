//! Images as the node sees them.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use neargate_driver::{Rootfs, WasmModule};
use neargate_image::{ImageConfig, ImageKind, ImageStore, Pin, ResolveError, ResolvedImage};
use neargate_model::chain;
use neargate_model::image::ImageReference;

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
}

/// The images of the local store.
pub struct LocalImages {
    store: ImageStore,
}

impl LocalImages {
    /// Images of this store.
    pub fn new(store: ImageStore) -> Self {
        Self { store }
    }
}

#[async_trait]
impl Images for LocalImages {
    async fn resolve(&self, image: &str) -> Result<TaskImage, ImageProblem> {
        let reference: ImageReference =
            image.parse().map_err(|error| problem(&format!("invalid reference format: {error}")))?;
        // A few system calls take less than handing them to another thread.
        if let Some((resolved, pin)) = self.store.resolve_known(&reference) {
            return Ok(task_image(&reference, &resolved, pin));
        }
        let store = self.store.clone();
        let resolved = tokio::task::spawn_blocking(move || resolve_in(&store, &reference)).await;
        resolved.unwrap_or_else(|_| Err(problem("the image store failed unexpectedly")))
    }
}

fn problem(why: &str) -> ImageProblem {
    ImageProblem { reason: format!("CannotPullContainerError: {why}") }
}

/// Resolves and pins; an image that is removed between the two is resolved again.
const PIN_ATTEMPTS: usize = 3;

fn resolve_in(store: &ImageStore, reference: &ImageReference) -> Result<TaskImage, ImageProblem> {
    let mut attempt = 1;
    loop {
        let resolved = store.resolve(reference).map_err(|error| resolve_problem(reference, &error))?;
        match store.pin(&resolved) {
            Ok(pin) => return Ok(task_image(reference, &resolved, pin)),
            Err(error) if attempt == PIN_ATTEMPTS => return Err(problem(&chain(&error))),
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
            "failed to resolve ref {name}: not found in the image store; import it with `neargate image import`"
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
mod tests {
    use super::*;

    #[test]
    fn signals() {
        let check = |text, expect| assert_eq!(signal_number(text), expect, "{text}");
        check("SIGTERM", Some(15));
        check("quit", Some(3));
        check("9", Some(9));
        check("0", None);
        check("65", None);
        check("SIGNONE", None);
    }
}
