//! Client for Neargate: run tasks, wait for them, read what they write.
//!
//! Neargate speaks the APIs of AWS, so every AWS SDK works with it. This client is for those who want less: few
//! dependencies, no model of all of AWS, and the four calls that AWS leaves to its users as loops.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use futures_util::TryStreamExt;
//! use neargate_sdk::{Client, TaskRequest};
//!
//! # async fn example() -> Result<(), neargate_sdk::Error> {
//! let client = Client::from_env()?;
//! let task = client.submit(TaskRequest::new("hello").command("app", ["echo", "hi"])).await?;
//! let mut lines = client.logs(&task.arn).follow();
//! while let Some(line) = lines.try_next().await? {
//!     println!("{}: {}", line.container, line.message);
//! }
//! let finished = client.wait(&task.arn, Duration::from_secs(60)).await?;
//! println!("{:?}: {:?}", finished.stop_code, finished.exit_codes);
//! # Ok(())
//! # }
//! ```
//!
//! The example `run_task` in this crate does the same from the command line.
//!
//! - [`Config`] says where the server is and who we are; [`Config::from_env`] finds both.
//! - [`Client::submit`], [`Client::wait`], [`Client::logs`] and [`Client::stop`] are the life of a task.
//! - [`Client::ecs`], [`Client::cloudwatch_logs`] and [`Client::sts`] have a method for every operation of the server,
//!   with the types of [`types`].
//!
//! A call is attempted up to three times, with growing random pauses: always when no connection was made or the server
//! asks for fewer calls, and when the answer was lost or is the server's own failure only if doing it twice is doing it
//! once. RunTask always carries a client token and is such a call.
//!
//! # Features
//!
//! - `https` (off by default): endpoints of the scheme `https`, through rustls and the certificates of the machine.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod arn;
mod backoff;
mod call;
mod client;
mod config;

mod error;
mod exec;
mod http;
mod ini;
pub mod local;
mod logs;
mod native;
mod pages;
mod query;
mod services;
mod sources;
mod task;

pub use arn::TaskArn;
pub use client::Client;
pub use config::{Config, ConfigError, Credentials, ENDPOINT_DEFAULT, Explicit, Lookup, REGION_DEFAULT};

pub use error::{AnswerError, Error, ServiceError};
pub use exec::{Exec, ExecEvent, ExecInput, ExecRequest};
pub use logs::{LogEvent, TaskLogs};
pub use native::Artifact;
pub use neargate_auth::Secret;
pub use services::{CloudWatchLogs, Ecs, Sts};
pub use task::{FinishedTask, SubmittedTask, TaskRequest};

/// Inputs and outputs of the operations, generated from the AWS models.
pub mod types {
    pub use neargate_wire::{Blob, Timestamp, ecs, json, logs, sts};
}
