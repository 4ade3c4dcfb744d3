//! The statements of `sql/queries`.

use std::fs;

use tokio_postgres::Client;

use super::database;
use crate::harness::servers::Postgres;
use crate::harness::{SOON, eventually};

/// Every statement by its file's name.
pub(super) fn statements() -> Vec<(String, String)> {
    let folder = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/queries")).unwrap();
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
    let statements = statements();
    assert!(!statements.is_empty());
    for (name, sql) in statements {
        assert!(
            sql.starts_with(&format!("-- {name}: ")),
            "{name} begins with its name, by which tests know it on the wire"
        );
        client.prepare(&sql).await.unwrap_or_else(|error| panic!("{name}: {:?}", error.as_db_error()));
    }
}

/// The plan of a claim as a long-running relay has it: prepared, and executed before.
async fn plan_of_claim(client: &Client) -> String {
    client.batch_execute("deallocate all").await.unwrap();
    client.batch_execute("vacuum analyze notification_events").await.unwrap();
    let prepare = format!("prepare claim (bigint, bigint, double precision) as {}", statement("claim"));
    client.batch_execute(&prepare).await.unwrap();
    for _ in 0..10 {
        client.batch_execute("begin; execute claim (500, 500, 60); rollback").await.unwrap();
    }
    let rows = client.query("explain execute claim (500, 500, 60)", &[]).await.unwrap();
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
        assert!(plan.contains("notification_events_unburied on"), "{plan}");
        // How the rows it found are joined for the update is the planner's choice.
        let finding: String = plan.lines().skip(1).take_while(|line| !line.starts_with("  ->")).collect();
        assert!(!finding.contains("Seq Scan") && !finding.contains("Sort"), "{plan}");
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
        let rows = who.query(&claim, &[&9_i64, &most, &60.0]).await.unwrap();
        let mut events: Vec<_> = rows.iter().map(|row| row.get::<_, String>("event_type")).collect();
        events.sort();
        claimed.push(events.join(" "));
    }
    assert_eq!(claimed, ["first second", "third", ""]);
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
    let rows = client.query(&statement("claim"), &[&9_i64, &9_i64, &60.0]).await.unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let payload: Option<String> = row.get("payload");
        assert_eq!(payload.is_some(), row.get::<_, String>("event_type") == "small");
    }
}

#[tokio::test]
async fn the_time_to_sleep_is_known_for_any_time_an_event_may_have() {
    let (_database, client) = database().await;
    let seconds = async || client.query_one(&statement("next_due"), &[]).await.unwrap().get::<_, Option<f64>>(0);
    assert_eq!(seconds().await, None);
    for time in ["0001-01-01Z", "294276-12-31Z"] {
        let insert = format!(
            "insert into notification_events (event_type, payload, scheduled_at) values ('a', '{{}}', '{time}')"
        );
        client.batch_execute(&insert).await.unwrap();
        assert!(seconds().await.is_some(), "{time}");
        client.query_one(&statement("backlog"), &[&10_i64]).await.unwrap();
        client.batch_execute("delete from notification_events").await.unwrap();
    }
    client
        .batch_execute("select notification_publish('a', '{}', scheduled_at => now() + interval '90 s')")
        .await
        .unwrap();
    let seconds = seconds().await.unwrap();
    assert!((30.0..=90.0).contains(&seconds), "{seconds}");
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
    let claimed = client.query(&statement("claim"), &[&0_i64, &1000_i64, &60.0]).await.unwrap();
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
