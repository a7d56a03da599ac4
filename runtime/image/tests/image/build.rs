//! Builds archives and images by hand, also such as no builder would write.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use neargate_image::{ImageStore, Platform};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// Files of an image layout by name.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

pub(crate) const MODULE: &[u8] = b"\0asm\x01\0\0\0";
pub(crate) const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) kind: EntryType,
    pub(crate) link: String,
    pub(crate) data: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) pax: Vec<(String, Vec<u8>)>,
}

fn entry(path: &str, kind: EntryType, link: &str, data: &[u8], mode: u32) -> Entry {
    Entry { path: path.into(), kind, link: link.into(), data: data.into(), mode, pax: Vec::new() }
}

pub(crate) fn file(path: &str, data: &[u8]) -> Entry {
    entry(path, EntryType::Regular, "", data, 0o644)
}

pub(crate) fn dir(path: &str) -> Entry {
    entry(path, EntryType::Directory, "", b"", 0o755)
}

pub(crate) fn symlink(path: &str, target: &str) -> Entry {
    entry(path, EntryType::Symlink, target, b"", 0o777)
}

pub(crate) fn hard_link(path: &str, target: &str) -> Entry {
    entry(path, EntryType::Link, target, b"", 0o644)
}

pub(crate) fn of_type(path: &str, kind: EntryType) -> Entry {
    entry(path, kind, "", b"", 0o600)
}

/// One tar block for an entry, its path and link written without any check.
pub(crate) fn header(entry: &Entry, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
    header.as_old_mut().linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
    header.set_entry_type(entry.kind);
    header.set_mode(entry.mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_cksum();
    header
}

pub(crate) fn padded(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes.resize(data.len().next_multiple_of(512), 0);
    bytes
}

pub(crate) fn pax(records: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        write!(body, "{length} {key}=").unwrap();
        body.extend(value);
        body.push(b'\n');
    }
    let header = header(&of_type("pax", EntryType::XHeader), body.len() as u64);
    [header.as_bytes().to_vec(), padded(&body)].concat()
}

/// A tar archive; long paths go into PAX headers.
pub(crate) fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        let mut records = entry.pax.clone();
        let mut short = Entry {
            path: entry.path.clone(),
            link: entry.link.clone(),
            ..self::entry("", entry.kind, "", b"", entry.mode)
        };
        if entry.path.len() > 100 {
            records.push(("path".into(), entry.path.clone().into_bytes()));
            short.path = "long".into();
        }
        if !records.is_empty() {
            bytes.extend(pax(&records));
        }
        bytes.extend(header(&short, entry.data.len() as u64).as_bytes());
        bytes.extend(padded(&entry.data));
    }
    bytes.extend([0; 1024]);
    bytes
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>())
}

pub(crate) fn blob(files: &mut Files, bytes: &[u8], media_type: &str) -> Value {
    let digest = digest(bytes);
    files.insert(format!("blobs/sha256/{}", &digest[7..]), bytes.to_vec());
    json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
}

pub(crate) fn config(process: Value, tars: &[Vec<u8>]) -> Value {
    let host = Platform::host();
    json!({ "os": host.os, "architecture": host.architecture, "config": process,
            "rootfs": { "type": "layers", "diff_ids": tars.iter().map(|t| digest(t)).collect::<Vec<_>>() } })
}

/// Adds an image to a layout and returns its descriptor.
pub(crate) fn add_image(files: &mut Files, config: &Value, tars: &[Vec<u8>]) -> Value {
    let layers: Vec<Value> =
        tars.iter().map(|t| blob(files, &gzip(t), "application/vnd.oci.image.layer.v1.tar+gzip")).collect();
    let config = blob(files, config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
    blob(files, manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json")
}

/// An index.json with these images.
pub(crate) fn add_index(files: &mut Files, manifests: &[Value]) {
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    files.insert("index.json".into(), index.to_string().into_bytes());
    files.insert("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
}

pub(crate) fn layout(process: Value, tars: &[Vec<u8>]) -> Files {
    let mut files = Files::new();
    let image = add_image(&mut files, &config(process, tars), tars);
    add_index(&mut files, &[image]);
    files
}

/// What `docker save` wrote before version 25.
pub(crate) fn docker_save(tags: &[&str], process: Value, tars: &[Vec<u8>]) -> Files {
    let mut files = Files::new();
    let config = config(process, tars).to_string().into_bytes();
    let config_name = format!("{}.json", &digest(&config)[7..]);
    files.insert(config_name.clone(), config);
    let layers: Vec<String> = tars.iter().enumerate().map(|(i, _)| format!("{i:064}/layer.tar")).collect();
    layers.iter().zip(tars).for_each(|(name, tar)| drop(files.insert(name.clone(), tar.clone())));
    let manifest = json!([{ "Config": config_name, "RepoTags": tags, "Layers": layers }]);
    files.insert("manifest.json".into(), manifest.to_string().into_bytes());
    files
}

pub(crate) fn archive(files: &Files) -> Vec<u8> {
    tar(&files.iter().map(|(name, data)| file(name, data)).collect::<Vec<_>>())
}

pub(crate) fn write_to(files: &Files, directory: &Path) {
    for (name, data) in files {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, data).unwrap();
    }
}

pub(crate) fn store() -> (tempfile::TempDir, ImageStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path().join("store")).unwrap();
    (directory, store)
}

/// All files of a store that are not a part of its frame.
pub(crate) fn contents(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for (sub, depth) in [
        ("blobs/sha256", 2),
        ("layers", 1),
        ("refs", 1),
        ("tmp", 1),
        ("pins", 1),
        ("held", 2),
        ("uploads", 2),
    ] {
        let mut level = vec![directory.join("store").join(sub)];
        for _ in 0..depth {
            level =
                level.iter().flat_map(|d| std::fs::read_dir(d).unwrap().map(|e| e.unwrap().path())).collect();
        }
        found.extend(level.iter().map(|p| p.strip_prefix(directory).unwrap().display().to_string()));
    }
    found.sort();
    found
}
