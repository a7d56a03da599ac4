//! What is known of a layer's blob beyond its content: which registries have handed it out, and what it unpacks to.
//!
//! A registry that names a layer is believed to have it only if it has handed it out once: otherwise whoever knows the
//! digest of a layer of somebody else's could have it by naming it. Notes are hints. One that is lost or damaged costs
//! another download; a blob without one is never taken as authorised.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use neargate_model::image::Digest;
use serde::{Deserialize, Serialize};

use crate::error::{FileError, at};
use crate::stage::Staging;

/// A layer of a public image may come from many mirrors; the oldest are forgotten.
const REGISTRIES_MAX: usize = 16;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// Registries that have handed it out, as references name them.
    pub(crate) registries: Vec<String>,
    /// The digest of the uncompressed layer, once that was worked out.
    pub(crate) diff_id: Option<Digest>,
}

fn path(notes: &Path, blob: Digest) -> PathBuf {
    notes.join(blob.hex())
}

/// The note on a blob; an empty one if there is none.
pub(crate) fn read(notes: &Path, blob: Digest) -> Note {
    let read = fs::read(path(notes, blob)).ok();
    read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Adds to the note on a blob. Of two that add at once, one may be lost.
pub(crate) fn add(
    notes: &Path,
    blob: Digest,
    registry: &str,
    diff_id: Option<Digest>,
    staging: &Staging,
) -> Result<(), FileError> {
    let before = read(notes, blob);
    let mut after = before.clone();
    after.registries.retain(|known| known != registry);
    after.registries.push(registry.to_owned());
    let excess = after.registries.len().saturating_sub(REGISTRIES_MAX);
    after.registries.drain(..excess);
    after.diff_id = diff_id.or(after.diff_id);
    if before == after {
        return Ok(());
    }
    let target = path(notes, blob);
    let bytes = serde_json::to_vec(&after).map_err(io::Error::from).map_err(at("encode", &target))?;
    let staged = staging.write(&bytes)?;
    fs::rename(&staged.path, &target).map_err(at("create", &target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::OwnLayerFiles;

    #[test]
    fn registries_are_remembered_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let staging = Staging::new(directory.path(), std::sync::Arc::new(OwnLayerFiles)).unwrap();
        let notes = directory.path().join("notes");
        fs::create_dir(&notes).unwrap();
        let (blob, diff_id) = (Digest::from_bytes([1; 32]), Digest::from_bytes([2; 32]));
        assert_eq!(read(&notes, blob), Note::default());
        add(&notes, blob, "a", Some(diff_id), &staging).unwrap();
        add(&notes, blob, "b", None, &staging).unwrap();
        add(&notes, blob, "a", None, &staging).unwrap();
        let note = read(&notes, blob);
        assert_eq!((note.registries.join(" "), note.diff_id), ("b a".to_owned(), Some(diff_id)));
        (0..20).for_each(|n| add(&notes, blob, &format!("r{n}"), None, &staging).unwrap());
        assert_eq!(read(&notes, blob).registries.len(), REGISTRIES_MAX);
        fs::write(path(&notes, blob), b"{\"regis").unwrap();
        assert_eq!(read(&notes, blob), Note::default());
    }
}
