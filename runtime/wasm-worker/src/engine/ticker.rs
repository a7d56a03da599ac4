//! The thread that advances the epoch, by which running guests notice that time has passed.
//!
//! It ticks once a [`TICK`] while a guest is being polled and parks when none is. Waking it costs a
//! system call, so it parks only after [`IDLE_TICKS`] ticks without work.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, mem};

use wasmtime::{Engine, EngineWeak};

/// The length of an epoch.
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// How many ticks without a guest pass before the thread parks.
const IDLE_TICKS: u32 = 20;
/// Ticks that are made up for at once; more would end no slice sooner.
const CATCH_UP_MAX: u128 = 20;

pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// Their epochs advance together; there are two at most.
    engines: Mutex<Vec<EngineWeak>>,
    /// Guests that are being polled right now.
    polled: AtomicUsize,
    parked: AtomicBool,
    stopped: AtomicBool,
}

/// Keeps the epoch going until dropped.
pub(crate) struct Ticking<'a>(&'a Ticker);

impl Ticker {
    /// Starts the thread, parked.
    pub(crate) fn start(engine: &Engine) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            engines: Mutex::new(vec![engine.weak()]),
            polled: AtomicUsize::new(0),
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

    /// To be held while a guest is polled.
    pub(crate) fn enter(&self) -> Ticking<'_> {
        self.shared.polled.fetch_add(1, Ordering::SeqCst);
        if self.shared.parked.swap(false, Ordering::SeqCst) {
            self.unpark();
        }
        Ticking(self)
    }

    fn unpark(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.shared.polled.fetch_sub(1, Ordering::SeqCst);
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
}

fn tick(shared: &Shared) {
    let mut idle = 0;
    let mut ticked = Instant::now();
    while !shared.stopped.load(Ordering::SeqCst) {
        thread::sleep(TICK);
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
