//! The consumer group, which both streams of hints have, and its members.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value, cmd};

use super::{RedisQueue, Settings};
use crate::queue::Lane;

/// An empty consumer idle for longer than this is gone.
const GONE_AFTER: Duration = Duration::from_secs(3600);

impl RedisQueue {
    /// Makes the group of each lane where it is missing.
    pub(super) async fn ensure_groups(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        for lane in Lane::ALL {
            self.ensure_group(connection, lane).await?;
        }
        Ok(())
    }

    /// Makes a group from the first entry on: entries that are there were meant for it.
    async fn ensure_group(&self, connection: &mut MultiplexedConnection, lane: Lane) -> Result<(), RedisError> {
        let (stream, group) = (self.settings.stream(lane), &self.settings.group);
        let made: Result<(), RedisError> =
            cmd("XGROUP").arg("CREATE").arg(stream).arg(group).arg("0").arg("MKSTREAM").query_async(connection).await;
        match made {
            Ok(()) => {
                tracing::info!(stream, group, "made the consumer group; hints it may have missed are renewed");
                self.note_hints_lost();
                Ok(())
            }
            Err(error) if error.code() == Some("BUSYGROUP") => Ok(()),
            // Redis refuses to create while it is out of memory, even what is there; and reading is what frees memory.
            Err(error) if error.code() == Some("OOM") => {
                let groups: Vec<HashMap<String, Value>> =
                    cmd("XINFO").arg("GROUPS").arg(stream).query_async(connection).await.unwrap_or_default();
                let named = |info: &HashMap<String, Value>| matches!(info.get("name"), Some(Value::BulkString(name)) if name == group.as_bytes());
                if groups.iter().any(named) { Ok(()) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    /// Leaves the group of each lane, unless entries are still pending there: those are for others to reclaim.
    pub async fn leave(&self) {
        let Ok(mut connection) = self.writer().await else { return };
        for lane in Lane::ALL {
            if let Err(error) = self.try_leave(&mut connection, lane).await {
                tracing::debug!(%error, "leaving the consumer group failed; an idle consumer is removed by the others");
            }
        }
    }

    async fn try_leave(&self, connection: &mut MultiplexedConnection, lane: Lane) -> Result<(), RedisError> {
        let Settings { group, consumer, .. } = &self.settings;
        let pending: Value = cmd("XPENDING")
            .arg(self.settings.stream(lane))
            .arg(group)
            .arg("-")
            .arg("+")
            .arg(1)
            .arg(consumer)
            .query_async(connection)
            .await?;
        if matches!(&pending, Value::Array(entries) if entries.is_empty()) {
            self.remove_consumer(connection, lane, consumer).await?;
        }
        Ok(())
    }

    /// Removes consumers that hold nothing and have not been seen for an hour.
    pub(super) async fn sweep(&self, connection: &mut MultiplexedConnection, lane: Lane) -> Result<(), RedisError> {
        let (stream, Settings { group, consumer, .. }) = (self.settings.stream(lane), &self.settings);
        let consumers: Vec<HashMap<String, Value>> =
            cmd("XINFO").arg("CONSUMERS").arg(stream).arg(group).query_async(connection).await?;
        for other in consumers {
            let number = |key: &str| match other.get(key) {
                Some(Value::Int(number)) => u128::try_from(*number).ok(),
                _ => None,
            };
            let Some(Value::BulkString(name)) = other.get("name") else { continue };
            let name = String::from_utf8_lossy(name);
            let gone = number("idle").is_some_and(|idle_ms| idle_ms > GONE_AFTER.as_millis());
            if gone && number("pending") == Some(0) && name != consumer.as_str() {
                tracing::info!(stream, consumer = %name, "removed a consumer that is long gone from the group");
                self.remove_consumer(connection, lane, &name).await?;
            }
        }
        Ok(())
    }

    async fn remove_consumer(
        &self,
        connection: &mut MultiplexedConnection,
        lane: Lane,
        name: &str,
    ) -> Result<(), RedisError> {
        let (stream, group) = (self.settings.stream(lane), &self.settings.group);
        cmd("XGROUP").arg("DELCONSUMER").arg(stream).arg(group).arg(name).query_async(connection).await
    }
}
