//! The verdict on every event: pure, from what writers know, what the robot saw, what the table says, and the faults.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use postbell::sandbox::Verdict;
use uuid::Uuid;

use crate::cluster::SEND_TIMEOUT;
use crate::faults::Done;
use crate::ledger::{End, Pages, Sighting, Written};
use crate::schedule::Kind;

/// By then the outcome of a send is recorded, where nothing is wrong: after the longest wait for an answer, and a little.
const MOMENT: Duration = SEND_TIMEOUT.saturating_add(Duration::from_secs(1));

/// What a process wrote before its end may be read by the robot a little after it.
const ON_ITS_WAY: Duration = Duration::from_millis(300);

/// What the table says of an event at the end.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) status: String,
    pub(crate) last_error: Option<String>,
    /// From its creation to its completion.
    pub(crate) lived: Option<Duration>,
}

/// What became of all events.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) committed: usize,
    /// Of these, the commits that nobody heard of.
    pub(crate) committed_unheard: usize,
    pub(crate) rolled_back: usize,
    pub(crate) delivered: usize,
    /// Failed, as an event does that asks for at most one delivery, after a fault that hid its outcome.
    pub(crate) given_up: usize,
    /// Sends beyond the first, by the fault that explains each.
    pub(crate) sent_again: BTreeMap<Kind, usize>,
    pub(crate) lost: Vec<Problem>,
    pub(crate) rolled_back_but_sent: Vec<Problem>,
    pub(crate) sent_again_unexplained: Vec<Problem>,
    pub(crate) unexplained: Vec<Problem>,
}

/// What is wrong with an event.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) id: Uuid,
    pub(crate) why: String,
}

impl Findings {
    /// Everything that must not be.
    pub(crate) fn problems(&self) -> impl Iterator<Item = &Problem> {
        [&self.lost, &self.rolled_back_but_sent, &self.sent_again_unexplained, &self.unexplained].into_iter().flatten()
    }

    /// Sends beyond the first that a fault explains.
    pub(crate) fn sent_again_explained(&self) -> usize {
        self.sent_again.values().sum()
    }
}

/// Judges every event; after the writers have ended and the pipeline has run dry.
pub(crate) fn judge(pages: &Pages, rows: &HashMap<Uuid, Row>, faults: &[Done]) -> Findings {
    let mut findings = Findings::default();
    for (id, written) in &pages.written {
        let sightings = pages.sightings.get(id).map_or(&[][..], Vec::as_slice);
        Case { id: *id, written, row: rows.get(id), sightings, faults }.judge(&mut findings);
    }
    let known: HashSet<&Uuid> = pages.written.keys().collect();
    let strangers = pages.sightings.keys().chain(rows.keys()).filter(|id| !known.contains(id));
    let strangers: HashSet<&Uuid> = strangers.collect();
    let why = "no writer has written it";
    findings.unexplained.extend(strangers.into_iter().map(|id| Problem { id: *id, why: why.to_owned() }));
    findings
}

/// One event and all that is known of it.
struct Case<'a> {
    id: Uuid,
    written: &'a Written,
    row: Option<&'a Row>,
    sightings: &'a [Sighting],
    faults: &'a [Done],
}

impl Case<'_> {
    fn judge(&self, findings: &mut Findings) {
        let problem = |why: &str| Problem { id: self.id, why: why.to_owned() };
        let end = self.written.ended.map_or(End::Unknown, |(_, end)| end);
        let is_committed = match (end, self.row) {
            (End::Committed, _) | (End::Unknown, Some(_)) => true,
            (End::RolledBack, _) | (End::Unknown, None) => false,
        };
        if !is_committed {
            findings.rolled_back += 1;
            if !self.sightings.is_empty() {
                findings.rolled_back_but_sent.push(problem("it was never committed, and the robot got it"));
            }
            if self.row.is_some() {
                findings.unexplained.push(problem("it was rolled back, and its row is in the table"));
            }
            return;
        }
        findings.committed += 1;
        findings.committed_unheard += usize::from(end == End::Unknown);

        let arrivals: Vec<&Sighting> = self.sightings.iter().filter(|sighting| arrived(sighting)).collect();
        let Some(row) = self.row else {
            findings.lost.push(problem("it was committed, and its row is gone"));
            return;
        };
        let error = row.last_error.as_deref().unwrap_or_default();
        match row.status.as_str() {
            "delivered" if arrivals.is_empty() => {
                findings.lost.push(problem("its row says delivered, and the robot never took it"));
            }
            "delivered" => findings.delivered += 1,
            "failed"
                if self.written.at_most_once && error.starts_with("outcome unknown") && self.outcome_was_hidden() =>
            {
                findings.given_up += 1;
            }
            "failed" => findings.lost.push(problem(&format!("it failed: {error}"))),
            status => findings.lost.push(problem(&format!("it is still {status}"))),
        }
        for pair in arrivals.windows(2) {
            let why = match self.explanation(pair[0], pair[1].at) {
                _ if self.written.at_most_once => "it was sent again, and it asks for at most one delivery",
                _ if pair[0].msg_uuid != pair[1].msg_uuid => "it was sent again with another msgUuid",
                Some(kind) => {
                    *findings.sent_again.entry(kind).or_default() += 1;
                    continue;
                }
                None => "it was sent again, and no fault explains it",
            };
            findings.sent_again_unexplained.push(problem(why));
        }
        // The platform tells by it what it has delivered already, of the requests that were lost as well.
        let keys: HashSet<_> = self.sightings.iter().map(|one| (&one.msg_uuid, one.body_hash)).collect();
        if keys.len() > 1 || self.sightings.iter().any(|one| one.msg_uuid.is_none()) {
            findings.unexplained.push(problem("its sends differ in msgUuid or body, or have no msgUuid"));
        }
    }

    /// What kept the consumer from knowing, or recording, that this send had arrived, before it was sent again.
    fn explanation(&self, send: &Sighting, again: Instant) -> Option<Kind> {
        let moment = again.min(send.at + MOMENT);
        let meets = |fault: &&Done| fault.blinds && fault.begins <= moment && fault.ends + ON_ITS_WAY >= send.at;
        hidden_by_robot(send).or_else(|| self.faults.iter().find(meets).map(|fault| fault.kind))
    }

    /// Whether any fault in its life can have hidden its outcome, or that it was not even sent.
    fn outcome_was_hidden(&self) -> bool {
        let end = self.written.begun + self.row.and_then(|row| row.lived).unwrap_or_default() + ON_ITS_WAY;
        let meets = |fault: &Done| fault.blinds && fault.begins <= end && fault.ends >= self.written.begun;
        self.sightings.iter().any(|one| hidden_by_robot(one).is_some()) || self.faults.iter().any(meets)
    }
}

/// Whether the robot took it, or would have if it had not taken it before.
fn arrived(sighting: &Sighting) -> bool {
    matches!(sighting.verdict, Verdict::Accepted | Verdict::Duplicate)
}

/// Whether the robot kept its answer to itself.
fn hidden_by_robot(sighting: &Sighting) -> Option<Kind> {
    match sighting.script {
        Some("drop_after_reading") => Some(Kind::RobotDrops),
        Some("hang") => Some(Kind::RobotHangs),
        Some("reply") => Some(Kind::RobotGateway),
        _ => None,
    }
}

/// What the tests of this file are, see `main`.
pub(crate) mod tests {
    use super::*;

    /// A second of the story.
    fn at(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    struct Story {
        start: Instant,
        id: Uuid,
        pages: Pages,
        rows: HashMap<Uuid, Row>,
        faults: Vec<Done>,
    }

    impl Story {
        fn of(end: End, at_most_once: bool) -> Story {
            let (start, id) = (Instant::now(), Uuid::new_v4());
            let written = Written {
                begun: start,
                due: start,
                at_most_once,
                urgent: false,
                ended: Some((start, end)),
                arrived: None,
            };
            let mut pages = Pages::default();
            pages.written.insert(id, written);
            Story { start, id, pages, rows: HashMap::new(), faults: Vec::new() }
        }

        fn row(mut self, status: &str, error: Option<&str>) -> Story {
            let lived = Some(Duration::from_secs(3));
            let row = Row { status: status.to_owned(), last_error: error.map(str::to_owned), lived };
            self.rows.insert(self.id, row);
            self
        }

        fn seen(mut self, seconds: f64, verdict: Verdict, script: Option<&'static str>) -> Story {
            let at = at(self.start, seconds);
            let sighting = Sighting { at, msg_uuid: Some("key".to_owned()), verdict, script, body_hash: 1 };
            self.pages.sightings.entry(self.id).or_default().push(sighting);
            self
        }

        fn fault(mut self, kind: Kind, begins: f64, ends: f64, blinds: bool) -> Story {
            let (begins, ends) = (at(self.start, begins), at(self.start, ends));
            self.faults.push(Done { kind, begins, ends, blinds });
            self
        }

        fn last(&mut self) -> &mut Sighting {
            self.pages.sightings.get_mut(&self.id).and_then(|all| all.last_mut()).unwrap()
        }

        fn findings(&self) -> Findings {
            judge(&self.pages, &self.rows, &self.faults)
        }

        /// What is wrong, in the judge's words.
        fn problems(&self) -> Vec<String> {
            self.findings().problems().map(|problem| problem.why.clone()).collect()
        }
    }

    fn delivered() -> Story {
        Story::of(End::Committed, false).row("delivered", None).seen(0.1, Verdict::Accepted, None)
    }

    pub(crate) fn a_committed_event_that_arrived_once_is_delivered() {
        let findings = delivered().findings();
        assert_eq!((findings.committed, findings.delivered, findings.problems().count()), (1, 1, 0));
    }

    pub(crate) fn a_committed_event_that_never_arrived_is_lost() {
        for story in [
            Story::of(End::Committed, false),
            Story::of(End::Committed, false).row("delivered", None),
            Story::of(End::Committed, false).row("delivered", None).seen(0.1, Verdict::Lost, Some("hang")),
            Story::of(End::Committed, false).row("pending", None),
            Story::of(End::Committed, false).row("failed", Some("outcome unknown: but it asks for at least one")),
        ] {
            assert_eq!((story.findings().lost.len(), story.problems().len()), (1, 1), "{:?}", story.problems());
        }
    }

    pub(crate) fn an_event_that_was_not_committed_must_not_be_sent() {
        let silent = Story::of(End::RolledBack, false);
        assert_eq!((silent.findings().rolled_back, silent.problems().len()), (1, 0));
        for sent in [
            Story::of(End::RolledBack, false).seen(0.1, Verdict::Accepted, None),
            Story::of(End::Unknown, false).seen(0.1, Verdict::Lost, Some("errcode")),
        ] {
            assert_eq!((sent.findings().rolled_back_but_sent.len(), sent.problems().len()), (1, 1));
        }
    }

    pub(crate) fn where_the_answer_to_the_commit_was_lost_the_table_knows() {
        let unheard = Story::of(End::Unknown, false).row("delivered", None).seen(0.1, Verdict::Accepted, None);
        let findings = unheard.findings();
        assert_eq!((findings.committed_unheard, findings.delivered, findings.problems().count()), (1, 1, 0));
        assert_eq!(Story::of(End::Unknown, false).findings().rolled_back, 1);
        assert_eq!(Story::of(End::Unknown, false).row("pending", None).findings().lost.len(), 1);
    }

    pub(crate) fn a_duplicate_is_explained_only_by_a_fault_of_that_moment_that_hides_outcomes() {
        let again = || delivered().seen(4.0, Verdict::Duplicate, None);
        assert_eq!(again().problems(), ["it was sent again, and no fault explains it"]);
        let explained = again().fault(Kind::KillConsumer, 0.05, 0.2, true);
        assert_eq!(explained.problems(), [""; 0]);
        assert_eq!(explained.findings().sent_again, BTreeMap::from([(Kind::KillConsumer, 1)]));
        // Killed after its last bytes had left, which the robot read a moment later.
        assert_eq!(again().fault(Kind::KillConsumer, 0.0, 0.01, true).problems(), [""; 0]);
        for other in [
            again().fault(Kind::FlushAll, 0.05, 0.2, false),
            again().fault(Kind::KillConsumer, 2.5, 2.6, true),
            delivered().seen(1.0, Verdict::Duplicate, None).fault(Kind::KillConsumer, 1.5, 1.6, true),
        ] {
            assert_eq!(other.problems().len(), 1);
        }
    }

    pub(crate) fn an_answer_that_the_robot_kept_to_itself_explains_the_next_send() {
        let mut story = delivered().seen(0.4, Verdict::Duplicate, None);
        story.pages.sightings.get_mut(&story.id).unwrap()[0].script = Some("hang");
        assert_eq!(story.findings().sent_again, BTreeMap::from([(Kind::RobotHangs, 1)]));
        story = story.seen(1.0, Verdict::Duplicate, None);
        assert_eq!(story.problems().len(), 1, "the second was answered");
    }

    pub(crate) fn every_send_of_an_event_has_the_same_key_and_body() {
        for change in [(|sighting| sighting.msg_uuid = Some("another".to_owned())) as fn(&mut Sighting), |sighting| {
            sighting.body_hash = 2
        }] {
            let mut story = delivered().seen(4.0, Verdict::Duplicate, None).fault(Kind::KillAll, 0.1, 0.2, true);
            change(story.last());
            assert_eq!(story.findings().unexplained.len(), 1);
        }
        let mut bare = delivered();
        bare.last().msg_uuid = None;
        assert_eq!(bare.findings().unexplained.len(), 1);
    }

    pub(crate) fn an_event_that_asks_for_at_most_one_delivery_fails_only_after_a_fault_and_is_never_sent_twice() {
        let error = Some("outcome unknown: a consumer stopped");
        let failed = || Story::of(End::Committed, true).row("failed", error);
        assert_eq!(failed().findings().lost.len(), 1);
        assert_eq!(failed().fault(Kind::PostgresCrash, 1.0, 2.0, true).findings().given_up, 1);
        assert_eq!(failed().fault(Kind::PostgresCrash, 4.0, 5.0, true).findings().lost.len(), 1);
        assert_eq!(failed().seen(0.1, Verdict::Lost, Some("hang")).findings().given_up, 1);
        let twice = Story::of(End::Committed, true).row("delivered", None).seen(0.1, Verdict::Accepted, None);
        let twice = twice.seen(4.0, Verdict::Duplicate, None).fault(Kind::KillAll, 0.1, 0.2, true);
        assert_eq!(twice.findings().sent_again_unexplained.len(), 1);
    }

    pub(crate) fn what_nobody_wrote_is_unexplained() {
        let mut story = delivered();
        story.rows.insert(Uuid::new_v4(), story.rows[&story.id].clone());
        assert_eq!(story.problems(), ["no writer has written it"]);
    }
}
