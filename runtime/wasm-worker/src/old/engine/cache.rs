//! Compiled code on disk.
//!
//! One file for each pair of image and compiler: `<sha256 of the image>-<compiler>.cwasm`, where the
//! second part is a hash of wasmtime's version, its settings and the CPU's features. Files are written
//! under another name and renamed, so a reader sees all or nothing. Behind the code stands the SHA-256 of
//! the file's name and its code; a file that does not match is thrown away and compiled anew.
//!
//! What is kept is bounded in bytes; the files written longest ago go first. Code that is mapped lives on
//! until it is dropped.

use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use super::{Binary, SetupError, WasmKind};

/// Bytes of the checksum behind the code.
const CHECKSUM_LEN: u64 = 32;
const SUFFIX: &str = ".cwasm";

pub(crate) struct Cache {
    dir: PathBuf,
    bytes_max: u64,
    compiler: u64,
}

impl Cache {
    /// Opens the directory, making it when it is missing, and refuses one that others may write to.
    pub(crate) fn open(dir: &Path, bytes_max: u64, engine: &Engine) -> Result<Self, SetupError> {
        let fail = |source| SetupError::CacheDir { dir: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail)?;
        require_private(&fs::metadata(dir).map_err(fail)?).map_err(fail)?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self { dir: dir.to_owned(), bytes_max, compiler: hasher.finish() })
    }

    /// The compiled code of an image, or `None` when there is none that can be used.
    pub(crate) fn load(&self, engine: &Engine, image: &[u8; 32], kind: WasmKind) -> Option<Binary> {
        let path = self.path(image);
        match verify(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return discard(&path, &error),
        }
        map(engine, &path, kind).map_err(|error| discard::<()>(&path, &format_args!("{error:#}"))).ok()
    }

    /// Keeps the compiled code of an image.
    pub(crate) fn store(&self, image: &[u8; 32], code: &[u8]) -> io::Result<()> {
        let path = self.path(image);
        let mut checksum = checksum_of_name(&path);
        checksum.update(code);
        // Created with mode 0600 and a name of its own; removed again unless it is renamed.
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(code)?;
        file.write_all(&checksum.finalize())?;
        file.persist(&path)?;
        self.evict(&path)
    }

    fn path(&self, image: &[u8; 32]) -> PathBuf {
        self.dir.join(format!("{}-{:016x}{SUFFIX}", hex::encode(image), self.compiler))
    }

    /// Removes the oldest files until the rest fits, but never `keep`.
    fn evict(&self, keep: &Path) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(SUFFIX) {
                let metadata = entry.metadata()?;
                files.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in files {
            if bytes <= self.bytes_max {
                break;
            }
            if path != keep {
                fs::remove_file(&path)?;
                bytes -= len;
            }
        }
        Ok(())
    }
}

/// An error unless the file or directory is ours and nobody else may write to it.
fn require_private(metadata: &fs::Metadata) -> io::Result<()> {
    let ours = metadata.uid() == rustix::process::geteuid().as_raw();
    match ours && metadata.mode() & 0o077 == 0 {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it must belong to this user and be closed to all others (chmod 700)",
        )),
    }
}

/// Checks owner, mode and checksum of a file.
fn verify(path: &Path) -> io::Result<()> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let mut file = File::from(fd);
    let metadata = file.metadata()?;
    require_private(&metadata)?;
    let code_len = metadata.len().checked_sub(CHECKSUM_LEN).ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut checksum = checksum_of_name(path);
    let mut chunk = vec![0; 256 * 1024];
    let mut code = (&mut file).take(code_len);
    loop {
        match code.read(&mut chunk)? {
            0 => break,
            n => checksum.update(&chunk[..n]),
        }
    }
    let mut found = [0; CHECKSUM_LEN as usize];
    file.read_exact(&mut found)?;
    match checksum.finalize()[..] == found {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "its checksum does not match")),
    }
}

/// A hash that has seen the file's name, so that a file cannot stand in for another.
fn checksum_of_name(path: &Path) -> Sha256 {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    Sha256::new_with_prefix(name)
}

/// Maps a verified file as code.
///
/// Why the one exception to the law that only `container` and `network` are unsafe is worth it: mapping
/// takes 55–155 µs where compiling takes 40 ms and more, and the pages are shared by all processes that
/// run the image.
#[allow(unsafe_code)]
fn map(engine: &Engine, path: &Path, kind: WasmKind) -> wasmtime::Result<Binary> {
    // SAFETY: the file must hold what `Engine::precompile_*` returned, and must not change while it is
    // mapped. `Cache::open` made sure that the directory is ours and closed to all others, so only a
    // process of our own user can have written the file, and ours writes nothing but what the compiler
    // returned (`store`) and never to a file that has its final name. `verify` has just checked owner, mode
    // and the checksum over name and code, so a torn or rotten file does not come this far, and the name
    // holds the hash of the compiler and its settings, which wasmtime checks once more.
    unsafe {
        match kind {
            WasmKind::Module => Module::deserialize_file(engine, path).map(Binary::Module),
            WasmKind::Component => Component::deserialize_file(engine, path).map(Binary::Component),
        }
    }
}

/// Removes a file that cannot be used; it will be compiled again.
fn discard<T>(path: &Path, error: &dyn std::fmt::Display) -> Option<T> {
    tracing::warn!(path = %path.display(), %error, "discard compiled code");
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "remove compiled code");
    }
    None
}
