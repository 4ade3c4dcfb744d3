//! What is old goes: a batch of one kind of row at a time.

use std::time::Duration;

use jiff::Timestamp;

use super::{Store, query};

/// A kind of row that does not stay for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Events that were delivered or cancelled.
    Delivered,
    /// Events that failed, and whose dead letters are in their stream.
    Failed,
    /// Rows of `notification_attempts`.
    Attempts,
    /// Rows of `notification_audit`.
    Audit,
    /// Rows of `notification_robots` that nobody refers to.
    Robots,
}

/// Where the next batch begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the oldest row there is.
    #[default]
    Oldest,
    /// With what ended at this time.
    EndedAt(Timestamp),
    /// After this id.
    AfterId(i64),
}

/// What became of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Rows removed.
    pub removed: u64,
    /// Where the next one begins.
    pub next: Start,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Delivered, Kind::Failed, Kind::Attempts, Kind::Audit, Kind::Robots];

    /// The word for it in settings, logs and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Delivered => "delivered",
            Kind::Failed => "failed",
            Kind::Attempts => "attempts",
            Kind::Audit => "audit",
            Kind::Robots => "robots",
        }
    }
}

impl Store {
    /// Whether this session is the only one that removes old rows; it is until it ends.
    pub async fn retain_alone(&self, lock: i64) -> anyhow::Result<bool> {
        let rows = self.rows("retain_alone", query!("retain_alone"), &[&lock]).await?;
        Ok(rows.first().is_some_and(|row| row.get("alone")))
    }

    /// Removes at most so many rows of one kind that are older than `keep`, the oldest first.
    pub async fn retain(&self, kind: Kind, keep: Duration, most: i64, start: Start) -> anyhow::Result<Batch> {
        let keep = keep.as_secs_f64();
        let end = match start {
            Start::EndedAt(end) => Some(end),
            Start::Oldest | Start::AfterId(_) => None,
        };
        let id = match start {
            Start::AfterId(id) => Some(id),
            Start::Oldest | Start::EndedAt(_) => None,
        };
        let rows = match kind {
            Kind::Delivered => self.rows("retain_delivered", query!("retain_delivered"), &[&keep, &most, &end]).await?,
            Kind::Failed => self.rows("retain_failed", query!("retain_failed"), &[&keep, &most, &end]).await?,
            Kind::Attempts => self.rows("retain_attempts", query!("retain_attempts"), &[&keep, &most, &id]).await?,
            Kind::Audit => self.rows("retain_audit", query!("retain_audit"), &[&keep, &most, &id]).await?,
            Kind::Robots => self.rows("retain_robots", query!("retain_robots"), &[&keep, &most]).await?,
        };
        let Some(row) = rows.first() else { return Ok(Batch { removed: 0, next: start }) };
        let next = match kind {
            Kind::Delivered | Kind::Failed => row.get::<_, Option<Timestamp>>("until").map(Start::EndedAt),
            Kind::Attempts | Kind::Audit => row.get::<_, Option<i64>>("until").map(Start::AfterId),
            Kind::Robots => None,
        };
        Ok(Batch { removed: row.get::<_, i64>("removed").unsigned_abs(), next: next.unwrap_or(start) })
    }
}
