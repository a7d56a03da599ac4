//! The gateway: one listener for all AWS services.
//!
//! ```text
//! bytes ─▶ http.rs ─▶ pipeline.rs: identify ─▶ authenticate ─▶ services.rs: dispatch ─▶ discovery/, ec2/, ecs/, …
//! ```
//!
//! Only this crate turns wire types into domain types and back. AWS services are modules; they do not call
//! each other and meet in `control` and `telemetry`.

#![forbid(unsafe_code)]

mod access;
mod body;
mod context;
pub mod discovery;
pub mod ec2;
pub mod ecs;
mod face;
mod http;
pub mod logs;
mod native;
mod page;
mod pipeline;
mod services;
mod sts;

pub use access::{Access, AccountKeys};
pub use context::RequestContext;
pub use http::{ServeError, serve};
pub use native::{Artifact, ArtifactSource, CommandError, CommandOutput, Commands, Native, RunningCommand};
pub use pipeline::Gateway;
pub use services::Apis;
