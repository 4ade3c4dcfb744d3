//! Recording outcomes, as many at a time as have ended in the meantime.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::Instant;

use super::Slot;
use super::send::Sent;
use crate::backoff::Backoff;
use crate::db::{self, Verdict};
use crate::event::Outcome;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::queue::Receipt;
use crate::store::{Counts, Key, Recorded, Store};

/// The recorder's name in health.
pub(super) const RECORDER: &str = "recorder";

/// Most outcomes of one statement.
const BATCH: usize = 256;

/// Outcomes that wait longer than this for their rows are for people to know of.
const PATIENCE: Duration = Duration::from_secs(10);

/// A take that has ended.
#[derive(Debug)]
pub(super) struct Done {
    pub key: Key,
    pub sent: Sent,
    /// The hints that led to it.
    pub receipts: Vec<Receipt>,
    /// Freed once the outcome is recorded, so that a slow database slows down the taking.
    #[expect(dead_code, reason = "held, and freed by being dropped")]
    pub slot: Option<Slot>,
}

/// Writes outcomes down, and then lets go of their hints. A lone one is written at once; those that end while a
/// statement runs share the next one. One whose row is held by somebody's transaction is put aside, and holds up none.
pub(super) struct Recorder {
    store: Store,
    acks: UnboundedSender<Vec<Receipt>>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    aside: Vec<Done>,
    aside_since: Instant,
    again: Backoff,
}

impl Recorder {
    pub(super) fn new(
        store: Store,
        acks: UnboundedSender<Vec<Receipt>>,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Self {
        health.expect(RECORDER, Duration::MAX);
        health.moved(RECORDER);
        let again = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        Self { store, acks, health, metrics, aside: Vec::new(), aside_since: Instant::now(), again }
    }

    /// Runs until every sender of outcomes is gone and all of them are recorded.
    pub(super) async fn run(mut self, mut ended: UnboundedReceiver<Done>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let open = tokio::select! {
                received = ended.recv_many(&mut batch, BATCH) => received > 0,
                () = tokio::time::sleep(self.again.next_delay()), if !self.aside.is_empty() => true,
            };
            if !open && self.aside.is_empty() {
                return;
            }
            if !open {
                tokio::time::sleep(self.again.next_delay()).await;
            }
            batch.append(&mut self.aside);
            let ended = std::mem::take(&mut batch);
            self.record(ended).await;
            match self.aside.is_empty() {
                true => {
                    self.health.moved(RECORDER);
                    self.again.reset();
                    self.aside_since = Instant::now();
                }
                false if self.aside_since.elapsed() >= PATIENCE => {
                    let ids: Vec<_> = self.aside.iter().map(|done| done.key.id).collect();
                    let why = format!("{} outcomes cannot be recorded: transactions hold their rows", ids.len());
                    if self.health.stuck(RECORDER, &why) {
                        tracing::warn!(?ids, "{why}");
                    }
                }
                false => {}
            }
        }
    }

    async fn record(&mut self, batch: Vec<Done>) {
        match self.write(&batch).await {
            Ok(counts) => {
                for done in batch {
                    match counts.of(done.key) {
                        Some(counted) => self.recorded(done, counted),
                        None => self.aside.push(done),
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
                for done in batch {
                    let error = format!("{error:#}");
                    tracing::error!(event_id = %done.key.id, error, "the outcome is refused; its send lease will run out");
                    self.metrics.in_hand.dec();
                }
            }
        }
    }

    /// Tries until the database takes or refuses them: the outcomes are all there is to tell that messages were sent.
    async fn write(&self, batch: &[Done]) -> anyhow::Result<Counts> {
        let outcomes: Vec<Recorded<'_>> = batch
            .iter()
            .map(|done| Recorded { key: done.key, outcome: &done.sent.outcome, robot: done.sent.robot.as_deref() })
            .collect();
        let mut backoff = Backoff::reconnecting();
        loop {
            match self.store.record(&outcomes).await {
                Err(error) if db::verdict(&error) != Verdict::Refused => {
                    let why = format!("recording outcomes failed: {error:#}");
                    if self.health.stuck(RECORDER, &why) {
                        tracing::warn!(outcomes = outcomes.len(), "{why}; trying again until it can");
                    }
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                result => return result,
            }
        }
    }

    fn recorded(&self, done: Done, counted: bool) {
        let Sent { channel, template_id, outcome, .. } = &done.sent;
        match counted {
            true => self.metrics.recorded(channel, template_id, outcome.kind()),
            false => drop(self.metrics.leases_lost.inc()),
        }
        self.metrics.in_hand.dec();
        log(&done, counted);
        // Whoever takes the acknowledgements outlives the recorder, but for a panic.
        let _ = self.acks.send(done.receipts);
    }
}

/// One line an outcome.
fn log(done: &Done, counts: bool) {
    let Done { key, sent, .. } = done;
    let error = sent.outcome.error().unwrap_or_default();
    macro_rules! line {
        ($level:ident, $text:expr) => {
            tracing::$level!(
                event_id = %key.id,
                event_type = sent.event_type,
                template_id = sent.template_id,
                trace_id = sent.trace_id.as_deref().unwrap_or_default(),
                robot = sent.robot.as_deref().unwrap_or_default(),
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
        (Outcome::Wait { .. }, true) => line!(warn, "wait"),
        (Outcome::Failed { .. }, true) => line!(error, "failed"),
        (Outcome::Released { .. }, true) => line!(info, "released"),
    }
}
