//! How far a server reaches that is not root.
//!
//! Such a server has given root up so that whoever takes it over has no more than it: no other program as supervisor,
//! no ids of host users, and of the host's files the data directory's and those that the operator allows. What is
//! beneath a directory here has no link in its path either; the mounts see to that
//! ([`open_real`](crate::rootfs::open_real)).

use std::path::{Component, Path};

use crate::config::{self, DEFAULT_ID_BASE};
use crate::failure::Failure;
use crate::protocol::{Allowed, AllowedPath, MountPlan, Setup, SourcePlan, StartPlan};
use crate::rootfs::path_of;

/// The directories of a server.
#[derive(Debug)]
pub(super) struct Bounds<'a> {
    /// Its data directory.
    pub(super) data: &'a Path,
    /// The most that it may let containers have, and where it may mount from.
    pub(super) allowed: &'a Allowed,
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
        let is_own = |path: &[u8], name| self.is_own(path_of(path), name);
        if !plan.layers.iter().all(|layer| is_own(layer, "images/layers"))
            || !is_own(&plan.scratch, "scratch")
        {
            return Err(refused("a container outside its data directory"));
        }
        plan.mounts.iter().try_for_each(|mount| self.check_mount(mount))
    }

    fn check_mount(&self, mount: &MountPlan) -> Result<(), Failure> {
        let SourcePlan::Host { path } = &mount.source else { return Ok(()) };
        let path = path_of(path);
        if self.is_own(path, "scratch") || self.is_own(path, "volumes") {
            return Ok(());
        }
        match self.host_path(path) {
            None => Err(refused(&format!("to mount {}", path.display()))),
            Some(allowed) if allowed.read_only && !mount.read_only => {
                Err(refused(&format!("to write to {}", path.display())))
            }
            Some(_) => Ok(()),
        }
    }

    fn is_own(&self, path: &Path, name: &str) -> bool {
        is_beneath(path, &self.data.join(name))
    }

    /// What the operator says of a path; the longest directory decides, and of two that are the same the one that allows
    /// more, as in [`Policy::host_path`](neargate_model::Policy::host_path).
    fn host_path(&self, path: &Path) -> Option<&AllowedPath> {
        let fits = |allowed: &&AllowedPath| {
            let directory = path_of(&allowed.path);
            path == directory || is_beneath(path, directory)
        };
        let fitting = self.allowed.host_paths.iter().filter(fits);
        fitting.max_by_key(|allowed| (path_of(&allowed.path).components().count(), !allowed.read_only))
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
    fn what_may_be_read_only_is_not_written_to() {
        let allowed = |path: &str, read_only| AllowedPath { path: path.as_bytes().to_vec(), read_only };
        let host_paths = vec![
            allowed("/srv", true),
            allowed("/srv/data", false),
            allowed("/srv/data/old", true),
            allowed("/srv/data/old", false),
        ];
        let allowed = Allowed {
            capabilities: 0,
            privileged: false,
            host_network: false,
            host_ipc: false,
            host_pid: false,
            devices: vec![],
            host_paths,
        };
        let bounds = Bounds { data: Path::new("/data"), allowed: &allowed };
        let check = |path: &str, expect: [bool; 2]| {
            let may_mount = [true, false].map(|read_only| {
                let source = SourcePlan::Host { path: path.as_bytes().to_vec() };
                bounds.check_mount(&MountPlan { source, target: b"/x".to_vec(), read_only }).is_ok()
            });
            assert_eq!(may_mount, expect, "{path}");
        };
        check("/srv", [true, false]);
        check("/srv/static/a", [true, false]);
        check("/srv/data", [true, true]);
        check("/srv/data/a", [true, true]);
        check("/srv/data/old", [true, true]);
        check("/srv/database", [true, false]);
        check("/srv/data/../static", [false, false]);
        check("/srv/../etc", [false, false]);
        check("/etc", [false, false]);
        check("/data/volumes/a", [true, true]);
        check("/data/scratch/a", [true, true]);
        check("/data/scratch", [false, false]);
    }

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
