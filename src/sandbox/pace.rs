//! The rate limit of one robot, and the bounds that a test holds a sender to. Pure: time comes in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Settings;

/// What a robot got lately.
#[derive(Debug, Default)]
pub(super) struct Pace {
    admitted: VecDeque<Instant>,
    banned_until: Option<Instant>,
}

impl Pace {
    /// Whether the robot takes one more request now. One too many bans it, and requests to a banned robot do not count.
    pub(super) fn admit(&mut self, settings: &Settings, now: Instant) -> bool {
        let Some((count, window)) = settings.rate else { return true };
        if self.banned_until.is_some_and(|until| now < until) {
            return false;
        }
        while self.admitted.front().is_some_and(|first| now.duration_since(*first) >= window) {
            self.admitted.pop_front();
        }
        if self.admitted.len() >= count as usize {
            self.banned_until = Some(now + settings.ban);
            return false;
        }
        self.admitted.push_back(now);
        true
    }
}

/// The most of these times, which are in order, that lie in any half-open window.
pub(super) fn max_in_any_window(times: &[Instant], window: Duration) -> usize {
    let until = |first: Instant| times.partition_point(|time| time.duration_since(first) < window);
    times.iter().enumerate().map(|(index, first)| until(*first) - index).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn seconds(start: Instant, second: u64) -> Instant {
        start + Duration::from_secs(second)
    }

    #[test]
    fn the_window_slides_and_one_too_many_bans() {
        let settings = Settings { rate: Some((3, MINUTE)), ..Settings::default() };
        let (start, mut pace) = (Instant::now(), Pace::default());
        for second in [0, 30, 59] {
            assert!(pace.admit(&settings, seconds(start, second)));
        }
        assert!(pace.admit(&settings, seconds(start, 60)), "the first is a minute ago");
        assert!(!pace.admit(&settings, seconds(start, 61)), "the fourth within a minute");
        assert!(!pace.admit(&settings, seconds(start, 660)), "limited for ten minutes, however quiet it is");
        assert!(pace.admit(&settings, seconds(start, 661)));
    }

    #[test]
    fn without_a_rate_everything_is_admitted() {
        let settings = Settings { rate: None, ..Settings::default() };
        let (start, mut pace) = (Instant::now(), Pace::default());
        assert!((0..1_000).all(|_| pace.admit(&settings, start)));
    }

    #[test]
    fn the_fullest_window_is_found_wherever_it_starts() {
        let start = Instant::now();
        let times: Vec<_> = [0, 50, 55, 59, 60, 109, 110, 300].map(|second| seconds(start, second)).into();
        assert_eq!(max_in_any_window(&times, MINUTE), 5, "50, 55, 59, 60 and 109, not 110");
        assert_eq!(max_in_any_window(&times, Duration::from_secs(1)), 1);
        assert_eq!(max_in_any_window(&[], MINUTE), 0);
    }
}
