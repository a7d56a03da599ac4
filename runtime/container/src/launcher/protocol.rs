//! The messages between the program and its launcher, and between the launcher and a new process.

use std::os::unix::ffi::OsStrExt;

use neargate_driver::{ProcessNetwork, ProcessRole, ProcessSpec, ProcessUser};
use neargate_ipc::{wire_enum, wire_struct};

use crate::failure::Failure;

wire_struct! {
    /// A directory of the host that a process sees.
    pub(crate) struct ProcessMountPlan {
        /// The directory on the host.
        source: Vec<u8>,
        /// Its name below the root.
        name: String,
        /// Whether writing is refused.
        read_only: bool,
    }
}

wire_struct! {
    /// Descriptors, after those of the role, that say where a process is put: a network namespace, a v2
    /// cgroup directory if `unified`, and v1 `tasks` files.
    pub(crate) struct PlacePlan {
        /// Whether there is a v2 directory.
        unified: bool,
        /// How many `tasks` files there are.
        tasks: u32,
    }
}

wire_struct! {
    /// Everything needed to start one process; its descriptors travel beside it.
    pub(crate) struct ProcessPlan {
        /// [`ProcessRole`], see [`ProcessPlan::role`].
        role: u8,
        /// Its name for people.
        name: String,
        /// Handed to the role.
        input: Vec<u8>,
        /// All that its root directory holds.
        mounts: Vec<ProcessMountPlan>,
        /// [`ProcessUser`], see [`ProcessPlan::user`].
        user: u8,
        /// [`ProcessNetwork`], see [`ProcessPlan::network`].
        network: u8,
        /// Limit of its cgroup.
        memory_bytes: Option<u64>,
        /// `RLIMIT_AS`.
        address_space_bytes: Option<u64>,
        /// `RLIMIT_CPU`.
        cpu_seconds: Option<u64>,
        /// The core that it stays on.
        core: Option<u32>,
        /// The sandbox that it belongs to; else it has a group of the launcher's.
        place: Option<PlacePlan>,
    }
}

const WORKER: u8 = 0;
const COMPILER: u8 = 1;
const FILE_KEEPER: u8 = 2;
const UNPACKER: u8 = 3;
const NOBODY: u8 = 0;
const VOLUMES: u8 = 1;
const INVOKER: u8 = 2;
const ROOT: u8 = 3;
const NO_NETWORK: u8 = 0;
const HOST_NETWORK: u8 = 1;
const HANDED_SOCKETS: u8 = 2;

impl ProcessPlan {
    /// What the launcher is told of a spec; everything but the descriptors.
    pub(crate) fn of(spec: &ProcessSpec) -> Self {
        let mount = |mount: &neargate_driver::ProcessMount| ProcessMountPlan {
            source: mount.source.as_os_str().as_bytes().to_vec(),
            name: mount.name.clone(),
            read_only: mount.read_only,
        };
        Self {
            role: match spec.role {
                ProcessRole::WasmWorker => WORKER,
                ProcessRole::WasmCompiler => COMPILER,
                ProcessRole::FileKeeper => FILE_KEEPER,
                ProcessRole::Unpacker => UNPACKER,
            },
            name: spec.name.clone(),
            input: spec.input.clone(),
            mounts: spec.mounts.iter().map(mount).collect(),
            user: match spec.user {
                ProcessUser::Nobody => NOBODY,
                ProcessUser::Volumes => VOLUMES,
                ProcessUser::Invoker => INVOKER,
                ProcessUser::Root => ROOT,
            },
            network: match spec.network {
                ProcessNetwork::None => NO_NETWORK,
                ProcessNetwork::Host => HOST_NETWORK,
                ProcessNetwork::Handed => HANDED_SOCKETS,
            },
            memory_bytes: spec.memory_bytes,
            address_space_bytes: spec.address_space_bytes,
            cpu_seconds: spec.cpu_seconds,
            core: spec.core.and_then(|core| u32::try_from(core).ok()),
            place: None,
        }
    }

    /// The role; whatever is not known is the role that may do least.
    pub(crate) fn role(&self) -> ProcessRole {
        match self.role {
            WORKER => ProcessRole::WasmWorker,
            FILE_KEEPER => ProcessRole::FileKeeper,
            UNPACKER => ProcessRole::Unpacker,
            _ => ProcessRole::WasmCompiler,
        }
    }

    /// The user; whoever is not known is nobody.
    pub(crate) fn user(&self) -> ProcessUser {
        match self.user {
            VOLUMES => ProcessUser::Volumes,
            INVOKER => ProcessUser::Invoker,
            ROOT => ProcessUser::Root,
            _ => ProcessUser::Nobody,
        }
    }

    /// The network; whatever is not known is none.
    pub(crate) fn network(&self) -> ProcessNetwork {
        match self.network {
            HOST_NETWORK => ProcessNetwork::Host,
            HANDED_SOCKETS => ProcessNetwork::Handed,
            _ => ProcessNetwork::None,
        }
    }

    /// Checks what becomes a name of a file or directory, and that root's id goes only where it is needed.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let refuse = |step: &str| Err(Failure::System { step: step.to_owned(), errno: libc::EINVAL });
        if !is_name(&self.name, NAME_MAX) {
            return refuse("check process name: 1 to 40 letters, digits and `-` are possible");
        }
        if self.role().keeps_files() != (self.user() == ProcessUser::Root) {
            return refuse("check process user: root is for keepers of files, and only root");
        }
        let has_network = self.network() != ProcessNetwork::None;
        if self.role().keeps_files() && (has_network || self.place.is_some()) {
            return refuse("check process: a keeper of files has no network and no sandbox");
        }
        if self.mounts.len() > MOUNTS_MAX {
            return refuse("check mounts: a process has 64 at most");
        }
        if !self.mounts.iter().all(|mount| is_name(&mount.name, MOUNT_NAME_MAX)) {
            return refuse("check mounts: a name has 1 to 255 letters, digits and `-`");
        }
        Ok(())
    }
}

/// Longest name of a process.
const NAME_MAX: usize = 40;
/// Most mounts of a process; a task definition has a handful.
const MOUNTS_MAX: usize = 64;
/// Longest file name (`NAME_MAX` of limits.h).
const MOUNT_NAME_MAX: usize = 255;

fn is_name(name: &str, max: usize) -> bool {
    (1..=max).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

wire_enum! {
    /// What the program asks its launcher for.
    pub(crate) enum Request {
        /// Start a process; the request's id becomes the process's.
        0 => Spawn { plan: ProcessPlan },
        /// Kill a process.
        1 => Kill { process: u64 },
        /// Tell which fences there are.
        2 => Fences {},
    }
}

wire_enum! {
    /// What the launcher tells.
    pub(crate) enum Response {
        /// The process is behind its fences.
        0 => Spawned { pid: u32 },
        /// The request failed.
        1 => Failed { failure: Failure },
        /// Unasked: a process ended. Request id 0.
        2 => Exited { process: u64, code: i32, oom: bool },
        /// Which fences there are: reasons for what is missing, and Landlock's version, 0 for none.
        3 => Fences { namespaces: Option<Failure>, cgroup: Option<Failure>, landlock_abi: u32 },
    }
}

wire_enum! {
    /// What a new process tells the launcher.
    pub(crate) enum Report {
        /// It is in its user namespace and waits for the id maps.
        0 => Unshared {},
        /// It is behind all fences.
        1 => Ready {},
        /// It could not get there.
        2 => Failed { failure: Failure },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(name: &str, mount: &str) -> ProcessPlan {
        ProcessPlan {
            role: WORKER,
            name: name.to_owned(),
            input: Vec::new(),
            mounts: vec![ProcessMountPlan { source: b"/".to_vec(), name: mount.to_owned(), read_only: true }],
            user: NOBODY,
            network: NO_NETWORK,
            memory_bytes: None,
            address_space_bytes: None,
            cpu_seconds: None,
            core: None,
            place: None,
        }
    }

    fn check(name: &str, mount: &str, expect: bool) {
        assert_eq!(plan(name, mount).check().is_ok(), expect, "process {name:?}, mount {mount:?}");
    }

    #[test]
    fn root_is_for_keepers_of_files_alone() {
        for role in [WORKER, COMPILER, FILE_KEEPER, UNPACKER] {
            for user in [NOBODY, VOLUMES, INVOKER, ROOT] {
                let plan = ProcessPlan { role, user, ..plan("process", "data") };
                let expect = (role >= FILE_KEEPER) == (user == ROOT);
                assert_eq!(plan.check().is_ok(), expect, "role {role}, user {user}");
                let networked = ProcessPlan { network: HOST_NETWORK, ..plan };
                assert_eq!(
                    networked.check().is_ok(),
                    expect && role < FILE_KEEPER,
                    "role {role}, user {user}"
                );
            }
        }
    }

    #[test]
    fn names_stay_names() {
        check("worker-1", "data", true);
        check(&"a".repeat(40), &"a".repeat(255), true);
        check(&"a".repeat(41), "data", false);
        check("worker", &"a".repeat(256), false);
        for bad in ["", ".", "..", "a/b", "/a", "a b", "a\0", "ä"] {
            check(bad, "data", false);
            check("worker", bad, false);
        }
    }
}
