//! What a supervisor is configured with.

use std::path::{Path, PathBuf};

use neargate_model::Policy;
use neargate_model::policy::{HostNamespace, HostPath, Privileged};
use sha2::{Digest, Sha256};

use crate::protocol::{Allowed, AllowedPath, Setup, VERSION};

/// First host user id of the ranges that tasks get, by default.
pub const DEFAULT_ID_BASE: u32 = neargate_driver::VOLUME_ID_BASE;

/// Names the server that owns a data directory.
pub(crate) fn instance_of(data_dir: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let path = data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned());
    let digest = Sha256::digest(path.as_os_str().as_bytes());
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a supervisor is configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupervisorConfig {
    instance: String,
    id_base: u32,
    resolv_conf: Vec<u8>,
    layers_by_path: bool,
    devices_by_programs: bool,
    without_limits: bool,
    server_uid: u32,
    policy: Policy,
}

impl SupervisorConfig {
    /// The configuration of the server that owns this data directory. Two servers on one host must have
    /// different ones.
    pub fn for_data_dir(data_dir: &Path) -> Self {
        Self {
            instance: instance_of(data_dir),
            id_base: DEFAULT_ID_BASE,
            resolv_conf: b"nameserver 169.254.169.253\n".to_vec(),
            layers_by_path: false,
            devices_by_programs: false,
            without_limits: false,
            server_uid: rustix::process::geteuid().as_raw(),
            policy: Policy::default(),
        }
    }

    /// Sets the first host user id. The 65,536 ids from it on own the files on volumes; every task gets a
    /// range of as many after them.
    pub fn with_id_base(mut self, id_base: u32) -> Self {
        self.id_base = id_base;
        self
    }

    /// Sets the content of `/etc/resolv.conf` in containers; by default it names the task DNS.
    pub fn with_resolv_conf(mut self, content: impl Into<Vec<u8>>) -> Self {
        self.resolv_conf = content.into();
        self
    }

    /// Mounts layers the way that kernels before Linux 6.15 need, which is found out by itself, too. Slower;
    /// for tests of that way and for kernels that misbehave.
    pub fn with_layers_by_path(mut self) -> Self {
        self.layers_by_path = true;
        self
    }

    /// Fences devices by programs of cgroup v2, as on hosts without v1's devices controller, also on those that have
    /// both; for tests of that way.
    pub fn with_devices_by_programs(mut self) -> Self {
        self.devices_by_programs = true;
        self
    }

    /// Has containers run also where no cgroup can enforce their limits of CPU and memory, which is otherwise refused; of
    /// effect without root alone.
    pub fn with_unenforced_limits(mut self) -> Self {
        self.without_limits = true;
        self
    }

    /// Sets the user id that a server which outlives its rights will have, by default the caller's own: besides root,
    /// only that user may be the supervisor's server.
    pub fn with_server_uid(mut self, server_uid: u32) -> Self {
        self.server_uid = server_uid;
        self
    }

    /// Sets what containers may have beyond what all have; by default nothing. A server that is not root mounts no other
    /// directories of the host than its `host_paths`, and what is below the data directory.
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    pub(crate) fn server_uid(&self) -> u32 {
        self.server_uid
    }

    /// Names the server's cgroups, `neargate/<instance>` in every hierarchy; 16 hexadecimal digits.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    pub(crate) fn allowed(&self) -> Allowed {
        use std::os::unix::ffi::OsStrExt;
        let policy = &self.policy;
        let bytes = |path: &PathBuf| path.as_os_str().as_bytes().to_vec();
        let host_path = |one: &HostPath| AllowedPath { path: bytes(&one.path), read_only: one.read_only };
        Allowed {
            capabilities: policy.capabilities_max(),
            privileged: policy.privileged != Privileged::default(),
            host_network: policy.shares(HostNamespace::Network),
            host_ipc: policy.shares(HostNamespace::Ipc),
            host_pid: policy.shares(HostNamespace::Pid),
            devices: policy.devices.iter().map(bytes).collect(),
            host_paths: policy.host_paths.iter().map(host_path).collect(),
        }
    }

    pub(crate) fn to_setup(&self) -> Setup {
        Setup {
            version: VERSION,
            instance: self.instance.clone(),
            id_base: self.id_base,
            resolv_conf: self.resolv_conf.clone(),
            layers_by_path: self.layers_by_path,
            devices_by_programs: self.devices_by_programs,
            without_limits: self.without_limits,
            allowed: self.allowed(),
        }
    }
}
