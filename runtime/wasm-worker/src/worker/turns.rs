//! Who runs next: light guests first, and heavy ones while nothing else is to be done.
//!
//! All guests of a thread are tasks of one tokio runtime, which runs them in the order in which they become ready.
//! With that alone, a newcomer would wait for a slice of each guest that computes. So a guest that has
//! computed for long ([`Lap::heavy`](crate::budget::Lap)) queues here at the end of its slice, and one of the
//! queue is let go each time that the runtime has seen to its sockets and no light guest had anything to do.
//! A newcomer then waits for the rest of one slice at most, however many guests compute.
//!
//! Heavy guests get a slice every [`STARVED`] even when light ones never rest.
//!
//! A thread whose guests always compute would never leave its core by itself. The kernel's scheduler does take it
//! away, but where groups of processes compete (autogroups, cpu cgroups) Linux up to 6.18 at least may pass others over
//! there for a second: threads of its own that complete the store's writes among them. So the thread sleeps for
//! [`REST`] after each [`RUN`] of heavy slices, and whoever waits comes to run.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

/// How long heavy guests wait for a slice at most: a tenth of the time is theirs.
const STARVED: Duration = Duration::from_millis(10);

/// How long heavy guests compute before their thread rests. A write of the store waits for several threads of the
/// kernel, one after the other, and for each of them this long at worst.
const RUN: Duration = Duration::from_millis(2);

/// How long it rests: the least there is. The kernel makes 50 µs of it (`PR_SET_TIMERSLACK`, prctl(2)), which is enough
/// to switch to somebody else, and less than three hundredths of [`RUN`].
const REST: Duration = Duration::from_micros(1);

/// The queue of one thread's heavy guests. Clones share it.
#[derive(Clone)]
pub(crate) struct Turns(Arc<Shared>);

struct Shared {
    heavy: Mutex<VecDeque<oneshot::Sender<()>>>,
    /// Told when the queue is no longer empty.
    more: Notify,
    /// How often a light guest was polled.
    light_polls: AtomicU64,
}

impl Turns {
    pub(crate) fn new() -> Self {
        let shared = Shared { heavy: Mutex::default(), more: Notify::new(), light_polls: AtomicU64::new(0) };
        Self(Arc::new(shared))
    }

    /// To be told of every poll of a light guest.
    pub(crate) fn light_was_polled(&self) {
        self.0.light_polls.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for a heavy guest's turn.
    pub(crate) async fn wait(&self) {
        let (go, turn) = oneshot::channel();
        self.0.heavy.lock().unwrap_or_else(PoisonError::into_inner).push_back(go);
        self.0.more.notify_one();
        // Nobody gives turns any more when the runtime ends, and the guest with it.
        let _ = turn.await;
    }

    /// Gives turns, for ever. One task of the runtime does this.
    pub(crate) async fn give<T>(&self) -> T {
        let mut given = Instant::now();
        let mut rested = given;
        loop {
            if self.is_empty() {
                self.0.more.notified().await;
                given = Instant::now();
                continue;
            }
            let before = self.0.light_polls.load(Ordering::Relaxed);
            // The runtime polls its sockets before it comes back here, and all that they woke goes first.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            let idle = self.0.light_polls.load(Ordering::Relaxed) == before;
            if idle || given.elapsed() >= STARVED {
                given = Instant::now();
                if given.duration_since(rested) >= RUN {
                    std::thread::sleep(REST);
                    rested = Instant::now();
                }
                self.let_one_go();
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.0.heavy.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn let_one_go(&self) {
        let mut heavy = self.0.heavy.lock().unwrap_or_else(PoisonError::into_inner);
        // One whose guest has been cancelled meanwhile has nobody to receive it.
        while let Some(next) = heavy.pop_front() {
            if next.send(()).is_ok() {
                return;
            }
        }
    }
}
