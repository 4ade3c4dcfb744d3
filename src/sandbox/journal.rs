//! What the robots remember: every request and its verdict, the messages the group shows, and what was seen before.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use jiff::Timestamp;

use super::Settings;
use super::pace::{self, Pace};
use super::record::{Message, Request, Verdict, mask};
use super::rules::{self, Call, Content, Refusal};
use super::script::{Do, Facts, Rule, Script};

/// A request as it came in.
pub(super) struct Arrival {
    pub(super) method: Method,
    pub(super) query: String,
    pub(super) content_type: Option<String>,
    pub(super) body: Bytes,
    pub(super) endless: bool,
}

#[derive(Default)]
pub(super) struct Journal {
    pub(super) script: Script,
    history: usize,
    revision: u64,
    clears: u64,
    last_message: u64,
    last_request: u64,
    messages: VecDeque<Message>,
    requests: VecDeque<Request>,
    robots: HashMap<String, Pace>,
    seen: HashMap<(String, String), Seen>,
}

/// What is remembered of a robot's `msgUuid`.
#[derive(Default)]
struct Seen {
    attempts: u32,
    message: Option<u64>,
    digest: u64,
}

impl Journal {
    pub(super) fn new(history: usize) -> Journal {
        Journal { history: history.max(1), ..Journal::default() }
    }

    /// Raised by every change.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// How often it was cleared.
    pub(super) fn clears(&self) -> u64 {
        self.clears
    }

    /// Messages after this `seq`.
    pub(super) fn messages(&self, since: u64) -> Vec<Message> {
        self.messages.range(self.messages.partition_point(|message| message.seq <= since)..).cloned().collect()
    }

    /// Requests after this `seq`.
    pub(super) fn requests(&self, since: u64) -> Vec<Request> {
        self.requests.range(self.requests.partition_point(|request| request.seq <= since)..).cloned().collect()
    }

    pub(super) fn last_request(&self) -> Option<&Request> {
        self.requests.back()
    }

    /// The last requests, oldest first, each with the message that it became or is a duplicate of, if that is still there.
    pub(super) fn latest(&self, count: usize) -> impl Iterator<Item = (&Request, Option<&Message>)> {
        let skipped = self.requests.len().saturating_sub(count);
        let message = |seq| self.messages.get(self.message_index(seq)?);
        self.requests.range(skipped..).map(move |request| (request, request.message.and_then(message)))
    }

    pub(super) fn clear(&mut self) {
        self.messages.clear();
        self.requests.clear();
        self.clears += 1;
        self.revision += 1;
    }

    pub(super) fn max_in_any_window(&self, window: Duration) -> usize {
        let mut robots: HashMap<&str, Vec<Instant>> = HashMap::new();
        for request in &self.requests {
            robots.entry(request.token.as_deref().unwrap_or_default()).or_default().push(request.at);
        }
        robots.values().map(|times| pace::max_in_any_window(times, window)).max().unwrap_or(0)
    }

    /// Takes in the head of a request; where the script drops it unread, that is all there is of it.
    pub(super) fn drop_unread(&mut self, arrival: &Arrival) -> Option<Request> {
        let token = rules::parameter(&arrival.query, "access_token");
        let facts = Facts { token: token.as_deref(), ..Facts::default() };
        if !self.script.drops_unread(&facts) {
            return None;
        }
        let rule = Rule::new(Do::DropBeforeReading);
        Some(self.record(arrival, token, None, Outcome::lost(&rule), Some(&rule)))
    }

    /// Takes in a request that was read: what became of it, and what the script has in mind for its answer.
    pub(super) fn receive(&mut self, arrival: &Arrival, settings: &Settings) -> (Request, Option<Do>) {
        let token = rules::parameter(&arrival.query, "access_token");
        let msg_uuid = rules::msg_uuid(&arrival.body);
        if let (Some(token), Some(msg_uuid)) = (&token, &msg_uuid) {
            self.count_attempt(token, msg_uuid);
        }
        let facts = Facts { token: token.as_deref(), msg_uuid: msg_uuid.as_deref(), body: &arrival.body };
        let rule = self.script.next(&facts);
        let outcome = match &rule {
            Some(rule) if !rule.reaches_robot() => Outcome::lost(rule),
            Some(_) | None => self.judge(arrival, settings).unwrap_or_else(Outcome::refused),
        };
        let request = self.record(arrival, token, msg_uuid, outcome, rule.as_ref());
        (request, rule.map(|rule| rule.action))
    }

    /// Notes that an answer has been handed to the network.
    pub(super) fn answered(&mut self, seq: u64) -> Option<Request> {
        let index = self.requests.binary_search_by_key(&seq, |request| request.seq).ok()?;
        let request = self.requests.get_mut(index)?;
        request.answered = true;
        self.revision += 1;
        Some(request.clone())
    }

    fn judge(&mut self, arrival: &Arrival, settings: &Settings) -> Result<Outcome, Refusal> {
        let call = Call {
            method: &arrival.method,
            content_type: arrival.content_type.as_deref(),
            query: &arrival.query,
            body: &arrival.body,
            endless: arrival.endless,
            now_ms: Timestamp::now().as_millisecond(),
        };
        let token = rules::robot(&call, settings)?;
        // Before the content is looked at: what is refused for its content has used up a slot too.
        if !self.robots.entry(token.clone()).or_default().admit(settings, Instant::now()) {
            return Err(Refusal::too_fast(settings));
        }
        let content = rules::content(&call, settings)?;
        Ok(self.accept(token, content, &arrival.body))
    }

    fn accept(&mut self, token: String, content: Content, body: &Bytes) -> Outcome {
        let seq = self.last_message + 1;
        let mut attempts = 1;
        if let Some(msg_uuid) = &content.msg_uuid {
            let seen = self.seen.entry((token.clone(), msg_uuid.clone())).or_default();
            let digest = digest(body);
            if let Some(first) = seen.message {
                let mismatched = seen.digest != digest;
                self.swallow(first, mismatched);
                return Outcome::ok(Verdict::Duplicate, first);
            }
            (seen.message, seen.digest, attempts) = (Some(seq), digest, seen.attempts);
        }
        let Content { msgtype, title, text, links, at, msg_uuid } = content;
        self.last_message = seq;
        self.revision += 1;
        if self.messages.len() >= self.history {
            self.messages.pop_front();
        }
        self.messages.push_back(Message {
            seq,
            received_at: now(),
            robot: mask(&token),
            token,
            msgtype,
            title,
            text,
            links,
            at,
            msg_uuid,
            duplicates: 0,
            mismatched: false,
            attempts,
            body: body.clone(),
            revision: self.revision,
        });
        Outcome::ok(Verdict::Accepted, seq)
    }

    /// Counts a request with a `msgUuid`, on its message too where there is one.
    fn count_attempt(&mut self, token: &str, msg_uuid: &str) {
        let seen = self.seen.entry((token.to_owned(), msg_uuid.to_owned())).or_default();
        seen.attempts += 1;
        let (attempts, message) = (seen.attempts, seen.message);
        let index = message.and_then(|seq| self.message_index(seq));
        if let Some(message) = index.and_then(|index| self.messages.get_mut(index)) {
            message.attempts = attempts;
        }
    }

    /// Counts a duplicate on the message, where that is still remembered.
    fn swallow(&mut self, seq: u64, mismatched: bool) {
        self.revision += 1;
        if let Some(message) = self.message_index(seq).and_then(|index| self.messages.get_mut(index)) {
            message.duplicates += 1;
            message.mismatched |= mismatched;
            message.revision = self.revision;
        }
    }

    fn message_index(&self, seq: u64) -> Option<usize> {
        self.messages.binary_search_by_key(&seq, |message| message.seq).ok()
    }

    fn record(
        &mut self,
        arrival: &Arrival,
        token: Option<String>,
        msg_uuid: Option<String>,
        outcome: Outcome,
        rule: Option<&Rule>,
    ) -> Request {
        self.last_request += 1;
        self.revision += 1;
        let request = Request {
            seq: self.last_request,
            received_at: now(),
            robot: token.as_deref().filter(|token| !token.is_empty()).map(mask),
            token,
            verdict: outcome.verdict,
            errcode: outcome.errcode,
            errmsg: outcome.errmsg,
            script: rule.map(|rule| rule.action.name()),
            answered: false,
            msg_uuid,
            message: outcome.message,
            body: arrival.body.clone(),
            at: Instant::now(),
            revision: self.revision,
        };
        if self.requests.len() >= self.history {
            self.requests.pop_front();
        }
        self.requests.push_back(request.clone());
        request
    }
}

struct Outcome {
    verdict: Verdict,
    errcode: Option<i64>,
    errmsg: String,
    message: Option<u64>,
}

impl Outcome {
    fn ok(verdict: Verdict, message: u64) -> Outcome {
        Outcome { verdict, errcode: Some(0), errmsg: "ok".to_owned(), message: Some(message) }
    }

    fn refused(refusal: Refusal) -> Outcome {
        Outcome { verdict: Verdict::Refused, errcode: Some(refusal.code), errmsg: refusal.msg, message: None }
    }

    fn lost(rule: &Rule) -> Outcome {
        let (errcode, errmsg) = match &rule.action {
            Do::Errcode { code, msg } => (Some(*code), msg.clone()),
            Do::DelayMs(_) | Do::DropBeforeReading | Do::DropAfterReading | Do::Hang | Do::Html | Do::Reply { .. } => {
                (None, String::new())
            }
        };
        Outcome { verdict: Verdict::Lost, errcode, errmsg, message: None }
    }
}

fn digest(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}

/// To the millisecond: more digits say nothing to people.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}
