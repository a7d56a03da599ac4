//! The data directory: where it is, and what lies in it.
//!
//! ```text
//! control.db         control state (SQLite)
//! images/            content store
//! logs/              log segments
//! wasm-code/         compiled Wasm, private to this user
//! key-values.sqlite  what guests keep with `wasi:keyvalue`
//! artifacts/         what ended Wasm containers left for the debugger
//! scratch/           what running containers write
//! starts/            which tasks may have been started, until their end is in control.db
//! volumes/           named volumes, as ACCOUNT/REGION/CLUSTER/NAME; they outlive tasks
//! run/               the supervisor's socket and journal
//! registries.json    mirrors and other peculiarities of registries, if the operator wrote it
//! registry-auth.json credentials for registries, likewise, in the form of Docker's config.json
//! root-key.json      the root access key, 0600
//! session-key        what session tokens are made with, 0600
//! endpoint           where the server listens, for `neargate env`
//! ```

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use neargate_auth::{AccessKeyId, KeyKind, KeyPair, SEAL_LEN, Seal, Secret};
use serde::{Deserialize, Serialize};

/// A data directory.
#[derive(Clone, Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct RootKey {
    access_key_id: String,
    secret_access_key: String,
}

/// Where the data is unless somebody says otherwise: `/var/lib/neargate` for root, else below XDG's data
/// directory.
pub(crate) fn default_path() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/neargate");
    }
    let xdg = std::env::var_os("XDG_DATA_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    xdg.or_else(home).unwrap_or_else(|| PathBuf::from(".")).join("neargate")
}

/// Bytes of the system's source of randomness.
fn random<const LEN: usize>() -> Result<[u8; LEN]> {
    let mut random = [0; LEN];
    let mut file = fs::File::open("/dev/urandom").context("read random bytes")?;
    file.read_exact(&mut random).context("read random bytes")?;
    Ok(random)
}

impl DataDir {
    /// Opens a data directory, making it if needed.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self> {
        let root = path.map_or_else(default_path, Path::to_owned);
        // Those above are none of ours, and a server that has become another user must get through them.
        let above = root.parent().map_or(Ok(()), fs::create_dir_all);
        let make = above.and_then(|()| fs::DirBuilder::new().recursive(true).mode(0o700).create(&root));
        make.with_context(|| format!("make data directory {}; name another with --data", root.display()))?;
        let root =
            fs::canonicalize(&root).with_context(|| format!("use data directory {}", root.display()))?;
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("control.db")
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn registries(&self) -> PathBuf {
        self.root.join("registries.json")
    }

    pub(crate) fn registry_auth(&self) -> PathBuf {
        self.root.join("registry-auth.json")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(crate) fn wasm_code(&self) -> PathBuf {
        self.root.join("wasm-code")
    }

    pub(crate) fn artifacts(&self) -> PathBuf {
        self.root.join("artifacts")
    }

    pub(crate) fn key_values(&self) -> PathBuf {
        self.root.join("key-values.sqlite")
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.root.join("scratch")
    }

    pub(crate) fn starts(&self) -> PathBuf {
        self.root.join("starts")
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// The root access key; made at the first start.
    pub(crate) fn root_key(&self) -> Result<KeyPair> {
        let path = self.root.join("root-key.json");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let key: RootKey = serde_json::from_str(&text).with_context(|| {
                    format!("read root key {}; restore it or remove it to get a new one", path.display())
                })?;
                let access_key = AccessKeyId::parse(&key.access_key_id)
                    .with_context(|| format!("read root key {}", path.display()))?;
                Ok(KeyPair { access_key, secret: Secret::new(key.secret_access_key) })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.new_root_key(&path),
            Err(error) => Err(error).with_context(|| format!("read root key {}", path.display())),
        }
    }

    /// What session tokens are made with; made at the first start. Without it all sessions end.
    pub(crate) fn session_seal(&self) -> Result<Seal> {
        let path = self.root.join("session-key");
        match fs::read(&path) {
            Ok(bytes) => {
                let key: Option<[u8; SEAL_LEN]> = bytes.try_into().ok();
                let what = || format!("read session key {}; remove it to get a new one", path.display());
                Ok(Seal::new(key.with_context(what)?))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key: [u8; SEAL_LEN] = random()?;
                self.write_new(&path, &key, 0o600)?;
                Ok(Seal::new(key))
            }
            Err(error) => Err(error).with_context(|| format!("read session key {}", path.display())),
        }
    }

    fn new_root_key(&self, path: &Path) -> Result<KeyPair> {
        let random: [u8; KeyPair::RANDOM_LEN] = random()?;
        let pair = KeyPair::generate(KeyKind::LongTerm, &random);
        let key = RootKey {
            access_key_id: pair.access_key.to_string(),
            secret_access_key: pair.secret.expose().to_owned(),
        };
        self.write_new(path, serde_json::to_string_pretty(&key)?.as_bytes(), 0o600)?;
        Ok(pair)
    }

    /// Notes where the server listens.
    pub(crate) fn write_endpoint(&self, url: &str) -> Result<()> {
        let (path, line) = (self.root.join("endpoint"), format!("{url}\n"));
        if fs::read(&path).is_ok_and(|known| known == line.as_bytes()) {
            return Ok(());
        }
        // On a full disk there is no room but that of the old one.
        self.write_new(&path, line.as_bytes(), 0o644).or_else(|error| {
            let overwrite = || {
                let mut file = fs::OpenOptions::new().write(true).open(&path)?;
                file.write_all(line.as_bytes()).and_then(|()| file.set_len(line.len() as u64))
            };
            overwrite().map_err(|_| error)
        })
    }

    /// Writes a file so that it is there whole or not at all.
    fn write_new(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        let tmp = path.with_extension(format!("tmp-{}", std::process::id()));
        let write = || -> std::io::Result<()> {
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&tmp)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&tmp, path)
        };
        write()
            .inspect_err(|_| drop(fs::remove_file(&tmp)))
            .with_context(|| format!("write {}", path.display()))
    }
}
