//! `postbell robots`, as an operator meets it.

use postbell::sandbox::Settings;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cli::ended;
use crate::harness::process::{Env, Postbell};
use crate::harness::stage::Stage;
use crate::harness::{SOON, World, eventually, get};

/// Runs `postbell robots` with these words to its end: exit code, standard output, standard error.
async fn robots(words: &str, env: &Env) -> (i32, String, String) {
    ended(&["robots"].into_iter().chain(words.split_whitespace()).collect::<Vec<_>>(), env).await
}

/// The same, where it must succeed: its standard output.
async fn done(words: &str, env: &Env) -> String {
    let (code, stdout, stderr) = robots(words, env).await;
    assert_eq!(code, 0, "robots {words}: {stderr}");
    stdout
}

/// The same, where it must fail: its standard error.
async fn failed(words: &str, code: i32, env: &Env) -> String {
    let (ended, stdout, stderr) = robots(words, env).await;
    assert_eq!(ended, code, "robots {words}: {stdout} {stderr}");
    stderr
}

/// What `robots list` says of one robot.
async fn listed(name: &str, env: &Env) -> Option<Value> {
    let all: Value = serde_json::from_str(&done("--json", env).await).unwrap();
    all["robots"].as_array().unwrap().iter().find(|robot| robot["name"] == name).cloned()
}

#[tokio::test]
async fn a_robot_that_is_added_gets_its_events_without_a_restart() {
    let stage = Stage::new().await;
    let file = std::env::temp_dir().join(format!("postbell-webhook-{:016x}", fastrand::u64(..)));
    std::fs::write(&file, stage.robot.webhook("other")).unwrap();
    let _postbell = Postbell::start(&["run"], &stage.env.clone().with("HR_WEBHOOK", stage.robot.webhook("hr")));
    stage.settled().await;

    let said = done("add hr --webhook env:HR_WEBHOOK --at-mobile 13800138000 --at-user-id user.1", &stage.env).await;
    for part in
        ["added hr;", "without a restart", "HR_WEBHOOK: to be set where consumers run", "postbell robots test hr"]
    {
        assert!(said.contains(part), "{said}");
    }
    let id = stage.publish_to("hr", "plain", json!({"text": "to hr"})).await;
    stage.has_status(id, "delivered").await;
    let message = stage.robot.messages().remove(0);
    assert_eq!(message.token, "hr");
    assert_eq!(
        (&message.at.at_mobiles[..], &message.at.at_user_ids[..]),
        (&["13800138000".into()][..], &["user.1".into()][..])
    );

    let add = format!("add hr --webhook file:{}", file.display());
    let again = failed(&add, 1, &stage.env).await;
    assert!(again.contains("hr is there already; --replace"), "{again}");
    let said = done(&format!("{add} --replace"), &stage.env).await;
    assert!(said.contains("replaced hr;") && said.contains(&format!("{}: to be readable", file.display())), "{said}");
    eventually(SOON, "events to go to the other webhook, and to mention nobody", async || {
        let id = stage.publish_to("hr", "plain", json!({"text": "to the other"})).await;
        stage.has_status(id, "delivered").await;
        let last = stage.robot.messages().pop().unwrap();
        (last.token == "other" && last.at.at_mobiles.is_empty()).then_some(())
    })
    .await;
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test]
async fn a_webhook_or_a_secret_in_the_place_of_a_reference_is_refused_and_not_shown() {
    let world = World::new().await;
    let url = "https://oapi.dingtalk.com/robot/send?access_token=hunter2";
    for words in [
        format!("add hr --webhook {url}"),
        format!("add hr --webhook={url}"),
        "add hr --webhook hunter2".to_owned(),
        "add hr --webhook env:HR --secret SEChunter2".to_owned(),
        format!("add hr --webhook env:HR --secret env:{url}"),
        format!("add hiring --pool {url}"),
        format!("add {url} --webhook env:HR"),
    ] {
        let refused = failed(&words, 64, &world.env()).await;
        assert!(!refused.contains("hunter2"), "{refused}");
        let allowed = if words.starts_with("add hr") {
            "given a value that is not shown here; allowed: where it is, and not itself: env:VARIABLE or file:/absolute/path"
        } else if words.contains("--pool") {
            "allowed: names of robots, comma-separated"
        } else {
            "name must be 1 to 40 letters digits dots dashes or underscores"
        };
        assert!(refused.contains(allowed), "{refused}");
    }
    let rows = "select count(*) from notification_channels";
    assert_eq!(world.client().query_one(rows, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn what_could_never_be_a_robot_is_refused_with_the_rule() {
    let world = World::new().await;
    for (words, rule) in [
        ("add hr", "--webhook"),
        ("add hr --webhook env:HR --pool a,b", "cannot be used"),
        ("add hr --webhook env:HR --rate 18", "--rate: given \"18\"; allowed: a count"),
        ("add hr --webhook env:HR --rate 18/1d", "such as 18/60s, or off"),
        ("add hr --pool default --secret env:HR", "cannot be used"),
        ("add hr!  --webhook env:HR", "the robot was refused: name must be 1 to 40 letters"),
        ("add all --pool default,nobody,none", "--pool: no such robot: nobody, none; add it first"),
        ("add default --pool default", "the robot was refused: a pool names 1 to 20 robots and not itself"),
    ] {
        let refused = failed(words, 64, &world.env()).await;
        assert!(refused.contains(rule), "{words}: {refused}");
    }
}

#[tokio::test]
async fn a_pool_is_a_target_and_its_robots_are_robots_that_are_there() {
    let stage = Stage::new().await;
    let _postbell = Postbell::start(&["run"], &stage.env.clone().with("HR_WEBHOOK", stage.robot.webhook("hr")));
    done("add hr --webhook env:HR_WEBHOOK", &stage.env).await;
    let said = done("add hiring --pool default,hr", &stage.env).await;
    assert!(said.starts_with("added hiring, a pool of default, hr;"), "{said}");
    let refused = failed("add all --pool hiring,hr", 64, &stage.env).await;
    assert!(refused.contains("a pool itself is: hiring"), "{refused}");
    let id = stage.publish_to("hiring", "plain", json!({"text": "to the pool"})).await;
    stage.has_status(id, "delivered").await;
    let (code, _, stderr) = robots("test hiring", &stage.env).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(listed("hiring", &stage.env).await.unwrap()["state"], "pool of default, hr");
    let unchanged = failed("pause hiring", 1, &stage.env).await;
    assert!(unchanged.contains("unchanged: hiring is a pool; pause its robots: default, hr"), "{unchanged}");
}

#[tokio::test]
async fn the_list_says_how_robots_are_and_pause_and_resume_what_they_did() {
    let stage = Stage::new().await;
    let none = done("", &stage.env).await;
    assert!(none.contains("no robots yet") && none.contains("postbell robots add"), "{none}");
    assert_eq!(done("list --json", &stage.env).await.split_whitespace().collect::<String>(), "{\"robots\":[]}");
    done("add hr --webhook env:HR_WEBHOOK --rate 18/60s", &stage.env).await;
    let said = done("add later --webhook env:LATER --disabled", &stage.env).await;
    assert!(said.contains("it is disabled: its events wait") && !said.contains("try it"), "{said}");
    let table = done("list", &stage.env).await;
    assert!(table.contains("not used yet") && table.contains("disabled"), "{table}");

    let _postbell = Postbell::start(&["run"], &stage.env.clone().with("HR_WEBHOOK", stage.robot.webhook("hr")));
    eventually(SOON, "the consumer to know the robot", async || {
        (listed("hr", &stage.env).await?["rate"] == "18 in 60 s").then_some(())
    })
    .await;
    let pause = ["robots", "pause", "hr", "--reason", "moving house", "--by", "alice"];
    let (code, said, stderr) = ended(&pause, &stage.env).await;
    assert_eq!((code, said.as_str()), (0, "paused: its events wait until it is resumed"), "{stderr}");
    let id = stage.publish_to("hr", "plain", json!({"text": "waited"})).await;
    let robot = eventually(SOON, "the event to wait", async || {
        listed("hr", &stage.env).await.filter(|robot| robot["waiting"] == 1)
    })
    .await;
    assert_eq!(robot["state"], "paused by alice");
    assert_eq!((&robot["budget_left"], &robot["urgent_budget_left"]), (&json!(14), &json!(18)));
    let table = done("", &stage.env).await;
    let line = table.lines().find(|line| line.trim_start().starts_with("hr ")).unwrap();
    for part in ["paused by alice", "14 of 18 in 60 s", "since 20", " UTC: moving house"] {
        assert!(line.contains(part), "{table}");
    }

    let waiting = failed("test hr --wait=3", 75, &stage.env).await;
    let state = "still pending after 3 s (waiting for its robot)\n  hr: paused by alice, 14 of 18 in 60 s left";
    assert!(waiting.contains(state) && waiting.contains("UTC: moving house"), "{waiting}");
    assert_eq!(done("resume hr", &stage.env).await, "resumed: it was paused by alice");
    stage.has_status(id, "delivered").await;
    stage.settled().await;
    assert_eq!(stage.robot.messages().len(), 1, "a test message rang after nobody waited for it");

    let unchanged = failed("resume hr", 1, &stage.env).await;
    assert!(unchanged.contains("postbell: unchanged: the robot is neither paused nor cooling down"), "{unchanged}");
    let unchanged = failed("pause hr --by postbell", 1, &stage.env).await;
    assert!(unchanged.contains("unchanged: by must not be postbell"), "{unchanged}");
    for words in ["pause nobody", "resume nobody"] {
        let unknown = failed(words, 1, &stage.env).await;
        assert!(unknown.contains("not found: no robot has this name; postbell robots list"), "{unknown}");
    }
}

#[tokio::test]
async fn a_test_goes_through_the_sidecar_and_ends_with_what_became_of_it() {
    let stage = Stage::new().await;
    // Nothing sends it.
    let (code, stdout, stderr) = robots("test default --wait=1", &stage.env).await;
    assert_eq!(code, 75, "{stderr}");
    assert!(stderr.contains("still pending after 1 s (due)\n  is a consumer running"), "{stderr}");
    assert_eq!(stage.column::<String>(stdout.parse().unwrap(), "status").await, "cancelled");

    let postbell = stage.run();
    let (code, stdout, stderr) = robots("test default --text 告警", &stage.env).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("delivered to default"), "{stderr}");
    let id: Uuid = stdout.parse().unwrap();
    assert!(stage.column::<bool>(id, "urgent and delivered_at is not null").await);
    let url = stage.robot.webhook("other");
    let (code, _, stderr) = robots(&format!("test {url}"), &stage.env).await;
    assert_eq!(code, 0, "{stderr}");
    let messages = stage.robot.messages();
    assert_eq!(messages.len(), 2, "{messages:#?}");
    for part in ["机器人工作正常", "The robot works", "**default**", "告警", " +08:00"] {
        assert!(messages[0].text.contains(part), "{}", messages[0].text);
    }
    assert_eq!(messages[1].token, "other");
    assert!(messages[1].text.contains("The robot works") && !messages[1].text.contains("**"), "{}", messages[1].text);

    let unknown = failed("test nobody", 1, &stage.env).await;
    assert!(unknown.contains("failed: message: unknown target \"nobody\" (known: default"), "{unknown}");
    let refused = failed("test https://evil.example/?access_token=hunter2", 1, &stage.env).await;
    assert!(refused.contains("NOTIFICATION_ALLOWED_HOSTS") && !refused.contains("hunter2"), "{refused}");

    // It counts under its own name once it was used, and is announced nowhere.
    let line = postbell.wait_for_line("serving /livez", SOON).await;
    let address = line.rsplit("addr=").next().unwrap().trim();
    eventually(SOON, "the outcomes to be counted", async || {
        let (_, metrics) = get(address, "/metrics").await;
        metrics.contains("template_id=\"postbell.test\",outcome=\"delivered\"} 2").then_some(())
    })
    .await;
    let loaded = postbell.wait_for_line("templates loaded", SOON).await;
    assert!(loaded.contains("templates=3"), "{loaded}");
}

#[tokio::test]
async fn a_test_that_the_robots_settings_refuse_says_so_at_once_and_does_not_hold_up_its_events() {
    let settings = Settings { rate: None, keywords: vec!["告警".to_owned()], ..Settings::default() };
    let stage = Stage::with(settings).await;
    let _postbell = stage.run();
    let (code, stdout, stderr) = robots("test default --wait=600", &stage.env).await;
    assert_eq!(code, 1, "{stderr}");
    for part in [
        "not accepted: robot's settings: none of its keywords",
        "\n  --text KEYWORD",
        "\n  default: paused by postbell",
    ] {
        assert!(stderr.contains(part), "{stderr}");
    }
    assert_eq!(stderr.matches("none of its keywords").count(), 1, "{stderr}");
    assert_eq!(stage.column::<String>(stdout.parse().unwrap(), "status").await, "cancelled");

    let said = done("resume default", &stage.env).await;
    assert_eq!(said, "resumed: it was paused by postbell");
    let (code, _, stderr) = robots("test default --text 告警", &stage.env).await;
    assert_eq!(code, 0, "{stderr}");
    done("add later --webhook env:LATER --disabled", &stage.env).await;
    let disabled = failed("test later", 1, &stage.env).await;
    assert!(disabled.contains("not accepted: the target later is disabled"), "{disabled}");
}

#[tokio::test]
async fn a_robot_that_events_or_pools_need_is_removed_only_by_force() {
    let stage = Stage::new().await;
    let unknown = failed("remove default", 1, &stage.env).await;
    assert!(unknown.contains("not found: no robot or pool was added under this name"), "{unknown}");
    done("add hr --webhook env:HR_WEBHOOK", &stage.env).await;
    done("add hiring --pool default,hr", &stage.env).await;
    stage.publish_to("hr", "plain", json!({"text": "due"})).await;
    let later = "insert into notification_events (event_type, payload, target, scheduled_at)
        values ('plain', '{}', 'hr', now() + interval '1 hour') returning id";
    stage.world.publish_sql(later).await;
    stage.publish_to("other", "plain", json!({"text": "another's"})).await;

    let needed = failed("remove hr", 1, &stage.env).await;
    for part in [
        "not removed: 2 events are still to be sent to it, and without it for an unknown target",
        "it is one of the robots of hiring; --force removes it all the same",
    ] {
        assert!(needed.contains(part), "{needed}");
    }
    assert_eq!(listed("hr", &stage.env).await.unwrap()["state"], "not used yet");
    let said = done("remove hr --force", &stage.env).await;
    assert!(said.starts_with("removed") && said.contains("2 events are still to be sent to it"), "{said}");
    assert_eq!(listed("hr", &stage.env).await, None);
    let said = done("remove hiring", &stage.env).await;
    assert_eq!(said, "removed: within seconds no consumer knows it any more");

    let _postbell = stage.run();
    let error = "select last_error from notification_events where target = 'hr' and failed_at is not null";
    let error: String = eventually(SOON, "the event to fail", async || {
        stage.world.client().query_opt(error, &[]).await.unwrap().map(|row| row.get(0))
    })
    .await;
    assert!(error.contains("unknown target \"hr\""), "{error}");
}

#[tokio::test]
async fn an_operator_needs_the_writers_grant_to_test_and_a_reader_is_told_of_the_operators() {
    let stage = Stage::new().await;
    let client = stage.world.client();
    let role = async |kind: &str| {
        let name = format!("{kind}_{:016x}", fastrand::u64(..));
        client.batch_execute(&format!("create role {name} login")).await.unwrap();
        client.query_one("select notification_grant($1::text::name, $2)", &[&name, &kind]).await.unwrap();
        (stage.env.clone().with("DATABASE_URL", stage.world.database.url_as(&name)), name)
    };
    let (reader, _) = role("reader").await;
    done("list", &reader).await;
    let denied = failed("add hr --webhook env:HR_WEBHOOK", 1, &reader).await;
    assert!(
        denied.contains("the robot was not inserted") && denied.contains("notification_grant('role', 'operator')"),
        "{denied}"
    );
    let denied = failed("pause default", 1, &reader).await;
    assert!(denied.contains("the robot was not paused") && denied.contains("'operator'"), "{denied}");

    let (operator, name) = role("operator").await;
    let _postbell = Postbell::start(&["run"], &stage.env.clone().with("HR_WEBHOOK", stage.robot.webhook("hr")));
    done("add hr --webhook env:HR_WEBHOOK", &operator).await;
    done("pause hr", &operator).await;
    assert_eq!(listed("hr", &operator).await.unwrap()["paused_by"], name);
    done("resume hr", &operator).await;
    let denied = failed("test hr", 1, &operator).await;
    for part in ["the test message was not inserted", "notification_publish", "notification_grant('role', 'writer')"] {
        assert!(denied.contains(part), "{denied}");
    }
    client.query_one("select notification_grant($1::text::name, 'writer')", &[&name]).await.unwrap();
    let (code, _, stderr) = robots("test hr", &operator).await;
    assert_eq!(code, 0, "{stderr}");
    let said = done("remove hr", &operator).await;
    assert!(said.contains("postbell robots list goes on showing it"), "{said}");
}
