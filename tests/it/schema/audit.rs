//! `notification_audit`: who changed what; and what a migration leaves to roles that were there before.

use std::fs;

use tokio_postgres::Client;

use super::{database, one};

/// The audit in order, a line each.
async fn audit(client: &Client) -> Vec<String> {
    let lines = "select concat_ws(' | ', action, actor, database_user, robot, event_id is not null, detail)
        from notification_audit order by id";
    client.query(lines, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn whatever_a_person_changes_leaves_a_line_and_what_changes_nothing_leaves_none() {
    let (_database, client) = database().await;
    let id = one(&client, "select notification_publish('a', '{}', scheduled_at => '2030-01-01Z')").await;
    for call in [
        format!("notification_reschedule('{id}', '2031-01-01Z')"),
        format!("notification_cancel('{id}')"),
        format!("notification_cancel('{id}')"),
        format!("notification_replay('{id}')"),
        format!("notification_replay('{id}')"),
        format!("notification_purge('{id}')"),
        format!("notification_reschedule('{id}', null)"),
        "notification_replay(gen_random_uuid())".to_owned(),
        "notification_robot_resume('default')".to_owned(),
        "notification_robot_pause('default', 'moving')".to_owned(),
        "notification_robot_resume('default')".to_owned(),
        "notification_robot_resume('default')".to_owned(),
        "notification_robot_pause('default', null, 'Li Hua')".to_owned(),
    ] {
        one(&client, &format!("select {call}")).await;
    }
    assert_eq!(
        audit(&client).await,
        [
            r#"reschedule | postgres | postgres | t | {"to": "2031-01-01T00:00:00+00:00", "from": "2030-01-01T00:00:00+00:00"}"#,
            r#"cancel | postgres | postgres | t | {"was": "pending"}"#,
            r#"replay | postgres | postgres | t | {"was": "cancelled", "last_error": null, "replay_count": 1}"#,
            r#"pause | postgres | postgres | default | f | {"reason": "moving"}"#,
            r#"resume | postgres | postgres | default | f | {"paused_by": "postgres", "pause_reason": "moving"}"#,
            "pause | Li Hua | postgres | default | f | {}",
        ]
    );
}

#[tokio::test]
async fn every_change_of_a_target_leaves_a_line_without_anybodys_number() {
    let (_database, client) = database().await;
    client
        .batch_execute(
            "insert into notification_channels (name, webhook, at_mobiles) values ('hr', 'env:HR', '{13800138000}');
            update notification_channels set enabled = false, updated_at = now() where name = 'hr';
            update notification_channels set updated_at = now() where name = 'hr';
            update notification_channels set at_mobiles = '{13900139000}' where name = 'hr';
            update notification_channels set name = 'hr2' where name = 'hr';
            delete from notification_channels",
        )
        .await
        .unwrap();
    let added = r#"{"at_all": false, "channel": "dingtalk", "enabled": true, "webhook": "env:HR"}"#;
    let disabled = added.replace("true", "false");
    assert_eq!(
        audit(&client).await,
        [
            format!("target_added | postgres | postgres | hr | f | {added}"),
            r#"target_changed | postgres | postgres | hr | f | {"enabled": {"to": false, "from": true}}"#.to_owned(),
            r#"target_changed | postgres | postgres | hr | f | {"at_mobiles": "changed"}"#.to_owned(),
            format!("target_removed | postgres | postgres | hr | f | {disabled}"),
            format!("target_added | postgres | postgres | hr2 | f | {disabled}"),
            format!("target_removed | postgres | postgres | hr2 | f | {disabled}"),
        ]
    );
}

#[tokio::test]
async fn a_line_stands_or_falls_with_the_change_and_names_whom_the_session_names() {
    let (database, client) = database().await;
    let name = format!("oncall_{:016x}", fastrand::u64(..));
    client.batch_execute(&format!("create role {name} login")).await.unwrap();
    one(&client, &format!("select notification_grant('{name}', 'operator')")).await;
    let id = one(&client, "select notification_publish('a', '{}')").await;
    let operator = database.client_as(&name).await;
    operator
        .batch_execute(&format!(
            "begin; set local postbell.actor = 'never'; select notification_cancel('{id}'); rollback;
            begin; set local postbell.actor = 'Li Hua'; select notification_cancel('{id}'); commit;
            insert into notification_channels (name, webhook) values ('hr', 'env:HR')"
        ))
        .await
        .unwrap();
    let who =
        "select string_agg(concat_ws(' ', action, actor, database_user), ', ' order by id) from notification_audit";
    let expected = format!("cancel Li Hua {name}, target_added {name} {name}");
    assert_eq!(one(&client, who).await, expected);
    assert_eq!(one(&operator, who).await, expected, "an operator reads it");
    for forged in [
        "insert into notification_audit (actor, database_user, action) values ('a', 'b', 'replay')",
        "update notification_audit set actor = 'somebody else'",
        "delete from notification_audit",
        "delete from notification_attempts",
        "select notification_note('replay', null, null, '{}', 'somebody else')",
    ] {
        let refusal = super::refused(&operator, forged).await;
        assert!(refusal.contains("permission denied"), "{forged}: {refusal}");
    }
}

#[tokio::test]
async fn purge_removes_what_has_ended_with_its_sends_and_nothing_else() {
    let (_database, client) = database().await;
    let id = one(&client, "select notification_publish('a', '{}')").await;
    let attempt = format!(
        "insert into notification_attempts
            (started_at, event_id, replay_count, attempt, duration_ms, tries, class, robot, worker)
        values (now(), '{id}', 0, 1, 1, 1, 'success', 'default', 'w')"
    );
    client.batch_execute(&attempt).await.unwrap();
    for (columns, said) in [
        ("status = 'pending'", "unchanged: the event is pending; only what is delivered, cancelled, or failed"),
        ("status = 'failed', failed_at = now()", "unchanged: the event is failed; only"),
        ("completed_at = now()", "removed: the event was failed"),
    ] {
        client.batch_execute(&format!("update notification_events set {columns}")).await.unwrap();
        let answer = one(&client, &format!("select notification_purge('{id}')")).await;
        assert!(answer.starts_with(said), "{answer}");
    }
    let left = "select (select count(*) from notification_events) + (select count(*) from notification_attempts)";
    assert_eq!(one(&client, left).await, "0");
    assert_eq!(one(&client, &format!("select notification_purge('{id}')")).await, "not found: no event has this id");
    assert_eq!(audit(&client).await.len(), 1);
}

#[tokio::test]
async fn roles_of_before_have_what_their_kind_has_now_once_it_is_migrated() {
    let (database, client) = database().await;
    client.batch_execute("drop schema public cascade; create schema public").await.unwrap();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/migrations");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut migrations: Vec<(u32, String)> = paths
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            (name[1..].split('_').next().unwrap().parse().unwrap(), fs::read_to_string(&path).unwrap())
        })
        .collect();
    migrations.sort();
    client.batch_execute("create table public.postbell_schema_history (version integer)").await.unwrap();
    let run = async |versions: std::ops::RangeInclusive<u32>| {
        for (version, sql) in migrations.iter().filter(|(version, _)| versions.contains(version)) {
            client.batch_execute(sql).await.unwrap_or_else(|error| panic!("V{version}: {:?}", error.as_db_error()));
        }
    };
    run(1..=8).await;
    let role = async |kind: &str| {
        let name = format!("{kind}_{:016x}", fastrand::u64(..));
        client.batch_execute(&format!("create role {name} login")).await.unwrap();
        one(&client, &format!("select notification_grant('{name}', '{kind}')")).await;
        database.client_as(&name).await
    };
    let (relay, operator, reader) = (role("relay").await, role("operator").await, role("reader").await);
    let writer = role("writer").await;
    run(9..=9).await;
    let attempt = "insert into notification_attempts
            (started_at, event_id, replay_count, attempt, duration_ms, tries, class, robot, worker)
        values (now(), gen_random_uuid(), 0, 1, 1, 1, 'success', 'default', 'w')";
    relay.batch_execute(attempt).await.unwrap();
    assert_eq!(one(&operator, "select notification_purge(gen_random_uuid())").await, "not found: no event has this id");
    for who in [&operator, &reader] {
        assert_eq!(one(who, "select count(*) from notification_attempts").await, "1");
    }
    for (who, refused) in [
        (&relay, "select notification_purge(gen_random_uuid())"),
        (&reader, attempt),
        (&writer, "select from notification_attempts"),
    ] {
        assert!(super::refused(who, refused).await.contains("permission denied"), "{refused}");
    }
}
