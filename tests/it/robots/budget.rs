//! Never more than the budget, and nothing waits longer than it must.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use postbell::sandbox::{Do, Rule, Verdict};
use serde_json::json;

use super::numbers;
use crate::harness::process::Postbell;
use crate::harness::stage::Stage;
use crate::harness::{SOON, eventually};

const MINUTE: Duration = Duration::from_secs(60);

fn assert_within_budget(stage: &Stage, window: Duration) {
    let most = stage.robot.max_in_any_window(window);
    assert!(most <= 18, "{most} requests in one window");
    let refused: Vec<_> =
        stage.robot.requests().into_iter().filter(|request| request.verdict == Verdict::Refused).collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[tokio::test]
async fn five_hundred_events_at_once_arrive_in_few_messages_in_their_order_and_hold_up_no_other_robot() {
    let stage = Stage::strict().await;
    let _postbell = stage.run();
    let start = Instant::now();
    stage.publish_listed(500, "default").await;
    let other = stage.publish_to(&stage.robot.webhook("other"), "plain", json!({"text": "other"})).await;
    stage.has_status(other, "delivered").await;
    let took = "extract(epoch from delivered_at - created_at)::double precision";
    let took: f64 = stage.column(other, took).await;
    stage.settled_within(Duration::from_secs(70)).await;
    let mut messages = stage.robot.messages();
    messages.retain(|message| message.token == "token");
    assert_eq!(numbers(&messages), (1..=500).collect::<Vec<_>>());
    println!("500 events in {} messages and {:?}; that of another robot in {took} s", messages.len(), start.elapsed());
    // Half a second where nothing else runs; a window, were it held up.
    assert!(took < 20.0, "an event of another robot took {took} s");
    assert_within_budget(&stage, MINUTE);
}

#[tokio::test]
async fn with_three_consumers_one_of_them_killed_and_a_flush_in_the_middle_nothing_is_lost_and_the_budget_holds() {
    let stage = Stage::strict().await;
    stage.robot.script([Rule::new(Do::DelayMs(300)).forever()]);
    let mut consumers = [(); 3].map(|()| Postbell::start(&["consume"], &stage.env));
    let _relay = Postbell::start(&["relay"], &stage.env);
    stage.publish_listed(500, "default").await;
    stage.robot.wait_for_requests(1, SOON).await.unwrap();
    stage.world.redis.flushall().await;
    consumers[0].sigkill().await;
    stage.settled_within(Duration::from_secs(70)).await;

    let messages = stage.robot.messages();
    let mut named = numbers(&messages);
    named.sort_unstable();
    assert_eq!(named, (1..=500).collect::<Vec<_>>(), "each event is named in exactly one message");
    assert!(messages.iter().all(|message| !message.mismatched), "{messages:#?}");
    let again: u32 = messages.iter().map(|message| message.duplicates).sum();
    assert!(again <= 18, "{again} sent again, by one kill");
    assert_within_budget(&stage, MINUTE);
    assert_eq!(stage.world.status_counts().await, [("delivered".to_owned(), 500)].into());
}

#[tokio::test]
async fn without_a_digest_form_they_take_the_time_that_the_budget_allows_and_none_is_overtaken_for_ever() {
    let window = Duration::from_secs(5);
    let stage = Stage::strict_within(window).await;
    let _consumers = [Postbell::start(&["run"], &stage.env), Postbell::start(&["consume"], &stage.env)];
    let start = Instant::now();
    let first = stage.publish(60).await;
    stage.robot.wait_for_messages(14, SOON).await.unwrap();
    let later = stage.publish(10).await;
    // 14 of 18 are for events that are not urgent: 70 take four windows after the first.
    stage.settled_within(window * 6).await;
    let took = start.elapsed();
    assert!(took >= window * 4 && took <= window * 5 + SOON / 4, "took {took:?}");
    assert_within_budget(&stage, window);
    let all: Vec<_> = first.iter().chain(&later).copied().collect();
    stage.assert_arrived_once(&all, 0);
    let arrived: BTreeMap<_, _> = stage.arrived().into_iter().map(|(id, messages)| (id, messages[0].seq)).collect();
    let first_of_later = later.iter().map(|id| arrived[id]).min().unwrap();
    let before = first.iter().filter(|id| arrived[id] < first_of_later).count();
    // Two consumers may cross, and a busy machine be late, but not by more than a window.
    assert!(before >= 42, "newer ones overtook those that had waited: {before} of 60 were before");
    let retries: i64 =
        stage.world.client().query_one("select sum(retry_count) from notification_events", &[]).await.unwrap().get(0);
    assert_eq!(retries, 0);
}

#[tokio::test]
async fn an_urgent_event_finds_a_place_where_the_others_have_used_theirs() {
    let stage = Stage::strict().await;
    let _postbell = stage.run();
    let waiting = stage.publish(40).await;
    stage.robot.wait_for_messages(14, SOON).await.unwrap();
    let urgent = "insert into notification_events (event_type, payload, options)
        values ('plain', '{\"text\": \"urgent\"}', '{\"urgent\": true}') returning id";
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(stage.world.publish_sql(urgent).await);
    }
    for id in &ids {
        stage.has_status(*id, "delivered").await;
    }
    let one_too_many = stage.world.publish_sql(urgent).await;
    eventually(SOON, "the fifth to wait", async || {
        stage.column::<bool>(one_too_many, "waiting_since is not null").await.then_some(())
    })
    .await;
    assert_eq!(stage.robot.messages().len(), 18);
    assert_eq!(stage.column::<String>(waiting[39], "status").await, "pending");
    let row = "select budget_left, urgent_budget_left, waiting from notification_robot_status where name = 'default'";
    let row = stage.world.client().query_one(row, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)), (0, 0, 27));
    assert_within_budget(&stage, MINUTE);
}

#[tokio::test]
async fn while_it_is_quiet_every_event_rings_alone() {
    let stage = Stage::strict().await;
    let _postbell = stage.run();
    for number in 1..=8 {
        let id = stage.world.publish("listed", json!({ "text": format!("number {number}.") })).await;
        stage.has_status(id, "delivered").await;
    }
    let messages = stage.robot.messages();
    assert_eq!((messages.len(), numbers(&messages)), (8, (1..=8).collect()));
}

#[tokio::test]
async fn what_was_not_sent_gives_its_place_back() {
    let stage = Stage::strict().await;
    let port = crate::harness::servers::free_port();
    let nobody = format!("http://127.0.0.1:{port}/robot/send?access_token=nobody");
    let hosts = format!("{},127.0.0.1:{port}", stage.robot.addr());
    let env = stage.env.clone().with("NOTIFICATION_ALLOWED_HOSTS", hosts);
    let _postbell = Postbell::start(&["run"], &env.with("NOTIFICATION_MAX_RETRY", "0"));
    for _ in 0..3 {
        let id = stage.publish_to(&nobody, "plain", json!({"text": "lost"})).await;
        stage.has_status(id, "failed").await;
    }
    let slots = "select slots = '{}' from notification_robots where name like '127.0.0.1%'";
    assert!(stage.world.client().query_one(slots, &[]).await.unwrap().get::<_, bool>(0));
}
