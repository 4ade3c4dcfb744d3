//! What is old goes, in its time and no earlier; what is not done stays.

use std::sync::Arc;

use clap::Parser;
use postbell::config;
use postbell::metrics::Metrics;
use postbell::relay::retention::{Removed, Retention};
use postbell::store::retention::Kind;
use tokio_postgres::Client;

use crate::attempts::library_database;
use crate::harness::process::Postbell;
use crate::harness::servers::Database;
use crate::harness::{SOON, World, eventually};

/// The lock that who removes holds, as two halves of its number: "pbre" and "tain".
const LOCK: &str = "locktype = 'advisory' and classid = x'70627265'::integer and objid = x'7461696e'::integer
    and database = (select oid from pg_database where datname = current_database())";

#[derive(Parser)]
pub(crate) struct Limits {
    #[command(flatten)]
    pub(crate) retention: config::Retention,
}

/// Removes with these flags instead of the defaults.
fn retention_with(database: &Database, flags: &[&str], metrics: &Arc<Metrics>) -> Retention {
    let limits = Limits::parse_from([&["retention"], flags].concat()).retention;
    Retention::new(library_database(database), limits, metrics.clone())
}

async fn sweep(world: &World, flags: &[&str]) -> Option<Removed> {
    retention_with(&world.database, flags, &Arc::default()).sweep().await.unwrap()
}

/// The types of the events that are left.
async fn left(client: &Client) -> Vec<String> {
    let rows = client.query("select event_type from notification_events order by seq", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn count(client: &Client, table: &str) -> i64 {
    client.query_one(&format!("select count(*) from {table}"), &[]).await.unwrap().get(0)
}

/// So many events that were delivered so many days ago.
async fn deliver(client: &Client, count: i32, days: i32) {
    let insert = "insert into notification_events (event_type, payload, status, created_at, delivered_at, completed_at)
        select 'delivered', '{}', 'delivered', at, at, at
        from generate_series(1, $1::integer) n, lateral (select now() - $2 * interval '1 day' - n * interval '1 s' as at) t";
    client.execute(insert, &[&count, &f64::from(days)]).await.unwrap();
}

/// One event of each state and age; the name says what they are.
async fn one_of_each(client: &Client) {
    let insert = "
        insert into notification_events
            (id, event_type, payload, status, created_at, scheduled_at, sending_until, delivered_at, failed_at, completed_at)
        select case when own_id then gen_random_uuid() else notification_uuid_v7() end,
               concat_ws(' ', what, days, case when own_id then 'own id' end), '{}', split_part(what, ' ', 1),
               least(at, now() - interval '300 days'), case what when 'pending later' then now() + interval '1 year' else at end,
               case split_part(what, ' ', 1) when 'delivering' then at end,
               case split_part(what, ' ', 1) when 'delivered' then at end,
               case split_part(what, ' ', 1) when 'failed' then at end,
               case when what in ('delivered', 'cancelled', 'failed buried') then at end
        from unnest(array['pending', 'pending later', 'delivering', 'delivered', 'cancelled', 'failed', 'failed buried'])
                with ordinality w (what, nth),
             unnest(array[29, 31, 179, 181]) days,
             unnest(array[false, true]) own_id,
             lateral (select now() - days * interval '1 day' as at) t
        order by nth, days, own_id";
    client.batch_execute(insert).await.unwrap();
}

#[tokio::test]
async fn what_ended_long_ago_goes_and_what_is_not_done_stays_whatever_its_age() {
    let world = World::new().await;
    let client = world.client();
    one_of_each(client).await;
    let before = left(client).await;
    let metrics = Arc::<Metrics>::default();
    let removed = retention_with(&world.database, &[], &metrics).sweep().await.unwrap().unwrap();
    assert_eq!(removed.to_string(), "delivered 12, failed 2");
    let goes = |name: &str| {
        let days: i32 = name.split(' ').find_map(|word| word.parse().ok()).unwrap();
        match name.split(' ').next().unwrap() {
            "delivered" | "cancelled" => days > 30,
            "failed" => name.contains("buried") && days > 180,
            _ => false,
        }
    };
    let expected: Vec<String> = before.into_iter().filter(|name| !goes(name)).collect();
    assert_eq!(left(client).await, expected);
    let text = metrics.encode().unwrap();
    for line in ["kind=\"delivered\"} 12", "kind=\"failed\"} 2", "kind=\"attempts\"} 0", "kind=\"robots\"} 0"] {
        assert!(text.contains(&format!("notification_rows_removed_total{{{line}")), "{text}");
    }
    assert_eq!(sweep(&world, &[]).await, Some(Removed::default()), "nothing is left to do");
}

#[tokio::test]
async fn what_knows_that_a_message_arrived_stays_until_all_who_are_in_it_know() {
    let world = World::new().await;
    let client = world.client();
    let insert = "insert into notification_events
            (event_type, payload, status, digest_id, delivered_at, sending_until, completed_at)
        values ('knows', '{}', 'delivered', $1, now() - interval '40 days', null, now() - interval '40 days'),
            ('is not told', '{}', 'delivering', $1, null, now() - interval '40 days', null)";
    client.execute(insert, &[&uuid::Uuid::new_v4()]).await.unwrap();
    assert_eq!(sweep(&world, &[]).await, Some(Removed::default()));
    let said: String = client
        .query_one("select notification_purge(id) from notification_events where seq = 1", &[])
        .await
        .unwrap()
        .get(0);
    assert!(said.starts_with("unchanged: the event is part of a message"), "{said}");
    let told = "update notification_events set status = 'delivered', delivered_at = now(), completed_at = now()
        where event_type = 'is not told'";
    client.batch_execute(told).await.unwrap();
    assert_eq!(sweep(&world, &[]).await.unwrap().of(Kind::Delivered), 1);
    assert_eq!(left(client).await, ["is not told"]);
}

#[tokio::test]
async fn each_kind_has_a_limit_of_its_own_and_off_is_for_ever() {
    let world = World::new().await;
    let client = world.client();
    one_of_each(client).await;
    let rows = "
        insert into notification_attempts
            (started_at, event_id, replay_count, attempt, duration_ms, tries, class, robot, worker)
        select now() - days * interval '1 day', gen_random_uuid(), 0, 1, 1, 1, 'success', 'default', 'w'
        from unnest(array[500, 91, 89, 1]) days;
        insert into notification_audit (at, actor, database_user, action)
        select now() - days * interval '1 day', 'a', 'u', 'replay' from unnest(array[500, 401, 399, 1]) days";
    client.batch_execute(rows).await.unwrap();
    let kinds = ["delivered", "failed", "attempts", "audit"];
    let off = kinds.map(|kind| format!("--retention-{kind}=off"));
    let off: Vec<&str> = off.iter().map(String::as_str).collect();
    assert_eq!(sweep(&world, &off).await, Some(Removed::default()));
    for (nth, kind, removed) in
        [(0, Kind::Delivered, 12), (1, Kind::Failed, 2), (2, Kind::Attempts, 2), (3, Kind::Audit, 2)]
    {
        let mut flags = off.clone();
        flags.remove(nth);
        let swept = sweep(&world, &flags).await.unwrap();
        assert_eq!(swept.to_string(), format!("{} {removed}", kind.word()));
    }
    assert_eq!((count(client, "notification_attempts").await, count(client, "notification_audit").await), (2, 2));
    let shorter = sweep(&world, &["--retention-attempts=2d", "--retention-audit=12h"]).await.unwrap();
    assert_eq!((shorter.of(Kind::Attempts), shorter.of(Kind::Audit)), (1, 2));
}

#[tokio::test]
async fn a_robot_that_nobody_refers_to_any_more_goes() {
    let world = World::new().await;
    let client = world.client();
    client
        .batch_execute(
            "insert into notification_channels (name, webhook) values ('named', 'env:A');
            insert into notification_channels (name, robots) values ('pool', '{member}');
            insert into notification_robots (name, rate_limit, rate_window, updated_at, paused_at, paused_by, cool_until)
            select name, 18, '1 min', now() - days * interval '1 day', case when by is not null then now() end, by, cool
            from (values
                ('gone', 31, null, null), ('paused by us', 31, 'postbell', null), ('used', 29, null, null),
                ('default', 31, null, null), ('named', 31, null, null), ('member', 31, null, null),
                ('waited for', 31, null, null), ('unusable', 31, null, null), ('paused', 31, 'Li Hua', null),
                ('cooling', 31, null, now() + interval '1 minute')
            ) v (name, days, by, cool);
            insert into notification_robots (name, updated_at) values ('no budget', now() - interval '31 days');
            insert into notification_events (event_type, payload, hinted_until, waiting_since, robot) values
                ('a', '{}', 'infinity', now(), 'waited for'), ('a', '{}', 'infinity', now(), '?unusable')",
        )
        .await
        .unwrap();
    assert_eq!(sweep(&world, &[]).await.unwrap().of(Kind::Robots), 2);
    let rows = client.query("select name from notification_robots order by name", &[]).await.unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    let stay = ["cooling", "default", "member", "named", "no budget", "paused", "unusable", "used", "waited for"];
    assert_eq!(names, stay);
}

#[tokio::test]
async fn rows_go_in_batches_and_one_that_somebody_holds_keeps_no_other() {
    let world = World::new().await;
    let client = world.client();
    deliver(client, 2_500, 40).await;
    deliver(client, 10, 1).await;
    // A note of each statement that removes.
    client
        .batch_execute(
            "create table removed (rows bigint);
            create function note() returns trigger language plpgsql as
                $$ begin insert into removed select count(*) from gone; return null; end $$;
            create trigger note after delete on notification_events referencing old table as gone
                for each statement execute function note()",
        )
        .await
        .unwrap();
    let other = world.database.client().await;
    let oldest = "begin; select from notification_events order by completed_at limit 1 for update";
    other.batch_execute(oldest).await.unwrap();
    assert_eq!(sweep(&world, &[]).await.unwrap().of(Kind::Delivered), 2_499);
    let rows = client.query("select rows from removed where rows > 0", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), [500, 500, 500, 500, 499]);
    other.batch_execute("rollback").await.unwrap();
    assert_eq!(sweep(&world, &[]).await.unwrap().of(Kind::Delivered), 1);
    assert_eq!(count(client, "notification_events").await, 10);
}

#[tokio::test]
async fn one_relay_at_a_time_removes_and_another_goes_on_when_it_is_gone() {
    let world = World::new().await;
    let client = world.client();
    deliver(client, 10, 40).await;
    let first = world.database.client().await;
    first.batch_execute("select pg_advisory_lock(x'706272657461696e'::bigint)").await.unwrap();
    assert_eq!(sweep(&world, &[]).await, None);
    assert_eq!(count(client, "notification_events").await, 10);
    drop(first);
    let again = eventually(SOON, "the lock to be free", async || sweep(&world, &[]).await).await;
    assert_eq!(again.of(Kind::Delivered), 10);
    let is_free = async || {
        let held = client.query_one(&format!("select count(*) from pg_locks where {LOCK}"), &[]).await.unwrap();
        (held.get::<_, i64>(0) == 0).then_some(())
    };
    eventually(SOON, "the lock to end with the sweep", is_free).await;
}

#[tokio::test]
async fn a_relay_that_is_killed_while_it_removes_leaves_the_rest_to_the_next() {
    let world = World::new().await;
    let client = world.client();
    deliver(client, 20_000, 40).await;
    deliver(client, 100, 1).await;
    let mut killed = Postbell::start(&["relay"], &world.env());
    eventually(SOON, "some rows to go", async || {
        let rows = count(client, "notification_events").await;
        assert!(rows > 100, "it was too fast to be killed");
        (rows < 20_100).then_some(())
    })
    .await;
    killed.sigkill().await;
    let locks = format!("select count(*) from pg_locks where {LOCK}");
    eventually(SOON, "its last statement to end", async || {
        (client.query_one(&locks, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    let left = count(client, "notification_events").await;
    assert!((101..20_100).contains(&left) && left % 500 == 100, "batches are whole: {left}");
    let relay = Postbell::start(&["relay"], &world.env());
    relay.wait_for_line("removed what is old", SOON).await;
    assert_eq!(count(client, "notification_events").await, 100);
}
