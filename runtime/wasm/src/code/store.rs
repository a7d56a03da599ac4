//! Compiled code on disk.
//!
//! Two files for each pair of image and compiler: `<sha256 of the image>-<compiler>.cwasm` is the code, and
//! `….info` what was seen of the binary, with the code's length and SHA-256, under a SHA-256 of its own over
//! name and contents. The compiler's part of the name is a hash of what compiles (version, settings, the CPU's
//! features). Files get their names when they are whole, the code first, so a reader sees all or nothing. What does
//! not match is thrown away and compiled anew.
//!
//! What is kept is bounded in bytes; what was used longest ago goes first, but nothing that is in use.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use neargate_ipc::wire::{decode, encode};
use neargate_ipc::wire_struct;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::protocol::Inspection;

const CODE_SUFFIX: &str = ".cwasm";
const INFO_SUFFIX: &str = ".info";
const TEMPORARY_PREFIX: &str = ".new-";
const CHECKSUM_LEN: usize = 32;
/// Longest `.info` file that is read, in bytes.
const INFO_BYTES_MAX: u64 = 2 << 20;
/// Another server of this directory may be compiling; no compilation takes this long.
const ABANDONED: Duration = Duration::from_secs(3600);
/// The form of the `.info` file.
const FORMAT: u32 = 1;

wire_struct! {
    /// What an `.info` file says.
    struct Info {
        format: u32,
        code_bytes: u64,
        code_sha256: Vec<u8>,
        inspection: Inspection,
    }
}

pub(super) struct CodeStore {
    dir: PathBuf,
    /// Whom directory and files belong to.
    owner: u32,
    bytes_max: u64,
    compiler_id: String,
    /// A hash of the compiler's id for file names.
    compiler: String,
}

impl CodeStore {
    /// Opens the directory, making it when it is missing, and refuses one that others may write to.
    pub(super) fn open(dir: &Path, owner: u32, bytes_max: u64, compiler_id: &str) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        require_private(&fs::metadata(dir)?, owner)?;
        let compiler = hex::encode(&Sha256::digest(compiler_id)[..8]);
        Ok(Self { dir: dir.to_owned(), owner, bytes_max, compiler_id: compiler_id.to_owned(), compiler })
    }

    /// The compiled code of an image, or `None` when there is none that can be used.
    pub(super) fn load(&self, digest: &str) -> Option<(Inspection, File)> {
        let stem = self.stem(digest)?;
        let error = match self.read(&stem) {
            Ok(found) => return Some(found),
            Err(error) => error,
        };
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(dir = %self.dir.display(), file = stem, %error, "discard compiled code");
            self.remove(&stem);
        }
        None
    }

    fn read(&self, stem: &str) -> io::Result<(Inspection, File)> {
        let info_name = format!("{stem}{INFO_SUFFIX}");
        let info = read_info(&info_name, self.open_private(&info_name)?)?;
        if info.format != FORMAT || info.inspection.compiler != self.compiler_id {
            return Err(invalid("it is of another compiler"));
        }
        let code = self.open_private(&format!("{stem}{CODE_SUFFIX}"))?;
        if code.metadata()?.len() != info.code_bytes || sha256(&code)?[..] != info.code_sha256[..] {
            return Err(invalid("its checksum does not match"));
        }
        // By this eviction knows what was used; that it cannot be set is no reason not to run.
        let _ = code.set_modified(SystemTime::now());
        Ok((info.inspection, code))
    }

    /// Opens a file that only we can have written.
    fn open_private(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(self.dir.join(name), flags, Mode::empty())?);
        let metadata = file.metadata()?;
        require_private(&metadata, self.owner)?;
        if !metadata.is_file() {
            return Err(invalid("it is no file"));
        }
        Ok(file)
    }

    /// An empty file for the compiler to write to, with mode 0600; it is gone when it is dropped.
    pub(super) fn begin(&self) -> io::Result<NamedTempFile> {
        tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempfile_in(&self.dir)
    }

    /// Keeps what a compiler that has ended wrote, and opens it.
    pub(super) fn keep(
        &self,
        digest: &str,
        code: NamedTempFile,
        inspection: &Inspection,
    ) -> io::Result<File> {
        let stem = self.stem(digest).ok_or(io::ErrorKind::InvalidInput)?;
        let info = Info {
            format: FORMAT,
            code_bytes: code.as_file().metadata()?.len(),
            code_sha256: sha256(code.as_file())?.to_vec(),
            inspection: inspection.clone(),
        };
        code.as_file().sync_all()?;
        let code_path = self.dir.join(format!("{stem}{CODE_SUFFIX}"));
        // Opened through its own name, read-only, before it can be anyone else's.
        let opened = File::open(code.path())?;
        code.persist(&code_path).map_err(|error| error.error)?;
        let info_name = format!("{stem}{INFO_SUFFIX}");
        let mut file = self.begin()?;
        let bytes = encode(&info);
        file.write_all(&bytes)?;
        file.write_all(&checksum(&info_name, &bytes))?;
        file.as_file().sync_all()?;
        file.persist(self.dir.join(info_name)).map_err(|error| error.error)?;
        File::open(&self.dir)?.sync_all()?;
        Ok(opened)
    }

    /// Removes what a server that was killed left behind, and then what was used longest ago and `give_up` agrees
    /// to, until the rest fits. Errors are logged: the code that was just compiled can be run all the same.
    pub(super) fn evict(&self, give_up: impl Fn(&str) -> bool) {
        if let Err(error) = self.try_evict(give_up) {
            tracing::warn!(dir = %self.dir.display(), %error, "make room for compiled code");
        }
    }

    fn try_evict(&self, give_up: impl Fn(&str) -> bool) -> io::Result<()> {
        // By stem: when it was used, and the bytes of its files.
        let mut kept: BTreeMap<String, (SystemTime, u64)> = BTreeMap::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(TEMPORARY_PREFIX) {
                remove_abandoned(&entry);
                continue;
            }
            let stem = name.strip_suffix(CODE_SUFFIX).or_else(|| name.strip_suffix(INFO_SUFFIX));
            let (Some(stem), Ok(metadata)) = (stem, entry.metadata()) else { continue };
            let (used, bytes) = kept.entry(stem.to_owned()).or_insert((SystemTime::UNIX_EPOCH, 0));
            *used = metadata.modified()?.max(*used);
            *bytes += metadata.len();
        }
        let mut bytes: u64 = kept.values().map(|(_, bytes)| bytes).sum();
        let mut oldest: Vec<_> = kept.into_iter().map(|(stem, (used, bytes))| (used, bytes, stem)).collect();
        oldest.sort();
        for (_, of_this, stem) in oldest {
            if bytes <= self.bytes_max {
                break;
            }
            let image = stem.split('-').next().unwrap_or_default();
            if give_up(&format!("sha256:{image}")) {
                self.remove(&stem);
                bytes -= of_this;
            }
        }
        Ok(())
    }

    fn remove(&self, stem: &str) {
        // What says that the code is whole goes first.
        for suffix in [INFO_SUFFIX, CODE_SUFFIX] {
            let path = self.dir.join(format!("{stem}{suffix}"));
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "remove compiled code");
                }
                _ => {}
            }
        }
    }

    fn stem(&self, digest: &str) -> Option<String> {
        let image = parse_digest(digest)?;
        Some(format!("{}-{}", hex::encode(image), self.compiler))
    }
}

/// Removes a file of a compiler that cannot be running any more.
fn remove_abandoned(temporary: &fs::DirEntry) {
    let age = temporary.metadata().and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
    if matches!(age, Ok(Ok(age)) if age > ABANDONED) {
        let _ = fs::remove_file(temporary.path());
    }
}

/// The bytes of `sha256:` and 64 hexadecimal digits.
pub(super) fn parse_digest(digest: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(digest.strip_prefix("sha256:")?, &mut bytes).ok()?;
    Some(bytes)
}

/// An error unless the file or directory is its owner's and nobody else may write to it.
fn require_private(metadata: &fs::Metadata, owner: u32) -> io::Result<()> {
    let ours = metadata.uid() == owner;
    match ours && metadata.mode() & 0o077 == 0 {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it must belong to the user of the data directory and be closed to all others (chmod 700)",
        )),
    }
}

fn read_info(name: &str, file: File) -> io::Result<Info> {
    let mut bytes = Vec::new();
    file.take(INFO_BYTES_MAX).read_to_end(&mut bytes)?;
    let length = bytes.len().checked_sub(CHECKSUM_LEN).ok_or(io::ErrorKind::UnexpectedEof)?;
    let (info, found) = bytes.split_at(length);
    if checksum(name, info)[..] != *found {
        return Err(invalid("its checksum does not match"));
    }
    decode(info).map_err(|_| invalid("it is of another version"))
}

/// A hash that has seen the file's name, so that a file cannot stand in for another.
fn checksum(name: &str, bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    Sha256::new_with_prefix(name).chain_update(bytes).finalize().into()
}

/// The hash of a whole file, wherever its position is.
fn sha256(file: &File) -> io::Result<[u8; CHECKSUM_LEN]> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 256 * 1024];
    let mut offset = 0;
    loop {
        match file.read_at(&mut chunk, offset)? {
            0 => return Ok(hash.finalize().into()),
            count => {
                hash.update(&chunk[..count]);
                offset += count as u64;
            }
        }
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
