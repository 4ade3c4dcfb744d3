//! What runs: servers, relays, consumers, the robot, and a proxy in front of each server for each process.

use std::sync::Arc;
use std::time::Duration;

use postbell::sandbox::{Do, Rule, Sandbox, Settings};
use tokio::net::TcpListener;
use tokio_postgres::{Client, NoTls};

use crate::harness::process::{Env, Postbell};
use crate::harness::proxy::Proxy;
use crate::harness::servers::{Database, Postgres, Redis};
use crate::harness::wire::Protocol;
use crate::harness::{SOON, eventually};
use crate::ledger::Ledger;
use crate::options::Order;
use crate::schedule::{Kind, Planned};

/// How long a consumer owns what it took.
pub(crate) const SEND_LEASE: Duration = Duration::from_secs(2);

/// One request to the robot.
pub(crate) const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the robot takes for an answer: long enough for a fault to come in between.
const ANSWER_MILLIS: u64 = 40;

/// How long it takes from the writers to PostgreSQL, and back: long enough for the answer to a commit to get lost.
const WRITERS_DISTANCE: Duration = Duration::from_millis(15);

/// How long a hint is trusted. Longer than a flushed Redis may hold anything up, so that no recovery is the lease's.
pub(crate) const HINT_LEASE: Duration = Duration::from_secs(5);

/// A disk that can be full is in memory. An empty database needs so much, a second of a run a megabyte at most, …
const EMPTY_MEGABYTES: u64 = 256;

/// … and runs longer than this have their database in a file system that is nobody's to fill.
const LONGEST_ON_A_DISK: Duration = Duration::from_secs(3600);

/// Lines of log that a process may have before the older half is forgotten.
const MOST_LINES: usize = 200_000;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Relay,
    Consumer,
    Both,
}

/// The processes of a run, in the order in which a schedule names them.
pub(crate) const MEMBERS: [(&str, Part); 5] = [
    ("relay 1", Part::Relay),
    ("relay 2", Part::Relay),
    ("consumer 1", Part::Consumer),
    ("consumer 2", Part::Consumer),
    ("relay and consumer", Part::Both),
];

impl Part {
    pub(crate) fn relays(self) -> bool {
        self != Part::Consumer
    }

    pub(crate) fn consumes(self) -> bool {
        self != Part::Relay
    }

    fn command(self) -> &'static str {
        match self {
            Part::Relay => "relay",
            Part::Consumer => "consume",
            Part::Both => "run",
        }
    }
}

/// One process and its ways to the servers.
pub(crate) struct Member {
    pub(crate) name: &'static str,
    pub(crate) part: Part,
    pub(crate) postgres: Proxy,
    pub(crate) redis: Proxy,
    pub(crate) process: Postbell,
    env: Env,
    /// What those before it wrote.
    log: Vec<String>,
}

impl Member {
    /// Starts it anew; the one before must have ended.
    pub(crate) fn start_again(&mut self) {
        let started = Postbell::start(&[self.part.command()], &self.env);
        let before = std::mem::replace(&mut self.process, started);
        self.log.extend(before.stderr());
        if self.log.len() > MOST_LINES {
            self.log.drain(..MOST_LINES / 2);
        }
    }

    /// Lines of its log, and of those before it, that contain this.
    pub(crate) fn lines_with(&self, text: &str) -> Vec<String> {
        let lines = self.log.iter().cloned().chain(self.process.stderr());
        lines.filter(|line| line.contains(text)).collect()
    }
}

/// Everything that runs.
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
    pub(crate) postgres: Postgres,
    pub(crate) database: Database,
    pub(crate) redis: Redis,
    pub(crate) robot: Sandbox,
    /// The writers' way to PostgreSQL.
    pub(crate) business: Proxy,
    disk_can_be_full: bool,
}

impl Cluster {
    /// Starts it all; the robot tells the ledger of every request.
    pub(crate) async fn start(order: Order, ledger: Arc<Ledger>) -> Cluster {
        let disk = order.lasts <= LONGEST_ON_A_DISK;
        let disk = if disk { Postgres::on_disk_of(EMPTY_MEGABYTES + order.lasts.as_secs()).await } else { None };
        let disk_can_be_full = disk.is_some();
        let postgres = match disk {
            Some(postgres) => postgres,
            None => Postgres::own().await,
        };
        let database = postgres.database().await;
        let redis = Redis::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = Settings {
            rate: None,
            // The ledger remembers.
            history: 1_000,
            on_request: Some(Arc::new(move |request| ledger.receive(request))),
            ..Settings::default()
        };
        let robot = Sandbox::start(listener, settings).unwrap();
        robot.script([usual_answer()]);
        let mut members = Vec::new();
        for (name, part) in MEMBERS {
            let to_postgres = Proxy::start(Protocol::Postgres, postgres.address()).await;
            let to_redis = Proxy::start(Protocol::Redis, redis.address()).await;
            let env = env(&robot)
                .with("DATABASE_URL", database.url_through(&to_postgres.address()))
                .with("REDIS_URL", format!("redis://{}", to_redis.address()));
            let process = Postbell::start(&[part.command()], &env);
            members.push(Member { name, part, postgres: to_postgres, redis: to_redis, process, env, log: Vec::new() });
        }
        let business = Proxy::start(Protocol::Postgres, postgres.address()).await;
        business.delay(WRITERS_DISTANCE);
        for member in &members {
            member.process.wait_for_line("started", SOON).await;
        }
        Cluster { members, postgres, database, redis, robot, business, disk_can_be_full }
    }

    /// Whether this can be done here.
    pub(crate) fn can_have(&self, fault: &Planned) -> bool {
        fault.kind != Kind::DiskFull || self.disk_can_be_full
    }

    /// The robot misbehaves, as long as this rule goes, and is slow otherwise.
    pub(crate) fn spoil(&self, rule: Rule) {
        self.robot.clear_script();
        self.robot.script([rule, usual_answer()]);
    }

    /// Ends [`Self::spoil`].
    pub(crate) fn behave(&self) {
        self.robot.clear_script();
        self.robot.script([usual_answer()]);
    }

    /// Hints in the streams.
    pub(crate) async fn hints(&self) -> u64 {
        let mut lengths = redis::pipe();
        lengths.cmd("XLEN").arg("notification:events").cmd("XLEN").arg("notification:events:urgent");
        let (normal, urgent): (u64, u64) = lengths.query_async(&mut self.redis.client().await).await.unwrap();
        normal + urgent
    }

    /// Where the writers connect.
    pub(crate) fn business_url(&self) -> String {
        self.database.url_through(&self.business.address())
    }

    /// A connection that bypasses every proxy.
    pub(crate) async fn client(&self) -> Client {
        eventually(SOON, "PostgreSQL to accept a connection", async || {
            let (client, connection) = tokio_postgres::connect(&self.database.url(), NoTls).await.ok()?;
            tokio::spawn(connection);
            Some(client)
        })
        .await
    }

    /// Processes that have ended without being told to, each with the end of its log.
    pub(crate) fn deaths(&mut self) -> Vec<String> {
        let ended = self.members.iter_mut().filter_map(|member| {
            let status = member.process.has_ended()?;
            let log = member.process.stderr();
            let last = log.iter().rev().take(5).rev().map(|line| format!("\n    {line}")).collect::<String>();
            Some(format!("{} ended by itself ({status}):{last}", member.name))
        });
        ended.collect()
    }
}

fn usual_answer() -> Rule {
    Rule::new(Do::DelayMs(ANSWER_MILLIS)).forever()
}

/// What all processes are started with. There is next to no polling: whoever is not woken is late.
fn env(robot: &Sandbox) -> Env {
    Env::default()
        .with("DINGTALK_NOTIFICATION_WEBHOOK", robot.webhook("token"))
        .with("NOTIFICATION_ALLOWED_HOSTS", robot.addr())
        .with("NOTIFICATION_TEMPLATES_DIR", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/templates"))
        .with("NOTIFICATION_HINT_LEASE", format!("{}s", HINT_LEASE.as_secs()))
        .with("NOTIFICATION_SEND_LEASE", format!("{}s", SEND_LEASE.as_secs()))
        .with("NOTIFICATION_SEND_TIMEOUT", format!("{}s", SEND_TIMEOUT.as_secs()))
        .with("NOTIFICATION_POLL_INTERVAL", "1h")
        // Few enough for hints to pile up.
        .with("NOTIFICATION_CONCURRENCY", "8")
        // A robot that misbehaves is to cost time and no event.
        .with("NOTIFICATION_MAX_RETRY", "50")
        .with("NOTIFICATION_RETRY_BACKOFF", "300ms")
        .with("NOTIFICATION_SHUTDOWN_GRACE", "5s")
        // What a budget would hold back is not what is looked at here.
        .with("NOTIFICATION_ROBOT_RATE", "off")
        .with("NOTIFICATION_HTTP_ADDR", "off")
}
