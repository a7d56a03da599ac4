//! Volumes that outlive tasks: a directory for each name in a cluster, as a container instance's Docker
//! keeps them. Nobody but their owner removes them.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use neargate_model::TaskSpec;

use crate::files::TaskFiles;

/// Why a task does not get its volume.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error(
        "volume {name:?} does not exist in the task's cluster, and its definition does not say autoprovision"
    )]
    Missing { name: String },
    #[error("make volume {name:?}")]
    Make {
        name: String,
        #[source]
        source: io::Error,
    },
}

/// Directories are made one at a time, so that no task sees one that is not ready.
static MAKING: Mutex<()> = Mutex::new(());

/// What a directory is called before it is ready; no volume's name begins with a dot.
const UNREADY: &str = ".unready";

/// The directory of the volume of this name in the task's cluster; made when missing, if `may_make`.
pub(crate) fn shared(
    root: &Path,
    task: &TaskSpec,
    name: &str,
    may_make: bool,
    files: &dyn TaskFiles,
) -> Result<PathBuf, VolumeError> {
    let failed = |source| VolumeError::Make { name: name.to_owned(), source };
    if !is_name(name) {
        return Err(failed(io::Error::from(io::ErrorKind::InvalidInput)));
    }
    let scope = &task.scope;
    let cluster =
        root.join(scope.account.to_string()).join(scope.region.to_string()).join(task.cluster.to_string());
    let dir = cluster.join(name);
    // Held over a few system calls, on a thread that waits for the disk in any case.
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    match dir.symlink_metadata() {
        Ok(found) if found.is_dir() => return Ok(dir),
        Ok(_) => return Err(failed(io::Error::from(io::ErrorKind::NotADirectory))),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Err(_) if !may_make => return Err(VolumeError::Missing { name: name.to_owned() }),
        Err(_) => {}
    }
    let unready = cluster.join(UNREADY);
    make(&unready, files).and_then(|()| fs::rename(&unready, &dir)).map_err(failed)?;
    Ok(dir)
}

/// Docker's rule: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// An empty directory of the containers' root that every user of a container may write to; nobody else
/// reaches it, because those above are closed.
fn make(dir: &Path, files: &dyn TaskFiles) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    files.give(dir)
}

#[cfg(test)]
mod tests {
    use neargate_model::ClusterName;
    use neargate_model::lifecycle::testing::{container, spec};

    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::files::OwnTaskFiles;

    fn shared(root: &Path, task: &TaskSpec, name: &str, may_make: bool) -> Result<PathBuf, VolumeError> {
        super::shared(root, task, name, may_make, &OwnTaskFiles)
    }

    #[test]
    fn a_volume_is_made_once_and_belongs_to_a_cluster() {
        let root = tempfile::tempdir().unwrap();
        let task = spec(vec![container("a")]);
        let missing = shared(root.path(), &task, "data", false).unwrap_err();
        assert!(missing.to_string().contains("autoprovision"), "{missing}");
        let dir = shared(root.path(), &task, "data", true).unwrap();
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o7777, 0o777);
        fs::write(dir.join("x"), "kept").unwrap();
        assert_eq!(shared(root.path(), &task, "data", false).unwrap(), dir);
        assert_eq!(fs::read_to_string(dir.join("x")).unwrap(), "kept");
        let mut other = task;
        other.cluster = ClusterName::new("other").unwrap();
        assert!(matches!(shared(root.path(), &other, "data", false), Err(VolumeError::Missing { .. })));
    }

    #[test]
    fn no_name_leads_elsewhere() {
        let root = tempfile::tempdir().unwrap();
        let task = spec(vec![container("a")]);
        for name in ["", ".", "..", "../x", "/etc", "a/b", ".unready", "a b", "a\0"] {
            assert!(
                matches!(shared(root.path(), &task, name, true), Err(VolumeError::Make { .. })),
                "{name:?}"
            );
        }
        let dir = shared(root.path(), &task, "link", true).unwrap();
        fs::remove_dir(&dir).unwrap();
        std::os::unix::fs::symlink("/etc", &dir).unwrap();
        assert!(matches!(shared(root.path(), &task, "link", true), Err(VolumeError::Make { .. })));
    }
}
