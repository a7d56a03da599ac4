//! A run on a thread of its own.
//!
//! The thread first joins the cgroups that it was given, so that the kernel accounts for the guest and limits it,
//! and then does what the worker's main thread does for other runs. It ends with its run.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use neargate_wasm::protocol::{FromWorker, StartFailure};
use tokio::sync::mpsc;

use super::outgoing::Outgoing;
use super::run::Run;
use super::runs::Table;
use super::turns::Turns;

/// What the thread is given.
pub(super) struct Own {
    pub(super) run: u64,
    /// The run; [`Turns`] are those of the thread.
    pub(super) first: Run,
    pub(super) turns: Turns,
    /// Files that a thread writes `0` to in order to join: `tasks` of version 1, `cgroup.threads` of version 2
    /// (cgroups(7)).
    pub(super) cgroups: Vec<OwnedFd>,
    pub(super) table: Table,
    pub(super) outgoing: mpsc::Sender<Outgoing>,
}

/// Starts the thread. An error leaves nothing behind but the run's entry in the table.
pub(super) fn start(own: Own) -> io::Result<()> {
    let runtime = super::runtime()?;
    let thread = std::thread::Builder::new().name(format!("wasm-run-{}", own.run));
    thread.spawn(move || live(&runtime, own)).map(drop)
}

fn live(runtime: &tokio::runtime::Runtime, own: Own) {
    let Own { run, first, turns, cgroups, table, outgoing } = own;
    if let Err(error) = join(cgroups) {
        drop(first);
        table.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&run);
        let errno = error.raw_os_error().unwrap_or(0);
        let failure = StartFailure::System { step: "join the cgroup of the task".into(), errno };
        // The worker ends when nobody receives it.
        let _ = outgoing.blocking_send(FromWorker::StartFailed { run, failure }.into());
        return;
    }
    runtime.block_on(async move {
        let giver = tokio::spawn(async move { turns.give::<()>().await });
        // A task rather than this future, whose wake-ups cost a system call each. It catches panics itself.
        let _ = tokio::spawn(first.run_to_end(table, outgoing)).await;
        giver.abort();
    });
}

fn join(cgroups: Vec<OwnedFd>) -> io::Result<()> {
    cgroups.into_iter().try_for_each(|file| File::from(file).write_all(b"0"))
}
