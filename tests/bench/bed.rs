//! What everything is measured on: servers, tables with rows in them, processes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tokio_postgres::Client;

use crate::floor::ALWAYS_NOTIFY;
use crate::harness::process::{Env, Postbell};
use crate::harness::servers::{Database, Postgres, Redis, connect_redis};
use crate::options::Floor;
use crate::receiver::Receiver;
use crate::usage;

/// The stream of hints.
pub(crate) const STREAM: &str = "notification:events";

/// How long anything may take before it is held not to happen.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Waiting rows with about 500 bytes of jsonb, numbered from 1.
const FILL: &str = "
    insert into notification_events (event_type, payload)
    select 'bench', bench_payload(n) from generate_series(1, $1::bigint) n";

/// About 500 bytes, as a résumé event has.
const PAYLOAD: &str = "
    create function bench_payload(n bigint) returns jsonb language sql immutable as $$
        select jsonb_build_object('n', n, 'resume_id', n, 'job_id', n % 1000, 'candidate', '张三',
            'position', 'Senior Go engineer', 'score', 87, 'summary', rpad('', 380, 'ten years of distributed systems; '))
    $$";

/// Servers and what is on them.
pub(crate) struct Bed {
    postgres: Postgres,
    redis: Redis,
    queue: MultiplexedConnection,
    pub(crate) receiver: Receiver,
    postmaster: i32,
    /// Databases with so many waiting rows, to be copied.
    filled: tokio::sync::Mutex<HashMap<u64, Arc<Database>>>,
}

impl Bed {
    pub(crate) async fn new() -> Bed {
        let (postgres, redis) = (Postgres::measured().await, Redis::measured().await);
        let queue = connect_redis(&redis.url()).await;
        let database = postgres.database().await;
        let client = database.client().await;
        let backend: i32 = client.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
        let postmaster = usage::parent(backend).unwrap();
        Bed { postgres, redis, queue, receiver: Receiver::start(), postmaster, filled: tokio::sync::Mutex::default() }
    }

    /// A database of its own with so many waiting rows, vacuumed and analyzed, and an empty Redis.
    pub(crate) async fn with_rows(&self, rows: u64) -> Database {
        let mut filled = self.filled.lock().await;
        let database = match filled.get(&rows) {
            Some(database) => database.clone(),
            None => filled.entry(rows).or_insert(Arc::new(self.fill(rows).await)).clone(),
        };
        redis::cmd("FLUSHALL").exec_async(&mut self.queue()).await.unwrap();
        self.copy(&database).await
    }

    async fn fill(&self, rows: u64) -> Database {
        let database = self.postgres.database().await;
        let client = database.client().await;
        client.batch_execute(PAYLOAD).await.unwrap();
        client.execute(FILL, &[&(rows as i64)]).await.unwrap();
        client.batch_execute("vacuum (freeze, analyze) notification_events").await.unwrap();
        self.left(&database, client).await;
        database
    }

    /// A database of its own with everything that this one has.
    pub(crate) async fn copy(&self, database: &Database) -> Database {
        let copy = self.postgres.copy(database).await;
        // What was written while it was prepared must not be written back while something is measured.
        copy.client().await.batch_execute("checkpoint").await.unwrap();
        copy
    }

    /// An empty database without the schema.
    pub(crate) async fn empty(&self) -> Database {
        redis::cmd("FLUSHALL").exec_async(&mut self.queue()).await.unwrap();
        self.postgres.empty().await
    }

    /// Ends a connection and waits until the server knows.
    pub(crate) async fn left(&self, database: &Database, client: Client) {
        drop(client);
        let beside = self.postgres.empty().await;
        let observer = beside.client().await;
        let others = "select count(*) from pg_stat_activity where datname = $1 and backend_type = 'client backend'";
        until(async || observer.query_one(others, &[&database.name()]).await.unwrap().get::<_, i64>(0) == 0).await;
    }

    pub(crate) fn queue(&self) -> MultiplexedConnection {
        self.queue.clone()
    }

    pub(crate) fn redis_url(&self) -> String {
        self.redis.url()
    }

    /// What processes are started with.
    pub(crate) fn env(&self, database: &Database) -> Env {
        Env::default()
            .with("DATABASE_URL", database.url())
            .with("REDIS_URL", self.redis.url())
            .with("NOTIFICATION_QUEUE_STREAM", STREAM)
            // Backpressure would measure the consumer where the relay is asked about.
            .with("NOTIFICATION_STREAM_MAX_LEN", 10_000_000)
            .with("NOTIFICATION_HINT_LEASE", "1h")
            .with("NOTIFICATION_ROBOT_RATE", "off")
            .with("DINGTALK_NOTIFICATION_WEBHOOK", self.receiver.webhook())
            .with("NOTIFICATION_ALLOWED_HOSTS", self.receiver.address())
            .with("NOTIFICATION_TEMPLATES_DIR", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/templates"))
            .with("NOTIFICATION_HTTP_ADDR", "127.0.0.1:0")
            .with("NOTIFICATION_LOG", "warn")
    }

    /// Starts postbell.
    pub(crate) fn postbell(&self, command: &str, database: &Database) -> Postbell {
        Postbell::start(&[command], &self.env(database))
    }

    /// Starts a hand-written loop. Who inserts must notify it.
    pub(crate) fn floor(&self, floor: Floor, database: &Database) -> Postbell {
        let (program, name) = (
            std::env::current_exe().unwrap(),
            match floor {
                Floor::Relay => "relay",
                Floor::Consumer => "consumer",
                Floor::OwnStatements => "own-statements",
            },
        );
        Postbell::spawn(program.to_str().unwrap(), &["--floor", name], &self.env(database))
    }

    /// Has every insert notify, as the floor needs it.
    pub(crate) async fn always_notify(&self, database: &Database) {
        database.client().await.batch_execute(ALWAYS_NOTIFY).await.unwrap();
    }

    /// Entries in the stream of hints.
    pub(crate) async fn entries(&self) -> u64 {
        redis::cmd("XLEN").arg(STREAM).query_async(&mut self.queue()).await.unwrap()
    }

    /// Seconds of CPU that PostgreSQL has used.
    pub(crate) fn postgres_cpu(&self) -> f64 {
        usage::cpu_seconds_of_tree(self.postmaster)
    }
}

/// Looks until it is so.
pub(crate) async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Looks until it is so; panics where this process, which has to bring it about, has ended.
pub(crate) async fn while_running(process: &mut Postbell, mut is_so: impl AsyncFnMut() -> bool) {
    until(async || {
        let ended = process.has_ended();
        assert!(ended.is_none(), "a process has ended too early: {ended:?}: {}", process.stderr().join("\n"));
        is_so().await
    })
    .await;
}

/// One number that a query finds.
pub(crate) async fn number(client: &Client, query: &str) -> f64 {
    client.query_one(&format!("select ({query})::double precision"), &[]).await.unwrap().get(0)
}

/// Rows that nobody has finished.
pub(crate) async fn unfinished(client: &Client) -> f64 {
    number(client, "select count(*) from notification_events where completed_at is null").await
}
