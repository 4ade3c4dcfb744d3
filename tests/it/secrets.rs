//! No token, secret, password or payload in anything that postbell writes or shows, whatever goes wrong.

use postbell::sandbox::{Do, Rule, Sandbox, Settings};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::harness::process::{Env, Postbell};
use crate::harness::servers::{Postgres, connect_redis, free_port};
use crate::harness::stage::Stage;
use crate::harness::{SOON, World, eventually};

/// Of the robot named default, and, with a number behind it, of those that misbehave.
const TOKEN: &str = "70cefeed70cefeed70cefeed70cefeed70cefeed70cefeed70cefeed70cefeed";
const ANOTHER_TOKEN: &str = "70cebead70cebead70cebead70cebead70cebead70cebead70cebead70cebead";
const SECRET: &str = "SECdeadbeefdeadbeefdeadbeefdeadbeef";
const DATABASE_PASSWORD: &str = "database-passw0rd";
const REDIS_PASSWORD: &str = "redis-passw0rd";
const PROXY_PASSWORD: &str = "proxy-passw0rd";
const PAYLOAD: &str = "payl0ad-of-somebody";
const OPTION: &str = "0ption-of-somebody";

/// What may stand nowhere; of the long ones not even a part.
const HIDDEN: [&str; 10] = [
    "70cefeed",
    "70cebead",
    "deadbeef",
    "SECdead",
    DATABASE_PASSWORD,
    REDIS_PASSWORD,
    PROXY_PASSWORD,
    "passw0rd",
    PAYLOAD,
    OPTION,
];

fn is_clean(place: &str, text: &str) {
    for hidden in HIDDEN {
        if let Some(at) = text.find(hidden) {
            let line = text[..at].rfind('\n').map_or(0, |at| at + 1);
            panic!("{place} shows {hidden}: {}", text[line..].lines().next().unwrap_or_default());
        }
    }
}

/// All that a process has written.
fn is_silent(postbell: &Postbell) {
    is_clean("standard output", &postbell.stdout().join("\n"));
    is_clean("the log", &postbell.stderr().join("\n"));
}

/// One plain HTTP request.
async fn get(address: &str, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn health(postbell: &Postbell) -> String {
    let line = postbell.wait_for_line("serving /livez", SOON).await;
    let address = line.split("addr").nth(1).unwrap();
    address.chars().filter(|c| c.is_ascii_digit() || ".:".contains(*c)).collect::<String>().trim_matches(':').to_owned()
}

/// Runs a command to its end: exit code, and all it wrote.
async fn ended(arguments: &[&str], env: &Env) -> (i32, String) {
    let mut postbell = Postbell::start(arguments, env);
    let code = postbell.exit_status(SOON).await.code().unwrap();
    (code, format!("{}\n{}", postbell.stdout().join("\n"), postbell.stderr().join("\n")))
}

/// A stage whose robot signs, whose servers have passwords, and whose every secret can be recognised.
async fn stage() -> (Stage, Env) {
    let stage = Stage::with(Settings { secret: Some(SECRET.to_owned()), rate: None, ..Settings::default() }).await;
    let redis = &stage.world.redis;
    let set = redis::cmd("CONFIG").arg("SET").arg("requirepass").arg(REDIS_PASSWORD).to_owned();
    set.exec_async(&mut redis.client().await).await.unwrap();
    let database = stage.world.database.url().replacen("postgres@", &format!("postgres:{DATABASE_PASSWORD}@"), 1);
    let env = stage
        .env
        .clone()
        .with("DATABASE_URL", database)
        .with("REDIS_URL", redis_url(&stage))
        .with("DINGTALK_NOTIFICATION_WEBHOOK", stage.robot.webhook(TOKEN))
        .with("DINGTALK_NOTIFICATION_SECRET", SECRET)
        .with("NAMED_WEBHOOK", stage.robot.webhook(&format!("{TOKEN}named")))
        .with("NAMED_SECRET", SECRET)
        .with("EVIL_WEBHOOK", format!("https://evil.example/?access_token={TOKEN}"))
        .with("NOTIFICATION_LOG", "trace");
    (stage, env)
}

fn redis_url(stage: &Stage) -> String {
    format!("redis://:{REDIS_PASSWORD}@{}/", stage.world.redis.address())
}

/// Every answer that a robot may give, each repeating what it should not. Each is of a robot of its own: one that refuses
/// is paused.
fn misbehave(stage: &Stage) -> Vec<String> {
    const CODES: [i64; 11] = [0, -1, 88, 40035, 300001, 310000, 400013, 410100, 430101, 460101, 123_456];
    let mut tokens = Vec::new();
    let mut add = |answer: &dyn Fn(&str, &str) -> Do| {
        let token = format!("{TOKEN}{:04}", tokens.len());
        let webhook = stage.robot.webhook(&token);
        let echo = format!("{webhook} {} {token}", webhook.replace('/', "\\/"));
        stage.robot.script([Rule::new(answer(&token, &echo)).robot(token.as_str()).forever()]);
        tokens.push(token);
    };
    let reply = |status: u16, echo: &str, body: String| Do::Reply {
        status,
        body,
        headers: [("location", echo), ("retry-after", "3600")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
    };
    for status in [200, 302, 400, 401, 403, 404, 413, 429, 500, 502, 503, 504] {
        add(&|_, echo| reply(status, echo, echo.to_owned()));
    }
    for code in CODES {
        add(&|_, echo| Do::Errcode { code, msg: echo.to_owned() });
    }
    // Where a reason is cut, there is a token.
    for before in (120..=200).step_by(16) {
        add(&|token, _| Do::Errcode { code: 310_000, msg: format!("{}{token}", "x".repeat(before)) });
    }
    add(&|_, echo| reply(200, echo, format!("<html>{}</html>", echo.repeat(20))));
    add(&|token, echo| reply(200, echo, format!(r#"{{"errcode": "{token}", "errmsg": 5}}"#)));
    for answer in [Do::Html, Do::DropAfterReading, Do::DropBeforeReading, Do::Hang] {
        add(&|_, _| answer.clone());
    }
    tokens
}

/// Targets that cannot be sent to, each with a token in it.
fn targets(closed: u16) -> Vec<String> {
    let path = format!("robot/send?access_token={ANOTHER_TOKEN}");
    let mut targets: Vec<String> = [
        "https://evil.example/",
        "https://oapi.dingtalk.com:8443/",
        "http://oapi.dingtalk.com/",
        "ftp://oapi.dingtalk.com/",
        "https://localhost:1/",
        "https://[::1]/",
        "https://10.0.0.1/",
        "oapi.dingtalk.com/",
        "//oapi.dingtalk.com/",
        "https:/",
        "https://oapi.dingtalk.com/x y?",
        "https://[",
        "https://no.such.host.invalid/",
    ]
    .map(|before| format!("{before}{path}"))
    .into();
    targets.push(format!("http://127.0.0.1:{closed}/{path}"));
    targets.push(format!("https://user:{ANOTHER_TOKEN}@oapi.dingtalk.com/{path}"));
    targets.push(format!("https://{ANOTHER_TOKEN}@oapi.dingtalk.com/{path}"));
    targets.push(format!("https://oapi.dingtalk.com/{path}#{ANOTHER_TOKEN}"));
    targets.push(format!("https://oapi.dingtalk.com/{path}&sign={ANOTHER_TOKEN}&timestamp=1"));
    targets.push(format!("https://oapi.dingtalk.com/robot/{ANOTHER_TOKEN}"));
    targets.extend([ANOTHER_TOKEN.to_owned(), format!("access_token={ANOTHER_TOKEN}"), SECRET.to_owned()]);
    targets
}

async fn publish(stage: &Stage, event_type: &str, payload: Value, options: Value, target: &str) -> Uuid {
    let insert = "insert into notification_events (event_type, payload, options, target, max_retry)
        values ($1, $2, $3, $4, 0) returning id";
    stage.world.client().query_one(insert, &[&event_type, &payload, &options, &target]).await.unwrap().get(0)
}

/// Events that go wrong in every way there is.
async fn publish_all(stage: &Stage, closed: u16) {
    let text = |text: &str| json!({ "text": format!("{text} {PAYLOAD}"), "more": PAYLOAD });
    for token in misbehave(stage) {
        publish(stage, "plain", text("answer"), json!({}), &stage.robot.webhook(&token)).await;
    }
    // Of a robot that signs, by its name and by default.
    for token in [TOKEN.to_owned(), format!("{TOKEN}named")] {
        let msg = format!("{token} {SECRET} {}", stage.robot.webhook(&token));
        stage.robot.script([Rule::new(Do::Errcode { code: -1, msg }).robot(token).containing("busy").forever()]);
    }
    publish(stage, "plain", text("busy"), json!({}), "named").await;
    publish(stage, "plain", text("busy"), json!({}), "default").await;
    // Named robots, whose references lead nowhere, to what is no webhook, or to a webhook that is refused.
    let names = "insert into notification_channels (name, webhook, secret) values
        ('named', 'env:NAMED_WEBHOOK', 'env:NAMED_SECRET'), ('unset', 'env:NO_SUCH_VARIABLE', null),
        ('database', 'env:DATABASE_URL', null), ('redis', 'env:REDIS_URL', null), ('secret', 'env:NAMED_SECRET', null),
        ('evil', 'env:EVIL_WEBHOOK', null), ('nowhere', 'file:/nowhere', null), ('unsigned', 'env:NAMED_WEBHOOK', 'env:NO_SUCH')";
    stage.world.client().batch_execute(names).await.unwrap();
    for name in ["named", "unset", "database", "redis", "secret", "evil", "nowhere", "unsigned"] {
        publish(stage, "plain", text("named"), json!({}), name).await;
    }
    for target in targets(closed) {
        publish(stage, "plain", text("target"), json!({}), &target).await;
    }
    // Of a robot that signs, but for a URL there is no secret.
    publish(stage, "plain", text("unsigned"), json!({}), &stage.robot.webhook(ANOTHER_TOKEN)).await;
    for options in [
        json!({ "at_mobiles": OPTION }),
        json!({ "at_mobiles": [OPTION, format!("{OPTION}!")] }),
        json!({ "at_user_ids": [format!("{OPTION} ")] }),
        json!({ "at_all": OPTION }),
        json!({ "delivery": OPTION }),
        json!({ "expires_at": OPTION }),
        json!({ "expires_at": "2020-02-02T10:00:00Z", "note": OPTION }),
    ] {
        publish(stage, "plain", text("options"), options, "default").await;
    }
    for (event_type, payload) in [
        ("no.such.template", text("x")),
        ("plain", json!({ "more": PAYLOAD })),
        ("plain", json!({ "text": [PAYLOAD] })),
        ("plain", json!({ "text": { PAYLOAD: 1 } })),
        ("card", json!({ "text": PAYLOAD, "url": PAYLOAD })),
        ("plain", json!({ "text": format!("{PAYLOAD} {}", "长".repeat(18_000)) })),
    ] {
        publish(stage, event_type, payload, json!({}), "default").await;
    }
    let deep = format!(r#"{{"text": "{PAYLOAD}", "deep": {}{}}}"#, "[".repeat(200), "]".repeat(200));
    let insert = "insert into notification_events (event_type, payload) values ('plain', $1::text::jsonb)";
    stage.world.client().execute(insert, &[&deep]).await.unwrap();
}

/// Every entry of the three streams, but for the payload, which people are to find there.
async fn streams(stage: &Stage) -> String {
    let mut redis = connect_redis(&redis_url(stage)).await;
    let mut shown = String::new();
    for stream in ["notification:events", "notification:events:urgent", "notification:deadletter"] {
        let entries: Vec<(String, Vec<(String, String)>)> =
            redis::cmd("XRANGE").arg(stream).arg("-").arg("+").query_async(&mut redis).await.unwrap();
        for (id, fields) in entries {
            for (name, value) in fields {
                let value = if name == "payload" { value.replace(PAYLOAD, "") } else { value };
                shown += &format!("{stream} {id} {name} {value}\n");
            }
        }
    }
    shown
}

async fn rows(stage: &Stage, query: &str) -> String {
    let rows = stage.world.client().query(query, &[]).await.unwrap();
    rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn nothing_is_shown_in_any_place_when_everything_fails() {
    let (stage, env) = stage().await;
    let closed = free_port();
    let allowed = format!("{},127.0.0.1:{closed},no.such.host.invalid", stage.robot.addr());
    // Nor does the operations robot behave better.
    let settings = Settings { secret: Some(SECRET.to_owned()), ..Settings::default() };
    let ops = Sandbox::start(TcpListener::bind("127.0.0.1:0").await.unwrap(), settings).unwrap();
    let allowed = format!("{allowed},{}", ops.addr());
    let ops_token = format!("{TOKEN}ops");
    let msg = format!("{ops_token} {SECRET} {}", ops.webhook(&ops_token));
    ops.script([Rule::new(Do::Errcode { code: 310_000, msg }).forever()]);
    let env = env
        .with("NOTIFICATION_ALLOWED_HOSTS", allowed)
        .with("NOTIFICATION_OPS_WEBHOOK", ops.webhook(&ops_token))
        .with("NOTIFICATION_OPS_SECRET", SECRET)
        .with("NOTIFICATION_ALERT_INTERVAL", "500ms");
    let as_json = env.clone().with("NOTIFICATION_LOG_FORMAT", "json");
    // The relay alone first: what it writes stays in the streams until somebody reads it.
    let relay = Postbell::start(&["relay"], &as_json);
    publish_all(&stage, closed).await;
    let hinted = "select count(*) from notification_events where hinted_until is null";
    eventually(SOON, "every event to be hinted", async || {
        (stage.world.client().query_one(hinted, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    let hints = streams(&stage).await;
    assert!(hints.contains("notification:events ") && hints.contains("/***"), "{hints}");
    is_clean("the streams of hints", &hints);

    let consumers = [Postbell::start(&["consume"], &env), Postbell::start(&["consume"], &as_json)];
    let judged = "select count(*) from notification_events where completed_at is null and waiting_since is null";
    eventually(SOON, "every event to be judged", async || {
        (stage.world.client().query_one(judged, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    ops.wait_for_requests(1, SOON).await.unwrap();
    for request in ops.requests() {
        is_clean("what the operations robot is told", &String::from_utf8_lossy(&request.body));
    }
    let letters = streams(&stage).await;
    assert!(letters.contains("notification:deadletter ") && letters.contains("last_error"), "{letters}");
    is_clean("the streams", &letters);
    let view = rows(&stage, "select to_jsonb(s)::text from notification_status s").await;
    assert!(view.contains("***"), "something was masked");
    is_clean("the status view", &view);
    for table in [
        "notification_robot_status",
        "notification_robots",
        "notification_channels",
        "notification_attempts",
        "notification_audit",
        "notification_alerts",
    ] {
        let shown = rows(&stage, &format!("select to_jsonb(r)::text from {table} r")).await;
        assert!(!shown.is_empty());
        is_clean(table, &shown);
    }
    let table = "select (to_jsonb(e) - 'target' - 'payload' - 'options')::text from notification_events e";
    is_clean("a column other than target, payload and options", &rows(&stage, table).await);

    for process in consumers.iter().chain([&relay]) {
        let address = health(process).await;
        for path in ["/metrics", "/readyz", "/livez", &format!("/{TOKEN}")] {
            is_clean(path, &get(&address, path).await);
        }
    }
    // The group sees the payload. What a robot is told to answer it shows, so it must not be told any more.
    stage.robot.clear_script();
    stage.robot.clear();
    // Whatever was paused or cooled down by all that went wrong.
    let resume = "select notification_robot_resume(name) from notification_robots";
    stage.world.client().query(resume, &[]).await.unwrap();
    for target in ["default", &stage.robot.webhook(ANOTHER_TOKEN)] {
        publish(&stage, "plain", json!({ "text": PAYLOAD }), json!({}), target).await;
    }
    stage.robot.wait_for_requests(2, SOON).await.unwrap();
    let robot = stage.robot.addr().to_string();
    for path in ["/", "/messages", "/requests"] {
        is_clean(path, &get(&robot, path).await.replace(PAYLOAD, ""));
    }
    for command in [
        &["status", "--limit", "10000"][..],
        &["status", "--json", "--limit", "10000"],
        &["list", "--limit", "10000"],
        &["list", "--json", "--limit", "10000"],
        &["dead-letter", "list", "--limit", "10000"],
        &["dead-letter", "purge", "--all", "--dry-run"],
        &["replay", "--status", "failed", "--dry-run"],
        &["stats"],
        &["stats", "--json"],
        &["audit", "--json"],
        &["doctor", "--json"],
    ] {
        let (code, wrote) = ended(command, &env).await;
        // What was broken for this test is what the doctor finds.
        assert!(code == 0 || command[0] == "doctor", "{command:?}: {wrote}");
        is_clean(&format!("{command:?}"), &wrote);
    }

    // An operator's own rule makes the database refuse what is recorded, and repeat the row in its detail.
    let rule = "alter table notification_events add constraint own check (status <> 'delivered' or payload->>'text' <> 'ruled') not valid";
    stage.world.client().batch_execute(rule).await.unwrap();
    let ruled = json!({ "text": "ruled", "more": PAYLOAD });
    publish(&stage, "plain", ruled, json!({ "note": OPTION }), "default").await;
    eventually(SOON, "an outcome to be refused", async || {
        let refused =
            |line: &String| line.contains("the outcome is refused") && line.contains("violates check constraint");
        consumers.iter().any(|consumer| consumer.stderr().iter().any(refused)).then_some(())
    })
    .await;

    // And then both servers go away.
    stage.world.redis.kill().await;
    stage
        .world
        .client()
        .batch_execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()
        and datname = current_database()",
        )
        .await
        .unwrap();
    for consumer in &consumers {
        consumer.wait_for_line("the consumer cannot go on", SOON).await;
        is_clean("/readyz", &get(&health(consumer).await, "/readyz").await);
    }
    for mut process in consumers.into_iter().chain([relay]) {
        process.sigterm();
        process.exit_status(SOON).await;
        is_silent(&process);
        assert!(process.stderr().len() > 5, "it logged");
    }
}

#[tokio::test]
async fn servers_that_cannot_be_reached_are_named_without_their_passwords() {
    let world = World::new().await;
    let gone = free_port();
    let env = world
        .env()
        .with("NOTIFICATION_LOG", "trace")
        .with("NOTIFICATION_TEMPLATES_DIR", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/templates"))
        .with("DINGTALK_NOTIFICATION_WEBHOOK", format!("https://oapi.dingtalk.com/robot/send?access_token={TOKEN}"))
        .with("DINGTALK_NOTIFICATION_SECRET", SECRET);
    let database = |at: &str| format!("postgres://postgres:{DATABASE_PASSWORD}@{at}/nowhere");
    let redis = |at: &str| format!("redis://user:{REDIS_PASSWORD}@{at}/3");
    let away = format!("127.0.0.1:{gone}");
    let mut waiting = Vec::new();
    for (env, says) in [
        (env.clone().with("DATABASE_URL", database(&away)), "cannot reach PostgreSQL"),
        (env.clone().with("DATABASE_URL", database("no.such.host.invalid")), "cannot reach PostgreSQL"),
        (env.clone().with("DATABASE_URL", database(&world.redis.address())), "cannot reach PostgreSQL"),
        (env.clone().with("REDIS_URL", redis(&away)), "cannot go on"),
        (env.clone().with("REDIS_URL", redis(&world.redis.address())), "cannot go on"),
        (env.clone().with("REDIS_URL", redis("no.such.host.invalid")), "cannot go on"),
        (
            env.clone().with("REDIS_URL", format!("rediss://:{REDIS_PASSWORD}@{}", world.redis.address())),
            "cannot go on",
        ),
    ] {
        let postbell = Postbell::start(&["run"], &env);
        waiting.push((postbell, says));
    }
    for (postbell, says) in &waiting {
        postbell.wait_for_line(says, SOON).await;
        is_clean("/readyz", &get(&health(postbell).await, "/readyz").await);
        is_silent(postbell);
    }
    // A database that refuses for good, and a proxy that is away.
    let server = Postgres::shared().await.address();
    let (code, wrote) = ended(&["run"], &env.clone().with("DATABASE_URL", database(&server))).await;
    assert!(code == 1 && wrote.contains("does not exist"), "{wrote}");
    is_clean("the refusal", &wrote);
    let proxied = env.with("HTTPS_PROXY", format!("http://user:{PROXY_PASSWORD}@{away}"));
    let sends = Postbell::start(&["run"], &proxied);
    world.publish("plain", json!({ "text": PAYLOAD })).await;
    sends.wait_for_line("nothing was sent", SOON).await;
    is_silent(&sends);
}

#[tokio::test]
async fn commands_that_are_used_wrongly_repeat_no_secret() {
    let (stage, env) = stage().await;
    let webhook = format!("https://oapi.dingtalk.com/robot/send?access_token={TOKEN}");
    let from = stage.world.database.url();
    let at_in_password = from.replacen("postgres@", "postgres:x@database-passw0rd@", 1);
    let payload = json!({ "text": PAYLOAD }).to_string();
    let typo = format!("--dingtalk-webhok={webhook}");
    let elsewhere = format!("--dingtalk-webhook=https://evil.example/?access_token={TOKEN}");
    for (arguments, env, codes) in [
        (&["--help"][..], env.clone(), &[0][..]),
        (&["run", "--help"], env.clone(), &[0]),
        (&["help", "consume"], env.clone(), &[0]),
        (&["run", &typo], env.clone(), &[64]),
        (&["run", &elsewhere], env.clone(), &[64]),
        (&["run", "--allowed-hosts", &webhook], env.clone(), &[64]),
        (&["run", "--http-addr", &webhook], env.clone(), &[64]),
        (&["run"], env.clone().with("NOTIFICATION_ALLOWED_HOSTS", &webhook), &[64]),
        (&["run"], env.clone().with("DINGTALK_NOTIFICATION_WEBHOOK", TOKEN), &[64]),
        (&["run"], env.clone().with("DINGTALK_NOTIFICATION_WEBHOOK", format!("http://[/{TOKEN}")), &[64]),
        (&["relay"], env.clone().with("NOTIFICATION_OPS_WEBHOOK", TOKEN), &[64]),
        (&["run"], env.clone().with("NOTIFICATION_OPS_WEBHOOK", format!("https://evil.example/{TOKEN}")), &[64]),
        (&["run"], env.clone().with("DATABASE_URL", at_in_password), &[64]),
        (&["run"], env.clone().with("DATABASE_URL", "postgres://u:database-passw0rd/db"), &[64]),
        (&["run"], env.clone().with("DATABASE_URL", "host=h password=x database-passw0rd=y"), &[64]),
        (&["run"], env.clone().with("REDIS_URL", format!("http://:{REDIS_PASSWORD}@h")), &[64]),
        (&["run"], env.clone().with("HTTPS_PROXY", format!("socks5://u:{PROXY_PASSWORD}@h:1")), &[64]),
        (&["run"], env.clone().with("NOTIFICATION_TEMPLATES_DIR", "/nowhere"), &[64]),
        (&["publish", "plain", "--payload", PAYLOAD], env.clone(), &[64]),
        (&["publish", "plain", "--payload", &format!("{{\"text\": \"{PAYLOAD}")], env.clone(), &[64]),
        (&["publish", "plain", "--options", &format!("[\"{OPTION}\"]")], env.clone(), &[64]),
        (&["publish", "plain", "--payload", &payload, "--target", &webhook, "--channel", ""], env.clone(), &[64]),
        (
            &["publish", "plain", "--payload", &payload, "--target", &webhook, "--key", "k", "--wait=1"],
            env.clone(),
            &[75],
        ),
        (&["template", "preview", "plain", "--set", &format!("text=[\"{PAYLOAD}\"]")], env.clone(), &[1]),
        (&["template", "check"], env.clone(), &[0]),
    ] {
        let (code, wrote) = ended(arguments, &env).await;
        assert!(codes.contains(&code), "{arguments:?} ended with {code}: {wrote}");
        is_clean(&format!("{arguments:?}"), &wrote);
    }
    // A rule of the operator's own refuses the insert, and its detail repeats the row.
    let rule = "alter table notification_events alter column trace_id set not null";
    stage.world.client().batch_execute("update notification_events set trace_id = ''").await.unwrap();
    stage.world.client().batch_execute(rule).await.unwrap();
    let (code, wrote) = ended(&["publish", "plain", "--payload", &payload, "--target", &webhook], &env).await;
    assert_eq!(code, 1, "{wrote}");
    assert!(wrote.contains("the event was not inserted: ERROR: null value in column"), "{wrote}");
    is_clean("the refused insert", &wrote);
}
