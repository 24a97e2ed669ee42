//! What was lost between the watched processes and the agent.

use std::fmt;

use observer_common::Loss;

/// Counts of losses by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Events and bytes, in the order of [`Loss::ALL`].
    counts: [(u64, u64); Loss::ALL.len()],
    /// Records that could not be understood.
    malformed: u64,
}

impl Losses {
    /// Reads the counters with `counter(index)`.
    pub fn read(counter: impl Fn(u32) -> u64, malformed: u64) -> Self {
        let counts =
            Loss::ALL.map(|cause| (counter(2 * cause as u32), counter(2 * cause as u32 + 1)));
        Self { counts, malformed }
    }

    /// From counts as [`counts`](Self::counts) gives them. What is missing is 0.
    pub fn from_counts(given: &[(u64, u64)], malformed: u64) -> Self {
        let mut counts = [(0, 0); Loss::ALL.len()];
        for (count, given) in counts.iter_mut().zip(given) {
            *count = *given;
        }
        Self { counts, malformed }
    }

    /// Events and bytes by cause, in the order of [`Loss::ALL`].
    pub fn counts(&self) -> &[(u64, u64)] {
        &self.counts
    }

    /// Records that could not be understood.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Lost events of all causes.
    pub fn events(&self) -> u64 {
        let events = self.counts.iter().map(|(events, _)| events);
        events.fold(self.malformed, |sum, events| sum.saturating_add(*events))
    }
}

impl fmt::Display for Losses {
    /// `lost 0`, or `lost 12 (ring buffer full: 12 records, 34 KiB)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lost {}", self.events())?;
        let mut causes: Vec<String> = Loss::ALL
            .iter()
            .zip(self.counts)
            .filter(|(_, (events, _))| *events > 0)
            .map(|(cause, (events, bytes))| {
                format!("{}: {events} records, {bytes} bytes", cause.as_str())
            })
            .collect();
        if self.malformed > 0 {
            causes.push(format!("malformed: {} records", self.malformed));
        }
        if !causes.is_empty() {
            write!(f, " ({})", causes.join("; "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_loss_is_said_in_two_words() {
        assert_eq!(Losses::default().to_string(), "lost 0");
    }

    #[test]
    fn losses_are_said_by_cause() {
        let lost = |index| match index {
            0 => 3,
            1 => 4096,
            4 => 1,
            _ => 0,
        };
        let losses = Losses::read(lost, 0);
        assert_eq!(
            losses.to_string(),
            "lost 4 (ring buffer full: 3 records, 4096 bytes; call not tracked: 1 records, 0 bytes)"
        );
    }
}
