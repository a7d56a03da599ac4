//! The gateway: one listener for all AWS services.
//!
//! ```text
//! bytes ─▶ http.rs ─▶ pipeline.rs: identify ─▶ authenticate ─▶ authorise ─▶ services.rs: dispatch ─▶ ec2/, ecs/, …
//! bytes for /v2/ ─▶ registry/: images, of which ecr/ is another face
//! bytes of a task ─▶ metadata/ ─┬─ what a task is, its credentials
//!                               └─ AWS services ─▶ pipeline.rs
//! ```
//!
//! Only this crate turns wire types into domain types and back. AWS services are modules; they do not call
//! each other and meet in `control` and `telemetry`.

#![forbid(unsafe_code)]

mod access;
mod authorise;
mod body;
mod context;
pub mod discovery;
pub mod ec2;
pub mod ecr;
pub mod ecs;
mod face;
mod http;
pub mod iam;
pub mod logs;
mod metadata;
mod native;
mod page;
mod pipeline;
mod registry;
mod rights;
mod services;
pub mod sts;

pub use access::{Access, AccountKeys};
pub use context::RequestContext;
pub use http::{ServeError, serve};
pub use metadata::{
    BlockUsage, ClockError, ContainerUsage, InterfaceCounters, InterfaceUsage, Metadata, StorageUsage,
    TaskEndpoints, TaskUsage, Throttling,
};
pub use native::{Artifact, ArtifactSource, CommandError, CommandOutput, Commands, Native, RunningCommand};
pub use pipeline::Gateway;
pub use registry::{OwnImageError, Registry, RegistryConfig};
pub use rights::{Rights, RoleRights};
pub use services::Apis;
