//! Redis Streams as the queue (Redis 6.2 or later).
//!
//! Each lane is a stream of its own, the urgent one under the key of the other with `:urgent` added, and both have the
//! same consumer group and the same bound. A stream is bounded by backpressure ([`Published::room`]), acknowledged entries are deleted, and nothing needs
//! persistence: when the consumer group had to be made anew, or another server answers than before, the hints may be
//! gone, and that is reported so that their leases are given back at once.

mod entry;
mod group;
mod link;
mod look;
mod progress;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod reader;
mod reply;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use ::redis::io::tcp::{TcpSettings, socket2};
use ::redis::{AsyncConnectionConfig, Client, IntoConnectionInfo as _, ProtocolVersion, RedisError, Value, cmd, pipe};
use secrecy::ExposeSecret as _;

use super::{Hint, Lane, Message, Published, Queue, QueueError, Receipt, Received, Room, Topic};
use crate::cli::BadConfiguration;
use crate::config;
pub use link::Link;
pub use look::{Seen, SeenGroup, SeenStream};
use reader::Reader;
use reply::Entries;

/// A reply that takes longer than this means that the server, or the way to it, is gone.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long connecting may take, DNS and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What Redis says where no id is left behind a stream's last one.
const EXHAUSTED: &str = "exhausted the last possible ID";

/// A queue on three Redis streams: one of hints a lane, each with the consumer group, and one of dead letters.
pub struct RedisQueue {
    client: Client,
    settings: Settings,
    /// Shared by publish and ack; a plain multiplexed connection, rebuilt after any failure.
    writer: tokio::sync::Mutex<Option<MultiplexedConnection>>,
    /// A blocking read would hold up every other user of its connection, so the reader has its own.
    reader: tokio::sync::Mutex<Reader>,
    /// How the connection of each of them is.
    write_link: Link,
    read_link: Link,
    /// `run_id` of the server that answered last.
    run_id: Mutex<Option<String>>,
    /// When hints were last noticed to be lost, until that is told.
    hints_lost: Mutex<Option<Instant>>,
}

/// Names and bounds.
#[derive(Clone, Debug)]
struct Settings {
    stream: String,
    urgent_stream: String,
    dead_letter_stream: String,
    group: String,
    consumer: String,
    max_len: u64,
    /// An entry is taken from a consumer that has not acknowledged it for this long.
    reclaim_idle: Duration,
}

impl Settings {
    fn stream(&self, lane: Lane) -> &str {
        match lane {
            Lane::Urgent => &self.urgent_stream,
            Lane::Normal => &self.stream,
        }
    }

    fn lane(&self, stream: &str) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| self.stream(*lane) == stream)
    }
}

impl RedisQueue {
    /// A queue for one process. It connects when it is first used, and again whenever it has to.
    pub fn new(config: &config::Queue, send_lease: Duration) -> Result<Self, BadConfiguration> {
        let refuse = |error: RedisError| BadConfiguration(format!("REDIS_URL (--redis-url): {error}"));
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(Duration::from_secs(10))
            .with_interval(Duration::from_secs(5))
            .with_retries(3);
        let tcp =
            TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(Duration::from_secs(10));
        let info = config.redis_url.expose_secret().into_connection_info().map_err(refuse)?.set_tcp_settings(tcp);
        // The replies are read as RESP2 writes them, whatever the URL asks for.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
        let info = info.set_redis_settings(settings);
        let client = Client::open(info).map_err(refuse)?;
        let host = gethostname::gethostname().to_string_lossy().into_owned();
        let urgent_stream = format!("{}:urgent", config.queue_stream);
        // A consumer would take dead letters for hints, and remove them.
        if [&config.queue_stream, &urgent_stream].contains(&&config.dead_letter_stream) {
            return Err(BadConfiguration(format!(
                "NOTIFICATION_DEAD_LETTER_STREAM (--dead-letter-stream): given {:?}, which carries hints; \
                 allowed: another key than NOTIFICATION_QUEUE_STREAM, and than that with :urgent added",
                config.dead_letter_stream
            )));
        }
        Ok(Self {
            client,
            settings: Settings {
                stream: config.queue_stream.clone(),
                urgent_stream,
                dead_letter_stream: config.dead_letter_stream.clone(),
                group: config.consumer_group.clone(),
                // Never shared: two processes under one name would read each other's backlog.
                consumer: format!("{host}-{}", uuid::Uuid::new_v4().simple()),
                max_len: config.stream_max_len,
                // The entry was read a little before its row was taken, so its lease ends a little later.
                reclaim_idle: send_lease + Duration::from_millis(250),
            },
            writer: tokio::sync::Mutex::new(None),
            reader: tokio::sync::Mutex::new(Reader::default()),
            write_link: Link::new("write"),
            read_link: Link::new("read"),
            run_id: Mutex::new(None),
            hints_lost: Mutex::new(None),
        })
    }

    /// This process's name in the consumer group.
    pub fn consumer(&self) -> &str {
        &self.settings.consumer
    }

    /// Where it is, for people: no credentials.
    pub fn place(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    /// The connections that this process needs.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        [&self.write_link, &self.read_link].into_iter().filter(|link| link.is_wanted())
    }

    /// Entries in the streams of hints.
    pub async fn depth(&self) -> Result<u64, QueueError> {
        let mut connection = self.writer().await?;
        let mut pipeline = pipe();
        for lane in Lane::ALL {
            pipeline.cmd("XLEN").arg(self.settings.stream(lane));
        }
        let lengths: Result<Vec<u64>, RedisError> = pipeline.query_async(&mut connection).await;
        Ok(self.distrust_writer(lengths).await?.into_iter().sum())
    }

    /// Each stream's key, its entries, and, where consumers read it, how many of these they have not acknowledged.
    pub async fn levels(&self) -> Result<Vec<(&str, i64, Option<i64>)>, QueueError> {
        let mut connection = self.writer().await?;
        let mut pipeline = pipe();
        for lane in Lane::ALL {
            let stream = self.settings.stream(lane);
            pipeline.cmd("XLEN").arg(stream).cmd("XPENDING").arg(stream).arg(&self.settings.group);
        }
        pipeline.cmd("XLEN").arg(&self.settings.dead_letter_stream);
        let replies: Result<Vec<Value>, RedisError> = pipeline.query_async(&mut connection).await;
        // XPENDING answers with the count and then who has them.
        let numbers = self.distrust_writer(replies).await?.into_iter().map(|reply| match reply {
            Value::Int(count) => count,
            Value::Array(summary) => {
                if let Some(Value::Int(count)) = summary.first() {
                    *count
                } else {
                    0
                }
            }
            _ => 0,
        });
        let numbers: Vec<i64> = numbers.collect();
        let read = Lane::ALL.into_iter().zip(numbers.chunks_exact(2));
        let mut levels: Vec<_> = read.map(|(lane, of)| (self.settings.stream(lane), of[0], Some(of[1]))).collect();
        levels.extend(numbers.last().map(|entries| (self.settings.dead_letter_stream.as_str(), *entries, None)));
        Ok(levels)
    }

    /// A new connection, with the groups known to exist and the server known to be the same as before, or noted not to be.
    async fn connect(&self, link: &Link, response_timeout: Duration) -> Result<MultiplexedConnection, RedisError> {
        let connected = self.try_connect(response_timeout).await;
        link.tried(connected.is_ok());
        connected
    }

    async fn try_connect(&self, response_timeout: Duration) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(response_timeout));
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let info: String = cmd("INFO").arg("server").query_async(&mut connection).await?;
        let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default().trim().to_owned();
        self.ensure_groups(&mut connection).await?;
        let before = self.run_id.lock().unwrap_or_else(PoisonError::into_inner).replace(run_id.clone());
        if before.is_some_and(|before| before != run_id) {
            tracing::warn!(
                "another Redis server answers than before; its streams may be older, so all hints are renewed"
            );
            self.note_hints_lost();
        }
        Ok(connection)
    }

    async fn writer(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut writer = self.writer.lock().await;
        if let Some(connection) = &*writer {
            return Ok(connection.clone());
        }
        let connection = self.connect(&self.write_link, RESPONSE_TIMEOUT).await?;
        *writer = Some(connection.clone());
        Ok(connection)
    }

    /// After a failure the connection is not trusted again: a timed-out one may still be alive, and hours behind.
    async fn distrust_writer<T>(&self, result: Result<T, RedisError>) -> Result<T, RedisError> {
        if result.is_err() {
            let mut writer = self.writer.lock().await;
            *writer = None;
            // While nobody else can make it again.
            self.write_link.stands(false);
        }
        result
    }

    /// The stream stands as of now; what was added before may be gone.
    fn note_hints_lost(&self) {
        *self.hints_lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn take_hints_lost(&self) -> Option<Instant> {
        self.hints_lost.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn try_publish(&self, topic: Topic, messages: &[Message]) -> Result<Published, RedisError> {
        let mut connection = self.writer().await?;
        let mut pipeline = pipe();
        for message in messages {
            pipeline.add_command(entry::xadd(&self.settings, topic, message));
        }
        if topic == Topic::Hints {
            for lane in Lane::ALL {
                pipeline.cmd("XLEN").arg(self.settings.stream(lane));
            }
        }
        pipeline.ignore_errors();
        let mut replies: Vec<Result<Value, RedisError>> = pipeline.query_async(&mut connection).await?;
        let mut room = Room::default();
        if topic == Topic::Hints {
            let lengths = replies.split_off(messages.len().min(replies.len()));
            let fits = |reply| {
                let length = ::redis::from_redis_value::<u64>(reply)?;
                Ok::<_, RedisError>(usize::try_from(self.settings.max_len.saturating_sub(length)).unwrap_or(usize::MAX))
            };
            let fits = lengths.into_iter().map(|reply| fits(reply?)).collect::<Result<Vec<usize>, RedisError>>()?;
            if let [urgent, normal] = fits[..] {
                room = Room { urgent, normal };
            }
        }
        let mut stream_missing = false;
        let refused: Vec<Option<String>> = replies
            .into_iter()
            .map(|reply| match reply {
                Ok(Value::Nil) => {
                    stream_missing = true;
                    Some("the stream is missing".to_owned())
                }
                Ok(_) => None,
                Err(error) => Some(error.to_string()),
            })
            .collect();
        let exhausted = |refusal: &Option<String>| refusal.as_ref().is_some_and(|why| why.contains(EXHAUSTED));
        if let Some((message, _)) = messages.iter().zip(&refused).find(|(_, refusal)| exhausted(refusal)) {
            self.free_ids(&mut connection, topic, Lane::of(message)).await?;
            stream_missing = topic == Topic::Hints;
        }
        // XLEN of a missing stream is 0: only a refused entry, or an idle probe, tells that it is gone.
        if stream_missing || messages.is_empty() && topic == Topic::Hints {
            self.ensure_groups(&mut connection).await?;
        }
        Ok(Published { refused, room, hints_lost: self.take_hints_lost() })
    }

    /// Somebody has added an entry with the last id there can be, behind which Redis adds no other.
    async fn free_ids(
        &self,
        connection: &mut MultiplexedConnection,
        topic: Topic,
        lane: Lane,
    ) -> Result<(), RedisError> {
        match topic {
            // Made again, as a stream that was lost: its hints are renewed.
            Topic::Hints => {
                let stream = self.settings.stream(lane);
                tracing::warn!(stream, "an entry has used up the stream's ids; the stream is made again");
                cmd("DEL").arg(stream).query_async(connection).await
            }
            // Its entries are for others to read, so only what is later than now goes.
            Topic::DeadLetters => {
                let stream = &self.settings.dead_letter_stream;
                tracing::warn!(stream, "an entry has used up the stream's ids; entries from the future are removed");
                let (now, _): (u64, u64) = cmd("TIME").query_async(connection).await?;
                let from_now = (now + 1) * 1000;
                let later: Vec<(String, Value)> =
                    cmd("XRANGE").arg(stream).arg(from_now).arg("+").query_async(connection).await?;
                if !later.is_empty() {
                    let ids: Vec<&str> = later.iter().map(|(id, _)| id.as_str()).collect();
                    let (): () = cmd("XDEL").arg(stream).arg(ids).query_async(connection).await?;
                }
                cmd("XSETID").arg(stream).arg(format!("{from_now}-0")).query_async(connection).await
            }
        }
    }

    async fn try_ack(&self, receipts: &[Receipt]) -> Result<(), RedisError> {
        // Deleted first: cut off in between, a deleted entry that is still pending is cleared by XAUTOCLAIM, while an
        // acknowledged one that is still there would be in nobody's care. (MULTI is refused when memory has run out.)
        let mut pipeline = pipe();
        for lane in Lane::ALL {
            let ids: Vec<&str> =
                receipts.iter().filter(|receipt| receipt.lane == lane).map(|receipt| receipt.id.as_str()).collect();
            if !ids.is_empty() {
                let (stream, group) = (self.settings.stream(lane), &self.settings.group);
                pipeline.cmd("XDEL").arg(stream).arg(&ids).ignore();
                pipeline.cmd("XACK").arg(stream).arg(group).arg(&ids).ignore();
            }
        }
        if receipts.is_empty() {
            return Ok(());
        }
        let mut connection = self.writer().await?;
        pipeline.query_async(&mut connection).await
    }

    /// The hints among these entries; what is none is dropped, and that is said.
    async fn dropping_junk(&self, found: Entries) -> Result<Vec<Hint>, RedisError> {
        if !found.junk.is_empty() {
            for junk in &found.junk {
                let stream = self.settings.stream(junk.lane);
                tracing::warn!(stream, id = junk.id, "dropped an entry that names no event");
            }
            self.try_ack(&found.junk).await?;
        }
        Ok(found.hints)
    }
}

impl Queue for RedisQueue {
    async fn publish(&self, topic: Topic, messages: &[Message]) -> Result<Published, QueueError> {
        let result = self.try_publish(topic, messages).await;
        Ok(self.distrust_writer(result).await?)
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Received, QueueError> {
        let mut reader = self.reader.lock().await;
        let hints = reader.receive(self, max, wait).await;
        self.read_link.stands(reader.is_connected());
        Ok(Received { hints: hints?, hints_lost: self.take_hints_lost() })
    }

    async fn ack(&self, receipts: &[Receipt]) -> Result<(), QueueError> {
        let result = self.try_ack(receipts).await;
        Ok(self.distrust_writer(result).await?)
    }
}

impl From<RedisError> for QueueError {
    fn from(error: RedisError) -> Self {
        QueueError(format!("Redis: {error}"))
    }
}
