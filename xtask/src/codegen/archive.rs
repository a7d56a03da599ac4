//! Botocore's source archive, which has both the service models and the protocol test vectors of one version.
//!
//! It is fetched by pip once, kept in the target directory, and verified on every use.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

const VERSION: &str = "1.44.5";
const SHA256: &str = "a988f39e3a4484def0b8010f41128f71157da0515a4804fccce4739aa8f216da";

/// The JSON files of the archive that the generator may want, by their path below the archive's top directory.
pub(crate) struct Archive {
    files: BTreeMap<String, Vec<u8>>,
}

impl Archive {
    /// Opens the archive in `cache`, fetching it first if it is not there.
    pub(crate) fn open(cache: &Path) -> Result<Self> {
        let path = cache.join(format!("botocore-{VERSION}.tar.gz"));
        if !path.exists() {
            fetch(cache)?;
        }
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let digest = hex::encode(Sha256::digest(&bytes));
        ensure!(digest == SHA256, "{} has SHA-256 {digest}, expected {SHA256}", path.display());
        Self::unpack(&bytes).with_context(|| format!("unpack {}", path.display()))
    }

    /// A file's content.
    pub(crate) fn file(&self, path: &str) -> Result<&[u8]> {
        self.files.get(path).map(Vec::as_slice).with_context(|| format!("find {path} in botocore {VERSION}"))
    }

    fn unpack(bytes: &[u8]) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes));
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.to_string_lossy().into_owned();
            let Some((_, path)) = path.split_once('/') else { continue };
            if path.ends_with("/service-2.json") || path.starts_with("tests/unit/protocols/") {
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                files.insert(path.to_owned(), content);
            }
        }
        Ok(Self { files })
    }
}

fn fetch(cache: &Path) -> Result<()> {
    fs::create_dir_all(cache).with_context(|| format!("create {}", cache.display()))?;
    let requirements = cache.join("requirements.txt");
    fs::write(&requirements, format!("botocore=={VERSION} --hash=sha256:{SHA256}\n"))
        .with_context(|| format!("write {}", requirements.display()))?;
    let status = Command::new("python3")
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            "botocore",
            "--require-hashes",
        ])
        .arg("--dest")
        .arg(cache)
        .arg("--requirement")
        .arg(&requirements)
        .status()
        .context("start pip")?;
    ensure!(status.success(), "fetch botocore {VERSION} with pip");
    Ok(())
}
