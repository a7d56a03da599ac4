//! The driver contract.
//!
//! A [`Driver`] runs one container of a task inside a [`Sandbox`] that a [`SandboxHost`] has prepared.
//! The node knows nothing else of Linux or Wasm. Drivers keep no policy: what to start, when and how
//! often is decided by the task's owner loop. This crate also holds the [simulated driver](sim), which
//! obeys the same contract in virtual time.

#![forbid(unsafe_code)]

mod error;
mod link_local;
mod names;
mod process;
mod session;
pub mod sim;
mod sockets;
mod spec;
mod usage;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use neargate_model::{Cidr, ContainerId, Hosts, SecurityGroupRules, TaskId};

pub use error::{ExecError, RecoverError, SandboxError, SignalError, StartError, StatsError};
pub use link_local::{LinkLocalError, LinkLocalSockets, NetworkTurn, ResolverSockets};
pub use names::ContainerNames;
pub use process::{
    Process, ProcessError, ProcessExit, ProcessHost, ProcessMount, ProcessNetwork, ProcessRole, ProcessSpec,
    ProcessUser, SandboxProcessHost, ThreadSlot,
};
pub use session::{Session, SessionSpec, SessionStreams};
pub use sockets::{IpVersion, LookUpError, SocketKind, TaskSockets};
pub use spec::{
    BridgedContainer, ContainerSpec, Device, ExecSpec, Exit, Limits, Mount, MountSource, Privileges, Rootfs,
    Sandbox, SandboxNetwork, SandboxSpec, Sharing, Signal, Stats, Stdio, Traffic, TrafficCounters, Ulimit,
    VOLUME_ID_BASE, WasmModule, WasmSpec, WasmTimes,
};
pub use usage::{BlockUse, CpuSplit, Throttling, UsageDetails};

/// Runs one container inside a prepared sandbox.
#[async_trait]
pub trait Driver: Send + Sync {
    /// Starts the container and returns once its program runs (for a container: after a successful
    /// `execve(2)`). On an error nothing is left behind. Cancelling the future leaves either nothing or a
    /// container that [`Driver::recover`] finds.
    async fn start(&self, spec: ContainerSpec, sandbox: &Sandbox) -> Result<Arc<dyn Handle>, StartError>;

    /// Makes ready what containers of this image share (compiled code), so that no start waits for it. A
    /// driver that has nothing to make does nothing; a start works without it all the same.
    async fn prepare(&self, _rootfs: &Rootfs) -> Result<(), StartError> {
        Ok(())
    }

    /// Finds a container that was started before this process was, or `None` when there is none. One that has ended
    /// is found until its sandbox is released.
    async fn recover(&self, id: &ContainerId) -> Result<Option<Recovered>, RecoverError>;
}

/// A container that was started before this process was.
pub struct Recovered {
    /// The container.
    pub handle: Arc<dyn Handle>,
    /// The reading ends of its standard output and error, told once, if somebody has kept them.
    pub readers: Option<[OwnedFd; 2]>,
}

/// A started container. Dropping the handle kills nothing.
#[async_trait]
pub trait Handle: Send + Sync {
    /// Waits for the end and tells it; may be called any number of times and may be cancelled.
    async fn wait(&self) -> Exit;

    /// Delivers a signal to the container's first process; [`Signal::Kill`] ends all its processes.
    /// A container that has ended already is not an error.
    async fn signal(&self, signal: Signal) -> Result<(), SignalError>;

    /// What the container has used so far.
    async fn stats(&self) -> Result<Stats, StatsError>;

    /// What it uses in more detail, while it runs; nothing where the driver does not know.
    async fn usage_details(&self) -> Result<UsageDetails, StatsError> {
        Ok(UsageDetails::default())
    }

    /// Runs another command inside the container and waits for its end.
    async fn exec(&self, spec: ExecSpec) -> Result<Exit, ExecError>;

    /// Starts another command inside the container, for somebody who attends it. Returns once its program runs;
    /// on an error nothing is left behind. A driver whose containers cannot run other programs refuses.
    async fn open(&self, _spec: SessionSpec) -> Result<Box<dyn Session>, ExecError> {
        let why = "this kind of container has no way to run one".to_owned();
        Err(ExecError::Unsupported { why })
    }
}

/// Makes and releases what the containers of one task share: network namespace and cgroup.
#[async_trait]
pub trait SandboxHost: Send + Sync {
    /// Makes the sandbox; calling it again for the same task returns the same sandbox.
    async fn prepare(&self, spec: &SandboxSpec) -> Result<Sandbox, SandboxError>;

    /// Finds a sandbox that was made before this process was. Of its containers the driver then knows all that were
    /// ever started: what it does not find has not run.
    async fn find(&self, _spec: &SandboxSpec) -> Option<Sandbox> {
        None
    }

    /// Whether its sandboxes are cgroups, with limits, which other processes than containers can be put into.
    fn has_groups(&self) -> bool {
        true
    }

    /// Enforces these security groups from now on, in the place of all that were told before, in every sandbox with
    /// an interface in a VPC, and routes these VPCs. Returns once it is so. A group that was not told lets nothing
    /// through.
    async fn set_groups(&self, _groups: &[SecurityGroupRules], _vpcs: &[Cidr]) -> Result<(), SandboxError> {
        Ok(())
    }

    /// Shares VPCs with these hosts from now on, or with none, in the place of all that were told before: their tasks
    /// and those here reach each other as their groups say. Takes effect with the groups that are told, or the next ones.
    async fn set_hosts(&self, _hosts: Option<&Hosts>) -> Result<(), SandboxError> {
        Ok(())
    }

    /// What has passed the interface of a task; `None` of a task that has none.
    async fn traffic(&self, _task: &TaskId) -> Result<Option<Traffic>, SandboxError> {
        Ok(None)
    }

    /// Waits until the network with the interfaces in VPCs may be another than at `turn`, and tells which it is then.
    async fn network_after(&self, _turn: NetworkTurn) -> NetworkTurn {
        std::future::pending().await
    }

    /// Makes the sockets of the link-local addresses in that network, for this process alone.
    async fn link_local(&self) -> Result<LinkLocalSockets, LinkLocalError> {
        let source = std::io::ErrorKind::Unsupported.into();
        Err(LinkLocalError::Unavailable { source })
    }

    /// Makes a socket in the network of a prepared sandbox that has an interface in a VPC.
    async fn socket(&self, _task: &TaskId, _kind: SocketKind) -> Result<OwnedFd, SandboxError> {
        let source = std::io::ErrorKind::Unsupported.into();
        Err(SandboxError::Unavailable { source })
    }

    /// Kills what still runs in the sandbox and gives everything back. Idempotent: releasing a sandbox
    /// that does not exist succeeds.
    async fn release(&self, task: &TaskId) -> Result<(), SandboxError>;
}
