//! What is old goes, in small batches with rests between them, by one relay at a time.
//!
//! Every row that goes has ended. What is not complete stays, whatever its age, and so does a failed event whose dead letter
//! is not in its stream. No state is kept: a sweep that is broken off is taken up by the next, of whichever relay.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::config;
use crate::db::Database;
use crate::metrics::{KindLabels, Metrics};
use crate::store::Store;
use crate::store::retention::{Kind, Start};

/// Who removes holds this advisory lock: "pbretain".
const LOCK: i64 = 0x7062_7265_7461_696e;

/// Pause between two sweeps. A sweep that finds nothing costs a connection and six statements.
const INTERVAL: Duration = Duration::from_secs(1_200);

/// Most rows of one statement: few enough that it ends in about ten milliseconds.
const BATCH: i64 = 500;

/// A rest is so many times as long as the batch before it took: nine tenths of the time are others'.
const REST: u32 = 9;

/// Shortest rest.
const LEAST_REST: Duration = Duration::from_millis(10);

/// How long a robot must have been without use before its row goes.
const ROBOT_UNUSED: Duration = Duration::from_secs(30 * 86_400);

/// Removes old rows.
pub struct Retention {
    database: Database,
    limits: config::Retention,
    metrics: Arc<Metrics>,
}

/// How many rows of each kind a sweep removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed(Vec<(Kind, u64)>);

impl Removed {
    /// Rows of this kind.
    pub fn of(&self, kind: Kind) -> u64 {
        self.0.iter().filter(|(of, _)| *of == kind).map(|(_, rows)| rows).sum()
    }
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.0.iter().map(|(kind, rows)| format!("{} {rows}", kind.word())).collect();
        f.write_str(&words.join(", "))
    }
}

impl Retention {
    /// Removes what is older than these limits; connects to nothing yet.
    pub fn new(database: Database, limits: config::Retention, metrics: Arc<Metrics>) -> Self {
        for kind in Kind::ALL {
            drop(metrics.removed.get_or_create(&KindLabels { kind: kind.word() }));
        }
        Self { database, limits, metrics }
    }

    /// Sweeps now and then, until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            // What is removed is committed batch by batch: to break off is no loss.
            let swept = tokio::select! {
                swept = self.sweep() => swept,
                () = stop.cancelled() => return,
            };
            match swept {
                Ok(Some(removed)) if removed != Removed::default() => tracing::info!(%removed, "removed what is old"),
                Ok(Some(_)) => {}
                Ok(None) => tracing::debug!("another relay removes what is old"),
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(error, "removing what is old failed; trying again later");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Removes all that is too old now. None: another relay is at it.
    pub async fn sweep(&self) -> anyhow::Result<Option<Removed>> {
        // One connection for the sweep alone: the lock ends with it.
        let store = Store::new(self.database.pool(1)?);
        if !store.retain_alone(LOCK).await? {
            return Ok(None);
        }
        let mut removed = Removed::default();
        for kind in Kind::ALL {
            let Some(keep) = self.keep(kind) else { continue };
            let rows = self.sweep_kind(&store, kind, keep).await?;
            if rows > 0 {
                removed.0.push((kind, rows));
            }
        }
        Ok(Some(removed))
    }

    async fn sweep_kind(&self, store: &Store, kind: Kind, keep: Duration) -> anyhow::Result<u64> {
        let (mut total, mut start) = (0, Start::default());
        loop {
            let began = Instant::now();
            let batch = store.retain(kind, keep, BATCH, start).await?;
            self.metrics.removed.get_or_create(&KindLabels { kind: kind.word() }).inc_by(batch.removed);
            total += batch.removed;
            start = batch.next;
            if batch.removed < BATCH.unsigned_abs() {
                return Ok(total);
            }
            tokio::time::sleep((began.elapsed() * REST).max(LEAST_REST)).await;
        }
    }

    /// For how long rows of a kind stay; none: for ever.
    fn keep(&self, kind: Kind) -> Option<Duration> {
        match kind {
            Kind::Delivered => self.limits.retention_delivered.0,
            Kind::Failed => self.limits.retention_failed.0,
            Kind::Attempts => self.limits.retention_attempts.0,
            Kind::Audit => self.limits.retention_audit.0,
            Kind::Robots => Some(ROBOT_UNUSED),
        }
    }
}
