//! What containers leave for the debugger: core dumps and profiles, a directory for each task.
//!
//! A file appears whole, in the place of that of an earlier life of the container. All that this module is
//! asked for by name is checked to be one plain name, so that nobody reaches beyond the directory.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use neargate_model::{ContainerName, TaskId};

/// Files that one container may leave; it can leave two.
const FILES_MAX: usize = 16;

/// The artifacts of all tasks of a node.
#[derive(Clone, Debug)]
pub struct Artifacts {
    root: PathBuf,
}

/// One file that a container left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The container.
    pub container: String,
    /// The file's name: `core` or `profile.json`.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

impl Artifacts {
    /// The artifacts below a directory, which is made when there is something to keep.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn of(&self, task: &TaskId, container: &str) -> PathBuf {
        self.root.join(task.as_str()).join(container)
    }

    /// The directory for what a container may leave, which its driver makes when it leaves something; what an
    /// earlier life of it left is gone.
    pub(crate) fn begin(&self, task: &TaskId, container: &ContainerName) -> io::Result<PathBuf> {
        let dir = self.of(task, container.as_str());
        remove(&dir)?;
        Ok(dir)
    }

    /// What a container that has ended left, in order.
    pub(crate) fn left(&self, task: &TaskId, container: &ContainerName) -> Vec<String> {
        let files = files(&self.of(task, container.as_str())).into_iter();
        let mut names: Vec<String> = files.map(|(name, _)| name).collect();
        names.sort();
        names
    }

    /// All that the containers of a task left, in order.
    pub fn list(&self, task: &TaskId) -> Vec<Artifact> {
        let containers = fs::read_dir(self.root.join(task.as_str())).into_iter().flatten().flatten();
        let names = containers.filter_map(|entry| entry.file_name().into_string().ok());
        let of = |container: String| {
            let found = files(&self.of(task, &container)).into_iter();
            found.map(move |(name, bytes)| Artifact { container: container.clone(), name, bytes })
        };
        let mut artifacts: Vec<Artifact> = names.flat_map(of).collect();
        artifacts.sort_by(|a, b| (&a.container, &a.name).cmp(&(&b.container, &b.name)));
        artifacts
    }

    /// Opens one file, if it is there.
    pub fn open(&self, task: &TaskId, container: &str, name: &str) -> io::Result<Option<File>> {
        if !is_plain(container) || !is_plain(name) {
            return Ok(None);
        }
        let path = self.of(task, container).join(name);
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC;
        match fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The tasks that left something.
    pub fn tasks(&self) -> Vec<TaskId> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries.filter_map(|entry| TaskId::new(entry.file_name().into_string().ok()?).ok()).collect()
    }

    /// Forgets what a task left.
    pub fn forget(&self, task: &TaskId) -> io::Result<()> {
        remove(&self.root.join(task.as_str()))
    }
}

/// The regular files of a directory with their sizes; none when there is no such directory.
fn files(dir: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().take(FILES_MAX);
    let file = |entry: fs::DirEntry| {
        let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
        // One that is not plain is still being written.
        let name = entry.file_name().into_string().ok().filter(|name| is_plain(name))?;
        Some((name, metadata.len()))
    };
    entries.filter_map(file).collect()
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use neargate_model::lifecycle::testing::name;

    use super::*;

    #[test]
    fn what_is_left_is_listed_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::new(dir.path().join("artifacts"));
        let task = TaskId::new("a".repeat(32)).unwrap();
        let of = artifacts.begin(&task, &name("main")).unwrap();
        assert_eq!(artifacts.left(&task, &name("main")), Vec::<String>::new());
        assert_eq!(artifacts.tasks(), [], "nothing is made for nothing");
        fs::create_dir_all(&of).unwrap();
        fs::write(of.join("core"), b"\0asm").unwrap();
        fs::write(of.join("profile.json"), b"{}").unwrap();
        fs::write(of.join(".core.7"), b"not whole").unwrap();
        assert_eq!(artifacts.left(&task, &name("main")), ["core", "profile.json"]);
        let listed: Vec<_> = artifacts.list(&task).into_iter().map(|a| (a.name, a.bytes)).collect();
        assert_eq!(listed, [("core".to_owned(), 4), ("profile.json".to_owned(), 2)]);
        assert_eq!(artifacts.tasks(), std::slice::from_ref(&task));
        artifacts.begin(&task, &name("main")).unwrap();
        assert_eq!(artifacts.list(&task), [], "a new life begins without the old one's");
        artifacts.forget(&task).unwrap();
        assert_eq!(artifacts.tasks(), []);
        assert_eq!(artifacts.list(&task), []);
    }

    #[test]
    fn only_files_of_the_directory_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::new(dir.path().to_owned());
        let task = TaskId::new("a".repeat(32)).unwrap();
        let of = artifacts.begin(&task, &name("main")).unwrap();
        fs::create_dir_all(&of).unwrap();
        fs::write(of.join("core"), b"x").unwrap();
        fs::write(dir.path().join("secret"), b"x").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), of.join("link")).unwrap();
        let check = |container: &str, name: &str, expect: bool| {
            let found = artifacts.open(&task, container, name).is_ok_and(|file| file.is_some());
            assert_eq!(found, expect, "{container}/{name}");
        };
        check("main", "core", true);
        check("main", "profile.json", false);
        check("main", "link", false);
        check("main", "../main/core", false);
        check("..", "secret", false);
        check(".", "main", false);
        check("", "core", false);
    }
}
