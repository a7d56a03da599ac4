//! The gateway: one listener for all AWS services.
//!
//! ```text
//! bytes ─▶ http.rs ─▶ pipeline.rs: identify ─▶ authenticate ─▶ services.rs: dispatch ─▶ ecs/, logs/, sts.rs
//! ```
//!
//! Only this crate turns wire types into domain types and back. AWS services are modules; they do not call
//! each other and meet in `control` and `telemetry`.

#![forbid(unsafe_code)]

mod access;
mod body;
mod context;
pub mod ecs;
mod face;
mod http;
pub mod logs;
mod native;
mod pipeline;
mod services;
mod sts;

pub use access::{Access, AccountKeys};
pub use context::RequestContext;
pub use http::{ServeError, serve};
pub use native::{Artifact, ArtifactSource, Native};
pub use pipeline::Gateway;
pub use services::Apis;

/// An error and its causes in one line, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
