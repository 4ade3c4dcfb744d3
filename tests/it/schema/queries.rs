//! The statements of `sql/queries`.

use std::fs;

use tokio_postgres::Client;

use super::database;
use crate::harness::servers::Postgres;
use crate::harness::{SOON, eventually};

/// Every statement of the protocol by its file's name.
pub(super) fn statements() -> Vec<(String, String)> {
    statements_of("queries")
}

/// Every statement of a folder of `sql` by its file's name.
pub(super) fn statements_of(folder: &str) -> Vec<(String, String)> {
    let folder = fs::read_dir(format!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/{}"), folder)).unwrap();
    let paths = folder.map(|entry| entry.unwrap().path());
    let mut statements: Vec<_> = paths
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap()))
        .collect();
    statements.sort();
    statements
}

fn statement(name: &str) -> String {
    statements().into_iter().find(|(file, _)| file == name).unwrap().1
}

#[tokio::test]
async fn every_statement_prepares_and_begins_with_its_name() {
    let (_database, client) = database().await;
    let (protocol, operate) = (statements(), statements_of("operate"));
    assert!(!protocol.is_empty() && !operate.is_empty());
    for (name, sql) in protocol.into_iter().chain(operate) {
        assert!(
            sql.starts_with(&format!("-- {name}: ")),
            "{name} begins with its name, by which tests know it on the wire"
        );
        client.prepare(&sql).await.unwrap_or_else(|error| panic!("{name}: {:?}", error.as_db_error()));
    }
}

/// A claim that looks at all that is due.
const NO_TIME: Option<jiff::Timestamp> = None;
const NO_SEQ: Option<i64> = None;

/// The plan of a claim as a long-running relay has it: prepared, and executed before.
async fn plan_of_claim(client: &Client) -> String {
    client.batch_execute("deallocate all").await.unwrap();
    client.batch_execute("vacuum analyze notification_events").await.unwrap();
    let prepare = format!(
        "prepare claim (bigint, bigint, bigint, double precision, timestamptz, bigint) as {}",
        statement("claim")
    );
    client.batch_execute(&prepare).await.unwrap();
    for _ in 0..10 {
        client.batch_execute("begin; execute claim (500, 500, 500, 60, null, null); rollback").await.unwrap();
    }
    let rows = client.query("explain execute claim (500, 500, 500, 60, null, null)", &[]).await.unwrap();
    rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_claim_walks_the_due_index_whatever_the_table_holds() {
    let (_database, client) = database().await;
    let insert = "insert into notification_events (event_type, payload, scheduled_at)
        select 'a', '{}', now() - n * interval '1 second' from generate_series(1, 50000) n";
    client.batch_execute(insert).await.unwrap();
    let complete = "update notification_events set status = 'delivered', delivered_at = now(), completed_at = now()
        where seq > 500";
    for state in ["select 1", complete] {
        client.batch_execute(state).await.unwrap();
        let plan = plan_of_claim(&client).await;
        assert!(plan.contains("Index Scan using notification_events_due on"), "{plan}");
        assert!(plan.contains("Index Scan using notification_events_due_urgent on"), "{plan}");
        assert!(plan.contains("notification_events_unburied on"), "{plan}");
        // How the rows it found are joined for the update is the planner's choice.
        let finding: String = plan.lines().skip(1).take_while(|line| !line.starts_with("  ->")).collect();
        assert!(!finding.contains("Seq Scan") && !finding.contains("Sort"), "{plan}");
    }
}

#[tokio::test]
async fn what_people_on_call_ask_reads_the_failed_and_the_new_and_not_the_whole_table() {
    let (_database, client) = database().await;
    client
        .batch_execute(
            "insert into notification_events (event_type, payload, status, completed_at, delivered_at, created_at)
            select 'a', '{}', 'delivered', now(), now(), now() - interval '30 days' + n * interval '1 second'
            from generate_series(1, 100000) n;
            insert into notification_events (event_type, payload, status, completed_at, failed_at, last_error)
            select 'a', '{}', 'failed', case when n % 2 = 0 then now() end, now(), 'message: too long'
            from generate_series(1, 20) n",
        )
        .await
        .unwrap();
    client.batch_execute("vacuum analyze notification_events").await.unwrap();
    let follow = statements_of("operate").into_iter().find(|(file, _)| file == "follow").unwrap().1;
    let values = ["'failed'", "null", "null", "null", "null", "null", "null", "null", "null", "now()", "'{}'"];
    let follow = (1..=values.len()).rev().fold(follow, |sql, n| sql.replace(&format!("${n}"), values[n - 1]));
    for (asked, sql) in [
        (
            "what failed",
            "select * from notification_find('failed', since => now() - interval '1 day') order by seq desc limit 50",
        ),
        ("what changes", &follow),
        ("statistics", "select * from notification_stats"),
    ] {
        let plan = client.query(&format!("explain {sql}"), &[]).await.unwrap();
        let plan = plan.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n");
        assert!(!plan.contains("Seq Scan"), "{asked}: {plan}");
    }
}

#[tokio::test]
async fn a_claim_hints_the_oldest_first_and_nothing_twice() {
    let (database, client) = database().await;
    client
        .batch_execute(
            "insert into notification_events (event_type, payload, scheduled_at) values
                ('second', '{}', now() - interval '1 minute'), ('first', '{}', now() - interval '2 minutes'),
                ('third', '{}', now()), ('later', '{}', now() + interval '1 minute')",
        )
        .await
        .unwrap();
    let claim = statement("claim");
    let other = database.client().await;
    client.batch_execute("begin").await.unwrap();
    let mut claimed = Vec::new();
    for (who, most) in [(&client, 2_i64), (&other, 9), (&client, 9)] {
        let rows = who.query(&claim, &[&9_i64, &most, &9_i64, &60.0, &NO_TIME, &NO_SEQ]).await.unwrap();
        let mut events: Vec<_> = rows.iter().map(|row| row.get::<_, String>("event_type")).collect();
        events.sort();
        claimed.push(events.join(" "));
    }
    assert_eq!(claimed, ["first second", "third", ""]);
}

#[tokio::test]
async fn a_claim_tells_how_far_it_looked_and_the_next_may_look_behind_that() {
    let (_database, client) = database().await;
    let insert = |name: &str, seconds: u32| {
        let (name, client) = (name.to_owned(), &client);
        async move {
            let insert = "insert into notification_events (event_type, payload, scheduled_at)
                values ($1, '{}', timestamptz '2026-01-01' + $2 * interval '1 second')";
            client.execute(insert, &[&name, &f64::from(seconds)]).await.unwrap();
        }
    };
    insert("first", 1).await;
    insert("second", 2).await;
    insert("third", 3).await;
    let (claim, most) = (statement("claim"), 2_i64);
    let names = |rows: &[tokio_postgres::Row]| rows.iter().map(|row| row.get("event_type")).collect::<Vec<String>>();
    let rows = client.query(&claim, &[&9_i64, &most, &9_i64, &60.0, &NO_TIME, &NO_SEQ]).await.unwrap();
    assert_eq!(names(&rows).len(), 2);
    let place: (Option<jiff::Timestamp>, Option<i64>) = (rows[0].get("scanned_at"), rows[0].get("scanned_seq"));
    assert_eq!(place, (Some("2026-01-01T00:00:02Z".parse().unwrap()), Some(2)));
    // Its transaction began before those above were claimed, and commits only now.
    insert("late", 0).await;
    let behind = client.query(&claim, &[&9_i64, &9_i64, &9_i64, &60.0, &place.0, &place.1]).await.unwrap();
    assert_eq!(names(&behind), ["third"]);
    let all = client.query(&claim, &[&9_i64, &9_i64, &9_i64, &60.0, &NO_TIME, &NO_SEQ]).await.unwrap();
    assert_eq!(names(&all), ["late"]);
}

#[tokio::test]
async fn a_claim_does_not_wait_for_the_disk_and_what_follows_it_does() {
    let (_database, mut client) = database().await;
    client.batch_execute("set synchronous_commit = on; select notification_publish('a', '{}')").await.unwrap();
    let waits = "show synchronous_commit";
    let transaction = client.transaction().await.unwrap();
    let claim = statement("claim");
    let rows = transaction.query(&claim, &[&9_i64, &9_i64, &9_i64, &60.0, &NO_TIME, &NO_SEQ]).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(transaction.query_one(waits, &[]).await.unwrap().get::<_, &str>(0), "off");
    transaction.commit().await.unwrap();
    assert_eq!(client.query_one(waits, &[]).await.unwrap().get::<_, &str>(0), "on");
}

#[tokio::test]
async fn a_claim_hints_urgent_rows_before_older_ones_within_its_limits() {
    let (database, client) = database().await;
    client
        .batch_execute(
            "insert into notification_events (event_type, payload, options, scheduled_at)
            select event_type, '{}', case when event_type like 'u%' then '{\"urgent\": true}' else '{}' end::jsonb,
                now() - age * interval '1 minute'
            from (values ('o1', 9), ('o2', 8), ('o3', 7), ('u1', 3), ('u2', 2), ('u3', 1), ('u4', -1)) v (event_type, age)",
        )
        .await
        .unwrap();
    let claim = statement("claim");
    let others = [database.client().await, database.client().await, database.client().await];
    let mut claimed = Vec::new();
    // The last has nothing left, although the others have not committed.
    for (who, hints, urgent) in [(&client, 1_i64, 2_i64), (&others[0], 2, 1), (&others[1], 9, 9), (&others[2], 9, 9)] {
        who.batch_execute("begin").await.unwrap();
        let rows = who.query(&claim, &[&9_i64, &hints, &urgent, &60.0, &NO_TIME, &NO_SEQ]).await.unwrap();
        let mut events: Vec<_> = rows.iter().map(|row| row.get::<_, String>("event_type")).collect();
        events.sort();
        assert!(
            rows.iter().all(|row| row.get::<_, bool>("urgent") == row.get::<_, String>("event_type").starts_with('u'))
        );
        claimed.push(events.join(" "));
    }
    assert_eq!(claimed, ["u1 u2", "o1 u3", "o2 o3", ""]);
}

/// With the thresholds and times that are the default.
const CHECK_ALERTS: &str = "(10, 50, 600, 3, 600, 1800, 180, 15, 60)";

/// How much a statement touched: pages, and rows that it looked at in vain.
async fn touched(client: &Client, name: &str, arguments: &str) -> (u64, u64) {
    let types = match name {
        "claim" => "(bigint, bigint, bigint, double precision, timestamptz, bigint)",
        "release_hints" => "(double precision, bigint)",
        "admit" => "(text, text[], uuid[], integer[], text[], uuid[], double precision, double precision)",
        "settle" => "(text[], timestamptz[], boolean[], text[], text[], double precision[], double precision)",
        "mergeable" => "(text, text, bigint)",
        "backlog" | "gauges" => "(bigint)",
        "check_alerts" => {
            "(bigint, bigint, double precision, bigint, double precision, double precision, double precision, \
             double precision, double precision)"
        }
        "retain_delivered" | "retain_failed" => "(double precision, bigint, timestamptz)",
        "retain_attempts" | "retain_audit" => "(double precision, bigint, bigint)",
        _ => "",
    };
    client.batch_execute("deallocate all").await.unwrap();
    client.batch_execute(&format!("prepare statement {types} as {}", statement(name))).await.unwrap();
    let mut most = (0, 0);
    // From the sixth on with a plan that does not know the arguments.
    for _ in 0..7 {
        client.batch_execute("begin").await.unwrap();
        let explain = format!("explain (analyze, buffers, timing off) execute statement {arguments}");
        let plan = client.query(&explain, &[]).await.unwrap();
        client.batch_execute("rollback").await.unwrap();
        let number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<u64>().unwrap();
        let (mut pages, mut in_vain) = (0, 0);
        for line in plan.iter().map(|row| row.get::<_, String>(0)) {
            if let Some((_, rows)) = line.split_once("Rows Removed by Filter: ") {
                in_vain += number(rows);
            }
            // The first line of pages is that of the whole statement.
            if pages == 0 && line.contains("Buffers: shared") {
                let count = |kind: &str| line.split_once(kind).map_or(0, |(_, pages)| number(pages));
                pages = count("hit=") + count("read=");
            }
        }
        most = (most.0.max(pages), most.1.max(in_vain));
    }
    most
}

#[tokio::test]
async fn rows_that_rest_for_a_robot_are_never_due_and_not_even_looked_at() {
    let (_database, client) = database().await;
    let rest = "insert into notification_events (event_type, payload, options, hinted_until, waiting_since, robot)
        select 'resting', '{}', case when n % 10 = 0 then '{\"urgent\": true}' else '{}' end::jsonb,
            'infinity', now(), 'default'
        from generate_series(1, 200000) n";
    client.batch_execute(rest).await.unwrap();
    let paused = "insert into notification_robots (name, rate_limit, rate_window, paused_at, paused_by)
        values ('default', 18, '1 min', now(), 'somebody'), ('other', 18, '1 min', null, null),
            ('a.example#1', 18, '1 min', now(), 'postbell')";
    client.batch_execute(paused).await.unwrap();
    client.batch_execute("vacuum analyze notification_events").await.unwrap();
    let pages: i64 = client
        .query_one("select pg_relation_size('notification_events') / current_setting('block_size')::bigint", &[])
        .await
        .unwrap()
        .get(0);
    assert!(pages > 5_000, "{pages}");
    let look = async |due: &str| {
        for (name, arguments) in [
            ("claim", "(500, 500, 500, 60, null, null)"),
            ("release_hints", "(60, 5000)"),
            ("backlog", "(10000)"),
            ("next_due", "(null, null, 1000)"),
            ("unpark", ""),
            (
                "admit",
                "('other', '{other}', array[gen_random_uuid()], '{1}', '{null}', array[gen_random_uuid()], 45, 60)",
            ),
            (
                "admit",
                "('default', '{default}', array[gen_random_uuid()], '{1}', '{k}', array[gen_random_uuid()], 45, 60)",
            ),
            ("settle", "('{other}', '{null}', '{true}', '{resume}', '{null}', '{null}', 60)"),
            ("mergeable", "('other', 'k', 500)"),
        ] {
            let (pages, in_vain) = touched(&client, name, arguments).await;
            assert!(pages < 500 && in_vain < 20, "{name}, {due}: {pages} pages, {in_vain} rows in vain");
        }
    };
    look("nothing due").await;
    let next_due = async || next_due(&client, None, 1000.0).await;
    assert_eq!(next_due().await, None, "nothing is due before somebody says so");

    let others = "insert into notification_events (event_type, payload, options, hinted_until)
        values ('due', '{}', '{}', null), ('due', '{}', '{\"urgent\": true}', null),
            ('hinted', '{}', '{}', now() + interval '50 s')";
    client.batch_execute(others).await.unwrap();
    look("some due").await;
    let backlog = client.query_one(&statement("backlog"), &[&10_i64]).await.unwrap();
    assert_eq!(backlog.get::<_, i64>("due"), 2);
    let claimed = client.query(&statement("claim"), &[&9_i64, &9_i64, &9_i64, &40.0, &NO_TIME, &NO_SEQ]).await.unwrap();
    assert!(claimed.len() == 2 && claimed.iter().all(|row| row.get::<_, &str>("event_type") == "due"));
    let seconds = next_due().await.unwrap();
    assert!((1.0..=40.0).contains(&seconds), "{seconds}");
    let released = client.query_one(&statement("release_hints"), &[&60.0, &5000_i64]).await.unwrap();
    assert_eq!(released.get::<_, i64>("released"), 3);

    // Not even one that failed while it rested keeps the relay from knowing when to wake up.
    let fail = "update notification_events set status = 'failed', failed_at = now() where seq = 1";
    client.batch_execute(fail).await.unwrap();
    assert!(next_due().await.is_some());
}

#[tokio::test]
async fn what_is_old_is_found_without_looking_at_what_is_not() {
    let (_database, client) = database().await;
    // A table in which old and new are mixed on every page, as they are once space has been used again.
    client
        .batch_execute(
            "insert into notification_events (event_type, payload, status, created_at, delivered_at, failed_at, completed_at)
            select 'a', '{}', status, at, case status when 'delivered' then at end, case status when 'failed' then at end,
                case when status in ('delivered', 'failed') then at end
            from generate_series(1, 100000) n,
                lateral (select (array['pending', 'delivered', 'delivered', 'failed'])[1 + n % 4] as status,
                    now() - (n * 7919 % 100000) * interval '100 s' as at) t;
            insert into notification_attempts
                (started_at, event_id, replay_count, attempt, duration_ms, tries, class, robot, worker)
            select now() - (100000 - n) * interval '100 s', gen_random_uuid(), 0, 1, 1, 1, 'success', 'default', 'w'
            from generate_series(1, 100000) n;
            insert into notification_audit (at, actor, database_user, action)
            select now() - (100000 - n) * interval '100 s', 'a', 'u', 'replay' from generate_series(1, 100000) n",
        )
        .await
        .unwrap();
    client.batch_execute("vacuum analyze").await.unwrap();
    let days = |days: u32| days * 86_400;
    for name in ["retain_delivered", "retain_failed", "retain_attempts", "retain_audit"] {
        // The oldest is of 115 days ago: nothing, and a batch.
        let nothing = touched(&client, name, &format!("({}, 1000, null)", days(120))).await;
        assert!(nothing.0 < 20 && nothing.1 < 1_001, "{name}, nothing: {nothing:?}");
        // A delete of a row looks at its page, and at one or more of each index.
        let batch = touched(&client, name, &format!("({}, 1000, null)", days(60))).await;
        assert!(batch.0 < 20_000 && batch.1 < 20, "{name}, a batch: {batch:?}");
        let plan = client.query(&format!("explain execute statement ({}, 1000, null)", days(60)), &[]).await.unwrap();
        let plan = plan.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n");
        assert!(!plan.contains("Seq Scan") && !plan.contains("Bitmap"), "{name}: {plan}");
    }
}

#[tokio::test]
async fn a_hint_leaves_out_a_payload_that_is_large_however_well_it_compresses() {
    let (_database, client) = database().await;
    client
        .batch_execute(
            "insert into notification_events (event_type, payload) values
                ('small', '{\"a\": 1}'), ('large', jsonb_build_object('a', repeat('x', 60000)))",
        )
        .await
        .unwrap();
    let rows = client.query(&statement("claim"), &[&9_i64, &9_i64, &9_i64, &60.0, &NO_TIME, &NO_SEQ]).await.unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let payload: Option<String> = row.get("payload");
        assert_eq!(payload.is_some(), row.get::<_, String>("event_type") == "small");
    }
}

#[tokio::test]
async fn the_time_to_sleep_is_known_for_any_time_an_event_may_have() {
    let (_database, client) = database().await;
    let seconds = async || next_due(&client, None, 1000.0).await;
    assert_eq!(seconds().await, None);
    for (time, is_near) in [("0001-01-01Z", true), ("294276-12-31Z", false)] {
        let insert = format!(
            "insert into notification_events (event_type, payload, scheduled_at) values ('a', '{{}}', '{time}')"
        );
        client.batch_execute(&insert).await.unwrap();
        assert_eq!(seconds().await.is_some(), is_near, "{time}");
        client.query_one(&statement("backlog"), &[&10_i64]).await.unwrap();
        client.batch_execute("delete from notification_events").await.unwrap();
    }
    client
        .batch_execute("select notification_publish('a', '{}', scheduled_at => now() + interval '90 s')")
        .await
        .unwrap();
    let seconds = seconds().await.unwrap();
    assert!((30.0..=90.0).contains(&seconds), "{seconds}");
    assert_eq!(next_due(&client, None, 20.0).await, None, "it does not matter to who sleeps no longer than that");
    client.batch_execute("select notification_publish('a', '{}')").await.unwrap();
    assert!(next_due(&client, None, 1000.0).await.unwrap() <= 0.0, "one is due that nobody has claimed");
    let after = next_due(&client, Some(jiff::Timestamp::now() + jiff::SignedDuration::from_secs(5)), 1000.0).await;
    assert!(after.unwrap() > 30.0, "behind it nothing is due now");
}

/// Seconds until a row becomes due.
async fn next_due(client: &tokio_postgres::Client, behind: Option<jiff::Timestamp>, within: f64) -> Option<f64> {
    client.query_one(&statement("next_due"), &[&behind, &NO_SEQ, &within]).await.unwrap().get(0)
}

#[tokio::test]
async fn most_takes_are_heap_only_updates() {
    // On a server of its own: room on a page is made only of versions older than any transaction of the whole server.
    let postgres = Postgres::own().await;
    let database = postgres.database().await;
    let client = database.client().await;
    let insert = "insert into notification_events (event_type, payload)
        select 'a', '{\"name\": \"张三\"}' from generate_series(1, 1000)";
    client.batch_execute(insert).await.unwrap();
    let claimed =
        client.query(&statement("claim"), &[&0_i64, &1000_i64, &0_i64, &60.0, &NO_TIME, &NO_SEQ]).await.unwrap();
    let ids: Vec<uuid::Uuid> = claimed.iter().map(|row| row.get("id")).collect();
    for ids in ids.chunks(50) {
        client.query(&statement("take"), &[&ids, &45.0, &true, &3]).await.unwrap();
    }
    // The claim has moved every row once, and moves none in place: it touches an indexed column.
    let counts = "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'notification_events'";
    let heap_only: i64 = eventually(SOON, "the statistics to be written", async || {
        let row = client.query_one(counts, &[]).await.unwrap();
        (row.get::<_, i64>(0) == 2000).then(|| row.get(1))
    })
    .await;
    assert!(heap_only > 500, "{heap_only} of 1000");
}

#[tokio::test]
async fn gauges_are_read_without_a_look_at_rows_that_have_ended() {
    let (_database, client) = database().await;
    let ended = "insert into notification_events (event_type, payload, status, delivered_at, completed_at)
        select 'ended', '{}', 'delivered', now(), now() from generate_series(1, 100000)";
    client.batch_execute(ended).await.unwrap();
    let failed = "insert into notification_events (event_type, payload, status, failed_at, completed_at)
        select 'failed', '{}', 'failed', now(), case when n > 3 then now() end from generate_series(1, 10) n";
    client.batch_execute(failed).await.unwrap();
    client
        .batch_execute(
            "insert into notification_robots (name) values ('default'), ('a.example#1'), ('b.example#2');
             insert into notification_events (event_type, payload, hinted_until, waiting_since, robot)
             select 'waits', '{}', 'infinity', now(), robot
             from unnest('{default, a.example#1, b.example#2, ?made up}'::text[]) robot",
        )
        .await
        .unwrap();
    client.batch_execute("vacuum analyze notification_events").await.unwrap();
    let (pages, in_vain) = touched(&client, "gauges", "(100000)").await;
    assert!(pages < 200 && in_vain < 100, "{pages} pages, {in_vain} rows in vain");

    let value = async |gauge: &str, label: Option<&str>| -> Option<f64> {
        let rows = client.query(&statement("gauges"), &[&100_000_i64]).await.unwrap();
        let row = rows
            .iter()
            .find(|row| row.get::<_, &str>("gauge") == gauge && row.get::<_, Option<&str>>("label") == label);
        row.map(|row| row.get("value"))
    };
    assert_eq!(value("dead_letter_backlog", None).await, Some(10.0), "owed and buried");
    let replay = "select notification_replay(id) from notification_events where event_type = 'failed' and seq % 2 = 0";
    client.batch_execute(replay).await.unwrap();
    assert_eq!(value("dead_letter_backlog", None).await, Some(5.0), "a replay clears it");
    assert_eq!(value("robot_waiting", Some("default")).await, Some(1.0));
    assert_eq!(value("robot_waiting", Some("other")).await, Some(3.0), "labels do not grow with what callers make up");
    assert_eq!(value("robot_paused", Some("default")).await, Some(0.0));
    client.batch_execute("select notification_robot_pause('default')").await.unwrap();
    assert_eq!(value("robot_paused", Some("default")).await, Some(1.0));
    // Of those that are named by their URLs, what somebody waits for; and nobody waits for what a person disabled.
    let others = async || value("robot_paused", Some("other")).await;
    client
        .batch_execute(
            "select notification_robot_pause('a.example#1'), notification_robot_pause('b.example#2');
             delete from notification_events where robot = 'a.example#1'",
        )
        .await
        .unwrap();
    assert_eq!(others().await, Some(1.0));
    client.batch_execute("delete from notification_events where robot = 'b.example#2'").await.unwrap();
    assert_eq!(others().await, Some(0.0));
    let disable = "insert into notification_channels (name, webhook, enabled) values ('default', 'env:X', false)";
    client.batch_execute(disable).await.unwrap();
    assert_eq!(value("robot_paused", Some("default")).await, Some(0.0));
    assert!(value("oldest_xmin_age", None).await.unwrap() >= 0.0);
    let alerts = "insert into notification_alerts (condition, subject, raised_at, held_at, cleared_at) values
        ('robot_paused', 'a', now(), now(), null), ('robot_paused', 'b', now(), now(), null),
        ('robot_paused', 'c', now(), now(), now()), ('oldest_due', '', now(), now(), now())";
    client.batch_execute(alerts).await.unwrap();
    assert_eq!(value("alerts_raised", Some("robot_paused")).await, Some(2.0));
    assert_eq!(value("alerts_raised", Some("oldest_due")).await, Some(0.0), "it is over");
}

#[tokio::test]
async fn a_look_for_alerts_costs_the_same_whatever_the_tables_hold() {
    let (_database, client) = database().await;
    client
        .batch_execute(
            "insert into notification_events (event_type, payload, status, delivered_at, completed_at)
            select 'ended', '{}', 'delivered', now(), now() from generate_series(1, 100000);
            insert into notification_events (event_type, payload, status, failed_at, completed_at)
            select 'failed', '{}', 'failed', now(), case when n % 2 = 0 then now() end from generate_series(1, 20000) n;
            insert into notification_events (event_type, payload, hinted_until)
            select 'open', '{}', case when n % 2 = 0 then now() + interval '1 minute' end from generate_series(1, 20000) n;
            insert into notification_events (event_type, payload, scheduled_at)
            select 'later', '{}', now() + interval '1 day' from generate_series(1, 20000) n;
            insert into notification_events (event_type, payload, hinted_until, waiting_since, robot)
            select 'waits', '{}', 'infinity', now(), 'robot ' || n % 4 from generate_series(1, 20000) n;
            insert into notification_attempts
                (started_at, event_id, replay_count, attempt, duration_ms, tries, class, robot, worker)
            select now(), gen_random_uuid(), 0, 1, 1, 1, 'success', 'default', 'w' from generate_series(1, 100000) n",
        )
        .await
        .unwrap();
    client.batch_execute("vacuum analyze").await.unwrap();
    let (pages, _) = touched(&client, "check_alerts", CHECK_ALERTS).await;
    assert!(pages < 1_000, "{pages} pages");
    let plan = client.query(&format!("explain execute statement {CHECK_ALERTS}"), &[]).await.unwrap();
    let plan = plan.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n");
    for table in ["notification_events", "notification_attempts"] {
        assert!(!plan.contains(&format!("Seq Scan on {table}")), "{plan}");
    }
}
