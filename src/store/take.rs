//! Taking rows: what each is judged to be, and whether it is still this consumer's.

use std::time::Duration;

use tokio_postgres::Row;
use uuid::Uuid;

use super::{Key, Store, query};
use crate::event::Event;

/// A row with this many lost leases in a row is held to kill its consumers, and fails.
pub const LOST_LEASES_LIMIT: i32 = 3;

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

impl Store {
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
}

pub(super) fn takes(rows: &[Row]) -> Takes {
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

pub(super) fn event(row: &Row, key: Key) -> Result<Event, String> {
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
