//! What a test stands on: private servers, a proxy that knows the steps of the protocol, the binary as a process.

pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod servers;
pub(crate) mod stage;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_postgres::Client;
use uuid::Uuid;

use process::Env;
use servers::{Database, Postgres, Redis};

/// How long a test waits for something that should happen soon. Generous: it is only ever reached by a failure.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A database and a Redis of the test's own.
pub(crate) struct World {
    /// A clone of the migrated template, dropped with the world.
    pub(crate) database: Database,
    /// Empty, without persistence.
    pub(crate) redis: Redis,
    client: Client,
}

impl World {
    /// A fresh world, on the PostgreSQL server that all tests share.
    pub(crate) async fn new() -> World {
        let database = Postgres::shared().await.database().await;
        let redis = Redis::start().await;
        let client = database.client().await;
        World { database, redis, client }
    }

    /// A connection that bypasses every proxy.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// What `postbell` is to be started with; tests change what they are about.
    pub(crate) fn env(&self) -> Env {
        Env::default()
            .with("DATABASE_URL", self.database.url())
            .with("REDIS_URL", self.redis.url())
            .with("NOTIFICATION_HTTP_ADDR", "127.0.0.1:0")
            .with("NOTIFICATION_LOG", "debug")
    }

    /// Runs a statement that returns the id of the event it published.
    pub(crate) async fn publish_sql(&self, sql: &str) -> Uuid {
        self.client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:#}")).get(0)
    }

    /// A plain insert, as business code writes it.
    pub(crate) async fn publish(&self, event_type: &str, payload: Value) -> Uuid {
        let insert = "insert into notification_events (event_type, payload) values ($1, $2) returning id";
        self.client.query_one(insert, &[&event_type, &payload]).await.unwrap().get(0)
    }

    /// How many events there are of each status.
    pub(crate) async fn status_counts(&self) -> BTreeMap<String, i64> {
        let rows = self.client.query("select status, count(*) from notification_events group by status", &[]).await;
        rows.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}

/// One plain HTTP request to a health address: status line and body.
pub(crate) async fn get(address: &str, path: &str) -> (String, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

/// Waits until the closure has an answer; panics at the deadline, saying what it waited for.
pub(crate) async fn eventually<T, F>(deadline: Duration, what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(answer) = look().await {
            return answer;
        }
        assert!(start.elapsed() < deadline, "waited {:?} in vain: {what}", start.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The end of a log, for the message of a failure.
fn tail(text: &str, lines: usize) -> String {
    let skipped = text.lines().count().saturating_sub(lines);
    text.lines().skip(skipped).fold(String::new(), |mut tail, line| {
        let _ = write!(tail, "\n    {line}");
        tail
    })
}

mod tests {
    use super::*;

    #[tokio::test]
    async fn a_world_has_a_migrated_database_and_an_empty_redis_of_its_own() {
        let (one, other) = (World::new().await, World::new().await);
        one.publish("resume.parsed", serde_json::json!({"name": "张三"})).await;
        let id = one.publish_sql("select notification_publish('job.matched', '{}')").await;
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(one.status_counts().await, BTreeMap::from([("pending".to_owned(), 2)]));
        assert_eq!(other.status_counts().await, BTreeMap::new());

        let keys: Vec<String> = ::redis::cmd("KEYS").arg("*").query_async(&mut one.redis.client().await).await.unwrap();
        assert!(keys.is_empty());
        assert_ne!(one.database.url(), other.database.url());
        assert!(format!("{:?}", one.env()).contains(&one.redis.url()));
        assert!(one.client().query_one("select count(*) from notification_status", &[]).await.is_ok());
    }

    #[tokio::test]
    #[should_panic(expected = "in vain: pigs to fly")]
    async fn waiting_in_vain_says_what_for() {
        eventually(Duration::from_millis(30), "pigs to fly", async || None::<()>).await;
    }
}
