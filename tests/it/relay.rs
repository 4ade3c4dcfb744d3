//! The relay: every due row is hinted, promptly, and by one relay; sleeping misses nothing.

use std::collections::BTreeMap;

use redis::Value;
use uuid::Uuid;

use crate::harness::process::Postbell;
use crate::harness::stage::Stage;
use crate::harness::{SOON, eventually};

/// The lock with which a relay sleeps, as two halves of its number: "post" and "bell".
const WAKE_UP_LOCK: &str = "locktype = 'advisory' and classid = x'706f7374'::integer and objid = x'62656c6c'::integer";

/// Hints in the stream, by event.
async fn hints(stage: &Stage) -> BTreeMap<Uuid, usize> {
    hints_in(stage, "notification:events").await
}

async fn hints_in(stage: &Stage, stream: &str) -> BTreeMap<Uuid, usize> {
    let entries: Vec<(String, BTreeMap<String, String>)> = redis::cmd("XRANGE")
        .arg(stream)
        .arg("-")
        .arg("+")
        .query_async(&mut stage.world.redis.client().await)
        .await
        .unwrap();
    let mut hints = BTreeMap::new();
    for (_, fields) in entries {
        *hints.entry(fields["event_id"].parse().unwrap()).or_default() += 1;
    }
    hints
}

async fn hinted(stage: &Stage, count: usize) -> BTreeMap<Uuid, usize> {
    eventually(SOON, &format!("{count} events to be hinted"), async || {
        let hints = hints(stage).await;
        (hints.len() >= count).then_some(hints)
    })
    .await
}

/// Waits until a relay sleeps: only then do inserts have to wake it.
async fn asleep(stage: &Stage) {
    eventually(SOON, "a relay to fall asleep", async || {
        let locked = format!(
            "select count(*) from pg_locks l join pg_database d on d.oid = l.database
            where {WAKE_UP_LOCK} and mode = 'ExclusiveLock' and granted and datname = current_database()"
        );
        let locked: i64 = stage.world.client().query_one(&locked, &[]).await.unwrap().get(0);
        (locked > 0).then_some(())
    })
    .await;
}

fn relay(stage: &Stage) -> Postbell {
    Postbell::start(&["relay"], &stage.env.clone().with("NOTIFICATION_HINT_LEASE", "1h"))
}

#[tokio::test]
async fn a_sleeping_relay_is_woken_by_a_commit_and_not_by_a_rollback() {
    let stage = Stage::new().await;
    let _relay = relay(&stage);
    asleep(&stage).await;
    stage
        .world
        .client()
        .batch_execute("begin; insert into notification_events (event_type, payload) values ('plain', '{}'); rollback")
        .await
        .unwrap();
    let id = stage.publish_one("woken").await;
    assert_eq!(hinted(&stage, 1).await, BTreeMap::from([(id, 1)]));
}

#[tokio::test]
async fn a_transaction_that_commits_late_is_hinted_although_later_ones_were_before() {
    let stage = Stage::new().await;
    let late = stage.world.database.client().await;
    for isolation in ["read committed", "repeatable read", "serializable"] {
        let before = hints(&stage).await.len();
        let mut relay = relay(&stage);
        late.batch_execute(&format!("begin isolation level {isolation}")).await.unwrap();
        let insert = "insert into notification_events (event_type, payload) values ('plain', '{}') returning id";
        let late_id: Uuid = late.query_one(insert, &[]).await.unwrap().get(0);
        stage.publish(3).await;
        hinted(&stage, before + 3).await;
        assert!(!hints(&stage).await.contains_key(&late_id), "not committed yet");
        late.batch_execute("commit").await.unwrap();
        assert_eq!(hinted(&stage, before + 4).await.get(&late_id), Some(&1), "{isolation}");
        // Not killed: a claim that it had asked for might be made yet, and its hint lease is an hour.
        relay.sigterm();
        assert!(relay.exit_status(SOON).await.success());
    }
}

#[tokio::test]
async fn a_scheduled_event_is_hinted_at_its_time_and_the_relay_sleeps_until_then() {
    let stage = Stage::new().await;
    let _relay = relay(&stage);
    asleep(&stage).await;
    let insert = "insert into notification_events (event_type, payload, scheduled_at)
        values ('plain', '{}', now() + interval '700 milliseconds') returning id";
    let id = stage.world.publish_sql(insert).await;
    hinted(&stage, 1).await;
    let late: f64 = stage.column(id, "extract(epoch from dispatched_at - scheduled_at)::double precision").await;
    assert!((0.0..1.0).contains(&late), "hinted {late} s after its time");
}

#[tokio::test]
async fn two_relays_share_a_backlog_and_hint_no_row_twice() {
    let stage = Stage::new().await;
    let env = stage.env.clone().with("NOTIFICATION_HINT_LEASE", "1h").with("NOTIFICATION_BATCH_SIZE", "100");
    let relays = [Postbell::start(&["relay"], &env), Postbell::start(&["relay"], &env)];
    // The stream is new, and who makes it renews the hints of that moment: begin when both have settled.
    for relay in &relays {
        relay.wait_for_line("relay started", SOON).await;
    }
    asleep(&stage).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.extend(stage.publish(1_000).await);
    }
    let hints = hinted(&stage, ids.len()).await;
    assert!(hints.values().all(|count| *count == 1));
}

#[tokio::test]
async fn with_two_relays_asleep_an_insert_is_hinted_whichever_of_them_dies() {
    let stage = Stage::new().await;
    // With short hint leases: what a killed relay had asked for, the server may still do, and claim a row for nobody.
    let relay = || Postbell::start(&["relay"], &stage.env);
    let mut first = relay();
    asleep(&stage).await;
    let _second = relay();
    _second.wait_for_line("relay started", SOON).await;
    stage.publish_one("both alive").await;
    hinted(&stage, 1).await;
    first.sigkill().await;
    asleep(&stage).await;
    stage.publish_one("one alive").await;
    hinted(&stage, 2).await;
}

#[tokio::test]
async fn a_lost_listening_connection_is_made_again_and_nothing_is_missed() {
    let stage = Stage::new().await;
    let relay = relay(&stage);
    for round in 1..=3 {
        asleep(&stage).await;
        let killed = "select pg_terminate_backend(pid) from pg_stat_activity
            where application_name = 'postbell listen' and datname = current_database()";
        assert!(!stage.world.client().query(killed, &[]).await.unwrap().is_empty());
        stage.publish_one("after the loss").await;
        hinted(&stage, round).await;
    }
    relay.wait_for_line("the listening connection was lost", SOON).await;
}

#[tokio::test]
async fn without_notifications_polling_alone_carries_the_events() {
    let stage = Stage::new().await;
    let env = stage.env.clone().with("NOTIFICATION_POLL_INTERVAL", "200ms");
    let _relay = Postbell::start(&["relay"], &env);
    asleep(&stage).await;
    let client = stage.world.client();
    client.batch_execute("set postbell.notify = off").await.unwrap();
    stage.publish_one("quietly").await;
    hinted(&stage, 1).await;
}

#[tokio::test]
async fn while_redis_is_away_no_row_is_touched_and_after_it_all_are_hinted() {
    let stage = Stage::new().await;
    let relay = relay(&stage);
    asleep(&stage).await;
    stage.world.redis.kill().await;
    let ids = stage.publish(5).await;
    relay.wait_for_line("the relay cannot go on", SOON).await;
    let touched =
        "select count(*) from notification_events where retry_count > 0 or hinted_until is not null or attempt > 0";
    eventually(SOON, "what was claimed before the outage was noticed to be given back", async || {
        let touched: i64 = stage.world.client().query_one(touched, &[]).await.unwrap().get(0);
        (touched == 0).then_some(())
    })
    .await;
    let locked = format!(
        "select count(*) from pg_locks l join pg_database d on d.oid = l.database
        where {WAKE_UP_LOCK} and mode = 'ExclusiveLock' and granted and datname = current_database()"
    );
    let locked: i64 = stage.world.client().query_one(&locked, &[]).await.unwrap().get(0);
    assert_eq!(locked, 0, "inserts pay for waking a relay that cannot work");
    stage.world.redis.restart_empty().await;
    assert_eq!(hinted(&stage, 5).await.len(), ids.len());
}

#[tokio::test]
async fn a_full_stream_stops_hints_but_not_dead_letters() {
    let stage = Stage::new().await;
    let env = stage.env.clone().with("NOTIFICATION_STREAM_MAX_LEN", "10");
    let _relay = Postbell::start(&["relay"], &env);
    stage.publish(50).await;
    hinted(&stage, 10).await;
    let id = stage.publish_one("fails").await;
    let fail = "update notification_events set status = 'failed', failed_at = now(), last_error = 'test' where id = $1";
    stage.world.client().execute(fail, &[&id]).await.unwrap();
    stage.world.client().execute("select notification_wake_relay()", &[]).await.unwrap();
    eventually(SOON, "the dead letter", async || {
        stage.column::<bool>(id, "completed_at is not null").await.then_some(())
    })
    .await;
    let letters: Vec<Value> = redis::cmd("XRANGE")
        .arg("notification:deadletter")
        .arg("-")
        .arg("+")
        .query_async(&mut stage.world.redis.client().await)
        .await
        .unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(hints(&stage).await.len(), 10, "no hint was added to a full stream");
}

/// Inserts one event that asks to go before others.
async fn publish_urgent(stage: &Stage) -> Uuid {
    let insert = "insert into notification_events (event_type, payload, options)
        values ('plain', '{\"text\": \"urgent\"}', '{\"urgent\": true}') returning id";
    stage.world.publish_sql(insert).await
}

#[tokio::test]
async fn a_full_stream_stops_no_urgent_hint() {
    let stage = Stage::new().await;
    let env = stage.env.clone().with("NOTIFICATION_STREAM_MAX_LEN", "10").with("NOTIFICATION_HINT_LEASE", "1h");
    let _relay = Postbell::start(&["relay"], &env);
    stage.publish(50).await;
    hinted(&stage, 10).await;
    let mut urgent = BTreeMap::new();
    // Whether it is found full, or becomes so in between.
    for _ in 0..3 {
        urgent.insert(publish_urgent(&stage).await, 1);
        eventually(SOON, "the urgent event to be hinted", async || {
            (hints_in(&stage, "notification:events:urgent").await == urgent).then_some(())
        })
        .await;
    }
    assert_eq!(hints(&stage).await.len(), 10, "no other hint was added to a full stream");
}

#[tokio::test]
async fn a_full_urgent_stream_stops_no_other_hint() {
    let stage = Stage::new().await;
    let env = stage.env.clone().with("NOTIFICATION_STREAM_MAX_LEN", "2").with("NOTIFICATION_HINT_LEASE", "1h");
    let _relay = Postbell::start(&["relay"], &env);
    for _ in 0..5 {
        publish_urgent(&stage).await;
    }
    stage.publish_one("other").await;
    hinted(&stage, 1).await;
    assert_eq!(hints_in(&stage, "notification:events:urgent").await.len(), 2);
}
