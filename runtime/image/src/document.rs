//! Manifests, indexes and configurations: the JSON documents of an image (OCI image-spec v1.1, and Docker's
//! schema 2, which has the same shape under other media types).

use std::collections::BTreeMap;
use std::fmt;

use neargate_model::image::Digest;
use serde::{Deserialize, Serialize};

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The largest manifest, index or configuration; the distribution spec asks registries for 4 MiB.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// The most layers of an image, as in Docker; overlayfs takes 500 lower directories.
const LAYERS_MAX: usize = 127;
const MANIFESTS_MAX: usize = 1024;

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON, or not of the expected shape.
    #[error("it is not a valid document")]
    Json(#[from] serde_json::Error),
    /// Schema 1 or something unknown.
    #[error("its schemaVersion is not 2")]
    SchemaVersion,
    /// Both a manifest and an index, or neither (CVE-2021-41190).
    #[error("it is not clear whether it is a manifest or an index")]
    Confused,
    /// It says that it is something else than what refers to it says.
    #[error("its media type is {actual}, but it is referred to as {expected}")]
    MediaType {
        /// What refers to it says.
        expected: String,
        /// What it says itself.
        actual: String,
    },
    /// Too many entries.
    #[error("it has more than {limit} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        limit: usize,
    },
    /// A value that no program could be given.
    #[error("its {field} contains a NUL")]
    Nul {
        /// The field.
        field: &'static str,
    },
    /// Configuration and manifest disagree.
    #[error("it has {diff_ids} diff_ids for {layers} layers")]
    LayerCount {
        /// Layers of the manifest.
        layers: usize,
        /// diffIDs of the configuration.
        diff_ids: usize,
    },
}

/// Operating system and processor, in Go's names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// For example `linux` or `wasi`.
    pub os: String,
    /// For example `amd64`, `arm64` or `wasm`.
    pub architecture: String,
    /// For example `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Linux on this machine's processor.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// Whether it says WebAssembly in one of the forms in use.
    pub(crate) fn is_wasm(&self) -> bool {
        matches!(self.architecture.as_str(), "wasm" | "wasm32")
            || matches!(self.os.as_str(), "wasi" | "wasip1" | "wasip2")
    }

    fn runs_on(&self, host: &Platform) -> bool {
        // v1 of amd64 and v8 of arm64 are the bases; a higher variant may need instructions that are not there.
        let is_base = matches!(
            (self.architecture.as_str(), self.variant.as_deref()),
            (_, None | Some("")) | ("amd64", Some("v1")) | ("arm64", Some("v8"))
        );
        let is_wanted = host.variant.is_some() && host.variant == self.variant;
        self.os == host.os && self.architecture == host.architecture && (is_base || is_wanted)
    }
}

impl std::str::FromStr for Platform {
    type Err = InvalidPlatform;

    /// Reads `os/architecture[/variant]`.
    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let is_word = |word: &&str| {
            let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            !word.is_empty() && word.len() <= 32 && word.bytes().all(is_allowed)
        };
        let words: Vec<&str> = text.split('/').collect();
        let words = words.iter().all(is_word).then_some(words);
        let own = |word: &str| word.to_owned();
        match words.as_deref() {
            Some([os, architecture]) => {
                Ok(Self { os: own(os), architecture: own(architecture), variant: None })
            }
            Some([os, architecture, variant]) => {
                Ok(Self { os: own(os), architecture: own(architecture), variant: Some(own(variant)) })
            }
            _ => Err(InvalidPlatform),
        }
    }
}

/// A text that is no platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a platform is OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/arm64/v8")]
pub struct InvalidPlatform;

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

/// The image has nothing for this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the image is for {}, and this machine runs {host} and wasi/wasm; get the image for this platform",
    list(found)
)]
pub struct NoPlatform {
    /// This machine.
    pub host: Platform,
    /// What the image is for.
    pub found: Vec<Platform>,
}

fn list(platforms: &[Platform]) -> String {
    let names: Vec<String> = platforms.iter().take(16).map(|p| format!("{p:.40}")).collect();
    if names.is_empty() { "no platform".to_owned() } else { names.join(", ") }
}

/// What one document says about another blob.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size, annotations: BTreeMap::new(), platform: None }
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Manifest {
    pub(crate) fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        let media_type = OCI_MANIFEST.to_owned();
        Self { schema_version: 2, media_type, config, layers, annotations: BTreeMap::new() }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Document {
    Manifest(Box<Manifest>),
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Document {
    /// Reads a manifest or an index that is referred to as `media_type`.
    pub(crate) fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Self, DocumentError> {
        let raw: Raw = serde_json::from_slice(bytes)?;
        if raw.schema_version != 2 {
            return Err(DocumentError::SchemaVersion);
        }
        if let (Some(expected), Some(actual)) = (media_type, &raw.media_type)
            && expected != actual
        {
            return Err(DocumentError::MediaType { expected: expected.to_owned(), actual: actual.clone() });
        }
        let stated = raw.media_type.as_deref().or(media_type);
        let is_index = stated.is_some_and(|m| matches!(m, OCI_INDEX | DOCKER_INDEX));
        let is_manifest = stated.is_some_and(|m| matches!(m, OCI_MANIFEST | DOCKER_MANIFEST));
        match (raw.config, raw.layers, raw.manifests) {
            (Some(config), Some(layers), None) if !is_index => {
                check_count(layers.len(), LAYERS_MAX, "layers")?;
                let media_type = stated.unwrap_or(OCI_MANIFEST).to_owned();
                let annotations = raw.annotations.unwrap_or_default();
                Ok(Self::Manifest(Box::new(Manifest {
                    schema_version: 2,
                    media_type,
                    config,
                    layers,
                    annotations,
                })))
            }
            (None, None, Some(manifests)) if !is_manifest => {
                check_count(manifests.len(), MANIFESTS_MAX, "manifests")?;
                Ok(Self::Index(manifests))
            }
            _ => Err(DocumentError::Confused),
        }
    }
}

fn check_count(count: usize, limit: usize, what: &'static str) -> Result<(), DocumentError> {
    if count > limit { Err(DocumentError::TooMany { what, limit }) } else { Ok(()) }
}

/// The manifest of an index that this machine runs: its own processor's, else WebAssembly.
pub(crate) fn select<'a>(manifests: &'a [Descriptor], host: &Platform) -> Result<&'a Descriptor, NoPlatform> {
    if let [only] = manifests
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let find = |wanted: &dyn Fn(&Platform) -> bool| {
        manifests.iter().find(|m| m.platform.as_ref().is_some_and(wanted))
    };
    find(&|p| p.runs_on(host)).or_else(|| find(&Platform::is_wasm)).ok_or_else(|| {
        let found =
            manifests.iter().filter_map(|m| m.platform.clone()).filter(|p| p.os != "unknown").collect();
        NoPlatform { host: host.clone(), found }
    })
}

/// What an image says about the process that it runs. Its labels are left out: they are notes of whoever built
/// it, and nothing here may act on them (CVE-2026-53488).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program when there is no entrypoint.
    pub cmd: Vec<String>,
    /// Environment in order; entries without `=` have an empty value.
    pub env: Vec<(String, String)>,
    /// Working directory; empty means `/`. Not checked: the driver resolves it inside the container.
    pub working_dir: String,
    /// `user[:group]`, not parsed here.
    pub user: Option<String>,
    /// Signal that asks the process to stop, for example `SIGQUIT`.
    pub stop_signal: Option<String>,
    /// Ports in Docker's form `80/tcp`, sorted.
    pub exposed_ports: Vec<String>,
    /// Paths that the image declares as volumes, sorted.
    pub volumes: Vec<String>,
}

/// A configuration, as far as it is used.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Config {
    #[serde(flatten)]
    pub(crate) platform: Platform,
    #[serde(default)]
    config: Option<Process>,
    #[serde(default)]
    rootfs: Option<RootFs>,
    #[serde(default)]
    history: Option<Vec<HistoryStep>>,
}

/// One step in the making of an image, as whoever made it tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HistoryStep {
    /// When, as text (RFC 3339); empty if it is not told.
    pub created: String,
    /// The command.
    pub created_by: String,
    /// A remark.
    pub comment: String,
    /// Whether it made no layer.
    pub empty_layer: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Process {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
}

impl Config {
    pub(crate) fn parse(bytes: &[u8], layers: usize) -> Result<Self, DocumentError> {
        let config: Self = serde_json::from_slice(bytes)?;
        let diff_ids = config.diff_ids().len();
        if diff_ids != layers {
            return Err(DocumentError::LayerCount { layers, diff_ids });
        }
        config.image_config()?;
        Ok(config)
    }

    pub(crate) fn diff_ids(&self) -> &[Digest] {
        self.rootfs.as_ref().and_then(|r| r.diff_ids.as_deref()).unwrap_or_default()
    }

    pub(crate) fn history(&self) -> &[HistoryStep] {
        self.history.as_deref().unwrap_or_default()
    }

    pub(crate) fn check_platform(&self, host: &Platform) -> Result<(), NoPlatform> {
        if self.platform.is_wasm() || self.platform.runs_on(host) {
            return Ok(());
        }
        Err(NoPlatform { host: host.clone(), found: vec![self.platform.clone()] })
    }

    pub(crate) fn image_config(&self) -> Result<ImageConfig, DocumentError> {
        let process = self.config.clone().unwrap_or_default();
        let keys = |map: Option<BTreeMap<String, _>>| map.unwrap_or_default().into_keys().collect::<Vec<_>>();
        let split = |e: String| match e.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (e, String::new()),
        };
        let checked = |field: &'static str, values: Vec<String>| {
            if values.iter().any(|v| v.contains('\0')) {
                Err(DocumentError::Nul { field })
            } else {
                Ok(values)
            }
        };
        let env = checked("Env", process.env.unwrap_or_default())?;
        let working_dir = process.working_dir.unwrap_or_default();
        Ok(ImageConfig {
            entrypoint: checked("Entrypoint", process.entrypoint.unwrap_or_default())?,
            cmd: checked("Cmd", process.cmd.unwrap_or_default())?,
            env: env.into_iter().map(split).filter(|(name, _)| !name.is_empty()).collect(),
            working_dir: checked("WorkingDir", vec![working_dir])?.concat(),
            user: process.user.filter(|u| !u.is_empty()),
            stop_signal: process.stop_signal.filter(|s| !s.is_empty()),
            exposed_ports: keys(process.exposed_ports),
            volumes: keys(process.volumes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(platform: &str) -> Descriptor {
        let mut descriptor = Descriptor::new(OCI_MANIFEST, Digest::from_bytes([platform.len() as u8; 32]), 1);
        let mut parts = platform.split('/').map(str::to_owned);
        let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
        descriptor.platform = Some(Platform { os, architecture, variant: parts.next() });
        descriptor
    }

    #[test]
    fn row_24_platforms() {
        let host = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
        let check = |platforms: &[&str], expect: Result<&str, &str>| {
            let manifests: Vec<_> = platforms.iter().map(|p| manifest(p)).collect();
            match (select(&manifests, &host), expect) {
                (Ok(m), Ok(name)) => assert_eq!(m.platform.as_ref().unwrap().to_string(), name),
                (Err(e), Err(name)) => assert!(e.to_string().contains(name), "{e}"),
                (other, _) => panic!("{platforms:?}: {other:?}"),
            }
        };
        check(&["linux/arm64", "linux/amd64"], Ok("linux/amd64"));
        check(&["linux/amd64/v3", "linux/amd64"], Ok("linux/amd64"));
        check(&["wasi/wasm", "linux/amd64"], Ok("linux/amd64"));
        check(&["linux/arm64/v8", "wasip2/wasm"], Ok("wasip2/wasm"));
        check(&["linux/amd64/v3"], Err("linux/amd64/v3"));
        check(
            &["windows/amd64", "linux/s390x", "unknown/unknown"],
            Err("for windows/amd64, linux/s390x, and"),
        );
        check(&[], Err("no platform"));
    }

    #[test]
    fn row_16_confused_documents() {
        let d = r#"{"mediaType":"x","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":1}"#;
        let check = |text: String, media_type, ok: bool| {
            assert_eq!(Document::parse(text.as_bytes(), media_type).is_ok(), ok, "{text}");
        };
        check(format!(r#"{{"schemaVersion":2,"config":{d},"layers":[]}}"#), None, true);
        check(format!(r#"{{"schemaVersion":2,"config":{d},"layers":[]}}"#), Some(OCI_INDEX), false);
        check(format!(r#"{{"schemaVersion":2,"manifests":[{d}]}}"#), None, true);
        check(format!(r#"{{"schemaVersion":2,"manifests":[{d}]}}"#), Some(OCI_MANIFEST), false);
        check(
            format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{d}]}}"#),
            Some(OCI_MANIFEST),
            false,
        );
        check(format!(r#"{{"schemaVersion":2,"config":{d},"layers":[],"manifests":[{d}]}}"#), None, false);
        check(format!(r#"{{"schemaVersion":2,"config":{d},"config":{d},"layers":[]}}"#), None, false);
        check(format!(r#"{{"schemaVersion":1,"config":{d},"layers":[]}}"#), None, false);
        check(r#"{"schemaVersion":2}"#.to_owned(), None, false);
        check(
            format!(r#"{{"schemaVersion":2,"config":{d},"layers":[{}]}}"#, [d; 128].join(",")),
            None,
            false,
        );
    }
}
