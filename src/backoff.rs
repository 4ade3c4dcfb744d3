//! How long to wait before trying again what keeps failing: a server that is away, a transaction still in flight.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// Delays that double from a first to a longest, with jitter, for ever; starts over on success.
#[derive(Debug)]
pub struct Backoff {
    builder: ExponentialBuilder,
    delays: Option<ExponentialBackoff>,
    longest: Duration,
}

impl Backoff {
    /// From the first delay to the longest.
    pub fn new(first: Duration, longest: Duration) -> Self {
        let builder =
            ExponentialBuilder::new().with_min_delay(first).with_max_delay(longest).with_jitter().without_max_times();
        Self { builder, delays: None, longest }
    }

    /// For a server that is away: 100 ms to 2 s.
    pub fn reconnecting() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(2))
    }

    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        let builder = self.builder;
        let delays = self.delays.get_or_insert_with(|| builder.build());
        delays.next().unwrap_or(self.longest).min(self.longest)
    }

    /// What failed works again.
    pub fn reset(&mut self) {
        self.delays = None;
    }
}
