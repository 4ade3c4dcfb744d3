//! Which fault comes when, to whom, and for how long: all of it from the seed, and none of it from what happens.

use std::collections::VecDeque;
use std::time::Duration;

use fastrand::Rng;

use crate::cluster::{MEMBERS, Part, SEND_LEASE};

/// What can go wrong, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Not of the schedule: what delivery takes without a fault.
    Nothing,
    KillRelay,
    KillConsumer,
    KillAll,
    PauseRelay,
    PauseConsumer,
    Restart,
    PostgresCrash,
    CutPostgres,
    StallPostgres,
    DelayPostgres,
    DiskFull,
    CutWriters,
    RedisKill,
    FlushAll,
    ScriptFlush,
    CutRedis,
    StallRedis,
    DelayRedis,
    RobotDrops,
    RobotHangs,
    RobotGateway,
    RobotBusy,
    TwoAtOnce,
    /// Not of the schedule: this machine gave nobody any time.
    Machine,
}

impl Kind {
    /// What a round of the schedule consists of, beside the faults that meet.
    const SINGLE: [Kind; 22] = [
        Kind::KillRelay,
        Kind::KillConsumer,
        Kind::KillAll,
        Kind::PauseRelay,
        Kind::PauseConsumer,
        Kind::Restart,
        Kind::PostgresCrash,
        Kind::CutPostgres,
        Kind::StallPostgres,
        Kind::DelayPostgres,
        Kind::DiskFull,
        Kind::CutWriters,
        Kind::RedisKill,
        Kind::FlushAll,
        Kind::ScriptFlush,
        Kind::CutRedis,
        Kind::StallRedis,
        Kind::DelayRedis,
        Kind::RobotDrops,
        Kind::RobotHangs,
        Kind::RobotGateway,
        Kind::RobotBusy,
    ];

    /// What lasts, so that something else can happen meanwhile.
    const LASTING: [Kind; 10] = [
        Kind::PauseRelay,
        Kind::PauseConsumer,
        Kind::PostgresCrash,
        Kind::StallPostgres,
        Kind::DelayPostgres,
        Kind::DiskFull,
        Kind::RedisKill,
        Kind::StallRedis,
        Kind::DelayRedis,
        Kind::RobotHangs,
    ];

    /// What can happen meanwhile.
    const SUDDEN: [Kind; 6] =
        [Kind::KillRelay, Kind::KillConsumer, Kind::KillAll, Kind::CutPostgres, Kind::CutRedis, Kind::CutWriters];

    /// What people call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Nothing => "(none, for comparison)",
            Kind::KillRelay => "SIGKILL a relay",
            Kind::KillConsumer => "SIGKILL a consumer",
            Kind::KillAll => "SIGKILL all",
            Kind::PauseRelay => "SIGSTOP a relay",
            Kind::PauseConsumer => "SIGSTOP a consumer past its lease",
            Kind::Restart => "SIGTERM and start again",
            Kind::PostgresCrash => "PostgreSQL immediate shutdown",
            Kind::CutPostgres => "PostgreSQL connections cut",
            Kind::StallPostgres => "PostgreSQL stalled",
            Kind::DelayPostgres => "PostgreSQL delayed",
            Kind::DiskFull => "PostgreSQL's disk full",
            Kind::CutWriters => "writers' connections cut",
            Kind::RedisKill => "Redis killed, all data lost",
            Kind::FlushAll => "FLUSHALL",
            Kind::ScriptFlush => "SCRIPT FLUSH",
            Kind::CutRedis => "Redis connections cut",
            Kind::StallRedis => "Redis stalled",
            Kind::DelayRedis => "Redis delayed",
            Kind::RobotDrops => "robot hangs up",
            Kind::RobotHangs => "robot does not answer",
            Kind::RobotGateway => "robot's gateway says 502",
            Kind::RobotBusy => "robot is busy (errcode -1)",
            Kind::TwoAtOnce => "two of these at once",
            Kind::Machine => "this machine stood still",
        }
    }
}

/// A fault that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) kind: Kind,
    /// The process it is about, by its place in [`MEMBERS`]; none: all of them, or none in particular.
    pub(crate) whom: Option<usize>,
    /// From its beginning to its end.
    pub(crate) lasts: Duration,
    /// A cut: new connections are refused as well. A stall: it ends with the connections. Whatever stops consumers: it
    /// comes when they have their hands full.
    pub(crate) harder: bool,
    /// How many requests a robot spoils, and whether it had taken them.
    pub(crate) requests: u32,
    pub(crate) accepted: bool,
}

impl Planned {
    /// The processes that it is about.
    pub(crate) fn members(&self) -> std::ops::Range<usize> {
        self.whom.map_or(0..MEMBERS.len(), |one| one..one + 1)
    }

    /// What it does to whom, for the progress line.
    pub(crate) fn describe(&self) -> String {
        let whom = match (self.kind, self.whom) {
            (_, Some(one)) => format!(" ({})", MEMBERS[one].0),
            (Kind::CutPostgres | Kind::StallPostgres | Kind::DelayPostgres, None)
            | (Kind::CutRedis | Kind::StallRedis | Kind::DelayRedis, None) => " (all)".to_owned(),
            _ => String::new(),
        };
        format!("{}{whom}", self.kind.name())
    }
}

/// Deals the faults: every kind once a round, in another order each time.
pub(crate) struct Schedule {
    rng: Rng,
    round: VecDeque<Kind>,
}

impl Schedule {
    pub(crate) fn new(seed: u64) -> Schedule {
        Schedule { rng: Rng::with_seed(seed), round: VecDeque::new() }
    }

    /// The next fault, or two of which the second begins and ends during the first.
    pub(crate) fn next(&mut self) -> Vec<Planned> {
        let Schedule { rng, round } = self;
        if round.is_empty() {
            round.extend(Kind::SINGLE);
            round.extend([Kind::TwoAtOnce; 3]);
            rng.shuffle(round.make_contiguous());
        }
        match round.pop_front() {
            Some(Kind::TwoAtOnce) | None => {
                let lasting = rng.choice(Kind::LASTING).unwrap_or(Kind::PostgresCrash);
                let sudden = rng.choice(Kind::SUDDEN).unwrap_or(Kind::KillAll);
                vec![plan(rng, lasting), plan(rng, sudden)]
            }
            Some(kind) => vec![plan(rng, kind)],
        }
    }
}

fn plan(rng: &mut Rng, kind: Kind) -> Planned {
    let lease = SEND_LEASE.as_millis() as u64;
    let millis = match kind {
        Kind::KillRelay | Kind::KillConsumer | Kind::KillAll | Kind::Restart => 0..400,
        Kind::PauseConsumer => lease + 300..lease + 1_500,
        // Well below a lease, or beyond it.
        Kind::StallPostgres | Kind::StallRedis if rng.bool() => 200..700,
        Kind::StallPostgres | Kind::StallRedis => lease + 200..lease + 1_500,
        Kind::PauseRelay | Kind::DelayPostgres | Kind::DiskFull | Kind::DelayRedis => 300..1_500,
        Kind::PostgresCrash | Kind::RedisKill => 0..1_200,
        Kind::CutPostgres | Kind::CutRedis | Kind::CutWriters | Kind::RobotHangs => 0..1_000,
        _ => 0..1,
    };
    let one = |rng: &mut Rng, suits: fn(Part) -> bool| {
        let suited: Vec<usize> = (0..MEMBERS.len()).filter(|member| suits(MEMBERS[*member].1)).collect();
        rng.choice(suited)
    };
    let whom = match kind {
        Kind::KillRelay | Kind::PauseRelay => one(rng, Part::relays),
        Kind::KillConsumer | Kind::PauseConsumer => one(rng, Part::consumes),
        Kind::Restart => one(rng, |_| true),
        Kind::CutPostgres
        | Kind::StallPostgres
        | Kind::DelayPostgres
        | Kind::CutRedis
        | Kind::StallRedis
        | Kind::DelayRedis
            if rng.bool() =>
        {
            one(rng, |_| true)
        }
        _ => None,
    };
    Planned {
        kind,
        whom,
        lasts: Duration::from_millis(rng.u64(millis)),
        harder: rng.bool(),
        requests: rng.u32(3..=20),
        accepted: rng.bool(),
    }
}

/// What the tests of this file are, see `main`.
pub(crate) mod tests {
    use super::*;

    fn first(count: usize, seed: u64) -> Vec<Vec<Planned>> {
        let mut schedule = Schedule::new(seed);
        std::iter::repeat_with(|| schedule.next()).take(count).collect()
    }

    pub(crate) fn a_seed_is_a_schedule() {
        assert_eq!(first(100, 7), first(100, 7));
        assert_ne!(first(100, 7), first(100, 8));
    }

    pub(crate) fn a_round_has_every_kind_of_fault() {
        let round = first(Kind::SINGLE.len() + 3, 7);
        let singles = round.iter().filter(|faults| faults.len() == 1).map(|faults| faults[0].kind);
        let mut singles: Vec<Kind> = singles.collect();
        singles.sort_unstable();
        assert_eq!(singles, Kind::SINGLE);
    }

    pub(crate) fn a_fault_is_about_those_who_can_have_it() {
        for fault in first(2_000, 7).into_iter().flatten() {
            let part = fault.whom.map(|whom| MEMBERS[whom].1);
            match fault.kind {
                Kind::KillRelay | Kind::PauseRelay => assert!(part.is_some_and(Part::relays), "{fault:?}"),
                Kind::KillConsumer | Kind::PauseConsumer => assert!(part.is_some_and(Part::consumes), "{fault:?}"),
                Kind::PostgresCrash | Kind::RedisKill | Kind::FlushAll | Kind::KillAll => assert_eq!(part, None),
                _ => {}
            }
            if fault.kind == Kind::PauseConsumer {
                assert!(fault.lasts > SEND_LEASE);
            }
        }
    }
}
