//! A plain insert.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{database, one, refused};

#[tokio::test]
async fn a_plain_insert_is_a_complete_publish() {
    let (_database, client) = database().await;
    client.batch_execute("insert into notification_events (event_type, payload) values ('a.b', '{}')").await.unwrap();
    let row =
        "select concat_ws(' ', channel, target, template_id is null, options, status, retry_count, max_retry is null,
        attempt, lost_leases, replay_count) from notification_events";
    assert_eq!(one(&client, row).await, "dingtalk default t {} pending 0 t 0 0 0");
    let times = "select concat_ws(' ', scheduled_at = created_at, updated_at = created_at, abs(extract(epoch from
        clock_timestamp() - created_at)) < 60, num_nulls(dispatched_at, delivered_at, failed_at, completed_at,
        hinted_until, sending_until, waiting_since, robot, digest_id, last_error, response)) from notification_events";
    assert_eq!(one(&client, times).await, "t t t 11");
}

#[tokio::test]
async fn ids_are_version_7_unique_and_ordered_by_time() {
    let (_database, client) = database().await;
    let ids = client.query("select notification_uuid_v7() from generate_series(1, 10000)", &[]).await.unwrap();
    let ids: BTreeSet<Uuid> = ids.iter().map(|row| row.get(0)).collect();
    assert_eq!(ids.len(), 10_000);
    assert!(ids.iter().all(|id| id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122));

    let mut last = Uuid::nil();
    for _ in 0..20 {
        let sql = "select notification_uuid_v7(), (extract(epoch from clock_timestamp()) * 1000)::float8 from pg_sleep(0.003)";
        let row = client.query_one(sql, &[]).await.unwrap();
        let (id, now_ms): (Uuid, f64) = (row.get(0), row.get(1));
        assert!(id > last);
        let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of this century")]
        let id_ms = seconds as f64 * 1e3 + f64::from(nanos) / 1e6;
        assert!((id_ms - now_ms).abs() < 1_000.0, "{id_ms} {now_ms}");
        last = id;
    }
}

#[tokio::test]
async fn a_caller_may_bring_its_own_id_but_not_the_order() {
    let (_database, client) = database().await;
    let id = "0199d3a0-0000-7000-8000-000000000001";
    let insert = format!("insert into notification_events (id, event_type, payload) values ('{id}', 'a', '{{}}')");
    client.batch_execute(&insert).await.unwrap();
    assert_eq!(refused(&client, &insert).await, "notification_events_pkey");
    let seq = "insert into notification_events (seq, event_type, payload) values (1, 'a', '{}')";
    assert!(refused(&client, seq).await.contains("seq"));
}

#[tokio::test]
async fn what_is_wrong_with_a_row_is_said_by_the_name_of_the_constraint() {
    let (_database, client) = database().await;
    let large = |bytes: usize| format!("jsonb_build_object('a', repeat('x', {bytes}))");
    let text = |length: usize| format!("repeat('字', {length})");
    // A few bytes here, and a digit for each power of ten once they are read.
    let exponents = |count: usize| format!("'{{\"a\": [{}]}}'", vec!["1e131071"; count].join(", "));
    let cases = [
        ("event_type", "''".into(), "event_type_must_be_1_to_128_characters"),
        ("event_type", text(129), "event_type_must_be_1_to_128_characters"),
        ("channel", "''".into(), "channel_must_be_1_to_64_characters"),
        ("target", "''".into(), "target_must_be_1_to_2048_characters"),
        ("target", text(2049), "target_must_be_1_to_2048_characters"),
        ("template_id", "''".into(), "template_id_must_be_1_to_128_characters"),
        ("payload", "'[]'".into(), "payload_must_be_a_json_object"),
        ("payload", "'null'".into(), "payload_must_be_a_json_object"),
        ("payload", "'\"text\"'".into(), "payload_must_be_a_json_object"),
        ("payload", large(70_000), "payload_must_be_at_most_64_kb"),
        ("options", "'[]'".into(), "options_must_be_a_json_object_of_at_most_16_kb"),
        ("options", large(17_000), "options_must_be_a_json_object_of_at_most_16_kb"),
        ("payload", exponents(2), "payload_text_must_be_at_most_256_kb"),
        ("options", exponents(1), "options_text_must_be_at_most_64_kb"),
        ("idempotency_key", "''".into(), "idempotency_key_must_be_1_to_512_characters"),
        ("trace_id", text(257), "trace_id_must_be_at_most_256_characters"),
        ("max_retry", "-1".into(), "max_retry_must_be_0_to_100"),
        ("max_retry", "101".into(), "max_retry_must_be_0_to_100"),
        ("retry_count", "-1".into(), "retry_count_must_not_be_negative"),
        ("scheduled_at", "'infinity'".into(), "scheduled_at_must_be_finite"),
        ("scheduled_at", "'-infinity'".into(), "scheduled_at_must_be_finite"),
        ("status", "'sent'".into(), "status_must_be_pending_delivering_delivered_failed_or_cancelled"),
        ("status", "'failed'".into(), "only_a_failed_row_has_failed_at"),
        ("failed_at", "now()".into(), "only_a_failed_row_has_failed_at"),
        ("delivered_at", "now()".into(), "only_a_delivered_row_has_delivered_at"),
        ("completed_at", "now()".into(), "completed_at_must_agree_with_status"),
        ("status", "'cancelled'".into(), "completed_at_must_agree_with_status"),
        ("status", "'delivering'".into(), "a_delivering_row_has_a_send_lease"),
    ];
    for (column, value, constraint) in cases {
        let rest: Vec<_> =
            [("event_type", "'a'"), ("payload", "'{}'")].into_iter().filter(|(c, _)| *c != column).collect();
        let columns: Vec<_> = rest.iter().map(|(column, _)| *column).chain([column]).collect();
        let values: Vec<_> = rest.iter().map(|(_, value)| *value).chain([value.as_str()]).collect();
        let insert = format!("insert into notification_events ({}) values ({})", columns.join(", "), values.join(", "));
        assert_eq!(refused(&client, &insert).await, constraint, "{column} = {value}");
    }
    let insert =
        format!("insert into notification_events (event_type, payload) values ({}, {})", text(128), large(65_000));
    client.batch_execute(&insert).await.unwrap();
}

#[tokio::test]
async fn a_value_that_comes_compressed_from_another_table_is_measured_as_it_is() {
    let (_database, client) = database().await;
    client
        .batch_execute("create table source as select jsonb_build_object('a', repeat('x', 1000000)) as large")
        .await
        .unwrap();
    let payload = "insert into notification_events (event_type, payload) select 'a', large from source";
    assert_eq!(refused(&client, payload).await, "payload_must_be_at_most_64_kb");
    let options = "insert into notification_events (event_type, payload, options) select 'a', '{}', large from source";
    assert_eq!(refused(&client, options).await, "options_must_be_a_json_object_of_at_most_16_kb");
}

#[tokio::test]
async fn one_key_is_one_event_for_each_channel_and_target() {
    let (_database, client) = database().await;
    let insert = |channel: &str, target: &str| {
        format!(
            "insert into notification_events (event_type, payload, channel, target, idempotency_key)
             values ('a', '{{}}', '{channel}', '{target}', 'key')"
        )
    };
    client.batch_execute(&insert("dingtalk", "default")).await.unwrap();
    client.batch_execute(&insert("dingtalk", "other")).await.unwrap();
    client.batch_execute(&insert("wecom", "default")).await.unwrap();
    assert_eq!(refused(&client, &insert("wecom", "default")).await, "notification_events_idempotency");
}

#[tokio::test]
async fn a_publish_that_is_rolled_back_leaves_nothing() {
    let (_database, client) = database().await;
    client
        .batch_execute(
            "begin;
             insert into notification_events (event_type, payload) values ('a', '{}');
             select notification_publish('b', '{}', 'key');
             rollback;
             begin;
             savepoint before;
             select notification_publish('c', '{}', 'key');
             rollback to before;
             commit",
        )
        .await
        .unwrap();
    assert_eq!(one(&client, "select count(*) from notification_events").await, "0");
    client.batch_execute("select notification_publish('d', '{}', 'key')").await.unwrap();
    assert_eq!(one(&client, "select event_type from notification_events").await, "d");
}
