//! One look: what the statement holds to be wrong, and who may ring about it.

use std::time::Duration;

use clap::Parser;
use postbell::config;
use postbell::store::Store;
use postbell::store::alerts::Right;
use serde_json::json;

use super::DEAD_LETTERS;
use crate::attempts::library_database;
use crate::harness::World;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    alerts: config::Alerts,
}

/// One look, with a minute of quiet and a right that lasts a minute; the flags are those of the settings.
async fn look(world: &World, flags: &[&str]) -> Vec<Right> {
    let store = store(world);
    let config = Flags::parse_from([&["look"], flags].concat()).alerts;
    let minute = Duration::from_secs(60);
    store.check_alerts(&config, minute, minute, minute).await.unwrap()
}

fn store(world: &World) -> Store {
    Store::new(library_database(&world.database).pool(1).unwrap())
}

/// One look, of which people are told.
async fn ring(world: &World) -> Vec<(String, bool)> {
    let rights = look(world, &[]).await;
    store(world).alerts_rung(&rights, true, Duration::ZERO).await.unwrap();
    rights.into_iter().map(|right| (right.condition, right.is_over)).collect()
}

/// Everything in the alerts was so many minutes ago.
async fn minutes_pass(world: &World, minutes: i32) {
    let ago = "update notification_alerts set held_at = held_at - $1 * interval '1 minute',
        rung_at = rung_at - $1 * interval '1 minute', all_clear_at = all_clear_at - $1 * interval '1 minute',
        ringing_until = ringing_until - $1 * interval '1 minute'";
    world.client().execute(ago, &[&f64::from(minutes)]).await.unwrap();
}

async fn attempts(world: &World, class: &str, count: i32) {
    let insert = "insert into notification_attempts
            (started_at, event_id, replay_count, attempt, duration_ms, tries, class, robot, worker)
        select now(), gen_random_uuid(), 0, 1, 1, 1, $1, 'default', 'w' from generate_series(1, $2)";
    world.client().execute(insert, &[&class, &count]).await.unwrap();
}

fn raised(condition: &str) -> Vec<(String, bool)> {
    vec![(condition.to_owned(), false)]
}

fn over(condition: &str) -> Vec<(String, bool)> {
    vec![(condition.to_owned(), true)]
}

#[tokio::test]
async fn what_comes_and_goes_is_told_of_once_a_window_and_its_end_only_where_its_beginning_was() {
    let world = World::new().await;
    let client = world.client();
    let purge = "select notification_purge_all()";
    client.batch_execute(DEAD_LETTERS).await.unwrap();
    assert_eq!(ring(&world).await, raised("dead_letters"));
    assert_eq!(ring(&world).await, [], "people know");
    // Gone for less than a minute: not over.
    client.batch_execute(purge).await.unwrap();
    assert_eq!(ring(&world).await, []);
    client.batch_execute(DEAD_LETTERS).await.unwrap();
    assert_eq!(ring(&world).await, []);
    client.batch_execute(purge).await.unwrap();
    minutes_pass(&world, 2).await;
    assert_eq!(ring(&world).await, over("dead_letters"));
    assert_eq!(ring(&world).await, [], "people know");
    // Back within the window, and gone again before its end: of that nobody is told.
    client.batch_execute(DEAD_LETTERS).await.unwrap();
    assert_eq!(ring(&world).await, []);
    let open = "select count(*) from notification_alerts where cleared_at is null";
    assert_eq!(client.query_one(open, &[]).await.unwrap().get::<_, i64>(0), 1);
    client.batch_execute(purge).await.unwrap();
    minutes_pass(&world, 2).await;
    assert_eq!(ring(&world).await, []);
    assert_eq!(client.query_one(open, &[]).await.unwrap().get::<_, i64>(0), 0);
    // After the window it is.
    client.batch_execute(DEAD_LETTERS).await.unwrap();
    minutes_pass(&world, 30).await;
    assert_eq!(ring(&world).await, raised("dead_letters"));
    minutes_pass(&world, 30).await;
    assert_eq!(ring(&world).await, raised("dead_letters"), "and again, once a window");
}

#[tokio::test]
async fn of_many_that_look_at_the_same_moment_one_has_the_right() {
    let world = World::new().await;
    let database = library_database(&world.database);
    let config = Flags::parse_from(["look"]).alerts;
    let minute = Duration::from_secs(60);
    let stores: Vec<Store> = (0..12).map(|_| Store::new(database.pool(1).unwrap())).collect();
    for (sql, is_over) in [(DEAD_LETTERS, false), ("select notification_purge_all()", true)] {
        world.client().batch_execute(sql).await.unwrap();
        minutes_pass(&world, 2).await;
        let looks = stores.iter().map(|store| store.check_alerts(&config, minute, minute, minute));
        let looks = futures_util::future::join_all(looks).await;
        let rights: Vec<Right> = looks.into_iter().flat_map(Result::unwrap).collect();
        assert_eq!(rights.len(), 1, "{rights:?}");
        assert_eq!(rights[0].is_over, is_over);
        stores[0].alerts_rung(&rights, true, Duration::ZERO).await.unwrap();
    }
}

#[tokio::test]
async fn a_right_that_is_not_used_ends_and_one_that_is_given_back_is_anybodys() {
    let world = World::new().await;
    world.client().batch_execute(DEAD_LETTERS).await.unwrap();
    let rights = look(&world, &[]).await;
    assert_eq!(rights.len(), 1);
    assert_eq!(look(&world, &[]).await, [], "it is somebody's");
    minutes_pass(&world, 2).await;
    let again = look(&world, &[]).await;
    assert_eq!(again.len(), 1, "whose it was told nobody");
    // Who comes too late changes nothing.
    store(&world).alerts_rung(&rights, true, Duration::ZERO).await.unwrap();
    store(&world).alerts_rung(&again, false, Duration::from_secs(60)).await.unwrap();
    assert_eq!(look(&world, &[]).await, [], "what was refused rests");
    minutes_pass(&world, 1).await;
    assert_eq!(look(&world, &[]).await.len(), 1);
}

#[tokio::test]
async fn sends_that_fail_ring_in_numbers_and_silence_is_no_sign_that_it_is_over() {
    let world = World::new().await;
    // A robot whose settings are wrong has an alert of its own.
    attempts(&world, "robot", 20).await;
    attempts(&world, "withheld", 20).await;
    attempts(&world, "transient", 2).await;
    assert_eq!(ring(&world).await, [], "two are no rate");
    attempts(&world, "success", 3).await;
    assert_eq!(ring(&world).await, [], "two of five are no half");
    attempts(&world, "throttled", 1).await;
    assert_eq!(ring(&world).await, raised("failure_rate"));
    world
        .client()
        .batch_execute("update notification_attempts set started_at = now() - interval '1 hour'")
        .await
        .unwrap();
    minutes_pass(&world, 5).await;
    assert_eq!(ring(&world).await, [], "nothing was sent since");
    attempts(&world, "success", 1).await;
    assert_eq!(ring(&world).await, over("failure_rate"));
}

#[tokio::test]
async fn a_message_of_several_events_is_one_send_each_time_it_is_sent() {
    let world = World::new().await;
    let client = world.client();
    client.batch_execute("create table message as select gen_random_uuid() as id").await.unwrap();
    let digest = async |class: &str, attempt: i32| {
        let insert = "insert into notification_attempts
                (started_at, event_id, digest_id, replay_count, attempt, duration_ms, tries, class, robot, worker)
            select now(), md5(message.id::text || n)::uuid, message.id, 0, $2 + n % 3, 1, 1, $1, 'default', 'w'
            from message, generate_series(1, 20) n";
        client.execute(insert, &[&class, &attempt]).await.unwrap();
    };
    digest("ambiguous", 1).await;
    digest("success", 5).await;
    attempts(&world, "success", 1).await;
    assert_eq!(ring(&world).await, [], "one of three");
    attempts(&world, "transient", 1).await;
    let rights = look(&world, &[]).await;
    let detail = json!({ "sends": 4, "failed": 2, "span_s": 600 });
    assert_eq!(rights.iter().map(|right| &right.detail).collect::<Vec<_>>(), [&detail]);
}

#[tokio::test]
async fn a_share_is_reached_by_just_so_many_and_is_that_of_the_time_that_was_looked_at() {
    let world = World::new().await;
    attempts(&world, "success", 9).await;
    attempts(&world, "transient", 10).await;
    let flags = ["--alert-failure-rate=55%/10m"];
    assert_eq!(look(&world, &flags).await, [], "10 of 19");
    attempts(&world, "transient", 1).await;
    let rights = look(&world, &flags).await;
    assert_eq!(rights.len(), 1, "11 of 20");
    store(&world).alerts_rung(&rights, true, Duration::ZERO).await.unwrap();
    attempts(&world, "transient", 5_000).await;
    let client = world.client();
    client.batch_execute("update notification_attempts set started_at = now() - interval '90 s'").await.unwrap();
    assert_eq!(look(&world, &flags).await, [], "people know");
    let detail = "select detail from notification_alerts";
    let detail: serde_json::Value = client.query_one(detail, &[]).await.unwrap().get(0);
    assert_eq!((&detail["sends"], &detail["span_s"]), (&json!(5_000), &json!(90)));
}

#[tokio::test]
async fn a_robot_rings_that_postbell_paused_and_somebody_uses_and_none_that_a_person_paused() {
    let world = World::new().await;
    world
        .client()
        .batch_execute(
            "insert into notification_channels (name, webhook) values ('hr', 'env:HR'), ('by-hand', 'env:HR');
             insert into notification_channels (name, webhook, enabled) values ('disabled', 'env:HR', false);
             insert into notification_channels (name, robots) values ('pool', '{member, disabled}');
             insert into notification_channels (name, robots, enabled) values ('closed', '{of closed}', false);
             insert into notification_robots (name, paused_at, paused_by, pause_reason)
             select name, now(), by, 'robot''s settings: x' from (values
                ('default', 'postbell'), ('hr', 'postbell'), ('member', 'postbell'), ('h#1', 'postbell'),
                ('gone', 'postbell'), ('by-hand', 'Li Hua'), ('disabled', 'postbell'), ('of closed', 'postbell')) v (name, by);
             insert into notification_events (event_type, payload, hinted_until, waiting_since, robot, created_at)
             select 'a', '{}', 'infinity', now(), robot, now() - interval '1 day'
             from unnest('{h#1, disabled}'::text[]) robot",
        )
        .await
        .unwrap();
    let rights = look(&world, &[]).await;
    let subjects: Vec<&str> = rights.iter().map(|right| right.subject.as_str()).collect();
    assert_eq!(subjects, ["default", "h#1", "hr", "member"]);
    assert!(rights.iter().all(|right| right.condition == "robot_paused"), "what waits for a robot is not late");
}

#[tokio::test]
async fn what_is_late_rings_hinted_or_not_and_what_was_published_just_now_is_not_late() {
    let world = World::new().await;
    let client = world.client();
    client
        .batch_execute(
            "insert into notification_events (event_type, payload, scheduled_at, created_at) values
                ('published just now', '{}', '2020-01-01Z', now()), ('later', '{}', now() + interval '1 hour', '2020-01-01Z')",
        )
        .await
        .unwrap();
    assert_eq!(look(&world, &[]).await, []);
    for hinted_until in ["null", "now() + interval '50 seconds'", "now() - interval '1 second'"] {
        let insert = format!(
            "delete from notification_events;
             insert into notification_events (event_type, payload, scheduled_at, created_at, hinted_until)
             select 'late', '{{}}', at, at, {hinted_until} from (select now() - interval '11 minutes' as at) t"
        );
        client.batch_execute(&insert).await.unwrap();
        let rights = look(&world, &[]).await;
        assert_eq!(rights.len(), 1, "{hinted_until}");
        let late = rights[0].detail["late_s"].as_u64().unwrap();
        assert!(rights[0].condition == "oldest_due" && (660..720).contains(&late), "{rights:?}");
        store(&world).alerts_rung(&rights, false, Duration::ZERO).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_late_is_found_among_younger_ones_and_not_held_to_be_over_where_there_are_too_many() {
    let world = World::new().await;
    let client = world.client();
    let late = "insert into notification_events (event_type, payload, scheduled_at, created_at, hinted_until)
        select 'late', '{}', at, at, now() + interval '50 s' from (select now() - interval '11 minutes' as at) t";
    let hinted = "now(), now() + interval '40 s'";
    let crowd = |count: i32, times: &str| {
        format!(
            "insert into notification_events (event_type, payload, scheduled_at, hinted_until)
             select 'crowd', '{{}}', {times} from generate_series(1, {count})"
        )
    };
    client.batch_execute(&format!("{late}; {}", crowd(2_000, hinted))).await.unwrap();
    assert_eq!(ring(&world).await, raised("oldest_due"));
    for (count, times, is_known) in [
        (6_000, hinted, false),
        (6_000, "now() + interval '30 s', null", false),
        (6_000, "now(), null", false),
        (100, hinted, true),
        (6_000, "now() + interval '1 day', null", true),
    ] {
        client.batch_execute(&format!("delete from notification_events; {}", crowd(count, times))).await.unwrap();
        minutes_pass(&world, 2).await;
        let expected = if is_known { over("oldest_due") } else { vec![] };
        assert_eq!(ring(&world).await, expected, "{count} of {times}");
        if is_known {
            minutes_pass(&world, 40).await;
            client.batch_execute(late).await.unwrap();
            assert_eq!(ring(&world).await, raised("oldest_due"), "{count} of {times}");
        }
    }
}

#[tokio::test]
async fn what_waits_is_late_since_its_robot_could_have_sent_it_and_sent_nothing() {
    let world = World::new().await;
    let client = world.client();
    client
        .batch_execute(
            "insert into notification_channels (name, webhook, enabled) values
                ('hr', 'env:HR', true), ('other', 'env:HR', true), ('disabled', 'env:HR', false);
             insert into notification_channels (name, robots) values ('pool', '{hr, other, disabled}')",
        )
        .await
        .unwrap();
    let robots = "insert into notification_robots (updated_at, name, rate_limit, rate_window, urgent_reserve, slots";
    let ago = |minutes: i32| format!("now() - interval '{minutes} min'");
    let none = "null, null, 0, '{}'";
    // Which lane, how its robots are, for how many minutes it has stood still; all that waits waits for 90.
    for (lane, robot, late) in [
        ("hr", String::new(), Some(90)),
        ("?hr", String::new(), None),
        ("gone#1", String::new(), Some(90)),
        ("disabled", String::new(), None),
        ("hr", format!("{robots}) values ({}, 'hr', {none})", ago(20)), Some(20)),
        ("hr", format!("{robots}) values ({}, 'hr', {none})", ago(9)), None),
        ("hr", format!("{robots}, cool_until) values ({}, 'hr', {none}, {})", ago(80), ago(15)), Some(15)),
        ("hr", format!("{robots}, cool_until) values ({}, 'hr', {none}, 'infinity')", ago(80)), None),
        ("hr", format!("{robots}, paused_at, paused_by) values ({}, 'hr', {none}, now(), 'x')", ago(80)), None),
        // Of two places one is kept for urgent events, and one is taken for another hour.
        ("hr", format!("{robots}) values ({}, 'hr', 2, '1 h', 1, array[{}, {}])", ago(80), ago(30), ago(-60)), None),
        ("hr", format!("{robots}) values ({}, 'hr', 2, '1 h', 1, array[{}, {}])", ago(80), ago(30), ago(40)), Some(30)),
        ("hr", format!("{robots}) values ({}, 'hr', 2, '1 h', 0, array[{}, {}])", ago(80), ago(30), ago(40)), Some(40)),
        // Of a pool the first that is open counts, and whichever was used last.
        (
            "pool",
            format!(
                "{robots}, cool_until) values ({0}, 'hr', {none}, 'infinity'), ({0}, 'other', {none}, {1})",
                ago(80),
                ago(15)
            ),
            Some(15),
        ),
        ("pool", format!("{robots}) values ({}, 'hr', {none}), ({}, 'other', {none})", ago(80), ago(5)), None),
        ("pool", format!("{robots}) values ({}, 'hr', {none}), ({}, 'disabled', {none})", ago(80), ago(5)), Some(80)),
    ] {
        let wait = format!(
            "delete from notification_events; delete from notification_robots; {robot};
             insert into notification_events (event_type, payload, created_at, scheduled_at, hinted_until, waiting_since, robot)
             select 'waits', '{{}}', at, at, until, at, '{lane}'
             from (select now() - interval '90 min' as at) t, (values ('infinity'::timestamptz), (now() + interval '30 s')) v (until)"
        );
        client.batch_execute(&wait).await.unwrap();
        let rights = look(&world, &[]).await;
        let late_s = rights.first().map(|right| right.detail["late_s"].as_u64().unwrap());
        assert_eq!(late_s.map(|seconds| seconds / 60), late, "{lane}: {robot}");
        client.batch_execute("delete from notification_alerts").await.unwrap();
    }
    // A robot without a budget is not written when it sends, but what it sends is.
    attempts(&world, "success", 1).await;
    client.batch_execute(&format!("{robots}) values ({}, 'default', {none})", ago(80))).await.unwrap();
    client.batch_execute("update notification_events set robot = 'default'").await.unwrap();
    assert_eq!(look(&world, &[]).await, []);
}

#[tokio::test]
async fn what_is_switched_off_is_not_watched() {
    let world = World::new().await;
    world.client().batch_execute(DEAD_LETTERS).await.unwrap();
    attempts(&world, "transient", 10).await;
    let late = json!({"text": "late"});
    world.publish("plain", late).await;
    let ago = "update notification_events set created_at = '2020-01-01Z', scheduled_at = '2020-01-01Z'";
    world.client().batch_execute(ago).await.unwrap();
    let flags = ["--alert-dead-letters=off", "--alert-failure-rate=off", "--alert-oldest-due=off"];
    assert_eq!(look(&world, &flags).await, []);
    let watched: Vec<String> = look(&world, &[]).await.into_iter().map(|right| right.condition).collect();
    assert_eq!(watched, ["dead_letters", "failure_rate", "oldest_due"]);
}
