//! One row on its way through relays and consumers.
//!
//! Free, as often as they come: hint leases that run out; hints that are lost, late or doubled; a queue that loses
//! everything; relays that die; consumers that stop with nothing begun, or are late before they send; a robot that
//! refuses, throttles, is paused or busy with others; cancellations and other times. Counted are replays and faults:
//! consumers that die with the row in hand, or whose lease ends while they send or record; answers that do not come;
//! sends that are abandoned.
//!
//! Attempts are only ever compared, so a consumer knows whether its own is still the row's, and takes need no bound.
//! Of one row there is nothing to say of lanes, of batches, and of suspects that are taken alone.
//!
//! Relays are alike, and so are consumers: between two steps of a trace they may swap their numbers.

use crate::explore::{Model, assert_breaks, assert_holds};

/// Retries of the event.
const MAX_RETRY: u8 = 1;

/// Lost leases at which a row is held to kill its consumers.
const LOST_LEASES: u8 = 2;

/// Hints that fit into the queue, where they are counted.
const STREAM_MAX_LEN: usize = 2;

/// One event, its bounds, and what is wrong with the protocol.
#[derive(Clone, Copy, Debug)]
struct Protocol {
    delivery: Delivery,
    relays: usize,
    consumers: usize,
    /// Most faults in one history.
    faults: u8,
    /// Most replays in one history.
    replays: u8,
    /// Robots that the event's target may name in turn.
    robots: u8,
    hints: Hints,
    mutation: Option<Mutation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    AtLeastOnce,
    AtMostOnce,
}

/// What is assumed of hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hints {
    /// Nothing: any may be lost, late or doubled, and every lease may run out at any time.
    Unreliable,
    /// A loss is noticed and relays live: then nothing may depend on a hint lease that runs out.
    Reliable,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Property {
    /// From every state the row can still be completed, with no help from faults, people or chance.
    CanComplete,
    /// A generation rings a second time only after a fault, and once more for each.
    OncePerFault,
    /// Where the event asks for it, a generation never rings a second time.
    AtMostOnce,
    /// `delivered` only after a ring of that generation.
    DeliveredRang,
    /// `failed` and complete only after a dead letter of that generation.
    FailedHasLetter,
    /// No two consumers send one generation while both their leases run.
    OneSender,
    /// All rings of a generation carry the same `msgUuid`, whatever the faults.
    SameKey,
    /// A row that rests for its robot is not taken.
    Rests,
    /// After a cancellation no further try of a send begins.
    Obeys,
}

/// What the tests break to see that the model notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutation {
    AckBeforeRecord,
    BusyHintIsAcked,
    RefusedHintKeepsItsLease,
    RecordKeepsTheHintLease,
    LossIsNotNoticed,
    TakeWithoutStatusCheck,
    TakeOfARestingRow,
    TakeOverAtMostOnce,
    AmbiguousIsRetriedAtMostOnce,
    AdmitWithoutHolding,
    UnparkOnlyWhenThePlaceComesFree,
    UnparkKeepsResting,
    SendWithoutALease,
    FurtherTryWithoutHolding,
    RecordWithoutAttempt,
    RecordWithoutGeneration,
    FailedIsCompleteAtOnce,
    CompleteBeforeBury,
    BuriedWithoutGeneration,
    ReplayKeepsTheGeneration,
    RobotIsChosenAnew,
    UnknownOutcomeIsForgotten,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct State {
    row: Row,
    relays: [Relay; 2],
    consumers: [Consumer; 2],
    /// Hints that somebody can receive.
    hints: u8,
    /// The queue lost what it had, and that is noticed.
    hints_lost: bool,
    /// Matters only while the row rests.
    robot: Robot,
    /// The robot that the event's target names now.
    target: u8,
    faults: u8,
    /// What rang of each generation; of an earlier one, as long as somebody may still send it.
    rings: [Rings; 2],
    /// Rings beyond the first of their generation.
    extra_rings: u8,
    /// The row's generation has a dead letter.
    has_letter: bool,
    /// What only the step shows that breaks it.
    broken: Option<Property>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
struct Rings {
    any: bool,
    /// One bit for each robot.
    robots: u8,
}

/// The columns of the protocol; what a complete row still says, but nobody reads, is left out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Row {
    status: Status,
    is_complete: bool,
    scheduled: Scheduled,
    hinted: Hinted,
    sending: Lease,
    lost_leases: u8,
    retry_count: u8,
    replay_count: u8,
    robot: Option<u8>,
    /// A send of this generation may have rung, so every later one must carry the same key. Kept only where keys differ.
    is_unknown: bool,
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
enum Scheduled {
    Now,
    Later,
}

/// `hinted_until` and `waiting_since`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Hinted {
    No,
    Leased,
    /// Parked: until infinity.
    Rests,
    /// Parked, and due since its robot has a place.
    Unparked,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Lease {
    No,
    Runs,
    Out,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Relay {
    Idle,
    Claimed,
    ClaimedDead { replay_count: u8 },
    Buried { replay_count: u8 },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Consumer {
    at: At,
    /// Its entry is still in the queue, and comes back should it die.
    has_hint: bool,
    replay_count: u8,
    /// Its attempt is the row's.
    is_current: bool,
    /// Its send lease runs by its own clock.
    lease_runs: bool,
    robot: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum At {
    Idle,
    Taken,
    Admitted,
    Sending,
    /// A try ended before anything left this machine.
    Further,
    Answered(Outcome),
    Recorded,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Outcome {
    Delivered,
    Failed,
    Retry {
        is_unknown: bool,
    },
    Wait,
    /// In the middle of a send: it may have rung.
    Released,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Robot {
    HasPlaces,
    /// Its budget is used up, it cools down, or it is paused.
    Rests,
}

/// What comes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Success,
    NotSent,
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
    Claim(usize),
    Hint(usize),
    /// The hint was refused.
    GiveBack(usize),
    Bury(usize),
    CompleteDeadLetter(usize),
    Unpark,
    ReleaseHints,
    Take(usize),
    Admit(usize),
    Park(usize),
    Send(usize),
    Withhold(usize),
    Answer(usize, Answer),
    Holds(usize),
    Record(usize),
    Ack(usize),
    HintLeaseRunsOut,
    /// Whoever took the row is gone.
    SendLeaseRunsOut,
    ScheduledTimeComes,
    /// Or the robot's cool-down ends, or it is resumed.
    PlaceComesFree,
    /// Others use the budget up, or have the robot paused.
    NoPlaceIsLeft,
    /// Its lease ends before it sends.
    Late(usize),
    RelayDies(usize),
    /// A consumer stops with a hint whose row it has not taken.
    GiveBackReceived,
    /// It dies with nothing left to do but to acknowledge.
    DiesBeforeAck(usize),
    HintComesAnew,
    HintIsLost,
    QueueIsLost,
    Cancel,
    Replay,
    Reschedule(Scheduled),
    Retarget,
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

impl Model for Protocol {
    type State = State;
    type Step = Step;
    type Property = Property;

    const CAN_COMPLETE: Property = Property::CanComplete;

    fn start(&self) -> State {
        State {
            row: Row {
                status: Status::Pending,
                is_complete: false,
                scheduled: Scheduled::Now,
                hinted: Hinted::No,
                sending: Lease::No,
                lost_leases: 0,
                retry_count: 0,
                replay_count: 0,
                robot: None,
                is_unknown: false,
            },
            relays: [Relay::Idle; 2],
            consumers: [Consumer::IDLE; 2],
            hints: 0,
            hints_lost: false,
            robot: Robot::HasPlaces,
            target: 0,
            faults: 0,
            rings: [Rings::default(); 2],
            extra_rings: 0,
            has_letter: false,
            broken: None,
        }
    }

    fn steps(&self, state: &State, found: &mut Vec<(Step, State)>) {
        let mut add = |step, next: Option<State>| found.extend(next.map(|next| (step, self.normal(next))));
        for relay in 0..self.relays {
            add(Step::Claim(relay), self.claim(*state, relay));
            add(Step::Hint(relay), self.hint(*state, relay));
            add(Step::GiveBack(relay), self.give_back(*state, relay));
            add(Step::Bury(relay), self.bury(*state, relay));
            add(Step::CompleteDeadLetter(relay), self.complete_dead_letter(*state, relay));
            add(Step::RelayDies(relay), self.relay_dies(*state, relay));
        }
        add(Step::Unpark, self.unpark(*state));
        add(Step::ReleaseHints, self.release_hints(*state));
        for consumer in 0..self.consumers {
            add(Step::Take(consumer), self.take(*state, consumer));
            add(Step::Admit(consumer), self.admit(*state, consumer));
            add(Step::Park(consumer), self.park(*state, consumer));
            add(Step::Send(consumer), self.send(*state, consumer));
            add(Step::Withhold(consumer), self.withhold(*state, consumer));
            for answer in [
                Answer::Success,
                Answer::NotSent,
                Answer::Transient,
                Answer::Message,
                Answer::Throttled,
                Answer::Ambiguous { rings: false },
                Answer::Ambiguous { rings: true },
            ] {
                add(Step::Answer(consumer, answer), self.answer(*state, consumer, answer));
            }
            add(Step::Holds(consumer), self.holds(*state, consumer));
            add(Step::Record(consumer), self.record(*state, consumer));
            add(Step::Ack(consumer), self.ack(*state, consumer));
            add(Step::Late(consumer), self.late(*state, consumer));
            add(Step::DiesBeforeAck(consumer), self.dies_before_ack(*state, consumer));
            add(Step::Slow(consumer), self.slow(*state, consumer));
            for rings in [false, true] {
                add(Step::Crash { consumer, rings }, self.crash(*state, consumer, rings));
                add(Step::Abandon { consumer, rings }, self.abandon(*state, consumer, rings));
            }
        }
        add(Step::HintLeaseRunsOut, self.hint_lease_runs_out(*state));
        add(Step::SendLeaseRunsOut, self.send_lease_runs_out(*state));
        add(Step::ScheduledTimeComes, self.scheduled_time_comes(*state));
        add(Step::PlaceComesFree, self.becomes(*state, Robot::Rests, Robot::HasPlaces));
        add(Step::NoPlaceIsLeft, self.becomes(*state, Robot::HasPlaces, Robot::Rests));
        add(Step::HintComesAnew, self.hint_comes_anew(*state));
        add(Step::GiveBackReceived, self.give_back_received(*state));
        add(Step::HintIsLost, self.hint_is_lost(*state));
        add(Step::QueueIsLost, self.queue_is_lost(*state));
        add(Step::Cancel, self.cancel(*state));
        add(Step::Replay, self.replay(*state));
        for scheduled in [Scheduled::Now, Scheduled::Later] {
            add(Step::Reschedule(scheduled), self.reschedule(*state, scheduled));
        }
        add(Step::Retarget, self.retarget(*state));
    }

    fn broken(&self, state: &State) -> Option<Property> {
        let State { row, rings, .. } = state;
        let has_rung = rings[usize::from(row.replay_count)].any;
        if state.broken.is_some() {
            state.broken
        } else if rings.iter().any(|rings| rings.robots == 0b11) {
            Some(Property::SameKey)
        } else if self.delivery == Delivery::AtMostOnce && state.extra_rings > 0 {
            Some(Property::AtMostOnce)
        } else if state.extra_rings > state.faults {
            Some(Property::OncePerFault)
        } else if row.status == Status::Delivered && !has_rung {
            Some(Property::DeliveredRang)
        } else if row.status == Status::Failed && row.is_complete && !state.has_letter {
            Some(Property::FailedHasLetter)
        } else {
            None
        }
    }

    fn is_complete(&self, state: &State) -> bool {
        state.row.is_complete
    }

    fn helps(&self, step: Step) -> bool {
        match step {
            Step::Claim(_)
            | Step::Hint(_)
            | Step::Bury(_)
            | Step::CompleteDeadLetter(_)
            | Step::Unpark
            | Step::ReleaseHints
            | Step::Take(_)
            | Step::Admit(_)
            | Step::Send(_)
            | Step::Withhold(_)
            | Step::Answer(_, Answer::Success)
            | Step::Holds(_)
            | Step::Record(_)
            | Step::Ack(_)
            | Step::HintLeaseRunsOut
            | Step::SendLeaseRunsOut
            | Step::ScheduledTimeComes
            | Step::PlaceComesFree => true,
            Step::GiveBack(_)
            | Step::GiveBackReceived
            | Step::Answer(..)
            | Step::Park(_)
            | Step::NoPlaceIsLeft
            | Step::Late(_)
            | Step::RelayDies(_)
            | Step::DiesBeforeAck(_)
            | Step::HintComesAnew
            | Step::HintIsLost
            | Step::QueueIsLost
            | Step::Cancel
            | Step::Replay
            | Step::Reschedule(_)
            | Step::Retarget
            | Step::Slow(_)
            | Step::Crash { .. }
            | Step::Abandon { .. } => false,
        }
    }
}

/// The relay.
impl Protocol {
    fn claim(&self, mut state: State, relay: usize) -> Option<State> {
        let in_hand = state.consumers.iter().filter(|consumer| consumer.has_hint).count();
        let has_room = self.hints == Hints::Unreliable || usize::from(state.hints) + in_hand < STREAM_MAX_LEN;
        let row = &mut state.row;
        if state.relays[relay] != Relay::Idle || row.is_complete || !matches!(row.hinted, Hinted::No | Hinted::Unparked)
        {
            return None;
        }
        if row.status == Status::Failed {
            if self.mutation == Some(Mutation::CompleteBeforeBury) {
                row.complete(Status::Failed);
                return Some(state);
            }
            state.relays[relay] = Relay::ClaimedDead { replay_count: row.replay_count };
        } else if row.scheduled == Scheduled::Now && row.sending != Lease::Runs && has_room {
            state.relays[relay] = Relay::Claimed;
        } else {
            return None;
        }
        row.hinted = Hinted::Leased;
        Some(state)
    }

    fn hint(&self, mut state: State, relay: usize) -> Option<State> {
        (state.relays[relay] == Relay::Claimed).then(|| {
            state.relays[relay] = Relay::Idle;
            self.put(&mut state);
            state
        })
    }

    fn give_back(&self, mut state: State, relay: usize) -> Option<State> {
        (state.relays[relay] == Relay::Claimed).then(|| {
            state.relays[relay] = Relay::Idle;
            if self.mutation != Some(Mutation::RefusedHintKeepsItsLease) {
                state.row.give_back();
            }
            state
        })
    }

    fn bury(&self, mut state: State, relay: usize) -> Option<State> {
        let Relay::ClaimedDead { replay_count } = state.relays[relay] else { return None };
        state.relays[relay] = Relay::Buried { replay_count };
        state.has_letter |= replay_count == state.row.replay_count;
        Some(state)
    }

    fn complete_dead_letter(&self, mut state: State, relay: usize) -> Option<State> {
        let Relay::Buried { replay_count } = state.relays[relay] else { return None };
        state.relays[relay] = Relay::Idle;
        let row = &mut state.row;
        let same = row.replay_count == replay_count || self.mutation == Some(Mutation::BuriedWithoutGeneration);
        if row.status == Status::Failed && same {
            row.complete(Status::Failed);
        }
        Some(state)
    }

    fn relay_dies(&self, mut state: State, relay: usize) -> Option<State> {
        if self.hints == Hints::Reliable || state.relays[relay] == Relay::Idle {
            return None;
        }
        state.relays[relay] = Relay::Idle;
        Some(state)
    }

    fn unpark(&self, mut state: State) -> Option<State> {
        if self.mutation == Some(Mutation::UnparkOnlyWhenThePlaceComesFree)
            || state.robot != Robot::HasPlaces
            || state.row.hinted != Hinted::Rests
        {
            return None;
        }
        if self.mutation != Some(Mutation::UnparkKeepsResting) {
            state.row.hinted = Hinted::Unparked;
        }
        Some(state)
    }

    fn release_hints(&self, mut state: State) -> Option<State> {
        if !state.hints_lost || self.mutation == Some(Mutation::LossIsNotNoticed) {
            return None;
        }
        state.hints_lost = false;
        if state.row.hinted == Hinted::Leased && state.row.status != Status::Failed {
            state.row.hinted = Hinted::No;
        }
        Some(state)
    }
}

/// The consumer.
impl Protocol {
    fn take(&self, mut state: State, consumer: usize) -> Option<State> {
        // Receiving is no step of its own: a hint in a hand that has not taken is as good as in the queue.
        if state.consumers[consumer].at != At::Idle || state.hints == 0 {
            return None;
        }
        state.hints -= 1;
        state.consumers[consumer].has_hint = self.hints == Hints::Reliable;
        let rests = state.row.hinted == Hinted::Rests;
        let row = &mut state.row;
        let is_due = !row.is_complete
            && row.status != Status::Failed
            && row.scheduled == Scheduled::Now
            && (!rests || self.mutation == Some(Mutation::TakeOfARestingRow));
        if !is_due {
            self.recorded(&mut state, consumer);
            return Some(state);
        }
        if row.sending == Lease::Runs && self.mutation != Some(Mutation::TakeWithoutStatusCheck) {
            // Busy: its hint stays pending, and comes back to somebody.
            match self.mutation {
                Some(Mutation::BusyHintIsAcked) => self.recorded(&mut state, consumer),
                _ => self.end(&mut state, consumer),
            }
            return Some(state);
        }
        let is_take_over = row.status == Status::Delivering;
        row.lost_leases += u8::from(is_take_over);
        let at_most_once = self.delivery == Delivery::AtMostOnce && self.mutation != Some(Mutation::TakeOverAtMostOnce);
        if is_take_over && (at_most_once || row.lost_leases >= LOST_LEASES) {
            row.fail();
            self.recorded(&mut state, consumer);
            return Some(state);
        }
        row.status = Status::Delivering;
        row.sending = Lease::Runs;
        row.is_unknown |= is_take_over && self.robots > 1;
        state.broken = rests.then_some(Property::Rests);
        let replay_count = state.row.replay_count;
        for other in &mut state.consumers {
            other.is_current = false;
        }
        let consumer = &mut state.consumers[consumer];
        *consumer = Consumer { at: At::Taken, replay_count, is_current: true, lease_runs: true, ..*consumer };
        Some(state)
    }

    fn admit(&self, mut state: State, consumer: usize) -> Option<State> {
        if state.consumers[consumer].at != At::Taken {
            return None;
        }
        if !state.is_held_by(consumer) && self.mutation != Some(Mutation::AdmitWithoutHolding) {
            self.recorded(&mut state, consumer);
            return Some(state);
        }
        let row = &mut state.row;
        let stays = row.is_unknown && self.mutation != Some(Mutation::RobotIsChosenAnew);
        let robot = row.robot.filter(|_| stays).unwrap_or(state.target);
        // Kept only where something depends on it.
        row.robot = (self.robots > 1).then_some(robot);
        state.consumers[consumer].at = At::Admitted;
        state.consumers[consumer].robot = robot;
        Some(state)
    }

    /// The other answer of the same statement; a robot that has a place at one moment may have none at the next.
    fn park(&self, mut state: State, consumer: usize) -> Option<State> {
        let holds = match self.mutation {
            Some(Mutation::AdmitWithoutHolding) => state.row.status == Status::Delivering,
            _ => state.is_held_by(consumer),
        };
        if state.consumers[consumer].at != At::Taken || !holds {
            return None;
        }
        state.row.park();
        self.recorded(&mut state, consumer);
        Some(state)
    }

    fn send(&self, mut state: State, consumer: usize) -> Option<State> {
        let Consumer { at, lease_runs, .. } = state.consumers[consumer];
        if at != At::Admitted || !(lease_runs || self.mutation == Some(Mutation::SendWithoutALease)) {
            return None;
        }
        state.begin(consumer);
        Some(state)
    }

    fn withhold(&self, mut state: State, consumer: usize) -> Option<State> {
        if !matches!(state.consumers[consumer].at, At::Admitted | At::Further) || state.consumers[consumer].lease_runs {
            return None;
        }
        state.answered(consumer, Outcome::Wait);
        Some(state)
    }

    /// Before a further try: is the row still this consumer's?
    fn holds(&self, mut state: State, consumer: usize) -> Option<State> {
        if state.consumers[consumer].at != At::Further || !state.consumers[consumer].lease_runs {
            return None;
        }
        let holds = state.is_held_by(consumer);
        if holds || self.mutation == Some(Mutation::FurtherTryWithoutHolding) {
            state.broken = (!holds).then_some(Property::Obeys);
            state.begin(consumer);
        } else {
            state.answered(consumer, Outcome::Wait);
        }
        Some(state)
    }

    fn answer(&self, mut state: State, consumer: usize, answer: Answer) -> Option<State> {
        if state.consumers[consumer].at != At::Sending {
            return None;
        }
        let retry = |is_unknown| match state.row.retry_count {
            MAX_RETRY.. => Outcome::Failed,
            _ => Outcome::Retry { is_unknown },
        };
        let outcome = match answer {
            Answer::Success => {
                state.ring(consumer);
                Outcome::Delivered
            }
            Answer::NotSent => {
                state.consumers[consumer].at = At::Further;
                return Some(state);
            }
            Answer::Transient => retry(false),
            Answer::Message => Outcome::Failed,
            Answer::Throttled => Outcome::Wait,
            Answer::Ambiguous { rings } => {
                let outcome = match self.delivery {
                    Delivery::AtMostOnce if self.mutation != Some(Mutation::AmbiguousIsRetriedAtMostOnce) => {
                        Outcome::Failed
                    }
                    _ => retry(self.robots > 1),
                };
                self.fault(&mut state)?;
                if rings {
                    state.ring(consumer);
                }
                outcome
            }
        };
        state.answered(consumer, outcome);
        if self.mutation == Some(Mutation::AckBeforeRecord) {
            state.consumers[consumer].has_hint = false;
        }
        Some(state)
    }

    fn record(&self, mut state: State, consumer: usize) -> Option<State> {
        let At::Answered(outcome) = state.consumers[consumer].at else { return None };
        let Consumer { replay_count, is_current, .. } = state.consumers[consumer];
        let row = &state.row;
        let same = row.replay_count == replay_count || self.mutation == Some(Mutation::RecordWithoutGeneration);
        let counts = match outcome {
            Outcome::Delivered => !row.is_complete || row.status == Status::Cancelled,
            _ => {
                row.status == Status::Delivering
                    && (is_current || self.mutation == Some(Mutation::RecordWithoutAttempt))
            }
        };
        self.recorded(&mut state, consumer);
        if !(same && counts) {
            return Some(state);
        }
        let row = &mut state.row;
        if outcome == Outcome::Delivered {
            row.complete(Status::Delivered);
            return Some(state);
        }
        let hinted = match self.mutation {
            Some(Mutation::RecordKeepsTheHintLease) => row.hinted,
            _ => Hinted::No,
        };
        row.status = Status::Pending;
        row.sending = Lease::No;
        match outcome {
            Outcome::Delivered | Outcome::Failed => {
                row.fail();
                if self.mutation == Some(Mutation::FailedIsCompleteAtOnce) {
                    row.complete(Status::Failed);
                }
                return Some(state);
            }
            Outcome::Retry { .. } => {
                row.retry_count += 1;
                row.scheduled = Scheduled::Later;
                row.hinted = hinted;
            }
            Outcome::Wait => row.park(),
            Outcome::Released => row.hinted = hinted,
        }
        if outcome != Outcome::Released {
            row.lost_leases = 0;
        }
        let is_unknown = self.robots > 1 && matches!(outcome, Outcome::Retry { is_unknown: true } | Outcome::Released);
        // What is unknown stays so for the generation: a later send that certainly did not ring says nothing of this one.
        row.is_unknown = is_unknown || row.is_unknown && self.mutation != Some(Mutation::UnknownOutcomeIsForgotten);
        Some(state)
    }

    fn ack(&self, mut state: State, consumer: usize) -> Option<State> {
        (state.consumers[consumer].at == At::Recorded).then(|| {
            state.consumers[consumer] = Consumer::IDLE;
            state
        })
    }
}

/// Time and chance.
impl Protocol {
    fn hint_lease_runs_out(&self, mut state: State) -> Option<State> {
        if state.row.hinted != Hinted::Leased || self.hints == Hints::Reliable {
            return None;
        }
        state.row.hinted = Hinted::No;
        Some(state)
    }

    fn send_lease_runs_out(&self, mut state: State) -> Option<State> {
        let is_held = |consumer: &Consumer| consumer.is_current && consumer.has_taken();
        if state.row.sending != Lease::Runs || state.consumers.iter().any(is_held) {
            return None;
        }
        state.row.sending = Lease::Out;
        Some(state)
    }

    fn late(&self, mut state: State, consumer: usize) -> Option<State> {
        if !matches!(state.consumers[consumer].at, At::Taken | At::Admitted | At::Further) {
            return None;
        }
        state.lease_ends(consumer).then_some(state)
    }

    fn slow(&self, mut state: State, consumer: usize) -> Option<State> {
        if !matches!(state.consumers[consumer].at, At::Sending | At::Answered(_)) {
            return None;
        }
        self.fault(&mut state)?;
        state.lease_ends(consumer).then_some(state)
    }

    fn scheduled_time_comes(&self, mut state: State) -> Option<State> {
        (state.row.scheduled == Scheduled::Later).then(|| {
            state.row.scheduled = Scheduled::Now;
            state
        })
    }

    fn becomes(&self, mut state: State, from: Robot, to: Robot) -> Option<State> {
        if state.row.hinted != Hinted::Rests || state.robot != from {
            return None;
        }
        state.robot = to;
        let unparks = self.mutation == Some(Mutation::UnparkOnlyWhenThePlaceComesFree) && to == Robot::HasPlaces;
        if unparks {
            state.row.hinted = Hinted::Unparked;
        }
        Some(state)
    }

    fn give_back_received(&self, mut state: State) -> Option<State> {
        (state.hints > 0).then(|| {
            state.hints -= 1;
            state.row.give_back();
            state
        })
    }

    fn dies_before_ack(&self, mut state: State, consumer: usize) -> Option<State> {
        (state.consumers[consumer].at == At::Recorded).then(|| {
            self.end(&mut state, consumer);
            state
        })
    }

    fn hint_comes_anew(&self, mut state: State) -> Option<State> {
        (self.hints == Hints::Unreliable && state.hints == 0).then(|| {
            state.hints = 1;
            state
        })
    }

    fn hint_is_lost(&self, mut state: State) -> Option<State> {
        (self.hints == Hints::Unreliable && state.hints > 0).then(|| {
            state.hints = 0;
            state
        })
    }

    fn queue_is_lost(&self, mut state: State) -> Option<State> {
        if self.hints == Hints::Unreliable {
            return None;
        }
        state.hints = 0;
        state.hints_lost = true;
        for consumer in &mut state.consumers {
            consumer.has_hint = false;
        }
        Some(state)
    }

    /// One hint more. Where hints come and go as they like, two say no more than one.
    fn put(&self, state: &mut State) {
        state.hints = match self.hints {
            Hints::Unreliable => 1,
            Hints::Reliable => state.hints + 1,
        };
    }

    /// Nothing is left but the acknowledgement, which matters only where hints are reliable.
    fn recorded(&self, state: &mut State, consumer: usize) {
        let has_hint = state.consumers[consumer].has_hint;
        state.consumers[consumer] = match self.hints {
            Hints::Unreliable => Consumer::IDLE,
            Hints::Reliable => Consumer { at: At::Recorded, has_hint, ..Consumer::IDLE },
        };
    }

    /// A consumer has nothing in hand any more, and its hint is somebody's again.
    fn end(&self, state: &mut State, consumer: usize) {
        if state.consumers[consumer].has_hint {
            self.put(state);
        }
        state.consumers[consumer] = Consumer::IDLE;
    }
}

/// People.
impl Protocol {
    fn cancel(&self, mut state: State) -> Option<State> {
        matches!(state.row.status, Status::Pending | Status::Delivering).then(|| {
            state.row.complete(Status::Cancelled);
            state
        })
    }

    fn replay(&self, mut state: State) -> Option<State> {
        let row = &mut state.row;
        if matches!(row.status, Status::Pending | Status::Delivering) || row.replay_count == self.replays {
            return None;
        }
        let replay_count = row.replay_count + u8::from(self.mutation != Some(Mutation::ReplayKeepsTheGeneration));
        *row = Row { replay_count, ..self.start().row };
        state.has_letter = false;
        Some(state)
    }

    fn reschedule(&self, mut state: State, scheduled: Scheduled) -> Option<State> {
        (state.row.status == Status::Pending).then(|| {
            state.row.scheduled = scheduled;
            state.row.hinted = Hinted::No;
            state
        })
    }

    fn retarget(&self, mut state: State) -> Option<State> {
        (self.robots > 1).then(|| {
            state.target = 1 - state.target;
            state
        })
    }
}

/// Faults.
impl Protocol {
    fn crash(&self, mut state: State, consumer: usize, rings: bool) -> Option<State> {
        if !state.consumers[consumer].has_taken() || rings && state.consumers[consumer].at != At::Sending {
            return None;
        }
        self.fault(&mut state)?;
        if rings {
            state.ring(consumer);
        }
        self.end(&mut state, consumer);
        Some(state)
    }

    /// The grace period is over, and the answer has not come.
    fn abandon(&self, mut state: State, consumer: usize, rings: bool) -> Option<State> {
        if state.consumers[consumer].at != At::Sending {
            return None;
        }
        self.fault(&mut state)?;
        if rings {
            state.ring(consumer);
        }
        state.answered(
            consumer,
            match self.delivery {
                Delivery::AtLeastOnce => Outcome::Released,
                Delivery::AtMostOnce => Outcome::Failed,
            },
        );
        Some(state)
    }

    fn fault(&self, state: &mut State) -> Option<()> {
        state.faults += 1;
        (state.faults <= self.faults).then_some(())
    }
}

/// What no step can tell apart is one state.
impl Protocol {
    fn normal(&self, mut state: State) -> State {
        for consumer in 0..self.consumers {
            let is_held = state.is_held_by(consumer);
            let is_stale = match state.consumers[consumer].at {
                At::Taken => !is_held && self.mutation != Some(Mutation::AdmitWithoutHolding),
                At::Answered(Outcome::Delivered) => {
                    state.consumers[consumer].replay_count != state.row.replay_count
                        && self.mutation != Some(Mutation::RecordWithoutGeneration)
                }
                At::Answered(_) => !is_held && self.mutation != Some(Mutation::RecordWithoutAttempt),
                _ => false,
            };
            if is_stale {
                self.recorded(&mut state, consumer);
            }
        }
        for (replay_count, rings) in (0..state.row.replay_count).zip(&mut state.rings) {
            if !state.consumers.iter().any(|consumer| consumer.has_taken() && consumer.replay_count == replay_count) {
                *rings = Rings::default();
            }
        }
        if state.row.hinted != Hinted::Rests {
            state.robot = Robot::HasPlaces;
        }
        state.relays[..self.relays].sort_unstable();
        state.consumers[..self.consumers].sort_unstable();
        state
    }
}

impl State {
    /// As `holds.sql` asks.
    fn is_held_by(&self, consumer: usize) -> bool {
        let Consumer { replay_count, is_current, .. } = self.consumers[consumer];
        self.row.status == Status::Delivering && is_current && replay_count == self.row.replay_count
    }

    fn begin(&mut self, consumer: usize) {
        let replay_count = self.consumers[consumer].replay_count;
        self.consumers[consumer].at = At::Sending;
        let sends =
            |other: &&Consumer| other.at == At::Sending && other.lease_runs && other.replay_count == replay_count;
        if self.consumers.iter().filter(sends).count() > 1 {
            self.broken = Some(Property::OneSender);
        }
    }

    fn ring(&mut self, consumer: usize) {
        let Consumer { replay_count, robot, .. } = self.consumers[consumer];
        let rings = &mut self.rings[usize::from(replay_count)];
        self.extra_rings += u8::from(std::mem::replace(&mut rings.any, true));
        rings.robots |= 1 << robot;
    }

    fn answered(&mut self, consumer: usize, outcome: Outcome) {
        let consumer = &mut self.consumers[consumer];
        consumer.at = At::Answered(outcome);
        consumer.robot = 0;
        // Nobody asks its clock any more.
        consumer.lease_runs &= consumer.is_current;
    }

    fn lease_ends(&mut self, consumer: usize) -> bool {
        let is_held = self.is_held_by(consumer);
        let consumer = &mut self.consumers[consumer];
        if is_held {
            self.row.sending = Lease::Out;
        }
        std::mem::replace(&mut consumer.lease_runs, false)
    }
}

impl Row {
    fn complete(&mut self, status: Status) {
        *self = Row {
            status,
            is_complete: true,
            scheduled: Scheduled::Now,
            hinted: Hinted::No,
            sending: Lease::No,
            lost_leases: 0,
            retry_count: 0,
            replay_count: self.replay_count,
            robot: None,
            is_unknown: false,
        };
    }

    /// It owes a dead letter.
    fn fail(&mut self) {
        self.complete(Status::Failed);
        self.is_complete = false;
    }

    fn park(&mut self) {
        self.status = Status::Pending;
        self.sending = Lease::No;
        self.hinted = Hinted::Rests;
    }

    fn give_back(&mut self) {
        if !self.is_complete && !matches!(self.hinted, Hinted::Rests | Hinted::Unparked) {
            self.hinted = Hinted::No;
        }
    }
}

impl Consumer {
    const IDLE: Consumer =
        Consumer { at: At::Idle, has_hint: false, replay_count: 0, is_current: false, lease_runs: false, robot: 0 };

    fn has_taken(&self) -> bool {
        matches!(self.at, At::Taken | At::Admitted | At::Sending | At::Further | At::Answered(_))
    }
}

/// Two relays, two consumers, two faults, a replay.
const EVENT: Protocol = Protocol {
    delivery: Delivery::AtLeastOnce,
    relays: 2,
    consumers: 2,
    faults: 2,
    replays: 1,
    robots: 1,
    hints: Hints::Unreliable,
    mutation: None,
};

const AT_MOST_ONCE: Protocol = Protocol { delivery: Delivery::AtMostOnce, ..EVENT };

/// One relay, two faults, no replay.
const RELIABLE_HINTS: Protocol = Protocol { relays: 1, replays: 0, hints: Hints::Reliable, ..EVENT };

/// One relay, two faults, no replay.
const TWO_ROBOTS: Protocol = Protocol { relays: 1, replays: 0, robots: 2, ..EVENT };

/// One fault, and mostly no replay, are enough to see what is wrong.
const BRIEF: Protocol = Protocol { relays: 1, faults: 1, replays: 0, ..EVENT };
const BRIEF_RELIABLE: Protocol = Protocol { hints: Hints::Reliable, ..BRIEF };
const BRIEF_AT_MOST_ONCE: Protocol = Protocol { delivery: Delivery::AtMostOnce, ..BRIEF };
const BRIEF_REPLAY: Protocol = Protocol { replays: 1, ..BRIEF };
const BRIEF_TWO_ROBOTS: Protocol = Protocol { robots: 2, ..BRIEF };

/// What each mutation breaks, and where.
const MUTATIONS: [(Mutation, Property, Protocol); 22] = [
    (Mutation::AckBeforeRecord, Property::CanComplete, BRIEF_RELIABLE),
    (Mutation::BusyHintIsAcked, Property::CanComplete, BRIEF_RELIABLE),
    (Mutation::RefusedHintKeepsItsLease, Property::CanComplete, BRIEF_RELIABLE),
    (Mutation::RecordKeepsTheHintLease, Property::CanComplete, BRIEF_RELIABLE),
    (Mutation::LossIsNotNoticed, Property::CanComplete, BRIEF_RELIABLE),
    (Mutation::TakeWithoutStatusCheck, Property::OneSender, BRIEF),
    (Mutation::TakeOfARestingRow, Property::Rests, BRIEF),
    (Mutation::TakeOverAtMostOnce, Property::AtMostOnce, BRIEF_AT_MOST_ONCE),
    (Mutation::AmbiguousIsRetriedAtMostOnce, Property::AtMostOnce, BRIEF_AT_MOST_ONCE),
    (Mutation::AdmitWithoutHolding, Property::OneSender, BRIEF),
    (Mutation::UnparkOnlyWhenThePlaceComesFree, Property::CanComplete, BRIEF),
    (Mutation::UnparkKeepsResting, Property::CanComplete, BRIEF),
    (Mutation::SendWithoutALease, Property::OncePerFault, BRIEF),
    (Mutation::FurtherTryWithoutHolding, Property::Obeys, BRIEF),
    (Mutation::RecordWithoutAttempt, Property::OneSender, BRIEF),
    (Mutation::RecordWithoutGeneration, Property::DeliveredRang, BRIEF_REPLAY),
    (Mutation::FailedIsCompleteAtOnce, Property::FailedHasLetter, BRIEF),
    (Mutation::CompleteBeforeBury, Property::FailedHasLetter, BRIEF),
    (Mutation::BuriedWithoutGeneration, Property::FailedHasLetter, BRIEF_REPLAY),
    (Mutation::ReplayKeepsTheGeneration, Property::OneSender, BRIEF_REPLAY),
    (Mutation::RobotIsChosenAnew, Property::SameKey, BRIEF_TWO_ROBOTS),
    (Mutation::UnknownOutcomeIsForgotten, Property::SameKey, BRIEF_TWO_ROBOTS),
];

#[test]
fn an_event_rings_once_and_can_always_complete() {
    assert_holds("an event", &EVENT);
}

#[test]
fn an_event_that_asks_for_at_most_once_never_rings_twice() {
    assert_holds("an event at most once", &AT_MOST_ONCE);
}

#[test]
fn nothing_waits_for_a_hint_lease_but_after_a_loss_that_nobody_noticed() {
    assert_holds("an event, reliable hints", &RELIABLE_HINTS);
}

#[test]
fn an_unknown_outcome_is_sent_again_with_the_same_key() {
    assert_holds("an event, two robots", &TWO_ROBOTS);
}

#[test]
fn every_mutation_is_noticed() {
    for (mutation, property, protocol) in MUTATIONS {
        assert_breaks(&Protocol { mutation: Some(mutation), ..protocol }, mutation, property);
    }
}
