//! What there is, for people: nothing is made or changed.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError, Value, cmd};

use super::{CONNECT_TIMEOUT, RESPONSE_TIMEOUT, RedisQueue};
use crate::queue::{Lane, QueueError};

/// A server and its streams.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Such as `7.0.15`.
    pub version: String,
    /// Whether it follows another, and takes no writes.
    pub is_replica: bool,
    /// `maxmemory-policy`.
    pub eviction: String,
    /// Bytes in use.
    pub used: u64,
    /// `maxmemory`; 0: no limit.
    pub most: u64,
    /// Its clock, in seconds since 1970.
    pub clock_s: f64,
    /// The streams of hints, and that of dead letters.
    pub streams: Vec<SeenStream>,
}

/// One key.
#[derive(Clone, Debug)]
pub struct SeenStream {
    /// Its name.
    pub key: String,
    /// What `TYPE` says: `stream`, `none` where it is not there, or what should not be.
    pub kind: String,
    /// Entries, where it is a stream.
    pub length: u64,
    /// The consumer group, where it is there.
    pub group: Option<SeenGroup>,
    /// Whether it carries hints, rather than dead letters.
    pub is_hints: bool,
}

/// The consumer group on a stream.
#[derive(Clone, Debug)]
pub struct SeenGroup {
    /// How many are in it.
    pub consumers: u64,
    /// Entries that were read and not acknowledged.
    pub pending: u64,
}

impl RedisQueue {
    /// Looks at the server and at the streams, on a connection of its own.
    pub async fn look(&self) -> Result<Seen, QueueError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut facts = HashMap::new();
        for section in ["server", "memory", "replication"] {
            let info: String = cmd("INFO").arg(section).query_async(&mut connection).await?;
            let pairs = info.lines().filter_map(|line| line.split_once(':'));
            facts.extend(pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())));
        }
        let text = |key: &str| facts.get(key).cloned().unwrap_or_default();
        let number = |key: &str| text(key).parse().unwrap_or(0);
        let (seconds, micros): (u32, u32) = cmd("TIME").query_async(&mut connection).await?;
        let mut streams = Vec::new();
        let hints = Lane::ALL.map(|lane| (self.settings.stream(lane), true));
        for (key, is_hints) in hints.into_iter().chain([(self.settings.dead_letter_stream.as_str(), false)]) {
            streams.push(self.look_at(&mut connection, key, is_hints).await?);
        }
        Ok(Seen {
            version: text("redis_version"),
            is_replica: text("role") == "slave",
            eviction: text("maxmemory_policy"),
            used: number("used_memory"),
            most: number("maxmemory"),
            clock_s: f64::from(seconds) + f64::from(micros) / 1e6,
            streams,
        })
    }

    async fn look_at(
        &self,
        connection: &mut MultiplexedConnection,
        key: &str,
        is_hints: bool,
    ) -> Result<SeenStream, RedisError> {
        let kind: String = cmd("TYPE").arg(key).query_async(connection).await?;
        let (mut length, mut group) = (0, None);
        if kind == "stream" {
            length = cmd("XLEN").arg(key).query_async(connection).await?;
            let groups: Vec<HashMap<String, Value>> =
                cmd("XINFO").arg("GROUPS").arg(key).query_async(connection).await?;
            let ours = groups.iter().find(|group| {
                matches!(group.get("name"), Some(Value::BulkString(name)) if name == self.settings.group.as_bytes())
            });
            let number = |group: &HashMap<String, Value>, key: &str| match group.get(key) {
                Some(Value::Int(number)) => number.unsigned_abs(),
                _ => 0,
            };
            group = ours
                .map(|group| SeenGroup { consumers: number(group, "consumers"), pending: number(group, "pending") });
        }
        Ok(SeenStream { key: key.to_owned(), kind, length, group, is_hints })
    }
}
