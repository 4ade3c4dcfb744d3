//! 4 — the consumer: receive → take → render → send → record → ack.
//!
//! It takes only what it can start to send at once, owns each row for the send lease, and acknowledges a hint only
//! after the outcome is recorded. Whatever dies in between, the row is taken over when its lease has run out.

pub mod policy;
mod record;
mod send;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

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

/// Time for recording outcomes, and then for acknowledging hints, after the grace period.
const LAST_WORDS: Duration = Duration::from_secs(3);

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
    /// How long that may take, from the request on; what is left then is given back.
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
    acks: mpsc::UnboundedSender<Vec<Receipt>>,
    /// Ends the waits for answers.
    abandon: CancellationToken,
    /// When the queue was noticed to have lost hints whose leases have not been given back yet.
    hints_lost: Option<std::time::Instant>,
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
    /// Registers the consumer with the health of its process.
    pub fn expect(health: &Health, config: &config::Consumer, queue: &config::Queue) {
        health.expect(PART, config.send_lease + queue.stream_block + Duration::from_secs(60));
    }

    /// A consumer; its store's connections must commit durably.
    pub fn new(store: Store, queue: Arc<Q>, parts: Parts<'_>) -> Self {
        let Parts { config, hints, queue: queue_config, templates, channels, health, metrics } = parts;
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
        let (acks, receipts) = mpsc::unbounded_channel();
        let recorder = Recorder::new(self.store.clone(), acks.clone(), self.health.clone(), self.metrics.clone());
        let recording = tokio::spawn(recorder.run(outcomes));
        let acknowledging = tokio::spawn(acknowledge(self.queue.clone(), receipts));
        let mut hand = Hand {
            slots: Arc::new(Semaphore::new(self.concurrency)),
            received: VecDeque::new(),
            suspects: VecDeque::new(),
            sends: TaskTracker::new(),
            done,
            acks,
            abandon: CancellationToken::new(),
            hints_lost: None,
        };
        let abandon = hand.abandon.clone();
        let grace = tokio::spawn({
            let Stop { requested, grace } = stop.clone();
            let abandon = abandon.clone();
            async move {
                requested.cancelled().await;
                tokio::time::sleep(grace).await;
                abandon.cancel();
            }
        });
        let mut backoff = Backoff::reconnecting();
        // What is sent must be recorded: without a recorder nothing more is taken, and the process ends.
        while !stop.requested.is_cancelled() && !recording.is_finished() {
            let round = tokio::select! {
                round = self.round(&mut hand, &stop.requested) => round,
                () = abandon.cancelled() => break,
            };
            match round {
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
        self.finish(hand, recording, acknowledging).await;
        grace.abort();
    }

    /// Receives what fits into the free slots, takes the rows, and starts to send them.
    async fn round(&self, hand: &mut Hand, stop: &CancellationToken) -> anyhow::Result<()> {
        self.store.renew_lost_hints(&mut hand.hints_lost, self.hint_lease).await?;
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
            hand.hints_lost = received.hints_lost.or(hand.hints_lost);
            hand.received.extend(received.hints);
        }
        let hints: Vec<Hint> = hand.received.iter().take(free).cloned().collect();
        if !hints.is_empty() && !stop.is_cancelled() {
            self.take(hand, &hints, false).await?;
            hand.received.drain(..hints.len());
        }
        Ok(())
    }

    /// Judges the rows of these hints: starts the sends, and drops, keeps or puts aside the other hints.
    async fn take(&self, hand: &mut Hand, hints: &[Hint], alone: bool) -> anyhow::Result<()> {
        let mut receipts: HashMap<Uuid, Vec<Receipt>> = HashMap::new();
        for hint in hints {
            receipts.entry(hint.event_id).or_default().push(hint.receipt.clone());
        }
        let ids: Vec<Uuid> = receipts.keys().copied().collect();
        // The lease is measured from before the statement, and so ends here a little before it ends there.
        let deadline = Instant::now() + self.send_lease;
        for verdict in self.store.take(&ids, self.send_lease, alone).await? {
            match verdict {
                Taken::Event(event) => {
                    let receipts = receipts.remove(&event.id).unwrap_or_default();
                    let slot = hand.slots.clone().try_acquire_owned()?;
                    let key = Key { id: event.id, replay_count: event.replay_count, attempt: event.attempt };
                    let sending = self.sender.clone().send(*event, key, deadline, hand.abandon.clone());
                    let done = hand.done.clone();
                    self.metrics.in_hand.inc();
                    hand.sends.spawn(async move {
                        let sent = sending.await;
                        // The recorder outlives every send, but for a panic, which ends the process.
                        let _ = done.send(Done { key, sent, receipts, slot: Some(slot) });
                    });
                }
                Taken::Unreadable { key, channel, event_type, template_id, trace_id, error } => {
                    let receipts = receipts.remove(&key.id).unwrap_or_default();
                    let sent = send::Sent {
                        channel,
                        event_type,
                        template_id: self.sender.known(&template_id).to_owned(),
                        trace_id,
                        ..send::Sent::unsent(Outcome::Failed { error, response: None })
                    };
                    self.metrics.in_hand.inc();
                    let _ = hand.done.send(Done { key, sent, receipts, slot: None });
                }
                // Its hint is not needed any more: the dead letter comes from the row.
                Taken::Failed { id, channel, template_id, trace_id, error } => {
                    let trace_id = trace_id.as_deref().unwrap_or_default();
                    tracing::error!(event_id = %id, template_id, trace_id, error, "failed");
                    self.metrics.recorded(&channel, self.sender.known(&template_id), "failed");
                }
                Taken::Alone(id) => {
                    let receipt = receipts.remove(&id).and_then(|mut receipts| receipts.pop());
                    hand.suspects.extend(receipt.map(|receipt| Hint { event_id: id, receipt }));
                }
                // Its hint stays pending, and is looked at again when its send lease may have run out.
                Taken::Busy(id) => drop(receipts.remove(&id)),
            }
        }
        let skipped: Vec<Receipt> = receipts.into_values().flatten().collect();
        self.metrics.duplicate_hints.inc_by(skipped.len() as u64);
        let _ = hand.acks.send(skipped);
        Ok(())
    }

    /// Gives back what was not begun, waits for the sends in hand until they are abandoned, and has everything recorded.
    async fn finish(&self, hand: Hand, recording: JoinHandle<()>, acknowledging: JoinHandle<()>) {
        let Hand { received, suspects, sends, done, acks, abandon, .. } = hand;
        sends.close();
        if !sends.is_empty() {
            tracing::info!(in_hand = sends.len(), "finishing what is in hand");
        }
        let (ids, receipts): (Vec<Uuid>, Vec<Receipt>) =
            received.into_iter().chain(suspects).map(|hint| (hint.event_id, hint.receipt)).unzip();
        if !ids.is_empty() && self.store.give_back(&ids).await.is_ok() {
            let _ = acks.send(receipts);
        }
        tokio::select! {
            () = sends.wait() => {}
            () = abandon.cancelled() => {
                tracing::warn!(in_hand = sends.len(), "the grace period is over; giving back what is in hand");
                sends.wait().await;
            }
        }
        drop((done, acks));
        if tokio::time::timeout(LAST_WORDS, recording).await.is_err() {
            tracing::error!("could not record all outcomes in time; their send leases will run out");
        }
        // What is not acknowledged is skipped by whoever gets it.
        let _ = tokio::time::timeout(LAST_WORDS, acknowledging).await;
    }
}

/// Acknowledges hints, as many at a time as have come together. Nobody waits for it, and a failure is harmless: a hint
/// that is still there is skipped later.
async fn acknowledge<Q: Queue>(queue: Arc<Q>, mut receipts: mpsc::UnboundedReceiver<Vec<Receipt>>) {
    let mut batches = Vec::new();
    while receipts.recv_many(&mut batches, 256).await > 0 {
        let receipts: Vec<Receipt> = batches.drain(..).flatten().collect();
        if let Err(error) = queue.ack(&receipts).await {
            tracing::debug!(%error, hints = receipts.len(), "acknowledging failed");
        }
    }
}

/// A place among the sends at the same time; freed when the outcome is recorded.
type Slot = OwnedSemaphorePermit;
