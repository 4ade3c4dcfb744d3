//! `notification_publish`.

use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::{database, one, refused};
use crate::harness::{SOON, eventually};

const PUBLISH: &str = "select notification_publish('a', '{}', 'key')";

#[tokio::test]
async fn publishing_a_key_again_returns_the_event_that_has_it() {
    let (_database, client) = database().await;
    let first = one(&client, PUBLISH).await;
    assert_eq!(one(&client, PUBLISH).await, first);
    let elsewhere = "select notification_publish('a', '{}', 'key', target => 'other')";
    let elsewhere_first = one(&client, elsewhere).await;
    assert_ne!(elsewhere_first, first);
    assert_eq!(one(&client, elsewhere).await, elsewhere_first);
    assert_ne!(one(&client, "select notification_publish('a', '{}', 'key', channel => 'wecom')").await, first);
    assert_eq!(one(&client, "select count(*) from notification_events").await, "3");
    client.batch_execute("update notification_events set status = 'cancelled', completed_at = now()").await.unwrap();
    assert_eq!(one(&client, PUBLISH).await, first);
}

#[tokio::test]
async fn without_a_key_each_publish_is_an_event() {
    let (_database, client) = database().await;
    let publish = "select notification_publish('a', '{}')";
    assert_ne!(one(&client, publish).await, one(&client, publish).await);
}

#[tokio::test]
async fn every_argument_lands_in_its_column_and_null_means_the_default() {
    let (_database, client) = database().await;
    client
        .batch_execute(
            "select notification_publish('a', '{\"p\": 1}', 'k', 'hr', '2030-01-01 00:00Z', 'tpl', '{\"urgent\": true}',
                'trace', 'wecom', 7)",
        )
        .await
        .unwrap();
    let row = "select concat_ws('|', event_type, payload, idempotency_key, target, scheduled_at, template_id, options,
        trace_id, channel, max_retry) from notification_events where idempotency_key = 'k'";
    let expected = r#"a|{"p": 1}|k|hr|2030-01-01 00:00:00+00|tpl|{"urgent": true}|trace|wecom|7"#;
    assert_eq!(one(&client, row).await, expected);

    client
        .batch_execute("select notification_publish('b', '{}', null, null, null, null, null, null, null, null)")
        .await
        .unwrap();
    let row = "select concat_ws('|', target, scheduled_at = created_at, options, channel)
        from notification_events where event_type = 'b'";
    assert_eq!(one(&client, row).await, "default|t|{}|dingtalk");
    let bad = "select notification_publish('b', '[]')";
    assert_eq!(refused(&client, bad).await, "payload_must_be_a_json_object");
}

#[tokio::test]
async fn a_duplicate_does_not_abort_the_transaction_around_it() {
    let (_database, client) = database().await;
    client.batch_execute("create table business (id int)").await.unwrap();
    let first = one(&client, PUBLISH).await;
    client.batch_execute("begin; insert into business values (1)").await.unwrap();
    assert_eq!(one(&client, PUBLISH).await, first);
    client.batch_execute("insert into business values (2); commit").await.unwrap();
    assert_eq!(one(&client, "select count(*) from business").await, "2");
}

/// Publishes the key in two transactions at the same time; the first ends as told while the second waits for it.
async fn race(second_begins: &str, first_ends: &str) -> (Uuid, Result<Uuid, SqlState>) {
    let (database, first) = database().await;
    let second = database.client().await;
    first.batch_execute("begin").await.unwrap();
    second.batch_execute(second_begins).await.unwrap();
    second.batch_execute("select count(*) from notification_events").await.unwrap();
    let first_id = first.query_one(PUBLISH, &[]).await.unwrap().get(0);
    let waiting = tokio::spawn(async move {
        let published = second.query_one(PUBLISH, &[]).await;
        second.batch_execute("commit").await.unwrap();
        published.map(|row| row.get::<_, Uuid>(0)).map_err(|error| error.code().unwrap().clone())
    });
    let is_waiting = "select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock' and query like '%notification_publish%'";
    let observer = database.client().await;
    eventually(SOON, "the second publish to wait for the first", async || {
        (one(&observer, is_waiting).await == "1").then_some(())
    })
    .await;
    first.batch_execute(first_ends).await.unwrap();
    let second_id = waiting.await.unwrap();
    let events: i64 = first.query_one("select count(*) from notification_events", &[]).await.unwrap().get(0);
    assert_eq!(events, 1);
    (first_id, second_id)
}

#[tokio::test]
async fn of_two_publishes_at_the_same_time_both_get_the_one_id() {
    let (first, second) = race("begin", "commit").await;
    assert_eq!(second, Ok(first));
}

#[tokio::test]
async fn a_publish_takes_the_place_of_one_that_is_rolled_back_meanwhile() {
    for isolation in ["read committed", "repeatable read", "serializable"] {
        let (first, second) = race(&format!("begin isolation level {isolation}"), "rollback").await;
        assert_ne!(second.unwrap(), first, "{isolation}");
    }
}

#[tokio::test]
async fn a_snapshot_that_cannot_see_the_other_event_is_told_to_try_again() {
    for isolation in ["repeatable read", "serializable"] {
        let (_, second) = race(&format!("begin isolation level {isolation}"), "commit").await;
        assert_eq!(second, Err(SqlState::T_R_SERIALIZATION_FAILURE), "{isolation}");
    }
}
