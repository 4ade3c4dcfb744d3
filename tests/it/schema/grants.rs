//! `notification_grant`: what each kind of role may do, and what not.

use std::collections::BTreeSet;

use tokio_postgres::Client;
use uuid::Uuid;

use super::queries::{statements, statements_of};
use super::{database, one, refusal, refused};
use crate::harness::servers::Database;

/// What any role may, as PostgreSQL grants it: functions that reveal and change nothing, or fail inside.
const EVERYBODY: &[&str] = &[
    "execute notification_grant",
    "execute notification_mask_target",
    "execute notification_uuid_v7",
    "execute notification_wake_relay",
    "execute notification_wake_relay_on_insert",
    "usage on schema public",
];

/// What each kind may beside that, and nothing else on anything in the schema. What comes new is added here, to the kinds
/// that need it.
const KINDS: [(&str, &[&str]); 4] = [
    (
        "writer",
        &[
            "execute notification_publish",
            "insert (id, event_type, channel, target, template_id, payload, options, idempotency_key, trace_id, max_retry, \
             scheduled_at, status, retry_count, created_at, updated_at) on notification_events",
            "select (id, seq, event_type, channel, template_id, idempotency_key, trace_id, max_retry, scheduled_at, status, \
             retry_count, created_at, updated_at) on notification_events",
        ],
    ),
    (
        "reader",
        &[
            "execute notification_error_class",
            "execute notification_find",
            "select on notification_alerts",
            "select on notification_attempts",
            "select on notification_audit",
            "select on notification_robot_status",
            "select on notification_stats",
            "select on notification_status",
        ],
    ),
    (
        "operator",
        &[
            "delete on notification_channels",
            "execute notification_cancel",
            "execute notification_error_class",
            "execute notification_find",
            "execute notification_purge",
            "execute notification_purge_all",
            "execute notification_replay",
            "execute notification_replay_all",
            "execute notification_reschedule",
            "execute notification_robot_pause",
            "execute notification_robot_resume",
            "insert on notification_channels",
            "select on notification_alerts",
            "select on notification_attempts",
            "select on notification_audit",
            "select on notification_channels",
            "select on notification_robot_status",
            "select on notification_stats",
            "select on notification_status",
            "update on notification_channels",
        ],
    ),
    (
        "relay",
        &[
            "delete on notification_alerts",
            "delete on notification_attempts",
            "delete on notification_audit",
            "delete on notification_events",
            "delete on notification_robots",
            "execute notification_lanes",
            "execute notification_paused_robots",
            "execute notification_stalled_since",
            "insert on notification_alerts",
            "insert on notification_attempts",
            "insert on notification_robots",
            "select on notification_alerts",
            "select on notification_attempts",
            "select on notification_audit",
            "select on notification_channels",
            "select on notification_events",
            "select on notification_robots",
            "select on notification_status",
            "select on postbell_schema_history",
            "update on notification_alerts",
            "update on notification_events",
            "update on notification_robots",
        ],
    ),
];

/// Everything that a role may in the schema, in words.
const PRIVILEGES: &str = "
    with relation as (
        select * from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f')
    ), privilege (name, option) as (
        select name || option, option
        from unnest(array['select', 'insert', 'update', 'references']) name, unnest(array['', ' with grant option']) option
    )
    select name || ' on schema public' as words
    from unnest(array['usage', 'create']) name where has_schema_privilege($1, 'public', name)
    union all
    select name || ' on ' || relname
    from relation, lateral (select name from privilege union all select unnest(array['delete', 'truncate', 'trigger'])) p
    where has_table_privilege($1, relation.oid, name)
    union all
    select name || ' (' || string_agg(attname, ', ' order by attnum) || ') on ' || relname
    from relation join pg_attribute on attrelid = relation.oid and attnum > 0 and not attisdropped, privilege
    where not has_table_privilege($1, relation.oid, name) and has_column_privilege($1, relation.oid, attnum, name)
    group by name, relname
    union all
    select name || ' on sequence ' || relname
    from pg_class, unnest(array['usage', 'select', 'update']) name
    where relnamespace = 'public'::regnamespace and relkind = 'S' and has_sequence_privilege($1, pg_class.oid, name)
    union all
    select 'execute ' || proname || option
    from pg_proc, unnest(array['', ' with grant option']) option
    where pronamespace = 'public'::regnamespace and has_function_privilege($1, pg_proc.oid, 'execute' || option)
    order by words";

/// What the role of this connection may.
async fn privileges(client: &Client) -> BTreeSet<String> {
    let name = one(client, "select current_user").await;
    let rows = client.query(PRIVILEGES, &[&name]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn each_kind_of_role_has_exactly_what_it_needs() {
    let (database, admin) = database().await;
    let name = format!("nobody_{:016x}", fastrand::u64(..));
    admin.batch_execute(&format!("create role {name} login")).await.unwrap();
    let set = |words: &[&str]| words.iter().map(|words| (*words).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(privileges(&database.client_as(&name).await).await, set(EVERYBODY));
    for (kind, words) in KINDS {
        let has = privileges(&role(&database, kind).await).await;
        assert_eq!(has.difference(&set(EVERYBODY)).cloned().collect::<BTreeSet<_>>(), set(words), "{kind}");
    }
}

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
async fn an_object_mapper_inserts_every_column_it_may_and_reads_back_what_the_database_made_of_it() {
    let (database, _admin) = database().await;
    let writer = role(&database, "writer").await;
    let listed = |kind: &str| {
        let words = KINDS[0].1.iter().find(|words| words.starts_with(kind)).unwrap();
        words.split(['(', ')']).nth(1).unwrap().to_owned()
    };
    let (columns, readable) = (listed("insert"), listed("select"));
    let defaults = columns.split(", ").map(|column| match column {
        "event_type" => "'a'",
        "payload" => "'{}'",
        _ => "default",
    });
    let defaults = defaults.collect::<Vec<_>>().join(", ");
    for insert in [
        // Every column named, with defaults; several rows at once; quoted names; nothing but what is needed.
        format!("insert into notification_events ({columns}) values ({defaults}) returning {readable}"),
        format!("insert into notification_events ({columns}) values ({defaults}), ({defaults}) returning id, created_at"),
        "insert into \"public\".\"notification_events\" (\"event_type\", \"payload\", \"template_id\", \"idempotency_key\")
         values ('a', '{}', null, null) returning \"id\", \"seq\", \"status\", \"created_at\", \"updated_at\""
            .to_owned(),
        "with made as (insert into notification_events (event_type, payload) values ('a', '{}') returning id, seq)
         select id from made"
            .to_owned(),
        "insert into notification_events (event_type, payload, idempotency_key) values ('a', '{}', 'k')
         on conflict do nothing returning id"
            .to_owned(),
        "insert into notification_events (event_type, payload) select 'a', jsonb_build_object('n', n)
         from generate_series(1, 3) n returning id"
            .to_owned(),
    ] {
        let rows = writer.query(&insert, &[]).await.unwrap_or_else(|error| panic!("{insert}: {:?}", error.as_db_error()));
        assert!(!rows.is_empty(), "{insert}");
    }
    // What a mapper reads of its own row when it is asked to refresh it.
    let refresh =
        format!("select {readable} from notification_events where id = (select id from notification_events limit 1)");
    assert_eq!(writer.query(&refresh, &[]).await.unwrap().len(), 1);
    writer
        .batch_execute(
            "begin; savepoint s; insert into notification_events (event_type, payload) values ('a', '{}'); release s; commit",
        )
        .await
        .unwrap();
    let copied =
        writer.copy_in::<_, bytes::Bytes>("copy notification_events (event_type, payload) from stdin").await.unwrap();
    let mut copied = std::pin::pin!(copied);
    futures_util::SinkExt::send(&mut copied, "a\t{}\n".into()).await.unwrap();
    assert_eq!(copied.finish().await.unwrap(), 1);
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
            "claim" => {
                relay.query(&sql, &[&10_i64, &10_i64, &10_i64, &60.0, &None::<jiff::Timestamp>, &None::<i64>]).await
            }
            "complete_dead_letters" => relay.query(&sql, &[&ids, &zeros]).await,
            "give_back" => relay.query(&sql, &[&ids]).await,
            "holds" => relay.query(&sql, &[&id, &0, &0]).await,
            "next_due" => relay.query(&sql, &[&None::<jiff::Timestamp>, &None::<i64>, &1.0]).await,
            "record" => {
                let (kinds, texts, delays) = (vec!["retry"], vec![None::<&str>], vec![1.0]);
                let (digests, keeps, limits) = (vec![None::<Uuid>], vec![false], vec![None::<i32>]);
                let (words, numbers, small) = (vec!["x"], vec![None::<i32>], vec![Some(1_i16)]);
                let what: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
                    &ids, &zeros, &zeros, &kinds, &texts, &texts, &delays, &texts, &digests, &keeps, &limits, &texts,
                    &ids, &zeros, &zeros, &digests, &texts, &words, &delays, &zeros, &words, &small, &numbers, &texts,
                    &small, &"worker",
                ];
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
            "truncate notification_events",
            "insert into notification_events (event_type, payload) values ('a', '{}')",
            "update notification_attempts set answer = null",
            "update notification_audit set actor = 'somebody else'",
            "insert into notification_audit (actor, database_user, action) values ('a', 'b', 'replay')",
        ],
    )
    .await;
}

#[tokio::test]
async fn a_reader_runs_every_statement_of_the_commands_but_that_for_payloads() {
    let (database, _admin) = database().await;
    let reader = role(&database, "reader").await;
    for (name, sql) in statements_of("operate") {
        let ran = reader.query(&explained(&sql), &[]).await.map_err(|error| refusal(&error));
        match name.as_str() {
            "payloads" => assert_eq!(ran.unwrap_err(), "permission denied for table notification_events"),
            _ => drop(ran.unwrap_or_else(|error| panic!("{name}: {error}"))),
        }
    }
}

/// A statement whose plan is made, and its rights are checked, with null for every parameter.
fn explained(sql: &str) -> String {
    let sql = (1..=26).rev().fold(sql.to_owned(), |sql, n| sql.replace(&format!("${n}"), "null"));
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
