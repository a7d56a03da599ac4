//! Pulls of `neargate serve` and `image pull`: the configuration of registries, and what a terminal shows.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use clap::ValueEnum;
use neargate_image::{ImageStore, Imported, Platform};
use neargate_model::chain;
use neargate_model::image::{Digest, ImageReference};
use neargate_node::{ImageProblem, PullBehavior, Registries};
use neargate_registry::{CredentialFiles, Flight, LayerProgress, PullRequest, Puller, RegistryConfig};

use crate::client::size;
use crate::data_dir::DataDir;

/// How often the lines of layers are written again.
const TICK: Duration = Duration::from_millis(200);
/// Layers that a terminal shows at a time.
const LINES_MAX: usize = 20;
const BAR_WIDTH: usize = 30;

/// `--image-pull` of `neargate serve`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum ImagePull {
    /// Before each task, unless its image was imported; what is here is used if the registry does not answer.
    #[default]
    Default,
    /// Before each task; a task whose image cannot be pulled does not start.
    Always,
    /// Once, and never again while the image is here.
    Once,
    /// Only if there is no image of that name.
    PreferCached,
}

impl From<ImagePull> for PullBehavior {
    fn from(pull: ImagePull) -> Self {
        match pull {
            ImagePull::Default => Self::Default,
            ImagePull::Always => Self::Always,
            ImagePull::Once => Self::Once,
            ImagePull::PreferCached => Self::PreferCached,
        }
    }
}

/// What pulls into a store, as the data directory and the environment say.
pub(crate) fn puller(data: &DataDir, store: ImageStore) -> Result<Puller> {
    let config = RegistryConfig::read(&data.registries()).context("read the configuration of registries")?;
    let credentials =
        CredentialFiles::of_environment(Some(data.registry_auth()), |name| std::env::var_os(name));
    Ok(Puller::new(store, config, credentials))
}

/// The node's way to registries.
pub(crate) struct NodeRegistries(pub(crate) Puller);

#[async_trait]
impl Registries for NodeRegistries {
    async fn current(&self, reference: &ImageReference) -> Result<Digest, ImageProblem> {
        let resolved = self.0.resolve(&PullRequest::new(reference.clone())).await;
        resolved.map_err(|error| ImageProblem::cannot_pull(&chain(&error)))
    }

    async fn pull(&self, reference: &ImageReference) -> Result<(), ImageProblem> {
        let pulled = self.0.pull(PullRequest::new(reference.clone())).await;
        pulled.map(drop).map_err(|error| ImageProblem::cannot_pull(&chain(&*error)))
    }
}

/// Pulls one image, and shows how far it is where that is a terminal.
pub(crate) fn pull_and_show(
    puller: &Puller,
    reference: &ImageReference,
    platform: Option<Platform>,
    quiet: bool,
) -> Result<Imported> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("start threads")?;
    let shows = !quiet && std::io::stderr().is_terminal();
    let request = PullRequest { platform, ..PullRequest::new(reference.clone()) };
    let ended = runtime.block_on(async {
        let flight = puller.start(request);
        let showing = shows.then(|| tokio::spawn(show(flight.clone())));
        let ended = tokio::select! {
            ended = flight.wait() => ended,
            _ = tokio::signal::ctrl_c() => Err(Arc::new(neargate_registry::PullError::Ended)),
        };
        if let Some(showing) = showing {
            showing.abort();
            let _ = showing.await;
            let mut screen = Screen::default();
            screen.draw(&flight.progress());
        }
        ended
    });
    drop(runtime);
    let pulled = ended.map_err(|error| anyhow::anyhow!(chain(&*error)));
    pulled.with_context(|| format!("pull {}", reference.familiar()))
}

async fn show(flight: Arc<Flight>) {
    let mut screen = Screen::default();
    loop {
        tokio::time::sleep(TICK).await;
        screen.draw(&flight.progress());
        screen.rewind();
    }
}

/// Lines on a terminal, one for each layer.
#[derive(Default)]
struct Screen {
    lines: usize,
}

impl Screen {
    fn draw(&mut self, layers: &[LayerProgress]) {
        // Those that are under way come last, where people look.
        let first = layers.len().saturating_sub(LINES_MAX);
        let shown = &layers[first..];
        let text: String = shown.iter().map(|layer| format!("\r\x1b[K{}\n", line(layer))).collect();
        let mut stderr = std::io::stderr().lock();
        // A terminal that takes nothing any more needs no progress either.
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
        self.lines = shown.len();
    }

    /// Lets the next lines take the place of these.
    fn rewind(&mut self) {
        if self.lines > 0 {
            let _ = write!(std::io::stderr(), "\x1b[{}A", self.lines);
        }
    }
}

fn line(layer: &LayerProgress) -> String {
    let name: String = layer.digest.hex().chars().take(12).collect();
    if layer.was_here {
        return format!("{name}  is here");
    }
    let share = layer.came_bytes as f64 / layer.size_bytes.max(1) as f64;
    let filled = ((share * BAR_WIDTH as f64) as usize).min(BAR_WIDTH);
    let bar = format!("{}{}", "=".repeat(filled), " ".repeat(BAR_WIDTH - filled));
    format!("{name}  [{bar}]  {} of {}", size(layer.came_bytes), size(layer.size_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_layers() {
        let check = |came_bytes, size_bytes, was_here, expect: &str| {
            let digest = Digest::from_bytes([0xab; 32]);
            assert_eq!(line(&LayerProgress { digest, size_bytes, came_bytes, was_here }), expect);
        };
        check(0, 1 << 20, true, "abababababab  is here");
        check(0, 0, false, &format!("abababababab  [{}]  {} of {}", " ".repeat(30), size(0), size(0)));
        let half = format!("{}{}", "=".repeat(15), " ".repeat(15));
        check(
            1 << 19,
            1 << 20,
            false,
            &format!("abababababab  [{half}]  {} of {}", size(1 << 19), size(1 << 20)),
        );
    }
}
