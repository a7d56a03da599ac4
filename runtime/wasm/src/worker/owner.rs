//! The owner of a worker: the one task that receives from it and decides about its end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use neargate_driver::Process;
use neargate_ipc::channel::{self, Frame};
use neargate_ipc::wire::{decode, encode};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{Ended, Entry, Loss, Permissions, Run, Worker, artifacts};
use crate::calls::Calls;
use crate::jobs::Jobs;
use crate::protocol::{Attachment, FromWorker, HostReply, HostRequest, RunExit, StartFailure, ToWorker};

/// Messages that are taken in one go, so that a worker that never stops talking does not hold its thread.
const BATCH: usize = 64;
/// Questions of guests that a worker may have open; more are refused at once. As many as a worker of ours asks.
const CALLS_MAX: usize = 1024;
/// Bytes of these questions together: values to be kept may be large.
const CALL_BYTES_MAX: usize = 64 << 20;
/// Messages about runs that are not there. A worker of ours sends none; one that does is out of order.
const STRAYS_MAX: u32 = 64;
/// Notices that are logged in [`NOTICE_PERIOD`]; a guest may cause them.
const NOTICES_MAX: u32 = 20;
const NOTICE_PERIOD: Duration = Duration::from_secs(10);
/// Longest notice that is logged, in characters.
const NOTICE_LEN_MAX: usize = 500;
/// How long the end of a process may take that closed its socket or was killed.
const END: Duration = Duration::from_secs(5);

/// Says when a worker may go; the pool.
pub(crate) trait Retire: Send + Sync {
    /// Whether nobody needs the worker any more; then nobody gets it any more.
    fn retire(&self) -> bool;
    /// Waits until it is worth asking again.
    fn idle(&self) -> impl Future<Output = ()> + Send;
}

/// Why an owner stops.
enum Reason {
    /// The process has ended, or closed its socket.
    Gone,
    /// It must go.
    Condemned(String),
    /// It may go.
    Retired,
    /// The driver ends.
    Cancelled,
}

/// Serves a worker to its end and tells how that was. Its runs are still to be ended, with [`Worker::lose`].
pub(crate) async fn own(
    worker: &Arc<Worker>,
    process: &Arc<dyn Process>,
    calls: &Arc<Calls>,
    retire: &impl Retire,
    jobs: &Jobs,
) -> Loss {
    let mut owner = Owner::new(worker.clone(), calls.clone());
    let mut condemned = worker.condemned.subscribe();
    let reason = loop {
        tokio::select! {
            reason = owner.serve() => break reason,
            _ = process.wait() => break Reason::Gone,
            Ok(why) = condemned.wait_for(Option::is_some) => {
                break Reason::Condemned(why.clone().unwrap_or_default());
            }
            () = retire.idle() => if retire.retire() { break Reason::Retired },
            () = jobs.cancelled() => break Reason::Cancelled,
        }
    };
    owner.end(reason, process).await
}

struct Owner {
    worker: Arc<Worker>,
    calls: Arc<Calls>,
    jobs: JoinSet<()>,
    buffer: Vec<u8>,
    open_bytes: Arc<AtomicUsize>,
    strays: u32,
    notices: u32,
    notices_since: Instant,
}

impl Owner {
    fn new(worker: Arc<Worker>, calls: Arc<Calls>) -> Self {
        Self {
            worker,
            calls,
            jobs: JoinSet::new(),
            buffer: Vec::new(),
            open_bytes: Arc::default(),
            strays: 0,
            notices: 0,
            notices_since: Instant::now(),
        }
    }

    /// Takes messages until there will be no more. It may be cancelled: it loses none.
    async fn serve(&mut self) -> Reason {
        loop {
            let worker = self.worker.clone();
            let mut ready = match worker.socket.readable().await {
                Ok(ready) => ready,
                Err(error) => return Reason::Condemned(format!("its socket failed: {error}")),
            };
            match self.take_batch() {
                Taken::Some => {}
                Taken::All => ready.clear_ready(),
                Taken::Last(reason) => return reason,
            }
            drop(ready);
            while self.jobs.try_join_next().is_some() {}
            tokio::task::yield_now().await;
        }
    }

    fn take_batch(&mut self) -> Taken {
        for _ in 0..BATCH {
            let frame = match channel::receive(self.worker.socket.get_ref().as_fd(), &mut self.buffer, false)
            {
                Ok(Some(frame)) => frame,
                Ok(None) => return Taken::Last(Reason::Gone),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Taken::All,
                Err(error) => {
                    return Taken::Last(Reason::Condemned(format!("it sent what cannot be read: {error}")));
                }
            };
            if let Err(Offence(why)) = self.take(frame) {
                return Taken::Last(Reason::Condemned(why.to_owned()));
            }
        }
        Taken::Some
    }

    fn take(&mut self, frame: Frame) -> Result<(), Offence> {
        let Ok(message) = decode::<FromWorker>(&frame.message) else {
            return Err(Offence("it sent a message that is none"));
        };
        let is_known = match message {
            FromWorker::Ready { .. } => false,
            FromWorker::Loaded { image } => self.worker.settle_image(image, Ok(())),
            FromWorker::LoadFailed { image, why } => {
                self.worker.settle_image(image, Err(format!("load: {}", plain(&why))))
            }
            FromWorker::Started { run } => self.worker.settle_start(run, Ok(())),
            FromWorker::StartFailed { run, failure } => self.worker.settle_start(run, Err(failure)),
            FromWorker::Exited { run, exit } => self.take_exit(run, exit, frame),
            // It may have ended since it was asked.
            FromWorker::Usage { run, usage } => {
                if let Some(run) = self.worker.find(run) {
                    run.note_usage(usage);
                }
                true
            }
            FromWorker::HostCall { run, call, request } => {
                self.take_call(run, call, request, frame.message.len())?
            }
            FromWorker::Notice { text } => {
                self.take_notice(&text);
                true
            }
            FromWorker::Left { run, attachment } => self.take_left(run, attachment, frame.fds)?,
        };
        if !is_known {
            self.strays += 1;
        }
        if self.strays > STRAYS_MAX {
            Err(Offence("it speaks of runs that it does not have"))
        } else {
            Ok(())
        }
    }

    fn take_exit(&mut self, run: u64, exit: RunExit, frame: Frame) -> bool {
        let Some(mut entry) = self.worker.take_out(run) else { return false };
        entry.run.note_usage(exit.usage.clone());
        let (dir, left) = (entry.artifacts.clone(), entry.left.take());
        let attachments = exit.attachments.clone();
        let ending = Ending { entry: Some(entry), exit };
        let keeps = dir.filter(|_| !attachments.is_empty());
        if keeps.is_some() || left.is_some() {
            // Who waits for the end finds the files.
            self.jobs.spawn(async move {
                if let Some(left) = left {
                    // An error means that it was not kept, which has been logged.
                    let _ = left.await;
                }
                if let Some(dir) = keeps {
                    keep(move || artifacts::store(&dir, &attachments, frame.fds)).await;
                }
                drop(ending);
            });
        }
        true
    }

    /// A run leaves one thing before its end at most: each takes room on disk, and guests cause it.
    fn take_left(&mut self, run: u64, attachment: Attachment, fds: Vec<OwnedFd>) -> Result<bool, Offence> {
        let mut state = self.worker.lock();
        let Some(entry) = state.runs.get_mut(&run) else { return Ok(false) };
        let Some(dir) = entry.artifacts.clone() else {
            return Err(Offence("it leaves what nobody wants"));
        };
        if entry.left.is_some() {
            return Err(Offence("a run of it leaves more than one thing before its end"));
        }
        let (kept, left) = oneshot::channel();
        entry.left = Some(left);
        drop(state);
        self.jobs.spawn(async move {
            keep(move || artifacts::store_first(&dir, &attachment, fds)).await;
            drop(kept);
        });
        Ok(true)
    }

    fn take_call(
        &mut self,
        run: u64,
        call: u64,
        request: HostRequest,
        bytes: usize,
    ) -> Result<bool, Offence> {
        let Some(may) = self.worker.permissions(run) else { return Ok(false) };
        let open = Open::take(&self.open_bytes, bytes);
        if self.jobs.len() >= CALLS_MAX || open.is_none() {
            let why = "too many questions to the server are open".to_owned();
            let reply = encode(&ToWorker::HostReply { call, reply: HostReply::Failed { why } });
            let sent = channel::send(self.worker.socket.get_ref().as_fd(), 0, &reply, &[], false);
            return match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    Err(Offence("it asks without reading the answers"))
                }
                _ => Ok(true),
            };
        }
        let (worker, calls) = (self.worker.clone(), self.calls.clone());
        self.jobs.spawn(async move {
            let (reply, socket) = calls.answer(may, request).await;
            worker.reply(call, reply, socket).await;
            drop(open);
        });
        Ok(true)
    }

    fn take_notice(&mut self, text: &str) {
        if self.notices_since.elapsed() > NOTICE_PERIOD {
            (self.notices, self.notices_since) = (0, Instant::now());
        }
        self.notices += 1;
        match self.notices {
            0..NOTICES_MAX => {
                tracing::warn!(worker = self.worker.name, notice = plain(text), "a Wasm worker says")
            }
            NOTICES_MAX => {
                tracing::warn!(worker = self.worker.name, "more notices of a Wasm worker are not shown")
            }
            _ => {}
        }
    }

    /// Sees the process to its end.
    async fn end(mut self, reason: Reason, process: &Arc<dyn Process>) -> Loss {
        let (why, intended) = match reason {
            Reason::Gone => (None, false),
            Reason::Condemned(why) => (Some(why), false),
            Reason::Retired => (Some("it had nothing to do".to_owned()), true),
            Reason::Cancelled => (Some("the server ends".to_owned()), true),
        };
        if why.is_some() {
            process.kill();
        }
        let exit = match timeout(END, process.wait()).await {
            Ok(exit) => Some(exit),
            Err(_) => {
                process.kill();
                timeout(END, process.wait()).await.ok()
            }
        };
        if why.is_none() {
            // It may have told of ends before its own.
            while matches!(self.take_batch(), Taken::Some) {}
        }
        let wait_for_jobs = async { while self.jobs.join_next().await.is_some() {} };
        let _ = timeout(END, wait_for_jobs).await;
        let loss = match (exit, why) {
            (Some(exit), None) => Loss::of_exit(exit),
            (_, Some(why)) => Loss { intended, ..Loss::unexpected(&why) },
            (None, None) => Loss::unexpected("it closed its socket"),
        };
        if loss.oom {
            // A limit is the task's own, and its record says so.
            tracing::info!(worker = self.worker.name, "a Wasm worker went over its memory limit");
        } else if !loss.intended {
            tracing::warn!(worker = self.worker.name, why = loss.why, "a Wasm worker ended unexpectedly");
        }
        loss
    }
}

/// Writes what a run left.
async fn keep(store: impl FnOnce() -> io::Result<()> + Send + 'static) {
    if let Ok(Err(error)) = tokio::task::spawn_blocking(store).await {
        tracing::warn!(%error, "keep the core dump or profile of a Wasm container");
    }
}

enum Taken {
    /// There may be more.
    Some,
    /// There is no more now.
    All,
    /// There will be no more.
    Last(Reason),
}

/// The bytes of a question that is being answered.
struct Open {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Open {
    fn take(all: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let before = all.fetch_add(bytes, Ordering::Relaxed);
        let open = Self { all: all.clone(), bytes };
        (before + bytes <= CALL_BYTES_MAX).then_some(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What a worker of ours does not do; the reason why it is killed.
struct Offence(&'static str);

/// A run that has ended; dropping it tells so, whatever becomes of what it left behind.
struct Ending {
    entry: Option<Entry>,
    exit: RunExit,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let Some(mut entry) = self.entry.take() else { return };
        if let Some(started) = entry.started.take() {
            // One that ended before it was said to have started has started.
            let _ = started.send(Ok(()));
        }
        // Its place is free before anyone hears of the end.
        drop(entry.held);
        entry.run.end(Ended::of(&self.exit));
    }
}

/// Text from a worker for logs and reasons: no control characters, and not too long.
pub(super) fn plain(text: &str) -> String {
    text.chars().take(NOTICE_LEN_MAX).map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

impl Worker {
    /// Ends all runs, because the worker is no more.
    pub(crate) fn lose(&self, loss: Loss) {
        let end = loss.as_end();
        let (runs, images) = {
            let mut state = self.lock();
            state.lost = Some(Arc::new(loss));
            (std::mem::take(&mut state.runs), std::mem::take(&mut state.images))
        };
        drop(images);
        for entry in runs.into_values() {
            drop(entry.held);
            entry.run.end(end.clone());
        }
    }

    fn find(&self, run: u64) -> Option<Arc<Run>> {
        self.lock().runs.get(&run).map(|entry| entry.run.clone())
    }

    pub(super) fn permissions(&self, run: u64) -> Option<Permissions> {
        self.lock().runs.get(&run).map(|entry| entry.may.clone())
    }

    /// An ended run; dropping it locks the pool, so that is left to who is not holding the lock here.
    fn take_out(&self, run: u64) -> Option<Entry> {
        self.lock().runs.remove(&run)
    }

    fn settle_start(&self, run: u64, outcome: Result<(), StartFailure>) -> bool {
        if outcome.is_err() {
            let Some(mut entry) = self.take_out(run) else { return false };
            entry.run.end(Ended::unknown());
            return settle(entry.started.take(), outcome);
        }
        let started = self.lock().runs.get_mut(&run).and_then(|entry| entry.started.take());
        settle(started, outcome)
    }

    fn settle_image(&self, id: u32, outcome: Result<(), String>) -> bool {
        let mut state = self.lock();
        let found = state.images.iter().find(|(_, image)| image.id == id);
        let Some(digest) = found.map(|(digest, _)| digest.clone()) else { return false };
        let is_new = |image: &super::Image| image.loaded.borrow().is_none();
        if !state.images.get(&digest).is_some_and(is_new) {
            return false;
        }
        let failed = outcome.is_err();
        if let Some(image) = state.images.get(&digest) {
            image.loaded.send_replace(Some(outcome));
        }
        if failed {
            // The next start tries anew.
            state.images.remove(&digest);
        }
        true
    }

    async fn reply(&self, call: u64, reply: HostReply, socket: Option<OwnedFd>) {
        let fds: Vec<BorrowedFd<'_>> = socket.iter().map(AsFd::as_fd).collect();
        if let Err(error) = self.send(&ToWorker::HostReply { call, reply }, &fds).await {
            tracing::debug!(worker = self.name, %error, "answer a Wasm worker");
        }
    }
}

fn settle(
    started: Option<oneshot::Sender<Result<(), StartFailure>>>,
    outcome: Result<(), StartFailure>,
) -> bool {
    match started {
        // Who waited may have gone; that is its business.
        Some(started) => {
            let _ = started.send(outcome);
            true
        }
        None => false,
    }
}
