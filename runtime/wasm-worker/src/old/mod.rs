//! The driver that runs guests in the server's own process, until the binary uses worker processes.

pub(crate) mod budget;
pub(crate) mod driver;
pub(crate) mod engine;
pub(crate) mod instance;
pub(crate) mod library;
pub(crate) mod stdio;
