//! `postbell list`: finds events, and follows what becomes of them.

use serde_json::Value;

use super::{dead_letter, done, failed};
use crate::harness::process::Postbell;
use crate::harness::stage::Stage;
use crate::harness::{SOON, World, eventually};

/// The event types that a list has, in its order.
async fn types(words: &str, world: &World) -> Vec<String> {
    let listed = done(&format!("list --json {words}"), &world.env()).await;
    let events = listed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.map(|event| event["event_type"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_filter_finds_what_fits_it_and_they_add_up() {
    let world = World::new().await;
    dead_letter(&world, "old", "network: nothing was sent: dns", 30).await;
    dead_letter(&world, "resume.parsed", "template resume.parsed: variable \"name\" is missing", 2).await;
    dead_letter(&world, "resume_parsed", "message: Too long; shorten the template", 1).await;
    world.publish("new", serde_json::json!({})).await;
    let url = "https://oapi.dingtalk.com/robot/send?access_token=TOKEN";
    let insert = "insert into notification_events (event_type, payload, target) values ('by.url', '{}', $1)";
    world.client().execute(insert, &[&url]).await.unwrap();
    for (words, expected) in [
        ("", &["by.url", "new", "resume_parsed", "resume.parsed", "old"][..]),
        ("--limit 2", &["by.url", "new"]),
        ("--status failed", &["resume_parsed", "resume.parsed", "old"]),
        ("--status failed --since 1d", &["resume_parsed", "resume.parsed"]),
        ("--status failed --since 90m", &["resume_parsed"]),
        ("--status failed --before 1d", &["old"]),
        ("--status failed --since 2000-01-01 --before 90m", &["resume.parsed", "old"]),
        ("--status delivered", &[]),
        ("--type resume.*", &["resume.parsed"]),
        ("--type resume_parsed", &["resume_parsed"]),
        ("--type *parsed", &["resume_parsed", "resume.parsed"]),
        ("--error-class template", &["resume.parsed"]),
        ("--error-class message", &["resume_parsed"]),
        ("--error-class network --since 1h", &[]),
        ("--error TOO", &["resume_parsed"]),
        ("--error %", &[]),
        (&format!("--target {url}"), &["by.url"]),
        ("--target default --status pending", &["new"]),
    ] {
        assert_eq!(types(words, &world).await, expected, "{words}");
    }
}

#[tokio::test]
async fn a_filter_that_could_fit_nothing_is_refused_with_what_is_allowed() {
    let world = World::new().await;
    for (words, says) in [
        ("list --since yesterday", "--since: given \"yesterday\"; allowed: a duration such as 90m, 12h or 2d"),
        ("list --error-class bad", "--error-class: given \"bad\"; allowed: message, robot, platform"),
        ("list --status dead", "--status: given \"dead\"; allowed: pending"),
    ] {
        let refused = failed(words, 64, &world.env()).await;
        assert!(refused.contains(says), "{words}: {refused}");
    }
}

#[tokio::test]
async fn a_list_shows_when_and_why_and_neither_payload_nor_token_unless_asked() {
    let world = World::new().await;
    let id = dead_letter(&world, "resume.parsed", "message: too long", 1).await.to_string();
    let url = "update notification_events set target = 'https://oapi.dingtalk.com/robot/send?access_token=TOKEN'";
    world.client().batch_execute(url).await.unwrap();
    let (table, json) = (done("list", &world.env()).await, done("list --json", &world.env()).await);
    for text in [&table, &json] {
        assert!(text.contains(&id) && text.contains("message: too long"), "{text}");
        assert!(text.contains("https://oapi.dingtalk.com/***"), "{text}");
        assert!(!text.contains("TOKEN") && !text.contains("PAYLOAD"), "{text}");
    }
    assert_eq!(table.lines().count(), 2, "a line an event for other programs: {table}");
    let event: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(event["error_class"], "message");
    for words in ["list --payload", "list --payload --json"] {
        let shown = done(words, &world.env()).await;
        assert!(shown.contains("PAYLOAD") && !shown.contains("TOKEN"), "{shown}");
    }
    assert_eq!(done("list --status cancelled", &world.env()).await, "no event fits");
}

#[tokio::test]
async fn what_a_caller_wrote_cannot_steer_the_terminal() {
    let world = World::new().await;
    let insert = "insert into notification_events (event_type, payload) values (E'\\x1b[2J\\nx', '{}')";
    world.client().batch_execute(insert).await.unwrap();
    let table = done("list", &world.env()).await;
    assert!(!table.contains('\x1b') && table.lines().count() == 2, "{table:?}");
}

#[tokio::test]
async fn following_shows_what_is_new_and_what_becomes_of_it() {
    let stage = Stage::new().await;
    let before = stage.publish_one("before").await.to_string();
    let mut list = Postbell::start(&["list", "--follow", "--type", "plain"], &stage.env);
    let seen = async |what: &str| {
        eventually(SOON, what, async || list.stdout().iter().any(|line| line.contains(what)).then_some(())).await;
    };
    seen(&before).await;
    let _postbell = stage.run();
    let after = stage.publish_one("after").await.to_string();
    for id in [&before, &after] {
        eventually(SOON, "the event to be shown as delivered", async || {
            let lines = list.stdout();
            lines.iter().any(|line| line.contains(id.as_str()) && line.contains("delivered")).then_some(())
        })
        .await;
    }
    // Once it was delivered nothing more is said of it.
    let delivered = list.stdout().iter().filter(|line| line.contains(&before) && line.contains("delivered")).count();
    assert_eq!(delivered, 1);
    // One that fails is shown whatever its age.
    let old = dead_letter(&stage.world, "plain", "message: too long", 100).await.to_string();
    let now = "update notification_events set failed_at = now(), updated_at = now() where id = $1::text::uuid";
    stage.world.client().execute(now, &[&old]).await.unwrap();
    seen(&old).await;
    list.sigkill().await;
}

#[tokio::test]
async fn a_reader_lists_and_is_told_what_a_payload_needs() {
    let world = World::new().await;
    world.publish("a", serde_json::json!({})).await;
    let name = format!("reader_{:016x}", fastrand::u64(..));
    world.client().batch_execute(&format!("create role {name} login")).await.unwrap();
    world.client().query_one("select notification_grant($1::text::name, 'reader')", &[&name]).await.unwrap();
    let env = world.env().with("DATABASE_URL", world.database.url_as(&name));
    assert!(done("list", &env).await.contains("pending"));
    let refused = failed("list --payload", 1, &env).await;
    assert!(
        refused.contains("--payload reads notification_events itself") && refused.contains("permission denied"),
        "{refused}"
    );
    let refused = failed("dead-letter purge --all", 0, &env).await;
    assert_eq!(refused, "", "nothing fits, so nothing is refused");
    let id = dead_letter(&world, "a", "message: too long", 1).await;
    let refused = failed(&format!("replay {id}"), 1, &env).await;
    assert!(refused.contains("notification_grant('role', 'operator')"), "{refused}");
}

#[tokio::test]
async fn a_reader_of_the_output_that_has_had_enough_is_no_error() {
    let world = World::new().await;
    let many = "insert into notification_events (event_type, payload) select 'a', '{}' from generate_series(1, 5000)";
    world.client().batch_execute(many).await.unwrap();
    let script = r#""$1" list --limit 5000 | head -n 1; echo "ended with ${PIPESTATUS[0]}" "#;
    let output = tokio::process::Command::new("bash")
        .args(["-c", script, "bash", env!("CARGO_BIN_EXE_postbell")])
        .env("DATABASE_URL", world.database.url())
        .output()
        .await
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(String::from_utf8_lossy(&output.stdout).contains("ended with 141"), "{output:?}");
}
