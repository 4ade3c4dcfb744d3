//! The commands as a person or a script meets them: what they print, and how they end.

use serde_json::{Value, json};

use crate::harness::process::{Env, Postbell};
use crate::harness::servers::{Postgres, connect};
use crate::harness::stage::Stage;
use crate::harness::{SOON, World};

/// Runs a command to its end: exit code, standard output, standard error.
pub(crate) async fn ended(arguments: &[&str], env: &Env) -> (i32, String, String) {
    let mut postbell = Postbell::start(arguments, env);
    let code = postbell.exit_status(SOON).await.code().unwrap();
    (code, postbell.stdout().join("\n"), postbell.stderr().join("\n"))
}

#[tokio::test]
async fn bad_usage_and_bad_configuration_end_with_64_and_name_the_setting() {
    let world = World::new().await;
    let env = world.env();
    for (arguments, env, says) in [
        (&["relay"][..], Env::default(), "DATABASE_URL (--database-url) is not set"),
        (&["frobnicate"], env.clone(), "frobnicate"),
        (
            &["relay"],
            env.clone().with("NOTIFICATION_BATCH_SIZE", "0"),
            "NOTIFICATION_BATCH_SIZE (--batch-size): given \"0\"; allowed: a whole number from 1 to 10000",
        ),
        (
            &["relay"],
            env.clone().with("NOTIFICATION_LOG_FORMAT", "xml"),
            "NOTIFICATION_LOG_FORMAT (--log-format): given \"xml\"; allowed: text, json",
        ),
        (&["relay"], env.clone().with("DATABASE_URL", "postgres://h/d?sslmode=maybe"), "sslmode"),
        (&["run"], env.clone().with("NOTIFICATION_TEMPLATES_DIR", "/nowhere"), "NOTIFICATION_TEMPLATES_DIR"),
        (
            &["run"],
            env.clone().with("NOTIFICATION_SEND_LEASE", "10s"),
            "at least NOTIFICATION_SEND_TIMEOUT plus 1s, here 11s",
        ),
        (
            &["run"],
            env.clone().with("DINGTALK_NOTIFICATION_WEBHOOK", "https://evil.example/?access_token=TOPSECRET"),
            "DINGTALK_NOTIFICATION_WEBHOOK",
        ),
    ] {
        let (code, _, stderr) = ended(arguments, &env).await;
        assert_eq!(code, 64, "{arguments:?}: {stderr}");
        assert!(stderr.contains(says), "{arguments:?} does not say {says:?}: {stderr}");
        assert!(!stderr.contains("TOPSECRET"), "{stderr}");
    }
}

#[tokio::test]
async fn help_and_version_end_with_0() {
    for arguments in [&["--help"][..], &["run", "--help"], &["--version"], &["template", "check", "--help"]] {
        let (code, stdout, _) = ended(arguments, &Env::default()).await;
        assert_eq!(code, 0);
        assert!(!stdout.is_empty());
    }
}

#[tokio::test]
async fn sidecars_that_start_together_migrate_one_after_the_other() {
    let world = World::new().await;
    let (database, client) = (&world.database, world.client());
    client.batch_execute("drop schema public cascade; create schema public").await.unwrap();
    let env = Env::default().with("DATABASE_URL", database.url());
    let mut migrations: Vec<Postbell> = (0..5).map(|_| Postbell::start(&["migrate"], &env)).collect();
    let mut applied = 0;
    for migration in &mut migrations {
        assert_eq!(migration.exit_status(SOON).await.code(), Some(0));
        applied += migration.stdout().iter().filter(|line| line.starts_with("applied")).count();
    }
    let rows: i64 = client.query_one("select count(*) from postbell_schema_history", &[]).await.unwrap().get(0);
    assert_eq!(i64::try_from(applied).unwrap(), rows, "each migration was applied once");
}

#[tokio::test]
async fn a_schema_that_is_missing_or_too_old_is_refused() {
    let stage = Stage::new().await;
    stage.world.client().batch_execute("delete from postbell_schema_history where version > 1").await.unwrap();
    let (code, _, stderr) = ended(&["relay"], &stage.env).await;
    assert_eq!(code, 64);
    assert!(stderr.contains("is at version 1") && stderr.contains("run postbell migrate"), "{stderr}");
    stage.world.client().batch_execute("drop table postbell_schema_history").await.unwrap();
    let (code, _, stderr) = ended(&["consume"], &stage.env).await;
    assert_eq!(code, 64);
    assert!(stderr.contains("the schema is missing"), "{stderr}");
}

#[tokio::test]
async fn a_service_waits_for_its_database_and_says_so() {
    let world = World::new().await;
    let database = Postgres::own().await;
    let own = database.database().await;
    database.stop_immediate().await;
    let mut relay = Postbell::start(&["relay"], &world.env().with("DATABASE_URL", own.url()));
    relay.wait_for_line("cannot reach PostgreSQL", SOON).await;
    database.start().await;
    relay.wait_for_line("relay started", SOON).await;
    relay.sigterm();
    assert_eq!(relay.exit_status(SOON).await.code(), Some(0));
    drop(connect(&own.url()).await);
}

#[tokio::test]
async fn publish_prints_the_id_and_is_idempotent_by_key() {
    let world = World::new().await;
    let publish = ["publish", "resume.parsed", "--payload", r#"{"a": 1}"#, "--key", "k", "--at", "1h"];
    let (code, first, _) = ended(&publish, &world.env()).await;
    assert_eq!(code, 0);
    let (_, second, _) = ended(&publish, &world.env()).await;
    assert_eq!(first, second);
    let later = "select scheduled_at > now() + interval '50 minutes' from notification_events";
    assert!(world.client().query_one(later, &[]).await.unwrap().get::<_, bool>(0));

    let (code, _, stderr) = ended(&["publish", "x", "--payload", "[1]"], &world.env()).await;
    assert_eq!(code, 64);
    assert!(stderr.contains("a JSON object"), "{stderr}");
    let long = "x".repeat(200);
    let (code, _, stderr) = ended(&["publish", &long], &world.env()).await;
    assert_eq!(code, 64);
    assert!(stderr.contains("event type must be 1 to 128 characters"), "{stderr}");
}

#[tokio::test]
async fn status_shows_events_as_a_table_and_as_json_without_payload_or_token() {
    let world = World::new().await;
    let insert = "insert into notification_events (event_type, payload, target)
        values ('resume.parsed', '{\"secret\": \"PAYLOAD\"}', 'https://oapi.dingtalk.com/robot/send?access_token=TOKEN') returning id";
    let id = world.publish_sql(insert).await.to_string();
    let (code, table, _) = ended(&["status"], &world.env()).await;
    assert_eq!(code, 0);
    assert!(table.contains(&id) && table.contains("pending") && table.contains("1 pending"), "{table}");
    let (_, text, _) = ended(&["status", &id, "--json"], &world.env()).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["counts"], json!({ "pending": 1 }));
    assert_eq!(answer["events"][0]["id"], json!(id));
    assert_eq!(answer["events"][0]["target"], json!("https://oapi.dingtalk.com/***"));
    let (_, card, _) = ended(&["status", &id], &world.env()).await;
    for text in [table, text, card] {
        assert!(!text.contains("TOKEN") && !text.contains("PAYLOAD"), "{text}");
    }
    let (code, _, stderr) = ended(&["status", "00000000-0000-0000-0000-000000000000"], &world.env()).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("no such event"), "{stderr}");
}

#[tokio::test]
async fn a_command_that_cannot_connect_says_where_it_tried() {
    let env = Env::default().with("DATABASE_URL", "postgres://postgres:SECRET@127.0.0.1:9/app");
    let id = "00000000-0000-7000-8000-000000000000";
    for command in [
        &["list"][..],
        &["stats"],
        &["audit"],
        &["cancel", id],
        &["status", id],
        &["publish", "resume.parsed"],
        &["migrate"],
        &["migrate", "--check"],
    ] {
        let mut postbell = Postbell::start(command, &env);
        assert_eq!(postbell.exit_status(SOON).await.code(), Some(1), "{command:?}");
        let said = postbell.stderr().join("\n");
        assert!(said.contains("PostgreSQL at 127.0.0.1 port 9: ") && !said.contains("SECRET"), "{command:?}: {said}");
    }
}
