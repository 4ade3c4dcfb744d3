//! Recording outcomes, as many at a time as have ended in the meantime.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::Instant;

use super::letter::{Done, Member, Sent};
use crate::backoff::Backoff;
use crate::db::{self, Verdict};
use crate::event::Outcome;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::queue::Receipt;
use crate::store::robots::{Change, Settled};
use crate::store::{Counts, Recorded, Store};
use crate::traces::{self, Step, Traces};

/// The recorder's name in health.
pub(super) const RECORDER: &str = "recorder";

/// Most outcomes of one statement.
const BATCH: usize = 256;

/// How long an outcome waits for others, where more are under way: one statement for many is much less work than one for
/// each. A lone outcome never waits.
const GATHERING: Duration = Duration::from_millis(2);

/// Outcomes enough not to wait for more.
const ENOUGH: usize = 48;

/// Outcomes that wait longer than this for their rows are for people to know of.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes outcomes down, and then lets go of their hints. A lone one is written at once; those that end at about the same
/// time, or while a statement runs, share one. One whose row is held by somebody's transaction is put aside, and holds up none.
pub(super) struct Recorder {
    store: Store,
    /// The consumer, as `notification_attempts` names it; none: sends are not written there.
    worker: Option<String>,
    acks: UnboundedSender<Vec<Receipt>>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    traces: Traces,
    aside: Vec<Done>,
    unsettled: Vec<Settled>,
    aside_since: Instant,
    again: Backoff,
}

impl Recorder {
    pub(super) fn new(
        store: Store,
        worker: Option<String>,
        acks: UnboundedSender<Vec<Receipt>>,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        traces: Traces,
    ) -> Self {
        health.expect(RECORDER, Duration::MAX);
        health.moved(RECORDER);
        let again = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        Self {
            store,
            worker,
            acks,
            health,
            metrics,
            traces,
            aside: Vec::new(),
            unsettled: Vec::new(),
            aside_since: Instant::now(),
            again,
        }
    }

    /// Runs until every sender of outcomes is gone and all of them are recorded.
    pub(super) async fn run(mut self, mut ended: UnboundedReceiver<Done>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let open = tokio::select! {
                received = ended.recv_many(&mut batch, BATCH) => received > 0,
                () = tokio::time::sleep(self.again.next_delay()), if self.has_open_ends() => true,
            };
            let gathering = async {
                while !batch.is_empty() && batch.len() < ENOUGH && self.others_are_under_way(&batch) {
                    if ended.recv_many(&mut batch, BATCH).await == 0 {
                        break;
                    }
                }
            };
            let _ = tokio::time::timeout(GATHERING, gathering).await;
            // What is not settled ends by itself.
            if !open && self.aside.is_empty() {
                return;
            }
            if !open {
                tokio::time::sleep(self.again.next_delay()).await;
            }
            batch.append(&mut self.aside);
            let ended = std::mem::take(&mut batch);
            self.record(ended).await;
            if self.aside.is_empty() {
                self.health.moved(RECORDER);
                self.aside_since = Instant::now();
            } else if self.aside_since.elapsed() >= PATIENCE {
                let members = self.aside.iter().flat_map(|done| &done.members);
                let ids: Vec<_> = members.map(|member| member.key.id).collect();
                let why = format!("{} outcomes cannot be recorded: transactions hold their rows", ids.len());
                if self.health.stuck(RECORDER, &why) {
                    tracing::warn!(?ids, "{why}");
                }
            }
            if !self.has_open_ends() {
                self.again.reset();
            }
        }
    }

    /// Whether more is in hand than these, and what waits for its row.
    fn others_are_under_way(&self, batch: &[Done]) -> bool {
        let ended: usize = batch.iter().chain(&self.aside).map(|done| done.members.len()).sum();
        self.metrics.in_hand.get() > i64::try_from(ended).unwrap_or(i64::MAX)
    }

    fn has_open_ends(&self) -> bool {
        !self.aside.is_empty() || !self.unsettled.is_empty()
    }

    async fn record(&mut self, mut batch: Vec<Done>) {
        // First: what waits for the robots is unparked by what is known of them.
        let busy = self.settle(&mut batch).await;
        // An event that is parked before its robot is known to take nothing would be sent again at once.
        let is_early =
            |done: &Done| done.sent.settled.iter().any(|one| one.ruling.is_some() && busy.contains(&one.robot));
        let (early, batch): (Vec<Done>, Vec<Done>) = batch.into_iter().partition(is_early);
        self.aside.extend(early);
        if batch.is_empty() {
            return;
        }
        match self.write(&batch).await {
            Ok(counts) => {
                for mut done in batch {
                    // What is left of it concerns the robot only.
                    self.unsettled.append(&mut done.sent.settled);
                    match done.members.iter().all(|member| counts.of(member.key).is_some()) {
                        true => self.recorded(done, &counts),
                        false => self.aside.push(done),
                    }
                }
            }
            // One outcome that PostgreSQL refuses must not keep the others from being recorded.
            Err(_) if batch.len() > 1 => {
                for done in batch {
                    Box::pin(self.record(vec![done])).await;
                }
            }
            Err(error) => {
                for member in batch.iter().flat_map(|done| &done.members) {
                    let error = format!("{error:#}");
                    let (template_id, trace_id) = (&member.template_id, member.trace_id.as_deref().unwrap_or_default());
                    tracing::error!(event_id = %member.key.id, template_id, trace_id, error, "the outcome is refused; its send lease will run out");
                    self.metrics.in_hand.dec();
                }
            }
        }
    }

    /// Notes at their robots what these leave behind, and what could not be noted before. Returns the robots whose rows
    /// somebody else holds: what is for them stays where it is.
    async fn settle(&mut self, batch: &mut [Done]) -> HashSet<String> {
        // A robot without a budget is only spoken of where there is news of it.
        let says_something = |one: &Settled| one.slot.is_some() || one.ruling.is_some();
        for done in batch.iter_mut() {
            done.sent.settled.retain(says_something);
        }
        let of_batch = batch.iter().flat_map(|done| &done.sent.settled);
        let settled: Vec<Settled> = of_batch.chain(&self.unsettled).cloned().collect();
        if settled.is_empty() {
            return HashSet::new();
        }
        let busy: HashSet<String> = match self.until_taken("settling with robots", || self.store.settle(&settled)).await
        {
            Ok(changes) => {
                changes.iter().for_each(announce);
                changes.into_iter().filter(|change| change.kind == "busy").map(|change| change.robot).collect()
            }
            // The places it holds end by themselves.
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "what was learnt of robots is refused");
                HashSet::new()
            }
        };
        let of_batch = batch.iter_mut().map(|done| &mut done.sent.settled);
        for settled in of_batch.chain([&mut self.unsettled]) {
            settled.retain(|one| busy.contains(&one.robot));
        }
        busy
    }

    /// The outcomes are all there is to tell that messages were sent.
    async fn write(&self, batch: &[Done]) -> anyhow::Result<Counts> {
        let mut outcomes: Vec<Recorded<'_>> = batch.iter().flat_map(Done::records).collect();
        if self.worker.is_none() {
            outcomes.iter_mut().for_each(|recorded| recorded.attempt = None);
        }
        let worker = self.worker.as_deref().unwrap_or_default();
        self.until_taken("recording outcomes", || self.store.record(&outcomes, worker)).await
    }

    /// Tries until the database takes or refuses it.
    async fn until_taken<T, F>(&self, doing: &str, attempt: impl Fn() -> F) -> anyhow::Result<T>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        let mut backoff = Backoff::reconnecting();
        loop {
            match attempt().await {
                Err(error) if db::verdict(&error) != Verdict::Refused => {
                    let why = format!("{doing} failed: {error:#}");
                    if self.health.stuck(RECORDER, &why) {
                        tracing::warn!("{why}; trying again until it can");
                    }
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                result => return result,
            }
        }
    }

    fn recorded(&self, done: Done, counts: &Counts) {
        for member in done.members {
            let is_counted = counts.of(member.key) == Some(true);
            match is_counted {
                true => self.metrics.recorded(&member.channel, &member.template_id, done.sent.outcome.kind()),
                false => drop(self.metrics.leases_lost.inc()),
            }
            if let Some(late) = counts.late(member.key) {
                self.metrics.delivered(&member.channel, late);
            }
            self.metrics.in_hand.dec();
            log(&member, &done.sent, is_counted);
            // An event that is only put back has not come a step further.
            if done.sent.attempt.is_some() || !matches!(done.sent.outcome, Outcome::Wait { .. }) {
                self.traces.tell(|| step(&member, &done.sent));
            }
            // Whoever takes the acknowledgements outlives the recorder, but for a panic.
            let _ = self.acks.send(member.receipts);
        }
    }
}

/// What people are to know of a robot: once, by whoever brought it about.
fn announce(change: &Change) {
    let Change { robot, kind, reason } = change;
    match kind.as_str() {
        "paused" => {
            tracing::error!(robot, reason, "robot paused: its events wait, and use no retries, until it works again")
        }
        "cooling" => tracing::warn!(robot, reason, "robot cooling down: its events wait, and use no retries"),
        "resumed" => tracing::info!(robot, reason, "robot resumed: it works again"),
        _ => {}
    }
}

/// A send as a span; what was decided without one takes no time.
fn step<'a>(member: &'a Member, sent: &'a Sent) -> Step<'a> {
    Step {
        name: "send",
        event_id: member.key.id,
        event_type: &member.event_type,
        template_id: &member.template_id,
        trace_id: member.trace_id.as_deref(),
        attempt: member.key.attempt,
        began: sent.attempt.as_ref().map(|attempt| attempt.started_at),
        took: sent.attempt.as_ref().map_or(Duration::ZERO, |attempt| attempt.took),
        sent: Some(traces::Sent {
            outcome: sent.outcome.kind(),
            class: sent.class,
            robot: sent.robot.as_deref().unwrap_or_default(),
            tries: sent.tries,
            error: sent.outcome.error(),
        }),
    }
}

/// One line an outcome.
fn log(member: &Member, sent: &Sent, counts: bool) {
    let Member { key, event_type, template_id, trace_id, .. } = member;
    let error = sent.outcome.error().unwrap_or_default();
    let digest_id = sent.digest_id.map(|id| id.to_string());
    macro_rules! line {
        ($level:ident, $text:expr) => {
            tracing::$level!(
                event_id = %key.id,
                event_type,
                template_id,
                trace_id = trace_id.as_deref().unwrap_or_default(),
                robot = sent.robot.as_deref().unwrap_or_default(),
                digest_id,
                class = sent.class,
                attempt = key.attempt,
                tries = sent.tries,
                took_ms = sent.took.as_millis() as u64,
                error,
                $text
            )
        };
    }
    match (&sent.outcome, counts) {
        (_, false) => line!(warn, "outcome no longer counts: cancelled, replayed or taken over meanwhile"),
        (Outcome::Delivered { .. }, true) => line!(info, "delivered"),
        (Outcome::Retry { .. }, true) => line!(warn, "retry"),
        // Why is the robot's, and said once.
        (Outcome::Wait { .. }, true) => line!(debug, "wait"),
        (Outcome::Failed { .. }, true) => line!(error, "failed"),
        (Outcome::Released { .. }, true) => line!(info, "released"),
    }
}
