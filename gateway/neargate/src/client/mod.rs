//! The commands that talk to a server: `ps`, `logs`, `exec`, `stop`, `describe`, `debug`, `push`, and `env`, which says how others may.
//!
//! They are a user of the SDK and of nothing else of ours. What was asked for goes to stdout; hints and questions go to
//! stderr.

mod connect;
mod core_dump;
mod debug;
mod describe;
mod env;
mod exec;
mod hint;
mod ini;
mod logs;
mod prepare;
mod ps;
mod push;
mod shell;
mod show;
mod stop;
mod table;
mod task_ref;
mod terminal;

pub(crate) use connect::variable;
pub(crate) use debug::{DebugArgs, run as debug};
pub(crate) use describe::{DescribeArgs, run as describe};
pub(crate) use env::{EnvArgs, run as env};
pub(crate) use exec::{ExecArgs, run as exec};
pub(crate) use hint::{exit_code, hint};
pub(crate) use logs::{LogsArgs, run as logs};
pub(crate) use prepare::tell_server;
pub(crate) use ps::{PsArgs, run as ps};
pub(crate) use push::{PushArgs, run as push};
pub(crate) use show::{Output, size};
pub(crate) use stop::{StopArgs, run as stop};
pub(crate) use table::{pairs, table};
