//! The errors of the driver contract, one enum per family of operations.

use std::io;
use std::path::PathBuf;

/// Why a container did not start. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program does not exist in the image (exit code 127 where one must be shown).
    #[error("exec {program:?}: no such file in the image's PATH")]
    NotFound {
        /// The program as it was asked for.
        program: String,
    },
    /// The program exists but cannot be executed (exit code 126).
    #[error("exec {program:?}: {why}")]
    NotExecutable {
        /// The program as it was asked for.
        program: String,
        /// What is wrong with it.
        why: String,
    },
    /// The user or group of the spec does not exist in the image.
    #[error("find user {user:?} in the image: {why}")]
    UnknownUser {
        /// `user[:group]` as it was asked for.
        user: String,
        /// Which part is unknown.
        why: String,
    },
    /// The image's root file system or the Wasm binary cannot be used.
    #[error("use image: {why}")]
    InvalidImage {
        /// What is wrong with it.
        why: String,
    },
    /// The spec asks for something that this driver cannot do.
    #[error("{what} is not supported: {why}")]
    Unsupported {
        /// The setting.
        what: String,
        /// Why, and what to do.
        why: String,
    },
    /// A volume's source is missing or may not be used.
    #[error("mount {} at {}", source_path.display(), target.display())]
    Mount {
        /// The host side.
        source_path: PathBuf,
        /// The container side.
        target: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A step of the set-up failed in the kernel.
    #[error("{step}")]
    System {
        /// The step, for example `mount overlay`.
        step: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The process that starts containers is gone; the task cannot run now.
    #[error("reach the supervisor")]
    Unavailable {
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Why it is unknown whether a container runs.
#[derive(Debug, thiserror::Error)]
#[error("look for running container")]
pub struct RecoverError {
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// Why a signal could not be delivered.
#[derive(Debug, thiserror::Error)]
#[error("signal container")]
pub struct SignalError {
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// Why usage could not be read.
#[derive(Debug, thiserror::Error)]
#[error("read usage of container")]
pub struct StatsError {
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// Why a command could not be run inside a container.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The container has ended.
    #[error("container is not running")]
    NotRunning,
    /// The driver has no way to run a second command.
    #[error("exec is not supported: {why}")]
    Unsupported {
        /// Why.
        why: String,
    },
    /// The command could not be started.
    #[error("start command in container")]
    Start(#[source] StartError),
}

/// Why a sandbox could not be made or released.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// This process may not make namespaces or cgroups.
    #[error("{what} needs root: {hint}")]
    NotPermitted {
        /// What was attempted.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A step failed in the kernel.
    #[error("{step}")]
    System {
        /// The step, for example `make network namespace`.
        step: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The supervisor is gone.
    #[error("reach the supervisor")]
    Unavailable {
        /// The cause.
        #[source]
        source: io::Error,
    },
}
