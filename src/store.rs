//! The rows: every statement of the protocol, each a file in `sql/queries`. Those about robots are in [`robots`], those about
//! messages of several events in [`digest`], those that remove what is old in [`retention`], those about what is rung in [`alerts`].

pub mod alerts;
pub mod digest;
pub mod retention;
pub mod robots;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use deadpool_postgres::{Object, Pool};
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::db::{self, ANSWER_TIMEOUT, Verdict};
use crate::event::{Event, Outcome};
use crate::queue::{Message, Room};

/// A row with this many lost leases in a row is held to kill its consumers, and fails.
pub const LOST_LEASES_LIMIT: i32 = 3;

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

/// The verdict on a row whose hint was received. Rows that are done, not due, or gone have none.
#[derive(Debug)]
pub enum Taken {
    /// It is this consumer's to send, until the send lease ends.
    Event(Box<Event>),
    /// It is this consumer's, but what it holds cannot be sent by any consumer: to be recorded as failed.
    Unreadable {
        /// The take.
        key: Key,
        /// Its channel.
        channel: String,
        /// Its type.
        event_type: String,
        /// Its template.
        template_id: String,
        /// Its caller's trace id.
        trace_id: Option<String>,
        /// What is wrong with it.
        error: String,
    },
    /// It failed at the take: its outcome is unknown and it asks for at most one send, or it kills its consumers.
    Failed {
        /// The row.
        id: Uuid,
        /// Its channel.
        channel: String,
        /// Its template.
        template_id: String,
        /// Its caller's trace id.
        trace_id: Option<String>,
        /// Which of the two.
        error: String,
    },
    /// To be taken again when this consumer has nothing else in hand: the next lost lease would be its last.
    Alone(Uuid),
    /// Another consumer sends it: its hint is needed still.
    Busy(Uuid),
    /// Nobody sends it, but a transaction holds it: its hint is needed soon.
    Held(Uuid),
    /// It has arrived in a message of several events, as another of them knows, and now its row does.
    Arrived {
        /// The row.
        id: Uuid,
        /// Its channel.
        channel: String,
        /// Its template.
        template_id: String,
        /// The caller's.
        trace_id: Option<String>,
    },
    /// It is part of a message whose outcome is unknown: to be taken with the others in it.
    Digest {
        /// The row.
        id: Uuid,
        /// The message.
        digest_id: Uuid,
    },
}

/// What a take found.
#[derive(Debug, Default)]
pub struct Takes {
    /// A verdict for each row that needs one.
    pub verdicts: Vec<Taken>,
    /// The robots that take nothing now; of a message of several events it is not asked.
    pub closed: Vec<String>,
    /// How many of the rows were in the hand of a consumer whose send lease had run out.
    pub taken_over: u64,
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
    /// Of which robot, where it is of one.
    pub robot: Option<String>,
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

    /// Judges the rows of received hints and takes those that can be sent now.
    pub async fn take(&self, ids: &[Uuid], send_lease: Duration, alone: bool) -> anyhow::Result<Takes> {
        let query = query!("take");
        let rows = self.rows("take", query, &[&ids, &send_lease.as_secs_f64(), &alone, &LOST_LEASES_LIMIT]).await?;
        let closed = rows.first().and_then(|row| row.get::<_, Option<Vec<String>>>("closed"));
        Ok(Takes { closed: closed.unwrap_or_default(), ..takes(&rows) })
    }

    /// Whether this take still holds its row.
    pub async fn holds(&self, key: Key) -> anyhow::Result<bool> {
        let rows = self.rows("holds", query!("holds"), &[&key.id, &key.replay_count, &key.attempt]).await?;
        Ok(rows.first().is_some_and(|row| row.get("holds")))
    }

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
            |row: &Row| Measured { gauge: row.get("gauge"), robot: row.get("robot"), value: row.get("value") };
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

fn takes(rows: &[Row]) -> Takes {
    let taken_over = rows.iter().filter(|row| row.get("is_taken_over")).count() as u64;
    Takes { verdicts: rows.iter().map(taken).collect(), taken_over, ..Takes::default() }
}

fn taken(row: &Row) -> Taken {
    let id: Uuid = row.get("id");
    match row.get("verdict") {
        "taken" => {
            let key = Key { id, replay_count: row.get("replay_count"), attempt: row.get("attempt") };
            match event(row, key) {
                Ok(event) => Taken::Event(Box::new(event)),
                Err(error) => Taken::Unreadable {
                    key,
                    channel: row.get("channel"),
                    event_type: row.get("event_type"),
                    template_id: template_id(row),
                    trace_id: row.get("trace_id"),
                    error,
                },
            }
        }
        "failed" => Taken::Failed {
            id,
            channel: row.get("channel"),
            template_id: template_id(row),
            trace_id: row.get("trace_id"),
            error: row.get::<_, Option<String>>("last_error").unwrap_or_default(),
        },
        "delivered" => Taken::Arrived {
            id,
            channel: row.get("channel"),
            template_id: template_id(row),
            trace_id: row.get("trace_id"),
        },
        "alone" => Taken::Alone(id),
        "held" => Taken::Held(id),
        "digest" => Taken::Digest { id, digest_id: row.get("digest_id") },
        _ => Taken::Busy(id),
    }
}

fn template_id(row: &Row) -> String {
    row.get::<_, Option<String>>("template_id").unwrap_or_else(|| row.get("event_type"))
}

fn event(row: &Row, key: Key) -> Result<Event, String> {
    let parse = |column: &str| row.get::<_, Option<String>>(column).unwrap_or_else(|| "{}".to_owned());
    Ok(Event {
        id: key.id,
        seq: row.get("seq"),
        event_type: row.get("event_type"),
        channel: row.get("channel"),
        target: row.get("target"),
        template_id: row.get("template_id"),
        payload: serde_json::from_str(&parse("payload")).map_err(|error| format!("payload cannot be read: {error}"))?,
        options: serde_json::from_str(&parse("options")).map_err(|error| format!("options cannot be read: {error}"))?,
        trace_id: row.get("trace_id"),
        retry_count: row.get::<_, i32>("retry_count").unsigned_abs(),
        max_retry: row.get::<_, Option<i32>>("max_retry").map(i32::unsigned_abs),
        attempt: key.attempt,
        replay_count: key.replay_count,
        late: Duration::try_from_secs_f64(row.get("late_seconds")).unwrap_or_default(),
        urgent: row.get("urgent"),
        robot: row.get("robot"),
        digest_limit: row.get("digest_limit"),
    })
}
