//! What a manifest says that matters to a registry: which blobs and images it needs, and what it is about.

use std::collections::BTreeMap;

use neargate_model::image::Digest;
use serde::Deserialize;
use serde::de::IgnoredAny;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+";

/// The largest manifest: what the distribution specification asks registries to take.
pub(crate) const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// The most images that an index leads to, as in the image store: the digests are in a record.
const CHILDREN_MAX: usize = 1024;
/// The most blobs that a manifest names: each is looked for.
const BLOBS_MAX: usize = 10_000;
const MEDIA_TYPE_LEN_MAX: usize = 255;

/// Why something is no manifest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidManifest {
    #[error("the manifest is not valid JSON of the expected shape: {0}")]
    Json(#[from] serde_json::Error),
    #[error("manifests of schema 1 are not supported; push with a newer client")]
    SchemaOne,
    #[error("schemaVersion must be 2")]
    SchemaVersion,
    #[error("the manifest says that it is {actual}, but it was sent as {sent}")]
    MediaType { actual: String, sent: String },
    #[error("the manifest has no media type; send one as Content-Type")]
    NoMediaType,
    #[error("a media type has 1 to 255 characters, and a / between printable ones without spaces")]
    BadMediaType,
    #[error("it is not clear whether it is a manifest or an index")]
    Confused,
    #[error("the manifest has more than {limit} {what}")]
    TooMany { what: &'static str, limit: usize },
}

/// A manifest, as far as a registry cares.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) media_type: String,
    /// `artifactType`, else the configuration's media type.
    pub(crate) artifact_type: Option<String>,
    /// Blobs that the repository must have.
    pub(crate) blobs: Vec<Digest>,
    /// Images that the repository must have.
    pub(crate) children: Vec<Digest>,
    /// Bytes of all that is named.
    pub(crate) content_bytes: u64,
    pub(crate) subject: Option<Digest>,
    pub(crate) annotations: BTreeMap<String, String>,
    /// Whether it is a Wasm artifact, which is worth compiling before anybody runs it.
    pub(crate) is_wasm: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    /// Where else it is, of a layer that registries need not have.
    #[serde(default)]
    urls: Option<Vec<IgnoredAny>>,
}

/// What serde refuses to read twice cannot mean two things (CVE-2021-41190).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: Option<u32>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    /// Of OCI's artifact manifests, before version 1.1 did without them.
    #[serde(default)]
    blobs: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    fs_layers: Option<IgnoredAny>,
}

impl Manifest {
    /// Reads a manifest that was sent as `sent`.
    pub(crate) fn parse(bytes: &[u8], sent: Option<&str>) -> Result<Self, InvalidManifest> {
        // serde takes a list for a record, too, member by member.
        if bytes.trim_ascii_start().first() == Some(&b'[') {
            return Err(<serde_json::Error as serde::de::Error>::custom("a manifest is an object").into());
        }
        let raw: Raw = serde_json::from_slice(bytes)?;
        let sent = sent.map(|sent| sent.split(';').next().unwrap_or_default().trim());
        let sent = sent.filter(|sent| !sent.is_empty());
        let media_type = raw.media_type(sent)?;
        raw.check(&media_type)?;
        let children: Vec<Digest> = raw.manifests.iter().flatten().map(|one| one.digest).collect();
        let content = [&raw.layers, &raw.blobs].into_iter().flatten().flatten().chain(&raw.config);
        let all = content.clone().chain(raw.manifests.iter().flatten());
        let content_bytes = all.map(|one| one.size).fold(0, u64::saturating_add);
        let mut blobs: Vec<Digest> =
            content.filter(|one| !one.is_elsewhere()).map(|one| one.digest).collect();
        blobs.sort_unstable();
        blobs.dedup();
        let is_wasm = raw.layers.iter().flatten().any(Descriptor::is_wasm);
        check_count(children.len(), CHILDREN_MAX, "manifests")?;
        check_count(blobs.len(), BLOBS_MAX, "blobs")?;
        let config_type = raw.config.as_ref().map(|config| config.media_type.clone());
        let artifact_type = raw.artifact_type.filter(|stated| !stated.is_empty()).or(config_type);
        Ok(Self {
            media_type,
            artifact_type: artifact_type.filter(|stated| !stated.is_empty()),
            blobs,
            children,
            content_bytes,
            subject: raw.subject.map(|subject| subject.digest),
            annotations: raw.annotations.unwrap_or_default(),
            is_wasm,
        })
    }

    /// Whether it is an index of others.
    pub(crate) fn is_index(media_type: &str) -> bool {
        matches!(media_type, OCI_INDEX | DOCKER_INDEX)
    }
}

impl Raw {
    fn media_type(&self, sent: Option<&str>) -> Result<String, InvalidManifest> {
        if self.schema_version == Some(1) || self.fs_layers.is_some() {
            return Err(InvalidManifest::SchemaOne);
        }
        // What clients say of a body when nobody has told them.
        let sent = sent.filter(|sent| !matches!(*sent, "application/json" | "application/octet-stream"));
        let media_type = match (self.media_type.as_deref(), sent) {
            (Some(actual), Some(sent)) if actual != sent => {
                let (actual, sent) = (shorten(actual), shorten(sent));
                return Err(InvalidManifest::MediaType { actual, sent });
            }
            (Some(actual), _) => actual,
            (None, Some(sent)) => sent,
            // Optional in OCI's documents, of which each has its own shape.
            (None, None) if self.manifests.is_some() => OCI_INDEX,
            (None, None) if self.config.is_some() => OCI_MANIFEST,
            (None, None) => return Err(InvalidManifest::NoMediaType),
        };
        let is_sound = (1..=MEDIA_TYPE_LEN_MAX).contains(&media_type.len())
            && media_type.bytes().all(|byte| byte.is_ascii_graphic())
            && media_type.contains('/');
        if !is_sound {
            return Err(InvalidManifest::BadMediaType);
        }
        Ok(media_type.to_owned())
    }

    fn check(&self, media_type: &str) -> Result<(), InvalidManifest> {
        if media_type.starts_with(DOCKER_SCHEMA_1) {
            return Err(InvalidManifest::SchemaOne);
        }
        let is_manifest = matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST);
        let is_index = Manifest::is_index(media_type);
        if (is_manifest || is_index) && self.schema_version != Some(2) {
            return Err(InvalidManifest::SchemaVersion);
        }
        let has_content = self.config.is_some() || self.layers.is_some() || self.blobs.is_some();
        let is_whole = self.config.is_some() && self.layers.is_some();
        if (is_manifest && !is_whole)
            || (is_index && self.manifests.is_none())
            || (has_content && self.manifests.is_some())
        {
            return Err(InvalidManifest::Confused);
        }
        Ok(())
    }
}

impl Descriptor {
    /// Whether it is a Wasm binary by itself, in one of the types that the image store knows.
    fn is_wasm(&self) -> bool {
        self.media_type == "application/wasm" || self.media_type.ends_with("+wasm")
    }

    /// Whether it is a layer that may not be distributed, which says where it is to be had.
    fn is_elsewhere(&self) -> bool {
        let is_foreign = self.media_type.contains("foreign") || self.media_type.contains("nondistributable");
        is_foreign && self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(128).collect()
}

fn check_count(count: usize, limit: usize, what: &'static str) -> Result<(), InvalidManifest> {
    if count > limit { Err(InvalidManifest::TooMany { what, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(id: u8, media_type: &str, more: &str) -> String {
        let digest = Digest::from_bytes([id; 32]);
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{id}{more}}}"#)
    }

    #[test]
    fn manifests_name_what_they_need() {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{},{}],"subject":{},"annotations":{{"a":"b"}}}}"#,
            blob(1, "application/vnd.x.config", ""),
            blob(2, "application/vnd.oci.image.layer.v1.tar", ""),
            blob(3, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", r#","urls":["https://x"]"#),
            blob(4, OCI_MANIFEST, ""),
        );
        for sent in [
            None,
            Some(OCI_MANIFEST),
            Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"),
            Some("application/json"),
        ] {
            let manifest = Manifest::parse(text.as_bytes(), sent).unwrap();
            assert_eq!(manifest.media_type, OCI_MANIFEST);
            assert_eq!(manifest.blobs, [Digest::from_bytes([1; 32]), Digest::from_bytes([2; 32])]);
            assert_eq!(manifest.subject, Some(Digest::from_bytes([4; 32])));
            assert_eq!(manifest.artifact_type.as_deref(), Some("application/vnd.x.config"));
            assert_eq!((manifest.content_bytes, manifest.children.len()), (6, 0));
            assert_eq!(manifest.annotations["a"], "b");
        }
        let index = format!(
            r#"{{"schemaVersion":2,"artifactType":"x/y","manifests":[{}]}}"#,
            blob(5, OCI_MANIFEST, "")
        );
        let manifest = Manifest::parse(index.as_bytes(), None).unwrap();
        assert_eq!(
            (manifest.media_type.as_str(), manifest.artifact_type.as_deref()),
            (OCI_INDEX, Some("x/y"))
        );
        assert_eq!(manifest.children, [Digest::from_bytes([5; 32])]);
        // Of a type that nobody knows here.
        let other = format!(r#"{{"mediaType":"application/vnd.x+json","blobs":[{}]}}"#, blob(6, "a/b", ""));
        assert_eq!(Manifest::parse(other.as_bytes(), None).unwrap().blobs, [Digest::from_bytes([6; 32])]);
    }

    #[test]
    fn what_is_no_manifest() {
        let d = blob(1, "a/b", "");
        let check = |text: String, sent: Option<&str>, word: &str| {
            let error = Manifest::parse(text.as_bytes(), sent).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        };
        check(String::new(), None, "JSON");
        check("[]".to_owned(), None, "JSON");
        check("{}".to_owned(), None, "no media type");
        check(r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), None, "schema 1");
        check(
            format!(r#"{{"schemaVersion":2,"config":{d},"layers":[],"manifests":[{d}]}}"#),
            None,
            "not clear",
        );
        check(format!(r#"{{"schemaVersion":2,"config":{d},"layers":[]}}"#), Some(OCI_INDEX), "not clear");
        check(format!(r#"{{"schemaVersion":2,"manifests":[{d}]}}"#), Some(DOCKER_MANIFEST), "not clear");
        check(
            format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]}}"#),
            Some(OCI_MANIFEST),
            "sent as",
        );
        check(format!(r#"{{"config":{d},"layers":[]}}"#), None, "schemaVersion");
        check(format!(r#"{{"schemaVersion":2,"config":{d},"config":{d},"layers":[]}}"#), None, "JSON");
        check(r#"{"mediaType":"a b/c"}"#.to_owned(), None, "media type");
        check(format!(r#"{{"mediaType":"a/{}"}}"#, "b".repeat(300)), None, "media type");
        let bad = r#"{"mediaType":"a/b","digest":"sha256:../../x","size":1}"#;
        check(format!(r#"{{"schemaVersion":2,"config":{bad},"layers":[]}}"#), None, "JSON");
        let negative = d.replace(":1}", ":-1}");
        check(format!(r#"{{"schemaVersion":2,"config":{negative},"layers":[]}}"#), None, "JSON");
        let many = vec![d.as_str(); CHILDREN_MAX + 1].join(",");
        check(format!(r#"{{"schemaVersion":2,"manifests":[{many}]}}"#), None, "more than");
    }
}
