//! What cannot be sent rests: no retry is used, nothing is spent on it, and it goes out when it can.

use std::time::{Duration, Instant};

use postbell::sandbox::{Do, Rule, Settings};
use serde_json::json;

use super::{numbers, pause, resume};
use crate::harness::process::Postbell;
use crate::harness::stage::Stage;
use crate::harness::{SOON, eventually};

/// One column of a robot's row, as text.
pub(super) async fn robot(stage: &Stage, name: &str, column: &str) -> Option<String> {
    let query = format!("select ({column})::text from notification_robots where name = $1");
    stage.world.client().query_opt(&query, &[&name]).await.unwrap().and_then(|row| row.get(0))
}

async fn is_paused_by_postbell(stage: &Stage) {
    eventually(SOON, "the robot to be paused", async || {
        (robot(stage, "default", "paused_by").await.as_deref() == Some("postbell")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_wrong_secret_in_a_file_fails_no_event_and_once_corrected_all_go_out_without_a_restart() {
    let stage = Stage::with(Settings { secret: Some("SECright".into()), ..Settings::default() }).await;
    let folder = std::env::temp_dir().join(format!("postbell-test-secret-{:016x}", fastrand::u64(..)));
    std::fs::create_dir(&folder).unwrap();
    let [webhook, secret] = ["webhook", "secret"].map(|file| folder.join(file));
    std::fs::write(&webhook, stage.robot.webhook("hr")).unwrap();
    std::fs::write(&secret, "SECwrong\n").unwrap();
    let insert = "insert into notification_channels (name, webhook, secret) values ('hr', $1, $2)";
    let references = [&webhook, &secret].map(|file| format!("file:{}", file.display()));
    stage.world.client().execute(insert, &[&references[0], &references[1]]).await.unwrap();
    let env = stage.env.clone().with("NOTIFICATION_ROBOT_RATE", "18/60s").with("NOTIFICATION_SEND_LEASE", "20s");
    let postbells = [Postbell::start(&["run"], &env), Postbell::start(&["consume"], &env)];

    stage.publish_listed(40, "hr").await;
    eventually(SOON, "the robot to be paused", async || robot(&stage, "hr", "paused_by").await).await;
    eventually(SOON, "all to rest", async || {
        let resting = "select count(*) from notification_events where status = 'pending' and hinted_until = 'infinity'";
        let resting: i64 = stage.world.client().query_one(resting, &[]).await.unwrap().get(0);
        (resting == 40).then_some(())
    })
    .await;
    let reason = robot(&stage, "hr", "pause_reason").await.unwrap();
    assert!(reason.starts_with("robot's settings: the signature is wrong"), "{reason}");
    assert!(stage.robot.messages().is_empty());
    let refused = stage.robot.requests().len();
    assert!(refused <= 14, "{refused} requests with a wrong signature");

    std::fs::write(&secret, "SECright\n").unwrap();
    let corrected = Instant::now();
    stage.settled_within(Duration::from_secs(60)).await;
    println!("all delivered {:?} after the secret was corrected", corrected.elapsed());
    let messages = stage.robot.messages();
    let mut named = numbers(&messages);
    named.sort_unstable();
    assert_eq!(named, (1..=40).collect::<Vec<_>>());
    assert_eq!(stage.world.status_counts().await, [("delivered".to_owned(), 40)].into());
    assert!(robot(&stage, "hr", "paused_at").await.is_none());
    let retries = "select sum(retry_count) from notification_events";
    assert_eq!(stage.world.client().query_one(retries, &[]).await.unwrap().get::<_, i64>(0), 0);
    let lines: Vec<String> = postbells.iter().flat_map(Postbell::stderr).collect();
    let alerts = lines.iter().filter(|line| line.contains("robot paused")).count();
    assert_eq!(alerts, 1, "one alert says so");
    assert!(!lines.iter().any(|line| line.contains("SECwrong") || line.contains("SECright")));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_robot_that_works_again_is_found_out_by_one_probe_with_the_oldest_event() {
    let stage = Stage::strict().await;
    stage.robot.script([Rule::new(Do::Errcode { code: 400102, msg: "robot disabled".into() }).times(3)]);
    let _postbell = stage.run();
    stage.world.publish("listed", json!({"text": "number 1."})).await;
    is_paused_by_postbell(&stage).await;
    let insert = "insert into notification_events (event_type, payload)
        select 'listed', jsonb_build_object('text', 'number ' || n || '.') from generate_series(2, 40) n";
    stage.world.client().batch_execute(insert).await.unwrap();
    eventually(SOON, "all to rest", async || {
        let resting = "select count(*) from notification_events where status = 'pending' and hinted_until = 'infinity'";
        let resting: i64 = stage.world.client().query_one(resting, &[]).await.unwrap().get(0);
        (resting == 40).then_some(())
    })
    .await;
    // Two probes fail, each with one request; the third gets through. Their time comes, as it does every minute.
    for probe in 2..=4 {
        let now =
            "update notification_robots set probe_at = now() where name = 'default'; select notification_wake_relay()";
        stage.world.client().batch_execute(now).await.unwrap();
        stage.robot.wait_for_requests(probe, SOON).await.unwrap();
        if probe < 4 {
            eventually(SOON, "the probe's event to rest again", async || {
                let resting = "select count(*) from notification_events where hinted_until = 'infinity'";
                let resting: i64 = stage.world.client().query_one(resting, &[]).await.unwrap().get(0);
                let ended = "select probe_at > now() from notification_robots where name = 'default'";
                let ended: bool = stage.world.client().query_one(ended, &[]).await.unwrap().get(0);
                (resting == 40 && ended).then_some(())
            })
            .await;
            assert_eq!(stage.robot.requests().len(), probe);
        }
    }
    stage.settled().await;
    let messages = stage.robot.messages();
    assert_eq!(messages[0].text, "number 1.");
    assert_eq!(numbers(&messages), (1..=40).collect::<Vec<_>>());
    assert!(robot(&stage, "default", "paused_at").await.is_none());
}

#[tokio::test]
async fn an_operators_pause_is_ended_by_an_operator_only() {
    let stage = Stage::strict().await;
    stage.robot.script([Rule::new(Do::DelayMs(500)), Rule::new(Do::Errcode { code: 400102, msg: "disabled".into() })]);
    let _postbell = stage.run();
    let under_way = stage.publish_one("under way").await;
    stage.robot.wait_for_requests(1, SOON).await.unwrap();
    pause(&stage, "default").await;
    stage.has_status(under_way, "delivered").await;
    let waiting = stage.publish_one("waiting").await;
    eventually(SOON, "the event to rest", async || {
        stage.column::<bool>(waiting, "coalesce(hinted_until = 'infinity', false)").await.then_some(())
    })
    .await;
    let state = "select state, pause_reason, waiting from notification_robot_status where name = 'default'";
    let row = stage.world.client().query_one(state, &[]).await.unwrap();
    let state: (&str, &str, i64) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(state, ("paused by an operator", "maintenance", 1));
    // A probe is not for this pause, whenever it may have been due.
    stage.world.client().batch_execute("select notification_wake_relay()").await.unwrap();
    let other = stage.robot.webhook("other");
    stage.publish_to(&other, "plain", json!({"text": "other"})).await;
    // It meets the second rule and pauses its own robot.
    eventually(SOON, "events of another robot to pass", async || {
        let paused = "select count(*) from notification_robots where paused_by = 'postbell'";
        (stage.world.client().query_one(paused, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    stage.publish_to(&other, "plain", json!({"text": "behind it"})).await;
    let both = "select waiting from notification_robot_status where paused_by = 'postbell'";
    eventually(SOON, "both to wait", async || {
        (stage.world.client().query_one(both, &[]).await.unwrap().get::<_, i64>(0) == 2).then_some(())
    })
    .await;
    assert_eq!(stage.column::<String>(waiting, "status").await, "pending");
    resume(&stage, "default").await;
    stage.has_status(waiting, "delivered").await;
}

#[tokio::test]
async fn a_throttled_robot_is_left_alone_by_all_consumers_and_no_other_robot_is() {
    let stage = Stage::strict().await;
    stage.robot.script([Rule::new(Do::Errcode { code: 90018, msg: "qps".into() }).robot("token")]);
    let _postbells =
        [stage.run(), Postbell::start(&["consume"], &stage.env), Postbell::start(&["consume"], &stage.env)];
    let first = stage.publish_one("first").await;
    eventually(SOON, "the robot to cool down", async || robot(&stage, "default", "cool_until").await).await;
    let resting = Instant::now();
    let later = stage.publish(5).await;
    let other = stage.publish_to(&stage.robot.webhook("other"), "plain", json!({"text": "other"})).await;
    stage.has_status(other, "delivered").await;
    assert!(resting.elapsed() < Duration::from_secs(4), "it took {:?}", resting.elapsed());
    stage.settled().await;
    // It asked for five seconds.
    assert!(resting.elapsed() > Duration::from_secs(3));
    let of_the_robot: Vec<_> =
        stage.robot.requests().into_iter().filter(|request| request.token.as_deref() == Some("token")).collect();
    assert_eq!(of_the_robot.len(), 7, "one was throttled, and then each was sent once");
    assert!(of_the_robot[1].at - of_the_robot[0].at >= Duration::from_millis(4_900));
    for id in later.iter().chain([&first]) {
        assert_eq!(stage.column::<i32>(*id, "retry_count").await, 0);
    }
}

#[tokio::test]
async fn two_hundred_thousand_resting_events_cost_nothing_and_hold_up_nobody() {
    let stage = Stage::strict().await;
    let _postbell = stage.run();
    pause(&stage, "default").await;
    let rest = "insert into notification_events (event_type, payload, hinted_until, waiting_since, robot)
        select 'listed', '{\"text\": \"resting\"}', 'infinity', now(), 'default' from generate_series(1, 200000)";
    stage.world.client().batch_execute(rest).await.unwrap();
    stage.world.client().batch_execute("vacuum analyze notification_events").await.unwrap();

    let urgent = "insert into notification_events (event_type, payload, options, target)
        values ('plain', '{\"text\": \"urgent\"}', '{\"urgent\": true}', $1) returning id";
    let other = stage.robot.webhook("other");
    let took = "extract(epoch from delivered_at - created_at)::double precision";
    let mut quickest = f64::INFINITY;
    for _ in 0..3 {
        let urgent: uuid::Uuid = stage.world.client().query_one(urgent, &[&other]).await.unwrap().get(0);
        let normal = stage.publish_to(&other, "plain", json!({"text": "other"})).await;
        stage.has_status(urgent, "delivered").await;
        stage.has_status(normal, "delivered").await;
        quickest = quickest.min(stage.column::<f64>(urgent, took).await.max(stage.column::<f64>(normal, took).await));
    }
    assert!(quickest < 2.0, "they took {quickest} s");

    // Their rows are looked at by no statement, for there is none.
    eventually(SOON, "three seconds without a statement", async || {
        let quiet = "select now() - max(query_start) > interval '3 s' from pg_stat_activity
            where datname = current_database() and query ~ '^-- (claim|unpark|next_due|take|admit|record|settle):'";
        stage.world.client().query_one(quiet, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    let resting = "select waiting, state from notification_robot_status where name = 'default'";
    let row = stage.world.client().query_one(resting, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, &str>(1)), (200_000, "paused by an operator"));
}

#[tokio::test]
async fn a_robots_row_that_somebody_holds_is_waited_for_by_its_own_events_only() {
    let stage = Stage::strict().await;
    let _postbell = stage.run();
    let before = stage.publish_one("before").await;
    stage.has_status(before, "delivered").await;
    stage.robot.script([Rule::new(Do::DelayMs(300)).robot("token")]);
    let under_way = stage.publish_one("under way").await;
    stage.robot.wait_for_requests(2, SOON).await.unwrap();
    let operator = stage.world.database.client().await;
    operator
        .batch_execute("begin; update notification_robots set updated_at = now() where name = 'default'")
        .await
        .unwrap();

    let held_up = stage.publish(3).await;
    let other = stage.publish_to(&stage.robot.webhook("other"), "plain", json!({"text": "other"})).await;
    stage.has_status(other, "delivered").await;
    // Its outcome does not wait for what is to be noted of its robot.
    stage.has_status(under_way, "delivered").await;
    operator.batch_execute("rollback").await.unwrap();
    stage.settled().await;
    let arrived: Vec<_> = held_up.iter().copied().chain([before, under_way, other]).collect();
    stage.assert_arrived_once(&arrived, 0);
    let settled =
        "select slots <> '{}' and not exists (select from unnest(slots) slot where slot > now() + interval '61 s')
        from notification_robots where name = 'default'";
    eventually(SOON, "all places to be held until a minute after the answer, and no longer", async || {
        stage.world.client().query_one(settled, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_robot_without_name_and_budget_that_throttles_is_waited_for_too() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::Errcode { code: 90018, msg: "qps".into() }).robot("nameless")]);
    let _postbell = stage.run();
    let id = stage.publish_to(&stage.robot.webhook("nameless"), "plain", json!({"text": "patience"})).await;
    // It asks for five seconds.
    stage.has_status(id, "delivered").await;
    assert_eq!((stage.robot.requests().len(), stage.column::<i32>(id, "retry_count").await), (2, 0));
}

#[tokio::test]
async fn what_rests_for_a_robot_or_a_pool_whose_row_is_deleted_fails_once_it_may_go() {
    let stage = Stage::strict().await;
    let rows =
        "insert into notification_channels (name, webhook, robots) values ('hr', $1, null), ('hiring', null, '{hr}')";
    let file = std::env::temp_dir().join(format!("postbell-test-webhook-{:016x}", fastrand::u64(..)));
    std::fs::write(&file, stage.robot.webhook("hr")).unwrap();
    stage.world.client().execute(rows, &[&format!("file:{}", file.display())]).await.unwrap();
    let _postbell = stage.run();
    pause(&stage, "hr").await;
    let ids = [
        stage.publish_to("hr", "plain", json!({"text": "robot"})).await,
        stage.publish_to("hiring", "plain", json!({"text": "pool"})).await,
    ];
    for id in ids {
        eventually(SOON, "the event to rest", async || {
            stage.column::<bool>(id, "coalesce(hinted_until = 'infinity', false)").await.then_some(())
        })
        .await;
    }
    stage.world.client().batch_execute("delete from notification_channels").await.unwrap();
    stage.has_status(ids[1], "failed").await;
    assert_eq!(
        stage.column::<String>(ids[0], "status").await,
        "pending",
        "an operator's pause is an operator's to end"
    );
    resume(&stage, "hr").await;
    stage.settled().await;
    for id in ids {
        let error: String = stage.column(id, "last_error").await;
        assert!(error.starts_with("message: unknown target"), "{error}");
    }
    assert!(stage.robot.requests().is_empty());
    std::fs::remove_file(&file).unwrap();
}
