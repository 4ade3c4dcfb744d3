//! `notification_grant`: what each kind of role may do, and what not.

use tokio_postgres::Client;
use uuid::Uuid;

use super::queries::statements;
use super::{database, one, refused};
use crate::harness::servers::Database;

/// A role of a kind, logged in. Roles belong to the whole server, hence the name.
async fn role(database: &Database, kind: &str) -> Client {
    let admin = database.client().await;
    let name = format!("{kind}_{:016x}", fastrand::u64(..));
    admin.batch_execute(&format!("create role {name} login")).await.unwrap();
    let said = one(&admin, &format!("select notification_grant('{name}', '{kind}')")).await;
    assert_eq!(said, format!("granted to {name}: {kind}"));
    database.client_as(&name).await
}

async fn assert_denied(client: &Client, statements: &[&str]) {
    for statement in statements {
        let refusal = refused(client, statement).await;
        assert!(refusal.contains("permission denied"), "{statement}: {refusal}");
    }
}

#[tokio::test]
async fn a_writer_publishes_and_gets_the_id_back() {
    let (database, admin) = database().await;
    let writer = role(&database, "writer").await;
    for publish in [
        "insert into notification_events (event_type, payload) values ('a', '{}') returning id",
        "insert into notification_events (event_type, payload, target, options, idempotency_key)
         values ('a', '{}', 'hr', '{}', 'k1') on conflict do nothing returning id",
        "insert into notification_events (id, event_type, channel, target, template_id, payload, options, idempotency_key,
            trace_id, max_retry, scheduled_at, status, retry_count, created_at, updated_at)
         values (gen_random_uuid(), 'a', 'dingtalk', 'default', null, '{}', '{}', 'k2',
            null, null, now(), 'pending', 0, now(), now())
         returning id, seq, status, retry_count, created_at, updated_at",
        "select notification_publish('a', '{}', 'k3')",
        "select notification_publish(event_type => 'a', payload => '{}', target => 'https://h/?access_token=t')",
    ] {
        let row = writer.query_one(publish, &[]).await.unwrap_or_else(|error| panic!("{publish}: {error:#}"));
        assert!(!row.get::<_, Uuid>(0).is_nil());
    }
    // As it is also while a relay sleeps.
    admin.batch_execute("select pg_advisory_lock(8101821198367026284)").await.unwrap();
    writer.batch_execute("insert into notification_events (event_type, payload) values ('a', '{}')").await.unwrap();
    assert_eq!(one(&writer, "select count(id) from notification_events where status = 'pending'").await, "6");
}

#[tokio::test]
async fn a_writer_may_neither_read_what_others_sent_nor_change_anything() {
    let (database, _admin) = database().await;
    let writer = role(&database, "writer").await;
    assert_denied(
        &writer,
        &[
            "select payload from notification_events",
            "select target from notification_events",
            "select options from notification_events",
            "select last_error, response from notification_events",
            "select * from notification_events",
            "insert into notification_events (event_type, payload) values ('a', '{}') returning payload",
            "insert into notification_events (event_type, payload, attempt) values ('a', '{}', 1)",
            "update notification_events set status = 'pending'",
            "delete from notification_events",
            "truncate notification_events",
            "select * from notification_status",
            "select notification_replay(gen_random_uuid())",
            "select notification_cancel(gen_random_uuid())",
            "select notification_reschedule(gen_random_uuid(), now())",
        ],
    )
    .await;
}

#[tokio::test]
async fn a_reader_sees_the_status_and_nothing_else() {
    let (database, admin) = database().await;
    admin.batch_execute("select notification_publish('a', '{}', target => 'https://h/?access_token=t')").await.unwrap();
    let reader = role(&database, "reader").await;
    assert_eq!(one(&reader, "select target from notification_status").await, "https://h/***");
    assert_denied(
        &reader,
        &[
            "select id from notification_events",
            "insert into notification_events (event_type, payload) values ('a', '{}')",
            "select notification_publish('a', '{}')",
            "select notification_replay(gen_random_uuid())",
            "update notification_status set status = 'pending'",
        ],
    )
    .await;
}

#[tokio::test]
async fn a_reader_cannot_get_at_a_token_through_an_operator_of_its_own() {
    let (database, admin) = database().await;
    admin.batch_execute("select notification_publish('a', '{}', target => 'https://h/?access_token=t')").await.unwrap();
    let reader = role(&database, "reader").await;
    let name = one(&reader, "select current_user").await;
    admin.batch_execute(&format!("create schema own authorization {name}")).await.unwrap();
    reader
        .batch_execute(
            "set search_path = own, pg_catalog, public;
             create table own.seen (target text);
             create function own.spy(text, text) returns boolean language plpgsql as
                 $$ begin insert into own.seen values ($1); return false; end $$;
             create operator own.~ (leftarg = text, rightarg = text, function = own.spy)",
        )
        .await
        .unwrap();
    assert_eq!(one(&reader, "select target from public.notification_status").await, "https://h/***");
    assert_eq!(one(&reader, "select count(*) from own.seen").await, "0");
}

#[tokio::test]
async fn an_operator_replays_cancels_and_reschedules() {
    let (database, admin) = database().await;
    let operator = role(&database, "operator").await;
    let id = one(&admin, "select notification_publish('a', '{}')").await;
    let said = one(&operator, &format!("select notification_reschedule('{id}', '2031-01-01Z')")).await;
    assert!(said.starts_with("rescheduled"), "{said}");
    assert_eq!(one(&operator, &format!("select notification_cancel('{id}')")).await, "cancelled");
    let said = one(&operator, &format!("select notification_replay('{id}')")).await;
    assert!(said.starts_with("replayed"), "{said}");
    assert_eq!(one(&operator, "select status from notification_status").await, "pending");
    assert_denied(
        &operator,
        &[
            "select payload from notification_events",
            "update notification_events set status = 'pending'",
            "select notification_publish('a', '{}')",
        ],
    )
    .await;
}

#[tokio::test]
async fn a_relay_runs_every_statement_of_the_protocol() {
    let (database, admin) = database().await;
    let relay = role(&database, "relay").await;
    let id: Uuid = admin.query_one("select notification_publish('a', '{}')", &[]).await.unwrap().get(0);
    let (ids, zeros) = (vec![id], vec![0]);
    for (name, sql) in statements() {
        let ran = match name.as_str() {
            "backlog" => relay.query(&sql, &[&10_i64]).await,
            "claim" => relay.query(&sql, &[&10_i64, &10_i64, &10_i64, &60.0]).await,
            "complete_dead_letters" => relay.query(&sql, &[&ids, &zeros]).await,
            "give_back" => relay.query(&sql, &[&ids]).await,
            "holds" => relay.query(&sql, &[&id, &0, &0]).await,
            "next_due" => relay.query(&sql, &[]).await,
            "record" => {
                let (kinds, texts, delays) = (vec!["retry"], vec![None::<&str>], vec![1.0]);
                let (digests, keeps, limits) = (vec![None::<Uuid>], vec![false], vec![None::<i32>]);
                let what: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
                    &[&ids, &zeros, &zeros, &kinds, &texts, &texts, &delays, &texts, &digests, &keeps, &limits, &texts];
                relay.query(&sql, what).await
            }
            "release_hints" => relay.query(&sql, &[&60.0, &10_i64]).await,
            "take" => relay.query(&sql, &[&ids, &45.0, &true, &3]).await,
            "try_sleep" => relay.query(&sql, &[&8_101_821_198_367_026_284_i64]).await,
            // A new statement needs no parameters of its own here to be tried for its rights.
            _ => relay.query(&explained(&sql), &[]).await,
        };
        ran.unwrap_or_else(|error| panic!("{name}: {error} {:?}", error.as_db_error()));
    }
    for readable in ["postbell_schema_history", "notification_status", "notification_events"] {
        relay.batch_execute(&format!("select * from {readable}")).await.unwrap();
    }
    assert_denied(
        &relay,
        &[
            "delete from notification_events",
            "insert into notification_events (event_type, payload) values ('a', '{}')",
        ],
    )
    .await;
}

/// A statement whose plan is made, and its rights are checked, with null for every parameter.
fn explained(sql: &str) -> String {
    let sql = (1..=12).rev().fold(sql.to_owned(), |sql, n| sql.replace(&format!("${n}"), "null"));
    format!("explain {sql}")
}

#[tokio::test]
async fn a_role_or_kind_that_does_not_exist_is_named() {
    let (_database, client) = database().await;
    assert_eq!(
        refused(&client, "select notification_grant('no one', 'reader')").await,
        "role \"no one\" does not exist"
    );
    let refusal = refused(&client, "select notification_grant(current_user, 'boss')").await;
    assert_eq!(refusal, "unknown kind 'boss'");
}

#[tokio::test]
async fn without_a_grant_nobody_may_anything() {
    let (database, admin) = database().await;
    let name = format!("nobody_{:016x}", fastrand::u64(..));
    admin.batch_execute(&format!("create role {name} login")).await.unwrap();
    let nobody = database.client_as(&name).await;
    assert_denied(
        &nobody,
        &[
            "select id from notification_events",
            "select id from notification_status",
            "select notification_publish('a', '{}')",
            "select notification_replay(gen_random_uuid())",
            "select notification_cancel(gen_random_uuid())",
            "select notification_reschedule(gen_random_uuid(), now())",
        ],
    )
    .await;
    let refusal = refused(&nobody, &format!("select notification_grant('{name}', 'writer')")).await;
    assert!(refusal.contains("permission denied"), "{refusal}");
}
