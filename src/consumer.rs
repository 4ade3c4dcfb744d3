//! 4 — the consumer: receive → take → render → send → record → ack.
//!
//! It takes only what it can start to send at once, owns each row for the send lease, and acknowledges a hint only
//! after the outcome is recorded. Whatever dies in between, the row is taken over when its lease has run out.

pub mod policy;
mod record;
mod send;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::Backoff;
use crate::channel::Channels;
use crate::config;
use crate::event::Outcome;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::queue::{Hint, Queue, Receipt};
use crate::store::{Key, Store, Taken};
use crate::template::Templates;
use policy::RetryPolicy;
use record::{Done, Recorder};
use send::Sender;

/// The consumer's name in logs and health.
const PART: &str = "consumer";

/// Time for recording what was sent, after the grace period.
const RECORD_GRACE: Duration = Duration::from_secs(3);

/// Takes hinted rows and sends them.
pub struct Consumer<Q> {
    store: Store,
    queue: Arc<Q>,
    sender: Arc<Sender>,
    send_lease: Duration,
    hint_lease: Duration,
    block: Duration,
    concurrency: usize,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

/// How the consumer is told to stop.
#[derive(Clone, Debug)]
pub struct Stop {
    /// Take nothing more, finish what is in hand.
    pub requested: CancellationToken,
    /// How long that may take; what is left then is given back.
    pub grace: Duration,
}

/// What a consumer is made of, beside its store and its queue.
pub struct Parts<'a> {
    /// Its own settings.
    pub config: &'a config::Consumer,
    /// For giving hints back that a queue has lost.
    pub hints: &'a config::Hints,
    /// For how long a read waits.
    pub queue: &'a config::Queue,
    /// What renders.
    pub templates: Templates,
    /// What sends.
    pub channels: Channels,
    /// Where it says whether it gets on.
    pub health: Arc<Health>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

/// What is in this process's hand, and what it has put aside.
struct Hand {
    slots: Arc<Semaphore>,
    /// Hints that were received and whose rows are not judged yet.
    received: VecDeque<Hint>,
    /// Hints of rows that may kill their consumer: each is taken when nothing else is in hand, so that it takes no
    /// neighbour with it.
    suspects: VecDeque<Hint>,
    sends: TaskTracker,
    done: mpsc::UnboundedSender<Done>,
    abandon: CancellationToken,
    /// When the queue was noticed to have lost hints whose leases have not been given back yet.
    owes_release: Option<std::time::Instant>,
}

impl Hand {
    /// Waits until so many slots are free; false where a stop came first.
    async fn free(&self, slots: usize, stop: &CancellationToken) -> bool {
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        tokio::select! {
            permits = self.slots.acquire_many(slots) => permits.is_ok(),
            () = stop.cancelled() => false,
        }
    }
}

impl<Q: Queue> Consumer<Q> {
    /// A consumer; its store's connections must commit durably.
    pub fn new(store: Store, queue: Arc<Q>, parts: Parts<'_>) -> Self {
        let Parts { config, hints, queue: queue_config, templates, channels, health, metrics } = parts;
        health.expect(PART, config.send_lease + queue_config.stream_block + Duration::from_secs(30));
        let policy = RetryPolicy::new(config.max_retry, config.retry_backoff.clone());
        Self {
            sender: Arc::new(Sender::new(store.clone(), templates, channels, policy, metrics.clone())),
            store,
            queue,
            send_lease: config.send_lease,
            hint_lease: hints.hint_lease,
            block: queue_config.stream_block,
            concurrency: usize::try_from(config.concurrency).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS),
            health,
            metrics,
        }
    }

    /// Runs until told to stop; then finishes what is in hand, gives back what is not finished in time, and returns.
    pub async fn run(self, stop: Stop) {
        let (done, outcomes) = mpsc::unbounded_channel();
        let recorder = Recorder::new(self.store.clone(), self.queue.clone(), self.metrics.clone());
        let recording = tokio::spawn(recorder.run(outcomes));
        let mut hand = Hand {
            slots: Arc::new(Semaphore::new(self.concurrency)),
            received: VecDeque::new(),
            suspects: VecDeque::new(),
            sends: TaskTracker::new(),
            done,
            abandon: CancellationToken::new(),
            owes_release: None,
        };
        let mut backoff = Backoff::reconnecting();
        while !stop.requested.is_cancelled() {
            match self.round(&mut hand, &stop.requested).await {
                Ok(()) => {
                    backoff.reset();
                    self.health.moved(PART);
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    if self.health.stuck(PART, &why) {
                        tracing::warn!(error = why, "the consumer cannot go on; trying again until it can");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(backoff.next_delay()) => {}
                        () = stop.requested.cancelled() => {}
                    }
                }
            }
        }
        self.finish(hand, recording, stop.grace).await;
    }

    /// Receives what fits into the free slots, takes the rows, and starts to send them. Only the wait for slots is cut
    /// short by a stop: a read or a take that was dropped half-way would leave rows to their leases.
    async fn round(&self, hand: &mut Hand, stop: &CancellationToken) -> anyhow::Result<()> {
        if let Some(noticed) = hand.owes_release {
            let released = self.store.release_hints(self.hint_lease, noticed).await?;
            hand.owes_release = None;
            tracing::info!(released, "the queue may have lost hints; gave back their leases");
        }
        if let Some(suspect) = hand.suspects.front().cloned() {
            if hand.free(self.concurrency, stop).await {
                self.take(hand, &[suspect], true).await?;
                hand.suspects.pop_front();
                hand.free(self.concurrency, stop).await;
            }
            return Ok(());
        }
        // Wait for one slot, then use all that are free.
        if !hand.free(1, stop).await {
            return Ok(());
        }
        let free = hand.slots.available_permits();
        if hand.received.is_empty() {
            let received = self.queue.receive(free, self.block).await?;
            hand.owes_release = received.hints_lost.or(hand.owes_release);
            hand.received.extend(received.hints);
        }
        let hints: Vec<Hint> = hand.received.iter().take(free).cloned().collect();
        if !hints.is_empty() {
            self.take(hand, &hints, false).await?;
            hand.received.drain(..hints.len());
        }
        Ok(())
    }

    /// Judges the rows of these hints: starts the sends, and drops, keeps or puts aside the other hints.
    async fn take(&self, hand: &mut Hand, hints: &[Hint], alone: bool) -> anyhow::Result<()> {
        let ids: Vec<_> = hints.iter().map(|hint| hint.event_id).collect();
        // The lease is measured from before the statement, and so ends here a little before it ends there.
        let deadline = Instant::now() + self.send_lease;
        let taken = self.store.take(&ids, self.send_lease, alone).await?;
        let mut unneeded: Vec<&Hint> = hints.iter().collect();
        let mut receipts_of = |id| {
            let (mine, others) = unneeded.iter().partition(|hint| hint.event_id == id);
            unneeded = others;
            let mine: Vec<&Hint> = mine;
            mine
        };
        for verdict in taken {
            match verdict {
                Taken::Event(event) => {
                    let receipts = receipts(&receipts_of(event.id));
                    let permit = hand.slots.clone().try_acquire_owned()?;
                    let key = Key { id: event.id, replay_count: event.replay_count, attempt: event.attempt };
                    let sending = self.sender.clone().send(*event, key, deadline, hand.abandon.clone());
                    let done = hand.done.clone();
                    self.metrics.in_hand.inc();
                    hand.sends.spawn(async move {
                        let sent = sending.await;
                        // The recorder outlives every send.
                        drop(done.send(Done { key, sent, receipts, slot: Some(permit) }));
                    });
                }
                Taken::Unreadable { key, error } => {
                    let receipts = receipts(&receipts_of(key.id));
                    let sent = send::Sent::unsent(Outcome::Failed { error, response: None });
                    self.metrics.in_hand.inc();
                    drop(hand.done.send(Done { key, sent, receipts, slot: None }));
                }
                Taken::Failed { id, channel, template_id, trace_id, error } => {
                    let trace_id = trace_id.as_deref().unwrap_or_default();
                    tracing::error!(event_id = %id, template_id, trace_id, error, "failed");
                    self.metrics.recorded(&channel, self.sender.known(&template_id), "failed");
                }
                Taken::Alone(id) => hand.suspects.extend(receipts_of(id).into_iter().take(1).cloned()),
                // Its hint stays pending, and is looked at again when its send lease may have run out.
                Taken::Busy(id) => drop(receipts_of(id)),
            }
        }
        let skipped: Vec<Receipt> = receipts(&unneeded);
        self.metrics.duplicate_hints.inc_by(skipped.len() as u64);
        self.queue.ack(&skipped).await?;
        Ok(())
    }

    /// Waits for the sends in hand, gives back those that take too long, and has everything recorded.
    async fn finish(&self, hand: Hand, recording: tokio::task::JoinHandle<()>, grace: Duration) {
        let Hand { sends, done, abandon, .. } = hand;
        sends.close();
        if !sends.is_empty() {
            tracing::info!(in_hand = sends.len(), "finishing what is in hand");
        }
        if tokio::time::timeout(grace, sends.wait()).await.is_err() {
            tracing::warn!(in_hand = sends.len(), "the grace period is over; giving back what is in hand");
            abandon.cancel();
            sends.wait().await;
        }
        drop(done);
        if tokio::time::timeout(RECORD_GRACE, recording).await.is_err() {
            tracing::error!("could not record all outcomes in time; their send leases will run out");
        }
    }
}

fn receipts(hints: &[&Hint]) -> Vec<Receipt> {
    hints.iter().map(|hint| hint.receipt.clone()).collect()
}

/// A place among the sends at the same time; freed when the outcome is recorded.
type Slot = OwnedSemaphorePermit;
