//! From where on to look for due rows.
//!
//! Rows become due in the order of their due times, so what was claimed lies behind. The entries it leaves in the index
//! are removed on the way, unless somebody's transaction has been open since before: then a scan from the beginning walks
//! over hundreds of thousands of them. So most scans begin where the last one ended, or a little before, for a
//! transaction may commit rows that were due when it began. Now and then one begins at the beginning; so does the one that
//! tells the relay that nothing is due, unless there is so much to walk over that even these have to wait.

use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::Instant;

use crate::store::Position;

/// How long a business transaction may take without its rows being looked for later than others'.
const RECENT: SignedDuration = SignedDuration::from_secs(5);

/// How often that far back is looked, while one full batch follows the other.
const RECENT_INTERVAL: Duration = Duration::from_millis(50);

/// How often the beginning is looked at, while there is work.
const ALL_INTERVAL: Duration = Duration::from_secs(1);

/// A scan from the beginning that takes no longer has nothing to walk over: it is as good as any other.
const CHEAP: Duration = Duration::from_millis(2);

/// A scan from the beginning that takes as long, claims of a whole batch included, walks over much.
const SLOW: Duration = Duration::from_millis(25);

/// So many times the time that a scan from the beginning took must pass before the next, while there is work.
const ALL_SHARE: u32 = 20;

/// But no longer than this, however slow it was.
const ALL_LONGEST: Duration = Duration::from_secs(10);

/// What the last scans came to.
#[derive(Debug, Default)]
pub(super) struct Scan {
    last: Option<Last>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    ended: Position,
    was_full: bool,
    recent_at: Instant,
    all_at: Instant,
    all_took: Duration,
}

/// Where one scan begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Reach {
    /// At the beginning.
    All,
    /// A little before the end of the last one.
    Recent(Position),
    /// At the end of the last one.
    Behind(Position),
}

impl Reach {
    /// Behind what it begins; none: at the beginning.
    pub(super) fn behind(self) -> Option<Position> {
        match self {
            Reach::All => None,
            Reach::Recent(position) | Reach::Behind(position) => Some(position),
        }
    }
}

impl Scan {
    /// Where the next one begins, if it begins now.
    pub(super) fn reach(&self, now: Instant) -> Reach {
        let Some(last) = self.last else { return Reach::All };
        if last.until_all(now).is_zero() {
            return Reach::All;
        }
        if !last.was_full && last.all_took < CHEAP {
            return Reach::All;
        }
        if last.was_full && now.duration_since(last.recent_at) < RECENT_INTERVAL {
            return Reach::Behind(last.ended);
        }
        last.recent()
    }

    /// Where the last scan from the beginning was slow, and not long ago: where to look meanwhile, even before the relay
    /// sleeps, and how long it may then sleep. What was due long ago and committed since waits so long at most.
    pub(super) fn deferred(&self, now: Instant) -> Option<(Reach, Duration)> {
        let last = self.last.filter(|last| last.all_took >= SLOW)?;
        let pause = last.until_all(now);
        (!pause.is_zero()).then(|| (last.recent(), pause))
    }

    /// One that began at this moment, and took so long, has come so far; `is_full`: there was room for no more.
    pub(super) fn saw(
        &mut self,
        reach: Reach,
        (began, took): (Instant, Duration),
        ended: Option<Position>,
        is_full: bool,
    ) {
        let all = |ended| Last { ended, was_full: is_full, recent_at: began, all_at: began, all_took: took };
        self.last = match (reach, self.last, ended) {
            (Reach::All, _, Some(ended)) | (_, None, Some(ended)) => Some(all(ended)),
            (Reach::Recent(_), Some(last), Some(ended)) => {
                Some(Last { ended, was_full: is_full, recent_at: began, ..last })
            }
            (Reach::Behind(_), Some(last), Some(ended)) => Some(Last { ended, was_full: is_full, ..last }),
            // Nothing was found. Where that was quickly known, nothing need be remembered.
            (Reach::All, Some(last), None) => Some(all(last.ended)).filter(|_| took >= SLOW),
            (_, last, None) => {
                last.filter(|last| last.all_took >= SLOW).map(|last| Last { was_full: false, recent_at: began, ..last })
            }
        };
    }

    /// Rows may have become due that are long past: the next one begins at the beginning.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }
}

impl Last {
    /// How long until a scan from the beginning may come again.
    fn until_all(&self, now: Instant) -> Duration {
        let pause = (self.all_took * ALL_SHARE).clamp(ALL_INTERVAL, ALL_LONGEST);
        pause.saturating_sub(now.duration_since(self.all_at))
    }

    fn recent(&self) -> Reach {
        match self.ended.due_at.checked_sub(RECENT) {
            Ok(due_at) => Reach::Recent(Position { due_at, seq: 0 }),
            Err(_) => Reach::All,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Position {
        Position { due_at: jiff::Timestamp::from_second(second).unwrap(), seq: 7 }
    }

    #[test]
    fn full_batches_follow_each_other_with_a_look_back_now_and_then() {
        let (mut scan, mut now, slow) = (Scan::default(), Instant::now(), CHEAP);
        assert_eq!(scan.reach(now), Reach::All);
        scan.saw(Reach::All, (now, slow), Some(at(100)), true);
        assert_eq!(scan.reach(now), Reach::Behind(at(100)));
        now += RECENT_INTERVAL;
        let recent = scan.reach(now);
        assert_eq!(recent, Reach::Recent(Position { seq: 0, ..at(95) }));
        scan.saw(recent, (now, slow), Some(at(101)), true);
        assert_eq!(scan.reach(now), Reach::Behind(at(101)));
        scan.saw(Reach::Behind(at(101)), (now, slow), Some(at(102)), false);
        assert_eq!(scan.reach(now), Reach::Recent(Position { seq: 0, ..at(97) }));
        assert_eq!(scan.reach(now + ALL_INTERVAL), Reach::All);
    }

    #[test]
    fn where_nothing_was_found_or_much_may_have_changed_all_is_looked_at() {
        let (mut scan, now, quick) = (Scan::default(), Instant::now(), Duration::from_millis(1));
        scan.saw(Reach::All, (now, quick), Some(at(100)), true);
        scan.saw(Reach::Behind(at(100)), (now, quick), None, false);
        assert_eq!(scan.reach(now), Reach::All);
        scan.saw(Reach::All, (now, quick), Some(at(100)), true);
        scan.forget();
        assert_eq!(scan.reach(now), Reach::All);
    }

    #[test]
    fn where_there_is_nothing_to_walk_over_every_look_begins_at_the_beginning() {
        let (mut scan, now) = (Scan::default(), Instant::now());
        scan.saw(Reach::All, (now, CHEAP / 2), Some(at(100)), false);
        assert_eq!(scan.reach(now), Reach::All);
        scan.saw(Reach::All, (now, CHEAP / 2), Some(at(100)), true);
        assert_eq!(scan.reach(now), Reach::Behind(at(100)));
    }

    #[test]
    fn slow_scans_from_the_beginning_are_seldom() {
        let (mut scan, now) = (Scan::default(), Instant::now());
        scan.saw(Reach::All, (now, Duration::from_millis(100)), Some(at(100)), false);
        assert!(matches!(scan.reach(now + Duration::from_millis(1_900)), Reach::Recent(_)));
        assert_eq!(scan.reach(now + Duration::from_secs(2)), Reach::All);
        scan.saw(Reach::All, (now, Duration::from_secs(5)), Some(at(100)), false);
        assert_eq!(scan.reach(now + ALL_LONGEST), Reach::All, "even the slowest come in time");
    }

    #[test]
    fn after_a_slow_scan_the_relay_sleeps_without_another_until_one_may_come() {
        let (mut scan, now, slow) = (Scan::default(), Instant::now(), Duration::from_millis(100));
        scan.saw(Reach::All, (now, slow), Some(at(100)), false);
        let recent = scan.reach(now);
        scan.saw(recent, (now, Duration::ZERO), None, false);
        assert_eq!(scan.deferred(now), Some((recent, Duration::from_secs(2))), "nothing was found since");
        assert_eq!(scan.reach(now), recent);
        assert_eq!(scan.deferred(now + Duration::from_secs(2)), None);
        assert_eq!(scan.reach(now + Duration::from_secs(2)), Reach::All);
        // Nor does one that finds nothing change that, as long as it is slow.
        scan.saw(Reach::All, (now, slow), None, false);
        assert!(scan.deferred(now).is_some());
        scan.saw(Reach::All, (now, SLOW / 2), None, false);
        assert_eq!((scan.deferred(now), scan.reach(now)), (None, Reach::All));
    }
}
