//! The cgroups of tasks, as anybody on the machine can find them.

use std::fs;
use std::path::{Path, PathBuf};

/// Where cgroup hierarchies are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// How deep below that groups of tasks are looked for.
const DEPTH_MAX: usize = 8;
/// The attribute that names the task of a group; for root alone.
const ATTRIBUTE: &str = "trusted.neargate.task";
/// Longest value of it.
const VALUE_BYTES_MAX: usize = 256;

/// The directories of the groups of tasks, in every hierarchy, whose ids are wanted.
pub fn groups_of_tasks(is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![(PathBuf::from(ROOT), 0)];
    while let Some((directory, depth)) = open.pop() {
        let children = fs::read_dir(&directory).into_iter().flatten().flatten();
        for child in children.filter(|child| child.file_type().is_ok_and(|kind| kind.is_dir())) {
            match task_of(&child.path()) {
                Some(task) if is_wanted(&task) => found.push(child.path()),
                None if depth < DEPTH_MAX => open.push((child.path(), depth + 1)),
                _ => {}
            }
        }
    }
    found
}

/// Whether a directory belongs to a group that a server keeps in stock for a task to come.
pub(crate) fn is_in_stock(directory: &Path) -> bool {
    let is_cell = |path: &&Path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("cell-"))
    };
    directory.ancestors().filter(is_cell).last().is_some_and(|cell| task_of(cell).is_none())
}

fn task_of(directory: &Path) -> Option<String> {
    let mut value = [0; VALUE_BYTES_MAX];
    let length = rustix::fs::getxattr(directory, ATTRIBUTE, &mut value[..]).ok()?;
    String::from_utf8(value[..length].to_vec()).ok()
}
