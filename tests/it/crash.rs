//! Whatever dies, at whatever step: nothing is lost, and what is sent again is sent with the same key.

use std::time::{Duration, Instant};

use postbell::sandbox::{Do, Rule};

use crate::harness::process::Postbell;
use crate::harness::proxy::{Proxy, Where};
use crate::harness::servers::Postgres;
use crate::harness::stage::{SEND_LEASE, Stage};
use crate::harness::wire::Protocol;
use crate::harness::{SOON, eventually};

/// Longest time until everything is done after a crash: a hint lease, then a send lease, and a little.
const RECOVERY: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    Postgres,
    Redis,
}

/// Kills the process the moment the server has done a step and before the process knows, and starts another.
async fn killed_right_after(server: Server, step: &str) {
    let stage = Stage::new().await;
    let postgres = Proxy::start(Protocol::Postgres, Postgres::shared().await.address()).await;
    let redis = Proxy::start(Protocol::Redis, stage.world.redis.address()).await;
    let env = stage
        .env
        .clone()
        .with("DATABASE_URL", stage.world.database.url_through(&postgres.address()))
        .with("REDIS_URL", format!("redis://{}", redis.address()));
    // One of the events fails for good, so that it is buried, and one succeeds at its second try only.
    stage.robot.script([
        Rule::new(Do::Errcode { code: 400402, msg: "never".into() }).containing("number 3.").forever(),
        Rule::new(Do::Errcode { code: -1, msg: "busy".into() }).containing("number 5."),
    ]);
    let proxy = match server {
        Server::Postgres => &postgres,
        Server::Redis => &redis,
    };
    let trap = proxy.at(step, 1, Where::AfterReply);
    let mut postbell = Postbell::start(&["run"], &env);
    let ids = stage.publish(10).await;
    trap.sprung().await;
    postbell.sigkill().await;
    trap.cut();

    let _another = Postbell::start(&["run"], &env);
    stage.settled_within(RECOVERY).await;
    let delivered: Vec<_> = ids.iter().copied().filter(|id| *id != ids[2]).collect();
    // Only what was sent and not yet recorded may be sent again: nothing, where the step comes before the first send.
    let before_sending = ["claim", "XADD notification:events", "XREADGROUP", "take"].contains(&step);
    let sent_again = if before_sending { 0 } else { 10 };
    stage.assert_arrived_once(&delivered, sent_again);
    assert_eq!(stage.column::<String>(ids[2], "status").await, "failed", "{step}");
    let letters: usize = ::redis::cmd("XLEN")
        .arg("notification:deadletter")
        .query_async(&mut stage.world.redis.client().await)
        .await
        .unwrap();
    assert!((1..=2).contains(&letters), "{letters} dead letters: buried twice at worst, never not at all");
}

macro_rules! killed_right_after {
    ($($name:ident: $server:ident $step:literal;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                killed_right_after(Server::$server, $step).await;
            }
        )*
    };
}

killed_right_after! {
    nothing_is_lost_when_killed_right_after_claim: Postgres "claim";
    nothing_is_lost_when_killed_right_after_hint: Redis "XADD notification:events";
    nothing_is_lost_when_killed_right_after_receive: Redis "XREADGROUP";
    nothing_is_lost_when_killed_right_after_take: Postgres "take";
    nothing_is_lost_when_killed_right_after_record: Postgres "record";
    nothing_is_lost_when_killed_right_after_ack: Redis "XACK notification:events";
    nothing_is_lost_when_killed_right_after_bury: Redis "XADD notification:deadletter";
    nothing_is_lost_when_killed_right_after_completing_a_dead_letter: Postgres "complete_dead_letters";
    nothing_is_lost_when_killed_right_after_looking_for_the_next_due_time: Postgres "next_due";
    nothing_is_lost_when_killed_right_after_taking_the_wake_up_lock: Postgres "try_sleep";
}

#[tokio::test]
async fn nothing_is_lost_when_killed_right_after_send() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::Hang).times(10).accepted()]);
    let mut postbell = stage.run();
    let ids = stage.publish(10).await;
    stage.robot.wait_for_requests(10, SOON).await.unwrap();
    postbell.sigkill().await;
    let _another = stage.run();
    stage.settled_within(RECOVERY).await;
    stage.assert_arrived_once(&ids, 10);
}

#[tokio::test]
async fn what_a_killed_consumer_had_in_hand_is_sent_again_within_the_send_lease_and_two_seconds() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::Hang).times(20)]);
    // The hint leases do not help here.
    let env = stage.env.clone().with("NOTIFICATION_HINT_LEASE", "1h");
    let mut killed = Postbell::start(&["run"], &env);
    let ids = stage.publish(20).await;
    stage.robot.wait_for_requests(20, SOON).await.unwrap();
    killed.sigkill().await;
    let died = Instant::now();
    let _another = Postbell::start(&["run"], &env);
    let messages = stage.robot.wait_for_messages(20, SOON).await;
    let took = died.elapsed();
    assert_eq!(messages.unwrap().len(), 20);
    assert!(took < SEND_LEASE + Duration::from_secs(2), "it took {took:?}");
    stage.settled().await;
    stage.assert_arrived_once(&ids, 0);
}

#[tokio::test]
async fn the_urgent_hint_of_a_killed_consumer_comes_back_within_the_send_lease_and_two_seconds() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::Hang).containing("urgent")]);
    let env = stage.env.clone().with("NOTIFICATION_HINT_LEASE", "1h");
    let mut killed = Postbell::start(&["run"], &env);
    let insert = "insert into notification_events (event_type, payload, options)
        values ('plain', '{\"text\": \"urgent\"}', '{\"urgent\": true}') returning id";
    let mut ids = vec![stage.world.publish_sql(insert).await];
    stage.robot.wait_for_requests(1, SOON).await.unwrap();
    killed.sigkill().await;
    let died = Instant::now();
    ids.extend(stage.publish(20).await);
    let _another = Postbell::start(&["run"], &env);
    stage.robot.wait_for_messages(21, SOON).await.unwrap();
    let took = died.elapsed();
    assert!(took < SEND_LEASE + Duration::from_secs(2), "it took {took:?}");
    stage.settled().await;
    stage.assert_arrived_once(&ids, 0);
}

#[tokio::test]
async fn a_row_that_kills_its_consumers_fails_alone_among_two_hundred() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::Hang).containing("killer").forever()]);
    let mut ids = stage.publish(100).await;
    let killer = stage.publish_one("killer").await;
    ids.extend(stage.publish(99).await);
    // A consumer dies whenever it sends the killer.
    let mut deaths = 0;
    while deaths < 3 {
        let mut consumer = stage.run();
        let what = format!("the killer to be sent for the {}. time", deaths + 1);
        stage
            .robot
            .wait_until(&what, RECOVERY, |robot| {
                let tried = robot
                    .requests()
                    .iter()
                    .filter(|request| request.body.windows(6).any(|part| part == b"killer"))
                    .count();
                (tried > deaths).then_some(())
            })
            .await
            .unwrap();
        consumer.sigkill().await;
        deaths += 1;
    }
    let _survivor = stage.run();
    stage.settled_within(RECOVERY).await;
    let error: String = stage.column(killer, "last_error").await;
    assert!(error.starts_with("kills its consumer: 3"), "{error}");
    stage.assert_arrived_once(&ids, 200);
    assert_eq!(stage.world.status_counts().await, [("delivered".to_owned(), 199), ("failed".to_owned(), 1)].into());
}

#[tokio::test]
async fn a_consumer_that_is_stopped_past_its_lease_is_replaced_and_its_late_answer_harms_nothing() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::DelayMs(300)).times(5)]);
    let env = stage.env.clone().with("NOTIFICATION_HINT_LEASE", "1h");
    let stopped = Postbell::start(&["run"], &env);
    let ids = stage.publish(5).await;
    stage.robot.wait_for_requests(5, SOON).await.unwrap();
    stopped.sigstop();
    let _another = Postbell::start(&["run"], &env);
    stage.settled_within(RECOVERY).await;
    stopped.sigcont();
    stopped.wait_for_line("no longer counts", SOON).await;
    stage.assert_arrived_once(&ids, 5);
    assert_eq!(stage.world.status_counts().await, [("delivered".to_owned(), 5)].into());
}

#[tokio::test]
async fn a_redis_killed_without_persistence_costs_no_event_and_no_retry() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::DelayMs(20)).forever()]);
    let _postbell = Postbell::start(&["run"], &stage.env.clone().with("NOTIFICATION_HINT_LEASE", "1h"));
    let mut ids = stage.publish(500).await;
    stage.robot.wait_for_messages(100, SOON).await.unwrap();
    stage.world.redis.kill().await;
    ids.extend(stage.publish(100).await);
    stage.world.redis.restart_empty().await;
    stage.settled_within(RECOVERY).await;
    stage.assert_arrived_once(&ids, 0);
    let retries: i64 =
        stage.world.client().query_one("select sum(retry_count) from notification_events", &[]).await.unwrap().get(0);
    assert_eq!(retries, 0);
}

#[tokio::test]
async fn an_event_that_asks_for_at_most_one_delivery_fails_when_its_consumer_dies() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::Hang).forever()]);
    let mut postbell = stage.run();
    let insert = "insert into notification_events (event_type, payload, options)
        values ('plain', '{\"text\": \"once\"}', '{\"delivery\": \"at_most_once\"}') returning id";
    let id = stage.world.publish_sql(insert).await;
    stage.robot.wait_for_requests(1, SOON).await.unwrap();
    postbell.sigkill().await;
    let _another = stage.run();
    stage.settled_within(RECOVERY).await;
    let error: String = stage.column(id, "last_error").await;
    assert!(error.starts_with("outcome unknown"), "{error}");
    assert_eq!(stage.robot.requests().len(), 1);
}

#[tokio::test]
async fn a_connection_cut_anywhere_costs_no_event() {
    let stage = Stage::new().await;
    let postgres = Proxy::start(Protocol::Postgres, Postgres::shared().await.address()).await;
    let redis = Proxy::start(Protocol::Redis, stage.world.redis.address()).await;
    let env = stage
        .env
        .clone()
        .with("DATABASE_URL", stage.world.database.url_through(&postgres.address()))
        .with("REDIS_URL", format!("redis://{}", redis.address()));
    let _postbell = Postbell::start(&["run"], &env);
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.extend(stage.publish(100).await);
        stage.robot.wait_for_messages(ids.len() - 80, SOON).await.unwrap();
        postgres.cut();
        redis.cut();
    }
    stage.settled_within(RECOVERY).await;
    stage.assert_arrived_once(&ids, 500);
}

#[tokio::test]
async fn a_database_that_stops_answering_is_given_up_and_asked_again() {
    let stage = Stage::new().await;
    let postgres = Proxy::start(Protocol::Postgres, Postgres::shared().await.address()).await;
    let env = stage.env.clone().with("DATABASE_URL", stage.world.database.url_through(&postgres.address()));
    let postbell = Postbell::start(&["run"], &env);
    let mut ids = stage.publish(5).await;
    stage.robot.wait_for_messages(5, SOON).await.unwrap();
    postgres.stall();
    ids.extend(stage.publish(5).await);
    postbell.wait_for_line("does not answer", SOON * 2).await;
    // The connections of before are never answered again; new ones are.
    postgres.cut();
    postgres.resume();
    stage.settled_within(SOON * 2).await;
    stage.assert_arrived_once(&ids, 5);
}

#[tokio::test]
async fn a_database_that_crashes_and_comes_back_costs_no_event() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::DelayMs(30)).forever()]);
    let postgres = Postgres::own().await;
    let database = postgres.database().await;
    let _postbell = Postbell::start(&["run"], &stage.env.clone().with("DATABASE_URL", database.url()));
    let insert = "insert into notification_events (event_type, payload)
        select 'plain', jsonb_build_object('text', 'number ' || n || '.') from generate_series(1, 300) n returning id";
    let rows = database.client().await.query(insert, &[]).await.unwrap();
    let ids: Vec<uuid::Uuid> = rows.iter().map(|row| row.get(0)).collect();
    stage.robot.wait_for_messages(50, SOON).await.unwrap();
    postgres.stop_immediate().await;
    postgres.start().await;
    let client = database.client().await;
    eventually(SOON, "all events to be delivered", async || {
        let open = "select count(*) from notification_events where status <> 'delivered'";
        let open: i64 = client.query_one(open, &[]).await.unwrap().get(0);
        (open == 0).then_some(())
    })
    .await;
    // What was sent while nothing could be recorded is recorded afterwards, or sent again with the same key.
    stage.assert_arrived_once(&ids, 300);
}
