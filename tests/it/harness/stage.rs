//! A whole pipeline to put a test on: database, Redis, a robot, and a count of what arrived.

use std::collections::BTreeMap;
use std::time::Duration;

use postbell::sandbox::{Message, Sandbox, Settings};
use serde_json::json;
use tokio::net::TcpListener;
use uuid::Uuid;

use super::process::{Env, Postbell};
use super::{SOON, World, eventually};

/// The send lease on a stage.
pub(crate) const SEND_LEASE: Duration = Duration::from_secs(2);

/// A world with a robot, and the settings of processes that use both.
pub(crate) struct Stage {
    /// Database and Redis.
    pub(crate) world: World,
    /// The robot: strict, but mostly without a limit of messages a minute.
    pub(crate) robot: Sandbox,
    /// What processes are started with. Leases are short. The poll interval is long, so that no test passes by polling.
    pub(crate) env: Env,
}

impl Stage {
    pub(crate) async fn new() -> Stage {
        Stage::with(Settings { rate: None, ..Settings::default() }).await
    }

    /// With robots that are as strict as those of the platform, and consumers that keep to the default budget.
    pub(crate) async fn strict() -> Stage {
        let stage = Stage::with(Settings::default()).await;
        let env = stage.env.clone().with("NOTIFICATION_ROBOT_RATE", "18/60s").with("NOTIFICATION_SEND_LEASE", "20s");
        Stage { env, ..stage }
    }

    /// The same in less time: the window is this long.
    pub(crate) async fn strict_within(window: Duration) -> Stage {
        let settings = Settings { rate: Some((20, window)), ..Settings::default() };
        let stage = Stage::with(settings).await;
        let rate = format!("18/{}ms", window.as_millis());
        let env = stage.env.clone().with("NOTIFICATION_ROBOT_RATE", rate).with("NOTIFICATION_SEND_LEASE", "10s");
        Stage { env, ..stage }
    }

    /// With a robot that is special.
    pub(crate) async fn with(settings: Settings) -> Stage {
        let world = World::new().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let robot = Sandbox::start(listener, settings).unwrap();
        let env = world
            .env()
            .with("DINGTALK_NOTIFICATION_WEBHOOK", robot.webhook("token"))
            .with("NOTIFICATION_ALLOWED_HOSTS", robot.addr())
            .with("NOTIFICATION_TEMPLATES_DIR", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/templates"))
            .with("NOTIFICATION_HINT_LEASE", "3s")
            .with("NOTIFICATION_SEND_LEASE", format!("{}s", SEND_LEASE.as_secs()))
            .with("NOTIFICATION_SEND_TIMEOUT", "1s")
            .with("NOTIFICATION_STREAM_BLOCK", "200ms")
            .with("NOTIFICATION_POLL_INTERVAL", "1h")
            .with("NOTIFICATION_RETRY_BACKOFF", "300ms")
            .with("NOTIFICATION_ROBOT_RATE", "off")
            .with("NOTIFICATION_SHUTDOWN_GRACE", "5s");
        Stage { world, robot, env }
    }

    /// Relay and consumer in one process.
    pub(crate) fn run(&self) -> Postbell {
        Postbell::start(&["run"], &self.env)
    }

    /// Inserts so many events in one statement; their ids, in insertion order.
    pub(crate) async fn publish(&self, count: i32) -> Vec<Uuid> {
        let insert = "with published as (
                insert into notification_events (event_type, payload)
                select 'plain', jsonb_build_object('text', 'number ' || n || '.') from generate_series(1, $1) n
                returning id, seq)
            select id from published order by seq";
        self.world.client().query(insert, &[&count]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// Inserts so many events that can be merged, in one statement; their ids, in insertion order.
    pub(crate) async fn publish_listed(&self, count: i32, target: &str) -> Vec<Uuid> {
        let insert = "with published as (
                insert into notification_events (event_type, payload, target)
                select 'listed', jsonb_build_object('text', 'number ' || n || '.'), $2 from generate_series(1, $1) n
                returning id, seq)
            select id from published order by seq";
        self.world.client().query(insert, &[&count, &target]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// Inserts one event whose message has this text.
    pub(crate) async fn publish_one(&self, text: &str) -> Uuid {
        self.world.publish("plain", json!({ "text": text })).await
    }

    /// Inserts one event for another target than the default.
    pub(crate) async fn publish_to(&self, target: &str, event_type: &str, payload: serde_json::Value) -> Uuid {
        let insert = "insert into notification_events (event_type, payload, target) values ($1, $2, $3) returning id";
        self.world.client().query_one(insert, &[&event_type, &payload, &target]).await.unwrap().get(0)
    }

    /// Waits until no event is left to be done.
    pub(crate) async fn settled(&self) {
        self.settled_within(SOON).await;
    }

    /// The same, with another deadline.
    pub(crate) async fn settled_within(&self, deadline: Duration) {
        self.has_open(0, deadline).await;
    }

    /// Waits until only so many events are left to be done.
    pub(crate) async fn settled_but(&self, open: i64) {
        self.has_open(open, SOON).await;
    }

    async fn has_open(&self, expected: i64, deadline: Duration) {
        eventually(deadline, &format!("all events but {expected} to be complete"), async || {
            let open = "select count(*) from notification_events where completed_at is null";
            let open: i64 = self.world.client().query_one(open, &[]).await.unwrap().get(0);
            (open == expected).then_some(())
        })
        .await;
    }

    /// One column of an event.
    pub(crate) async fn column<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, id: Uuid, column: &str) -> T {
        let query = format!("select {column} from notification_events where id = $1");
        self.world.client().query_one(&query, &[&id]).await.unwrap().get(0)
    }

    /// Waits until an event has this status.
    pub(crate) async fn has_status(&self, id: Uuid, status: &str) {
        eventually(SOON, &format!("the event to be {status}"), async || {
            let is: String = self.column(id, "status").await;
            (is == status).then_some(())
        })
        .await;
    }

    /// The group's messages by event.
    pub(crate) fn arrived(&self) -> BTreeMap<Uuid, Vec<Message>> {
        let mut arrived: BTreeMap<Uuid, Vec<Message>> = BTreeMap::new();
        for message in self.robot.messages() {
            let id = message.text.split(' ').next().unwrap().parse().unwrap();
            arrived.entry(id).or_default().push(message);
        }
        arrived
    }

    /// Each of these events arrived once, and no other did; sent again were at most so many, with the same `msgUuid`.
    pub(crate) fn assert_arrived_once(&self, ids: &[Uuid], most_sent_again: u32) {
        let arrived = self.arrived();
        let lost: Vec<&Uuid> = ids.iter().filter(|id| !arrived.contains_key(id)).collect();
        assert!(lost.is_empty(), "{} of {} events were lost: {lost:?}", lost.len(), ids.len());
        assert_eq!(arrived.len(), ids.len(), "events arrived that should not have");
        for (id, messages) in &arrived {
            assert_eq!(messages.len(), 1, "{id} is in the group more than once: {messages:#?}");
            assert!(!messages[0].mismatched, "{id} was sent again with another body");
        }
        let again: u32 = arrived.values().flatten().map(|message| message.duplicates).sum();
        assert!(again <= most_sent_again, "{again} events were sent again");
    }
}
