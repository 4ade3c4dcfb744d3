//! Relays that sleep, and transactions that make rows due: `V2__wake_up.sql` and `src/relay/wake.rs`.
//!
//! Free, as often as they come: transactions that make a row due, at once or later, or earlier than it was, and commit
//! or roll back; people's transactions that hold a due row. Counted: relays that die (one that starts again is one that
//! has never slept), and listening connections that end without a word.
//!
//! Relays are alike: between two steps of a trace they may swap their numbers.

use crate::explore::{Model, assert_breaks, assert_holds};

/// Relays, rows and the transactions that make them due: one transaction a row at a time.
#[derive(Clone, Copy, Debug)]
struct WakeUp {
    rows: usize,
    /// Most relays that die in one history.
    deaths: u8,
    /// Most listening connections that end in one history without their relay noticing.
    cuts: u8,
    /// Whether the poll interval may be relied on.
    polls: bool,
    mutation: Option<Mutation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Property {
    /// From every state all due rows can still be claimed, with no help from faults, people or chance, and without the
    /// poll interval where it may not be relied on.
    CanComplete,
    /// As long as there was no fault: while a row is due that nobody holds, a relay looks, or will be woken by what it
    /// has heard, by a time that it knows, or because it looks again soon.
    NoneIsMissed,
}

/// What the tests break to see that the model notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutation {
    LastLookBeforeTheLock,
    UnlockBeforeCommit,
    NotifyBeforeCommit,
    LaterRowsDoNotWake,
    EarlierRowsDoNotWake,
    NextDueIsNotAsked,
    HeldRowsAreNotLookedAtAgain,
    HeardWhileAwakeIsForgotten,
    InFlightIsTakenForARelay,
    BesideNeverLooks,
    SleepWithoutLimit,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct State {
    relays: [Relay; 2],
    rows: [Row; 2],
    /// A session that no relay uses any more still holds the wake-up lock.
    lock_is_orphaned: bool,
    deaths: u8,
    cuts: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Relay {
    at: At,
    posture: Posture,
    holds_lock: bool,
    /// A notification that it has not waited for yet.
    heard: bool,
    /// Rows at whose times it will wake.
    knows: [bool; 2],
    /// It will look again soon, whatever happens.
    soon: bool,
    /// Its listening connection has ended, and it does not know.
    is_cut: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum At {
    /// About to claim.
    Look,
    /// Something was claimed.
    StandUp,
    /// Nothing was.
    LieDown,
    /// The lock was not to be had: by whom is it held?
    Refused,
    NextDue,
    /// Knows when the next row is due; a step of its own only where a mutation does something in between.
    AboutToWait,
    Wait,
    Dead,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Posture {
    Up,
    Asleep,
    Beside,
    Waiting,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Row {
    /// As others see it.
    due: Due,
    /// Somebody's transaction holds it.
    is_held: bool,
    transaction: Transaction,
}

/// When a row is due that waits to be claimed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Due {
    /// There is none, or it has been claimed.
    Never,
    Later,
    Now,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Transaction {
    None,
    Open {
        makes: Due,
        wakes: Wakes,
    },
    /// Its row can be seen; its lock is not released yet, nor its notification delivered.
    Committed {
        wakes: Wakes,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Wakes {
    /// It has the lock, shared: no relay sleeps.
    HoldsLock,
    Notifies,
    No,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Claim(usize),
    StandUp(usize),
    /// The first half of `try_sleep.sql`.
    LieDown(usize),
    /// The second half.
    LookWhoHoldsTheLock(usize),
    NextDue(usize),
    ActTooLate(usize),
    Hear(usize),
    LookAgain(usize),
    LookWhetherTheOtherSleeps(usize),
    PollIntervalEnds(usize),
    Make(usize, Due),
    Commit(usize),
    RollBack(usize),
    End(usize),
    DueTimeComes(usize),
    /// A person's transaction takes the row.
    Hold(usize),
    LetGo(usize),
    Die(usize),
    ConnectionIsCut(usize),
    NoticeTheCut(usize),
    ServerEndsTheSession,
}

impl Model for WakeUp {
    type State = State;
    type Step = Step;
    type Property = Property;

    const CAN_COMPLETE: Property = Property::CanComplete;

    fn start(&self) -> State {
        State {
            relays: [Relay::STARTED; 2],
            rows: [Row { due: Due::Never, is_held: false, transaction: Transaction::None }; 2],
            lock_is_orphaned: false,
            deaths: 0,
            cuts: 0,
        }
    }

    fn steps(&self, state: &State, found: &mut Vec<(Step, State)>) {
        let mut add = |step, next: Option<State>| {
            found.extend(next.map(|mut next| {
                next.relays.sort_unstable();
                (step, next)
            }));
        };
        for relay in 0..state.relays.len() {
            add(Step::Claim(relay), self.claim(*state, relay));
            add(Step::StandUp(relay), self.stand_up(*state, relay));
            add(Step::LieDown(relay), self.lie_down(*state, relay));
            add(Step::ActTooLate(relay), self.act_too_late(*state, relay));
            add(Step::LookWhoHoldsTheLock(relay), self.look_who_holds_the_lock(*state, relay));
            add(Step::NextDue(relay), self.next_due(*state, relay));
            add(Step::Hear(relay), self.wakes(*state, relay, |relay| relay.heard));
            add(Step::LookAgain(relay), self.wakes(*state, relay, |relay| relay.soon));
            add(Step::LookWhetherTheOtherSleeps(relay), self.look_whether_the_other_sleeps(*state, relay));
            add(Step::PollIntervalEnds(relay), self.wakes(*state, relay, |_| self.has_limit()));
            add(Step::Die(relay), self.die(*state, relay));
            add(Step::ConnectionIsCut(relay), self.connection_is_cut(*state, relay));
            add(Step::NoticeTheCut(relay), self.notice_the_cut(*state, relay));
        }
        for row in 0..self.rows {
            for due in [Due::Now, Due::Later] {
                add(Step::Make(row, due), self.make(*state, row, due));
            }
            add(Step::Commit(row), self.commit(*state, row));
            add(Step::RollBack(row), self.roll_back(*state, row));
            add(Step::End(row), self.end(*state, row));
            add(Step::DueTimeComes(row), self.due_time_comes(*state, row));
            add(Step::Hold(row), self.hold(*state, row));
            add(Step::LetGo(row), self.let_go(*state, row));
        }
        add(Step::ServerEndsTheSession, self.server_ends_the_session(*state));
    }

    fn broken(&self, state: &State) -> Option<Property> {
        let is_missed = |row: &Row| row.due == Due::Now && !row.is_locked();
        let sleeps = |relay: &Relay| relay.at == At::Wait && !relay.heard && !relay.soon;
        let notifies = |row: &Row| row.transaction == Transaction::Committed { wakes: Wakes::Notifies };
        (state.deaths == 0
            && state.cuts == 0
            && state.rows.iter().any(is_missed)
            && state.relays.iter().all(sleeps)
            && !state.rows.iter().any(notifies))
        .then_some(Property::NoneIsMissed)
    }

    fn is_complete(&self, state: &State) -> bool {
        state.rows.iter().all(|row| row.due != Due::Now)
    }

    fn helps(&self, step: Step) -> bool {
        match step {
            Step::Claim(_)
            | Step::StandUp(_)
            | Step::LieDown(_)
            | Step::ActTooLate(_)
            | Step::LookWhoHoldsTheLock(_)
            | Step::NextDue(_)
            | Step::Hear(_)
            | Step::LookAgain(_)
            | Step::LookWhetherTheOtherSleeps(_)
            | Step::Commit(_)
            | Step::RollBack(_)
            | Step::End(_)
            | Step::LetGo(_)
            | Step::ServerEndsTheSession => true,
            Step::PollIntervalEnds(_) => self.polls,
            Step::Make(..)
            | Step::DueTimeComes(_)
            | Step::Hold(_)
            | Step::Die(_)
            | Step::ConnectionIsCut(_)
            | Step::NoticeTheCut(_) => false,
        }
    }
}

/// The relay.
impl WakeUp {
    /// One pass: it skips rows that a transaction holds.
    fn claim(&self, mut state: State, relay: usize) -> Option<State> {
        if state.relays[relay].at != At::Look {
            return None;
        }
        state.relays[relay].at = At::LieDown;
        for row in &mut state.rows {
            if row.due == Due::Now && !row.is_locked() {
                row.due = Due::Never;
                state.relays[relay].at = At::StandUp;
            }
        }
        Some(state)
    }

    fn stand_up(&self, mut state: State, relay: usize) -> Option<State> {
        (state.relays[relay].at == At::StandUp).then(|| {
            let relay = &mut state.relays[relay];
            *relay = Relay { at: At::Look, posture: Posture::Up, holds_lock: false, ..*relay };
            state
        })
    }

    fn lie_down(&self, mut state: State, relay: usize) -> Option<State> {
        if state.relays[relay].at != At::LieDown {
            return None;
        }
        if matches!(state.relays[relay].posture, Posture::Asleep | Posture::Beside)
            || self.mutation == Some(Mutation::LastLookBeforeTheLock)
        {
            // The look that has just found nothing was the last one.
            state.relays[relay].at = At::NextDue;
            return Some(state);
        }
        if state.relays[relay].is_cut {
            // The lock cannot be asked for: it connects again.
            state.relays[relay].is_cut = false;
        }
        self.try_lock(&mut state, relay, At::Look);
        Some(state)
    }

    fn act_too_late(&self, mut state: State, relay: usize) -> Option<State> {
        if state.relays[relay].at != At::AboutToWait {
            return None;
        }
        state.relays[relay].at = At::Wait;
        match self.mutation {
            Some(Mutation::HeardWhileAwakeIsForgotten) => state.relays[relay].heard = false,
            _ if state.relays[relay].posture == Posture::Up => self.try_lock(&mut state, relay, At::Wait),
            _ => {}
        }
        Some(state)
    }

    fn try_lock(&self, state: &mut State, relay: usize, then: At) {
        let is_free = !state.a_relay_sleeps() && !state.rows.iter().any(Row::is_in_flight);
        let relay = &mut state.relays[relay];
        if is_free {
            *relay = Relay { at: then, posture: Posture::Asleep, holds_lock: true, ..*relay };
        } else {
            relay.at = At::Refused;
        }
    }

    /// Later than it was refused: who holds the lock now may be another.
    fn look_who_holds_the_lock(&self, mut state: State, relay: usize) -> Option<State> {
        if state.relays[relay].at != At::Refused {
            return None;
        }
        let another_relay_sleeps = state.a_relay_sleeps() || self.mutation == Some(Mutation::InFlightIsTakenForARelay);
        let relay = &mut state.relays[relay];
        (relay.at, relay.posture) = match (self.mutation, another_relay_sleeps) {
            (Some(Mutation::LastLookBeforeTheLock), true) => (At::Wait, Posture::Beside),
            (_, true) => (At::Look, Posture::Beside),
            (_, false) => (At::NextDue, Posture::Waiting),
        };
        Some(state)
    }

    fn next_due(&self, mut state: State, relay: usize) -> Option<State> {
        if state.relays[relay].at != At::NextDue {
            return None;
        }
        let rows = state.rows;
        let sleeper = &mut state.relays[relay];
        sleeper.at = At::Wait;
        sleeper.soon = sleeper.posture == Posture::Waiting;
        if self.mutation != Some(Mutation::NextDueIsNotAsked) {
            sleeper.knows = rows.map(|row| row.due == Due::Later);
            sleeper.soon |= rows.iter().any(|row| row.due == Due::Now)
                && self.mutation != Some(Mutation::HeldRowsAreNotLookedAtAgain);
        }
        if matches!(self.mutation, Some(Mutation::LastLookBeforeTheLock | Mutation::HeardWhileAwakeIsForgotten)) {
            sleeper.at = At::AboutToWait;
        }
        Some(state)
    }

    fn wakes(&self, mut state: State, relay: usize, why: impl Fn(&Relay) -> bool) -> Option<State> {
        if state.relays[relay].at != At::Wait || !why(&state.relays[relay]) {
            return None;
        }
        state.relays[relay].wake();
        Some(state)
    }

    fn look_whether_the_other_sleeps(&self, mut state: State, relay: usize) -> Option<State> {
        let Relay { at, posture, .. } = state.relays[relay];
        if (at, posture) != (At::Wait, Posture::Beside)
            || self.mutation == Some(Mutation::BesideNeverLooks)
            || state.a_relay_sleeps()
        {
            return None;
        }
        if !state.rows.iter().any(Row::is_in_flight) && !state.relays[relay].is_cut {
            state.relays[relay].posture = Posture::Asleep;
            state.relays[relay].holds_lock = true;
        }
        state.relays[relay].wake();
        Some(state)
    }

    fn has_limit(&self) -> bool {
        self.mutation != Some(Mutation::SleepWithoutLimit)
    }
}

/// Who makes rows due, and who holds them.
impl WakeUp {
    /// An insert, a retry, a row that is parked until its robot has a place; or a row that is due earlier than it was.
    fn make(&self, mut state: State, row: usize, due: Due) -> Option<State> {
        let wakes_all = if state.a_relay_sleeps() { Wakes::Notifies } else { Wakes::HoldsLock };
        let Row { due: was, transaction, is_held } = state.rows[row];
        if transaction != Transaction::None || is_held {
            return None;
        }
        let wakes = match (was, due) {
            (Due::Never, Due::Later) if self.mutation == Some(Mutation::LaterRowsDoNotWake) => Wakes::No,
            (Due::Later, Due::Now) if self.mutation == Some(Mutation::EarlierRowsDoNotWake) => Wakes::No,
            (Due::Never, Due::Now | Due::Later) | (Due::Later, Due::Now) => wakes_all,
            _ => return None,
        };
        if self.mutation == Some(Mutation::NotifyBeforeCommit) && wakes == Wakes::Notifies {
            state.notify();
        }
        state.rows[row].transaction = Transaction::Open { makes: due, wakes };
        Some(state)
    }

    fn commit(&self, mut state: State, row: usize) -> Option<State> {
        let row = &mut state.rows[row];
        let Transaction::Open { makes, wakes } = row.transaction else { return None };
        if wakes == Wakes::HoldsLock && self.mutation == Some(Mutation::UnlockBeforeCommit) {
            row.transaction = Transaction::Open { makes, wakes: Wakes::No };
            return Some(state);
        }
        row.due = makes;
        row.transaction = Transaction::Committed { wakes };
        Some(state)
    }

    fn roll_back(&self, mut state: State, row: usize) -> Option<State> {
        matches!(state.rows[row].transaction, Transaction::Open { .. }).then(|| {
            state.rows[row].transaction = Transaction::None;
            state
        })
    }

    /// After the commit: the notification is delivered, or the lock released.
    fn end(&self, mut state: State, row: usize) -> Option<State> {
        let Transaction::Committed { wakes } = state.rows[row].transaction else { return None };
        state.rows[row].transaction = Transaction::None;
        if wakes == Wakes::Notifies && self.mutation != Some(Mutation::NotifyBeforeCommit) {
            state.notify();
        }
        Some(state)
    }

    fn due_time_comes(&self, mut state: State, row: usize) -> Option<State> {
        (state.rows[row].due == Due::Later).then(|| {
            state.rows[row].due = Due::Now;
            for relay in &mut state.relays {
                relay.soon |= std::mem::take(&mut relay.knows[row]);
            }
            state
        })
    }

    fn hold(&self, mut state: State, row: usize) -> Option<State> {
        let Row { due, is_held, transaction } = state.rows[row];
        (due == Due::Now && !is_held && transaction == Transaction::None).then(|| {
            state.rows[row].is_held = true;
            state
        })
    }

    fn let_go(&self, mut state: State, row: usize) -> Option<State> {
        state.rows[row].is_held.then(|| {
            state.rows[row].is_held = false;
            state
        })
    }
}

/// Faults.
impl WakeUp {
    fn die(&self, mut state: State, relay: usize) -> Option<State> {
        if state.relays[relay].at == At::Dead || state.deaths == self.deaths {
            return None;
        }
        state.deaths += 1;
        state.lock_is_orphaned |= state.relays[relay].holds_lock;
        state.relays[relay] = Relay { at: At::Dead, ..Relay::STARTED };
        Some(state)
    }

    fn connection_is_cut(&self, mut state: State, relay: usize) -> Option<State> {
        let Relay { at, is_cut, holds_lock, .. } = state.relays[relay];
        if at == At::Dead || is_cut || state.cuts == self.cuts {
            return None;
        }
        state.cuts += 1;
        state.lock_is_orphaned |= holds_lock;
        state.relays[relay].holds_lock = false;
        state.relays[relay].is_cut = true;
        Some(state)
    }

    fn notice_the_cut(&self, mut state: State, relay: usize) -> Option<State> {
        state.relays[relay].is_cut.then(|| {
            let relay = &mut state.relays[relay];
            *relay = Relay { is_cut: false, posture: Posture::Up, heard: true, ..*relay };
            state
        })
    }

    fn server_ends_the_session(&self, mut state: State) -> Option<State> {
        std::mem::replace(&mut state.lock_is_orphaned, false).then_some(state)
    }
}

impl State {
    /// Somebody holds the lock exclusively.
    fn a_relay_sleeps(&self) -> bool {
        self.lock_is_orphaned || self.relays.iter().any(|relay| relay.holds_lock)
    }

    fn notify(&mut self) {
        for relay in self.relays.iter_mut().filter(|relay| relay.at != At::Dead && !relay.is_cut) {
            relay.heard = true;
        }
    }
}

impl Relay {
    const STARTED: Relay = Relay {
        at: At::Look,
        posture: Posture::Up,
        holds_lock: false,
        heard: false,
        knows: [false; 2],
        soon: false,
        is_cut: false,
    };

    fn wake(&mut self) {
        // Only the lock outlives the wait.
        let posture = if self.posture == Posture::Asleep { Posture::Asleep } else { Posture::Up };
        *self = Relay { at: At::Look, posture, heard: false, soon: false, knows: [false; 2], ..*self };
    }
}

impl Row {
    /// Whether a claim would skip it.
    fn is_locked(&self) -> bool {
        self.is_held || matches!(self.transaction, Transaction::Open { .. })
    }

    /// Whether its transaction holds the wake-up lock.
    fn is_in_flight(&self) -> bool {
        matches!(
            self.transaction,
            Transaction::Open { wakes: Wakes::HoldsLock, .. } | Transaction::Committed { wakes: Wakes::HoldsLock }
        )
    }
}

/// Two rows. Nobody dies, and nothing may wait for the poll interval.
const CALM: WakeUp = WakeUp { rows: 2, deaths: 0, cuts: 0, polls: false, mutation: None };

/// Two rows. One of two relays dies, and still nothing may wait for the poll interval.
const A_DEATH: WakeUp = WakeUp { deaths: 1, ..CALM };

/// One row. One relay dies, and the other may hear nothing any more.
const A_DEATH_AND_A_CUT: WakeUp = WakeUp { rows: 1, cuts: 1, polls: true, ..A_DEATH };

/// One row is enough to see what is wrong.
const BRIEF: WakeUp = WakeUp { rows: 1, ..CALM };
const BRIEF_DEATH: WakeUp = WakeUp { rows: 1, ..A_DEATH };

/// What each mutation breaks, and where.
const MUTATIONS: [(Mutation, Property, WakeUp); 11] = [
    (Mutation::LastLookBeforeTheLock, Property::NoneIsMissed, BRIEF),
    (Mutation::UnlockBeforeCommit, Property::NoneIsMissed, BRIEF),
    (Mutation::NotifyBeforeCommit, Property::NoneIsMissed, BRIEF),
    (Mutation::LaterRowsDoNotWake, Property::NoneIsMissed, BRIEF),
    (Mutation::EarlierRowsDoNotWake, Property::NoneIsMissed, BRIEF),
    (Mutation::NextDueIsNotAsked, Property::NoneIsMissed, BRIEF),
    (Mutation::HeldRowsAreNotLookedAtAgain, Property::NoneIsMissed, BRIEF),
    (Mutation::HeardWhileAwakeIsForgotten, Property::NoneIsMissed, BRIEF),
    (Mutation::InFlightIsTakenForARelay, Property::NoneIsMissed, BRIEF),
    (Mutation::BesideNeverLooks, Property::CanComplete, BRIEF_DEATH),
    (Mutation::SleepWithoutLimit, Property::CanComplete, A_DEATH_AND_A_CUT),
];

#[test]
fn no_wake_up_is_missed_while_no_relay_dies() {
    assert_holds("sleep", &CALM);
}

#[test]
fn a_relay_that_sleeps_beside_one_that_dies_takes_its_place() {
    assert_holds("sleep, a death", &A_DEATH);
}

#[test]
fn no_relay_sleeps_beyond_the_poll_interval_while_a_row_is_due() {
    assert_holds("sleep, a death and a cut", &A_DEATH_AND_A_CUT);
}

#[test]
fn every_mutation_is_noticed() {
    for (mutation, property, wake_up) in MUTATIONS {
        assert_breaks(&WakeUp { mutation: Some(mutation), ..wake_up }, mutation, property);
    }
}
