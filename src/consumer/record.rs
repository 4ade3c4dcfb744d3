//! Recording outcomes and acknowledging hints, as many at a time as have ended in the meantime.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use super::Slot;
use super::send::Sent;
use crate::backoff::Backoff;
use crate::db;
use crate::event::Outcome;
use crate::metrics::Metrics;
use crate::queue::{Queue, Receipt};
use crate::store::{Key, Recorded, Store};

/// Most outcomes of one statement.
const BATCH: usize = 256;

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

/// Writes outcomes down. A lone one is written at once; those that end while a statement runs share the next one.
pub(super) struct Recorder<Q> {
    store: Store,
    queue: Arc<Q>,
    metrics: Arc<Metrics>,
}

impl<Q: Queue> Recorder<Q> {
    pub(super) fn new(store: Store, queue: Arc<Q>, metrics: Arc<Metrics>) -> Self {
        Self { store, queue, metrics }
    }

    /// Runs until every sender of outcomes is gone and all of them are recorded.
    pub(super) async fn run(self, mut ended: UnboundedReceiver<Done>) {
        let mut batch = Vec::with_capacity(BATCH);
        while ended.recv_many(&mut batch, BATCH).await > 0 {
            self.record(&batch).await;
            let receipts: Vec<Receipt> = batch.iter().flat_map(|done| done.receipts.iter().cloned()).collect();
            // An acknowledgement that fails leaves a hint that is skipped later.
            if let Err(error) = self.queue.ack(&receipts).await {
                tracing::debug!(%error, hints = receipts.len(), "acknowledging failed");
            }
            self.metrics.in_hand.dec_by(i64::try_from(batch.len()).unwrap_or(i64::MAX));
            batch.clear();
        }
    }

    async fn record(&self, batch: &[Done]) {
        match self.write(batch).await {
            Ok(counted) => {
                for done in batch {
                    let counts = counted.contains(&done.key.id);
                    self.count(done, counts);
                    log(done, counts);
                }
            }
            // One outcome that PostgreSQL refuses must not keep the others from being recorded.
            Err(_) if batch.len() > 1 => {
                for done in batch {
                    Box::pin(self.record(std::slice::from_ref(done))).await;
                }
            }
            Err(error) => {
                let ids: Vec<_> = batch.iter().map(|done| done.key.id).collect();
                tracing::error!(
                    ?ids,
                    error = format!("{error:#}"),
                    "the outcome cannot be recorded; its send lease will run out"
                );
            }
        }
    }

    /// Tries while the database is away: the outcomes are all there is to tell that messages were sent.
    async fn write(&self, batch: &[Done]) -> anyhow::Result<Vec<uuid::Uuid>> {
        let outcomes: Vec<Recorded> = batch
            .iter()
            .map(|done| Recorded { key: done.key, outcome: &done.sent.outcome, robot: done.sent.robot.as_deref() })
            .collect();
        let mut backoff = Backoff::reconnecting();
        loop {
            match self.store.record(&outcomes).await {
                Err(error) if error.downcast_ref().is_none_or(db::is_unavailable) => {
                    let error = format!("{error:#}");
                    tracing::warn!(error, outcomes = outcomes.len(), "recording outcomes failed; trying again");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                result => return result,
            }
        }
    }

    fn count(&self, done: &Done, counts: bool) {
        if !counts {
            self.metrics.leases_lost.inc();
            return;
        }
        self.metrics.recorded(&done.sent.channel, &done.sent.template_id, done.sent.outcome.kind());
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
