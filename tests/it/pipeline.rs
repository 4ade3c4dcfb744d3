//! From an insert to a message in the group, and back to a status in SQL.

use std::time::Duration;

use postbell::sandbox::{Do, Rule};
use serde_json::{Value, json};
use tokio_postgres::types::Json;
use uuid::Uuid;

use crate::harness::process::Postbell;
use crate::harness::proxy::{Proxy, Where};
use crate::harness::servers::Postgres;
use crate::harness::stage::Stage;
use crate::harness::wire::Protocol;
use crate::harness::{SOON, eventually};

async fn dead_letters(stage: &Stage) -> Vec<std::collections::BTreeMap<String, String>> {
    let entries: Vec<(String, std::collections::BTreeMap<String, String>)> = redis::cmd("XRANGE")
        .arg("notification:deadletter")
        .arg("-")
        .arg("+")
        .query_async(&mut stage.world.redis.client().await)
        .await
        .unwrap();
    entries.into_iter().map(|(_, fields)| fields).collect()
}

/// Adds a hint that no relay has given.
async fn hint(stage: &Stage, id: Uuid) {
    let mut xadd = redis::cmd("XADD");
    xadd.arg("notification:events").arg("*").arg("event_id").arg(id.to_string());
    xadd.exec_async(&mut stage.world.redis.client().await).await.unwrap();
}

async fn call(stage: &Stage, function: &str, id: Uuid) -> String {
    let query = format!("select {function}($1)");
    stage.world.client().query_one(&query, &[&id]).await.unwrap().get(0)
}

#[tokio::test]
async fn committed_events_arrive_once_and_rolled_back_ones_do_not() {
    let stage = Stage::new().await;
    let _postbell = stage.run();
    let rolled_back =
        "begin; insert into notification_events (event_type, payload) values ('plain', '{\"text\": \"no\"}'); rollback";
    stage.world.client().batch_execute(rolled_back).await.unwrap();
    let ids = stage.publish(50).await;
    stage.settled().await;
    stage.assert_arrived_once(&ids, 0);
    assert_eq!(stage.world.status_counts().await, [("delivered".to_owned(), 50)].into());
    let id = ids[0];
    assert_eq!(stage.column::<String>(id, "response").await, r#"{"errcode":0,"errmsg":"ok"}"#);
    assert_eq!(stage.column::<String>(id, "robot").await, "default");
    let times = "created_at <= dispatched_at and dispatched_at <= delivered_at and delivered_at = completed_at";
    assert!(stage.column::<bool>(id, times).await);
}

#[tokio::test]
async fn two_relays_and_two_consumers_deliver_without_a_duplicate() {
    let stage = Stage::new().await;
    let _processes = [Postbell::start(&["relay"], &stage.env), Postbell::start(&["consume"], &stage.env), stage.run()];
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.extend(stage.publish(100).await);
    }
    stage.settled().await;
    stage.assert_arrived_once(&ids, 0);
}

#[tokio::test]
async fn a_queue_flushed_in_the_middle_costs_a_moment_and_no_event() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::DelayMs(20)).forever()]);
    let _postbell = Postbell::start(&["run"], &stage.env.clone().with("NOTIFICATION_HINT_LEASE", "1h"));
    let ids = stage.publish(1_000).await;
    for arrived in [100, 300, 600] {
        stage.robot.wait_for_messages(arrived, SOON).await.unwrap();
        stage.world.redis.flushall().await;
    }
    stage.settled().await;
    stage.assert_arrived_once(&ids, 0);
}

#[tokio::test]
async fn a_failed_send_is_retried_at_its_time_and_buried_after_the_last() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::Errcode { code: -1, msg: "system busy".into() }).forever()]);
    let env = stage.env.clone().with("NOTIFICATION_RETRY_BACKOFF", "200ms,600ms").with("NOTIFICATION_MAX_RETRY", "2");
    let _postbell = Postbell::start(&["run"], &env);
    let id = stage.publish_one("unlucky").await;
    stage.settled().await;

    let requests = stage.robot.requests();
    assert_eq!(requests.len(), 3, "two retries are three sends");
    let gaps: Vec<Duration> = requests.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert!(gaps[0] >= Duration::from_millis(200) && gaps[1] >= Duration::from_millis(600), "{gaps:?}");
    assert!(requests.windows(2).all(|pair| pair[0].msg_uuid == pair[1].msg_uuid), "one generation has one msgUuid");

    assert_eq!(stage.column::<String>(id, "status").await, "failed");
    assert_eq!(stage.column::<i32>(id, "retry_count").await, 2);
    let error: String = stage.column(id, "last_error").await;
    assert!(error.contains("system busy") && error.contains("no retry is left"), "{error}");
    let letters = dead_letters(&stage).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["event_id"], id.to_string());
    assert_eq!(letters[0]["last_error"], error);
}

#[tokio::test]
async fn a_replayed_event_is_sent_again_as_a_new_message() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::Errcode { code: 400402, msg: "bad".into() })]);
    let _postbell = stage.run();
    let id = stage.publish_one("again").await;
    stage.has_status(id, "failed").await;
    stage.settled().await;
    assert!(call(&stage, "notification_replay", id).await.starts_with("replayed"));
    stage.has_status(id, "delivered").await;
    let requests = stage.robot.requests();
    assert_eq!(requests.len(), 2);
    assert_ne!(requests[0].msg_uuid, requests[1].msg_uuid, "a replay is meant to arrive again");
}

#[tokio::test]
async fn scheduled_events_wait_cancelled_ones_never_ring_and_rescheduled_ones_ring_at_the_new_time() {
    let stage = Stage::new().await;
    let _postbell = stage.run();
    let insert = "insert into notification_events (event_type, payload, scheduled_at)
        values ('plain', '{\"text\": \"later\"}', now() + interval '1 hour') returning id";
    let (cancelled, moved, waiting) = (
        stage.world.publish_sql(insert).await,
        stage.world.publish_sql(insert).await,
        stage.world.publish_sql(insert).await,
    );
    assert_eq!(call(&stage, "notification_cancel", cancelled).await, "cancelled");
    let reschedule = "select notification_reschedule($1, now() + interval '300 milliseconds')";
    stage.world.client().query_one(reschedule, &[&moved]).await.unwrap();
    stage.has_status(moved, "delivered").await;
    assert!(stage.column::<bool>(moved, "delivered_at >= scheduled_at").await);
    assert_eq!(stage.column::<String>(waiting, "status").await, "pending");
    assert_eq!(stage.column::<String>(cancelled, "status").await, "cancelled");
    stage.assert_arrived_once(&[moved], 0);
}

#[tokio::test]
async fn a_cancel_during_a_send_stops_further_ones_and_a_success_is_recorded_all_the_same() {
    let stage = Stage::new().await;
    stage.robot.script([
        Rule::new(Do::DelayMs(500)).containing("succeeds"),
        Rule::new(Do::Errcode { code: -1, msg: "busy".into() }).containing("fails"),
    ]);
    let _postbell = stage.run();
    let succeeds = stage.publish_one("succeeds").await;
    stage.robot.wait_for_requests(1, SOON).await.unwrap();
    assert!(call(&stage, "notification_cancel", succeeds).await.contains("under way"));
    stage.has_status(succeeds, "delivered").await;

    let fails = stage.publish_one("fails").await;
    stage.robot.wait_for_requests(2, SOON).await.unwrap();
    stage.has_status(fails, "pending").await;
    assert_eq!(call(&stage, "notification_cancel", fails).await, "cancelled");
    // An event published later that has arrived shows that the cancelled one had its chance.
    let after = stage.publish_one("after").await;
    stage.has_status(after, "delivered").await;
    assert_eq!(stage.column::<String>(fails, "status").await, "cancelled");
    assert_eq!(stage.robot.requests().len(), 3);
}

#[tokio::test]
async fn what_cannot_be_sent_fails_alone_and_says_why() {
    let stage = Stage::new().await;
    let _postbell = stage.run();
    let client = stage.world.client();
    let mut expected = Vec::new();
    for (columns, values, why) in [
        ("event_type, payload", "'no.such.template', '{}'", "no.such.template"),
        ("event_type, payload", "'plain', '{}'", "text"),
        ("event_type, payload, target", "'plain', '{\"text\": \"x\"}', 'nobody'", "unknown target"),
        (
            "event_type, payload, target",
            "'plain', '{\"text\": \"x\"}', 'https://evil.example/?access_token=TOPSECRET'",
            "evil.example",
        ),
        ("event_type, payload, channel", "'plain', '{\"text\": \"x\"}', 'pigeon'", "unknown channel"),
        ("event_type, payload, options", "'plain', '{\"text\": \"x\"}', '{\"at_mobiles\": 5}'", "options"),
        ("event_type, payload, options", "'plain', '{\"text\": \"x\"}', '{\"delivery\": \"maybe\"}'", "at_most_once"),
    ] {
        let insert = format!("insert into notification_events ({columns}) values ({values}) returning id");
        expected.push((stage.world.publish_sql(&insert).await, why));
    }
    let good = stage.publish(20).await;
    stage.settled().await;
    stage.assert_arrived_once(&good, 0);
    for (id, why) in expected {
        let row = client
            .query_one("select status, last_error, retry_count from notification_events where id = $1", &[&id])
            .await
            .unwrap();
        let error: String = row.get(1);
        assert_eq!((row.get::<_, String>(0).as_str(), row.get::<_, i32>(2)), ("failed", 0), "{error}");
        assert!(error.contains(why), "{error} does not say {why:?}");
        assert!(!error.contains("TOPSECRET"), "{error}");
    }
    assert_eq!(dead_letters(&stage).await.len(), 7);
}

#[tokio::test]
async fn a_slow_send_delays_only_itself() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::DelayMs(3_000)).containing("slow")]);
    let env = stage.env.clone().with("NOTIFICATION_SEND_TIMEOUT", "10s").with("NOTIFICATION_SEND_LEASE", "20s");
    let _postbell = Postbell::start(&["run"], &env);
    let slow = stage.publish_one("slow").await;
    stage.robot.wait_for_requests(1, SOON).await.unwrap();
    let quick = stage.publish(100).await;
    stage.settled().await;
    let arrived: Vec<Uuid> = quick.iter().copied().chain([slow]).collect();
    stage.assert_arrived_once(&arrived, 0);
    let query = "select count(*) from notification_events where delivered_at > (select delivered_at from notification_events where id = $1)";
    let later: i64 = stage.world.client().query_one(query, &[&slow]).await.unwrap().get(0);
    assert_eq!(later, 0, "events waited behind the slow one");
}

#[tokio::test]
async fn an_unknown_outcome_is_sent_again_with_the_same_key_unless_the_event_asks_for_at_most_once() {
    let stage = Stage::new().await;
    stage.robot.script([
        Rule::new(Do::DropAfterReading).accepted().containing("again"),
        Rule::new(Do::DropAfterReading).accepted().containing("once only"),
    ]);
    let _postbell = stage.run();
    let again = stage.publish_one("again").await;
    let insert = "insert into notification_events (event_type, payload, options)
        values ('plain', '{\"text\": \"once only\"}', '{\"delivery\": \"at_most_once\"}') returning id";
    let once = stage.world.publish_sql(insert).await;
    stage.settled().await;
    assert_eq!(stage.column::<String>(again, "status").await, "delivered");
    assert_eq!(stage.column::<i32>(again, "retry_count").await, 1);
    assert_eq!(stage.column::<String>(once, "status").await, "failed");
    let error: String = stage.column(once, "last_error").await;
    assert!(error.starts_with("outcome unknown"), "{error}");
    stage.assert_arrived_once(&[again, once], 1);
}

#[tokio::test]
async fn a_throttled_robot_costs_no_retry() {
    let stage = Stage::new().await;
    let reply = Do::Reply { status: 429, body: String::new(), headers: [("retry-after".into(), "90".into())].into() };
    stage.robot.script([Rule::new(reply)]);
    let _postbell = stage.run();
    let id = stage.publish_one("patience").await;
    eventually(SOON, "the event to wait", async || {
        stage.column::<bool>(id, "waiting_since is not null").await.then_some(())
    })
    .await;
    assert_eq!(stage.column::<i32>(id, "retry_count").await, 0);
    let wait = "select extract(epoch from cool_until - now())::double precision from notification_robots where name = 'default'";
    let wait: f64 = stage.world.client().query_one(wait, &[]).await.unwrap().get(0);
    assert!((80.0..=90.0).contains(&wait), "waits {wait} s");
}

#[tokio::test]
async fn mentions_come_from_the_options_and_never_from_the_content() {
    let stage = Stage::new().await;
    let _postbell = stage.run();
    let insert = "insert into notification_events (event_type, payload, options) values ('plain', $1, $2) returning id";
    let payload = Json(json!({ "text": "@all please" }));
    let options = Json(json!({ "at_mobiles": ["13800000000"] }));
    let id: Uuid = stage.world.client().query_one(insert, &[&payload, &options]).await.unwrap().get(0);
    stage.has_status(id, "delivered").await;
    let message = &stage.robot.messages()[0];
    let body: Value = serde_json::from_slice(&message.body).unwrap();
    assert_eq!(body["at"]["atMobiles"], json!(["13800000000"]));
    assert_eq!(body["at"]["isAtAll"], json!(false));
    assert!(message.text.contains("@13800000000"), "{}", message.text);
}

#[tokio::test]
async fn a_stopped_process_finishes_what_is_in_hand() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::DelayMs(700)).forever()]);
    let mut postbell = stage.run();
    let ids = stage.publish(5).await;
    stage.robot.wait_for_requests(5, SOON).await.unwrap();
    postbell.sigterm();
    assert_eq!(postbell.exit_status(SOON).await.code(), Some(0));
    assert_eq!(stage.world.status_counts().await, [("delivered".to_owned(), 5)].into());
    stage.assert_arrived_once(&ids, 0);
}

#[tokio::test]
async fn what_does_not_finish_within_the_grace_period_is_given_back_and_sent_by_another() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::Hang).times(3).accepted()]);
    let env = stage
        .env
        .clone()
        .with("NOTIFICATION_SHUTDOWN_GRACE", "100ms")
        .with("NOTIFICATION_SEND_TIMEOUT", "60s")
        .with("NOTIFICATION_SEND_LEASE", "1h");
    let mut postbell = Postbell::start(&["run"], &env);
    let ids = stage.publish(3).await;
    stage.robot.wait_for_requests(3, SOON).await.unwrap();
    postbell.sigterm();
    assert_eq!(postbell.exit_status(SOON).await.code(), Some(0));
    assert_eq!(stage.world.status_counts().await, [("pending".to_owned(), 3)].into());
    let _another = stage.run();
    stage.settled().await;
    stage.assert_arrived_once(&ids, 3);
    assert_eq!(stage.column::<i32>(ids[0], "retry_count").await, 0);
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::Hang)]);
    let env = stage
        .env
        .clone()
        .with("NOTIFICATION_SHUTDOWN_GRACE", "1h")
        .with("NOTIFICATION_SEND_TIMEOUT", "60s")
        .with("NOTIFICATION_SEND_LEASE", "1h");
    let mut postbell = Postbell::start(&["run"], &env);
    stage.publish(1).await;
    stage.robot.wait_for_requests(1, SOON).await.unwrap();
    postbell.sigterm();
    postbell.wait_for_line("stopping", SOON).await;
    postbell.sigterm();
    assert_eq!(postbell.exit_status(SOON).await.code(), Some(1));
}

#[tokio::test]
async fn a_row_that_somebody_has_locked_holds_up_no_other_outcome() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::DelayMs(400)).times(20)]);
    let postbell = stage.run();
    let ids = stage.publish(20).await;
    stage.robot.wait_for_requests(20, SOON).await.unwrap();
    let operator = stage.world.database.client().await;
    operator.batch_execute("begin").await.unwrap();
    operator.execute("select from notification_events where id = $1 for update", &[&ids[7]]).await.unwrap();
    eventually(SOON, "all but the locked one to be delivered", async || {
        (stage.world.status_counts().await.get("delivered") == Some(&19)).then_some(())
    })
    .await;
    operator.batch_execute("rollback").await.unwrap();
    stage.settled().await;
    stage.assert_arrived_once(&ids, 0);
    drop(postbell);
}

#[tokio::test]
async fn a_row_that_was_locked_when_it_was_to_be_taken_is_sent_soon_after_and_not_a_send_lease_later() {
    let stage = Stage::new().await;
    let postgres = Proxy::start(Protocol::Postgres, Postgres::shared().await.address()).await;
    let env = stage
        .env
        .clone()
        .with("DATABASE_URL", stage.world.database.url_through(&postgres.address()))
        .with("NOTIFICATION_SEND_LEASE", "10m");
    let id = stage.publish_one("patience").await;
    // Without a relay there is no other hint than this one.
    let consumer = Postbell::start(&["consume"], &env);
    consumer.wait_for_line("made the consumer group", SOON).await;
    let relay = stage.world.database.client().await;
    relay.batch_execute("begin").await.unwrap();
    relay.execute("select from notification_events where id = $1 for update", &[&id]).await.unwrap();
    let trap = postgres.at("take", 1, Where::AfterReply);
    hint(&stage, id).await;
    trap.sprung().await;
    relay.batch_execute("rollback").await.unwrap();
    trap.release();
    stage.robot.wait_for_messages(1, SOON).await.unwrap();
}

#[tokio::test]
async fn an_old_hint_does_not_cut_short_the_wait_for_a_robot() {
    let stage = Stage::new().await;
    let reply = Do::Reply { status: 429, body: String::new(), headers: [("retry-after".into(), "90".into())].into() };
    stage.robot.script([Rule::new(reply).containing("patience")]);
    let _postbell = stage.run();
    let id = stage.publish_one("patience").await;
    eventually(SOON, "the event to wait", async || {
        stage.column::<bool>(id, "waiting_since is not null").await.then_some(())
    })
    .await;
    hint(&stage, id).await;
    // The old hint is read before the hint of an event for another robot, published after it.
    let after = stage.publish_to(&stage.robot.webhook("another"), "plain", json!({"text": "after"})).await;
    stage.has_status(after, "delivered").await;
    assert_eq!(stage.column::<String>(id, "status").await, "pending");
    assert_eq!(stage.robot.requests().len(), 2);
}

#[tokio::test]
async fn of_two_outcomes_of_one_row_in_one_record_the_success_is_kept() {
    let stage = Stage::new().await;
    for kinds in [["delivered", "retry"], ["retry", "delivered"]] {
        let id = stage.publish_one("twice taken").await;
        let taken = "update notification_events set status = 'delivering', attempt = 2, sending_until = now() + interval '1 minute' where id = $1";
        stage.world.client().execute(taken, &[&id]).await.unwrap();
        let attempts = if kinds[0] == "delivered" { vec![1, 2] } else { vec![2, 1] };
        let (none, delays) = (vec![None::<&str>; 2], vec![1.0; 2]);
        let (digests, keeps, limits) = (vec![None::<Uuid>; 2], vec![false; 2], vec![None::<i32>; 2]);
        let record = include_str!("../../sql/queries/record.sql");
        let ids = vec![id; 2];
        let (generations, kinds) = (vec![0, 0], kinds.to_vec());
        let (robots, worker, classes) = (vec!["default"; 2], "worker", vec!["success", "transient"]);
        let (statuses, tries) = (vec![Some(200_i16); 2], vec![1_i16; 2]);
        let what: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
            &ids,
            &generations,
            &attempts,
            &kinds,
            &none,
            &none,
            &delays,
            &none,
            &digests,
            &keeps,
            &limits,
            &none,
            // Both were sent, whichever counts.
            &ids,
            &generations,
            &attempts,
            &digests,
            &none,
            &robots,
            &delays,
            &generations,
            &classes,
            &statuses,
            &limits,
            &none,
            &tries,
            &worker,
        ];
        let rows = stage.world.client().query(record, what).await.unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(stage.column::<String>(id, "status").await, "delivered");
        let sends = "select count(*) from notification_attempts where event_id = $1";
        assert_eq!(stage.world.client().query_one(sends, &[&id]).await.unwrap().get::<_, i64>(0), 2);
    }
}
