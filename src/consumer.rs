//! 4 — the consumer: receive → take → render → admit → (merge) → send → record → ack.
//!
//! It takes only what it can start to send at once, owns each row for the send lease, and acknowledges a hint only
//! after the outcome is recorded. Whatever dies in between, the row is taken over when its lease has run out.

mod digest;
mod dispatch;
mod held;
mod letter;
mod place;
pub mod policy;
mod record;
mod send;
mod turn;
mod watch;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::backoff::Backoff;
use crate::channel::Channels;
use crate::config::{self, Switch};
use crate::event::Outcome;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::queue::{Hint, Queue, Receipt};
use crate::store::robots::Granted;
use crate::store::{Store, Taken, Takes};
use crate::template::Templates;
use crate::traces::Traces;
use dispatch::{Dispatch, Ready};
use held::Held;
use letter::{Done, Letter, Member};
use place::Places;
use policy::RetryPolicy;
use record::Recorder;
use send::{Halts, Sender};
use turn::Turns;
use watch::Watch;

/// The consumer's name in logs and health.
const PART: &str = "consumer";

/// Time for recording outcomes, and then for acknowledging hints, after the grace period.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Takes hinted rows and sends them.
pub struct Consumer<Q> {
    store: Store,
    queue: Arc<Q>,
    sender: Arc<Sender>,
    watch: Arc<Watch>,
    send_lease: Duration,
    hint_lease: Duration,
    block: Duration,
    concurrency: usize,
    worker: Option<String>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    traces: Traces,
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
    /// What the consumer is called.
    pub worker: &'a str,
    /// For how long a read waits.
    pub queue: &'a config::Queue,
    /// What renders.
    pub templates: Templates,
    /// What sends.
    pub channels: Channels,
    /// Places of each robot's budget that are kept free for urgent events.
    pub urgent_reserve: u64,
    /// Where it says whether it gets on.
    pub health: Arc<Health>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// Whom it tells of its sends.
    pub traces: Traces,
}

/// What is in this process's hand, and what it has put aside.
struct Hand {
    places: Places,
    /// Hints that were received and whose rows are not judged yet.
    received: VecDeque<Hint>,
    /// Hints of rows that may kill their consumer: each is taken when nothing else is in hand, so that it takes no
    /// neighbour with it.
    suspects: VecDeque<Hint>,
    held: Held,
    /// The order of sends.
    turns: Turns,
    /// The order in which admission is asked for.
    admissions: Turns,
    /// Where what was taken goes.
    dispatch: Dispatch,
    /// When the queue was noticed to have lost hints whose leases have not been given back yet.
    hints_lost: Option<std::time::Instant>,
}

impl<Q: Queue> Consumer<Q> {
    /// Registers the consumer with the health of its process.
    pub fn expect(health: &Health, config: &config::Consumer, queue: &config::Queue) {
        health.expect(PART, config.send_lease + queue.stream_block + Duration::from_secs(60));
        Watch::expect(health);
    }

    /// A consumer; its store's connections must commit durably.
    pub fn new(store: Store, queue: Arc<Q>, parts: Parts<'_>) -> Self {
        let Parts {
            config,
            hints,
            worker,
            queue: queue_config,
            templates,
            channels,
            urgent_reserve,
            health,
            metrics,
            traces,
        } = parts;
        let policy = RetryPolicy::new(config.max_retry, config.retry_backoff.clone());
        let channels = Arc::new(channels);
        let watch = Arc::new(Watch::new(store.clone(), channels.clone(), urgent_reserve, health.clone()));
        metrics.announce("dingtalk", templates.ids());
        let sender = Sender {
            store: store.clone(),
            templates,
            channels,
            policy,
            send_lease: config.send_lease,
            watch: watch.clone(),
            halts: Halts::default(),
            metrics: metrics.clone(),
        };
        Self {
            sender: Arc::new(sender),
            watch,
            store,
            queue,
            send_lease: config.send_lease,
            hint_lease: hints.hint_lease,
            block: queue_config.stream_block,
            concurrency: usize::try_from(config.concurrency).unwrap_or(usize::MAX).min(Places::MOST),
            worker: (config.attempts == Switch::On).then(|| worker.to_owned()),
            health,
            metrics,
            traces,
        }
    }

    /// Runs until told to stop; then finishes what is in hand, gives back what is not finished in time, and returns.
    pub async fn run(self, stop: Stop) {
        let (done, outcomes) = mpsc::unbounded_channel();
        let (acks, receipts) = mpsc::unbounded_channel();
        let recorder = Recorder::new(
            self.store.clone(),
            self.worker.clone(),
            acks.clone(),
            self.health.clone(),
            self.metrics.clone(),
            self.traces.clone(),
        );
        let recording = tokio::spawn(recorder.run(outcomes));
        let acknowledging = tokio::spawn(acknowledge(self.queue.clone(), receipts));
        let watching = tokio::spawn(self.watch.clone().run(stop.requested.clone()));
        let mut hand = Hand {
            places: Places::new(self.concurrency),
            received: VecDeque::new(),
            suspects: VecDeque::new(),
            held: Held::default(),
            turns: Turns::default(),
            admissions: Turns::default(),
            dispatch: Dispatch {
                sender: self.sender.clone(),
                metrics: self.metrics.clone(),
                sends: TaskTracker::new(),
                done,
                acks,
                abandon: CancellationToken::new(),
            },
            hints_lost: None,
        };
        let abandon = hand.dispatch.abandon.clone();
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
        watching.abort();
    }

    /// Receives what fits into the free slots, takes the rows, and starts to send them.
    async fn round(&self, hand: &mut Hand, stop: &CancellationToken) -> anyhow::Result<()> {
        self.store.renew_lost_hints(&mut hand.hints_lost, self.hint_lease).await?;
        if let Some(suspect) = hand.suspects.front().cloned() {
            if hand.places.all_free(stop).await {
                self.take(hand, &[suspect], true).await?;
                hand.suspects.pop_front();
                hand.places.all_free(stop).await;
            }
            return Ok(());
        }
        // Wait for one slot, then use all that are free.
        let free = hand.places.free(stop).await;
        if free == 0 {
            return Ok(());
        }
        if hand.received.is_empty() {
            let received = self.queue.receive(free, self.block).await?;
            hand.hints_lost = received.hints_lost.or(hand.hints_lost);
            hand.received.extend(received.hints);
        }
        hand.received.extend(hand.held.due());
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
        let Takes { verdicts, closed, taken_over } = self.store.take(&ids, self.send_lease, alone).await?;
        self.metrics.takeovers.inc_by(taken_over);
        let is_unknown =
            |taken: &Taken| matches!(taken, Taken::Event(event) if self.sender.is_for_unknown_target(event));
        if verdicts.iter().any(is_unknown)
            && let Err(error) = self.watch.refresh().await
        {
            tracing::warn!(error = format!("{error:#}"), "reading the targets failed");
        }
        let mut letters = Vec::new();
        let mut digests: BTreeMap<Uuid, Vec<Hint>> = BTreeMap::new();
        for verdict in verdicts {
            match verdict {
                Taken::Digest { id, digest_id } => {
                    let hints = receipts.remove(&id).unwrap_or_default().into_iter();
                    digests.entry(digest_id).or_default().extend(hints.map(|receipt| Hint { event_id: id, receipt }));
                }
                other => letters.extend(self.judged(hand, other, &mut receipts, deadline)),
            }
        }
        for (digest_id, hints) in digests {
            match self.take_digest(hand, digest_id, &hints, alone).await {
                Ok(letter) => letters.extend(letter),
                // What was taken already is this consumer's to send.
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), %digest_id, "taking a message as a whole failed; trying again");
                    hints.into_iter().for_each(|hint| hand.held.keep(hint));
                }
            }
        }
        let skipped: Vec<Receipt> = receipts.into_values().flatten().collect();
        self.metrics.duplicate_hints.inc_by(skipped.len() as u64);
        hand.dispatch.drop_hints(skipped);

        let mut asking: BTreeMap<String, Vec<Ready>> = BTreeMap::new();
        for letter in letters {
            self.metrics.in_hand.inc_by(letter.members.len() as i64);
            // There is a free slot: no more was taken than there are.
            let slot = hand.places.take()?;
            let turn = (letter.lane.has_budget() && !letter.event.urgent).then(|| hand.turns.next(&letter.lane.name));
            let ready = Ready { letter, slot, turn };
            match ready.letter.lane.robots.as_slice() {
                [] => hand.dispatch.put_back(ready),
                // One that has no row yet gets it where it asks for admission: what is learnt of it is written there. And
                // there it is stored that an event of a pool goes by the only one that is left.
                [robot]
                    if robot.rate().is_none()
                        && !closed.iter().any(|name| name == robot.name())
                        && robot.name() == ready.letter.lane.name
                        && self.watch.knows(robot) =>
                {
                    let robot = robot.name().to_owned();
                    let granted = Granted { robot, slot: None, probes: false, merges: false };
                    hand.dispatch.start(ready, granted, Instant::now());
                }
                _ => asking.entry(ready.letter.lane.name.clone()).or_default().push(ready),
            }
        }
        for (lane, letters) in asking {
            hand.dispatch.admit(letters, hand.admissions.next(&lane));
        }
        Ok(())
    }

    /// What follows from the verdict on one row; a letter where it is to be sent.
    fn judged(
        &self,
        hand: &mut Hand,
        verdict: Taken,
        receipts: &mut HashMap<Uuid, Vec<Receipt>>,
        deadline: Instant,
    ) -> Option<Letter> {
        match verdict {
            Taken::Event(event) => {
                let receipts = receipts.remove(&event.id).unwrap_or_default();
                match self.sender.prepare(*event, receipts, deadline) {
                    Ok(letter) => return Some(letter),
                    Err(done) => {
                        self.metrics.in_hand.inc();
                        hand.dispatch.ended(*done);
                    }
                }
            }
            Taken::Unreadable { key, channel, event_type, template_id, trace_id, error } => {
                let receipts = receipts.remove(&key.id).unwrap_or_default();
                let template_id = self.sender.known(&template_id).to_owned();
                let member = Member { key, receipts, channel, event_type, template_id, trace_id, digest_limit: None };
                self.metrics.in_hand.inc();
                hand.dispatch.ended(Done::unsent(member, Outcome::Failed { error, response: None }));
            }
            // Its hint is not needed any more: the dead letter comes from the row.
            Taken::Failed { id, channel, template_id, trace_id, error } => {
                let trace_id = trace_id.as_deref().unwrap_or_default();
                tracing::error!(event_id = %id, template_id, trace_id, error, "failed");
                self.metrics.recorded(&channel, self.sender.known(&template_id), "failed");
            }
            Taken::Arrived { id, channel, template_id, trace_id } => {
                let trace_id = trace_id.as_deref().unwrap_or_default();
                tracing::info!(event_id = %id, template_id, trace_id, "delivered, as another event of the same message knows");
                self.metrics.recorded(&channel, self.sender.known(&template_id), "delivered");
            }
            Taken::Alone(id) => {
                let receipt = receipts.remove(&id).and_then(|mut receipts| receipts.pop());
                hand.suspects.extend(receipt.map(|receipt| Hint { event_id: id, receipt }));
            }
            Taken::Held(id) => {
                for receipt in receipts.remove(&id).unwrap_or_default() {
                    hand.held.keep(Hint { event_id: id, receipt });
                }
            }
            // Its hint stays pending, and is looked at again when its send lease may have run out.
            Taken::Busy(id) | Taken::Digest { id, .. } => drop(receipts.remove(&id)),
        }
        None
    }

    /// Takes the whole of a message whose outcome is unknown, or leaves it, and these hints of it, for later.
    async fn take_digest(
        &self,
        hand: &mut Hand,
        digest_id: Uuid,
        hints: &[Hint],
        alone: bool,
    ) -> anyhow::Result<Option<Letter>> {
        let deadline = Instant::now() + self.send_lease;
        let Takes { verdicts, taken_over, .. } = self.store.take_digest(digest_id, self.send_lease, alone).await?;
        self.metrics.takeovers.inc_by(taken_over);
        if verdicts.is_empty() {
            return Ok(None);
        }
        if verdicts.iter().any(|verdict| matches!(verdict, Taken::Alone(_))) {
            hand.suspects.extend(hints.first().cloned());
            return Ok(None);
        }
        let mut events = Vec::with_capacity(verdicts.len());
        let mut receipts: HashMap<Uuid, Vec<Receipt>> = HashMap::new();
        for verdict in verdicts {
            match verdict {
                Taken::Event(event) => events.push(*event),
                other => drop(self.judged(hand, other, &mut receipts, deadline)),
            }
        }
        let receipts: Vec<Receipt> = hints.iter().map(|hint| hint.receipt.clone()).collect();
        if events.is_empty() {
            hand.dispatch.drop_hints(receipts);
            return Ok(None);
        }
        match self.sender.whole(events, digest_id, receipts, deadline) {
            Ok(letter) => Ok(Some(letter)),
            Err(done) => {
                self.metrics.in_hand.inc_by(done.members.len() as i64);
                hand.dispatch.ended(*done);
                Ok(None)
            }
        }
    }

    /// Gives back what was not begun, waits for the sends in hand until they are abandoned, and has everything recorded.
    async fn finish(&self, hand: Hand, recording: JoinHandle<()>, acknowledging: JoinHandle<()>) {
        let Hand { received, suspects, dispatch, .. } = hand;
        let (sends, abandon) = (dispatch.sends.clone(), dispatch.abandon.clone());
        sends.close();
        if !sends.is_empty() {
            tracing::info!(in_hand = sends.len(), "finishing what is in hand");
        }
        let (ids, receipts): (Vec<Uuid>, Vec<Receipt>) =
            received.into_iter().chain(suspects).map(|hint| (hint.event_id, hint.receipt)).unzip();
        if !ids.is_empty() && self.store.give_back(&ids).await.is_ok() {
            dispatch.drop_hints(receipts);
        }
        tokio::select! {
            () = sends.wait() => {}
            () = abandon.cancelled() => {
                tracing::warn!(in_hand = sends.len(), "the grace period is over; giving back what is in hand");
                sends.wait().await;
            }
        }
        drop(dispatch);
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
