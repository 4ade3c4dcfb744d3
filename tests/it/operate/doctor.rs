//! `postbell doctor`: names what is wrong, in plain words, and how to mend it.

use std::path::PathBuf;

use postbell::sandbox::{Sandbox, Settings};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{done, postbell};
use crate::harness::process::{Env, Postbell};
use crate::harness::servers::{Redis, free_port};
use crate::harness::stage::Stage;
use crate::harness::{SOON, eventually};

/// What it finds, a line each: `fail what: found → remedy`, and how it ends.
async fn findings(env: &Env) -> (i32, Vec<String>) {
    let (code, stdout, stderr) = postbell("doctor --json", env).await;
    assert!(code == 0 || stderr.contains("checks failed"), "{stderr}");
    let line = |line: &str| {
        let finding: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        format!("{} {}: {} → {}", text("verdict"), text("what"), text("found"), text("remedy"))
    };
    (code, stdout.lines().map(line).collect())
}

/// Looks with these settings, and expects exactly one failure, with these words in it.
async fn fails_with(env: &Env, parts: &[&str]) {
    let (code, findings) = findings(env).await;
    let failures: Vec<&String> = findings.iter().filter(|line| line.starts_with("fail ")).collect();
    assert_eq!((code, failures.len()), (1, 1), "{parts:?}: {findings:#?}");
    for part in parts {
        assert!(failures[0].contains(part), "no {part:?} in {}", failures[0]);
    }
}

/// Looks with these settings, and expects no failure, but a warning with these words in it.
async fn warns_of(env: &Env, parts: &[&str]) {
    let (code, findings) = findings(env).await;
    assert_eq!(code, 0, "{findings:#?}");
    let fits = |line: &&String| line.starts_with("warn ") && parts.iter().all(|part| line.contains(part));
    assert!(findings.iter().any(|line| fits(&line)), "no warning with {parts:?}: {findings:#?}");
}

#[tokio::test]
async fn where_all_is_well_it_says_so_and_ends_with_0() {
    let stage = Stage::new().await;
    let client = stage.world.client();
    let name = format!("sidecar_{:016x}", fastrand::u64(..));
    client.batch_execute(&format!("create role {name} login")).await.unwrap();
    client.query_one("select notification_grant($1::text::name, 'relay')", &[&name]).await.unwrap();
    let env = stage.env.clone().with("DATABASE_URL", stage.world.database.url_as(&name));
    let env = env.with("NOTIFICATION_POLL_INTERVAL", "10s").with("NOTIFICATION_ROBOT_RATE", "18/60s");
    let _postbell = Postbell::start(&["run"], &env);
    stage.publish(1).await;
    stage.settled().await;
    let (code, findings) = eventually(SOON, "the doctor to find a relay and a consumer", async || {
        let (code, findings) = findings(&env).await;
        let is_running = |line: &String| line.contains("1 relay listens") || line.contains("1 consumers in postbell");
        (findings.iter().filter(|line| is_running(line)).count() >= 3).then_some((code, findings))
    })
    .await;
    assert_eq!(code, 0, "{findings:#?}");
    // The servers of tests are made to be fast.
    let not_ok: Vec<_> = findings.iter().filter(|line| !line.starts_with("ok ") && !line.contains("fsync")).collect();
    assert!(not_ok.is_empty(), "{not_ok:#?}");
    let shown = done("doctor", &env).await;
    assert!(shown.contains("\n0 failed, 1 warning, "), "{shown}");
    for secret in ["access_token", &stage.robot.webhook("token")] {
        assert!(!shown.contains(secret), "{shown}");
    }

    let sent = done("doctor --send", &stage.env).await;
    assert!(sent.contains("test message  delivered"), "{sent}");
    assert_eq!(stage.robot.messages().len(), 2);
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_named_with_why() {
    let stage = Stage::new().await;
    let url = |at: &str| format!("postgres://postgres:hunter2@{at}/nowhere");
    let gone = format!("127.0.0.1:{}", free_port());
    let away = stage.env.clone().with("DATABASE_URL", url(&gone));
    fails_with(&away, &["PostgreSQL: at 127.0.0.1", "refused", "start it, or correct host and port in DATABASE_URL"])
        .await;
    let server = stage.world.database.url().replace("postgres://postgres@", "");
    let wrong = stage.env.clone().with("DATABASE_URL", url(server.split('/').next().unwrap()));
    fails_with(&wrong, &["database \"nowhere\" does not exist", "correct user, password or database"]).await;
}

#[tokio::test]
async fn a_schema_that_is_missing_behind_or_somebody_elses_is_named() {
    let stage = Stage::new().await;
    let client = stage.world.client();
    let newest =
        "delete from postbell_schema_history where version = (select max(version) from postbell_schema_history)";
    client.batch_execute(newest).await.unwrap();
    fails_with(&stage.env, &["schema: is at version", "not applied yet: V", "→ postbell migrate"]).await;
    let other = "update postbell_schema_history set checksum = '1' where version = 3";
    client.batch_execute(other).await.unwrap();
    fails_with(&stage.env, &["schema: was made by other migrations", "V3__functions"]).await;
    client.batch_execute("drop schema public cascade; create schema public").await.unwrap();
    fails_with(&stage.env, &["schema: is missing", "postbell migrate, as the owner"]).await;
}

#[tokio::test]
async fn a_role_without_its_rights_is_told_the_grant() {
    let stage = Stage::new().await;
    let client = stage.world.client();
    let name = format!("reader_{:016x}", fastrand::u64(..));
    client.batch_execute(&format!("create role {name} login")).await.unwrap();
    client.query_one("select notification_grant($1::text::name, 'reader')", &[&name]).await.unwrap();
    let env = stage.env.clone().with("DATABASE_URL", stage.world.database.url_as(&name));
    let grant = format!("notification_grant('{name}', 'relay')");
    fails_with(&env, &["may not do what a sidecar does: ", "update on notification_events", &grant]).await;
}

/// A way to PostgreSQL on which no notification comes through, as behind a pooler that shares sessions.
pub(crate) async fn deaf(upstream: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&upstream).await.unwrap();
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            tokio::spawn(async move {
                // A message of the server: its kind, its length, the rest.
                while let Ok(kind) = from_server.read_u8().await {
                    let length = from_server.read_u32().await?;
                    let mut rest = vec![0; length as usize - 4];
                    from_server.read_exact(&mut rest).await?;
                    if kind != b'A' {
                        to_client.write_all(&[&[kind][..], &length.to_be_bytes(), &rest].concat()).await?;
                    }
                }
                to_client.shutdown().await
            });
        }
    });
    address
}

#[tokio::test]
async fn notifications_that_do_not_come_through_are_noticed() {
    let stage = Stage::new().await;
    let server = stage.world.database.url();
    let server = server.split(['@', '/']).nth(3).unwrap().to_owned();
    let url = format!("{}?sslmode=disable", stage.world.database.url_through(&deaf(server).await));
    let env = stage.env.clone().with("DATABASE_URL", url);
    let remedy = "through a pooler in session mode; where that cannot be, NOTIFICATION_POLL_INTERVAL=1s";
    fails_with(&env, &["LISTEN: notifications are not heard", remedy]).await;
    warns_of(&env.with("NOTIFICATION_POLL_INTERVAL", "1s"), &["LISTEN: notifications are not heard"]).await;
}

#[tokio::test]
async fn what_hinders_events_in_the_database_is_named() {
    let stage = Stage::new().await;
    let client = stage.world.client();
    let trigger = "alter table notification_events disable trigger notification_events_wake_relay";
    client.batch_execute(trigger).await.unwrap();
    fails_with(&stage.env, &["wake-up: the trigger", "is disabled", "enable trigger notification_events_wake_relay"])
        .await;
    client.batch_execute(&trigger.replace("disable", "enable")).await.unwrap();

    warns_of(&stage.env, &["backlog: 0 due; no relay listens", "start postbell run"]).await;
    let late = "insert into notification_events (event_type, payload, scheduled_at) values ('a', '{}', now() - interval '5 minutes')";
    client.batch_execute(late).await.unwrap();
    fails_with(&stage.env, &["backlog: 1 events are due, the oldest for 5 min; no relay listens"]).await;
    client.batch_execute("delete from notification_events").await.unwrap();

    client.batch_execute("begin; select 1; prepare transaction 'doctor'").await.unwrap();
    let (code, _) = findings(&stage.env).await;
    client.batch_execute("rollback prepared 'doctor'").await.unwrap();
    assert_eq!(code, 0, "one that is young is nobody's fault");
}

#[tokio::test]
async fn settings_that_do_not_go_together_are_named() {
    let stage = Stage::new().await;
    let env = |variable: &str, value: &str| stage.env.clone().with(variable, value);
    fails_with(
        &env("NOTIFICATION_SEND_TIMEOUT", "10s").with("NOTIFICATION_SHUTDOWN_GRACE", "20s"),
        &["leases: NOTIFICATION_SEND_LEASE", "at least NOTIFICATION_SEND_TIMEOUT plus 1s, here 11s"],
    )
    .await;
    fails_with(&env("NOTIFICATION_ROBOT_RATE", "30/60s"), &["robot rate: 30 in 1m is more than the 20 a minute"]).await;
    fails_with(
        &env("NOTIFICATION_DEAD_LETTER_STREAM", "notification:events:urgent"),
        &["streams: NOTIFICATION_DEAD_LETTER_STREAM", "which carries hints"],
    )
    .await;
    warns_of(&stage.env, &["polling: only every 1h", "lower NOTIFICATION_POLL_INTERVAL"]).await;
    warns_of(&stage.env, &["robot rate: off", "18/60s"]).await;
    warns_of(&env("NOTIFICATION_HINT_LEASE", "1s"), &["hint lease of 1s is shorter than the send lease of 2s"]).await;
    warns_of(&env("NOTIFICATION_SHUTDOWN_GRACE", "500ms"), &["shutdown: a stopping consumer has 500ms"]).await;
}

#[tokio::test]
async fn templates_that_cannot_be_used_are_named_with_file_and_line() {
    let stage = Stage::new().await;
    let missing = stage.env.clone().with("NOTIFICATION_TEMPLATES_DIR", "/nowhere");
    fails_with(&missing, &["templates: NOTIFICATION_TEMPLATES_DIR", "cannot be read"]).await;
    let folder = Folder::new();
    let env = stage.env.clone().with("NOTIFICATION_TEMPLATES_DIR", folder.0.display());
    fails_with(&env, &["has no template", "put <template_id>.md"]).await;
    folder.write("notice.md", "a\n${name}\n");
    folder.write("samples/notice.json", "{}");
    fails_with(&env, &["samples/notice.json: template notice: variable \"name\" is missing from the payload (line 2)"])
        .await;
    folder.write("notice.md", "a\n${name\n");
    fails_with(&env, &["/notice.md:2: ", "postbell template check"]).await;
}

#[tokio::test]
async fn robots_that_cannot_be_reached_are_named_without_their_tokens() {
    let stage = Stage::new().await;
    let elsewhere = "https://evil.example/?access_token=hunter2";
    let env = stage.env.clone().with("DINGTALK_NOTIFICATION_WEBHOOK", elsewhere);
    fails_with(&env, &["robots: DINGTALK_NOTIFICATION_WEBHOOK", "NOTIFICATION_ALLOWED_HOSTS"]).await;
    assert!(!postbell("doctor", &env).await.1.contains("hunter2"));
    let none = stage.env.clone().with("DINGTALK_NOTIFICATION_WEBHOOK", "");
    fails_with(&none, &["robots: there is none", "postbell robots add"]).await;

    let client = stage.world.client();
    let insert =
        |values: &str| format!("insert into notification_channels (name, webhook, secret, robots) values {values}");
    client.batch_execute(&insert("('hr', 'env:HR_WEBHOOK', 'file:/nowhere/secret', null)")).await.unwrap();
    fails_with(&stage.env, &["robots: hr: its webhook cannot be read: env:HR_WEBHOOK: the variable is not set"]).await;
    let with_webhook = stage.env.clone().with("HR_WEBHOOK", stage.robot.webhook("hr"));
    fails_with(&with_webhook, &["robots: hr: its secret cannot be read: file:/nowhere/secret: "]).await;
    client.batch_execute("delete from notification_channels").await.unwrap();
    client.batch_execute(&insert("('all', null, null, '{default,nobody}')")).await.unwrap();
    fails_with(&stage.env, &["robots: all: a pool whose robots are not there: nobody"]).await;
    client.batch_execute("update notification_channels set robots = '{default}', enabled = false").await.unwrap();
    warns_of(&stage.env, &["robots: all: disabled, its events wait"]).await;
    warns_of(&stage.env.clone().with("DINGTALK_NOTIFICATION_SECRET", "hunter2"), &["does not begin with SEC"]).await;
}

#[tokio::test]
async fn a_robot_that_refuses_is_a_failure_with_its_reason() {
    let stage = Stage::with(Settings { rate: None, keywords: vec!["告警".to_owned()], ..Settings::default() }).await;
    let _postbell = stage.run();
    let (code, stdout, _) = postbell("doctor --send", &stage.env).await;
    assert_eq!(code, 1);
    assert!(stdout.contains("fail  test message  not accepted: robot's settings: none of its keywords"), "{stdout}");
    fails_with(
        &stage.env,
        &["robots: default is paused by postbell: robot's settings: none of its keywords", "postbell robots resume"],
    )
    .await;
}

#[tokio::test]
async fn a_redis_that_cannot_carry_the_hints_is_named_with_why() {
    let stage = Stage::new().await;
    let mut redis = stage.world.redis.client().await;
    let port = free_port();
    let gone = format!("redis://:hunter2@127.0.0.1:{port}/");
    let words = ["Redis: cannot be used: Redis: ", &format!("(at 127.0.0.1:{port})"), "correct REDIS_URL"];
    fails_with(&stage.env.clone().with("REDIS_URL", gone), &words).await;

    let set = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut run = async |words: &str| {
        let words = set(words);
        redis::cmd(&words[0]).arg(&words[1..]).exec_async(&mut redis).await.unwrap();
    };
    run("SET notification:events x").await;
    fails_with(&stage.env, &["stream: notification:events is a string and no stream", "del notification:events"]).await;
    run("DEL notification:events").await;
    run("LPUSH notification:deadletter x").await;
    fails_with(&stage.env, &["stream: notification:deadletter is a list and no stream"]).await;
    run("DEL notification:deadletter").await;
    run("XADD notification:events 1-1 a b").await;
    warns_of(&stage.env, &["stream: notification:events has no group postbell", "NOTIFICATION_CONSUMER_GROUP"]).await;
    run("XGROUP CREATE notification:events postbell 0").await;
    warns_of(&stage.env, &["1 hints, 0 in hand, 0 consumers in postbell", "nobody reads it"]).await;
    run("XADD notification:events 2-1 a b").await;
    fails_with(&stage.env.clone().with("NOTIFICATION_STREAM_MAX_LEN", "2"), &["notification:events is full (2 of 2)"])
        .await;

    run("CONFIG SET maxmemory 100mb").await;
    run("CONFIG SET maxmemory-policy allkeys-lru").await;
    warns_of(&stage.env, &["maxmemory-policy allkeys-lru: the streams may be evicted", "noeviction"]).await;
    let primary = Redis::start().await;
    run(&format!("REPLICAOF {}", primary.address().replace(':', " "))).await;
    fails_with(&stage.env, &["is a replica, which takes no writes", "point REDIS_URL to the primary"]).await;
}

/// A folder of the test's own.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let folder = std::env::temp_dir().join(format!("postbell-doctor-{:016x}", fastrand::u64(..)));
        std::fs::create_dir_all(folder.join("samples")).unwrap();
        Folder(folder)
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.0.join(file), text).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn the_operations_robot_is_looked_at_and_rung() {
    let stage = Stage::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ops = Sandbox::start(listener, Settings::default()).unwrap();
    let hosts = format!("{},{}", stage.robot.addr(), ops.addr());
    let env = stage.env.clone().with("NOTIFICATION_ALLOWED_HOSTS", hosts);
    let set = env.clone().with("NOTIFICATION_OPS_WEBHOOK", ops.webhook("ops"));
    let _postbell = Postbell::start(&["run"], &set);
    let shown = done("doctor --send", &set).await;
    assert!(shown.contains("alerts        an operations robot is set; looked every 1m, rung once in 30m"), "{shown}");
    assert!(shown.contains("test alert    delivered"), "{shown}");
    assert!(ops.messages()[0].text.contains("postbell：运维机器人工作正常"));

    warns_of(&set.clone().with("NOTIFICATION_ATTEMPTS", "off"), &["alerts: failure_rate is not watched"]).await;
    let same = env.clone().with("NOTIFICATION_OPS_WEBHOOK", stage.robot.webhook("token"));
    warns_of(&same, &["the operations robot is the one that events go through"]).await;
    warns_of(&env.clone().with("NOTIFICATION_OPS_SECRET", "SECops"), &["alerts: NOTIFICATION_OPS_SECRET is set"]).await;
    let bad = env.with("NOTIFICATION_OPS_WEBHOOK", "https://evil.example/?access_token=t");
    fails_with(&bad, &["alerts: NOTIFICATION_OPS_WEBHOOK (--ops-webhook)", "NOTIFICATION_ALLOWED_HOSTS"]).await;
}
