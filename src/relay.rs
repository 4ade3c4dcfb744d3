//! 2 — the relay: wake → claim → hint → bury → (unpark).
//!
//! Its only promise is that every due row is hinted, again and again if need be, until it is complete. It holds no
//! state that matters: all of it is in the rows.

mod listen;
pub mod retention;
mod scan;
mod wake;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::config;
use crate::db::Database;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::queue::{Message, Queue, Room, Topic};
use crate::store::{Claimed, Claims, Store};
use crate::traces::{Step, Traces};
use scan::{Reach, Scan};
use wake::Waker;

/// The relay's name in logs and health.
const PART: &str = "relay";

/// How often a full stream is looked at.
const FULL_INTERVAL: Duration = Duration::from_millis(100);

/// How often rows that rest for robots are looked at while there is other work.
const UNPARK_INTERVAL: Duration = Duration::from_millis(50);

/// Where a claim finds so many rows, but no full batch of them, more are on their way.
const MANY: usize = 4;

/// How long they gather before the next claim, until there are enough for a statement to be worth its while: the database
/// has that time for those who insert.
const GATHERING: Duration = Duration::from_millis(5);

/// The same where more than so many come in a second.
const LONG_GATHERING: Duration = Duration::from_millis(20);
const VERY_MANY: f64 = 1_500.0;

/// A stream that stays full this long has no consumer that keeps up: that is for people to know.
const FULL_PATIENCE: Duration = Duration::from_secs(30);

/// Moves hints of due rows from the table to the queue.
pub struct Relay<Q> {
    store: Store,
    queue: Arc<Q>,
    hint_lease: Duration,
    batch_size: usize,
    waker: Waker,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    traces: Traces,
    /// How many hints fit into the queue; none until it was asked, and after it failed.
    room: Option<Room>,
    /// When the queue was noticed to have lost hints whose leases have not been given back yet.
    hints_lost: Option<std::time::Instant>,
    full_since: Option<Instant>,
    unparked_at: Option<Instant>,
    moved_at: Option<Instant>,
    /// Claimed while the batch before was on its way to the queue.
    ahead: Vec<Claimed>,
    scan: Scan,
}

/// What one pass found.
#[derive(Debug, PartialEq, Eq)]
enum Pass {
    /// So many rows were claimed; there may be more.
    Moved(usize),
    /// No row is due.
    Nothing,
    /// Rows may be due, but their lane has no room for hints.
    Full,
}

/// What comes after a pass.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Another pass.
    AtOnce,
    /// Another pass after this pause, whatever is notified.
    After(Duration),
    /// Another pass when something is notified, or after this time.
    Woken(Duration),
}

/// Whether notifications come through to a connection of this kind, tried with one.
///
/// # Errors
///
/// Why they do not.
pub async fn hears(database: &Database, store: &Store) -> anyhow::Result<()> {
    listen::Listener::connect(database, store, Arc::default()).await.map(drop)
}

impl<Q: Queue> Relay<Q> {
    /// Registers the relay with the health of its process.
    pub fn expect(health: &Health, config: &config::Relay) {
        // A pass may wait for a few statements and replies beyond the poll interval.
        health.expect(PART, config.poll_interval + Duration::from_secs(60));
    }

    /// A relay that works on these rows and this queue; connects to nothing yet.
    pub fn new(
        store: Store,
        database: Database,
        queue: Arc<Q>,
        config: &config::Relay,
        hints: &config::Hints,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            waker: Waker::new(database, store.clone(), metrics.clone(), config.poll_interval),
            store,
            queue,
            hint_lease: hints.hint_lease,
            batch_size: usize::try_from(config.batch_size).unwrap_or(usize::MAX),
            health,
            metrics,
            traces: Traces::default(),
            room: None,
            hints_lost: None,
            full_since: None,
            unparked_at: None,
            moved_at: None,
            ahead: Vec::new(),
            scan: Scan::default(),
        }
    }

    /// The same, which tells a collector of its hints.
    #[must_use]
    pub fn traced(self, traces: Traces) -> Self {
        Self { traces, ..self }
    }

    /// Runs until told to stop, and then ends after the pass it is in.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::reconnecting();
        while !stop.is_cancelled() {
            match self.round().await {
                Ok(next) => {
                    backoff.reset();
                    let pause = async {
                        match next {
                            Next::AtOnce => {}
                            Next::After(pause) => tokio::time::sleep(pause).await,
                            Next::Woken(longest) => self.waker.wait(longest).await,
                        }
                    };
                    tokio::select! {
                        () = pause => {}
                        () = stop.cancelled() => {}
                    }
                }
                Err(error) => {
                    // Nobody needs to notify a relay that cannot work.
                    self.waker.stand_up().await;
                    self.give_back_ahead().await;
                    let delay = backoff.next_delay();
                    let why = format!("{error:#}");
                    if self.health.stuck(PART, &why) {
                        tracing::warn!(error = why, "the relay cannot go on; trying again until it can");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        () = stop.cancelled() => {}
                    }
                }
            }
        }
        self.waker.stand_up().await;
        self.give_back_ahead().await;
    }

    /// Gives back what was claimed and will not be hinted now. Where that fails, its leases run out.
    async fn give_back_ahead(&mut self) {
        let ids: Vec<_> = self.ahead.drain(..).map(|row| row.message.event_id).collect();
        self.scan.forget();
        if !ids.is_empty()
            && let Err(error) = self.store.give_back(&ids).await
        {
            tracing::debug!(
                error = format!("{error:#}"),
                hints = ids.len(),
                "giving back what was claimed ahead failed"
            );
        }
    }

    /// One pass, and what comes after it.
    async fn round(&mut self) -> anyhow::Result<Next> {
        match self.pass().await? {
            Pass::Moved(rows) => {
                self.health.moved(PART);
                self.full_since = None;
                self.waker.stand_up().await;
                let since = self.moved_at.replace(Instant::now()).map_or(Duration::MAX, |at| at.elapsed());
                let is_full = rows >= self.batch_size || !self.ahead.is_empty();
                Ok(if is_full { Next::AtOnce } else { gathering(rows, since).map_or(Next::AtOnce, Next::After) })
            }
            Pass::Full => {
                self.waker.stand_up().await;
                let since = *self.full_since.get_or_insert_with(Instant::now);
                if since.elapsed() < FULL_PATIENCE {
                    self.health.moved(PART);
                } else if self.health.stuck(PART, "the stream is full: no consumer keeps up") {
                    tracing::warn!("the stream is full and stays so: no consumer keeps up");
                }
                Ok(Next::After(FULL_INTERVAL))
            }
            Pass::Nothing => {
                self.health.moved(PART);
                self.full_since = None;
                // The lock comes first and the last look second: a row committed before the lock was had is seen by
                // the look, and who commits one after it notifies.
                if self.waker.lie_down().await {
                    return Ok(Next::AtOnce);
                }
                let poll_interval = self.waker.poll_interval();
                let (behind, longest) = match self.scan.deferred(Instant::now()) {
                    Some((reach, pause)) => (reach.behind(), pause.min(poll_interval)),
                    None => (None, poll_interval),
                };
                let next_due = self.store.next_due(behind, longest).await?;
                Ok(Next::Woken(self.waker.longest_sleep(next_due).min(longest)))
            }
        }
    }

    /// Claims one batch of due rows and hands it to the queue. Behind a full batch there is likely another: it is claimed
    /// while this one is on its way.
    async fn pass(&mut self) -> anyhow::Result<Pass> {
        // Nothing is claimed for a queue that is not known to be there.
        let room = match self.room {
            Some(room) if !room.is_lacking() => room,
            _ => self.publish(Topic::Hints, &[]).await?.1,
        };
        // Before anything is claimed: a lease given just now is hardly to be told from one of a moment before.
        if self.hints_lost.is_some() {
            self.give_back_ahead().await;
            self.store.renew_lost_hints(&mut self.hints_lost, self.hint_lease).await?;
        }
        let claimed = self.claim(room).await?;
        if claimed.is_empty() {
            return Ok(if room.is_lacking() { Pass::Full } else { Pass::Nothing });
        }
        let rows = claimed.len();
        let is_full = rows >= self.batch_size;
        let (dead, due): (Vec<Claimed>, Vec<Claimed>) = claimed.into_iter().partition(|row| row.is_dead);
        let left = room.less(due.iter().map(|row| &row.message));
        let (store, batch_size, lease) = (self.store.clone(), self.batch_size, self.hint_lease);
        let (began, reach) = (Instant::now(), self.scan.reach(Instant::now()));
        let ahead = async move {
            let claims = match is_full && !left.is_lacking() {
                true => store.claim(batch_size, left, lease, reach.behind()).await,
                false => Ok(Claims::default()),
            };
            (claims, began.elapsed())
        };
        let (hinted, (ahead, took)) = tokio::join!(self.hint(due), ahead);
        let buried = self.bury(dead).await;
        // What it would have found is found by the next pass.
        let ahead = ahead.unwrap_or_default();
        if !ahead.rows.is_empty() {
            self.scan.saw(reach, (began, took), ahead.scanned, ahead.rows.len() >= self.batch_size);
        }
        self.ahead = ahead.rows;
        hinted.and(buried)?;
        // After the hints: what was just inserted does not wait for what rests.
        if self.unparked_at.is_none_or(|at| at.elapsed() >= UNPARK_INTERVAL) {
            self.unpark().await?;
        }
        Ok(Pass::Moved(rows))
    }

    /// What was claimed ahead, or else what is due now.
    async fn claim(&mut self, room: Room) -> anyhow::Result<Vec<Claimed>> {
        if !self.ahead.is_empty() {
            return Ok(std::mem::take(&mut self.ahead));
        }
        let claimed = self.claim_due(room).await?;
        // Before this relay sleeps it has looked at what rests, too.
        if claimed.is_empty() && self.unpark().await? > 0 {
            return self.claim_due(room).await;
        }
        Ok(claimed)
    }

    /// What lies ahead of the last scan, or else, unless that has to wait, anywhere.
    async fn claim_due(&mut self, room: Room) -> anyhow::Result<Vec<Claimed>> {
        let reach = self.scan.reach(Instant::now());
        let claimed = self.claim_from(reach, room).await?;
        if claimed.is_empty() && reach != Reach::All && self.scan.deferred(Instant::now()).is_none() {
            return self.claim_from(Reach::All, room).await;
        }
        Ok(claimed)
    }

    async fn claim_from(&mut self, reach: Reach, room: Room) -> anyhow::Result<Vec<Claimed>> {
        let began = Instant::now();
        let Claims { rows, scanned } = self.store.claim(self.batch_size, room, self.hint_lease, reach.behind()).await?;
        self.scan.saw(reach, (began, began.elapsed()), scanned, rows.len() >= self.batch_size);
        Ok(rows)
    }

    /// Makes due what rests for robots that have places.
    async fn unpark(&mut self) -> anyhow::Result<i64> {
        let unparked = self.store.unpark().await?;
        self.unparked_at = Some(Instant::now());
        Ok(unparked)
    }

    /// Adds a hint for each row; a hint that is not known to be in the queue gives its lease back.
    async fn hint(&mut self, rows: Vec<Claimed>) -> anyhow::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let messages: Vec<Message> = rows.into_iter().map(|row| row.message).collect();
        let began = std::time::Instant::now();
        let published = self.publish(Topic::Hints, &messages).await;
        let (refused, why) = match &published {
            Ok((refused, _)) => {
                let why = refused.iter().flatten().next().cloned();
                let refused = messages.iter().zip(refused).filter(|(_, refusal)| refusal.is_some());
                (refused.map(|(message, _)| message.event_id).collect(), why)
            }
            Err(error) => {
                (messages.iter().map(|message| message.event_id).collect::<Vec<_>>(), Some(format!("{error:#}")))
            }
        };
        self.metrics.hints.inc_by((messages.len() - refused.len()) as u64);
        if let Ok((refused, _)) = &published {
            let accepted = messages.iter().zip(refused).filter(|(_, refusal)| refusal.is_none());
            accepted.for_each(|(message, _)| self.traces.tell(|| hinted(message, began)));
        }
        if let Some(why) = why {
            self.room = None;
            self.store.give_back(&refused).await?;
            // Refused because the stream is gone: it has been made again, and the next pass renews all hints.
            anyhow::ensure!(
                self.hints_lost.is_some(),
                "{} of {} hints were refused: {why}",
                refused.len(),
                messages.len()
            );
        }
        Ok(())
    }

    /// Adds a dead letter for each failed row, and completes those that are in the stream.
    async fn bury(&mut self, rows: Vec<Claimed>) -> anyhow::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let messages: Vec<Message> = rows.into_iter().map(|row| row.message).collect();
        let (refused, _) = self.publish(Topic::DeadLetters, &messages).await?;
        let written: Vec<_> = messages
            .iter()
            .zip(&refused)
            .filter(|(_, refusal)| refusal.is_none())
            .map(|(message, _)| (message.event_id, message.replay_count))
            .collect();
        self.store.complete_dead_letters(&written).await?;
        self.metrics.dead_letters.inc_by(written.len() as u64);
        // Refused ones stay claimed for the hint lease, which is the pause before the next try.
        if let Some(why) = refused.iter().flatten().next() {
            anyhow::bail!("{} of {} dead letters were refused: {why}", messages.len() - written.len(), messages.len());
        }
        Ok(())
    }

    /// Publishes, and takes note of what the queue says of itself. Returns the refusals and the room that is left.
    async fn publish(&mut self, topic: Topic, messages: &[Message]) -> anyhow::Result<(Vec<Option<String>>, Room)> {
        match self.queue.publish(topic, messages).await {
            Ok(published) => {
                self.hints_lost = published.hints_lost.or(self.hints_lost);
                if topic == Topic::Hints {
                    self.room = Some(published.room);
                }
                Ok((published.refused, published.room))
            }
            Err(error) => {
                self.room = None;
                Err(error.into())
            }
        }
    }
}

/// How long the next rows gather, after a claim that found so many since the one before it.
fn gathering(rows: usize, since: Duration) -> Option<Duration> {
    match rows as f64 / since.as_secs_f64() {
        _ if rows < MANY => None,
        a_second if a_second > VERY_MANY => Some(LONG_GATHERING),
        _ => Some(GATHERING),
    }
}

fn hinted(message: &Message, began: std::time::Instant) -> Step<'_> {
    Step {
        name: "hint",
        event_id: message.event_id,
        event_type: &message.event_type,
        template_id: &message.template_id,
        trace_id: message.trace_id.as_deref(),
        attempt: message.attempt,
        began: Some(began),
        took: began.elapsed(),
        sent: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_event_waits_for_no_other_and_many_gather_the_longer_the_more_there_are() {
        let milliseconds = Duration::from_millis;
        for rows in 1..MANY {
            assert_eq!(gathering(rows, milliseconds(1)), None, "{rows}");
        }
        assert_eq!(gathering(5, milliseconds(6)), Some(GATHERING));
        assert_eq!(gathering(100, Duration::MAX), Some(GATHERING), "the first for long");
        assert_eq!(gathering(12, milliseconds(6)), Some(LONG_GATHERING));
        // Once they gather for long, those that come less often gather for long no more.
        assert_eq!(gathering(40, milliseconds(22)), Some(LONG_GATHERING));
        assert_eq!(gathering(22, milliseconds(22)), Some(GATHERING));
    }
}
