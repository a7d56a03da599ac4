//! What exists in Neargate, and the pure transitions between its states.
//!
//! Nothing here does I/O, starts a task, reads a clock or draws a random number: time and randomness are
//! arguments. Everybody may depend on this crate; it depends on none of ours.

#![forbid(unsafe_code)]

pub mod address;
mod arn;
mod bridge;
pub mod capability;
mod chain;
mod cluster;
mod command;
pub mod discovery;
mod hosts;
pub mod iam;
mod id;
pub mod image;
pub mod lifecycle;
pub mod names;
mod network;
pub mod policy;
pub mod repository;
mod task;
mod task_definition;
mod throttle;
mod time;
pub mod validate;
pub mod vpc;

pub use arn::{Arn, InvalidArn};
pub use bridge::{BridgeEndpoint, BridgeNetwork, HostPort, Link, PortBinding, PortProtocol};
pub use chain::chain;
pub use cluster::{AccountSetting, Cluster, ClusterStatus};
pub use command::{Command, Window};
pub use hosts::{HostEnd, HostNumber, Hosts, OtherHost, RemoteTask};
pub use id::{
    AccountId, BlockAssociationId, ClusterName, ContainerId, ContainerName, Family, ImageTag, InstanceId,
    InvalidId, NamespaceId, NetworkInterfaceId, OperationId, PolicyName, Region, RegistryId, RepositoryName,
    RoleName, Scope, SecurityGroupId, SecurityGroupRuleId, SessionName, SubnetId, TaskId, VpcId,
};
pub use network::{Cidr, MacAddress, Peer, SecurityGroupRules, SecurityRule, TaskNetwork, Traffic};
pub use policy::Policy;
pub use task::{
    ContainerLast, ContainerStatus, Health, LastStatus, NodeCommand, NodeReport, Phases, Stop, StopCode,
    Task, TaskKey, TaskSpec, TaskStatus,
};
pub use task_definition::{
    Condition, ContainerDefinition, DefinitionStatus, Dependency, DeviceMapping, ExtraHost, HealthCheck,
    IpcMode, LaunchType, LogConfiguration, MountPoint, NetworkMode, PidMode, PortMapping, RestartPolicy,
    SharedVolume, Tags, TaskDefinition, TaskShape, Tmpfs, TmpfsOptions, UlimitSetting, Volume, WasmIsolation,
    WasmOptions,
};
pub use throttle::Throttle;
pub use time::Timestamp;
