//! Messages of several events: who could be in one, who is, and the whole of one whose outcome is unknown.

use std::time::Duration;

use uuid::Uuid;

use super::take::{event, takes};
use super::{Key, LOST_LEASES_LIMIT, Store, Takes, query};
use crate::event::Event;

impl Store {
    /// What waits in a lane and could go in one message with its leader, the oldest first. What cannot be read is left
    /// out: it fails by itself, in its turn.
    pub async fn mergeable(&self, lane: &str, digest_key: &str, most: i64) -> anyhow::Result<Vec<Event>> {
        let rows = self.rows("mergeable", query!("mergeable"), &[&lane, &digest_key, &most]).await?;
        let event = |row: &tokio_postgres::Row| {
            let key = Key { id: row.get("id"), replay_count: row.get("replay_count"), attempt: row.get("attempt") };
            event(row, key).ok()
        };
        Ok(rows.iter().filter_map(event).collect())
    }

    /// Takes the members of a message together with its leader, and stores that they are. Returns the takes, the leader's
    /// included; without it the message must not be sent.
    pub async fn merge(
        &self,
        leader: Key,
        others: &[&Event],
        digest_id: Uuid,
        robot: &str,
        send_lease: Duration,
    ) -> anyhow::Result<Vec<Key>> {
        let (ids, replay_counts): (Vec<Uuid>, Vec<i32>) =
            others.iter().map(|event| (event.id, event.replay_count)).unzip();
        let lease = send_lease.as_secs_f64();
        let query = query!("merge");
        let rows = self
            .rows("merge", query, &[&leader.id, &leader.attempt, &ids, &replay_counts, &digest_id, &robot, &lease])
            .await?;
        let key = |row: &tokio_postgres::Row| Key {
            id: row.get("id"),
            replay_count: row.get("replay_count"),
            attempt: row.get("attempt"),
        };
        Ok(rows.iter().map(key).collect())
    }

    /// Has events sent alone from now on.
    pub async fn set_apart(&self, ids: &[Uuid]) -> anyhow::Result<()> {
        self.rows("set_apart", query!("set_apart"), &[&ids]).await.map(drop)
    }

    /// Takes the whole of a message whose outcome is unknown, the oldest event first, or nothing of it.
    pub async fn take_digest(&self, digest_id: Uuid, send_lease: Duration, alone: bool) -> anyhow::Result<Takes> {
        let query = query!("take_digest");
        let lease = send_lease.as_secs_f64();
        let rows = self.rows("take_digest", query, &[&digest_id, &lease, &alone, &LOST_LEASES_LIMIT]).await?;
        Ok(takes(&rows))
    }
}
