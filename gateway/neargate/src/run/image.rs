//! The image of `neargate run`: a Wasm file, or one of the store.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use clap::ValueEnum;
use neargate_container::LauncherClient;
use neargate_driver::{Rootfs, WasmModule};
use neargate_image::{ImageKind, ImageStore, Options, ResolveError};
use neargate_model::image::ImageReference;
use neargate_node::{ImageProblem, Images, LocalImages, TaskImage};
use sha2::{Digest, Sha256};

use super::own;
use crate::data_dir::DataDir;
use crate::keeper::Files;

/// `--pull` of `neargate run`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum RunPull {
    /// If there is no image of that name.
    #[default]
    Missing,
    /// Always, so that the newest of its name runs.
    Always,
    /// Never.
    Never,
}

/// The image that is to be found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) image: &'a str,
    pub(crate) pull: RunPull,
    /// Whether nothing is shown of a pull.
    pub(crate) quiet: bool,
}

/// Where the image was found.
pub(crate) enum Found {
    File(WasmModule),
    Stored { store: ImageStore, name: ImageReference, is_wasm: bool },
}

impl Found {
    /// Finds the image, and pulls it if `wanted` says so. No thread is left of that.
    pub(crate) fn find(
        wanted: Wanted<'_>,
        data: &DataDir,
        owner: u32,
        launcher: &LauncherClient,
    ) -> Result<Self> {
        let Wanted { image, pull, quiet } = wanted;
        let path = Path::new(image);
        if path.is_file() {
            return wasm_file(path).map(Self::File);
        }
        let reference = image_name(image)?;
        let is_root = rustix::process::geteuid().is_root();
        let files = Files::of_images(data, Arc::new(launcher.clone()), is_root)?;
        let options = Options { owner, ..files.image_options() };
        let store = ImageStore::open_with(data.images(), options).context("open the image store")?;
        let name = match own::known_as(&reference, data.root()) {
            Ok(Some(name)) => name,
            // A server that does not answer is not needed for what is here, or elsewhere.
            asked => {
                bring(pull, &reference, &store, data, quiet).map_err(|error| asked.err().unwrap_or(error))?;
                reference
            }
        };
        let resolved = store.resolve(&name).with_context(|| not_found(image))?;
        let is_wasm = matches!(resolved.kind, ImageKind::Wasm { .. });
        Ok(Self::Stored { store, name, is_wasm })
    }

    pub(crate) fn is_wasm(&self) -> bool {
        matches!(self, Self::File(_) | Self::Stored { is_wasm: true, .. })
    }

    pub(crate) fn images(self) -> Arc<dyn Images> {
        match self {
            Self::File(module) => Arc::new(OneFile(module)),
            Self::Stored { store, name, .. } => {
                Arc::new(own::Known { name, images: Arc::new(LocalImages::new(store)) })
            }
        }
    }
}

/// Pulls the image if that is wanted. Another process does it: threads of ours would be in the way of the supervisor,
/// which is forked from this one, and who speaks to the launcher has a thread from then on.
fn bring(
    pull: RunPull,
    reference: &ImageReference,
    store: &ImageStore,
    data: &DataDir,
    quiet: bool,
) -> Result<()> {
    let is_wanted = match pull {
        RunPull::Always => true,
        RunPull::Never => false,
        RunPull::Missing => matches!(store.inspect(reference), Err(ResolveError::NotFound { .. })),
    };
    if !is_wanted {
        return Ok(());
    }
    let mut pulling = Command::new("/proc/self/exe");
    pulling.args(["image", "pull"]).arg(reference.canonical()).arg("--data").arg(data.root());
    pulling.args(quiet.then_some("--quiet")).stdin(Stdio::null()).stdout(Stdio::null());
    let ended = pulling.status().context("run neargate image pull")?;
    // It has said why.
    ensure!(ended.success(), "{}", not_found(&reference.familiar()));
    Ok(())
}

/// The name of an image in the store, for what is no file.
pub(crate) fn image_name(image: &str) -> Result<ImageReference> {
    let looks_like_path = image.starts_with(['/', '.']) || image.ends_with(".wasm");
    if looks_like_path && Path::new(image).is_dir() {
        bail!(
            "{image} is a directory; make an image of it with `neargate image pack {image} --name NAME --entrypoint PROGRAM`"
        );
    }
    if looks_like_path {
        bail!("{image} does not exist");
    }
    image.parse().with_context(|| format!("read image name {image:?}"))
}

/// What to do about an image that is not there.
pub(crate) fn not_found(image: &str) -> String {
    format!(
        "find image {image}; `neargate image ls` lists what there is, `neargate image pull` and `import` add to it"
    )
}

/// A Wasm file is run from where it is; its digest is the key of its compiled code.
pub(crate) fn wasm_file(path: &Path) -> Result<WasmModule> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .with_context(|| format!("read {}", path.display()))?;
    if !bytes.starts_with(b"\0asm") {
        bail!(
            "{} is not a Wasm binary (they begin with \\0asm); import other images with `neargate image import`",
            path.display()
        );
    }
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
    let path = std::fs::canonicalize(path).with_context(|| format!("read {}", path.display()))?;
    Ok(WasmModule { path, digest })
}

/// The one Wasm file that this run is about.
struct OneFile(WasmModule);

#[async_trait]
impl Images for OneFile {
    async fn resolve(&self, image: &str) -> Result<TaskImage, ImageProblem> {
        let name =
            Path::new(image).file_name().map_or(image.to_owned(), |name| name.to_string_lossy().into_owned());
        Ok(TaskImage {
            digest: self.0.digest.clone(),
            rootfs: Rootfs::Wasm(self.0.clone()),
            entrypoint: vec![name],
            cmd: Vec::new(),
            env: Vec::new(),
            working_dir: PathBuf::new(),
            user: None,
            stop_signal: None,
            pin: Arc::new(()),
        })
    }

    async fn find_again(&self, image: &str, _digest: Option<&str>) -> Result<TaskImage, ImageProblem> {
        self.resolve(image).await
    }
}
