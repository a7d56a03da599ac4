//! How far a server reaches that is not root.
//!
//! Such a server has given root up so that whoever takes it over has no more than it: no other program as supervisor,
//! no ids of host users, and of the host's files the data directory's and those that the operator allows. What is
//! beneath a directory here has no link in its path either; the mounts see to that
//! ([`open_real`](crate::rootfs::open_real)).

use std::path::{Component, Path, PathBuf};

use crate::config::{self, DEFAULT_ID_BASE};
use crate::failure::Failure;
use crate::protocol::{Allowed, Setup, SourcePlan, StartPlan};
use crate::rootfs::path_of;

/// The directories of a server.
#[derive(Debug)]
pub(super) struct Bounds<'a> {
    /// Its data directory.
    pub(super) data: &'a Path,
    /// The most that it may let containers have.
    pub(super) allowed: &'a Allowed,
    /// Directories of the host beneath which it may mount.
    pub(super) host_paths: &'a [PathBuf],
}

impl Bounds<'_> {
    /// Refuses names and ids that are not this server's.
    pub(super) fn check_setup(&self, setup: &Setup) -> Result<(), Failure> {
        let is_own = setup.instance == config::instance_of(self.data) && setup.id_base >= DEFAULT_ID_BASE;
        if !is_own {
            return Err(refused("another server's groups and ids"));
        }
        if setup.allowed != *self.allowed {
            return Err(refused("another policy than it was started with"));
        }
        Ok(())
    }

    /// Refuses what lies elsewhere.
    pub(super) fn check_start(&self, plan: &StartPlan) -> Result<(), Failure> {
        let own = |path: &[u8], name: &str| is_beneath(path_of(path), &self.data.join(name));
        if !plan.layers.iter().all(|layer| own(layer, "images/layers")) || !own(&plan.scratch, "scratch") {
            return Err(refused("a container outside its data directory"));
        }
        let may_mount = |path: &[u8]| {
            let is_allowed = |dir: &PathBuf| path_of(path) == dir || is_beneath(path_of(path), dir);
            own(path, "scratch") || own(path, "volumes") || self.host_paths.iter().any(is_allowed)
        };
        for mount in &plan.mounts {
            if let SourcePlan::Host { path } = &mount.source
                && !may_mount(path)
            {
                return Err(refused(&format!("to mount {}", path_of(path).display())));
            }
        }
        Ok(())
    }
}

/// Whether a plain path leads to something in a directory.
fn is_beneath(path: &Path, directory: &Path) -> bool {
    let is_plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    is_plain && path != directory && path.starts_with(directory)
}

/// What is answered to a server that asks for more than it may.
pub(super) fn refused(what: &str) -> Failure {
    let why =
        "the server has given up the right to it; allow host directories with --allow-host-path, and other things with --policy, at its start".to_owned();
    Failure::Unsupported { what: what.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_inside() {
        let check = |path: &str, expect: bool| {
            assert_eq!(is_beneath(Path::new(path), Path::new("/data/scratch")), expect, "{path}");
        };
        check("/data/scratch/a", true);
        check("/data/scratch/a/b", true);
        check("/data/scratch", false);
        check("/data/scratch/", false);
        check("/data/scratchy/a", false);
        check("/data/scratch/../a", false);
        check("/data/scratch/a/../../../etc", false);
        check("data/scratch/a", false);
        check("/", false);
        check("", false);
    }
}
