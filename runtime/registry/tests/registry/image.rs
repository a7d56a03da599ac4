//! Small images, and the answers of a registry that has them.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use crate::hostile::{Asked, Reply};

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// An archive with these files.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image of layers, each an archive that was compressed somehow.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) manifest: Vec<u8>,
    pub(crate) media_type: &'static str,
    pub(crate) blobs: Vec<Vec<u8>>,
}

impl Image {
    /// An image of compressed layers and their archives.
    pub(crate) fn new(layers: &[(Vec<u8>, Vec<u8>)]) -> Self {
        Self::of_platform(layers, neargate_image::Platform::host().architecture.as_str())
    }

    pub(crate) fn of_platform(layers: &[(Vec<u8>, Vec<u8>)], architecture: &str) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|(_, archive)| digest(archive)).collect();
        let config = serde_json::json!({
            "os": "linux", "architecture": architecture, "config": {"Cmd": ["/hello"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}
        });
        let config = serde_json::to_vec(&config).unwrap();
        let layer = |(blob, _): &(Vec<u8>, Vec<u8>)| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(blob), "size": blob.len(),
                "urls": ["http://169.254.169.254/latest/meta-data/", "file:///etc/shadow"]
            })
        };
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()
            },
            "layers": layers.iter().map(layer).collect::<Vec<_>>()
        });
        let mut blobs = vec![config];
        blobs.extend(layers.iter().map(|(blob, _)| blob.clone()));
        Self { manifest: serde_json::to_vec(&manifest).unwrap(), media_type: MANIFEST_TYPE, blobs }
    }

    /// An image of one layer with one file.
    pub(crate) fn small(content: &str) -> Self {
        let archive = tar(&[("hello", content.as_bytes())]);
        Self::new(&[(gzip(&archive), archive)])
    }

    /// The digest of its last layer's blob.
    pub(crate) fn layer(&self) -> String {
        digest(self.blobs.last().unwrap())
    }

    /// What an honest registry answers, if it is asked for something of this image in `repository`.
    pub(crate) fn reply(&self, repository: &str, asked: &Asked) -> Option<Reply> {
        let rest = asked.path.strip_prefix(&format!("/v2/{repository}/"))?;
        let own = digest(&self.manifest);
        if let Some(name) = rest.strip_prefix("manifests/") {
            let is_own = name == "latest" || name == own;
            let reply = || Reply::new(200, self.manifest.clone()).with("content-type", self.media_type);
            return is_own.then(|| reply().with("docker-content-digest", own));
        }
        let wanted = rest.strip_prefix("blobs/")?;
        let blob = self.blobs.iter().find(|blob| digest(blob) == wanted)?;
        Some(ranged(blob, asked))
    }
}

/// A blob or the range of it that is asked for.
pub(crate) fn ranged(blob: &[u8], asked: &Asked) -> Reply {
    match asked.range() {
        Some((first, last)) => {
            let last = last.min(blob.len() - 1);
            let told = format!("bytes {first}-{last}/{}", blob.len());
            Reply::new(206, &blob[first..=last]).with("content-range", told)
        }
        None => Reply::new(200, blob),
    }
}
