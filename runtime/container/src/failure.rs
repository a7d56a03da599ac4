//! What the supervisor, or a child of it, tells when something cannot be done.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use neargate_driver::{
    ExecError, LinkLocalError, ProcessError, SandboxError, SignalError, StartError, StatsError,
};

use neargate_ipc::wire_enum;

wire_enum! {
    /// A refusal or a failed step, as it crosses the socket.
    pub(crate) enum Failure {
        /// The program does not exist.
        0 => NotFound { program: String },
        /// The program cannot be executed.
        1 => NotExecutable { program: String, why: String },
        /// No such user or group in the image.
        2 => UnknownUser { user: String, why: String },
        /// The image's root file system cannot be used.
        3 => InvalidImage { why: String },
        /// The plan asks for what this driver does not do.
        4 => Unsupported { what: String, why: String },
        /// A volume could not be mounted.
        5 => Mount { source_path: Vec<u8>, target: Vec<u8>, errno: i32 },
        /// A system call failed.
        6 => System { step: String, errno: i32 },
        /// The supervisor lacks a right.
        7 => NotPermitted { what: String, hint: String },
        /// There is no such running container.
        8 => NotRunning {},
    }
}

/// Names the step that a failed system call belongs to.
pub(crate) trait Step<T> {
    /// Turns the error into a [`Failure::System`].
    fn step(self, step: &str) -> Result<T, Failure>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: &str) -> Result<T, Failure> {
        self.map_err(|e| Failure::System { step: step.to_owned(), errno: errno(&e) })
    }
}

impl<T> Step<T> for rustix::io::Result<T> {
    fn step(self, step: &str) -> Result<T, Failure> {
        self.map_err(|e| Failure::System { step: step.to_owned(), errno: e.raw_os_error() })
    }
}

/// The error number of an I/O error; EIO for one that std made up itself.
pub(crate) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

impl Failure {
    /// The cause as an I/O error, for error types that carry nothing else.
    fn into_io(self) -> io::Error {
        match self {
            Failure::System { errno, .. } | Failure::Mount { errno, .. } => {
                io::Error::from_raw_os_error(errno)
            }
            Failure::NotRunning {} => io::Error::from_raw_os_error(libc::ESRCH),
            Failure::NotPermitted { what, hint } => {
                io::Error::new(io::ErrorKind::PermissionDenied, format!("{what} needs root: {hint}"))
            }
            Failure::NotFound { program } => io::Error::new(io::ErrorKind::NotFound, program),
            Failure::NotExecutable { program: what, why }
            | Failure::UnknownUser { user: what, why }
            | Failure::Unsupported { what, why } => io::Error::other(format!("{what}: {why}")),
            Failure::InvalidImage { why } => io::Error::other(why),
        }
    }

    /// As the driver contract's start error.
    pub(crate) fn into_start(self) -> StartError {
        let path = |bytes: Vec<u8>| PathBuf::from(OsString::from_vec(bytes));
        match self {
            Failure::NotFound { program } => StartError::NotFound { program },
            Failure::NotExecutable { program, why } => StartError::NotExecutable { program, why },
            Failure::UnknownUser { user, why } => StartError::UnknownUser { user, why },
            Failure::InvalidImage { why } => StartError::InvalidImage { why },
            Failure::Unsupported { what, why } => StartError::Unsupported { what, why },
            Failure::Mount { source_path, target, errno } => StartError::Mount {
                source_path: path(source_path),
                target: path(target),
                source: io::Error::from_raw_os_error(errno),
            },
            Failure::System { step, errno } => {
                StartError::System { step, source: io::Error::from_raw_os_error(errno) }
            }
            other @ (Failure::NotPermitted { .. } | Failure::NotRunning {}) => {
                StartError::System { step: "find sandbox".to_owned(), source: other.into_io() }
            }
        }
    }

    /// As the driver contract's sandbox error.
    pub(crate) fn into_sandbox(self) -> SandboxError {
        match self {
            Failure::NotPermitted { what, hint } => SandboxError::NotPermitted { what, hint },
            Failure::System { step, errno } => {
                SandboxError::System { step, source: io::Error::from_raw_os_error(errno) }
            }
            other => SandboxError::System { step: "prepare sandbox".to_owned(), source: other.into_io() },
        }
    }

    /// As the driver contract's error of link-local sockets.
    pub(crate) fn into_link_local(self) -> LinkLocalError {
        match self {
            Failure::System { errno: libc::EADDRINUSE, .. } => LinkLocalError::InUse,
            Failure::System { step, errno } => {
                LinkLocalError::System { step, source: io::Error::from_raw_os_error(errno) }
            }
            other => LinkLocalError::Unavailable { source: other.into_io() },
        }
    }

    /// As the driver contract's exec error.
    pub(crate) fn into_exec(self) -> ExecError {
        match self {
            Failure::NotRunning {} => ExecError::NotRunning,
            other => ExecError::Start(other.into_start()),
        }
    }

    /// As the process host's error.
    pub(crate) fn into_process(self) -> ProcessError {
        match self {
            Failure::Mount { source_path, errno, .. } => ProcessError::Mount {
                path: PathBuf::from(OsString::from_vec(source_path)),
                source: io::Error::from_raw_os_error(errno),
            },
            Failure::System { step, errno } => {
                ProcessError::System { step, source: io::Error::from_raw_os_error(errno) }
            }
            Failure::Unsupported { what, why } => ProcessError::Unsupported { what, why },
            other => ProcessError::System { step: "start process".to_owned(), source: other.into_io() },
        }
    }

    /// As the driver contract's signal error.
    pub(crate) fn into_signal(self) -> SignalError {
        SignalError { source: self.into_io() }
    }

    /// As the driver contract's statistics error.
    pub(crate) fn into_stats(self) -> StatsError {
        StatsError { source: self.into_io() }
    }
}
