//! What a run and its task may use, and what they have used.
//!
//! Memory is counted at each growth, over all linear memories and tables. CPU time is the time that the
//! polling thread spent on the run (`CLOCK_THREAD_CPUTIME_ID`), which includes host calls made for the
//! guest, and not file operations that were handed to the blocking pool. A share of a core throttles, as the
//! kernel's CFS quota does: the guest pays for what it has used by sleeping. A CPU budget ends the run.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use neargate_wasm::protocol::RunLimits;
use rustix::time::{ClockId, clock_gettime};

use crate::engine::Ticker;
use crate::worker::turns::Turns;

/// The period of the kernel's quota: after a rest a run may use what a period grants at once.
const PERIOD: Duration = Duration::from_millis(100);
/// Thousandths of a core that a guest may use on average and still come before those that use more.
const LIGHT_MILLIS: u32 = 100;
/// What it may use at once and still do: twenty small calls' worth.
const LIGHT_BURST: Duration = Duration::from_millis(2);

/// Limits and use of one container, or of all containers of one task.
pub(crate) struct Budget {
    cpu_max_ns: u64,
    memory_max: u64,
    memory: AtomicU64,
    memory_peak: AtomicU64,
    cpu_ns: AtomicU64,
    share: Option<Mutex<Share>>,
}

impl Budget {
    pub(crate) fn new(limits: &RunLimits) -> Self {
        let share = limits.cpu_millis.map(|millis| Mutex::new(Share::new(millis, PERIOD, Instant::now())));
        Self {
            cpu_max_ns: limits.cpu_budget_ns.unwrap_or(u64::MAX),
            memory_max: limits.memory_bytes.unwrap_or(u64::MAX),
            memory: AtomicU64::new(0),
            memory_peak: AtomicU64::new(0),
            cpu_ns: AtomicU64::new(0),
            share,
        }
    }

    /// Bytes in use now.
    pub(crate) fn memory(&self) -> u64 {
        self.memory.load(Ordering::Relaxed)
    }

    /// The most bytes that were in use.
    pub(crate) fn memory_peak(&self) -> u64 {
        self.memory_peak.load(Ordering::Relaxed)
    }

    /// CPU time used so far.
    pub(crate) fn cpu_ns(&self) -> u64 {
        self.cpu_ns.load(Ordering::Relaxed)
    }

    /// Takes memory, unless that goes over the limit.
    fn take(&self, bytes: u64) -> bool {
        let within = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.memory_max);
        match self.memory.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within) {
            Ok(before) => {
                self.memory_peak.fetch_max(before + bytes, Ordering::Relaxed);
                true
            }
            Err(_) => false,
        }
    }

    fn charge(&self, bytes: u64) {
        let before = self.memory.fetch_add(bytes, Ordering::Relaxed);
        self.memory_peak.fetch_max(before + bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: u64) {
        self.memory.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// How much CPU time it may use, when that has been used up.
    fn exhausted(&self) -> Option<Duration> {
        (self.cpu_ns() >= self.cpu_max_ns).then(|| Duration::from_nanos(self.cpu_max_ns))
    }

    fn spend(&self, used: Duration, now: Instant) -> Duration {
        let ns = u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
        self.cpu_ns.fetch_add(ns, Ordering::Relaxed);
        match &self.share {
            Some(share) => share.lock().unwrap_or_else(PoisonError::into_inner).spend(used, now),
            None => Duration::ZERO,
        }
    }
}

/// A share of one core, as a bucket that fills with time and is emptied by use.
struct Share {
    millis: u32,
    burst: i64,
    balance_ns: i64,
    filled: Instant,
}

impl Share {
    /// A full bucket, which holds what is granted in `period`. A share of nothing would never run, so the
    /// least is a thousandth of a core.
    fn new(millis: u32, period: Duration, now: Instant) -> Self {
        let millis = millis.max(1);
        let burst = granted(millis, period);
        Self { millis, burst, balance_ns: burst, filled: now }
    }

    /// Pays for `used`, and tells how long to sleep until the debt is paid.
    fn spend(&mut self, used: Duration, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.filled);
        self.filled = now;
        let used_ns = i64::try_from(used.as_nanos()).unwrap_or(i64::MAX);
        let balance_ns = self.balance_ns.saturating_add(granted(self.millis, since)).saturating_sub(used_ns);
        self.balance_ns = balance_ns.min(self.burst);
        let debt_ns = self.balance_ns.min(0).unsigned_abs();
        Duration::from_nanos(debt_ns.saturating_mul(1000) / u64::from(self.millis))
    }
}

/// The CPU time, in nanoseconds, that a share gets in a time.
fn granted(millis: u32, time: Duration) -> i64 {
    i64::try_from(time.as_nanos() * u128::from(millis) / 1000).unwrap_or(i64::MAX)
}

/// Both budgets that a run draws on.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) container: Arc<Budget>,
    pub(crate) task: Arc<Budget>,
}

impl Account {
    /// Takes memory from both budgets, or from none.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        if !self.container.take(bytes) {
            return false;
        }
        let taken = self.task.take(bytes);
        if !taken {
            self.container.give_back(bytes);
        }
        taken
    }

    /// Counts memory that is there already, limit or not: what is bounded by itself, as a stream's buffer is. The
    /// guest can grow by so much less.
    pub(crate) fn charge(&self, bytes: u64) {
        self.container.charge(bytes);
        self.task.charge(bytes);
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        self.container.give_back(bytes);
        self.task.give_back(bytes);
    }

    /// Whose CPU budget has been used up, if one has, and how much that was.
    pub(crate) fn exhausted(&self) -> Option<(&'static str, Duration)> {
        let container = self.container.exhausted().map(|budget| ("container", budget));
        container.or_else(|| self.task.exhausted().map(|budget| ("task", budget)))
    }

    /// Pays CPU time from both, and tells how long to sleep for it.
    fn spend(&self, used: Duration, now: Instant) -> Duration {
        self.container.spend(used, now).max(self.task.spend(used, now))
    }
}

/// Measures the CPU time of one instance.
pub(crate) struct Meter {
    account: Account,
    /// Thread CPU time at which the part not yet paid began. Only the polling thread uses it.
    since_ns: AtomicU64,
    /// What tells light guests from those that compute.
    light: Mutex<Share>,
    heavy: AtomicBool,
}

/// What a look at the meter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lap {
    /// What was used since the last look.
    pub(crate) used: Duration,
    /// How long the guest has to sleep for what its run or task has used beyond its share.
    pub(crate) sleep: Duration,
    /// Whether it has computed for so long that others come first.
    pub(crate) heavy: bool,
}

impl Meter {
    pub(crate) fn new(account: Account) -> Arc<Self> {
        let period = LIGHT_BURST * 1000 / LIGHT_MILLIS;
        let light = Mutex::new(Share::new(LIGHT_MILLIS, period, Instant::now()));
        Arc::new(Self { account, since_ns: AtomicU64::new(0), light, heavy: AtomicBool::new(false) })
    }

    fn begin(&self) {
        self.since_ns.store(thread_cpu_ns(), Ordering::Relaxed);
    }

    /// Pays for the time since the last call. To be called only while the instance is being polled.
    pub(crate) fn lap(&self) -> Lap {
        let cpu_ns = thread_cpu_ns();
        let since = self.since_ns.swap(cpu_ns, Ordering::Relaxed);
        let used = Duration::from_nanos(cpu_ns.saturating_sub(since));
        let now = Instant::now();
        let sleep = self.account.spend(used, now);
        let mut light = self.light.lock().unwrap_or_else(PoisonError::into_inner);
        let heavy = !light.spend(used, now).is_zero();
        self.heavy.store(heavy, Ordering::Relaxed);
        Lap { used, sleep, heavy }
    }

    /// What the last look said of [`Lap::heavy`].
    fn is_heavy(&self) -> bool {
        self.heavy.load(Ordering::Relaxed)
    }
}

fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // The kernel counts up from the thread's start and keeps `tv_nsec` below a second.
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}

/// A future whose polls are metered, and during which the epoch advances.
pub(crate) struct Metered<F> {
    inner: Pin<Box<F>>,
    meter: Arc<Meter>,
    ticker: Arc<Ticker>,
    turns: Turns,
}

impl<F> Metered<F> {
    pub(crate) fn new(inner: F, meter: Arc<Meter>, ticker: Arc<Ticker>, turns: Turns) -> Self {
        Self { inner: Box::pin(inner), meter, ticker, turns }
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let _ticking = this.ticker.enter(this.meter.is_heavy());
        this.meter.begin();
        let polled = this.inner.as_mut().poll(cx);
        // What is owed is asked for at the next epoch; the balance remembers it.
        let lap = this.meter.lap();
        if !lap.heavy {
            this.turns.light_was_polled();
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each step is (wall time that passed, CPU time used, sleep asked for), in milliseconds.
    fn check(millis: u32, steps: &[(u64, u64, u64)]) {
        let mut now = Instant::now();
        let mut share = Share::new(millis, PERIOD, now);
        for (index, (passed, used, sleep)) in steps.iter().enumerate() {
            now += Duration::from_millis(*passed);
            let found = share.spend(Duration::from_millis(*used), now);
            assert_eq!(found, Duration::from_millis(*sleep), "{millis} thousandths, step {index}");
        }
    }

    #[test]
    fn share_of_a_core() {
        // A quarter: 25 ms are granted at once, then each 10 ms of work cost 40 ms of time.
        let quarter =
            [(10, 10, 0), (10, 10, 0), (10, 10, 0), (10, 10, 20), (10, 0, 10), (20, 0, 0), (10, 10, 20)];
        check(250, &quarter);
        // Two cores' worth is never reached by one thread.
        check(2000, &[(10, 10, 0), (1000, 1000, 0), (1000, 1000, 0)]);
        // A long rest saves up no more than one period.
        check(500, &[(100_000, 50, 0), (0, 60, 20)]);
        // A whole core is enough for one thread that never rests.
        check(1000, &[(10, 10, 0), (500, 500, 0), (500, 500, 0)]);
        // Nothing is a thousandth.
        check(0, &[(0, 1, 900)]);
    }

    #[test]
    fn memory_is_taken_from_both_or_none() {
        let budget = |bytes| {
            Arc::new(Budget::new(&RunLimits {
                cpu_millis: None,
                cpu_budget_ns: None,
                memory_bytes: Some(bytes),
            }))
        };
        let task = budget(100);
        let first = Account { container: budget(80), task: Arc::clone(&task) };
        let second = Account { container: budget(80), task };
        assert!(first.take(60) && second.take(40));
        assert!(!first.take(21), "the container's limit");
        assert!(!second.take(1), "the task's limit");
        assert_eq!((first.container.memory(), second.container.memory()), (60, 40));
        first.give_back(60);
        assert!(second.take(40));
        assert_eq!((second.container.memory(), second.container.memory_peak()), (80, 80));
        assert_eq!((first.container.memory(), first.container.memory_peak()), (0, 60));
    }
}
