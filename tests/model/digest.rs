//! Rows that are sent together: merged by a leader, sent again whole, recorded whole.
//!
//! How a hint comes to a consumer, and when a robot has a place, is left out: any row may be taken as soon as it is due,
//! and any may be admitted, parked and unparked at any time. Free besides: what the robot answers, consumers that are
//! late before they send, cancellations. Counted are replays and the faults of `protocol`.
//!
//! Left out: dead letters, lost leases, events that expire.
//!
//! Assumed of the platform: what it refused as a message it does not accept under the same `msgUuid`, nor the other way
//! round.
//!
//! Rows are alike, and so are consumers: between two steps of a trace they may swap their numbers.

use crate::explore::{Model, assert_breaks, assert_holds};

/// Retries of each event.
const MAX_RETRY: u8 = 1;

/// Most rows.
const ROWS: usize = 3;

/// Digests that somebody can still refer to at the same time.
const DIGESTS: usize = 4;

/// Some rows, one bit each.
type Rows = u8;

/// Counted from 0, and used again once nobody refers to it.
type DigestId = u8;

/// Rows of one robot, the bounds, and what is wrong with the protocol.
#[derive(Clone, Copy, Debug)]
struct Digests {
    rows: usize,
    /// Those that ask for at most once; the last ones.
    at_most_once: Rows,
    /// Most faults in one history.
    faults: u8,
    /// Most replays in one history.
    replays: u8,
    mutation: Option<Mutation>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Property {
    /// From every state all rows can still be completed, with no help from faults, people or chance.
    CanComplete,
    /// A generation rings a second time only after a fault.
    OnceWithoutFaults,
    /// Where the event asks for it, a generation never rings a second time.
    AtMostOnce,
    /// `delivered` only after a ring of that generation.
    DeliveredRang,
    /// No two consumers send one generation while both their leases run.
    OneSender,
    /// All rings of a generation carry the same `msgUuid`, whatever the faults.
    SameKey,
    /// A digest is sent with the members it was made of, or not at all.
    SameMembers,
}

/// What the tests break to see that the model notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutation {
    MergeWithoutStatusCheck,
    MergeWithoutHolding,
    MergeOfAtMostOnce,
    MergeOfAnUnknownOutcome,
    MergeOfAnothersMembers,
    MembersAreNotStored,
    MemberIsTakenAlone,
    DigestIsTakenInPart,
    DigestIsAdmittedInPart,
    ResentDigestIsCleared,
    RefusedDigestIsKept,
    RetriesAreCountedPerMember,
    RecordWithoutAttempt,
    /// And the rest is sent again.
    RecordedMemberByMember,
    CancelOfAMember,
    ReplayKeepsTheDigest,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct State {
    rows: [Row; ROWS],
    consumers: [Consumer; 2],
    digests: [Digest; DIGESTS],
    faults: u8,
    replays: u8,
    /// What only the step shows that breaks it.
    broken: Option<Property>,
}

/// The columns of the protocol; what a complete row still says, but nobody reads, is left out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Row {
    status: Status,
    /// It rests until its robot has a place.
    is_parked: bool,
    sending: Lease,
    retry_count: u8,
    digest_id: Option<DigestId>,
    /// `digest_limit` is 1, and half of two or three is no more: its digest was refused, or it may have rung under its own
    /// key and must be sent under no other.
    is_alone: bool,
    /// How this generation rang.
    rang_as: Option<Key>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Status {
    Pending,
    Delivering,
    Delivered,
    Failed,
    Cancelled,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Lease {
    No,
    Runs,
    Out,
}

/// What the `msgUuid` is made of, beside the generation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Key {
    Own,
    Digest(DigestId),
}

/// What is true of a digest as long as anybody refers to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
struct Digest {
    members: Rows,
    rang: bool,
    was_refused: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Consumer {
    at: At,
    members: Rows,
    /// Those whose attempt is still this consumer's.
    current: Rows,
    /// Those whose generation is still the one that was taken.
    same_generation: Rows,
    digest_id: Option<DigestId>,
    /// This take has made the digest: nobody has sent it before.
    is_first: bool,
    /// Its send lease runs by its own clock.
    lease_runs: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum At {
    Idle,
    Taken,
    Admitted,
    Sending,
    Answered(Outcome),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Outcome {
    Delivered,
    /// The message was refused: a lone event fails, a digest is dissolved.
    Refused,
    Retry {
        is_unknown: bool,
    },
    Wait,
    /// In the middle of a send: it may have rung.
    Released,
    /// It may have rung, and asks for at most once.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Success,
    Transient,
    Message,
    /// Or refused as a robot: it is paused.
    Throttled,
    Ambiguous {
        rings: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Take {
        consumer: usize,
        row: usize,
    },
    Admit(usize),
    Park(usize),
    Merge {
        consumer: usize,
        chosen: Rows,
    },
    Send(usize),
    Withhold(usize),
    Answer(usize, Answer),
    Record(usize),
    Unpark(usize),
    /// Whoever took the row is gone.
    SendLeaseRunsOut(usize),
    /// Its lease ends before it sends.
    Late(usize),
    Cancel(usize),
    Replay(usize),
    /// Its lease ends while it sends or records.
    Slow(usize),
    Crash {
        consumer: usize,
        rings: bool,
    },
    Abandon {
        consumer: usize,
        rings: bool,
    },
}

impl Model for Digests {
    type State = State;
    type Step = Step;
    type Property = Property;

    const CAN_COMPLETE: Property = Property::CanComplete;

    fn start(&self) -> State {
        let mut rows = [Row { status: Status::Cancelled, ..Row::NEW }; ROWS];
        rows[..self.rows].fill(Row::NEW);
        State {
            rows,
            consumers: [Consumer::IDLE; 2],
            digests: [Digest::default(); DIGESTS],
            faults: 0,
            replays: 0,
            broken: None,
        }
    }

    fn steps(&self, state: &State, found: &mut Vec<(Step, State)>) {
        let mut add = |step, next: Option<State>| found.extend(next.map(|next| (step, self.normal(next))));
        for consumer in 0..state.consumers.len() {
            for row in 0..self.rows {
                add(Step::Take { consumer, row }, self.take(*state, consumer, row));
            }
            add(Step::Admit(consumer), self.admit(*state, consumer));
            add(Step::Park(consumer), self.park(*state, consumer));
            for chosen in 1..1 << self.rows {
                add(Step::Merge { consumer, chosen }, self.merge(*state, consumer, chosen));
            }
            add(Step::Send(consumer), self.send(*state, consumer));
            add(Step::Withhold(consumer), self.withhold(*state, consumer));
            for answer in [
                Answer::Success,
                Answer::Transient,
                Answer::Message,
                Answer::Throttled,
                Answer::Ambiguous { rings: false },
                Answer::Ambiguous { rings: true },
            ] {
                add(Step::Answer(consumer, answer), self.answer(*state, consumer, answer));
            }
            add(Step::Record(consumer), self.record(*state, consumer));
            add(Step::Late(consumer), self.late(*state, consumer));
            add(Step::Slow(consumer), self.slow(*state, consumer));
            for rings in [false, true] {
                add(Step::Crash { consumer, rings }, self.crash(*state, consumer, rings));
                add(Step::Abandon { consumer, rings }, self.abandon(*state, consumer, rings));
            }
        }
        for row in 0..self.rows {
            add(Step::Unpark(row), self.unpark(*state, row));
            add(Step::SendLeaseRunsOut(row), self.send_lease_runs_out(*state, row));
            add(Step::Cancel(row), self.cancel(*state, row));
            add(Step::Replay(row), self.replay(*state, row));
        }
    }

    fn broken(&self, state: &State) -> Option<Property> {
        let silent = |row: &Row| row.status == Status::Delivered && row.rang_as.is_none();
        state.broken.or_else(|| state.rows.iter().any(silent).then_some(Property::DeliveredRang))
    }

    fn is_complete(&self, state: &State) -> bool {
        state.rows.iter().all(|row| !row.is_open())
    }

    fn helps(&self, step: Step) -> bool {
        match step {
            Step::Take { .. }
            | Step::Admit(_)
            | Step::Merge { .. }
            | Step::Send(_)
            | Step::Withhold(_)
            | Step::Answer(_, Answer::Success)
            | Step::Record(_)
            | Step::Unpark(_)
            | Step::SendLeaseRunsOut(_) => true,
            // A digest that is refused once is refused always.
            Step::Answer(_, Answer::Message) => true,
            Step::Answer(..)
            | Step::Park(_)
            | Step::Late(_)
            | Step::Cancel(_)
            | Step::Replay(_)
            | Step::Slow(_)
            | Step::Crash { .. }
            | Step::Abandon { .. } => false,
        }
    }
}

/// The consumer.
impl Digests {
    fn take(&self, mut state: State, consumer: usize, row: usize) -> Option<State> {
        if state.consumers[consumer].at != At::Idle || !state.rows[row].is_due() {
            return None;
        }
        if let Some(digest_id) = state.rows[row].digest_id
            && self.mutation != Some(Mutation::MemberIsTakenAlone)
        {
            return self.take_digest(state, consumer, digest_id);
        }
        let taken = &mut state.rows[row];
        if taken.status == Status::Delivering {
            if self.at_most_once & bit(row) != 0 {
                taken.complete(Status::Failed);
                return Some(state);
            }
            taken.is_alone |= self.mutation != Some(Mutation::MergeOfAnUnknownOutcome);
        }
        state.hold(consumer, bit(row));
        state.consumers[consumer].at = At::Taken;
        Some(state)
    }

    /// All of its open members or none.
    fn take_digest(&self, mut state: State, consumer: usize, digest_id: DigestId) -> Option<State> {
        let open = state.rows(|row| row.digest_id == Some(digest_id) && row.is_open());
        let delivered = state.rows(|row| row.digest_id == Some(digest_id) && row.status == Status::Delivered);
        if delivered != 0 && self.mutation != Some(Mutation::RecordedMemberByMember) {
            // Never so, as long as records are whole.
            for row in each(open) {
                state.rows[row].complete(Status::Delivered);
            }
            return Some(state);
        }
        let due = state.rows(Row::is_due) & open;
        if due != open && self.mutation != Some(Mutation::DigestIsTakenInPart) {
            return None;
        }
        state.hold(consumer, due);
        state.consumers[consumer].at = At::Taken;
        state.consumers[consumer].digest_id = Some(digest_id);
        Some(state)
    }

    fn admit(&self, mut state: State, consumer: usize) -> Option<State> {
        (state.consumers[consumer].at == At::Taken).then(|| {
            state.consumers[consumer].at = At::Admitted;
            state
        })
    }

    /// The other answer of the same statement: a digest is admitted whole, or parked whole.
    fn park(&self, mut state: State, consumer: usize) -> Option<State> {
        if state.consumers[consumer].at != At::Taken {
            return None;
        }
        let parked = match self.mutation {
            Some(Mutation::DigestIsAdmittedInPart) => 1 << state.consumers[consumer].members.trailing_zeros(),
            _ => state.consumers[consumer].members,
        };
        for row in each(parked) {
            state.rows[row].park();
        }
        let left = &mut state.consumers[consumer];
        left.members &= !parked;
        left.current &= !parked;
        left.same_generation &= !parked;
        left.at = At::Admitted;
        if left.members == 0 {
            *left = Consumer::IDLE;
        }
        Some(state)
    }

    /// The leader and the chosen ones become a digest, before it is sent.
    fn merge(&self, mut state: State, consumer: usize, chosen: Rows) -> Option<State> {
        let Consumer { at, members: leader, current, digest_id, .. } = state.consumers[consumer];
        if at != At::Admitted || digest_id.is_some() || chosen & leader != 0 {
            return None;
        }
        let delivering = state.rows(|row| row.status == Status::Delivering);
        if leader & current & delivering == 0 && self.mutation != Some(Mutation::MergeWithoutHolding) {
            return None;
        }
        let together = leader | chosen;
        let may = state.rows(|row| {
            row.is_open()
                && !row.is_alone
                && (row.digest_id.is_none() || self.mutation == Some(Mutation::MergeOfAnothersMembers))
        });
        let wait = match self.mutation {
            Some(Mutation::MergeWithoutStatusCheck) => chosen,
            _ => state.rows(|row| row.status == Status::Pending && row.is_parked),
        };
        let is_allowed = self.at_most_once & together == 0 || self.mutation == Some(Mutation::MergeOfAtMostOnce);
        if together & !may != 0 || chosen & !wait != 0 || !is_allowed {
            return None;
        }
        let digest_id = (0..).find(|digest_id| *state.digest(*digest_id) == Digest::default())?;
        state.digest(digest_id).members = together;
        state.hold(consumer, together);
        for row in each(together) {
            state.rows[row].digest_id = (self.mutation != Some(Mutation::MembersAreNotStored)).then_some(digest_id);
        }
        let consumer = &mut state.consumers[consumer];
        *consumer = Consumer { at: At::Admitted, digest_id: Some(digest_id), is_first: true, ..*consumer };
        Some(state)
    }

    fn send(&self, mut state: State, consumer: usize) -> Option<State> {
        let Consumer { at, members, same_generation, digest_id, lease_runs, .. } = state.consumers[consumer];
        if at != At::Admitted || !lease_runs {
            return None;
        }
        let sends = |other: &Consumer| {
            other.at == At::Sending && other.lease_runs && other.same_generation & same_generation != 0
        };
        if state.consumers.iter().any(sends) {
            state.broken = Some(Property::OneSender);
        }
        if digest_id.is_some_and(|digest_id| state.digest(digest_id).members != members) {
            state.broken = Some(Property::SameMembers);
        }
        state.consumers[consumer].at = At::Sending;
        Some(state)
    }

    fn withhold(&self, mut state: State, consumer: usize) -> Option<State> {
        let Consumer { at, lease_runs, .. } = state.consumers[consumer];
        (at == At::Admitted && !lease_runs).then(|| {
            state.consumers[consumer].at = At::Answered(Outcome::Wait);
            state
        })
    }

    fn answer(&self, mut state: State, consumer: usize, answer: Answer) -> Option<State> {
        let Consumer { at, digest_id, .. } = state.consumers[consumer];
        if at != At::Sending {
            return None;
        }
        let outcome = match answer {
            Answer::Success => {
                self.ring(&mut state, consumer)?;
                Outcome::Delivered
            }
            Answer::Transient => Outcome::Retry { is_unknown: false },
            Answer::Throttled => Outcome::Wait,
            Answer::Message => {
                if let Some(digest_id) = digest_id {
                    state.digest(digest_id).was_refused = true;
                    if state.digest(digest_id).rang {
                        return None;
                    }
                }
                Outcome::Refused
            }
            Answer::Ambiguous { rings } => {
                self.fault(&mut state, consumer, rings)?;
                self.unknown(&state, consumer, Outcome::Retry { is_unknown: true })
            }
        };
        state.consumers[consumer].at = At::Answered(outcome);
        Some(state)
    }

    fn record(&self, mut state: State, consumer: usize) -> Option<State> {
        let Consumer { at: At::Answered(outcome), members, same_generation, .. } = state.consumers[consumer] else {
            return None;
        };
        let taken = std::mem::replace(&mut state.consumers[consumer], Consumer::IDLE);
        if outcome == Outcome::Delivered {
            for row in each(same_generation) {
                if state.rows[row].is_open() || state.rows[row].status == Status::Cancelled {
                    state.rows[row].complete(Status::Delivered);
                    if self.mutation == Some(Mutation::RecordedMemberByMember) {
                        state.consumers[consumer] = taken;
                        break;
                    }
                }
            }
            return Some(state);
        }
        let held = state.held(&taken);
        let counts = match self.mutation {
            Some(Mutation::RecordWithoutAttempt) => {
                state.rows(|row| row.status == Status::Delivering) & same_generation == members
            }
            _ => held == members,
        };
        if counts {
            self.record_members(&mut state, &taken, outcome);
        }
        Some(state)
    }

    /// All members or none.
    fn record_members(&self, state: &mut State, taken: &Consumer, outcome: Outcome) {
        let Consumer { members, digest_id, is_first, .. } = *taken;
        let is_unknown = matches!(outcome, Outcome::Retry { is_unknown: true } | Outcome::Released);
        let is_dissolved = outcome == Outcome::Refused && digest_id.is_some();
        // Only the first send knows that the digest certainly did not ring: a later one can speak for itself alone.
        let is_cleared = is_dissolved && self.mutation != Some(Mutation::RefusedDigestIsKept)
            || !is_unknown && !is_dissolved && (is_first || self.mutation == Some(Mutation::ResentDigestIsCleared));
        let may_retry = |row: &Row| row.retry_count < MAX_RETRY;
        // What must stay together is retried together, as long as one of its members may be.
        let one_may = each(members).any(|row| may_retry(&state.rows[row]));
        let stays = digest_id.is_some() && !is_cleared && self.mutation != Some(Mutation::RetriesAreCountedPerMember);
        for row in each(members) {
            let row = &mut state.rows[row];
            row.status = Status::Pending;
            row.sending = Lease::No;
            if is_cleared {
                row.digest_id = None;
            }
            if is_unknown && digest_id.is_none() && self.mutation != Some(Mutation::MergeOfAnUnknownOutcome) {
                row.is_alone = true;
            }
            match outcome {
                Outcome::Refused if digest_id.is_some() => {
                    row.is_alone = true;
                    row.is_parked = true;
                }
                Outcome::Retry { .. } if may_retry(row) || stays && one_may => {
                    row.retry_count = MAX_RETRY.min(row.retry_count + 1);
                }
                Outcome::Wait => row.is_parked = true,
                Outcome::Released => {}
                Outcome::Delivered | Outcome::Refused | Outcome::Retry { .. } | Outcome::Unknown => {
                    row.complete(Status::Failed);
                }
            }
        }
    }

    /// What becomes of a send that may have rung.
    fn unknown(&self, state: &State, consumer: usize, otherwise: Outcome) -> Outcome {
        let Consumer { members, digest_id, .. } = state.consumers[consumer];
        match digest_id {
            None if self.at_most_once & members != 0 => Outcome::Unknown,
            _ => otherwise,
        }
    }

    fn ring(&self, state: &mut State, consumer: usize) -> Option<()> {
        let Consumer { same_generation, digest_id, .. } = state.consumers[consumer];
        if let Some(digest_id) = digest_id {
            state.digest(digest_id).rang = true;
            if state.digest(digest_id).was_refused {
                return None;
            }
        }
        let key = digest_id.map_or(Key::Own, Key::Digest);
        for row in each(same_generation) {
            let broken = match state.rows[row].rang_as.replace(key) {
                None => continue,
                Some(_) if self.at_most_once & bit(row) != 0 => Property::AtMostOnce,
                Some(_) if state.faults == 0 => Property::OnceWithoutFaults,
                Some(before) if before != key => Property::SameKey,
                Some(_) => continue,
            };
            state.broken = Some(broken);
        }
        Some(())
    }
}

/// Time, people and faults.
impl Digests {
    fn unpark(&self, mut state: State, row: usize) -> Option<State> {
        std::mem::replace(&mut state.rows[row].is_parked, false).then_some(state)
    }

    /// One by one: a member that a transaction holds is not to be had, either.
    fn send_lease_runs_out(&self, mut state: State, row: usize) -> Option<State> {
        let is_held = state.consumers.iter().any(|consumer| consumer.current & bit(row) != 0);
        (state.rows[row].sending == Lease::Runs && !is_held).then(|| {
            state.rows[row].sending = Lease::Out;
            state
        })
    }

    fn late(&self, mut state: State, consumer: usize) -> Option<State> {
        (matches!(state.consumers[consumer].at, At::Taken | At::Admitted) && state.lease_ends(consumer))
            .then_some(state)
    }

    fn slow(&self, mut state: State, consumer: usize) -> Option<State> {
        if !matches!(state.consumers[consumer].at, At::Sending | At::Answered(_)) {
            return None;
        }
        self.fault(&mut state, consumer, false)?;
        state.lease_ends(consumer).then_some(state)
    }

    fn cancel(&self, mut state: State, row: usize) -> Option<State> {
        let is_member = state.rows[row].digest_id.is_some() && self.mutation != Some(Mutation::CancelOfAMember);
        (state.rows[row].is_open() && !is_member).then(|| {
            state.rows[row].complete(Status::Cancelled);
            state
        })
    }

    fn replay(&self, mut state: State, row: usize) -> Option<State> {
        if state.rows[row].is_open() || state.replays == self.replays {
            return None;
        }
        state.replays += 1;
        let digest_id = state.rows[row].digest_id.filter(|_| self.mutation == Some(Mutation::ReplayKeepsTheDigest));
        state.rows[row] = Row { digest_id, ..Row::NEW };
        for consumer in &mut state.consumers {
            consumer.current &= !bit(row);
            consumer.same_generation &= !bit(row);
        }
        Some(state)
    }

    fn crash(&self, mut state: State, consumer: usize, rings: bool) -> Option<State> {
        let Consumer { at, .. } = state.consumers[consumer];
        if at == At::Idle || rings && at != At::Sending {
            return None;
        }
        self.fault(&mut state, consumer, rings)?;
        state.consumers[consumer] = Consumer::IDLE;
        Some(state)
    }

    /// The grace period is over, and the answer has not come.
    fn abandon(&self, mut state: State, consumer: usize, rings: bool) -> Option<State> {
        if state.consumers[consumer].at != At::Sending {
            return None;
        }
        self.fault(&mut state, consumer, rings)?;
        let outcome = self.unknown(&state, consumer, Outcome::Released);
        state.consumers[consumer].at = At::Answered(outcome);
        Some(state)
    }

    fn fault(&self, state: &mut State, consumer: usize, rings: bool) -> Option<()> {
        state.faults += 1;
        if state.faults > self.faults {
            return None;
        }
        if rings { self.ring(state, consumer) } else { Some(()) }
    }
}

/// What no step can tell apart is one state.
impl Digests {
    fn normal(&self, mut state: State) -> State {
        for consumer in 0..state.consumers.len() {
            let taken = state.consumers[consumer];
            let is_stale = match taken.at {
                At::Taken => state.held(&taken) != taken.members,
                At::Answered(Outcome::Delivered) => taken.same_generation == 0,
                At::Answered(_) => {
                    state.held(&taken) != taken.members && self.mutation != Some(Mutation::RecordWithoutAttempt)
                }
                At::Idle | At::Admitted | At::Sending => false,
            };
            if is_stale {
                state.consumers[consumer] = Consumer::IDLE;
            } else if matches!(taken.at, At::Answered(_)) {
                state.consumers[consumer].lease_runs &= taken.current != 0;
            }
        }
        let open = state.rows;
        for (index, row) in state.rows.iter_mut().enumerate() {
            if row.is_open() {
                continue;
            }
            if !open.iter().any(|other| other.is_open() && other.digest_id == row.digest_id)
                && self.mutation != Some(Mutation::ReplayKeepsTheDigest)
            {
                row.digest_id = None;
            }
            // Nobody can ring it again.
            if !state.consumers.iter().any(|consumer| consumer.same_generation & bit(index) != 0) {
                let rang = row.status == Status::Delivered && row.rang_as.is_some();
                row.rang_as = rang.then_some(Key::Own);
            }
        }
        for digest_id in (0..).take(DIGESTS) {
            let is_known = state
                .rows
                .iter()
                .any(|row| row.digest_id == Some(digest_id) || row.rang_as == Some(Key::Digest(digest_id)))
                || state.consumers.iter().any(|consumer| consumer.digest_id == Some(digest_id));
            if !is_known {
                *state.digest(digest_id) = Digest::default();
            }
        }
        self.sort_rows(&mut state);
        state.consumers.sort_unstable();
        state
    }

    fn sort_rows(&self, state: &mut State) {
        for (first, second) in [(0, 1), (1, 2), (0, 1)] {
            if second < self.rows && self.stands_behind(state, first, second) {
                state.swap_rows(first, second);
            }
        }
    }

    fn stands_behind(&self, state: &State, first: usize, second: usize) -> bool {
        let is_in = |rows: Rows| (rows >> first & 1).cmp(&(rows >> second & 1));
        let mut order = is_in(self.at_most_once).then(state.rows[first].cmp(&state.rows[second]));
        for rows in
            state.consumers.iter().flat_map(Consumer::rows).chain(state.digests.iter().map(|digest| digest.members))
        {
            order = order.then(is_in(rows));
        }
        order.is_gt()
    }
}

impl State {
    fn rows(&self, is: impl Fn(&Row) -> bool) -> Rows {
        (0..ROWS).filter(|row| is(&self.rows[*row])).map(bit).sum()
    }

    /// Raises the attempts of these rows, and gives them a send lease.
    fn hold(&mut self, consumer: usize, rows: Rows) {
        for other in &mut self.consumers {
            other.current &= !rows;
        }
        self.consumers[consumer] =
            Consumer { members: rows, current: rows, same_generation: rows, lease_runs: true, ..Consumer::IDLE };
        for row in each(rows) {
            let row = &mut self.rows[row];
            row.status = Status::Delivering;
            row.sending = Lease::Runs;
            row.is_parked = false;
        }
    }

    fn digest(&mut self, digest_id: DigestId) -> &mut Digest {
        &mut self.digests[usize::from(digest_id)]
    }

    fn swap_rows(&mut self, first: usize, second: usize) {
        let swap = |rows: &mut Rows| {
            if *rows >> first & 1 != *rows >> second & 1 {
                *rows ^= bit(first) | bit(second);
            }
        };
        self.rows.swap(first, second);
        for consumer in &mut self.consumers {
            swap(&mut consumer.members);
            swap(&mut consumer.current);
            swap(&mut consumer.same_generation);
        }
        for digest in &mut self.digests {
            swap(&mut digest.members);
        }
    }

    fn held(&self, consumer: &Consumer) -> Rows {
        consumer.current & consumer.same_generation & self.rows(|row| row.status == Status::Delivering)
    }

    fn lease_ends(&mut self, consumer: usize) -> bool {
        for row in each(self.held(&self.consumers[consumer])) {
            self.rows[row].sending = Lease::Out;
        }
        std::mem::replace(&mut self.consumers[consumer].lease_runs, false)
    }
}

impl Row {
    const NEW: Row = Row {
        status: Status::Pending,
        is_parked: false,
        sending: Lease::No,
        retry_count: 0,
        digest_id: None,
        is_alone: false,
        rang_as: None,
    };

    fn is_open(&self) -> bool {
        matches!(self.status, Status::Pending | Status::Delivering)
    }

    fn is_due(&self) -> bool {
        match self.status {
            Status::Pending => !self.is_parked,
            Status::Delivering => self.sending == Lease::Out,
            Status::Delivered | Status::Failed | Status::Cancelled => false,
        }
    }

    fn park(&mut self) {
        self.status = Status::Pending;
        self.sending = Lease::No;
        self.is_parked = true;
    }

    fn complete(&mut self, status: Status) {
        *self = Row { status, digest_id: self.digest_id, rang_as: self.rang_as, ..Row::NEW };
    }
}

impl Consumer {
    const IDLE: Consumer = Consumer {
        at: At::Idle,
        members: 0,
        current: 0,
        same_generation: 0,
        digest_id: None,
        is_first: false,
        lease_runs: false,
    };

    fn rows(&self) -> [Rows; 3] {
        [self.members, self.current, self.same_generation]
    }
}

fn bit(row: usize) -> Rows {
    1 << row
}

fn each(rows: Rows) -> impl Iterator<Item = usize> {
    (0..ROWS).filter(move |row| rows & bit(*row) != 0)
}

/// Two faults, a replay.
const TWO: Digests = Digests { rows: 2, at_most_once: 0, faults: 2, replays: 1, mutation: None };

const ONE_AT_MOST_ONCE: Digests = Digests { at_most_once: 0b10, ..TWO };

/// One fault, no replay.
const THREE: Digests = Digests { rows: 3, faults: 1, replays: 0, ..TWO };

/// One fault, and mostly no replay, are enough to see what is wrong.
const BRIEF: Digests = Digests { faults: 1, replays: 0, ..TWO };
const BRIEF_REPLAY: Digests = Digests { replays: 1, ..BRIEF };
const BRIEF_AT_MOST_ONCE: Digests = Digests { at_most_once: 0b10, ..BRIEF };

/// What each mutation breaks, and where.
const MUTATIONS: [(Mutation, Property, Digests); 16] = [
    (Mutation::MergeWithoutStatusCheck, Property::OneSender, BRIEF),
    (Mutation::MergeWithoutHolding, Property::OneSender, BRIEF_REPLAY),
    (Mutation::MergeOfAtMostOnce, Property::AtMostOnce, BRIEF_AT_MOST_ONCE),
    (Mutation::MergeOfAnUnknownOutcome, Property::SameKey, BRIEF),
    (Mutation::MergeOfAnothersMembers, Property::SameKey, THREE),
    (Mutation::MembersAreNotStored, Property::SameKey, BRIEF),
    (Mutation::MemberIsTakenAlone, Property::SameKey, BRIEF),
    (Mutation::DigestIsTakenInPart, Property::SameMembers, BRIEF),
    (Mutation::DigestIsAdmittedInPart, Property::SameMembers, BRIEF),
    (Mutation::ResentDigestIsCleared, Property::SameKey, BRIEF),
    (Mutation::RefusedDigestIsKept, Property::CanComplete, BRIEF),
    (Mutation::RetriesAreCountedPerMember, Property::SameMembers, BRIEF),
    (Mutation::RecordWithoutAttempt, Property::OneSender, BRIEF),
    (Mutation::RecordedMemberByMember, Property::SameMembers, BRIEF),
    (Mutation::CancelOfAMember, Property::SameMembers, BRIEF),
    (Mutation::ReplayKeepsTheDigest, Property::DeliveredRang, BRIEF_REPLAY),
];

#[test]
fn a_digest_of_two_rings_once_and_as_it_was_made() {
    assert_holds("a digest of two", &TWO);
}

#[test]
fn a_digest_of_three_rings_once_and_as_it_was_made() {
    assert_holds("a digest of three", &THREE);
}

#[test]
fn an_event_that_asks_for_at_most_once_is_left_out_of_digests() {
    assert_holds("a digest beside at most once", &ONE_AT_MOST_ONCE);
}

#[test]
fn every_mutation_is_noticed() {
    for (mutation, property, digests) in MUTATIONS {
        assert_breaks(&Digests { mutation: Some(mutation), ..digests }, mutation, property);
    }
}
