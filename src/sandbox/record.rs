//! What is told of requests and messages, in process and as JSON.

use std::fmt;
use std::time::Instant;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;

use super::rules::{At, Link};

/// A message that the group shows.
#[derive(Clone, Debug, Serialize)]
pub struct Message {
    /// Counted from 1.
    pub seq: u64,
    /// When it was accepted.
    pub received_at: Timestamp,
    /// The robot's access token.
    #[serde(skip)]
    pub token: String,
    /// The token as it may be shown.
    pub robot: String,
    /// Its form.
    pub msgtype: &'static str,
    /// Title; empty where the form has none.
    pub title: String,
    /// Text or Markdown; a feed card's titles.
    pub text: String,
    /// A card's links or buttons.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
    /// Whom it mentions.
    pub at: At,
    /// Its `msgUuid`.
    #[serde(rename = "msgUuid")]
    pub msg_uuid: Option<String>,
    /// Later requests with its `msgUuid` that were answered ok and not shown.
    pub duplicates: u32,
    /// One of these had another body.
    pub mismatched: bool,
    /// All requests with its `msgUuid`, refused and lost ones included.
    pub attempts: u32,
    /// The body as it was sent.
    #[serde(skip)]
    pub body: Bytes,
    #[serde(skip)]
    pub(super) revision: u64,
}

/// A request to a robot, and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Request {
    /// Counted from 1.
    pub seq: u64,
    /// When it had been read.
    pub received_at: Timestamp,
    /// The access token it gave.
    #[serde(skip)]
    pub token: Option<String>,
    /// The token as it may be shown.
    pub robot: Option<String>,
    /// What became of it.
    pub verdict: Verdict,
    /// The robot's answer, or the scripted one; none where there is no such answer.
    pub errcode: Option<i64>,
    /// The text of that answer.
    pub errmsg: String,
    /// The scripted misbehaviour it met.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<&'static str>,
    /// Whether its answer has been handed to the network.
    pub answered: bool,
    /// Its `msgUuid`.
    #[serde(rename = "msgUuid")]
    pub msg_uuid: Option<String>,
    /// The `seq` of the message that it became, or is a duplicate of.
    pub message: Option<u64>,
    /// Its body as it was sent.
    #[serde(skip)]
    pub body: Bytes,
    /// When it had been read, on the monotonic clock.
    #[serde(skip)]
    pub at: Instant,
    #[serde(skip)]
    pub(super) revision: u64,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The group shows it.
    Accepted,
    /// Answered ok and not shown: its `msgUuid` was seen before.
    Duplicate,
    /// Answered with an error.
    Refused,
    /// Lost by script before the robot saw it.
    Lost,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {:?} {} {:?}", self.seq, self.verdict, self.errcode.unwrap_or_default(), self.errmsg)
    }
}

/// A token as it may be shown: its first four characters, or less of a short one.
pub fn mask(token: &str) -> String {
    let shown = (token.chars().count() / 2).min(4);
    token.chars().take(shown).chain(['…']).collect()
}
