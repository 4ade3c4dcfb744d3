//! Sleeping without missing a row, and without taxing who inserts one: see sql/migrations/V2__wake_up.sql.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::listen::{Listener, Lock};
use crate::backoff::Backoff;
use crate::db::Database;
use crate::metrics::Metrics;
use crate::store::Store;

/// A connection that could not be made, or on which nothing is heard, is tried again after this long at most.
const LISTEN_AGAIN: Duration = Duration::from_secs(30);

/// Longest pause between looks while a transaction that made rows due is in flight.
const IN_FLIGHT: Duration = Duration::from_millis(50);

/// Longest pause between looks at a due row that another transaction holds.
const HELD: Duration = Duration::from_secs(1);

/// How often a relay that sleeps beside another looks whether that one is still there.
const BESIDE_INTERVAL: Duration = Duration::from_secs(2);

/// Decides when a relay that found nothing looks again.
pub(super) struct Waker {
    database: Database,
    store: Store,
    metrics: Arc<Metrics>,
    poll_interval: Duration,
    heard: Arc<Notify>,
    listener: Option<Listener>,
    listen_again: Backoff,
    listen_again_at: Instant,
    complained: bool,
    posture: Posture,
    in_flight: Backoff,
    held: Backoff,
}

/// What the relay may rely on while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Posture {
    /// It works, or it has just woken.
    Up,
    /// It holds the lock: every row that becomes due is notified of.
    Asleep,
    /// Another relay holds it; good until the next look.
    Beside,
    /// A transaction is in flight: look again soon.
    Waiting,
    /// It hears nothing: only the clock wakes it.
    Deaf,
}

impl Waker {
    pub(super) fn new(database: Database, store: Store, metrics: Arc<Metrics>, poll_interval: Duration) -> Self {
        Self {
            database,
            store,
            metrics,
            poll_interval,
            heard: Arc::new(Notify::new()),
            listener: None,
            listen_again: Backoff::new(Duration::from_secs(1), LISTEN_AGAIN),
            listen_again_at: Instant::now(),
            complained: false,
            posture: Posture::Up,
            in_flight: Backoff::new(Duration::from_millis(2), IN_FLIGHT),
            held: Backoff::new(IN_FLIGHT, HELD),
        }
    }

    /// After a pass that found nothing. True: the fence has just been put up, and one last look is due before sleeping.
    pub(super) async fn lie_down(&mut self) -> bool {
        self.listen().await;
        let Some(listener) = &self.listener else {
            self.posture = Posture::Deaf;
            return false;
        };
        match self.posture {
            // The look that has just found nothing was the last one.
            Posture::Asleep | Posture::Beside => return false,
            Posture::Up | Posture::Waiting | Posture::Deaf => {}
        }
        match listener.try_lock().await {
            Ok(Lock::Mine) => self.posture = Posture::Asleep,
            Ok(Lock::AnotherRelays) => self.posture = Posture::Beside,
            Ok(Lock::InFlight) => {
                self.posture = Posture::Waiting;
                return false;
            }
            Err(error) => {
                self.lose_listener(&format!("{error:#}"));
                self.posture = Posture::Deaf;
                return false;
            }
        }
        true
    }

    /// The longest sleep there is.
    pub(super) fn poll_interval(&self) -> Duration {
        self.poll_interval
    }

    /// How long to sleep at most, given when the next row is known to become due.
    pub(super) fn longest_sleep(&mut self, next_due: Option<Duration>) -> Duration {
        let pause = match self.posture {
            Posture::Waiting => self.in_flight.next_delay(),
            Posture::Deaf => {
                self.poll_interval.min(self.listen_again_at.saturating_duration_since(Instant::now()).max(IN_FLIGHT))
            }
            Posture::Up | Posture::Asleep | Posture::Beside => self.poll_interval,
        };
        match next_due {
            // Due now and yet not claimed: another transaction holds the row. It says nothing when it ends.
            Some(due) if due.is_zero() => pause.min(self.held.next_delay()),
            due => {
                self.held.reset();
                pause.min(due.unwrap_or(pause))
            }
        }
    }

    /// Waits for a notification, at most so long.
    pub(super) async fn wait(&mut self, longest: Duration) {
        let end = Instant::now() + longest;
        loop {
            let look = if self.posture == Posture::Beside { end.min(Instant::now() + BESIDE_INTERVAL) } else { end };
            tokio::select! {
                () = self.heard.notified() => break,
                () = tokio::time::sleep_until(look) => {}
            }
            if look == end || !self.another_still_sleeps().await {
                break;
            }
        }
        // Only the lock outlives the wait: what another relay, or a transaction, does is asked anew.
        if self.posture != Posture::Asleep {
            self.posture = Posture::Up;
        }
    }

    /// Whether the relay that slept beside this one is still there to be notified for both. If it has died, nobody
    /// notifies, and this one takes its place; the pass that follows is the last look.
    async fn another_still_sleeps(&mut self) -> bool {
        let Some(listener) = &self.listener else { return false };
        match listener.try_lock().await {
            Ok(Lock::AnotherRelays) => true,
            Ok(Lock::Mine) => {
                self.posture = Posture::Asleep;
                false
            }
            Ok(Lock::InFlight) | Err(_) => false,
        }
    }

    /// There is work: nobody needs to notify any more.
    pub(super) async fn stand_up(&mut self) {
        self.in_flight.reset();
        if self.posture == Posture::Asleep
            && let Some(listener) = &self.listener
            && let Err(error) = listener.unlock().await
        {
            // The lock ends with the connection.
            self.lose_listener(&format!("{error:#}"));
        }
        self.posture = Posture::Up;
    }

    /// The listening connection is of no use any more: another is made before the next sleep.
    fn lose_listener(&mut self, why: &str) {
        tracing::warn!(why, "the listening connection was lost; connecting again");
        self.metrics.listens(false);
        self.listener = None;
        self.posture = Posture::Up;
        self.listen_again_at = Instant::now();
    }

    /// Makes sure of a connection that hears, if there can be one.
    async fn listen(&mut self) {
        if self.listener.as_ref().is_some_and(|listener| !listener.is_alive()) {
            self.lose_listener("it was closed");
        }
        if self.listener.is_some() || Instant::now() < self.listen_again_at {
            return;
        }
        match Listener::connect(&self.database, &self.store, self.heard.clone()).await {
            Ok(listener) => {
                if self.complained {
                    tracing::info!("listening again");
                }
                self.complained = false;
                self.metrics.listens(true);
                self.listen_again.reset();
                self.listener = Some(listener);
                self.posture = Posture::Up;
            }
            Err(error) => {
                self.metrics.listens(false);
                self.listen_again_at = Instant::now() + self.listen_again.next_delay();
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        poll_interval = crate::config::show(self.poll_interval),
                        "cannot listen for new events: polling alone carries them"
                    );
                }
            }
        }
    }
}
