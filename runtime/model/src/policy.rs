//! What the operator of a machine allows task definitions to ask for beyond what every task may.
//!
//! A definition is checked when it is registered, when a task of it is asked for, and once more by the node before a
//! container starts: what was stored must not outlive a policy that has become stricter.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::{
    ContainerDefinition, ContainerName, DeviceMapping, Family, IpcMode, NetworkMode, PidMode, TaskShape,
    Volume, capability,
};

/// What is allowed. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Directories of the host below which volumes may be, real paths without links. The longest that fits decides.
    pub host_paths: Vec<HostPath>,
    /// Bits of the capabilities that may be added, besides those that are there by default and SYS_PTRACE.
    pub capabilities: u64,
    /// Whether a definition may add `ALL`.
    pub every_capability: bool,
    /// Whose containers may be privileged.
    pub privileged: Privileged,
    /// Namespaces of the host that tasks may use.
    pub host_namespaces: Vec<HostNamespace>,
    /// Device nodes of the host that containers may have, real paths without links.
    pub devices: Vec<PathBuf>,
}

/// A directory of the host that may be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPath {
    /// The directory.
    pub path: PathBuf,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// Which task definitions may have privileged containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Privileged {
    /// Those of these families.
    Families(Vec<Family>),
    /// All.
    Everyone,
}

impl Default for Privileged {
    fn default() -> Self {
        Self::Families(Vec::new())
    }
}

/// A namespace of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostNamespace {
    /// Its network.
    Network,
    /// Its System V objects and message queues, and `/dev/shm`.
    Ipc,
    /// Its processes.
    Pid,
}

impl HostNamespace {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Network, Self::Ipc, Self::Pid];

    /// Its name in a policy.
    pub fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Ipc => "ipc",
            Self::Pid => "pid",
        }
    }

    /// What a task definition says to ask for it.
    fn asked_by(self) -> &'static str {
        match self {
            Self::Network => "networkMode 'host'",
            Self::Ipc => "ipcMode 'host'",
            Self::Pid => "pidMode 'host'",
        }
    }
}

/// What a definition asks for and may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A volume on the host.
    HostPath(String),
    /// To write to a volume on the host.
    WriteTo(ContainerName, String),
    /// A capability.
    Capability(ContainerName, String),
    /// A capability that would do nothing.
    UselessCapability(ContainerName, String),
    /// A capability over the host's network, which no container has.
    NetworkCapability(ContainerName),
    /// Power over all that is its own.
    Privileged(ContainerName),
    /// A namespace of the host.
    Namespace(HostNamespace),
    /// A device of the host.
    Device(ContainerName, String),
}

/// A definition asks for something that the operator does not allow, or that nobody can give.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Forbidden(pub Asked);

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let allow = |f: &mut fmt::Formatter<'_>, key: &str| {
            write!(f, "; the operator allows it with {key:?} in the file of `neargate serve --policy`")
        };
        match &self.0 {
            Asked::HostPath(path) => {
                write!(
                    f,
                    "host.sourcePath {path:.128?} is not below a directory that the operator allows; "
                )?;
                write!(f, "`neargate serve --allow-host-path` does, or \"host_paths\" in its policy file")
            }
            Asked::WriteTo(name, path) => write!(
                f,
                "container {name} may only read {path:.128?}; say readOnly in its mountPoints, or let the operator \
                 allow \"rw\" in \"host_paths\" of the policy file"
            ),
            Asked::Capability(name, capability) => {
                write!(f, "container {name} may not add capability {capability:.32}")?;
                allow(f, "capabilities")
            }
            Asked::UselessCapability(name, capability) => write!(
                f,
                "capability {capability:.32} of container {name} would do nothing: the kernel asks for it in the host's \
                 user namespace, and a container has its own; leave it away"
            ),
            Asked::NetworkCapability(name) => write!(
                f,
                "container {name} adds NET_ADMIN or NET_RAW with networkMode 'host', where they would do nothing: the \
                 host's network is not the container's; use another networkMode or leave them away"
            ),
            Asked::Privileged(name) => {
                write!(f, "container {name} may not be privileged")?;
                allow(f, "privileged")
            }
            Asked::Namespace(namespace) => {
                write!(f, "{} is refused: a task has namespaces of its own", namespace.asked_by())?;
                allow(f, "host_namespaces")
            }
            Asked::Device(name, path) => {
                write!(f, "container {name} may not have device {path:.128?}")?;
                allow(f, "devices")
            }
        }
    }
}

impl Policy {
    /// Whether tasks may use a namespace of the host.
    pub fn shares(&self, namespace: HostNamespace) -> bool {
        self.host_namespaces.contains(&namespace)
    }

    /// What a volume below a path may be used for; `None` is nothing. The path must be real, without links.
    pub fn host_path(&self, path: &Path) -> Option<&HostPath> {
        let fitting = self.host_paths.iter().filter(|allowed| path.starts_with(&allowed.path));
        // Of two that say the same directory the one that allows more, which is no less true.
        fitting.max_by_key(|allowed| (allowed.path.components().count(), !allowed.read_only))
    }

    /// The bits that a container of a definition may have at most.
    pub fn capabilities_max(&self) -> u64 {
        let privileged = self.privileged != Privileged::default() || self.every_capability;
        if privileged {
            capability::KNOWN
        } else {
            capability::DEFAULT | capability::SYS_PTRACE | self.capabilities
        }
    }

    /// Checks all that a definition of a family asks for.
    pub fn check(&self, family: &Family, shape: &TaskShape) -> Result<(), Forbidden> {
        for namespace in asked_namespaces(shape) {
            if !self.shares(namespace) {
                return Err(Forbidden(Asked::Namespace(namespace)));
            }
        }
        for volume in &shape.volumes {
            self.check_volume(shape, volume)?;
        }
        for container in &shape.containers {
            self.check_container(family, shape.network_mode, container)?;
        }
        Ok(())
    }

    fn check_volume(&self, shape: &TaskShape, volume: &Volume) -> Result<(), Forbidden> {
        let Some(path) = &volume.host_path else { return Ok(()) };
        let allowed = self.host_path(Path::new(path));
        let allowed = allowed.ok_or_else(|| Forbidden(Asked::HostPath(path.clone())))?;
        let writes = |container: &&ContainerDefinition| {
            container.mount_points.iter().any(|mount| mount.volume == volume.name && !mount.read_only)
        };
        match shape.containers.iter().find(writes) {
            Some(container) if allowed.read_only => {
                Err(Forbidden(Asked::WriteTo(container.name.clone(), path.clone())))
            }
            _ => Ok(()),
        }
    }

    fn check_container(
        &self,
        family: &Family,
        network: NetworkMode,
        container: &ContainerDefinition,
    ) -> Result<(), Forbidden> {
        let name = || container.name.clone();
        let may_be_privileged = match &self.privileged {
            Privileged::Everyone => true,
            Privileged::Families(families) => families.contains(family),
        };
        if container.privileged && !may_be_privileged {
            return Err(Forbidden(Asked::Privileged(name())));
        }
        for capability in &container.capabilities_add {
            self.check_capability(network, container, capability)?;
        }
        if container.wasm.host_network && !self.shares(HostNamespace::Network) {
            return Err(Forbidden(Asked::Namespace(HostNamespace::Network)));
        }
        let is_foreign = |device: &&DeviceMapping| !self.devices.contains(&device.host_path);
        match container.devices.iter().find(is_foreign) {
            Some(device) => {
                Err(Forbidden(Asked::Device(name(), device.host_path.to_string_lossy().into_owned())))
            }
            None => Ok(()),
        }
    }

    fn check_capability(
        &self,
        network: NetworkMode,
        container: &ContainerDefinition,
        capability: &str,
    ) -> Result<(), Forbidden> {
        let refuse = |asked: fn(ContainerName, String) -> Asked| {
            Err(Forbidden(asked(container.name.clone(), capability.to_owned())))
        };
        if capability == capability::EVERY {
            return if self.every_capability { Ok(()) } else { refuse(Asked::Capability) };
        }
        let free = capability::DEFAULT | capability::SYS_PTRACE;
        match capability::bit(capability) {
            Some(bit) if bit & free != 0 => Ok(()),
            Some(bit) if self.every_capability && bit & capability::USEFUL == 0 => {
                refuse(Asked::UselessCapability)
            }
            Some(bit) if !self.every_capability && bit & self.capabilities == 0 => refuse(Asked::Capability),
            Some(bit) if bit & capability::NETWORK != 0 && network == NetworkMode::Host => {
                Err(Forbidden(Asked::NetworkCapability(container.name.clone())))
            }
            Some(_) => Ok(()),
            None => refuse(Asked::Capability),
        }
    }
}

fn asked_namespaces(shape: &TaskShape) -> impl Iterator<Item = HostNamespace> {
    let network = (shape.network_mode == NetworkMode::Host).then_some(HostNamespace::Network);
    let ipc = (shape.ipc_mode == IpcMode::Host).then_some(HostNamespace::Ipc);
    let pid = (shape.pid_mode == PidMode::Host).then_some(HostNamespace::Pid);
    network.into_iter().chain(ipc).chain(pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MountPoint;
    use crate::lifecycle::testing::{container, shape};

    fn family() -> Family {
        Family::new("web").unwrap()
    }

    /// What is refused to containers that were changed in some way, if anything.
    #[track_caller]
    fn check(policy: &Policy, change: impl FnOnce(&mut TaskShape), expect: Option<&str>) {
        let mut shape = shape(vec![container("a")]);
        change(&mut shape);
        let refused = policy.check(&family(), &shape).err().map(|error| error.to_string());
        match (&refused, expect) {
            (None, None) => {}
            (Some(text), Some(part)) if text.contains(part) => {}
            _ => panic!("{refused:?} is not {expect:?}"),
        }
    }

    fn adds(capability: &str) -> impl FnOnce(&mut TaskShape) {
        move |shape| shape.containers[0].capabilities_add.push(capability.to_owned())
    }

    #[test]
    fn capabilities() {
        let none = Policy::default();
        for free in ["SYS_PTRACE", "CHOWN", "NET_BIND_SERVICE"] {
            check(&none, adds(free), None);
        }
        for asked in ["SYS_ADMIN", "NET_RAW", "ALL", "MAGIC", ""] {
            check(&none, adds(asked), Some("\"capabilities\""));
        }
        let some = Policy { capabilities: capability::bit("NET_RAW").unwrap(), ..Policy::default() };
        check(&some, adds("NET_RAW"), None);
        check(&some, adds("NET_ADMIN"), Some("NET_ADMIN"));
        check(&some, adds("ALL"), Some("ALL"));
        let all = Policy { every_capability: true, host_namespaces: vec![HostNamespace::Network], ..none };
        check(&all, adds("ALL"), None);
        check(&all, adds("SYS_ADMIN"), None);
        check(&all, adds("SYS_TIME"), Some("would do nothing"));
        let on_host = |shape: &mut TaskShape| {
            shape.network_mode = NetworkMode::Host;
            adds("NET_RAW")(shape);
        };
        check(&all, on_host, Some("networkMode 'host'"));
    }

    #[test]
    fn namespaces_and_privileges() {
        let none = Policy::default();
        let network = |shape: &mut TaskShape| shape.network_mode = NetworkMode::Host;
        let wasm = |shape: &mut TaskShape| shape.containers[0].wasm.host_network = true;
        let ipc = |shape: &mut TaskShape| shape.ipc_mode = IpcMode::Host;
        let pid = |shape: &mut TaskShape| shape.pid_mode = PidMode::Host;
        let of_task = |shape: &mut TaskShape| {
            shape.pid_mode = PidMode::Task;
            shape.ipc_mode = IpcMode::Task;
        };
        let without = |shape: &mut TaskShape| shape.ipc_mode = IpcMode::None;
        let privileged = |shape: &mut TaskShape| shape.containers[0].privileged = true;
        check(&none, network, Some("networkMode 'host'"));
        check(&none, wasm, Some("\"host_namespaces\""));
        check(&none, ipc, Some("ipcMode 'host'"));
        check(&none, pid, Some("pidMode 'host'"));
        check(&none, of_task, None);
        check(&none, without, None);
        check(&none, privileged, Some("\"privileged\""));
        let some = Policy {
            host_namespaces: vec![HostNamespace::Network],
            privileged: Privileged::Families(vec![family()]),
            ..Policy::default()
        };
        check(&some, network, None);
        check(&some, wasm, None);
        check(&some, ipc, Some("ipcMode"));
        check(&some, pid, Some("pidMode"));
        let processes = Policy { host_namespaces: vec![HostNamespace::Pid], ..Policy::default() };
        check(&processes, pid, None);
        check(&processes, ipc, Some("ipcMode"));
        check(&some, privileged, None);
        let other = Privileged::Families(vec![Family::new("other").unwrap()]);
        check(&Policy { privileged: other, ..none.clone() }, privileged, Some("privileged"));
        check(&Policy { privileged: Privileged::Everyone, ..none }, privileged, None);
    }

    #[test]
    fn host_paths() {
        let allowed = |path: &str, read_only| HostPath { path: path.into(), read_only };
        let policy = Policy {
            host_paths: vec![allowed("/srv", true), allowed("/srv/data", false)],
            ..Policy::default()
        };
        let mounts = |path: &'static str, read_only| {
            move |shape: &mut TaskShape| {
                let (name, host_path) = ("v".to_owned(), Some(path.to_owned()));
                shape.volumes.push(Volume { name, host_path, shared: None });
                let (volume, container_path) = ("v".to_owned(), "/v".to_owned());
                shape.containers[0].mount_points.push(MountPoint { volume, container_path, read_only });
            }
        };
        check(&policy, mounts("/srv/data", false), None);
        check(&policy, mounts("/srv/data/x", false), None);
        check(&policy, mounts("/srv/static", true), None);
        check(&policy, mounts("/srv/static", false), Some("may only read"));
        check(&policy, mounts("/srv/database", false), Some("may only read"));
        check(&policy, mounts("/srvx", true), Some("--allow-host-path"));
        check(&policy, mounts("/", true), Some("--allow-host-path"));
        check(&Policy::default(), mounts("/srv", true), Some("--allow-host-path"));
    }

    #[test]
    fn devices() {
        let device = |path: &'static str| {
            move |shape: &mut TaskShape| {
                let (host_path, container_path) = (PathBuf::from(path), path.to_owned());
                let device = DeviceMapping { host_path, container_path, read: true, write: true };
                shape.containers[0].devices.push(device);
            }
        };
        let policy = Policy { devices: vec!["/dev/fuse".into()], ..Policy::default() };
        check(&policy, device("/dev/fuse"), None);
        check(&policy, device("/dev/fuse/.."), Some("\"devices\""));
        check(&policy, device("/dev/kvm"), Some("/dev/kvm"));
        check(&Policy::default(), device("/dev/fuse"), Some("\"devices\""));
    }
}
