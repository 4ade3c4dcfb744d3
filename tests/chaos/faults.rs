//! How each fault is done: how it begins, how it ends, and what it can explain.

use std::time::{Duration, Instant};

use postbell::sandbox::{Do, Rule};

use crate::cluster::Cluster;
use crate::harness::{SOON, eventually};
use crate::ledger::Ledger;
use crate::schedule::{Kind, Planned};

/// Each piece that passes a slow network waits that long.
const DELAY: Duration = Duration::from_millis(60);

/// More hints than a consumer has sends at the same time: the rest of a burst.
const MANY_HINTS: u64 = 20;

/// How long a fault waits for them. On a slow machine there may be no burst: then it comes all the same.
const FULL_HANDS: Duration = Duration::from_secs(5);

/// How long a process may take from SIGTERM to its end.
const STOPPING: Duration = Duration::from_secs(15);

/// A fault that was done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) kind: Kind,
    pub(crate) begins: Instant,
    pub(crate) ends: Instant,
    /// Whether it can keep a consumer from knowing or recording what became of a send.
    pub(crate) blinds: bool,
}

/// From when on the time to recovery counts: from the beginning where the others are to carry on, from the end where
/// nobody can.
fn counts_from_its_beginning(kind: Kind) -> bool {
    matches!(kind, Kind::KillRelay | Kind::KillConsumer | Kind::PauseRelay | Kind::PauseConsumer | Kind::Restart)
}

/// Does the faults, each of which begins during the one before, and returns them and from when on recovery counts.
pub(crate) async fn inflict(cluster: &mut Cluster, ledger: &Ledger, planned: &[Planned]) -> (Vec<Done>, Instant) {
    let (mut begun, mut done) = (Vec::new(), Vec::new());
    for (index, fault) in planned.iter().enumerate() {
        match index.checked_sub(1) {
            // It meets the one before in full swing.
            Some(before) => tokio::time::sleep(planned[before].lasts / 2).await,
            None if wants_work(fault) => hands_are_full(cluster).await,
            None => {}
        }
        let spoilt = ledger.scripted(spoils(fault).unwrap_or_default());
        begun.push((fault, Instant::now(), spoilt));
        begin(cluster, ledger, fault).await;
    }
    while let Some((fault, begins, spoilt)) = begun.pop() {
        tokio::time::sleep(fault.lasts).await;
        end(cluster, ledger, fault, spoilt).await;
        done.push(Done { kind: fault.kind, begins, ends: Instant::now(), blinds: blinds(cluster, fault) });
    }
    let since = match &done[..] {
        [one] if counts_from_its_beginning(one.kind) => one.begins,
        _ => done.iter().map(|one| one.ends).max().unwrap_or_else(Instant::now),
    };
    (done, since)
}

/// Whether it waits until the consumers have their hands full: who has nothing to lose proves nothing.
fn wants_work(fault: &Planned) -> bool {
    match fault.kind {
        Kind::RedisKill | Kind::FlushAll => true,
        Kind::KillConsumer | Kind::KillAll | Kind::PauseConsumer | Kind::PostgresCrash => fault.harder,
        _ => false,
    }
}

async fn hands_are_full(cluster: &Cluster) {
    let limit = Instant::now() + FULL_HANDS;
    while cluster.hints().await < MANY_HINTS && Instant::now() < limit {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What happens in Redis, to relays or to writers never makes a consumer forget. What the robot does is known of each
/// request, and stands with it.
fn blinds(cluster: &Cluster, fault: &Planned) -> bool {
    match fault.kind {
        Kind::KillConsumer | Kind::KillAll | Kind::PauseConsumer | Kind::PostgresCrash | Kind::DiskFull => true,
        // Each of these may be the process that does both.
        Kind::KillRelay | Kind::PauseRelay | Kind::CutPostgres | Kind::StallPostgres | Kind::DelayPostgres => {
            cluster.members[fault.members()].iter().any(|member| member.part.consumes())
        }
        _ => false,
    }
}

/// What the robot does with the requests it spoils, by its name in a script.
fn spoils(fault: &Planned) -> Option<&'static str> {
    match fault.kind {
        Kind::RobotDrops => Some("drop_after_reading"),
        Kind::RobotHangs => Some("hang"),
        Kind::RobotGateway => Some("reply"),
        Kind::RobotBusy => Some("errcode"),
        _ => None,
    }
}

async fn begin(cluster: &mut Cluster, ledger: &Ledger, fault: &Planned) {
    let spoil = |action| {
        let rule = Rule::new(action).times(fault.requests);
        if fault.accepted { rule.accepted() } else { rule }
    };
    match fault.kind {
        Kind::KillRelay | Kind::KillConsumer | Kind::KillAll => {
            for member in &mut cluster.members[fault.members()] {
                member.process.sigkill().await;
            }
        }
        Kind::PauseRelay | Kind::PauseConsumer => {
            cluster.members[fault.members()].iter().for_each(|member| member.process.sigstop());
        }
        Kind::Restart => {
            for member in &mut cluster.members[fault.members()] {
                member.process.sigterm();
                let status = member.process.exit_status(STOPPING).await;
                if !status.success() {
                    ledger.note(format!("{} was asked to stop and ended with {status}", member.name));
                }
            }
        }
        Kind::PostgresCrash => cluster.postgres.stop_immediate().await,
        Kind::CutPostgres => {
            for member in &cluster.members[fault.members()] {
                if fault.harder {
                    member.postgres.refuse().await;
                }
                member.postgres.cut();
            }
        }
        Kind::StallPostgres => cluster.members[fault.members()].iter().for_each(|member| member.postgres.stall()),
        Kind::DelayPostgres => cluster.members[fault.members()].iter().for_each(|member| member.postgres.delay(DELAY)),
        Kind::DiskFull => cluster.postgres.fill_disk().await,
        Kind::CutWriters => {
            if fault.harder {
                cluster.business.refuse().await;
            }
            cluster.business.cut();
        }
        Kind::RedisKill => cluster.redis.kill().await,
        Kind::FlushAll => cluster.redis.flushall().await,
        Kind::ScriptFlush => {
            let mut client = cluster.redis.client().await;
            redis::cmd("SCRIPT").arg("FLUSH").exec_async(&mut client).await.unwrap();
        }
        Kind::CutRedis => {
            for member in &cluster.members[fault.members()] {
                if fault.harder {
                    member.redis.refuse().await;
                }
                member.redis.cut();
            }
        }
        Kind::StallRedis => cluster.members[fault.members()].iter().for_each(|member| member.redis.stall()),
        Kind::DelayRedis => cluster.members[fault.members()].iter().for_each(|member| member.redis.delay(DELAY)),
        Kind::RobotDrops => cluster.spoil(spoil(Do::DropAfterReading)),
        Kind::RobotHangs => cluster.spoil(spoil(Do::Hang)),
        Kind::RobotGateway => {
            let reply = Do::Reply { status: 502, body: String::new(), headers: Default::default() };
            cluster.spoil(spoil(reply));
        }
        // It says that it has not taken them, so it must not have.
        Kind::RobotBusy => {
            let busy = Do::Errcode { code: -1, msg: "system busy".to_owned() };
            cluster.spoil(Rule::new(busy).times(fault.requests));
        }
        Kind::Nothing | Kind::TwoAtOnce | Kind::Machine => {}
    }
}

async fn end(cluster: &mut Cluster, ledger: &Ledger, fault: &Planned, spoilt_before: usize) {
    match fault.kind {
        Kind::KillRelay | Kind::KillConsumer | Kind::KillAll | Kind::Restart => {
            // What two faults have killed is started again once.
            for member in &mut cluster.members[fault.members()] {
                if member.process.has_ended().is_some() {
                    member.start_again();
                }
            }
        }
        Kind::PauseRelay | Kind::PauseConsumer => {
            cluster.members[fault.members()].iter().for_each(|member| member.process.sigcont());
        }
        Kind::PostgresCrash => cluster.postgres.start().await,
        Kind::CutPostgres if fault.harder => {
            for member in &cluster.members[fault.members()] {
                member.postgres.accept().await;
            }
        }
        Kind::StallPostgres => {
            for member in &cluster.members[fault.members()] {
                if fault.harder {
                    member.postgres.cut();
                }
                member.postgres.resume();
            }
        }
        Kind::DelayPostgres => {
            cluster.members[fault.members()].iter().for_each(|member| member.postgres.delay(Duration::ZERO));
        }
        Kind::DiskFull => cluster.postgres.empty_disk().await,
        Kind::CutWriters if fault.harder => cluster.business.accept().await,
        Kind::RedisKill => cluster.redis.restart_empty().await,
        Kind::CutRedis if fault.harder => {
            for member in &cluster.members[fault.members()] {
                member.redis.accept().await;
            }
        }
        Kind::StallRedis => {
            for member in &cluster.members[fault.members()] {
                if fault.harder {
                    member.redis.cut();
                }
                member.redis.resume();
            }
        }
        Kind::DelayRedis => {
            cluster.members[fault.members()].iter().for_each(|member| member.redis.delay(Duration::ZERO));
        }
        Kind::RobotDrops | Kind::RobotHangs | Kind::RobotGateway | Kind::RobotBusy => {
            let script = spoils(fault).unwrap_or_default();
            let all = spoilt_before + fault.requests as usize;
            eventually(SOON, &format!("{} requests to meet {script}", fault.requests), async || {
                (ledger.scripted(script) >= all).then_some(())
            })
            .await;
            cluster.behave();
        }
        Kind::CutPostgres
        | Kind::CutWriters
        | Kind::FlushAll
        | Kind::ScriptFlush
        | Kind::CutRedis
        | Kind::Nothing
        | Kind::TwoAtOnce
        | Kind::Machine => {}
    }
}
