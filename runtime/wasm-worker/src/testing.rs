//! For tests of the driver: roles as threads of the test's own process.

use std::path::PathBuf;

/// Where a directory of a plan is.
pub(crate) fn below_root(name: &str) -> PathBuf {
    PathBuf::from("/").join(name)
}
