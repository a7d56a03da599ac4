//! How well the kernel knows the time.

use std::io;

use crate::sys;

/// How far the machine's clock may be from UTC, as the kernel has it from who keeps it in step (adjtimex(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockState {
    /// The most that it is off, in microseconds; it grows from one correction to the next.
    pub error_us: u64,
    /// Whether something corrects it.
    pub is_synchronised: bool,
}

/// Asks the kernel, and changes nothing.
pub fn clock_state() -> io::Result<ClockState> {
    let read = sys::adjtimex()?;
    let is_synchronised = read.status & libc::STA_UNSYNC == 0;
    Ok(ClockState { error_us: u64::try_from(read.maxerror).unwrap_or(u64::MAX), is_synchronised })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_bounds_its_error() {
        let state = clock_state().unwrap();
        // 16 s is where it stops counting (`NTP_PHASE_LIMIT`), and stands for a clock that nobody keeps.
        assert!(state.error_us <= 16_000_000, "{state:?}");
        assert!(state.is_synchronised || state.error_us == 16_000_000, "{state:?}");
    }
}
