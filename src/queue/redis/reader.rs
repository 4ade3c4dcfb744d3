//! Receiving: first all that the urgent lane has, then the other. In each: own backlog first, then entries of consumers
//! that died, then new ones.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value, cmd};

use super::reply::{self, Entries};
use super::{RESPONSE_TIMEOUT, RedisQueue};
use crate::queue::{Hint, Lane, QueueError};

/// How often entries of other consumers are looked at.
const RECLAIM_INTERVAL: Duration = Duration::from_millis(500);

/// How often consumers that are long gone are removed from the group.
const SWEEP_INTERVAL: Duration = Duration::from_secs(300);

/// The state of one consumer's reading.
#[derive(Default)]
pub(super) struct Reader {
    connection: Option<MultiplexedConnection>,
    urgent: Pending,
    normal: Pending,
    /// What one read of both streams found beyond what was asked for. It is in this consumer's backlog, too, from where
    /// it comes again after a reconnect.
    kept: VecDeque<Hint>,
    swept_at: Option<Instant>,
}

/// How far the entries of one stream are read that somebody has received before.
#[derive(Default)]
struct Pending {
    /// Where to go on in this consumer's own pending entries; none once they are read. After a reconnect there may be
    /// entries in it that the server delivered and this process never saw.
    backlog: Option<String>,
    /// Where to go on in everybody's pending entries, and when they were last begun.
    reclaim: Option<String>,
    reclaimed_at: Option<Instant>,
}

impl Reader {
    /// Whether its connection stands, as far as is known.
    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    pub(super) async fn receive(
        &mut self,
        queue: &RedisQueue,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Hint>, QueueError> {
        match self.try_receive(queue, max, wait).await {
            Ok(hints) => Ok(hints),
            Err(error) if matches!(error.code(), Some("NOGROUP" | "UNBLOCKED")) => {
                // A stream or its group is gone (flushed, failed over, deleted): make it again and go on. What is kept
                // is kept: where its stream is still there, no other read brings it again.
                let connection = self.connection.take();
                let kept = std::mem::take(&mut self.kept);
                *self = Reader { kept, swept_at: self.swept_at, ..Reader::default() };
                if let Some(mut connection) = connection {
                    queue.ensure_groups(&mut connection).await?;
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
                let connection = queue.connect(&queue.read_link, wait + RESPONSE_TIMEOUT).await?;
                self.connection = Some(connection.clone());
                self.kept.clear();
                self.urgent.backlog = Some("0".to_owned());
                self.normal.backlog = Some("0".to_owned());
                connection
            }
        };
        let mut hints = self.urgent.receive(queue, &mut connection, Lane::Urgent, max).await?;
        if hints.is_empty() {
            // By itself, so that a long normal stream is not read beyond what is asked for whenever one is urgent.
            hints = self.read(queue, &mut connection, &[Lane::Urgent], max, None).await?;
        }
        if hints.is_empty() {
            hints.extend(self.kept.drain(..max.min(self.kept.len())));
        }
        if hints.is_empty() {
            hints = self.normal.receive(queue, &mut connection, Lane::Normal, max).await?;
        }
        if !hints.is_empty() {
            return Ok(hints);
        }
        if self.swept_at.is_none_or(|at| at.elapsed() >= SWEEP_INTERVAL) {
            self.swept_at = Some(Instant::now());
            for lane in Lane::ALL {
                queue.sweep(&mut connection, lane).await?;
            }
        }
        // With more to look at there is no time to wait for new entries.
        let block = if self.urgent.has_more() || self.normal.has_more() { None } else { Some(wait) };
        self.read(queue, &mut connection, &Lane::ALL, max, block).await
    }

    /// New entries of these streams, which count each for itself: what is too many is kept.
    async fn read(
        &mut self,
        queue: &RedisQueue,
        connection: &mut MultiplexedConnection,
        lanes: &[Lane],
        max: usize,
        block: Option<Duration>,
    ) -> Result<Vec<Hint>, RedisError> {
        let from: Vec<(Lane, &str)> = lanes.iter().map(|lane| (*lane, ">")).collect();
        let found = read(queue, connection, &from, max, block).await?;
        let mut hints = queue.dropping_junk(found).await?;
        self.kept.extend(hints.drain(max.min(hints.len())..));
        Ok(hints)
    }
}

impl Pending {
    /// Entries that were received before and never acknowledged: by this consumer, or by one that died.
    async fn receive(
        &mut self,
        queue: &RedisQueue,
        connection: &mut MultiplexedConnection,
        lane: Lane,
        max: usize,
    ) -> Result<Vec<Hint>, RedisError> {
        if let Some(from) = self.backlog.take() {
            let found = read(queue, connection, &[(lane, &from)], max, None).await?;
            self.backlog = found.last_id.clone();
            let hints = queue.dropping_junk(found).await?;
            if !hints.is_empty() {
                return Ok(hints);
            }
        }
        if self.reclaim.is_some() || self.reclaimed_at.is_none_or(|at| at.elapsed() >= RECLAIM_INTERVAL) {
            let from = self.reclaim.take().unwrap_or_else(|| {
                self.reclaimed_at = Some(Instant::now());
                "0-0".to_owned()
            });
            let (cursor, found) = reclaim(queue, connection, lane, max, &from).await?;
            // One call scans a bounded stretch; 0-0 says that it reached the end.
            self.reclaim = cursor.filter(|cursor| cursor != "0-0");
            return queue.dropping_junk(found).await;
        }
        Ok(Vec::new())
    }

    fn has_more(&self) -> bool {
        self.backlog.is_some() || self.reclaim.is_some()
    }
}

async fn read(
    queue: &RedisQueue,
    connection: &mut MultiplexedConnection,
    from: &[(Lane, &str)],
    max: usize,
    block: Option<Duration>,
) -> Result<Entries, RedisError> {
    let settings = &queue.settings;
    let mut read = cmd("XREADGROUP");
    read.arg("GROUP").arg(&settings.group).arg(&settings.consumer).arg("COUNT").arg(max);
    if let Some(block) = block {
        // BLOCK 0 would wait for ever.
        read.arg("BLOCK").arg(block.as_millis().max(1) as u64);
    }
    read.arg("STREAMS");
    for (lane, _) in from {
        read.arg(settings.stream(*lane));
    }
    for (_, id) in from {
        read.arg(id);
    }
    let reply: Value = read.query_async(connection).await?;
    Ok(reply::read(reply, |stream| settings.lane(stream)))
}

async fn reclaim(
    queue: &RedisQueue,
    connection: &mut MultiplexedConnection,
    lane: Lane,
    max: usize,
    from: &str,
) -> Result<(Option<String>, Entries), RedisError> {
    let settings = &queue.settings;
    let reply: Value = cmd("XAUTOCLAIM")
        .arg(settings.stream(lane))
        .arg(&settings.group)
        .arg(&settings.consumer)
        .arg(settings.reclaim_idle.as_millis() as u64)
        .arg(from)
        .arg("COUNT")
        .arg(max)
        .query_async(connection)
        .await?;
    Ok(reply::claimed(reply, lane))
}
