//! What exists in Neargate, and the pure transitions between its states.
//!
//! Nothing here does I/O, starts a task, reads a clock or draws a random number: time and randomness are
//! arguments. Everybody may depend on this crate; it depends on none of ours.

#![forbid(unsafe_code)]

mod id;
pub mod image;
mod time;

pub use id::{AccountId, ClusterName, ContainerId, ContainerName, Family, InvalidId, Region, Scope, TaskId};
pub use time::Timestamp;
