//! Several events in one message: who is in it, what becomes of them, and what never is.

use std::time::Duration;

use postbell::sandbox::{Do, Message, Rule};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{numbers, pause, resume};
use crate::harness::process::Postbell;
use crate::harness::stage::Stage;
use crate::harness::{SOON, eventually};

/// Waits until so many events rest for a robot.
async fn rest(stage: &Stage, count: i64) {
    eventually(SOON, "the events to rest", async || {
        let resting = "select count(*) from notification_events where status = 'pending' and hinted_until = 'infinity'";
        let resting: i64 = stage.world.client().query_one(resting, &[]).await.unwrap().get(0);
        (resting == count).then_some(())
    })
    .await;
}

/// So many events that can be merged rest for the robot, which is paused.
async fn resting(stage: &Stage, count: i32) -> Vec<Uuid> {
    pause(stage, "default").await;
    let ids = stage.publish_listed(count, "default").await;
    rest(stage, count.into()).await;
    ids
}

async fn publish(stage: &Stage, event_type: &str, payload: Value, options: Value) -> Uuid {
    let insert = "insert into notification_events (event_type, payload, options) values ($1, $2, $3) returning id";
    stage.world.client().query_one(insert, &[&event_type, &payload, &options]).await.unwrap().get(0)
}

fn titles(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.title.as_str()).collect()
}

#[tokio::test]
async fn what_waits_beyond_the_budget_goes_in_one_message_and_each_event_knows_it() {
    let stage = Stage::strict().await;
    let _postbell = stage.run();
    let ids = resting(&stage, 50).await;
    resume(&stage, "default").await;
    stage.settled().await;
    let messages = stage.robot.messages();
    assert_eq!((titles(&messages), numbers(&messages)), (vec!["50 events"], (1..=50).collect()));
    let digests = "select count(*), count(distinct digest_id), count(distinct response) from notification_events
        where digest_id is not null and status = 'delivered' and robot = 'default' and retry_count = 0";
    let row = stage.world.client().query_one(digests, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)), (50, 1, 1));
    // A replay is a message of its own.
    let replay = "select notification_replay($1)";
    stage.world.client().query_one(replay, &[&ids[7]]).await.unwrap();
    stage.settled().await;
    assert_eq!(numbers(&stage.robot.messages()[1..]), [8]);
}

#[tokio::test]
async fn as_many_as_have_places_ring_alone_after_a_pause() {
    let stage = Stage::strict().await;
    let _postbell = stage.run();
    resting(&stage, 5).await;
    resume(&stage, "default").await;
    stage.settled().await;
    let messages = stage.robot.messages();
    assert_eq!((messages.len(), numbers(&messages)), (5, (1..=5).collect()));
}

#[tokio::test]
async fn of_a_hundred_merged_only_the_poisoned_ones_fail() {
    let window = Duration::from_secs(8);
    let stage = Stage::strict_within(window).await;
    let poison = Do::Errcode { code: 430104, msg: "unsafe content".into() };
    stage.robot.script([Rule::new(poison).containing("number 37.").forever()]);
    let _postbell = stage.run();
    pause(&stage, "default").await;
    let ids = stage.publish_listed(100, "default").await;
    let incomplete = stage.world.publish("listed", json!({})).await;
    stage.settled_but(100).await;
    let error: String = stage.column(incomplete, "last_error").await;
    assert!(error.contains("variable \"text\" is missing"), "{error}");
    rest(&stage, 100).await;
    resume(&stage, "default").await;
    stage.settled_within(window * 4).await;

    let mut named = numbers(&stage.robot.messages());
    named.sort_unstable();
    assert_eq!(named, (1..=100).filter(|number| *number != 37).collect::<Vec<_>>());
    assert_eq!(stage.column::<String>(ids[36], "status").await, "failed");
    let error: String = stage.column(ids[36], "last_error").await;
    assert!(error.starts_with("message: its content is found unsafe"), "{error}");
    let counts = stage.world.status_counts().await;
    assert_eq!(counts, [("delivered".to_owned(), 99), ("failed".to_owned(), 2)].into());
    assert!(stage.robot.max_in_any_window(window) <= 18);
}

#[tokio::test]
async fn one_that_the_digest_form_cannot_show_goes_alone() {
    let stage = Stage::strict().await;
    let _postbell = stage.run();
    pause(&stage, "default").await;
    stage.publish_listed(20, "default").await;
    // The form for one event shows it all the same.
    let odd = stage.world.publish("listed", json!({"text": "number 21.", "only": "alone"})).await;
    rest(&stage, 21).await;
    resume(&stage, "default").await;
    stage.settled().await;
    let messages = stage.robot.messages();
    assert_eq!(titles(&messages), ["20 events", "number 21."]);
    assert!(stage.column::<bool>(odd, "digest_id is null and digest_limit = 1").await);
}

#[tokio::test]
async fn a_message_of_unknown_outcome_is_sent_again_as_it_was_with_the_same_key() {
    let stage = Stage::strict().await;
    let _postbell = stage.run();
    let ids = resting(&stage, 30).await;
    stage.robot.script([Rule::new(Do::DropAfterReading).accepted()]);
    resume(&stage, "default").await;
    stage.robot.wait_for_requests(1, SOON).await.unwrap();
    eventually(SOON, "all to be retried", async || {
        (stage.column::<i32>(ids[29], "retry_count").await == 1).then_some(())
    })
    .await;
    // What joined meanwhile is not in it, and what is in it cannot be taken back.
    let cancelled: String =
        stage.world.client().query_one("select notification_cancel($1)", &[&ids[3]]).await.unwrap().get(0);
    assert!(cancelled.starts_with("unchanged") || stage.robot.requests().len() > 1, "{cancelled}");
    let late = stage.world.publish("listed", json!({"text": "number 31."})).await;
    stage.settled().await;
    let messages = stage.robot.messages();
    assert_eq!((titles(&messages), numbers(&messages)), (vec!["30 events", "number 31."], (1..=31).collect()));
    assert_eq!((messages[0].duplicates, messages[0].mismatched, messages[0].attempts), (1, false, 2));
    assert!(stage.column::<bool>(late, "digest_id is null").await);
    assert_eq!(stage.world.status_counts().await, [("delivered".to_owned(), 31)].into());
}

#[tokio::test]
async fn a_message_whose_consumer_died_is_taken_over_as_a_whole() {
    let stage = Stage::strict().await;
    let env = stage.env.clone().with("NOTIFICATION_SEND_LEASE", "2s");
    let mut postbell = Postbell::start(&["run"], &env);
    let ids = resting(&stage, 30).await;
    stage.robot.script([Rule::new(Do::Hang).accepted()]);
    resume(&stage, "default").await;
    stage.robot.wait_for_requests(1, SOON).await.unwrap();
    postbell.sigkill().await;
    let _another = Postbell::start(&["run"], &env);
    stage.settled().await;
    let messages = stage.robot.messages();
    assert_eq!((titles(&messages), numbers(&messages)), (vec!["30 events"], (1..=30).collect()));
    assert_eq!((messages[0].duplicates, messages[0].mismatched), (1, false));
    for id in [ids[0], ids[29]] {
        assert_eq!((stage.column::<i32>(id, "attempt").await, stage.column::<i32>(id, "lost_leases").await), (3, 0));
    }
}

#[tokio::test]
async fn one_that_may_have_arrived_alone_is_never_merged_into_another_message() {
    let stage = Stage::strict().await;
    let env = stage.env.clone().with("NOTIFICATION_SEND_LEASE", "2s");
    let mut postbell = Postbell::start(&["run"], &env);
    stage.robot.script([Rule::new(Do::Hang).accepted()]);
    stage.publish_listed(1, "default").await;
    stage.robot.wait_for_requests(1, SOON).await.unwrap();
    postbell.sigkill().await;
    let more = "insert into notification_events (event_type, payload)
        select 'listed', jsonb_build_object('text', 'number ' || n || '.') from generate_series(2, 40) n";
    stage.world.client().batch_execute(more).await.unwrap();
    let _another = Postbell::start(&["run"], &env);
    stage.settled().await;
    let messages = stage.robot.messages();
    let mut named = numbers(&messages);
    named.sort_unstable();
    assert_eq!(named, (1..=40).collect::<Vec<_>>(), "the first is in the group once");
    assert_eq!((messages[0].text.as_str(), messages[0].duplicates), ("number 1.", 1));
}

#[tokio::test]
async fn one_that_is_known_to_have_arrived_is_not_sent_again_for_those_that_do_not_know_it() {
    let stage = Stage::strict().await;
    let mut postbell = stage.run();
    let ids = resting(&stage, 30).await;
    resume(&stage, "default").await;
    stage.settled().await;
    postbell.sigkill().await;
    // As if the outcome had been recorded for some of them only.
    let forget = "update notification_events set status = 'delivering', sending_until = now() - interval '1 s',
        hinted_until = null, delivered_at = null, completed_at = null where id = any($1)";
    stage.world.client().execute(forget, &[&&ids[10..]]).await.unwrap();
    let _another = stage.run();
    stage.settled().await;
    assert_eq!(stage.robot.requests().len(), 1);
    assert_eq!(stage.world.status_counts().await, [("delivered".to_owned(), 30)].into());
}

#[tokio::test]
async fn a_message_that_meets_a_throttled_robot_waits_and_uses_no_retry() {
    let stage = Stage::strict().await;
    let _postbell = stage.run();
    resting(&stage, 30).await;
    stage.robot.script([Rule::new(Do::Errcode { code: 90018, msg: "qps".into() })]);
    resume(&stage, "default").await;
    // It cools down for five seconds.
    stage.settled().await;
    let messages = stage.robot.messages();
    assert_eq!((titles(&messages), numbers(&messages)), (vec!["30 events"], (1..=30).collect()));
    let retries = "select sum(retry_count) from notification_events";
    assert_eq!(stage.world.client().query_one(retries, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert_eq!(stage.robot.requests().len(), 2);
}

#[tokio::test]
async fn events_are_merged_by_their_digest_key_and_some_never_are() {
    let stage = Stage::strict().await;
    let _postbell = stage.run();
    pause(&stage, "default").await;
    let text = |number: i32| json!({ "text": format!("number {number}.") });
    for number in 1..=20 {
        publish(&stage, "listed", text(number), json!({"digest_key": "a", "at_mobiles": ["13800138000"]})).await;
        publish(&stage, "listed", text(number + 20), json!({"digest_key": "b"})).await;
    }
    let once = publish(&stage, "listed", text(41), json!({"delivery": "at_most_once"})).await;
    let urgent = publish(&stage, "listed", text(42), json!({"urgent": true})).await;
    let later = "insert into notification_events (event_type, payload, scheduled_at)
        values ('listed', '{\"text\": \"later\"}', now() + interval '1 hour') returning id";
    let later = stage.world.publish_sql(later).await;
    rest(&stage, 42).await;
    resume(&stage, "default").await;
    stage.settled_but(1).await;
    let messages = stage.robot.messages();
    let mut seen = titles(&messages);
    seen.sort_unstable();
    assert_eq!(seen, ["20 events", "20 events", "number 41.", "number 42."]);
    let with_key_a = messages.iter().find(|message| message.text.contains("number 1.")).unwrap();
    assert_eq!(with_key_a.at.at_mobiles, ["13800138000"], "who is mentioned is mentioned once");
    for id in [once, urgent, later] {
        assert!(stage.column::<bool>(id, "digest_id is null").await);
    }
    assert_eq!(stage.column::<String>(later, "status").await, "pending");
}
