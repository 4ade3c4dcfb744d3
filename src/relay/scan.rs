//! From where on to look for due rows.
//!
//! Rows become due in the order of their due times, so what was claimed lies behind. The entries it leaves in the index
//! are removed on the way, unless somebody's transaction has been open since before: then a scan from the beginning walks
//! over hundreds of thousands of them. So most scans begin where the last one ended, or a little before, for a
//! transaction may commit rows that were due when it began; and now and then, and always before the relay holds that
//! nothing is due, one begins at the beginning.

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

/// So many times the time that a scan from the beginning took must pass before the next, while there is work.
const ALL_SHARE: u32 = 20;

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
        if now.duration_since(last.all_at) >= ALL_INTERVAL.max(last.all_took * ALL_SHARE) {
            return Reach::All;
        }
        if !last.was_full && last.all_took < CHEAP {
            return Reach::All;
        }
        if last.was_full && now.duration_since(last.recent_at) < RECENT_INTERVAL {
            return Reach::Behind(last.ended);
        }
        match last.ended.due_at.checked_sub(RECENT) {
            Ok(due_at) => Reach::Recent(Position { due_at, seq: 0 }),
            Err(_) => Reach::All,
        }
    }

    /// One that began at this moment, and took so long, has come so far; `is_full`: there was room for no more.
    pub(super) fn saw(
        &mut self,
        reach: Reach,
        (began, took): (Instant, Duration),
        ended: Option<Position>,
        is_full: bool,
    ) {
        let Some(ended) = ended else { return self.forget() };
        self.last = match (reach, self.last) {
            (Reach::All, _) | (_, None) => {
                Some(Last { ended, was_full: is_full, recent_at: began, all_at: began, all_took: took })
            }
            (Reach::Recent(_), Some(last)) => Some(Last { ended, was_full: is_full, recent_at: began, ..last }),
            (Reach::Behind(_), Some(last)) => Some(Last { ended, was_full: is_full, ..last }),
        };
    }

    /// Rows may have become due that are long past: the next one begins at the beginning.
    pub(super) fn forget(&mut self) {
        self.last = None;
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
        scan.saw(Reach::All, (now, Duration::from_secs(1)), Some(at(100)), false);
        assert!(matches!(scan.reach(now + Duration::from_secs(19)), Reach::Recent(_)));
        assert_eq!(scan.reach(now + Duration::from_secs(20)), Reach::All);
    }
}
