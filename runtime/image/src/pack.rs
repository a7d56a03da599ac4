//! Packs a directory into an image of one layer. The same input gives the same digest: entries are sorted, times
//! are fixed, and all files belong to root.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use flate2::GzBuilder;
use neargate_model::image::{Digest, ImageReference};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use crate::commit::{Bundle, Imported};
use crate::document::{Descriptor, Manifest, OCI_CONFIG, OCI_LAYER};
use crate::error::{FileError, ImportError, PackError, at, is_no_space};
use crate::stage::{Staged, Staging, Writer};
use crate::store::ImageStore;

/// How the layer is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// gzip, which every tool reads.
    #[default]
    Gzip,
    /// zstd, faster and smaller.
    Zstd,
}

/// The image that a directory becomes.
#[derive(Clone, Debug)]
pub struct PackOptions {
    /// Its name.
    pub name: ImageReference,
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments.
    pub cmd: Vec<String>,
    /// Environment, in order.
    pub env: Vec<(String, String)>,
    /// Working directory; empty for `/`.
    pub working_dir: String,
    /// `user[:group]`; `None` for root.
    pub user: Option<String>,
    /// How the layer is compressed.
    pub compression: Compression,
    /// The time of every file, in seconds since the epoch.
    pub mtime: u64,
}

impl PackOptions {
    /// An image called `name` that starts nothing by itself. Its files have the time in `SOURCE_DATE_EPOCH`
    /// (reproducible-builds.org), else 0.
    pub fn new(name: ImageReference) -> Self {
        let mtime = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|v| v.parse().ok()).unwrap_or(0);
        let (entrypoint, cmd, env, working_dir, user) = Default::default();
        Self { name, entrypoint, cmd, env, working_dir, user, compression: Compression::default(), mtime }
    }
}

impl ImageStore {
    /// Packs the files below `directory` into an image of one layer and stores it. Modes and hard links are kept;
    /// owners, times and extended attributes are not. Sockets and device nodes are refused.
    pub fn pack_directory(
        &self,
        directory: impl AsRef<Path>,
        options: &PackOptions,
    ) -> Result<Imported, PackError> {
        let shared = &self.shared;
        let staging = shared.staging().map_err(ImportError::from)?;
        let (layer, diff_id) = pack_layer(directory.as_ref(), options, &staging)?;
        let config = write_json(&staging, &config(options, &shared.options.platform, diff_id))?;
        let layer_type = match options.compression {
            Compression::Gzip => format!("{OCI_LAYER}+gzip"),
            Compression::Zstd => format!("{OCI_LAYER}+zstd"),
        };
        let manifest = Manifest::new(
            Descriptor::new(OCI_CONFIG, config.digest, config.size),
            vec![Descriptor::new(&layer_type, layer.digest, layer.size)],
        );
        let manifest = write_json(&staging, &manifest)?;
        let bundle = Bundle { indexes: Vec::new(), manifest, config, layers: vec![layer] };
        Ok(shared.commit(&bundle, options.name.clone(), Vec::new(), &staging)?)
    }
}

fn config(options: &PackOptions, platform: &crate::Platform, diff_id: Digest) -> Value {
    let mut process = Map::new();
    let mut set = |key: &str, value: Value, is_empty: bool| {
        if !is_empty {
            process.insert(key.to_owned(), value);
        }
    };
    let env: Vec<String> = options.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    set("Entrypoint", json!(options.entrypoint), options.entrypoint.is_empty());
    set("Cmd", json!(options.cmd), options.cmd.is_empty());
    set("Env", json!(env), env.is_empty());
    set("WorkingDir", json!(options.working_dir), options.working_dir.is_empty());
    set("User", json!(options.user), options.user.is_none());
    json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": process,
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    })
}

fn write_json(staging: &Staging, value: &impl serde::Serialize) -> Result<Staged, ImportError> {
    let wrong =
        |e: serde_json::Error| ImportError::Document { member: "new document".to_owned(), source: e.into() };
    Ok(staging.write(&serde_json::to_vec(value).map_err(wrong)?)?)
}

/// The compressed layer and the digest of what is in it.
fn pack_layer(
    directory: &Path,
    options: &PackOptions,
    staging: &Staging,
) -> Result<(Staged, Digest), PackError> {
    let writer = staging.create().map_err(ImportError::from)?;
    let path = writer.path().to_owned();
    let encoder = match options.compression {
        Compression::Gzip => {
            Encoder::Gzip(GzBuilder::new().mtime(0).write(writer, flate2::Compression::default()))
        }
        Compression::Zstd => {
            Encoder::Zstd(zstd::Encoder::new(writer, 0).map_err(|e| stored(at("compress", &path)(e)))?)
        }
    };
    let mut packer = Packer {
        archive: tar::Builder::new(Hashed { inner: encoder, hash: Sha256::new() }),
        mtime: options.mtime,
        links: HashMap::new(),
        path,
    };
    packer.add_children(directory, Path::new(""))?;
    let Packer { archive, path, .. } = packer;
    let wrong = |e: io::Error| stored(at("write", &path)(e));
    let Hashed { inner, hash } = archive.into_inner().map_err(wrong)?;
    let writer = match inner {
        Encoder::Gzip(encoder) => encoder.finish(),
        Encoder::Zstd(encoder) => encoder.finish(),
    };
    let layer = writer.map_err(wrong)?.finish().map_err(ImportError::from)?;
    Ok((layer, Digest::from_bytes(hash.finalize().into())))
}

fn stored(error: FileError) -> PackError {
    PackError::Import(error.into())
}

enum Encoder {
    Gzip(flate2::write::GzEncoder<Writer>),
    Zstd(zstd::Encoder<'static, Writer>),
}

struct Hashed {
    inner: Encoder,
    hash: Sha256,
}

impl Write for Hashed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = match &mut self.inner {
            Encoder::Gzip(encoder) => encoder.write(buffer)?,
            Encoder::Zstd(encoder) => encoder.write(buffer)?,
        };
        self.hash.update(&buffer[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Packer {
    archive: tar::Builder<Hashed>,
    mtime: u64,
    /// First name of each file that has several.
    links: HashMap<(u64, u64), PathBuf>,
    /// The staged file, for errors.
    path: PathBuf,
}

impl Packer {
    fn add_children(&mut self, directory: &Path, inside: &Path) -> Result<(), PackError> {
        let read =
            || fs::read_dir(directory)?.map(|e| e.map(|e| e.file_name())).collect::<io::Result<Vec<_>>>();
        let mut names = read().map_err(|e| PackError::File(at("read", directory)(e)))?;
        names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        for name in names {
            let path = directory.join(&name);
            let meta = fs::symlink_metadata(&path).map_err(|e| PackError::File(at("read", &path)(e)))?;
            self.add(&path, &inside.join(&name), &meta)?;
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, inside: &Path, meta: &Metadata) -> Result<(), PackError> {
        let kind = meta.file_type();
        let refuse = |kind| Err(PackError::FileType { path: path.to_owned(), kind });
        if kind.is_dir() {
            // A trailing slash marks a directory for tools that do not read the type.
            self.append(&inside.join(""), meta, EntryType::Directory, None, 0, io::empty())?;
            return self.add_children(path, inside);
        } else if kind.is_symlink() {
            let target = fs::read_link(path).map_err(|e| PackError::File(at("read", path)(e)))?;
            return self.append(inside, meta, EntryType::Symlink, Some(&target), 0, io::empty());
        } else if kind.is_fifo() {
            return self.append(inside, meta, EntryType::Fifo, None, 0, io::empty());
        } else if kind.is_socket() {
            return refuse("a socket");
        } else if !kind.is_file() {
            return refuse("a device node");
        }
        if meta.nlink() > 1
            && let Some(first) = self.links.get(&(meta.dev(), meta.ino())).cloned()
        {
            return self.append(inside, meta, EntryType::Link, Some(&first), 0, io::empty());
        }
        self.links.insert((meta.dev(), meta.ino()), inside.to_owned());
        self.add_file(path, inside)
    }

    fn add_file(&mut self, path: &Path, inside: &Path) -> Result<(), PackError> {
        let read = |e| PackError::File(at("read", path)(e));
        let mut file = File::open(path).map_err(read)?;
        let meta = file.metadata().map_err(read)?;
        let mut data = Exact { inner: (&mut file).take(meta.len()), missing: meta.len(), error: None };
        let appended = self.append(inside, &meta, EntryType::Regular, None, meta.len(), &mut data);
        if let Some(error) = data.error.take() {
            return Err(read(error));
        }
        let is_longer = file.read(&mut [0]).map_err(read)? > 0;
        match appended {
            Ok(()) if !is_longer => Ok(()),
            Err(error) if !is_changed(&error) => Err(error),
            _ => Err(PackError::Changed { path: path.to_owned() }),
        }
    }

    fn append(
        &mut self,
        inside: &Path,
        meta: &Metadata,
        kind: EntryType,
        link: Option<&Path>,
        size: u64,
        data: impl Read,
    ) -> Result<(), PackError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(if kind.is_symlink() { 0o777 } else { meta.mode() & 0o7777 });
        header.set_mtime(self.mtime);
        header.set_uid(0);
        header.set_gid(0);
        let written = match link {
            // As it is: `append_link` would write `a//b` as `a/b` where it is short enough for the header.
            Some(target) if header.set_link_name_literal(target.as_os_str().as_bytes()).is_ok() => {
                self.archive.append_data(&mut header, inside, data)
            }
            Some(target) => self.archive.append_link(&mut header, inside, target),
            None => self.archive.append_data(&mut header, inside, data),
        };
        written.map_err(|error| {
            if is_no_space(&error) {
                return PackError::Import(ImportError::NoSpace { path: self.path.clone() });
            }
            PackError::File(at("pack", inside)(error))
        })
    }
}

/// A file's contents; ending before the size that the header says is an error, because it would damage the archive.
struct Exact<R> {
    inner: R,
    missing: u64,
    error: Option<io::Error>,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(0) if self.missing > 0 && !buffer.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                self.missing -= n as u64;
                Ok(n)
            }
            Err(error) => {
                let kind = error.kind();
                self.error = Some(error);
                Err(kind.into())
            }
        }
    }
}

fn is_changed(error: &PackError) -> bool {
    matches!(error, PackError::File(e) if e.source.kind() == io::ErrorKind::UnexpectedEof)
}
