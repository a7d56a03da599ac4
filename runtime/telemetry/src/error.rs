//! What can go wrong, one enum per family of operations.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A kind of thing that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A log group.
    Group,
    /// A log stream.
    Stream,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Group => "log group",
            Self::Stream => "log stream",
        })
    }
}

/// Why a log store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another store of this one, has the directory.
    #[error("open log store {dir}: it is in use")]
    InUse {
        /// The store's directory.
        dir: PathBuf,
    },
    /// The file system refused.
    #[error("open log store at {path}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The system refused a thread.
    #[error("start the threads of the log store")]
    Thread(#[source] io::Error),
}

/// Why a group or stream was not created, changed, deleted or described.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// No such group or stream.
    #[error("{what} {name:?} does not exist")]
    NotFound {
        /// Group or stream.
        what: What,
        /// The name that was asked for.
        name: String,
    },
    /// The name is taken.
    #[error("{what} {name:?} already exists")]
    AlreadyExists {
        /// Group or stream.
        what: What,
        /// The taken name.
        name: String,
    },
    /// An argument breaks a rule of the API.
    #[error("{parameter} is not valid: {rule}")]
    InvalidParameter {
        /// The argument's name in the API.
        parameter: &'static str,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The file system refused.
    #[error("write {what} {name:?}")]
    Io {
        /// Group or stream.
        what: What,
        /// Its name.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Why a batch of events was not stored; none of its events was.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// No such group or stream.
    #[error("{what} {name:?} does not exist")]
    NotFound {
        /// Group or stream.
        what: What,
        /// The name that was asked for.
        name: String,
    },
    /// The batch breaks a rule of the API.
    #[error("{parameter} is not valid: {rule}")]
    InvalidParameter {
        /// The argument's name in the API.
        parameter: &'static str,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The events could not be written; the caller may try again.
    #[error("write events to {stream:?}")]
    Unavailable {
        /// The stream.
        stream: String,
        /// What the kernel said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The store is closing.
    #[error("write events to {stream:?}: the log store is closed")]
    Closed {
        /// The stream.
        stream: String,
    },
}

/// Why events could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No such group or stream.
    #[error("{what} {name:?} does not exist")]
    NotFound {
        /// Group or stream.
        what: What,
        /// The name that was asked for.
        name: String,
    },
    /// An argument breaks a rule of the API.
    #[error("{parameter} is not valid: {rule}")]
    InvalidParameter {
        /// The argument's name in the API.
        parameter: &'static str,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The file system refused.
    #[error("read events of {group:?}")]
    Io {
        /// The group.
        group: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A name that was not found; converts into the families' own variants.
pub(crate) struct Missing(pub(crate) What, pub(crate) String);

macro_rules! from_missing {
    ($($error:ident),*) => {$(
        impl From<Missing> for $error {
            fn from(Missing(what, name): Missing) -> Self {
                Self::NotFound { what, name }
            }
        }
    )*};
}

from_missing!(MetaError, PutError, ReadError);
