//! Bad input of every kind in the midst of good: never a dead process, never a lost neighbour, always a reason.

use std::collections::BTreeMap;
use std::path::PathBuf;

use postbell::sandbox::{Do, Rule, Sandbox, Settings};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::harness::process::Postbell;
use crate::harness::servers::free_port;
use crate::harness::stage::Stage;
use crate::harness::{SOON, eventually};

/// Pieces that are worst together, for any kind of text.
const PIECES: [&str; 40] = [
    "https://oapi.dingtalk.com/robot/send?access_token=x",
    "http://127.0.0.1:1/",
    "https://",
    "default",
    "ops",
    "@",
    "@all",
    "plain",
    "card",
    "..",
    "/",
    "\\",
    "'",
    "\"",
    "${",
    "}",
    "<%",
    "%>",
    "<#",
    "---\n",
    "\n",
    "\r\n",
    "\t",
    "\u{1b}[31m",
    "\u{7}",
    "\u{202e}",
    "\u{feff}",
    "\u{fdd0}",
    "\u{10ffff}",
    "字",
    "🎉",
    "](",
    "[",
    "<b>",
    "null",
    "-1",
    "1e400",
    "{}",
    "%s%n",
    "; drop table notification_events; --",
];

/// Random values, the same in every run.
struct Random(fastrand::Rng);

impl Random {
    fn new(seed: u64) -> Random {
        Random(fastrand::Rng::with_seed(seed))
    }

    fn pick<T: Clone>(&mut self, among: &[T]) -> T {
        among[self.0.usize(..among.len())].clone()
    }

    fn text(&mut self, most: usize) -> String {
        (0..self.0.usize(..=most)).map(|_| self.pick(&PIECES)).collect()
    }

    /// JSON of any kind, as text.
    fn json(&mut self, depth: usize) -> String {
        let numbers = ["0", "-0", "1e400", "1e5000", "-1e-4000", "18446744073709551616", "0.1", "9007199254740993"];
        match self.0.u8(..if depth == 0 { 4 } else { 6 }) {
            0 => "null".to_owned(),
            1 => self.0.bool().to_string(),
            2 => self.pick(&numbers).to_owned(),
            3 => Value::from(self.text(4)).to_string(),
            4 => {
                let items: Vec<String> = (0..self.0.usize(..4)).map(|_| self.json(depth - 1)).collect();
                format!("[{}]", items.join(","))
            }
            _ => self.object(&["text", "url", "event", "id", ""], depth - 1),
        }
    }

    fn object(&mut self, keys: &[&str], depth: usize) -> String {
        let fields: Vec<String> = (0..self.0.usize(..5))
            .map(|_| {
                let key = if self.0.u8(..4) == 0 { self.text(2) } else { self.pick(keys).to_owned() };
                format!("{}:{}", Value::from(key), self.json(depth))
            })
            .collect();
        format!("{{{}}}", fields.join(","))
    }

    fn payload(&mut self) -> String {
        match self.0.u8(..12) {
            0 => format!(r#"{{"text": {}{}}}"#, "[".repeat(200), "]".repeat(200)),
            1 => format!(r#"{{"text": "{}"}}"#, "\\u0001".repeat(30_000)),
            2 => format!(r#"{{"text": {}}}"#, "9".repeat(20_000)),
            3 => format!(r#"{{"text": "{}", "url": "https://a.example/"}}"#, "长".repeat(20_000)),
            _ => self.object(&["text", "text", "url"], 4),
        }
    }

    fn options(&mut self) -> String {
        match self.0.u8(..4) {
            0 => "{}".to_owned(),
            1 => json!({ "at_mobiles": [self.text(2)], "at_user_ids": [self.text(2)] }).to_string(),
            _ => self
                .object(&["at_mobiles", "at_user_ids", "at_all", "delivery", "expires_at", "urgent", "digest_key"], 2),
        }
    }

    fn target(&mut self) -> String {
        match self.0.u8(..3) {
            0 => "default".to_owned(),
            1 => self.text(4),
            _ => format!("https://oapi.dingtalk.com{}", self.text(4)),
        }
    }

    /// A column that is usually left as it is.
    fn rarely(&mut self, usual: &str) -> String {
        if self.0.u8(..5) == 0 { self.text(3) } else { usual.to_owned() }
    }
}

/// A folder of templates: good ones, and any number that are none.
struct Folder(PathBuf);

impl Folder {
    fn new(random: &mut Random, bad: usize) -> Folder {
        let folder = std::env::temp_dir().join(format!("postbell-hostile-{}", Uuid::now_v7()));
        std::fs::create_dir(&folder).unwrap();
        for good in ["plain.txt", "card.md"] {
            let from = format!("{}/tests/it/templates/{good}", env!("CARGO_MANIFEST_DIR"));
            std::fs::copy(from, folder.join(good)).unwrap();
        }
        for n in 0..bad {
            let text = match n % 4 {
                0 => format!("---\n{}\n---\n{}", random.text(4), random.text(6)),
                1 => format!(
                    "---\ntitle: ${{{}}}\ntype: actionCard\nbutton: {{title: a, url: \"${{url}}\"}}\n---\nx",
                    random.text(2)
                ),
                _ => format!("${{text}} <% for c in text %>{}${{c}}<% endfor %>", random.text(3)),
            };
            std::fs::write(folder.join(format!("bad{n}.md")), text).unwrap();
        }
        std::fs::write(folder.join("binary.md"), [0xff, 0xfe, 0x00]).unwrap();
        std::fs::write(folder.join("empty.txt"), "").unwrap();
        std::fs::write(folder.join("itself.md"), "<% include \"itself.md\" %>").unwrap();
        std::fs::write(
            folder.join("endless.md"),
            "<% for a in range(99999) %><% for b in range(99999) %>x<% endfor %><% endfor %>",
        )
        .unwrap();
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Inserts what the random values say; none where the database refuses it, which it must do by a rule with a name or
/// as no JSON.
async fn insert_anything(stage: &Stage, random: &mut Random, event_type: &str) -> Option<Uuid> {
    let insert = "insert into notification_events
            (event_type, payload, options, target, channel, template_id, trace_id, idempotency_key, max_retry)
        values ($1, $2::text::jsonb, $3::text::jsonb, $4, $5, $6, $7, $8, 0) returning id";
    // Wrong in one way mostly, so that each is looked at as far as it can go, and in all ways sometimes.
    let (way, all) = (random.0.u8(..6), random.0.u8(..8) == 0);
    let good = || r#"{"text": "x", "url": "https://a.example/"}"#.to_owned();
    let payload = if all || way < 2 { random.payload() } else { good() };
    let options = if all || way == 2 { random.options() } else { "{}".to_owned() };
    let target = if all || way == 3 { random.target() } else { "default".to_owned() };
    let event_type = if all || way == 4 { random.rarely(event_type) } else { event_type.to_owned() };
    let channel = if all || way == 4 { random.rarely("dingtalk") } else { "dingtalk".to_owned() };
    let template_id = (way == 4 && random.0.bool()).then(|| random.text(2));
    let (trace_id, key) = (random.text(3), random.text(6));
    let inserted = stage
        .world
        .client()
        .query_one(insert, &[&event_type, &payload, &options, &target, &channel, &template_id, &trace_id, &key])
        .await;
    match inserted {
        Ok(row) => Some(row.get(0)),
        Err(error) => {
            let refusal = error.as_db_error().unwrap_or_else(|| panic!("{error:#}"));
            let named = refusal.constraint().is_some() || refusal.code().code().starts_with("22");
            assert!(named, "{refusal:?}");
            None
        }
    }
}

/// Good events, every second of them urgent.
async fn publish_good(stage: &Stage, count: i32) -> Vec<Uuid> {
    let insert = "insert into notification_events (event_type, payload, options)
        select 'plain', jsonb_build_object('text', 'good ' || n), jsonb_build_object('urgent', n % 2 = 0)
        from generate_series(1, $1) n returning id";
    stage.world.client().query(insert, &[&count]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Each of these arrived, and once.
fn all_arrived(stage: &Stage, good: &[Uuid]) {
    let mut arrived: BTreeMap<String, usize> = BTreeMap::new();
    for message in stage.robot.messages() {
        *arrived.entry(message.text.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    let lost: Vec<&Uuid> = good.iter().filter(|id| arrived.get(&id.to_string()) != Some(&1)).collect();
    assert!(lost.is_empty(), "{} of {} good events did not arrive once: {lost:?}", lost.len(), good.len());
}

/// It lives, has not panicked, and ends in order.
async fn is_unharmed(mut postbell: Postbell) -> Vec<String> {
    postbell.sigterm();
    assert_eq!(postbell.exit_status(SOON).await.code(), Some(0));
    let log = postbell.stderr();
    for line in &log {
        assert!(!line.contains("panic") && !line.contains("internal error"), "{line}");
    }
    log
}

#[tokio::test]
async fn poisoned_rows_and_templates_end_with_a_reason_and_stop_no_neighbour() {
    let stage = Stage::new().await;
    let mut random = Random::new(20_261_127);
    let folder = Folder::new(&mut random, 60);
    let names: Vec<String> = (0..60).map(|n| format!("bad{n}")).collect();
    let fixed = ["plain", "plain", "card", "binary", "empty", "itself", "endless", "no.such.template"];
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for n in 0..300 {
        let event_type = if n % 3 == 0 { random.pick(&names) } else { random.pick(&fixed).to_owned() };
        bad.extend(insert_anything(&stage, &mut random, &event_type).await);
        if n % 20 == 0 {
            good.extend(publish_good(&stage, 10).await);
        }
    }
    assert!(bad.len() > 150, "only {} rows got past the constraints", bad.len());
    let env = stage
        .env
        .clone()
        .with("NOTIFICATION_TEMPLATES_DIR", folder.0.display())
        .with("NOTIFICATION_LOG_FORMAT", "json");
    let postbell = Postbell::start(&["run"], &env);
    stage.settled().await;
    all_arrived(&stage, &good);
    let ended =
        "select status, last_error, lost_leases, char_length(last_error) from notification_events where id = any($1)";
    let (mut failed, mut delivered) = (0, 0);
    for row in stage.world.client().query(ended, &[&bad]).await.unwrap() {
        let (status, error): (&str, Option<&str>) = (row.get(0), row.get(1));
        assert_eq!(row.get::<_, i32>(2), 0, "no consumer was lost over it: {error:?}");
        match status {
            "delivered" => delivered += 1,
            "failed" => {
                failed += 1;
                assert!(error.is_some_and(|error| error.len() > 10) && row.get::<_, i32>(3) < 2_000, "{error:?}");
            }
            other => panic!("{other}: {error:?}"),
        }
    }
    assert!(failed > 50 && delivered > 20, "{failed} failed, {delivered} delivered: the input is too good or too bad");
    // Whatever stands in it, a line is one JSON object.
    for line in is_unharmed(postbell).await {
        assert!(serde_json::from_str::<Value>(&line).is_ok_and(|line| line.is_object()), "{line}");
    }
}

#[tokio::test]
async fn strangers_in_the_streams_stop_nothing() {
    let stage = Stage::new().await;
    let postbell = stage.run();
    let mut good = publish_good(&stage, 20).await;
    stage.settled().await;
    let mut random = Random::new(7);
    let mut redis = stage.world.redis.client().await;
    let streams = ["notification:events", "notification:events:urgent", "notification:deadletter"];
    for n in 0..300_u32 {
        let mut entry = redis::cmd("XADD");
        entry.arg(streams[n as usize % 3]).arg("*");
        match random.0.u8(..7) {
            0 => entry.arg("event_id").arg(Uuid::from_u128(random.0.u128(..)).to_string()),
            // A row that is done, in one of the ways to write it.
            1 => entry.arg("event_id").arg(random.pick(&good).simple().to_string()).arg("attempt").arg("-1"),
            2 => entry.arg("event_id").arg((0..40).map(|_| random.0.u8(..)).collect::<Vec<u8>>()),
            3 => entry.arg((0..9).map(|_| random.0.u8(..)).collect::<Vec<u8>>()).arg(random.text(4)),
            4 => entry.arg("payload").arg("x".repeat(1 << 20)).arg("event_id").arg("x".repeat(1 << 16)),
            5 => (0..500).fold(&mut entry, |entry, field| entry.arg(format!("f{field}")).arg("event_id")),
            _ => entry.arg(random.text(3)).arg(random.text(3)),
        };
        let _: Result<String, _> = entry.query_async(&mut redis).await;
        if n % 30 == 0 {
            good.extend(publish_good(&stage, 5).await);
        }
    }
    // A stranger in the group takes some and never gives them back; another throws the group away.
    good.extend(publish_good(&stage, 20).await);
    let mut taken = redis::cmd("XREADGROUP");
    taken
        .arg("GROUP")
        .arg("postbell")
        .arg("stranger")
        .arg("COUNT")
        .arg(10)
        .arg("STREAMS")
        .arg(&streams[..2])
        .arg(&[">", ">"]);
    let _: Result<redis::Value, _> = taken.query_async(&mut redis).await;
    stage.settled().await;
    let _: Result<i64, _> =
        redis::cmd("XGROUP").arg("DESTROY").arg(streams[0]).arg("postbell").query_async(&mut redis).await;
    // And one adds what nothing can be added behind.
    for stream in streams {
        let last = format!("{0}-{0}", u64::MAX);
        let _: String =
            redis::cmd("XADD").arg(stream).arg(last).arg(&["a", "b"]).query_async(&mut redis).await.unwrap();
    }
    good.extend(publish_good(&stage, 20).await);
    let bad = stage.world.publish("no.such.template", json!({})).await;
    stage.settled().await;
    all_arrived(&stage, &good);
    assert_eq!(stage.column::<String>(bad, "status").await, "failed");
    eventually(SOON, "the streams of hints to be empty", async || {
        let mut left = 0;
        for stream in &streams[..2] {
            left += redis::cmd("XLEN").arg(stream).query_async::<usize>(&mut redis.clone()).await.unwrap();
        }
        (left == 0).then_some(())
    })
    .await;
    is_unharmed(postbell).await;
}

#[tokio::test]
async fn whatever_a_robot_answers_only_errcode_0_delivers_and_no_other_event_waits() {
    let stage = Stage::new().await;
    let env = stage.env.clone().with("NOTIFICATION_MAX_RETRY", "0");
    let postbell = Postbell::start(&["run"], &env);
    let mut random = Random::new(11);
    let codes =
        ["0", "\"0\"", "-1", "310000", "430101", "88", "\"x\"", "null", "[0]", "0.0", "\"00\"", "1e400", "true"];
    let mut bad = Vec::new();
    for n in 0..150 {
        let status = if random.0.bool() { 200 } else { random.0.u16(200..600) };
        let body = match random.0.u8(..5) {
            0 => random.text(8),
            1 => "x".repeat(200_000),
            2 => format!("{{\"errcode\":{},\"errmsg\":{}", random.pick(&codes), Value::from(random.text(9))),
            _ => format!("{{\"errcode\":{},\"errmsg\":{}}}", random.pick(&codes), Value::from(random.text(9))),
        };
        let yes = (200..300).contains(&status)
            && ![204, 205, 304].contains(&status)
            && serde_json::from_str::<Value>(&body).is_ok_and(|body| body["errcode"] == 0 || body["errcode"] == "0");
        let wish = random.pick(&["", "-1", "soon", "99999999999999999999", "Sun, 06 Nov 1994 08:49:37 GMT"]).to_owned();
        let headers = [("retry-after".to_owned(), wish)].into();
        // Each to a robot of its own: one that refuses is paused.
        let token = format!("robot{n}");
        stage.robot.script([Rule::new(Do::Reply { status, body, headers }).robot(token.as_str()).forever()]);
        let target = stage.robot.webhook(&token);
        bad.push((stage.publish_to(&target, "plain", json!({ "text": "x" })).await, yes));
    }
    let good = publish_good(&stage, 50).await;
    let judged = "select count(*) from notification_events where completed_at is null and waiting_since is null";
    eventually(SOON, "every event to be judged", async || {
        let left: i64 = stage.world.client().query_one(judged, &[]).await.unwrap().get(0);
        (left == 0).then_some(())
    })
    .await;
    all_arrived(&stage, &good);
    for (id, yes) in bad {
        let status: String = stage.column(id, "status").await;
        assert_eq!(status == "delivered", yes, "{status}: {:?}", stage.column::<Option<String>>(id, "response").await);
        let error: Option<String> = stage.column(id, "last_error").await;
        assert!(yes || error.as_ref().is_some_and(|error| error.len() > 10), "{error:?}");
    }
    is_unharmed(postbell).await;
}

#[tokio::test]
async fn a_target_leads_only_where_the_operator_allows() {
    let stage = Stage::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let inside = Sandbox::start(listener, Settings { rate: None, ..Settings::default() }).unwrap();
    let (port, robot_port) = (inside.addr().port(), stage.robot.addr().port());
    let webhook = inside.webhook("token");
    let headers = [("location".to_owned(), webhook.clone())].into();
    let elsewhere = Do::Reply { status: 302, body: String::new(), headers };
    stage.robot.script([Rule::new(elsewhere).robot("redirected").forever()]);
    let postbell = stage.run();
    let publish = async |target: &str| stage.publish_to(target, "plain", json!({ "text": "x" })).await;
    let path = "robot/send?access_token=token";
    let mut refused = Vec::new();
    for target in [
        webhook.clone(),
        format!("http://localhost:{port}/{path}"),
        format!("https://localhost:{port}/{path}"),
        format!("http://[::1]:{port}/{path}"),
        format!("http://[::ffff:127.0.0.1]:{port}/{path}"),
        format!("http://2130706433:{port}/{path}"),
        format!("http://127.1:{port}/{path}"),
        format!("http://0.0.0.0:{port}/{path}"),
        // The listed host, on another port, by another name, with credentials, and as the credentials of another.
        format!("http://127.0.0.1:{}/{path}", free_port()),
        format!("http://127.0.0.1/{path}"),
        format!("http://localhost:{robot_port}/{path}"),
        format!("http://user:word@127.0.0.1:{robot_port}/{path}"),
        format!("http://127.0.0.1:{robot_port}@127.0.0.1:{port}/{path}"),
        format!("http://127.0.0.1:{robot_port}\\@127.0.0.1:{port}/{path}"),
        format!("ftp://127.0.0.1:{robot_port}/{path}"),
        format!("http://oapi.dingtalk.com/{path}"),
        format!("https://oapi.dingtalk.com:8443/{path}"),
        format!("https://oapi.dingtalk.com.evil.example/{path}"),
        format!("https://oapi.dingtalk.com@127.0.0.1:{port}/{path}"),
    ] {
        refused.push((publish(&target).await, target));
    }
    let listed = publish(&stage.robot.webhook("another")).await;
    let redirected = publish(&stage.robot.webhook("redirected")).await;
    stage.has_status(listed, "delivered").await;
    for (id, target) in refused {
        // The backslash is a slash to a URL parser, and what follows it a path of the listed host.
        if target.contains('\\') {
            continue;
        }
        stage.has_status(id, "failed").await;
        let error: String = stage.column(id, "last_error").await;
        assert!(error.starts_with("message: target: "), "{target}: {error}");
        assert!(!error.contains("word") && !error.contains("access_token="), "{error}");
    }
    eventually(SOON, "the redirected event to wait", async || {
        stage.column::<bool>(redirected, "waiting_since is not null").await.then_some(())
    })
    .await;
    let error: String = stage.column(redirected, "last_error").await;
    assert!(error.contains("a redirect is not followed"), "{error}");
    is_unharmed(postbell).await;
    assert_eq!(inside.requests().len(), 0, "{:?}", inside.requests());

    // The operator lists a name that leads inside.
    let allowed = format!("{},localhost:{port}", stage.robot.addr());
    let _postbell = Postbell::start(&["run"], &stage.env.clone().with("NOTIFICATION_ALLOWED_HOSTS", allowed));
    let named = publish(&format!("http://localhost:{port}/{path}")).await;
    stage.has_status(named, "delivered").await;
    assert_eq!(inside.messages().len(), 1);
}
