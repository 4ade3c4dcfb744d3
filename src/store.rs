//! The rows: every statement of the protocol, each a file in `sql/queries`. Those of the relay are here, those of a consumer in
//! `take` and `record`; those about robots are in [`robots`], those about messages of several events in [`digest`], those that
//! remove what is old in [`retention`], those about what is rung in [`alerts`].

pub mod alerts;
pub mod digest;
mod record;
pub mod retention;
pub mod robots;
mod take;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use deadpool_postgres::{Object, Pool};
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::db::{self, ANSWER_TIMEOUT, Verdict};
use crate::queue::{Message, Room};
pub use record::{Attempt, Counts, Recorded};
pub use take::{LOST_LEASES_LIMIT, Taken, Takes};

/// How often a statement is tried that the server had to break off for the sake of another.
const CONFLICT_TRIES: u32 = 5;

/// Most rows whose hint leases are given back in one transaction.
const RELEASE_BATCH: i64 = 5_000;

/// Access to the rows through a pool.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
}

/// A row with a fresh hint lease.
#[derive(Debug)]
pub struct Claimed {
    /// Insertion order.
    pub seq: i64,
    /// Whether it is owed a dead letter rather than a hint.
    pub is_dead: bool,
    /// What goes into the queue.
    pub message: Message,
}

/// A place in the order in which rows become due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// When the row there became due.
    pub due_at: Timestamp,
    /// Its insertion order.
    pub seq: i64,
}

/// What a claim found.
#[derive(Debug, Default)]
pub struct Claims {
    /// The rows, in insertion order.
    pub rows: Vec<Claimed>,
    /// How far it looked for rows that are not urgent; none where it found no such row.
    pub scanned: Option<Position>,
}

/// What one take of a row is known by, and an outcome is fenced with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The row.
    pub id: Uuid,
    /// Its generation.
    pub replay_count: i32,
    /// The take.
    pub attempt: i32,
}

/// What is due and not hinted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Backlog {
    /// Rows, counted up to the limit asked for.
    pub due: u64,
    /// How long the oldest has been due.
    pub oldest: Duration,
}

/// A value that was measured in the tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Of what, as `sql/queries/gauges.sql` names it.
    pub gauge: String,
    /// Of which robot, or condition of alerts, where it is of one.
    pub label: Option<String>,
    /// The value.
    pub value: f64,
}

macro_rules! query {
    ($step:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/queries/", $step, ".sql"))
    };
}
use query;

impl Store {
    /// A store on this pool.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Claims due rows, urgent ones first, else the oldest first, with a hint lease: at most `most` that are owed a dead
    /// letter, and at most `most` others, where they find `room`. It looks for those that are not urgent `behind` this
    /// place only.
    pub async fn claim(
        &self,
        most: usize,
        room: Room,
        hint_lease: Duration,
        behind: Option<Position>,
    ) -> anyhow::Result<Claims> {
        let [dead_letters, hints, urgent] =
            [most, most.min(room.normal), most.min(room.urgent)].map(|most| most as i64);
        let lease = hint_lease.as_secs_f64();
        let (due_at, seq) = (behind.map(|position| position.due_at), behind.map(|position| position.seq));
        let parameters: &[&(dyn ToSql + Sync)] = &[&dead_letters, &hints, &urgent, &lease, &due_at, &seq];
        let rows = self.rows("claim", query!("claim"), parameters).await?;
        let scanned = rows.first().and_then(|row| {
            Some(Position { due_at: row.get::<_, Option<_>>("scanned_at")?, seq: row.get("scanned_seq") })
        });
        let mut rows: Vec<Claimed> = rows.iter().map(claimed).collect();
        rows.sort_unstable_by_key(|row| row.seq);
        Ok(Claims { rows, scanned })
    }

    /// Gives back the leases of hints that did not reach the queue.
    pub async fn give_back(&self, ids: &[Uuid]) -> anyhow::Result<()> {
        self.rows("give_back", query!("give_back"), &[&ids]).await.map(drop)
    }

    /// Gives back every hint lease that was given before the queue was `noticed` to have lost hints. Returns how many
    /// there were.
    async fn release_hints(&self, hint_lease: Duration, noticed: Instant) -> anyhow::Result<i64> {
        let mut total = 0;
        loop {
            let query = query!("release_hints");
            let ends_within = hint_lease.saturating_sub(noticed.elapsed()).as_secs_f64();
            let rows = self.rows("release_hints", query, &[&ends_within, &RELEASE_BATCH]).await?;
            let released: i64 = rows.first().map_or(0, |row| row.get("released"));
            total += released;
            if released < RELEASE_BATCH {
                return Ok(total);
            }
        }
    }

    /// Completes failed rows whose dead letters are in their stream.
    pub async fn complete_dead_letters(&self, letters: &[(Uuid, i32)]) -> anyhow::Result<()> {
        let (ids, generations): (Vec<Uuid>, Vec<i32>) = letters.iter().copied().unzip();
        let query = query!("complete_dead_letters");
        self.rows("complete_dead_letters", query, &[&ids, &generations]).await.map(drop)
    }

    /// How long until a row becomes due without anybody saying so; none: no row does within this time. Rows that are due
    /// already are looked for `behind` this position, if any.
    pub async fn next_due(&self, behind: Option<Position>, within: Duration) -> anyhow::Result<Option<Duration>> {
        let (due_at, seq) = (behind.map(|position| position.due_at), behind.map(|position| position.seq));
        let parameters: &[&(dyn ToSql + Sync)] = &[&due_at, &seq, &within.as_secs_f64()];
        let rows = self.rows("next_due", query!("next_due"), parameters).await?;
        let seconds: Option<f64> = rows.first().and_then(|row| row.get("seconds"));
        // A row scheduled for the far future, or for never, is as good as none until somebody moves it.
        Ok(seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok()))
    }

    /// What is due and not hinted, counted up to `limit` rows.
    pub async fn backlog(&self, limit: i64) -> anyhow::Result<Backlog> {
        let rows = self.rows("backlog", query!("backlog"), &[&limit]).await?;
        Ok(rows.first().map_or_else(Backlog::default, |row| Backlog {
            due: row.get::<_, i64>("due").unsigned_abs(),
            oldest: Duration::try_from_secs_f64(row.get("oldest_seconds")).unwrap_or_default(),
        }))
    }

    /// What else is measured in the tables; counts are of at most `limit` rows.
    pub async fn gauges(&self, limit: i64) -> anyhow::Result<Vec<Measured>> {
        let rows = self.rows("gauges", query!("gauges"), &[&limit]).await?;
        let measured =
            |row: &Row| Measured { gauge: row.get("gauge"), label: row.get("label"), value: row.get("value") };
        Ok(rows.iter().map(measured).collect())
    }

    /// Whether a notification with this payload could be sent, on a connection of the pool.
    pub async fn notify(&self, channel: &str, payload: &str) -> anyhow::Result<()> {
        self.rows("notify", "select pg_notify($1, $2)", &[&channel, &payload]).await.map(drop)
    }

    /// Gives back the leases of hints that a queue has lost, where it has, and remembers that it did.
    pub async fn renew_lost_hints(&self, lost: &mut Option<Instant>, hint_lease: Duration) -> anyhow::Result<()> {
        if let Some(noticed) = *lost {
            let released = self.release_hints(hint_lease, noticed).await?;
            tracing::info!(released, "the queue may have lost hints; gave back their leases");
            *lost = None;
        }
        Ok(())
    }

    async fn rows(&self, step: &str, query: &str, parameters: &[&(dyn ToSql + Sync)]) -> anyhow::Result<Vec<Row>> {
        let mut tries = 1;
        loop {
            match self.try_rows(query, parameters).await.with_context(|| step.to_owned()) {
                Err(error) if db::verdict(&error) == Verdict::Conflict && tries < CONFLICT_TRIES => tries += 1,
                result => return result,
            }
        }
    }

    /// One try, within a time that bounds every step. A connection that does not answer, or leads to a server that
    /// cannot do the work, is not used again.
    async fn try_rows(&self, query: &str, parameters: &[&(dyn ToSql + Sync)]) -> anyhow::Result<Vec<Row>> {
        let client = db::client(&self.pool).await?;
        let answer = async {
            let statement = client.prepare_cached(query).await?;
            client.query(&statement, parameters).await
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, answer).await;
        match &answer {
            Ok(Err(error)) if db::is_read_only(error) => drop(Object::take(client)),
            Ok(_) => {}
            Err(_) => drop(Object::take(client)),
        }
        Ok(answer.context("PostgreSQL does not answer")?.map_err(db::Failed::from)?)
    }
}

/// PostgreSQL's text cannot hold a zero byte, and a robot's answer is not to be trusted.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn claimed(row: &Row) -> Claimed {
    Claimed {
        seq: row.get("seq"),
        is_dead: row.get("is_dead"),
        message: Message {
            event_id: row.get("id"),
            event_type: row.get("event_type"),
            channel: row.get("channel"),
            target: row.get("target"),
            template_id: row.get("template_id"),
            payload: row.get("payload"),
            trace_id: row.get("trace_id"),
            retry_count: row.get("retry_count"),
            attempt: row.get("attempt"),
            replay_count: row.get("replay_count"),
            urgent: row.get("urgent"),
            last_error: row.get("last_error"),
        },
    }
}
