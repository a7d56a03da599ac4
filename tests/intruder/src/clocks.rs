//! Row 64: the clock belongs to the host.

use crate::kernel::{attempt, call, pointer, pointer_mut};

/// `ADJ_OFFSET`.
const SLEW: u32 = 1;
/// `CLOCK_REALTIME_ALARM`, which wakes a machine that sleeps.
const ALARM: usize = 8;

pub(crate) fn clocks() {
    let now = libc::timespec { tv_sec: 1_600_000_000, tv_nsec: 0 };
    let timeval = libc::timeval { tv_sec: 1_600_000_000, tv_usec: 0 };
    for (name, clock) in
        [("realtime", libc::CLOCK_REALTIME), ("TAI", libc::CLOCK_TAI), ("monotonic", libc::CLOCK_MONOTONIC)]
    {
        attempt(&format!("clock_settime {name}"), || {
            call(libc::SYS_clock_settime, &[clock as usize, pointer(&now)])
        });
    }
    attempt("settimeofday", || call(libc::SYS_settimeofday, &[pointer(&timeval), 0]));
    // SAFETY: all zeroes is a value of a struct of numbers, and asks for nothing to be changed.
    let nothing: libc::timex = unsafe { std::mem::zeroed() };
    let slew = libc::timex { modes: SLEW, offset: 1, ..nothing };
    attempt("adjtimex", || {
        let mut slew = slew;
        call(libc::SYS_adjtimex, &[pointer_mut(&mut slew)])
    });
    attempt("clock_adjtime", || {
        let mut slew = slew;
        call(libc::SYS_clock_adjtime, &[libc::CLOCK_REALTIME as usize, pointer_mut(&mut slew)])
    });
    attempt("alarm clock", || call(libc::SYS_timerfd_create, &[ALARM, 0]));
    attempt("open the hardware clock", || {
        std::fs::File::open("/dev/rtc0").map(|_| 0).map_err(|error| error.raw_os_error().unwrap_or(0))
    });
    attempt("adjtimex that only asks", || {
        let mut ask = nothing;
        call(libc::SYS_adjtimex, &[pointer_mut(&mut ask)])
    });
    attempt("timens offsets", || {
        std::fs::write("/proc/self/timens_offsets", "monotonic 100 0")
            .map(|()| 0)
            .map_err(|error| error.raw_os_error().unwrap_or(0))
    });
}
