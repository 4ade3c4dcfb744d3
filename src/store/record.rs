//! Recording what became of takes, and the sends themselves.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{Key, Store, query, storable};
use crate::event::Outcome;

/// What became of one take, to be written to its row.
#[derive(Debug)]
pub struct Recorded<'a> {
    /// The take.
    pub key: Key,
    /// What became of it.
    pub outcome: &'a Outcome,
    /// The robot it was sent by, or must stay with; or the lane it waits in.
    pub robot: Option<&'a str>,
    /// The message of several events that it is part of: all of them are recorded, or none.
    pub digest_id: Option<Uuid>,
    /// Whether it remains part of it.
    pub keeps_digest: bool,
    /// Most events in a message that it may be merged into from now on.
    pub digest_limit: Option<i32>,
    /// Where it waits: what it may be merged with.
    pub digest_key: Option<&'a str>,
    /// The trace id of its caller.
    pub trace_id: Option<&'a str>,
    /// The send, where one was begun.
    pub attempt: Option<&'a Attempt>,
}

/// A send that was begun, as a row of `notification_attempts` tells of it. Free of tokens and secrets.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The robot it was sent by.
    pub robot: String,
    /// When it began.
    pub started_at: Instant,
    /// How long it took.
    pub took: Duration,
    /// What the answer meant.
    pub class: &'static str,
    /// HTTP status of the last answer.
    pub status: Option<u16>,
    /// Business code in the last answer.
    pub errcode: Option<i64>,
    /// What the robot said, or else what went wrong.
    pub answer: Option<String>,
    /// Requests begun.
    pub tries: u32,
}

impl Attempt {
    /// Most characters of an answer that are kept.
    const SHOWN: usize = 300;

    fn shown(&self) -> Option<String> {
        self.answer.as_deref().map(|answer| storable(answer).chars().take(Attempt::SHOWN).collect())
    }
}

/// Which outcomes of a record counted.
#[derive(Debug)]
pub struct Counts {
    /// And how long after it was due, where it is delivered.
    counted: HashMap<(Uuid, i32), Option<Duration>>,
    busy: HashSet<(Uuid, i32)>,
}

impl Counts {
    /// Whether this take's outcome counted: it did not where another consumer, a replay or a cancellation came first.
    /// None: a transaction holds the row, so it is not known yet.
    pub fn of(&self, key: Key) -> Option<bool> {
        let take = (key.id, key.attempt);
        (!self.busy.contains(&take)).then(|| self.counted.contains_key(&take))
    }

    /// How long after the event was due this take delivered it, by PostgreSQL's clock: from its commit (the beginning of
    /// its transaction, to be exact), or, where it was scheduled for later, from then.
    pub fn late(&self, key: Key) -> Option<Duration> {
        self.counted.get(&(key.id, key.attempt)).copied().flatten()
    }
}

impl Store {
    /// Records what became of many takes, with the sends of this `worker`, and says which of them counted.
    pub async fn record(&self, outcomes: &[Recorded<'_>], worker: &str) -> anyhow::Result<Counts> {
        fn column<'a, R, T>(rows: &'a [R], of: impl Fn(&'a R) -> T) -> Vec<T> {
            rows.iter().map(of).collect()
        }
        let ids = column(outcomes, |recorded| recorded.key.id);
        let replay_counts = column(outcomes, |recorded| recorded.key.replay_count);
        let attempts = column(outcomes, |recorded| recorded.key.attempt);
        let kinds = column(outcomes, |recorded| recorded.outcome.kind());
        let errors = column(outcomes, |recorded| recorded.outcome.error().map(storable));
        let responses = column(outcomes, |recorded| recorded.outcome.response().map(storable));
        let delays = column(outcomes, |recorded| recorded.outcome.delay().map(|delay| delay.as_secs_f64()));
        let robots = column(outcomes, |recorded| recorded.robot);
        let digests = column(outcomes, |recorded| recorded.digest_id);
        let keeps = column(outcomes, |recorded| recorded.keeps_digest);
        let limits = column(outcomes, |recorded| recorded.digest_limit);
        let digest_keys = column(outcomes, |recorded| recorded.digest_key);

        let begun: Vec<(&Recorded<'_>, &Attempt)> =
            outcomes.iter().filter_map(|recorded| Some((recorded, recorded.attempt?))).collect();
        let sent_ids = column(&begun, |(recorded, _)| recorded.key.id);
        let sent_replay_counts = column(&begun, |(recorded, _)| recorded.key.replay_count);
        let sent_attempts = column(&begun, |(recorded, _)| recorded.key.attempt);
        let sent_digests = column(&begun, |(recorded, _)| recorded.digest_id);
        let trace_ids = column(&begun, |(recorded, _)| recorded.trace_id);
        let sent_by = column(&begun, |(_, attempt)| attempt.robot.as_str());
        let ago = column(&begun, |(_, attempt)| attempt.started_at.elapsed().as_secs_f64());
        let took_ms = column(&begun, |(_, attempt)| i32::try_from(attempt.took.as_millis()).unwrap_or(i32::MAX));
        let classes = column(&begun, |(_, attempt)| attempt.class);
        let statuses = column(&begun, |(_, attempt)| attempt.status.and_then(|status| i16::try_from(status).ok()));
        let errcodes = column(&begun, |(_, attempt)| attempt.errcode.and_then(|code| i32::try_from(code).ok()));
        let answers = column(&begun, |(_, attempt)| attempt.shown());
        let tries = column(&begun, |(_, attempt)| i16::try_from(attempt.tries).unwrap_or(i16::MAX));
        let parameters: &[&(dyn ToSql + Sync)] = &[
            &ids,
            &replay_counts,
            &attempts,
            &kinds,
            &errors,
            &responses,
            &delays,
            &robots,
            &digests,
            &keeps,
            &limits,
            &digest_keys,
            &sent_ids,
            &sent_replay_counts,
            &sent_attempts,
            &sent_digests,
            &trace_ids,
            &sent_by,
            &ago,
            &took_ms,
            &classes,
            &statuses,
            &errcodes,
            &answers,
            &tries,
            &worker,
        ];
        let rows = self.rows("record", query!("record"), parameters).await?;
        let (counted, busy): (Vec<&Row>, Vec<&Row>) =
            rows.iter().partition(|row| row.get::<_, &str>("verdict") == "counted");
        let take = |row: &Row| (row.get("id"), row.get("attempt"));
        let late = |row: &Row| {
            // The clock of the server may have been set back.
            let seconds: Option<f64> = row.get("late_seconds");
            seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default())
        };
        Ok(Counts {
            counted: counted.into_iter().map(|row| (take(row), late(row))).collect(),
            busy: busy.into_iter().map(take).collect(),
        })
    }
}
