//! What an event asks of its send, what a template makes of it, and waiting for the outcome on the command line.

use serde_json::{Value, json};
use uuid::Uuid;

use postbell::sandbox::{Do, Rule};

use crate::harness::SOON;
use crate::harness::process::{Env, Postbell};
use crate::harness::stage::Stage;

/// An event with options.
async fn publish(stage: &Stage, event_type: &str, payload: Value, options: Value) -> Uuid {
    let insert = "insert into notification_events (event_type, payload, options) values ($1, $2, $3) returning id";
    stage.world.client().query_one(insert, &[&event_type, &payload, &options]).await.unwrap().get(0)
}

async fn buried(stage: &Stage) -> i64 {
    let mut redis = stage.world.redis.client().await;
    redis::cmd("XLEN").arg("notification:deadletter").query_async(&mut redis).await.unwrap()
}

/// Runs `postbell publish` to its end: exit code, standard output, standard error.
async fn published(arguments: &[&str], env: &Env) -> (i32, String, String) {
    let mut postbell = Postbell::start(&[&["publish"], arguments].concat(), env);
    let code = postbell.exit_status(SOON).await.code().unwrap();
    (code, postbell.stdout().join("\n"), postbell.stderr().join("\n"))
}

#[tokio::test]
async fn an_expired_event_fails_at_once_and_a_later_one_rings() {
    let stage = Stage::new().await;
    let _postbell = stage.run();
    let text = |text: &str| json!({ "text": text });
    let past = publish(&stage, "plain", text("past"), json!({"expires_at": "2020-02-02T10:00:00+08:00"})).await;
    let future = publish(&stage, "plain", text("future"), json!({"expires_at": "2999-01-01T00:00:00Z"})).await;
    let wrong = publish(&stage, "plain", text("wrong"), json!({"expires_at": "tomorrow"})).await;
    stage.settled().await;
    stage.assert_arrived_once(&[future], 0);

    assert_eq!(stage.column::<String>(past, "status").await, "failed");
    let error: String = stage.column(past, "last_error").await;
    assert!(error.starts_with("expired: it was to ring before 2020-02-02T02:00:00Z, and it is 20"), "{error}");
    assert_eq!(stage.column::<i32>(past, "retry_count").await, 0);
    let error: String = stage.column(wrong, "last_error").await;
    assert!(error.starts_with("options cannot be read: expires_at is a time with its offset such as"), "{error}");
    assert_eq!(buried(&stage).await, 2);
}

#[tokio::test]
async fn an_event_that_expires_between_two_retries_is_not_sent_again() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::Errcode { code: -1, msg: "busy".into() }).forever()]);
    let _postbell = Postbell::start(&["run"], &stage.env.clone().with("NOTIFICATION_RETRY_BACKOFF", "3s"));
    let soon = "insert into notification_events (event_type, payload, options)
        values ('plain', '{\"text\": \"soon\"}', jsonb_build_object('expires_at', now() + interval '2 seconds')) returning id";
    let id = stage.world.publish_sql(soon).await;
    stage.settled().await;
    let error: String = stage.column(id, "last_error").await;
    assert!(error.starts_with("expired: "), "{error}");
    assert_eq!(stage.robot.requests().len(), 1);
}

#[tokio::test]
async fn whom_the_options_name_is_mentioned_and_nobody_else() {
    let stage = Stage::new().await;
    let _postbell = stage.run();
    let payload = || json!({"text": "@13900139000 请看"});
    let named = json!({"at_mobiles": ["13800138000", "+1-1234567890"], "at_user_ids": ["user.1"]});
    let good = publish(&stage, "plain", payload(), named).await;
    let crowd: Vec<String> = (0..49).map(|n| format!("user{n}")).collect();
    let crowded = json!({"at_mobiles": ["13800138000", "13800138001"], "at_user_ids": crowd});
    let crowded = publish(&stage, "plain", payload(), crowded).await;
    let overseas = publish(&stage, "plain", payload(), json!({"at_mobiles": ["+11234567890"]})).await;
    stage.settled().await;
    stage.assert_arrived_once(&[good], 0);
    let at = &stage.robot.messages()[0].at;
    assert_eq!(at.at_mobiles, ["13800138000", "+1-1234567890"]);
    assert_eq!(at.at_user_ids, ["user.1"]);
    for (id, why) in [(crowded, "mentions 51 people"), (overseas, "overseas: +1-1234567890")] {
        let error: String = stage.column(id, "last_error").await;
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn a_card_arrives_with_its_button_and_without_it_where_the_link_is_unsafe() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::Errcode { code: 430101, msg: "unsafe link".into() }).containing("unsafe")]);
    let _postbell = stage.run();
    let url = "https://hire.example.com/r/1";
    let options = || json!({"at_mobiles": ["13800138000"]});
    let card = publish(&stage, "card", json!({"text": "card", "url": url}), options()).await;
    stage.has_status(card, "delivered").await;
    let plain = publish(&stage, "card", json!({"text": "unsafe", "url": url}), options()).await;
    stage.has_status(plain, "delivered").await;
    let long = publish(&stage, "card", json!({"text": "长".repeat(10_000), "url": url}), options()).await;
    stage.has_status(long, "delivered").await;

    let messages = stage.robot.messages();
    assert_eq!((messages[0].msgtype, messages[0].text.as_str()), ("actionCard", "**card**\n\n@13800138000"));
    assert_eq!((messages[0].links[0].title.as_str(), messages[0].links[0].url.as_str()), ("查看", url));
    assert_eq!((messages[1].msgtype, messages[1].text.as_str()), ("markdown", "**unsafe**\n\n@13800138000"));
    assert!(messages[1].links.is_empty());
    assert_eq!(messages[2].msgtype, "actionCard");
    assert!(messages[2].text.ends_with("…（内容过长，已截断）\n\n@13800138000"), "{}", messages[2].text);
}

#[tokio::test]
async fn publish_waits_for_the_outcome_and_ends_with_it() {
    let stage = Stage::new().await;
    let payload = r#"{"text": "waited for"}"#;
    // Nothing sends it yet.
    let (code, stdout, stderr) =
        published(&["plain", "--payload", payload, "--key", "k", "--wait=1"], &stage.env).await;
    assert_eq!(code, 75, "{stderr}");
    let id: Uuid = stdout.parse().unwrap();
    assert!(stderr.contains("still pending after 1 s (due)"), "{stderr}");

    let _postbell = stage.run();
    // The same key: the same event.
    let (code, stdout, stderr) = published(&["plain", "--payload", payload, "--key", "k", "--wait"], &stage.env).await;
    assert_eq!((code, stdout.as_str()), (0, id.to_string().as_str()), "{stderr}");
    assert!(stderr.contains("delivered to default"), "{stderr}");

    let (code, stdout, stderr) = published(&["no.such.template", "--wait=15"], &stage.env).await;
    assert_eq!(code, 1, "{stderr}");
    assert!(stdout.parse::<Uuid>().is_ok() && stderr.contains("failed: unknown template"), "{stderr}");

    let (code, _, stderr) = published(&["plain", "--at", "1h", "--wait=1"], &stage.env).await;
    assert_eq!(code, 75);
    assert!(stderr.contains("(scheduled)"), "{stderr}");

    let (code, _, stderr) = published(&["plain", "--wait=0"], &stage.env).await;
    assert_eq!(code, 64, "{stderr}");
}

#[tokio::test]
async fn publish_that_waits_for_a_cancelled_event_fails() {
    let stage = Stage::new().await;
    let arguments = ["publish", "plain", "--at", "1h", "--wait=15"];
    let mut postbell = Postbell::start(&arguments, &stage.env);
    let id = crate::harness::eventually(SOON, "the id", async || postbell.stdout().first().cloned()).await;
    let id: Uuid = id.parse().unwrap();
    stage.world.client().query_one("select notification_cancel($1)", &[&id]).await.unwrap();
    assert_eq!(postbell.exit_status(SOON).await.code(), Some(1));
    assert!(postbell.stderr().join("\n").contains("cancelled"));
}
