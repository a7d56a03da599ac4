//! Names: one small JSON file each, replaced atomically.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use neargate_model::Timestamp;
use neargate_model::image::{Digest, ImageReference};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Damage, FileError, at};
use crate::stage::Staging;
use crate::wasm::WasmFormat;

/// Bytes that stand for themselves in the file name of a record; a name never starts with a dot.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_');
/// The longest file name (`NAME_MAX` of every Linux file system).
const FILE_NAME_BYTES_MAX: usize = 255;

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Layers of a Linux root file system.
    Oci,
    /// A Wasm binary.
    Wasm,
}

/// Where a name leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) name: ImageReference,
    /// The manifest, or the index that it was chosen from.
    pub(crate) digest: Digest,
    /// The manifest for this machine.
    pub(crate) manifest: Digest,
    /// The binary of a Wasm image; it may have been taken out of a layer.
    pub(crate) wasm: Option<WasmRecord>,
    pub(crate) imported: Timestamp,
    /// Whether it came from a registry, from which it can come again.
    #[serde(default)]
    pub(crate) pulled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WasmRecord {
    pub(crate) digest: Digest,
    pub(crate) format: WasmFormat,
}

impl Record {
    pub(crate) fn kind(&self) -> Kind {
        if self.wasm.is_some() { Kind::Wasm } else { Kind::Oci }
    }
}

/// The file of a name. Names that are too long escaped are kept under their hash; `%l` escapes nothing, so the
/// two never meet.
pub(crate) fn path(refs: &Path, name: &ImageReference) -> PathBuf {
    let canonical = name.canonical();
    let escaped = utf8_percent_encode(&canonical, ESCAPED).to_string();
    if escaped.len() <= FILE_NAME_BYTES_MAX {
        return refs.join(escaped);
    }
    let hash = Digest::from_bytes(Sha256::digest(canonical.as_bytes()).into());
    refs.join(format!("%long-{}", hash.hex()))
}

/// Reads a record; `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Record>, Damage> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(at("read", path))?,
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| Damage::Record { path: path.to_owned(), source })
}

/// Puts a record in place, durably.
pub(crate) fn write(refs: &Path, staging: &Staging, record: &Record) -> Result<(), FileError> {
    let target = path(refs, &record.name);
    let bytes = serde_json::to_vec(record).map_err(io::Error::from).map_err(at("encode", &target))?;
    let staged = staging.write(&bytes)?;
    File::open(&staged.path).and_then(|f| f.sync_all()).map_err(at("sync", &staged.path))?;
    neargate_failpoint::reach("image::record::before");
    fs::rename(&staged.path, &target).map_err(at("create", &target))?;
    neargate_failpoint::reach("image::record::after");
    sync_directory(refs)
}

/// All records and their files.
pub(crate) fn read_all(refs: &Path) -> Result<Vec<(PathBuf, Record)>, Damage> {
    let mut records = Vec::new();
    for entry in fs::read_dir(refs).map_err(at("read", refs))? {
        let path = entry.map_err(at("read", refs))?.path();
        // It may have been removed since the directory was read.
        if let Some(record) = read(&path)? {
            records.push((path, record));
        }
    }
    records.sort_by(|a, b| a.1.name.cmp(&b.1.name));
    Ok(records)
}

pub(crate) fn sync_directory(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|f| f.sync_all()).map_err(at("sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names() {
        let check = |name: &str, expect: &str| {
            assert_eq!(path(Path::new("refs"), &name.parse().unwrap()), Path::new("refs").join(expect));
        };
        check("alpine", "docker.io%2Flibrary%2Falpine%3Alatest");
        check("localhost:5000/a_b:V.1-x", "localhost%3A5000%2Fa_b%3AV.1-x");
        let long = path(
            Path::new("refs"),
            &format!("{}:{}", "a/".repeat(90) + "b", "t".repeat(128)).parse().unwrap(),
        );
        assert!(long.file_name().unwrap().to_str().unwrap().starts_with("%long-"));
    }
}
