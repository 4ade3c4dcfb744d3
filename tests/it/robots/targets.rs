//! Robots that have names, and pools of them: rows that count at once, files that are read again, and who is sent what.

use std::path::PathBuf;
use std::time::Duration;

use postbell::sandbox::{Do, Message, Request, Rule, Sandbox, Settings, Verdict};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::rest::robot;
use super::{pause, resume};
use crate::harness::process::{Env, Postbell};
use crate::harness::stage::Stage;
use crate::harness::{SOON, eventually};

/// A folder for files of a test's own, removed with this value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let folder = std::env::temp_dir().join(format!("postbell-test-targets-{:016x}", fastrand::u64(..)));
        std::fs::create_dir(&folder).unwrap();
        Folder(folder)
    }

    /// What a row says to refer to this file, which need not be there.
    fn reference(&self, file: &str) -> String {
        format!("file:{}", self.0.join(file).display())
    }

    /// Writes a file, and returns the reference to it.
    fn write(&self, file: &str, content: &str) -> String {
        std::fs::write(self.0.join(file), format!("{content}\n")).unwrap();
        self.reference(file)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A group whose robots take only what is signed with this secret, and the environment in which it may be sent to.
async fn signing(stage: &Stage, secret: &str) -> (Sandbox, Env) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = Settings { rate: None, secret: Some(secret.to_owned()), ..Settings::default() };
    let group = Sandbox::start(listener, settings).unwrap();
    let env = stage.env.clone().with("NOTIFICATION_ALLOWED_HOSTS", format!("{},{}", stage.robot.addr(), group.addr()));
    (group, env)
}

/// Rows for robots of the stage's group, each with its name as its token, and the environment that they refer to.
async fn named(stage: &Stage, robots: &[(&str, Option<&str>)]) -> Env {
    let mut env = stage.env.clone().with("NOTIFICATION_ROBOT_URGENT_RESERVE", "0");
    let insert = "insert into notification_channels (name, webhook, rate) values ($1, $2, $3)";
    for (name, rate) in robots {
        env = env.with(&format!("WEBHOOK_{name}"), stage.robot.webhook(name));
        stage.world.client().execute(insert, &[name, &format!("env:WEBHOOK_{name}"), rate]).await.unwrap();
    }
    env
}

/// A pool of robots that have rows.
async fn pool(stage: &Stage, name: &str, robots: &[&str]) {
    let insert = "insert into notification_channels (name, robots) values ($1, $2)";
    stage.world.client().execute(insert, &[&name, &robots]).await.unwrap();
}

async fn enable(stage: &Stage, robot: &str, enabled: bool) {
    let update = "update notification_channels set enabled = $2 where name = $1";
    stage.world.client().execute(update, &[&robot, &enabled]).await.unwrap();
}

async fn publish(stage: &Stage, target: &str) -> Uuid {
    stage.publish_to(target, "plain", json!({"text": "a message"})).await
}

/// So many events in one transaction.
async fn publish_many(stage: &Stage, target: &str, count: i32) -> Vec<Uuid> {
    let insert = "insert into notification_events (event_type, payload, target)
        select 'plain', jsonb_build_object('text', 'number ' || n), $2 from generate_series(1, $1) n returning id";
    stage.world.client().query(insert, &[&count, &target]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn is_waiting(stage: &Stage, id: Uuid) -> bool {
    stage.column(id, "status = 'pending' and waiting_since is not null and hinted_until = 'infinity'").await
}

async fn waits(stage: &Stage, id: Uuid) {
    eventually(SOON, "the event to wait", async || is_waiting(stage, id).await.then_some(())).await;
}

/// Publishes one after the other until one does not go out; the others are delivered.
async fn first_that_waits(stage: &Stage, target: &str) -> Uuid {
    eventually(SOON, "an event to wait", async || {
        let id = publish(stage, target).await;
        let waits = eventually(SOON, "the event to be delivered or to wait", async || {
            let is_delivered: bool = stage.column(id, "status = 'delivered'").await;
            (is_delivered || is_waiting(stage, id).await).then_some(!is_delivered)
        });
        waits.await.then_some(id)
    })
    .await
}

/// Publishes one after the other until one is delivered by this robot.
async fn first_that_goes_by(stage: &Stage, target: &str, robot: &str) {
    eventually(SOON, "an event to go by another robot", async || {
        let id = publish(stage, target).await;
        stage.has_status(id, "delivered").await;
        (stage.column::<String>(id, "robot").await == robot).then_some(())
    })
    .await;
}

async fn retries(stage: &Stage) -> i64 {
    let retries = "select sum(retry_count) from notification_events";
    stage.world.client().query_one(retries, &[]).await.unwrap().get(0)
}

/// The requests that named this event.
fn requests_for(stage: &Stage, id: Uuid) -> Vec<Request> {
    let names = |request: &Request| String::from_utf8_lossy(&request.body).contains(&id.to_string());
    stage.robot.requests().into_iter().filter(names).collect()
}

/// Whom a request asks to mention.
fn at(mobiles: &[&str], user_ids: &[&str], all: bool) -> Value {
    json!({"atMobiles": mobiles, "atUserIds": user_ids, "isAtAll": all})
}

fn sent_by<'a>(messages: &'a [Message], token: &str) -> Vec<&'a Message> {
    messages.iter().filter(|message| message.token == token).collect()
}

#[tokio::test]
async fn a_robot_that_is_committed_together_with_its_event_delivers_it_signed_and_without_a_restart() {
    let (stage, folder) = (Stage::new().await, Folder::new());
    let (group, env) = signing(&stage, "SECnamed").await;
    let _postbell = Postbell::start(&["run"], &env.with("HR_WEBHOOK", group.webhook("hr")));
    let before = stage.publish_one("before").await;
    stage.has_status(before, "delivered").await;

    let secret = folder.write("secret", "SECnamed");
    let mut client = stage.world.database.client().await;
    let by_file = folder.write("ops", &group.webhook("ops"));
    for (name, webhook) in [("hr", "env:HR_WEBHOOK"), ("ops", &by_file)] {
        let transaction = client.transaction().await.unwrap();
        let add = "insert into notification_channels (name, webhook, secret) values ($1, $2, $3)";
        transaction.execute(add, &[&name, &webhook, &secret]).await.unwrap();
        let publish = "insert into notification_events (event_type, payload, target)
            values ('plain', '{\"text\": \"first\"}', $1) returning id";
        let id: Uuid = transaction.query_one(publish, &[&name]).await.unwrap().get(0);
        transaction.commit().await.unwrap();
        stage.has_status(id, "delivered").await;
        assert_eq!(stage.column::<String>(id, "robot").await, name);
        assert_eq!(stage.column::<i32>(id, "attempt").await, 1);
    }
    let tokens: Vec<String> = group.messages().into_iter().map(|message| message.token).collect();
    assert_eq!(tokens, ["hr", "ops"]);
    assert_eq!(group.requests().len(), 2);
}

#[tokio::test]
async fn an_unknown_target_fails_with_the_names_that_are_known() {
    let stage = Stage::new().await;
    let env = named(&stage, &[("hr", None), ("ops", None)]).await;
    pool(&stage, "both", &["hr", "ops"]).await;
    let _postbell = Postbell::start(&["run"], &env);
    let id = publish(&stage, "sales").await;
    stage.has_status(id, "failed").await;
    let error: String = stage.column(id, "last_error").await;
    assert_eq!(error, "message: unknown target \"sales\" (known: both, default, hr, ops, or a webhook URL)");
    assert!(stage.robot.requests().is_empty());
}

#[tokio::test]
async fn where_it_may_wait_an_event_for_an_unknown_target_goes_out_when_there_is_one_and_uses_no_retry() {
    let stage = Stage::new().await;
    let env = named(&stage, &[]).await.with("WEBHOOK_sales", stage.robot.webhook("sales"));
    let _postbell = Postbell::start(&["run"], &env.with("NOTIFICATION_UNKNOWN_TARGET", "wait"));
    let ids = publish_many(&stage, "sales", 3).await;
    let never = publish(&stage, "never").await;
    for id in ids.iter().chain([&never]) {
        waits(&stage, *id).await;
    }
    let status = "select detail, last_error from notification_status where id = $1";
    let row = stage.world.client().query_one(status, &[&ids[0]]).await.unwrap();
    let status: (&str, &str) = (row.get(0), row.get(1));
    assert_eq!(
        status,
        ("waiting for its robot", "message: unknown target \"sales\" (known: default, or a webhook URL)")
    );

    named(&stage, &[("sales", None)]).await;
    for id in &ids {
        stage.has_status(*id, "delivered").await;
        assert_eq!(stage.column::<i32>(*id, "attempt").await, 2);
    }
    // And when it is gone again, they wait again.
    stage.world.client().batch_execute("delete from notification_channels").await.unwrap();
    let gone = first_that_waits(&stage, "sales").await;
    let after = publish(&stage, "default").await;
    stage.has_status(after, "delivered").await;
    for id in [gone, never] {
        assert!(is_waiting(&stage, id).await);
        assert_eq!(stage.column::<i32>(id, "attempt").await, 1, "it is tried again and again");
    }
    assert_eq!(retries(&stage).await, 0);
}

#[tokio::test]
async fn events_of_a_disabled_robot_wait_and_go_out_when_it_is_enabled_again() {
    let stage = Stage::new().await;
    let _postbell = Postbell::start(&["run"], &named(&stage, &[("hr", None)]).await);
    let before = publish(&stage, "hr").await;
    stage.has_status(before, "delivered").await;
    enable(&stage, "hr", false).await;
    let mut waiting = vec![first_that_waits(&stage, "hr").await];
    waiting.extend(publish_many(&stage, "hr", 4).await);
    for id in &waiting {
        waits(&stage, *id).await;
        let error: String = stage.column(*id, "last_error").await;
        assert!(error.starts_with("the target hr is disabled"), "{error}");
    }
    let other = publish(&stage, "default").await;
    stage.has_status(other, "delivered").await;
    let state = "select state, waiting from notification_robot_status where name = 'hr'";
    let row = stage.world.client().query_one(state, &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i64>(1)), ("disabled", 5));

    enable(&stage, "hr", true).await;
    stage.settled().await;
    for id in &waiting {
        assert_eq!(stage.column::<String>(*id, "status").await, "delivered");
        assert_eq!(stage.column::<i32>(*id, "attempt").await, 2);
    }
    assert_eq!(retries(&stage).await, 0);
}

#[tokio::test]
async fn a_disabled_robot_of_a_pool_leaves_the_others_in_use() {
    let stage = Stage::new().await;
    // Without budgets the first by name is used, whenever it can be.
    let env = named(&stage, &[("a", None), ("b", None)]).await;
    enable(&stage, "a", false).await;
    pool(&stage, "both", &["a", "b"]).await;
    let _postbell = Postbell::start(&["run"], &env);
    first_that_goes_by(&stage, "both", "b").await;
    enable(&stage, "a", true).await;
    first_that_goes_by(&stage, "both", "a").await;
    enable(&stage, "a", false).await;
    first_that_goes_by(&stage, "both", "b").await;
    enable(&stage, "b", false).await;
    let waiting = first_that_waits(&stage, "both").await;
    enable(&stage, "b", true).await;
    stage.has_status(waiting, "delivered").await;
    assert_eq!(stage.world.status_counts().await.len(), 1, "all are delivered");
    assert_eq!(retries(&stage).await, 0);
}

#[tokio::test]
async fn a_pool_spreads_events_over_its_robots_by_their_free_places_and_has_as_many_as_all_of_them() {
    let stage = Stage::new().await;
    let env = named(&stage, &[("a", Some("6/60s")), ("b", Some("3/60s")), ("c", Some("12/60s"))]).await;
    pool(&stage, "all", &["a", "b", "c"]).await;
    let _postbell = Postbell::start(&["run"], &env);
    let spread = || ["a", "b", "c"].map(|token| sent_by(&stage.robot.messages(), token).len());
    publish_many(&stage, "all", 12).await;
    stage.settled().await;
    assert_eq!(spread(), [3, 0, 9]);
    publish_many(&stage, "all", 9).await;
    stage.settled().await;
    assert_eq!(spread(), [6, 3, 12]);
    let one_too_many = publish(&stage, "all").await;
    waits(&stage, one_too_many).await;
    assert_eq!(stage.column::<String>(one_too_many, "robot").await, "all");
}

#[tokio::test]
async fn where_robots_of_a_pool_are_paused_or_rest_another_takes_over_and_no_retry_is_used() {
    let stage = Stage::new().await;
    let env = named(&stage, &[("a", Some("40/60s")), ("b", Some("40/60s")), ("c", Some("40/60s"))]).await;
    pool(&stage, "all", &["a", "b", "c"]).await;
    stage.robot.script([
        Rule::new(Do::Errcode { code: 400102, msg: "robot disabled".into() }).robot("a").forever(),
        Rule::new(Do::Errcode { code: 410100, msg: "send too fast".into() }).robot("b").forever(),
    ]);
    let _postbell = Postbell::start(&["run"], &env);
    let mut ids = publish_many(&stage, "all", 30).await;
    stage.settled().await;
    assert_eq!(robot(&stage, "a", "paused_by").await.as_deref(), Some("postbell"));
    assert_eq!(robot(&stage, "b", "cool_until > now()").await.as_deref(), Some("true"));
    let refused = stage.robot.requests().len() - 30;
    ids.extend(publish_many(&stage, "all", 5).await);
    stage.settled().await;
    stage.assert_arrived_once(&ids, 0);
    assert_eq!(sent_by(&stage.robot.messages(), "c").len(), 35);
    assert_eq!(stage.robot.requests().len() - 35, refused, "robots that take nothing were sent something");
    assert_eq!(stage.world.status_counts().await, [("delivered".to_owned(), 35)].into());
    assert_eq!(retries(&stage).await, 0);
}

#[tokio::test]
async fn after_an_unknown_outcome_an_event_stays_with_its_robot_even_if_others_of_the_pool_are_free() {
    let stage = Stage::new().await;
    let env = named(&stage, &[("a", Some("9/60s")), ("b", Some("9/60s"))]).await;
    pool(&stage, "both", &["a", "b"]).await;
    stage.robot.script([Rule::new(Do::DropAfterReading).accepted()]);
    let _postbell = Postbell::start(&["run"], &env.with("NOTIFICATION_RETRY_BACKOFF", "1h"));
    let id = publish(&stage, "both").await;
    eventually(SOON, "its retry to be scheduled", async || {
        (stage.column::<i32>(id, "retry_count").await == 1).then_some(())
    })
    .await;
    let its_own: String = stage.column(id, "robot").await;
    pause(&stage, &its_own).await;
    let reschedule = "select notification_reschedule($1, now())";
    stage.world.client().query_one(reschedule, &[&id]).await.unwrap();
    waits(&stage, id).await;
    let by_the_other = publish(&stage, "both").await;
    stage.has_status(by_the_other, "delivered").await;
    assert!(is_waiting(&stage, id).await);

    resume(&stage, &its_own).await;
    stage.has_status(id, "delivered").await;
    let requests = requests_for(&stage, id);
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.token.as_deref() == Some(&its_own)), "{requests:#?}");
    assert_eq!(requests[0].msg_uuid, requests[1].msg_uuid);
    stage.assert_arrived_once(&[id, by_the_other], 1);
}

#[tokio::test]
async fn an_event_whose_consumer_died_stays_with_its_robot_even_if_that_was_the_only_one_of_the_pool_then() {
    let stage = Stage::new().await;
    let env = named(&stage, &[("a", None), ("b", None)]).await;
    enable(&stage, "a", false).await;
    pool(&stage, "both", &["a", "b"]).await;
    stage.robot.script([Rule::new(Do::Hang).accepted()]);
    let mut postbell = Postbell::start(&["run"], &env);
    let id = publish(&stage, "both").await;
    stage.robot.wait_for_requests(1, SOON).await.unwrap();
    postbell.sigkill().await;
    enable(&stage, "a", true).await;
    let _another = Postbell::start(&["run"], &env);
    stage.has_status(id, "delivered").await;
    let tokens: Vec<_> = stage.robot.requests().into_iter().map(|request| request.token.unwrap()).collect();
    assert_eq!(tokens, ["b", "b"]);
    stage.assert_arrived_once(&[id], 1);
}

#[tokio::test]
async fn an_event_that_was_refused_for_a_while_may_go_by_another_robot_of_the_pool() {
    let stage = Stage::new().await;
    let env = named(&stage, &[("a", None), ("b", None)]).await;
    enable(&stage, "a", false).await;
    pool(&stage, "both", &["a", "b"]).await;
    stage.robot.script([Rule::new(Do::Errcode { code: -1, msg: "busy".into() })]);
    let _postbell = Postbell::start(&["run"], &env.with("NOTIFICATION_RETRY_BACKOFF", "1h"));
    let id = publish(&stage, "both").await;
    eventually(SOON, "its retry to be scheduled", async || {
        (stage.column::<i32>(id, "retry_count").await == 1).then_some(())
    })
    .await;
    enable(&stage, "a", true).await;
    enable(&stage, "b", false).await;
    first_that_goes_by(&stage, "both", "a").await;
    stage.world.client().query_one("select notification_reschedule($1, now())", &[&id]).await.unwrap();
    stage.has_status(id, "delivered").await;
    assert_eq!(stage.column::<String>(id, "robot").await, "a");
}

#[tokio::test]
async fn a_robot_that_has_a_name_is_the_same_when_it_is_named_by_its_url() {
    let (stage, folder) = (Stage::new().await, Folder::new());
    let (group, env) = signing(&stage, "SECnamed").await;
    let insert = "insert into notification_channels (name, webhook, secret, rate) values ('hr', $1, $2, '3/60s')";
    let references = [folder.write("webhook", &group.webhook("hr")), folder.write("secret", "SECnamed")];
    stage.world.client().execute(insert, &[&references[0], &references[1]]).await.unwrap();
    let _postbell = Postbell::start(&["run"], &env.with("NOTIFICATION_ROBOT_URGENT_RESERVE", "0"));
    let mut ids = Vec::new();
    for target in ["hr", &group.webhook("hr"), "hr", &group.webhook("hr")] {
        let id = publish(&stage, target).await;
        eventually(SOON, "the event to be delivered or to wait", async || {
            let status: String = stage.column(id, "status").await;
            (status == "delivered" || is_waiting(&stage, id).await).then_some(())
        })
        .await;
        ids.push(id);
    }
    for id in &ids {
        assert_eq!(stage.column::<String>(*id, "robot").await, "hr");
    }
    assert!(is_waiting(&stage, ids[3]).await, "there are three places, and no more");
    let requests = group.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| request.verdict == Verdict::Accepted), "{requests:#?}");
    let robots = "select string_agg(name, ' ' order by name) from notification_robots";
    assert_eq!(stage.world.client().query_one(robots, &[]).await.unwrap().get::<_, &str>(0), "default hr");
}

#[tokio::test]
async fn a_row_has_a_rate_of_its_own_or_none() {
    let stage = Stage::new().await;
    let env = named(&stage, &[("slow", Some("2/3s")), ("free", Some("off")), ("usual", None)]).await;
    let _postbell = Postbell::start(&["run"], &env.with("NOTIFICATION_ROBOT_RATE", "5/1h"));
    let slow = publish_many(&stage, "slow", 6).await;
    let free = publish_many(&stage, "free", 40).await;
    publish_many(&stage, "usual", 6).await;
    stage.settled_but(1).await;
    let messages = stage.robot.messages();
    let arrived = ["slow", "free", "usual"].map(|token| sent_by(&messages, token).len());
    assert_eq!(arrived, [6, 40, 5]);
    let mut at_slow: Vec<_> = slow.iter().map(|id| requests_for(&stage, *id)[0].at).collect();
    at_slow.sort();
    let windows: Vec<Duration> = at_slow.windows(3).map(|three| three[2] - three[0]).collect();
    assert!(windows.iter().all(|window| *window >= Duration::from_secs(3)), "{windows:?}");
    let last_of_free = free.iter().map(|id| requests_for(&stage, *id)[0].at).max();
    assert!(last_of_free < at_slow.last().copied(), "the free ones waited for the slow ones");
}

#[tokio::test]
async fn the_mentions_of_a_row_are_for_messages_that_mention_nobody() {
    let stage = Stage::new().await;
    let env = named(&stage, &[("people", None), ("everybody", None)]).await;
    let mention =
        "update notification_channels set at_mobiles = '{13800138000}', at_user_ids = '{user.1}' where name = 'people';
        update notification_channels set at_all = true where name = 'everybody'";
    stage.world.client().batch_execute(mention).await.unwrap();
    let of_pool =
        "insert into notification_channels (name, robots, at_mobiles) values ('pool', '{everybody}', '{13700137000}')";
    stage.world.client().batch_execute(of_pool).await.unwrap();
    stage.robot.script([Rule::new(Do::DropAfterReading).containing("lost")]);
    let templates = Folder::new();
    templates.write("plain.txt", "${text}");
    templates.write("called.md", "---\nat_mobiles: [\"13900139000\"]\n---\n${text}");
    let _postbell = Postbell::start(&["run"], &env.with("NOTIFICATION_TEMPLATES_DIR", templates.0.display()));
    let insert =
        "insert into notification_events (event_type, target, options, payload) values ($1, $2, $3, $4) returning id";
    let (nobody, somebody) = (json!({}), json!({"at_user_ids": ["user.2"]}));
    let cases = [
        ("plain", "people", &nobody, "text", at(&["13800138000"], &["user.1"], false)),
        ("plain", "people", &somebody, "text", at(&[], &["user.2"], false)),
        ("called", "people", &nobody, "text", at(&["13900139000"], &[], false)),
        ("plain", "everybody", &nobody, "text", at(&[], &[], true)),
        ("plain", "everybody", &somebody, "text", at(&[], &["user.2"], false)),
        ("plain", "pool", &nobody, "text", at(&["13700137000"], &[], false)),
        // Sent again by one robot of the pool, it is the same message.
        ("plain", "pool", &nobody, "lost", at(&["13700137000"], &[], false)),
    ];
    for (event_type, target, options, text, expected) in &cases {
        let payload = json!({ "text": text });
        let values: &[&(dyn ToSql + Sync)] = &[event_type, target, options, &payload];
        let id: Uuid = stage.world.client().query_one(insert, values).await.unwrap().get(0);
        stage.has_status(id, "delivered").await;
        let message = stage.robot.messages().pop().unwrap();
        let body: Value = serde_json::from_slice(&message.body).unwrap();
        assert_eq!(body["at"], *expected, "{event_type} {target} {options} {text}");
    }
    let bodies: Vec<_> = stage.robot.requests().into_iter().skip(6).map(|request| request.body).collect();
    assert_eq!((bodies.len(), &bodies[0]), (2, &bodies[1]));
}

#[tokio::test]
async fn a_robot_whose_files_are_wrong_is_paused_with_the_reason_and_works_once_they_are_right() {
    let (stage, folder) = (Stage::new().await, Folder::new());
    let _postbell = stage.run();
    // What the file says at first, if there is one, and what the reason names.
    let cases: [(&str, Option<String>, &str); 6] = [
        ("missing", None, "No such file"),
        ("empty", Some(String::new()), "it is empty"),
        (
            "foreign",
            Some("https://robots.example/robot/send?access_token=t0psecret".into()),
            "robots.example is not allowed",
        ),
        ("insecure", Some("http://oapi.dingtalk.com/robot/send?access_token=t0psecret".into()), "by https"),
        ("garbled", Some("access_token=t0psecret".into()), "not a URL"),
        ("signed", Some(format!("{}&sign=t0psecret", stage.robot.webhook("t0psecret"))), "carries a signature"),
    ];
    let insert = "insert into notification_channels (name, webhook, secret) values ($1, $2, $3)";
    let mut ids = Vec::new();
    for (name, content, _) in &cases {
        let webhook = folder.reference(name);
        if let Some(content) = content {
            folder.write(name, content);
        }
        stage.world.client().execute(insert, &[name, &webhook, &None::<String>]).await.unwrap();
        ids.extend([publish(&stage, name).await, publish(&stage, name).await]);
    }
    let (webhook, secret) = (folder.write("unsigned", &stage.robot.webhook("unsigned")), folder.reference("no-secret"));
    stage.world.client().execute(insert, &[&"unsigned", &webhook, &Some(secret)]).await.unwrap();
    ids.push(publish(&stage, "unsigned").await);
    for id in &ids {
        waits(&stage, *id).await;
        let error: Option<String> = stage.column(*id, "last_error").await;
        assert!(!error.unwrap_or_default().contains("t0psecret"));
    }
    let reasons = cases.iter().map(|(name, _, reason)| (*name, *reason)).chain([("unsigned", "no-secret")]);
    for (name, expected) in reasons.clone() {
        assert_eq!(robot(&stage, name, "paused_by").await.as_deref(), Some("postbell"), "{name}");
        let reason = robot(&stage, name, "pause_reason").await.unwrap();
        assert!(reason.starts_with("robot's settings: its ") && reason.contains(expected), "{reason}");
        assert!(!reason.contains("t0psecret"), "{reason}");
    }
    assert!(stage.robot.requests().is_empty());

    for (name, ..) in &cases {
        folder.write(name, &stage.robot.webhook(name));
    }
    folder.write("no-secret", "SECfound");
    stage.settled().await;
    stage.assert_arrived_once(&ids, 0);
    for (name, _) in reasons {
        assert_eq!(robot(&stage, name, "paused_by").await, None, "{name}");
    }
    assert_eq!(retries(&stage).await, 0);
}

#[tokio::test]
async fn no_token_and_no_secret_of_a_named_robot_is_seen_anywhere() {
    const HIDDEN: [&str; 6] =
        ["t0kenOfDefault", "t0kenOfHr", "t0kenOfOps", "t0kenOfUrl", "SEChr-secret", "t0kenOfForeign"];
    let (stage, folder) = (Stage::new().await, Folder::new());
    let [default, hr, ops, url] =
        ["t0kenOfDefault", "t0kenOfHr", "t0kenOfOps", "t0kenOfUrl"].map(|it| stage.robot.webhook(it));
    let env = stage
        .env
        .clone()
        .with("DINGTALK_NOTIFICATION_WEBHOOK", &default)
        .with("OPS_WEBHOOK", &ops)
        .with("NOTIFICATION_ROBOT_RATE", "18/60s")
        .with("NOTIFICATION_LOG", "trace");
    let insert = "insert into notification_channels (name, webhook, secret) values ($1, $2, $3)";
    let none = None::<String>;
    let secret = Some(folder.write("secret", "SEChr-secret"));
    stage.world.client().execute(insert, &[&"hr", &folder.write("hr", &hr), &secret]).await.unwrap();
    stage.world.client().execute(insert, &[&"ops", &"env:OPS_WEBHOOK", &none]).await.unwrap();
    let foreign = folder.write("foreign", "https://robots.example/robot/send?access_token=t0kenOfForeign");
    stage.world.client().execute(insert, &[&"foreign", &foreign, &none]).await.unwrap();
    pool(&stage, "both", &["hr", "ops"]).await;
    let postbell = Postbell::start(&["run"], &env);

    // One is delivered by each; then each answers with its own token and secret.
    let targets = ["default", "hr", "ops", "both", &url, &hr];
    for target in targets {
        let id = publish(&stage, target).await;
        stage.has_status(id, "delivered").await;
    }
    let errcode = |code, url: &str, token: &str| {
        let secret = if token == "t0kenOfHr" { "SEChr-secret" } else { "none" };
        Rule::new(Do::Errcode { code, msg: format!("{token} {url} {secret}") }).robot(token)
    };
    stage.robot.script([
        errcode(400402, &hr, "t0kenOfHr"),
        errcode(400402, &url, "t0kenOfUrl"),
        errcode(-1, &ops, "t0kenOfOps"),
        errcode(310000, &hr, "t0kenOfHr"),
        errcode(410100, &url, "t0kenOfUrl"),
    ]);
    for target in ["hr", &url] {
        let id = publish(&stage, target).await;
        stage.has_status(id, "failed").await;
    }
    let retried = publish(&stage, "ops").await;
    stage.has_status(retried, "delivered").await;
    for target in ["hr", &url, "foreign"] {
        let id = publish(&stage, target).await;
        waits(&stage, id).await;
    }
    let stranger = publish(&stage, "https://robots.example/robot/send?access_token=t0kenOfForeign").await;
    stage.has_status(stranger, "failed").await;
    stage.settled_but(3).await;

    let mut seen = postbell.stderr();
    for query in [
        "select r::text from notification_robot_status r",
        "select r::text from notification_robots r",
        "select r::text from notification_channels r",
        "select r::text from notification_status r",
        "select concat(last_error, response, robot) from notification_events",
    ] {
        let rows = stage.world.client().query(query, &[]).await.unwrap();
        assert!(!rows.is_empty(), "{query}");
        seen.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    let mut redis = stage.world.redis.client().await;
    let letters: Vec<(String, Vec<String>)> =
        redis::cmd("XRANGE").arg("notification:deadletter").arg("-").arg("+").query_async(&mut redis).await.unwrap();
    assert_eq!(letters.len(), 3);
    seen.extend(letters.into_iter().flat_map(|(_, fields)| fields));
    assert!(seen.iter().any(|line| line.contains("***")), "the robots repeated what is hidden");
    for line in seen {
        let shown: Vec<&str> = HIDDEN.into_iter().filter(|hidden| line.contains(hidden)).collect();
        assert!(shown.is_empty(), "{shown:?} in: {line}");
    }
}
