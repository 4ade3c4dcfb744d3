//! What is in a consumer's hand: one message to be sent, for one event or for several.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::place::InHand;
use crate::channel::Lane;
use crate::event::{Event, Outcome};
use crate::message::Message;
use crate::queue::Receipt;
use crate::store::robots::Settled;
use crate::store::{Attempt, Key, Recorded};

/// An event that a message is sent for.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub key: Key,
    /// The hints that led to it.
    pub receipts: Vec<Receipt>,
    pub channel: String,
    pub event_type: String,
    /// A known template's id, else `unknown`.
    pub template_id: String,
    pub trace_id: Option<String>,
    /// Most events in a message that it may be merged into, as it was before this take.
    pub digest_limit: Option<i32>,
}

/// A message, and who it is for.
#[derive(Debug)]
pub(super) struct Letter {
    /// The events in it; never empty.
    pub members: Vec<Member>,
    /// The one that says how it is retried: of several, the one with the most retries left.
    pub event: Event,
    pub message: Message,
    pub lane: Lane,
    /// Where it is for several events, or may be known to be: the id under which they are stored to be in it.
    pub digest_id: Option<Uuid>,
    /// An earlier send of it may have arrived: it is sent again only as it was.
    pub is_again: bool,
    /// What the event may be merged with.
    pub digest_key: Option<String>,
    /// The end of the send lease.
    pub deadline: Instant,
}

/// What became of a message.
#[derive(Debug)]
pub(super) struct Sent {
    pub outcome: Outcome,
    /// The robot it was sent by, or by which it is to be sent again; or the lane it waits in.
    pub robot: Option<String>,
    /// The message of several events that it was.
    pub digest_id: Option<Uuid>,
    /// Its members stay together.
    pub keeps_digest: bool,
    /// It may have arrived: alone, it goes alone ever after.
    pub is_unknown: bool,
    /// Most events of a message that its members may be merged into.
    pub digest_limit: Option<i32>,
    pub digest_key: Option<String>,
    /// What it leaves behind at robots.
    pub settled: Vec<Settled>,
    /// The send, where one was begun.
    pub attempt: Option<Attempt>,
    pub class: &'static str,
    pub tries: u32,
    pub took: Duration,
}

impl Sent {
    /// Nothing was sent, or even understood.
    pub(super) fn unsent(outcome: Outcome) -> Sent {
        Sent {
            outcome,
            robot: None,
            digest_id: None,
            keeps_digest: false,
            is_unknown: false,
            digest_limit: None,
            digest_key: None,
            settled: Vec::new(),
            attempt: None,
            class: "message",
            tries: 0,
            took: Duration::ZERO,
        }
    }

    /// It waits until its target can be used: under another name, so that nobody unparks it before.
    pub(super) fn waiting_for_target(target: &str, error: String) -> Sent {
        let outcome = Outcome::Wait { after: None, error, response: None };
        Sent { robot: Some(format!("?{target}")), class: "robot", ..Sent::unsent(outcome) }
    }
}

/// A take, or several, that have ended.
#[derive(Debug)]
pub(super) struct Done {
    pub members: Vec<Member>,
    pub sent: Sent,
    /// Freed once the outcome is recorded.
    #[expect(dead_code, reason = "held, and freed by being dropped")]
    pub place: Option<InHand>,
}

impl Done {
    /// One that never got as far as a send.
    pub(super) fn unsent(member: Member, outcome: Outcome) -> Done {
        Done { members: vec![member], sent: Sent::unsent(outcome), place: None }
    }

    /// What is to be written to the rows.
    pub(super) fn records(&self) -> impl Iterator<Item = Recorded<'_>> {
        let sent = &self.sent;
        self.members.iter().map(|member| Recorded {
            key: member.key,
            outcome: &sent.outcome,
            robot: sent.robot.as_deref(),
            digest_id: sent.digest_id,
            keeps_digest: sent.keeps_digest,
            digest_limit: match sent.digest_limit {
                None if sent.is_unknown && sent.digest_id.is_none() => Some(1),
                None => member.digest_limit,
                limit => limit,
            },
            digest_key: sent.digest_key.as_deref(),
            trace_id: member.trace_id.as_deref(),
            attempt: sent.attempt.as_ref(),
        })
    }
}
