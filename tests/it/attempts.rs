//! `notification_attempts` and `notification_audit`: the whole story of an event, for people.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use postbell::config;
use postbell::db;
use postbell::event::Outcome;
use postbell::sandbox::{Do, Rule};
use postbell::store::{Attempt, Key, Recorded, Store};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::process::Postbell;
use crate::harness::servers::Database;
use crate::harness::stage::Stage;
use crate::harness::{SOON, World, eventually};

/// Everything that a table has about an event, in order, as JSON objects without what differs from run to run.
async fn lines(stage: &Stage, table: &str, id: Uuid) -> Vec<Value> {
    let query =
        format!("select to_jsonb(t) - '{{id,event_id}}'::text[] from {table} t where event_id = $1 order by id");
    stage.world.client().query(&query, &[&id]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// How many rows there are of sends.
async fn count(stage: &Stage) -> i64 {
    stage.world.client().query_one("select count(*) from notification_attempts", &[]).await.unwrap().get(0)
}

/// Only these members of an object.
fn only(line: &Value, names: &[&str]) -> Value {
    names.iter().map(|name| ((*name).to_owned(), line[*name].clone())).collect::<serde_json::Map<_, _>>().into()
}

/// The server that a database is on, as the library connects to it.
pub(super) fn library_database(database: &Database) -> db::Database {
    let _ = rustls::crypto::ring::default_provider().install_default();
    db::Database::new(&config::Database { database_url: database.url().into() }).unwrap()
}

#[tokio::test]
async fn attempts_and_audit_tell_how_an_event_was_refused_retried_delivered_and_replayed_and_by_whom() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::Errcode { code: -1, msg: "system busy".into() })]);
    let _postbell = stage.run();
    let insert = "insert into notification_events (event_type, payload, trace_id)
        values ('plain', '{\"text\": \"told\"}', 'trace-7') returning id";
    let id = stage.world.publish_sql(insert).await;
    stage.has_status(id, "delivered").await;

    let client = stage.world.client();
    client.batch_execute("set postbell.actor = 'Li Hua'").await.unwrap();
    client.query("select notification_replay($1)", &[&id]).await.unwrap();
    stage.settled().await;

    let sends = lines(&stage, "notification_attempts", id).await;
    let facts =
        ["attempt", "replay_count", "class", "errcode", "http_status", "tries", "robot", "trace_id", "digest_id"];
    let told: Vec<Value> = sends.iter().map(|line| only(line, &facts)).collect();
    let send = |attempt: i32, replay_count: i32, class: &str, errcode: i32| {
        json!({"attempt": attempt, "replay_count": replay_count, "class": class, "errcode": errcode, "http_status": 200,
            "tries": 1, "robot": "default", "trace_id": "trace-7", "digest_id": null})
    };
    assert_eq!(told, [send(1, 0, "transient", -1), send(2, 0, "success", 0), send(3, 1, "success", 0)]);
    assert!(sends[0]["answer"].as_str().unwrap().contains("system busy"), "{}", sends[0]);
    assert!(sends[1]["answer"].is_null() && sends[2]["answer"].is_null(), "its code says it all");
    assert!(sends.iter().all(|line| !line["worker"].as_str().unwrap().is_empty()));
    let times = "select bool_and(started_at between e.created_at and now() and duration_ms between 0 and 20000)
        from notification_attempts join notification_events e on e.id = event_id";
    assert!(client.query_one(times, &[]).await.unwrap().get::<_, bool>(0));

    let audit = lines(&stage, "notification_audit", id).await;
    assert_eq!(audit.len(), 1);
    let facts = ["actor", "database_user", "action", "robot", "detail"];
    let detail = json!({"was": "delivered", "last_error": sends_error(&stage, id).await, "replay_count": 1});
    let expected =
        json!({"actor": "Li Hua", "database_user": "postgres", "action": "replay", "robot": null, "detail": detail});
    assert_eq!(only(&audit[0], &facts), expected);
}

async fn sends_error(stage: &Stage, id: Uuid) -> Value {
    stage.column::<Option<String>>(id, "last_error").await.into()
}

#[tokio::test]
async fn a_send_without_an_answer_says_what_went_wrong_and_one_that_is_parked_again_is_there() {
    let stage = Stage::new().await;
    let msg = "send too fast, exceed 20 times per minute".to_owned();
    stage.robot.script([
        Rule::new(Do::DropAfterReading).containing("dropped"),
        Rule::new(Do::Errcode { code: 410_100, msg }).containing("throttled"),
    ]);
    let _postbell = stage.run();
    let dropped = stage.publish_one("dropped").await;
    stage.has_status(dropped, "delivered").await;
    let throttled = stage.publish_one("throttled").await;
    eventually(SOON, "the event to wait", async || {
        stage.column::<bool>(throttled, "waiting_since is not null").await.then_some(())
    })
    .await;
    let lines_of = async |id| lines(&stage, "notification_attempts", id).await;
    let (dropped, throttled) = (lines_of(dropped).await, lines_of(throttled).await);
    let classes = |lines: &[Value]| lines.iter().map(|line| line["class"].clone()).collect::<Vec<_>>();
    assert_eq!(classes(&dropped), ["ambiguous", "success"]);
    assert!(dropped[0]["answer"].as_str().is_some_and(|answer| !answer.is_empty()), "{}", dropped[0]);
    assert!(dropped[0]["http_status"].is_null() && dropped[0]["errcode"].is_null());
    assert_eq!(classes(&throttled), ["throttled"]);
    assert_eq!(throttled[0]["errcode"], 410_100);
}

#[tokio::test]
async fn what_fails_without_a_send_is_told_by_its_row_alone() {
    let stage = Stage::new().await;
    let _postbell = stage.run();
    stage.world.publish("no.such.template", json!({})).await;
    stage.world.publish("plain", json!({})).await;
    stage.publish_to("nobody", "plain", json!({"text": "x"})).await;
    stage.settled().await;
    assert_eq!(stage.world.status_counts().await, BTreeMap::from([("failed".to_owned(), 3)]));
    assert_eq!(count(&stage).await, 0);
}

#[tokio::test]
async fn a_message_of_several_events_is_a_row_for_each_of_them() {
    let stage = Stage::strict().await;
    let _postbell = stage.run();
    let ids = stage.publish_listed(60, "default").await;
    stage.settled().await;
    let agrees = "select count(*) filter (where a.digest_id is not null), count(*),
            bool_and(a.digest_id is not distinct from e.digest_id and a.class = 'success')
        from notification_attempts a join notification_events e on e.id = a.event_id";
    let row = stage.world.client().query_one(agrees, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(1), row.get::<_, bool>(2)), (ids.len() as i64, true));
    assert!(row.get::<_, i64>(0) > 30, "most of them were merged");
}

#[tokio::test]
async fn where_they_are_switched_off_no_send_is_written() {
    let stage = Stage::new().await;
    let _postbell = Postbell::start(&["run"], &stage.env.clone().with("NOTIFICATION_ATTEMPTS", "off"));
    stage.publish(20).await;
    stage.settled().await;
    assert_eq!((stage.arrived().len(), count(&stage).await), (20, 0));
}

#[tokio::test]
async fn a_send_is_written_once_however_often_it_is_recorded_and_also_where_its_outcome_does_not_count() {
    let world = World::new().await;
    let store = Store::new(library_database(&world.database).pool(1).unwrap());
    let id = world.publish("plain", json!({})).await;
    let client = world.client();
    let taken =
        "update notification_events set status = 'delivering', attempt = 2, sending_until = now() + interval '1 min'";
    client.batch_execute(taken).await.unwrap();
    let outcome = Outcome::Failed { error: "refused".into(), response: None };
    let attempt = Attempt {
        robot: "default".into(),
        started_at: Instant::now(),
        took: Duration::from_millis(7),
        class: "message",
        status: Some(200),
        errcode: Some(i64::MAX),
        answer: Some(format!("\0{}", "长".repeat(400))),
        tries: 70_000,
    };
    let record = async |attempt_number: i32| {
        let key = Key { id, replay_count: 0, attempt: attempt_number };
        let recorded = Recorded {
            key,
            outcome: &outcome,
            robot: None,
            digest_id: None,
            keeps_digest: false,
            digest_limit: None,
            digest_key: None,
            trace_id: None,
            attempt: Some(&attempt),
        };
        store.record(&[recorded], "worker").await.unwrap().of(key)
    };
    // An earlier take of a consumer that was too late.
    assert_eq!(record(1).await, Some(false));
    // Somebody's transaction holds the row: it is to be recorded later, and so is the send.
    let other = world.database.client().await;
    other.batch_execute("begin; select from notification_events for update").await.unwrap();
    assert_eq!(record(2).await, None);
    let sends = async || {
        let rows = client.query("select attempt from notification_attempts order by attempt", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>()
    };
    assert_eq!(sends().await, [1]);
    other.batch_execute("rollback").await.unwrap();
    assert_eq!(record(2).await, Some(true));
    // As after a connection that broke before the answer came.
    assert_eq!(record(2).await, Some(false));
    assert_eq!(sends().await, [1, 2]);
    let odd = "select errcode is null and tries = 32767 and char_length(answer) = 300 and duration_ms = 7
        from notification_attempts where attempt = 2";
    assert!(client.query_one(odd, &[]).await.unwrap().get::<_, bool>(0));
}
