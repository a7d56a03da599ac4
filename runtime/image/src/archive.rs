//! Where an import reads from: the members of a tar archive, or the files of a directory.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::document::{DOCUMENT_BYTES_MAX, Descriptor};
use crate::error::{ImportError, at};
use crate::stage::{Staged, Staging};
use crate::unpack::Limits;
use crate::unpack::member::{Kind, Members, display};

/// The most members of an image archive: an image has at most 127 layers, docker save writes three members for each.
const MEMBERS_MAX: u64 = 10_000;
const BUFFER_BYTES: usize = 256 << 10;
/// How many links may lead from one member to the next.
const LINKS_MAX: usize = 4;

/// Named files that make up an image.
pub(crate) enum Source {
    Directory(OwnedFd, std::path::PathBuf),
    Archive { files: HashMap<String, Staged>, links: HashMap<String, String> },
}

impl Source {
    /// Takes an archive apart, each member into a staged file.
    pub(crate) fn from_archive(
        input: &str,
        reader: impl Read,
        staging: &Staging,
        limits: &Limits,
    ) -> Result<Self, ImportError> {
        let wrong = |source| ImportError::Archive { input: input.to_owned(), source };
        let mut members = Members::new(crate::unpack::open(reader, limits).map_err(wrong)?);
        let (mut files, mut links) = (HashMap::new(), HashMap::new());
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut count = 0;
        while let Some(member) = members.next().map_err(wrong)? {
            count += 1;
            if count > MEMBERS_MAX {
                return Err(ImportError::TooLarge { what: "members", limit: MEMBERS_MAX });
            }
            let Some(name) = normalise("", &member.path) else { continue };
            match member.kind {
                Kind::File => {
                    let mut writer = staging.create()?;
                    writer.copy(&mut members, &mut buffer)?.map_err(|e| wrong(members.read_error(e)))?;
                    files.insert(name, writer.finish()?);
                }
                // Old versions of docker save link a layer that several images share.
                Kind::Symlink => {
                    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                    normalise(parent, &member.link).and_then(|target| links.insert(name, target));
                }
                Kind::HardLink => {
                    normalise("", &member.link).and_then(|target| links.insert(name, target));
                }
                Kind::Directory | Kind::Fifo | Kind::Device => {}
            }
        }
        Ok(Self::Archive { files, links })
    }

    /// Whether there is such a file.
    pub(crate) fn has(&self, member: &str) -> bool {
        match self {
            Self::Directory(fd, _) => open(fd, member).is_ok(),
            Self::Archive { .. } => self.find(member).is_some(),
        }
    }

    /// A whole document.
    pub(crate) fn read(&self, member: &str, wanted_by: &str) -> Result<Vec<u8>, ImportError> {
        let file = match self {
            Self::Directory(fd, _) => open(fd, member).map_err(|_| missing(member, wanted_by))?,
            Self::Archive { .. } => {
                let staged = self.find(member).ok_or_else(|| missing(member, wanted_by))?;
                File::open(&staged.path).map_err(at("open", &staged.path))?
            }
        };
        read_document(file, member)
    }

    /// A member as a staged file.
    pub(crate) fn fetch(
        &self,
        member: &str,
        wanted_by: &str,
        staging: &Staging,
    ) -> Result<Staged, ImportError> {
        match self {
            Self::Archive { .. } => self.find(member).cloned().ok_or_else(|| missing(member, wanted_by)),
            Self::Directory(fd, path) => {
                let mut file = open(fd, member).map_err(|_| missing(member, wanted_by))?;
                let mut writer = staging.create()?;
                let mut buffer = vec![0; BUFFER_BYTES];
                writer.copy(&mut file, &mut buffer)?.map_err(at("read", &path.join(member)))?;
                Ok(writer.finish()?)
            }
        }
    }

    /// A blob of an OCI layout, verified against what names it.
    pub(crate) fn fetch_blob(
        &self,
        blob: &Descriptor,
        wanted_by: &str,
        staging: &Staging,
    ) -> Result<Staged, ImportError> {
        let member = format!("blobs/sha256/{}", blob.digest.hex());
        let staged = self.fetch(&member, wanted_by, staging)?;
        if (staged.digest, staged.size) == (blob.digest, blob.size) {
            return Ok(staged);
        }
        Err(ImportError::WrongContent {
            member,
            expected: blob.digest,
            actual: staged.digest,
            expected_size: blob.size,
            actual_size: staged.size,
        })
    }

    fn find(&self, member: &str) -> Option<&Staged> {
        let Self::Archive { files, links } = self else { return None };
        let mut name = normalise("", member.as_bytes())?;
        for _ in 0..=LINKS_MAX {
            if let Some(staged) = files.get(&name) {
                return Some(staged);
            }
            name = links.get(&name)?.clone();
        }
        None
    }
}

/// Reads a staged document whole.
pub(crate) fn read_staged(staged: &Staged, member: &str) -> Result<Vec<u8>, ImportError> {
    read_document(File::open(&staged.path).map_err(at("open", &staged.path))?, member)
}

fn read_document(file: File, member: &str) -> Result<Vec<u8>, ImportError> {
    let mut bytes = Vec::new();
    file.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(at("read", member.as_ref()))?;
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(ImportError::TooLarge {
            what: "bytes of manifest or configuration",
            limit: DOCUMENT_BYTES_MAX,
        });
    }
    Ok(bytes)
}

fn missing(member: &str, wanted_by: &str) -> ImportError {
    ImportError::Missing { member: display(member.as_bytes()), wanted_by: wanted_by.to_owned() }
}

/// Opens a regular file of a directory, which may not lead out of it.
fn open(directory: &OwnedFd, member: &str) -> std::io::Result<File> {
    // Without O_NONBLOCK, opening a fifo would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(rustix::fs::openat2(directory, member, flags, Mode::empty(), resolve)?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::ErrorKind::InvalidInput.into()) }
}

/// `path`, seen from `base`, without `.` and `..`; `None` if it is not text, empty, or leads out.
fn normalise(base: &str, path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    let mut parts: Vec<&str> = base.split('/').filter(|p| !p.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() { None } else { Some(parts.join("/")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_names() {
        let check = |base, path: &str, expect: Option<&str>| {
            assert_eq!(normalise(base, path.as_bytes()).as_deref(), expect, "{base} {path}");
        };
        check("", "./manifest.json", Some("manifest.json"));
        check("", "/a//b/", Some("a/b"));
        check("a", "../b/layer.tar", Some("b/layer.tar"));
        check("a", "../../b", None);
        check("", "..", None);
        check("", "./", None);
    }
}
