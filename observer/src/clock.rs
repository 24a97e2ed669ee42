//! From the kernel's time to the world's.

use std::time::Duration;

use jiff::Timestamp as Utc;
use observer_wire::Timestamp;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// How long one comparison of the clocks holds: `CLOCK_REALTIME` is adjusted now and then.
const CHECK_EVERY: Duration = Duration::from_secs(60);

/// Maps `CLOCK_BOOTTIME` to UTC.
#[derive(Debug)]
pub struct Clock {
    /// UTC minus boot time, in nanoseconds.
    offset: i128,
    checked: Timestamp,
}

impl Clock {
    /// Compares the clocks of this machine.
    pub fn new() -> Self {
        Self {
            offset: offset(),
            checked: now(),
        }
    }

    /// The UTC time of `at`.
    pub fn utc(&mut self, at: Timestamp) -> Utc {
        let now = now();
        if now.since(self.checked) > CHECK_EVERY {
            self.offset = offset();
            self.checked = now;
        }
        Utc::from_nanosecond(i128::from(at.0) + self.offset).unwrap_or(Utc::UNIX_EPOCH)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// The current `CLOCK_BOOTTIME`.
pub fn now() -> Timestamp {
    Timestamp(u64::try_from(nanoseconds(clock_gettime(ClockId::Boottime))).unwrap_or(0))
}

fn offset() -> i128 {
    let before = nanoseconds(clock_gettime(ClockId::Boottime));
    let utc = nanoseconds(clock_gettime(ClockId::Realtime));
    let after = nanoseconds(clock_gettime(ClockId::Boottime));
    utc - (before + after) / 2
}

fn nanoseconds(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_maps_to_the_current_utc_time() {
        let mut clock = Clock::new();
        let error = clock.utc(now()).duration_since(Utc::now()).unsigned_abs();
        assert!(error < Duration::from_millis(50), "{error:?}");
    }
}
