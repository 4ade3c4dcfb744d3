//! 3 — the queue: what carries hints from relays to consumers.
//!
//! A hint says that a row is due; it is not the message. It may be lost, doubled, late or trimmed, and nothing is lost
//! or sent twice because of it. So a queue needs three verbs and no guarantees beyond "usually arrives, usually once":
//! Redis Streams today ([`redis::RedisQueue`]), another broker tomorrow. `tests/it/queue.rs` is the contract.
//!
//! Hints go in two lanes. An urgent one overtakes all others that have not been received yet, and finds room where they
//! find none; the lanes are alike in everything else.

pub mod redis;

use std::future::Future;
use std::time::{Duration, Instant};

use uuid::Uuid;

/// Payloads up to this size, in bytes, are carried in the hint for people who look into the stream.
pub const MAX_PAYLOAD: usize = 8192;

/// Carries hints and dead letters.
pub trait Queue: Send + Sync + 'static {
    /// Adds messages to a topic in one round trip. Each is accepted or refused for itself; an error means that what
    /// happened to them is unknown. With no messages it only asks whether the queue is there, and how full.
    /// An urgent hint goes in the urgent lane.
    fn publish(&self, topic: Topic, messages: &[Message])
    -> impl Future<Output = Result<Published, QueueError>> + Send;

    /// Hints for this consumer, at most `max`, urgent ones first, waiting up to `wait` where there are none. What a consumer received and
    /// never acknowledged comes again, to it or to another, some time after the send lease.
    fn receive(&self, max: usize, wait: Duration) -> impl Future<Output = Result<Received, QueueError>> + Send;

    /// Removes hints whose rows need them no more.
    fn ack(&self, receipts: &[Receipt]) -> impl Future<Output = Result<(), QueueError>> + Send;
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// To the consumers; each lane is bounded, and full when they do not keep up.
    Hints,
    /// To whoever watches for failures; bounded by dropping the oldest.
    DeadLetters,
}

/// A hint or a dead letter. Only `event_id` is read by a consumer; the rest is for people who look into the queue.
#[derive(Clone, Debug)]
pub struct Message {
    /// The row.
    pub event_id: Uuid,
    /// Such as `resume.parsed`.
    pub event_type: String,
    /// Such as `dingtalk`.
    pub channel: String,
    /// Robot; a URL is masked.
    pub target: String,
    /// Template that renders it.
    pub template_id: String,
    /// JSON, where it is at most [`MAX_PAYLOAD`] bytes.
    pub payload: Option<String>,
    /// The caller's.
    pub trace_id: Option<String>,
    /// Retries used so far.
    pub retry_count: i32,
    /// Takes so far.
    pub attempt: i32,
    /// Replays so far.
    pub replay_count: i32,
    /// Whether it goes before others.
    pub urgent: bool,
    /// Why it failed last.
    pub last_error: Option<String>,
}

/// The lane of a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Goes first.
    Urgent,
    /// All others.
    Normal,
}

impl Lane {
    /// Both, in the order in which they are served.
    pub const ALL: [Lane; 2] = [Lane::Urgent, Lane::Normal];

    /// The lane of a message.
    pub fn of(message: &Message) -> Lane {
        if message.urgent { Lane::Urgent } else { Lane::Normal }
    }
}

/// How many more hints fit into each lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Urgent ones.
    pub urgent: usize,
    /// Others.
    pub normal: usize,
}

impl Room {
    /// Whether a lane is full.
    pub fn is_lacking(self) -> bool {
        self.urgent == 0 || self.normal == 0
    }

    /// What is left when these are in their lanes.
    pub fn less<'a>(self, messages: impl IntoIterator<Item = &'a Message>) -> Room {
        messages.into_iter().fold(self, |Room { urgent, normal }, message| match Lane::of(message) {
            Lane::Urgent => Room { urgent: urgent.saturating_sub(1), normal },
            Lane::Normal => Room { urgent, normal: normal.saturating_sub(1) },
        })
    }
}

/// What became of the messages of one [`Queue::publish`].
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// For each message, in order: none where it was accepted, else why it was refused.
    pub refused: Vec<Option<String>>,
    /// How many more hints fit; told where hints are published.
    pub room: Room,
    /// The queue may have lost hints that it had accepted before this moment; told once.
    pub hints_lost: Option<Instant>,
}

/// What [`Queue::receive`] found.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// The hints, urgent ones first.
    pub hints: Vec<Hint>,
    /// The queue may have lost hints that it had accepted before this moment; told once.
    pub hints_lost: Option<Instant>,
}

/// A received hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The row.
    pub event_id: Uuid,
    /// What to acknowledge.
    pub receipt: Receipt,
}

/// Identifies one delivery of a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Where it came from.
    pub lane: Lane,
    /// The queue's own name for it.
    pub id: String,
}

/// The queue cannot be used now; trying again may help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct QueueError(pub String);
