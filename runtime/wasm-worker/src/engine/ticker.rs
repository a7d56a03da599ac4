//! The thread that advances the epoch, by which running guests notice that time has passed.
//!
//! It ticks once a [`TICK`] while a guest is being polled and parks when none is. Waking it costs a
//! system call, so it parks only after [`IDLE_TICKS`] ticks without work.
//!
//! While a guest runs that has computed for long, it also waits for something to arrive at the sockets that it was
//! told to watch. If that happens, the epoch advances at once: who sent it does not wait for the rest of the guest's
//! slice.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, mem};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use wasmtime::{Engine, EngineWeak};

/// The length of an epoch.
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// How many ticks without a guest pass before the thread parks.
const IDLE_TICKS: u32 = 20;
/// Ticks that are made up for at once; more would end no slice sooner.
const CATCH_UP_MAX: u128 = 20;
/// Arrivals that are looked at together.
const ARRIVALS_MAX: usize = 64;

pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// Their epochs advance together; there are two at most.
    engines: Mutex<Vec<EngineWeak>>,
    /// Guests that are being polled right now, and those of them that have computed for long.
    polled: AtomicUsize,
    heavy: AtomicUsize,
    /// The watched sockets (epoll(7)), edge-triggered: each arrival is reported once.
    arrivals: OwnedFd,
    parked: AtomicBool,
    stopped: AtomicBool,
}

/// Keeps the epoch going until dropped.
pub(crate) struct Ticking<'a> {
    shared: &'a Shared,
    heavy: bool,
}

impl Ticker {
    /// Starts the thread, parked.
    pub(crate) fn start(engine: &Engine) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            engines: Mutex::new(vec![engine.weak()]),
            polled: AtomicUsize::new(0),
            heavy: AtomicUsize::new(0),
            arrivals: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            parked: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name("wasm-epoch".into()).spawn(move || tick(&of_thread))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Advances the epoch of another engine as well.
    pub(crate) fn add(&self, engine: &Engine) {
        self.shared.engines.lock().unwrap_or_else(PoisonError::into_inner).push(engine.weak());
    }

    /// Has guests that compute interrupted when something arrives at a socket, until that is closed. A socket that
    /// cannot be watched only makes others wait for the end of a slice.
    pub(crate) fn watch(&self, socket: &impl AsFd) {
        let wanted = epoll::EventFlags::IN | epoll::EventFlags::ET;
        if let Err(error) = epoll::add(&self.shared.arrivals, socket, epoll::EventData::new_u64(0), wanted) {
            tracing::debug!(%error, "watch a socket");
        }
    }

    /// To be held while a guest is polled; `heavy` when it has computed for long.
    pub(crate) fn enter(&self, heavy: bool) -> Ticking<'_> {
        self.shared.polled.fetch_add(1, Ordering::SeqCst);
        if heavy {
            self.shared.heavy.fetch_add(1, Ordering::SeqCst);
        }
        if self.shared.parked.swap(false, Ordering::SeqCst) {
            self.unpark();
        }
        Ticking { shared: &self.shared, heavy }
    }

    fn unpark(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.shared.polled.fetch_sub(1, Ordering::SeqCst);
        if self.heavy {
            self.shared.heavy.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.unpark();
        if let Some(thread) = mem::take(&mut self.thread) {
            // It panics only where wasmtime does, and then there is nothing to be done here.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn advance(&self) {
        let engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        engines.iter().filter_map(EngineWeak::upgrade).for_each(|engine| engine.increment_epoch());
    }

    /// Waits for a tick, and meanwhile for arrivals if somebody may have to wait for a guest that computes. To be
    /// woken by each request costs a server of small ones a fifth of its rate.
    fn wait(&self) {
        if self.heavy.load(Ordering::SeqCst) == 0 {
            return thread::sleep(TICK);
        }
        let begun = Instant::now();
        // With nothing to wait for but heavy guests' slices, whole milliseconds: epoll_pwait(2).
        let timeout = Timespec { tv_sec: 0, tv_nsec: TICK.as_nanos() as _ };
        let mut events = Vec::with_capacity(ARRIVALS_MAX);
        loop {
            let arrived = epoll::wait(&self.arrivals, spare_capacity(&mut events), Some(&timeout));
            match arrived {
                // A failure is no reason to stop ticking, nor to tick faster.
                Err(_) => return thread::sleep(TICK),
                Ok(0) => return,
                Ok(_) if self.heavy.load(Ordering::SeqCst) > 0 => self.advance(),
                Ok(_) => {}
            }
            if begun.elapsed() >= TICK {
                return;
            }
            events.clear();
        }
    }
}

fn tick(shared: &Shared) {
    let mut idle = 0;
    let mut ticked = Instant::now();
    while !shared.stopped.load(Ordering::SeqCst) {
        shared.wait();
        if shared.polled.load(Ordering::SeqCst) > 0 {
            idle = 0;
            // On a busy machine this thread comes late to every tick. Catching up keeps that from adding up
            // over the ticks of a guest's slice.
            let passed = ticked.elapsed().as_micros() / TICK.as_micros();
            for _ in 0..passed.clamp(1, CATCH_UP_MAX) {
                shared.advance();
            }
        } else {
            idle += 1;
            if idle >= IDLE_TICKS {
                park(shared);
                idle = 0;
            }
        }
        ticked = Instant::now();
    }
}

/// Sleeps until a guest is polled. Announcing it before looking once more closes the gap in which a guest
/// could enter unseen: either it sees the announcement, or we see it.
fn park(shared: &Shared) {
    shared.parked.store(true, Ordering::SeqCst);
    if shared.polled.load(Ordering::SeqCst) > 0 {
        shared.parked.store(false, Ordering::SeqCst);
    }
    while shared.parked.load(Ordering::SeqCst) && !shared.stopped.load(Ordering::SeqCst) {
        thread::park();
    }
}
