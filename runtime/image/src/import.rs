//! Imports images from files: OCI image layouts, `docker save` archives and Wasm binaries, told apart by their
//! content.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use neargate_model::image::ImageReference;
use serde::Deserialize;

use crate::archive::{Source, read_staged};
use crate::commit::{Bundle, Imported};
use crate::document::{self, Descriptor, Document, DocumentError, Manifest, OCI_CONFIG, OCI_LAYER};
use crate::error::{ImportError, at};
use crate::stage::{Staged, Staging};
use crate::store::ImageStore;
use crate::wasm::{self, CONFIG_TYPE, LAYER_TYPE};

/// An index may lead to another index, as `docker buildx` makes them; no deeper.
const INDEX_DEPTH_MAX: usize = 3;
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// One image of `manifest.json` in a `docker save` archive (moby `image/tarexport`).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// One image of an archive and the names that the archive gives to it.
struct Candidate<T> {
    image: T,
    names: Vec<ImageReference>,
}

impl ImageStore {
    /// Imports the image in a file or a directory: an OCI image layout (a directory, or a tar archive, plain or
    /// compressed), an archive of `docker save`, or a Wasm binary.
    ///
    /// Its name is `name`, else what the archive says, else the file's stem. Of an archive with several images `name`
    /// chooses one. On error the store is as it was.
    pub fn import(
        &self,
        path: impl AsRef<Path>,
        name: Option<ImageReference>,
    ) -> Result<Imported, ImportError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(at("open", path))?;
        let meta = file.metadata().map_err(at("read", path))?;
        let input = path.display().to_string();
        let stem = stem(path);
        if !meta.is_dir() {
            return self.import_stream(file, &input, &stem, name);
        }
        let staging = self.shared.staging()?;
        let source = Source::Directory(OwnedFd::from(file), path.to_owned());
        self.import_source(&source, &input, &stem, name, &staging)
    }

    /// Imports the image in a stream, as [`ImageStore::import`] does from a file; without a name of its own it is
    /// called `imported`.
    pub fn import_reader(
        &self,
        reader: impl Read,
        name: Option<ImageReference>,
    ) -> Result<Imported, ImportError> {
        self.import_stream(reader, "the input", "imported", name)
    }

    fn import_stream(
        &self,
        mut reader: impl Read,
        input: &str,
        stem: &str,
        name: Option<ImageReference>,
    ) -> Result<Imported, ImportError> {
        let mut head = Vec::new();
        (&mut reader).take(512).read_to_end(&mut head).map_err(at("read", input.as_ref()))?;
        let is_compressed = head.starts_with(&[0x1f, 0x8b]) || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
        // The magic of POSIX and GNU tar; anything that writes image archives sets it.
        let is_tar = head.get(257..262) == Some(b"ustar");
        let is_wasm = wasm::format(&head).is_some();
        if !(is_compressed || is_tar || is_wasm) {
            return Err(ImportError::NotAnImage { input: input.to_owned(), found: wasm::describe(&head) });
        }
        let whole = io::Cursor::new(head).chain(reader);
        let staging = self.shared.staging()?;
        if is_wasm {
            return self.import_wasm(whole, input, stem, name, &staging);
        }
        let source = Source::from_archive(input, whole, &staging, &self.shared.options.limits)?;
        self.import_source(&source, input, stem, name, &staging)
    }

    fn import_wasm(
        &self,
        reader: impl Read,
        input: &str,
        stem: &str,
        name: Option<ImageReference>,
        staging: &Staging,
    ) -> Result<Imported, ImportError> {
        let mut bytes = Vec::new();
        reader.take(wasm::WASM_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(at("read", input.as_ref()))?;
        if bytes.len() as u64 > wasm::WASM_BYTES_MAX {
            return Err(ImportError::TooLarge { what: "bytes of Wasm", limit: wasm::WASM_BYTES_MAX });
        }
        let wrong = |reason| ImportError::Wasm { input: input.to_owned(), reason };
        let format =
            wasm::format(&bytes).ok_or_else(|| wrong(format!("it is {}", wasm::describe(&bytes))))?;
        let layer = staging.write(&bytes)?;
        let config = staging.write(&wasm::artifact_config(&bytes, format, layer.digest).map_err(wrong)?)?;
        let manifest = Manifest::new(
            Descriptor::new(CONFIG_TYPE, config.digest, config.size),
            vec![Descriptor::new(LAYER_TYPE, layer.digest, layer.size)],
        );
        let manifest = staging.write(&encode(&manifest)?)?;
        let name = name.map_or_else(|| default_name(stem, None), Ok)?;
        let bundle = Bundle { indexes: Vec::new(), manifest, config, layers: vec![layer] };
        self.shared.commit(&bundle, name, Vec::new(), staging)
    }

    fn import_source(
        &self,
        source: &Source,
        input: &str,
        stem: &str,
        name: Option<ImageReference>,
        staging: &Staging,
    ) -> Result<Imported, ImportError> {
        let (bundle, names) = if source.has("index.json") {
            self.load_layout(source, stem, name.as_ref(), staging)?
        } else if source.has("manifest.json") {
            load_saved(source, name.as_ref(), staging)?
        } else {
            let found = "an archive or directory without index.json and manifest.json";
            return Err(ImportError::NotAnImage { input: input.to_owned(), found });
        };
        let (name, aliases) = match name {
            Some(name) => (name, Vec::new()),
            None => {
                let mut names = names.into_iter();
                let first = names.next().map_or_else(|| default_name(stem, None), Ok)?;
                (first.clone(), names.filter(|n| *n != first).collect())
            }
        };
        self.shared.commit(&bundle, name, aliases, staging)
    }

    fn load_layout(
        &self,
        source: &Source,
        stem: &str,
        name: Option<&ImageReference>,
        staging: &Staging,
    ) -> Result<(Bundle, Vec<ImageReference>), ImportError> {
        let bytes = source.read("index.json", "the layout")?;
        let wrong = |source| ImportError::Document { member: "index.json".to_owned(), source };
        let Document::Index(manifests) = Document::parse(&bytes, None).map_err(wrong)? else {
            return Err(wrong(DocumentError::Confused));
        };
        if manifests.is_empty() {
            return Err(ImportError::Missing {
                member: "manifest".to_owned(),
                wanted_by: "index.json".to_owned(),
            });
        }
        let mut candidates: Vec<Candidate<Descriptor>> = Vec::new();
        for descriptor in &manifests {
            let own = layout_name(descriptor, stem)?;
            match candidates.iter_mut().find(|c| c.image.digest == descriptor.digest) {
                Some(same) => same.names.extend(own),
                None => {
                    candidates.push(Candidate { image: descriptor.clone(), names: own.into_iter().collect() })
                }
            }
        }
        // Several manifests without names are one image for several platforms.
        let is_index = candidates.len() > 1 && candidates.iter().all(|c| c.names.is_empty());
        let chosen = if is_index {
            let image = document::select(&manifests, &self.shared.options.platform)?.clone();
            Candidate { image, names: Vec::new() }
        } else {
            choose(candidates, name)?
        };
        Ok((self.load_tree(source, chosen.image, staging)?, chosen.names))
    }

    /// Follows a descriptor through indexes to the manifest for this machine.
    fn load_tree(&self, source: &Source, root: Descriptor, staging: &Staging) -> Result<Bundle, ImportError> {
        let mut indexes = Vec::new();
        let mut descriptor = root;
        let mut wanted_by = "index.json".to_owned();
        loop {
            let staged = source.fetch_blob(&descriptor, &wanted_by, staging)?;
            let member = format!("blob {}", descriptor.digest);
            let wrong = |source| ImportError::Document { member: member.clone(), source };
            match Document::parse(&read_staged(&staged, &member)?, Some(&descriptor.media_type))
                .map_err(wrong)?
            {
                Document::Index(manifests) => {
                    if indexes.len() == INDEX_DEPTH_MAX {
                        return Err(ImportError::TooLarge {
                            what: "nested indexes",
                            limit: INDEX_DEPTH_MAX as u64,
                        });
                    }
                    indexes.push(staged);
                    descriptor = document::select(&manifests, &self.shared.options.platform)?.clone();
                    wanted_by = member;
                }
                Document::Manifest(manifest) => {
                    return self.load_manifest(source, indexes, staged, &manifest, staging);
                }
            }
        }
    }

    fn load_manifest(
        &self,
        source: &Source,
        indexes: Vec<Staged>,
        staged: Staged,
        manifest: &Manifest,
        staging: &Staging,
    ) -> Result<Bundle, ImportError> {
        let wanted_by = format!("manifest {}", staged.digest);
        let config = source.fetch_blob(&manifest.config, &wanted_by, staging)?;
        // A foreign platform is refused before gigabytes of layers are read.
        if !wasm::is_artifact(manifest) && !wasm::is_spin(&manifest.config.media_type) {
            let member = format!("configuration {}", config.digest);
            let bytes = read_staged(&config, &member)?;
            let parsed = document::Config::parse(&bytes, manifest.layers.len());
            let parsed = parsed.map_err(|source| ImportError::Document { member, source })?;
            parsed.check_platform(&self.shared.options.platform)?;
        }
        let fetch = |layer| source.fetch_blob(layer, &wanted_by, staging);
        let layers = manifest.layers.iter().map(fetch).collect::<Result<_, _>>()?;
        Ok(Bundle { indexes, manifest: staged, config, layers })
    }
}

fn load_saved(
    source: &Source,
    name: Option<&ImageReference>,
    staging: &Staging,
) -> Result<(Bundle, Vec<ImageReference>), ImportError> {
    let wrong = |source| ImportError::Document { member: "manifest.json".to_owned(), source };
    let bytes = source.read("manifest.json", "the archive")?;
    let images: Vec<SavedImage> = serde_json::from_slice(&bytes).map_err(|e| wrong(e.into()))?;
    let mut candidates = Vec::new();
    for image in images {
        let tags = image.repo_tags.as_deref().unwrap_or_default();
        let names =
            tags.iter().map(|t| t.parse()).collect::<Result<Vec<_>, _>>().map_err(ImportError::Name)?;
        candidates.push(Candidate { image, names });
    }
    if candidates.is_empty() {
        return Err(ImportError::Missing {
            member: "image".to_owned(),
            wanted_by: "manifest.json".to_owned(),
        });
    }
    let chosen = choose(candidates, name)?;
    let config = source.fetch(&chosen.image.config, "manifest.json", staging)?;
    let mut layers = Vec::new();
    let mut descriptors = Vec::new();
    for layer in &chosen.image.layers {
        let staged = source.fetch(layer, "manifest.json", staging)?;
        descriptors.push(Descriptor::new(&layer_type(&staged)?, staged.digest, staged.size));
        layers.push(staged);
    }
    let manifest = Manifest::new(Descriptor::new(OCI_CONFIG, config.digest, config.size), descriptors);
    let bytes = encode(&manifest)?;
    Document::parse(&bytes, None).map_err(wrong)?;
    let manifest = staging.write(&bytes)?;
    Ok((Bundle { indexes: Vec::new(), manifest, config, layers }, chosen.names))
}

/// The media type for a layer, by its compression.
fn layer_type(staged: &Staged) -> Result<String, ImportError> {
    let mut head = Vec::new();
    let file = File::open(&staged.path).map_err(at("open", &staged.path))?;
    file.take(4).read_to_end(&mut head).map_err(at("read", &staged.path))?;
    Ok(match head.as_slice() {
        [0x1f, 0x8b, ..] => format!("{OCI_LAYER}+gzip"),
        [0x28, 0xb5, 0x2f, 0xfd] => format!("{OCI_LAYER}+zstd"),
        _ => OCI_LAYER.to_owned(),
    })
}

/// The only image, or the one that has the wanted name.
fn choose<T>(
    mut candidates: Vec<Candidate<T>>,
    name: Option<&ImageReference>,
) -> Result<Candidate<T>, ImportError> {
    if candidates.len() > 1 {
        let position = name.and_then(|name| candidates.iter().position(|c| c.names.contains(name)));
        if let Some(i) = position {
            return Ok(candidates.swap_remove(i));
        }
    }
    match candidates.pop() {
        Some(only) if candidates.is_empty() => Ok(only),
        last => {
            let all = candidates.iter().chain(&last);
            Err(ImportError::Ambiguous {
                names: all.flat_map(|c| &c.names).map(ImageReference::familiar).collect(),
            })
        }
    }
}

/// The name that a layout gives to an image. `ref.name` is a whole name with some tools and a bare tag with
/// others; a word without `/`, `:` and `@` is a tag, as the image-spec suggests.
fn layout_name(descriptor: &Descriptor, stem: &str) -> Result<Option<ImageReference>, ImportError> {
    let annotation = |key: &str| descriptor.annotations.get(key).map(String::as_str);
    if let Some(name) = annotation(CONTAINERD_NAME) {
        return name.parse().map(Some).map_err(ImportError::Name);
    }
    match annotation(REF_NAME) {
        Some(name) if name.contains(['/', ':', '@']) => name.parse().map(Some).map_err(ImportError::Name),
        Some(tag) => default_name(stem, Some(tag)).map(Some),
        None => Ok(None),
    }
}

fn default_name(stem: &str, tag: Option<&str>) -> Result<ImageReference, ImportError> {
    let text = tag.map_or_else(|| stem.to_owned(), |tag| format!("{stem}:{tag}"));
    text.parse().map_err(ImportError::Name)
}

/// A repository name made of a file's name: without extensions of archives, lower-case, other characters replaced.
pub(crate) fn stem(path: &Path) -> String {
    let absolute = path.file_name().map_or_else(|| path.canonicalize().ok(), |_| Some(path.to_owned()));
    let name = absolute.as_deref().and_then(Path::file_name).map(|n| n.to_string_lossy().to_lowercase());
    let mut name = name.as_deref().unwrap_or("imported");
    for extension in [".gz", ".zst", ".tgz", ".tar", ".wasm"] {
        name = name.strip_suffix(extension).unwrap_or(name);
    }
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let words: Vec<&str> = name.split(|c| !is_word(c)).filter(|w| !w.is_empty()).collect();
    let joined: String = words.join("-").chars().take(100).collect();
    let joined = joined.trim_end_matches('-');
    // 64 hexadecimal digits alone would be an image id.
    if joined.is_empty() || joined.len() == 64 { format!("imported{joined}") } else { joined.to_owned() }
}

fn encode(manifest: &Manifest) -> Result<Vec<u8>, ImportError> {
    let wrong =
        |e: serde_json::Error| ImportError::Document { member: "new manifest".to_owned(), source: e.into() };
    serde_json::to_vec(manifest).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_files() {
        let check = |path: &str, expect: &str| {
            assert_eq!(stem(Path::new(path)), expect);
            assert!(expect.parse::<ImageReference>().is_ok());
        };
        check("/x/hello.wasm", "hello");
        check("Hello_World.component.wasm", "hello-world-component");
        check("alpine-3.20.tar.gz", "alpine-3-20");
        check("--..--", "imported");
        check("日本.wasm", "imported");
        check(&"a".repeat(64), &format!("imported{}", "a".repeat(64)));
        check(&"b".repeat(300), &"b".repeat(100));
    }
}
