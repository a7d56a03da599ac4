//! `neargate image inspect`: what an image is; of Wasm also how it can be run and what it must be granted.
//!
//! What a binary exports and imports is told by the compiler, in its fences, and is kept beside the code: a binary
//! that was never compiled is compiled for it.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use neargate_container::LauncherClient;
use neargate_driver::WasmModule;
use neargate_image::{ImageDetail, ImageKind, ImageStore, Kind};
use neargate_wasm::Inspected;
use neargate_wasm::interfaces::{Offer, missing_grants, needs_network, offer};
use neargate_wasm::protocol::{BinaryKind, EngineKind, EntryKind};
use serde_json::{Value, json};

use crate::client::{Output, pairs, size, table};
use crate::data_dir::DataDir;
use crate::progress::Progress;
use crate::run::{image_name, not_found, wasm_file};
use crate::wasm;

/// Where images and compiled code are.
pub(super) struct Place<'a> {
    pub(super) store: &'a ImageStore,
    pub(super) launcher: &'a LauncherClient,
    pub(super) data: &'a DataDir,
}

/// What is known of an image.
enum Shown {
    /// A root file system in the store.
    Layers { name: String, detail: ImageDetail },
    /// A Wasm binary, in the store or a file.
    Wasm { name: String, detail: Option<ImageDetail>, binary: Binary },
}

/// What is known of a Wasm binary.
struct Binary {
    digest: String,
    size_bytes: u64,
    inspected: Inspected,
}

/// Shows one image. Called before any thread exists, for it may start a compiler.
pub(super) fn run(place: &Place<'_>, image: &str, output: Output, out: &mut impl Write) -> Result<()> {
    let shown = if Path::new(image).is_file() { of_file(place, image)? } else { of_store(place, image)? };
    match output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&shown.json())?)?,
        Output::Table => write!(out, "{}", shown.text())?,
    }
    Ok(())
}

fn of_file(place: &Place<'_>, image: &str) -> Result<Shown> {
    let binary = binary(place, image, wasm_file(Path::new(image))?)?;
    Ok(Shown::Wasm { name: image.to_owned(), detail: None, binary })
}

fn of_store(place: &Place<'_>, image: &str) -> Result<Shown> {
    let reference = image_name(image)?;
    let name = reference.familiar();
    let detail = place.store.inspect(&reference).with_context(|| not_found(image))?;
    if detail.summary.kind == Kind::Oci {
        return Ok(Shown::Layers { name, detail });
    }
    let resolved = place.store.resolve(&reference).with_context(|| not_found(image))?;
    let _pin = place.store.pin(&resolved).with_context(|| format!("keep image {image}"))?;
    let ImageKind::Wasm { path, digest, .. } = &resolved.kind else {
        bail!("image {image} became another one meanwhile; try again");
    };
    let module = WasmModule { path: path.clone(), digest: digest.to_string() };
    let binary = binary(place, image, module)?;
    Ok(Shown::Wasm { name, detail: Some(detail), binary })
}

fn binary(place: &Place<'_>, image: &str, module: WasmModule) -> Result<Binary> {
    let size_bytes =
        fs::metadata(&module.path).with_context(|| format!("read {}", module.path.display()))?.len();
    let _progress = Progress::start(format!("inspecting {image}"), false);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start threads")?;
    let inspected = runtime.block_on(async {
        let driver = wasm::driver(wasm::config(place.data), place.data, place.launcher, None)?;
        let inspected = driver.inspect(&module).await;
        driver.shut_down().await;
        inspected.with_context(|| format!("inspect {image}"))
    })?;
    Ok(Binary { digest: module.digest, size_bytes, inspected })
}

impl Shown {
    fn text(&self) -> String {
        match self {
            Self::Layers { name, detail } => layers_text(name, detail),
            Self::Wasm { name, binary, .. } => binary.text(name),
        }
    }

    /// Members are only ever added.
    fn json(&self) -> Value {
        match self {
            Self::Layers { detail, .. } => stored_json(detail),
            Self::Wasm { detail: Some(detail), binary, .. } => {
                let mut shown = stored_json(detail);
                shown["wasm"] = binary.json();
                shown
            }
            Self::Wasm { name, detail: None, binary } => json!({
                "name": name,
                "kind": "wasm",
                "digest": binary.digest,
                "size_bytes": binary.size_bytes,
                "wasm": binary.json(),
            }),
        }
    }
}

fn stored_json(detail: &ImageDetail) -> Value {
    let layer = |layer: &neargate_image::LayerDetail| {
        json!({
            "digest": layer.digest.to_string(),
            "diff_id": layer.diff_id.map(|digest| digest.to_string()),
            "media_type": layer.media_type,
            "size_bytes": layer.size_bytes,
        })
    };
    let config = &detail.config;
    json!({
        "name": detail.summary.name.canonical(),
        "kind": super::kind(&detail.summary.kind),
        "digest": detail.summary.digest.to_string(),
        "manifest": detail.manifest.to_string(),
        "size_bytes": detail.summary.size_bytes,
        "platform": detail.platform,
        "entrypoint": config.entrypoint,
        "cmd": config.cmd,
        "env": variables(detail),
        "working_dir": config.working_dir,
        "user": config.user,
        "stop_signal": config.stop_signal,
        "exposed_ports": config.exposed_ports,
        "layers": detail.layers.iter().map(layer).collect::<Vec<_>>(),
    })
}

fn variables(detail: &ImageDetail) -> Vec<String> {
    detail.config.env.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn layers_text(name: &str, detail: &ImageDetail) -> String {
    let config = &detail.config;
    let digest = detail.summary.digest.to_string();
    let manifest = Some(detail.manifest.to_string()).filter(|manifest| *manifest != digest);
    // As in an image's configuration, so that words with spaces can be told apart.
    let words = |words: &[String]| (!words.is_empty()).then(|| json!(words).to_string());
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut facts = vec![
        ("Image", Some(name.to_owned())),
        ("Kind", Some("Linux layers".to_owned())),
        ("Platform", detail.platform.as_ref().map(ToString::to_string)),
        ("Digest", Some(digest)),
        ("Manifest", manifest),
        ("Size", Some(size(detail.summary.size_bytes))),
        ("Entrypoint", words(&config.entrypoint)),
        ("Command", words(&config.cmd)),
        ("Directory", text(&config.working_dir)),
        ("User", config.user.clone()),
        ("Stop signal", config.stop_signal.clone()),
        ("Ports", text(&config.exposed_ports.join(", "))),
    ];
    facts.extend(variables(detail).into_iter().map(|variable| ("Variable", Some(variable))));
    let rows: Vec<_> = detail
        .layers
        .iter()
        .map(|layer| vec![layer.digest.to_string(), size(layer.size_bytes), layer.media_type.clone()])
        .collect();
    format!("{}\n{}", pairs(&facts), table(&["LAYER", "SIZE", "TYPE"], &rows))
}

impl Binary {
    fn text(&self, name: &str) -> String {
        let seen = &self.inspected.inspection;
        let mut facts = vec![
            ("Image", Some(name.to_owned())),
            ("Kind", Some(format!("Wasm, {}", self.kind()))),
            ("Digest", Some(self.digest.clone())),
            ("Size", Some(size(self.size_bytes))),
            ("Refused", self.inspected.refusal.clone()),
        ];
        let first = self.inspected.runs_as();
        facts.push(("Runs as", first.map(|entry| runs_as(entry).to_owned())));
        let others = seen.entries.iter().filter(|entry| Some(*entry) != first);
        facts.extend(others.map(|entry| ("Is also", Some(runs_as(entry).to_owned()))));
        facts.extend(self.grants().into_iter().map(|grant| ("Must be granted", Some(grant.to_owned()))));
        let exports: Vec<_> =
            seen.exports.iter().map(|export| vec![export.name.clone(), export.signature.clone()]).collect();
        let imports: Vec<_> =
            seen.imports.iter().map(|import| vec![import.clone(), offered(import)]).collect();
        let lists = [(["FUNCTION", "TYPE"], exports), (["IMPORT", "OFFERED"], imports)];
        let lists = lists.iter().filter(|(_, rows)| !rows.is_empty());
        lists.fold(pairs(&facts), |text, (headers, rows)| format!("{text}\n{}", table(headers, rows)))
    }

    fn json(&self) -> Value {
        let seen = &self.inspected.inspection;
        let word = |entry: &EntryKind| match entry {
            EntryKind::Command {} => "command",
            EntryKind::Http {} => "http",
            EntryKind::Handler {} => "handler",
        };
        let import = |import: &String| {
            let (given, grant) = match offer(import) {
                Offer::Always => ("always", None),
                Offer::Granted(grant) => ("granted", Some(grant)),
                Offer::Never => ("never", None),
            };
            let network = needs_network(import);
            json!({ "name": import, "offered": given, "grant": grant, "needs_network": network })
        };
        let exports = seen.exports.iter();
        json!({
            "digest": self.digest,
            "size_bytes": self.size_bytes,
            "binary": match seen.kind {
                BinaryKind::Module {} => "module",
                BinaryKind::Component {} => "component",
            },
            "concurrent": seen.engine == EngineKind::Concurrent {},
            "refused": self.inspected.refusal,
            "runs_as": self.inspected.runs_as().map(word),
            "entries": seen.entries.iter().map(word).collect::<Vec<_>>(),
            "exports": exports
                .map(|export| json!({ "name": export.name, "type": export.signature }))
                .collect::<Vec<_>>(),
            "imports": seen.imports.iter().map(import).collect::<Vec<_>>(),
            "grants": self.grants(),
        })
    }

    fn kind(&self) -> &'static str {
        let seen = &self.inspected.inspection;
        match (&seen.kind, &seen.engine) {
            (BinaryKind::Module {}, _) => "a core module",
            (BinaryKind::Component {}, EngineKind::Sync {}) => "a component",
            (BinaryKind::Component {}, EngineKind::Concurrent {}) => "a component of WASI 0.3",
        }
    }

    /// What it must be granted to run at all.
    fn grants(&self) -> Vec<&'static str> {
        missing_grants(&self.inspected.inspection, &[]).into_iter().map(|(_, grant)| grant).collect()
    }
}

fn runs_as(entry: &EntryKind) -> &'static str {
    match entry {
        EntryKind::Command {} => "a program",
        EntryKind::Http {} => "an HTTP handler, with a port mapping or --http",
        EntryKind::Handler {} => "a neargate:task handler, from standard input to standard output",
    }
}

/// How an import is given, for people.
fn offered(import: &str) -> String {
    match offer(import) {
        Offer::Granted(grant) if needs_network(import) => {
            format!("by the grant {grant}; without a network its calls are denied")
        }
        Offer::Granted(grant) => format!("by the grant {grant}"),
        Offer::Always if needs_network(import) => "always; without a network its calls are denied".to_owned(),
        Offer::Always => "always".to_owned(),
        Offer::Never => "never".to_owned(),
    }
}
