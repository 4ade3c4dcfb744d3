//! Whether anybody takes the hints: a relay cannot tell from what it writes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value, cmd};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::RedisQueue;
use crate::health::Health;
use crate::queue::{Lane, QueueError};

/// The name in health.
const PART: &str = "queue";

/// How often the streams are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Hints that nobody has begun to read for this long have no consumers, or none that gets on.
const PATIENCE: Duration = Duration::from_secs(30);

/// A lane with hints that nobody has read, and how far they are read.
type Unread = Option<String>;

impl RedisQueue {
    /// Registers the watch with the health of its process.
    pub fn expect(health: &Health) {
        health.expect(PART, LOOK_INTERVAL + Duration::from_secs(60));
    }

    /// Watches until told to stop: says where Redis is away, and where hints are not read.
    pub async fn watch(self: Arc<Self>, health: Arc<Health>, stop: CancellationToken) {
        let mut seen: [(Unread, Instant); 2] = [(None, Instant::now()), (None, Instant::now())];
        while !stop.is_cancelled() {
            match self.unread().await {
                Ok(lanes) => {
                    for (seen, now) in seen.iter_mut().zip(lanes) {
                        if seen.0 != now || now.is_none() {
                            *seen = (now, Instant::now());
                        }
                    }
                    let waits = seen.iter().map(|(_, since)| since.elapsed()).max().unwrap_or_default();
                    if waits < PATIENCE {
                        health.moved(PART);
                    } else if health.stuck(PART, "no consumer reads the hints in the stream") {
                        tracing::warn!("no consumer reads the hints in the stream");
                    }
                }
                Err(error) => {
                    if health.stuck(PART, &error.to_string()) {
                        tracing::warn!(%error, "the queue cannot be looked at");
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// For each lane that has hints which nobody has read: how far it is read.
    async fn unread(&self) -> Result<[Unread; 2], QueueError> {
        let result = async {
            let mut connection = self.writer().await?;
            let [urgent, normal] = Lane::ALL;
            Ok([self.unread_in(&mut connection, urgent).await?, self.unread_in(&mut connection, normal).await?])
        };
        let result = result.await;
        Ok(self.distrust_writer(result).await?)
    }

    async fn unread_in(&self, connection: &mut MultiplexedConnection, lane: Lane) -> Result<Unread, RedisError> {
        let stream = self.settings.stream(lane);
        let text = |value: Option<&Value>| match value {
            Some(Value::BulkString(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        };
        let groups: Result<Vec<HashMap<String, Value>>, RedisError> =
            cmd("XINFO").arg("GROUPS").arg(stream).query_async(connection).await;
        let groups = match groups {
            // No such key: whoever uses the stream next makes it.
            Err(error) if error.code() == Some("ERR") => return Ok(None),
            groups => groups?,
        };
        let ours = groups.iter().find(|group| text(group.get("name")).as_ref() == Some(&self.settings.group));
        let Some(read_to) = ours.and_then(|group| text(group.get("last-delivered-id"))) else { return Ok(None) };
        let next: Vec<Value> = cmd("XRANGE")
            .arg(stream)
            .arg(format!("({read_to}"))
            .arg("+")
            .arg("COUNT")
            .arg(1)
            .query_async(connection)
            .await?;
        Ok((!next.is_empty()).then_some(read_to))
    }
}
