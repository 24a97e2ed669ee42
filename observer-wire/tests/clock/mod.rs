//! Processor time, which a busy machine does not change.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The time that this thread takes for some work.
pub(crate) fn time(work: impl FnOnce()) -> Duration {
    let begun = now();
    work();
    now() - begun
}

fn now() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        now.tv_sec.unsigned_abs(),
        u32::try_from(now.tv_nsec).unwrap(),
    )
}
