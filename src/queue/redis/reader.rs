//! Receiving: own backlog first, then entries of consumers that died, then new ones.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value, cmd};

use super::reply::{self, Entries};
use super::{RESPONSE_TIMEOUT, RedisQueue, Settings};
use crate::queue::{Hint, QueueError, Receipt};

/// How often entries of other consumers are looked at.
const RECLAIM_INTERVAL: Duration = Duration::from_millis(500);

/// How often consumers that are long gone are removed from the group.
const SWEEP_INTERVAL: Duration = Duration::from_secs(300);

/// An empty consumer idle for longer than this is gone.
const GONE_AFTER: Duration = Duration::from_secs(3600);

/// The state of one consumer's reading.
#[derive(Default)]
pub(super) struct Reader {
    connection: Option<MultiplexedConnection>,
    /// Where to go on in this consumer's own pending entries; none once they are read. After a reconnect there may be
    /// entries in it that the server delivered and this process never saw.
    backlog: Option<String>,
    /// Where to go on in everybody's pending entries, and when they were last begun.
    reclaim: Option<String>,
    reclaimed_at: Option<Instant>,
    swept_at: Option<Instant>,
}

impl Reader {
    pub(super) async fn receive(
        &mut self,
        queue: &RedisQueue,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Hint>, QueueError> {
        match self.try_receive(queue, max, wait).await {
            Ok(hints) => Ok(hints),
            Err(error) if matches!(error.code(), Some("NOGROUP" | "UNBLOCKED")) => {
                // The stream or its group is gone (flushed, failed over, deleted): make it again and go on.
                let connection = self.connection.take();
                *self = Reader { swept_at: self.swept_at, ..Reader::default() };
                if let Some(mut connection) = connection {
                    queue.ensure_group(&mut connection).await?;
                    self.connection = Some(connection);
                }
                Ok(Vec::new())
            }
            Err(error) => {
                self.connection = None;
                Err(error.into())
            }
        }
    }

    async fn try_receive(&mut self, queue: &RedisQueue, max: usize, wait: Duration) -> Result<Vec<Hint>, RedisError> {
        let mut connection = match &self.connection {
            Some(connection) => connection.clone(),
            None => {
                let connection = queue.connect(wait + RESPONSE_TIMEOUT).await?;
                self.connection = Some(connection.clone());
                self.backlog = Some("0".to_owned());
                connection
            }
        };
        let settings = &queue.settings;
        if let Some(from) = self.backlog.take() {
            let found = read(&mut connection, settings, max, None, &from).await?;
            self.backlog = found.last_id.clone();
            let hints = keep(queue, found).await?;
            if !hints.is_empty() {
                return Ok(hints);
            }
        }
        if self.reclaim.is_some() || self.reclaimed_at.is_none_or(|at| at.elapsed() >= RECLAIM_INTERVAL) {
            let from = self.reclaim.take().unwrap_or_else(|| {
                self.reclaimed_at = Some(Instant::now());
                "0-0".to_owned()
            });
            let (cursor, found) = reclaim(&mut connection, settings, max, &from).await?;
            // One call scans a bounded stretch; 0-0 says that it reached the end.
            self.reclaim = cursor.filter(|cursor| cursor != "0-0");
            let hints = keep(queue, found).await?;
            if !hints.is_empty() {
                return Ok(hints);
            }
        }
        if self.swept_at.is_none_or(|at| at.elapsed() >= SWEEP_INTERVAL) {
            self.swept_at = Some(Instant::now());
            sweep(queue, &mut connection).await?;
        }
        // With more to reclaim there is no time to wait for new entries.
        let block = if self.reclaim.is_some() || self.backlog.is_some() { None } else { Some(wait) };
        let found = read(&mut connection, settings, max, block, ">").await?;
        keep(queue, found).await
    }
}

async fn read(
    connection: &mut MultiplexedConnection,
    settings: &Settings,
    max: usize,
    block: Option<Duration>,
    from: &str,
) -> Result<Entries, RedisError> {
    let mut read = cmd("XREADGROUP");
    read.arg("GROUP").arg(&settings.group).arg(&settings.consumer).arg("COUNT").arg(max);
    if let Some(block) = block {
        // BLOCK 0 would wait for ever.
        read.arg("BLOCK").arg(block.as_millis().max(1) as u64);
    }
    let reply: Value = read.arg("STREAMS").arg(&settings.stream).arg(from).query_async(connection).await?;
    Ok(reply::read(reply))
}

async fn reclaim(
    connection: &mut MultiplexedConnection,
    settings: &Settings,
    max: usize,
    from: &str,
) -> Result<(Option<String>, Entries), RedisError> {
    let reply: Value = cmd("XAUTOCLAIM")
        .arg(&settings.stream)
        .arg(&settings.group)
        .arg(&settings.consumer)
        .arg(settings.reclaim_idle.as_millis() as u64)
        .arg(from)
        .arg("COUNT")
        .arg(max)
        .query_async(connection)
        .await?;
    Ok(reply::claimed(reply))
}

/// Drops what is no hint, and says so.
async fn keep(queue: &RedisQueue, found: Entries) -> Result<Vec<Hint>, RedisError> {
    if !found.junk.is_empty() {
        let ids: Vec<&str> = found.junk.iter().map(|Receipt(id)| id.as_str()).collect();
        tracing::warn!(stream = queue.settings.stream, ?ids, "dropped entries that name no event");
        queue.try_ack(&found.junk).await?;
    }
    Ok(found.hints)
}

/// Removes consumers that hold nothing and have not been seen for an hour.
async fn sweep(queue: &RedisQueue, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    let Settings { stream, group, consumer, .. } = &queue.settings;
    let consumers: Vec<std::collections::HashMap<String, Value>> =
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
            tracing::info!(consumer = %name, "removed a consumer that is long gone from the group");
            queue.remove_consumer(connection, &name).await?;
        }
    }
    Ok(())
}
