//! `postbell stats`: how things are, at a glance.

use serde_json::{Value, json};

use super::{dead_letter, done};
use crate::harness::process::Postbell;
use crate::harness::stage::Stage;
use crate::harness::{SOON, World, eventually};

#[tokio::test]
async fn every_open_event_is_counted_where_it_stands() {
    let world = World::new().await;
    let insert = "insert into notification_events
            (event_type, payload, scheduled_at, status, retry_count, hinted_until, sending_until, waiting_since, robot)
        select 'a', '{}', now() + scheduled, status, retries, now() + hinted, now() + sending, now() + waits, robot
        from (values
            (interval '-1 hour', 'pending', 0, null::interval, null::interval, null::interval, null),
            ('-2 minutes', 'pending', 1, '-1 minute', null, null, null),
            ('-1 minute', 'pending', 0, '1 minute', null, null, null),
            ('-1 minute', 'delivering', 0, '-1 second', '1 minute', null, null),
            ('-1 minute', 'delivering', 0, '-1 second', '-1 second', null, null),
            ('1 hour', 'pending', 0, null, null, null, null),
            ('1 hour', 'pending', 2, null, null, null, null),
            ('-1 minute', 'pending', 0, '1000 years', null, '-10 minutes', 'default')
        ) v (scheduled, status, retries, hinted, sending, waits, robot)";
    world.client().batch_execute(insert).await.unwrap();
    dead_letter(&world, "a", "message: too long", 30).await;
    dead_letter(&world, "a", "message: too long", 0).await;
    let stats: Value = serde_json::from_str(&done("stats --json", &world.env()).await).unwrap();
    let stats = &stats["stats"];
    for (what, count) in [
        ("due", 3),
        ("hinted", 1),
        ("delivering", 2),
        ("scheduled", 1),
        ("retrying", 1),
        ("waiting", 1),
        ("dead_letters", 2),
        ("dead_letters_to_be_written", 0),
        ("published_5m", 9),
        ("failed_1h", 1),
        ("failed_1d", 1),
        ("delivered_1d", 0),
    ] {
        assert_eq!(stats[what], json!(count), "{what}: {stats}");
    }
    let seconds = |what: &str| stats[what].as_f64().unwrap();
    assert!((3600.0..3700.0).contains(&seconds("oldest_due_seconds")), "{stats}");
    assert!((600.0..700.0).contains(&seconds("oldest_waiting_seconds")), "{stats}");
    let alert = "insert into notification_alerts (condition, subject, raised_at, held_at, cleared_at) values
        ('robot_paused', 'hr', '2026-11-27 12:31Z', now(), null), ('oldest_due', '', now(), now(), now())";
    world.client().batch_execute(alert).await.unwrap();
    let shown = done("stats", &world.env()).await;
    assert!(!shown.contains("oldest_due"), "it is over: {shown}");
    for part in [
        "alert         robot_paused of hr, since 2026-11-27 12:31 UTC\n",
        "3 due, the oldest for 1 h",
        "1 hinted, 2 being sent",
        "1 for a robot, the oldest for 10 min",
        "dead letters  2",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
}

#[tokio::test]
async fn rates_and_robots_are_those_of_a_real_run_and_are_watched() {
    let stage = Stage::new().await;
    let _postbell = stage.run();
    stage.publish(7).await;
    stage.settled().await;
    let mut stats = Postbell::start(&["stats", "--watch=1", "--json"], &stage.env);
    let last = async |lines: usize| {
        let lines = eventually(SOON, "stats again", async || {
            let shown = stats.stdout();
            (shown.len() >= lines).then_some(shown)
        })
        .await;
        serde_json::from_str::<Value>(lines.last().unwrap()).unwrap()
    };
    let first = last(1).await;
    assert_eq!(first["stats"]["delivered_5m"], json!(7));
    assert_eq!(first["robots"][0]["name"], json!("default"));
    stage.publish(1).await;
    stage.settled().await;
    let lines = stats.stdout().len();
    assert_eq!(last(lines + 2).await["stats"]["delivered_5m"], json!(8));
    stats.sigkill().await;
    let shown = done("stats", &stage.env).await;
    assert!(shown.contains("5 minutes") && shown.contains(" 1.6") && shown.contains("default"), "{shown}");
}
