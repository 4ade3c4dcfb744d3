//! What is wrong rings the operations robot: once, whoever looks, and once more when it is over.

mod looks;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use postbell::sandbox::{Do, Message, Rule, Sandbox, Settings};
use tokio::net::TcpListener;

use crate::harness::process::{Env, Postbell};
use crate::harness::proxy::{Proxy, Where};
use crate::harness::servers::Postgres;
use crate::harness::stage::Stage;
use crate::harness::wire::Protocol;
use crate::harness::{SOON, eventually};

/// Ten events that failed long ago.
const DEAD_LETTERS: &str = "insert into notification_events (event_type, payload, status, failed_at, completed_at)
    select 'dead', '{}', 'failed', at, at from generate_series(1, 10), (select now() - interval '1 day' as at) t";

/// A stage, and people who are told what is wrong with it.
struct Ops {
    stage: Stage,
    /// The operations robot: another one than that of the events, and it wants to be signed for.
    robot: Sandbox,
    env: Env,
}

async fn sandbox(settings: Settings) -> Sandbox {
    Sandbox::start(TcpListener::bind("127.0.0.1:0").await.unwrap(), settings).unwrap()
}

impl Ops {
    async fn of(stage: Stage) -> Ops {
        let robot = sandbox(Settings { secret: Some("SECops".into()), ..Settings::default() }).await;
        let env = stage
            .env
            .clone()
            .with("NOTIFICATION_OPS_WEBHOOK", robot.webhook("ops"))
            .with("NOTIFICATION_OPS_SECRET", "SECops")
            .with("NOTIFICATION_ALLOWED_HOSTS", format!("{},{}", stage.robot.addr(), robot.addr()))
            .with("NOTIFICATION_ALERT_INTERVAL", "200ms")
            .with("NOTIFICATION_ALERT_WINDOW", "1h");
        Ops { stage, robot, env }
    }

    async fn new() -> Ops {
        Ops::of(Stage::new().await).await
    }

    fn start(&self, command: &str) -> Postbell {
        Postbell::start(&[command], &self.env)
    }

    async fn execute(&self, sql: &str) {
        self.stage.world.client().batch_execute(sql).await.unwrap();
    }

    /// Waits until so many messages have come, and expects no more.
    async fn has_rung(&self, count: usize) -> Vec<Message> {
        let messages = self.robot.wait_for_messages(count, 2 * SOON).await.unwrap();
        assert_eq!(messages.len(), count, "{messages:#?}");
        messages
    }

    /// Waits until a condition was seen again and again for so long since people were told of it.
    async fn goes_on_for(&self, condition: &str, seconds: f64) {
        let looked = "select count(*) from notification_alerts
            where condition = $1 and cleared_at is null and held_at > rung_at + $2 * interval '1 second'";
        eventually(2 * SOON, &format!("{condition} to be seen again"), async || {
            let row = self.stage.world.client().query_one(looked, &[&condition, &seconds]).await.unwrap();
            (row.get::<_, i64>(0) > 0).then_some(())
        })
        .await;
    }

    /// Waits until no event is open but those that wait for their robot.
    async fn everything_waits(&self) {
        let others = "select count(*) filter (where waiting_since is null), count(*)
            from notification_events where completed_at is null";
        eventually(SOON, "all that is open to wait for its robot", async || {
            let row = self.stage.world.client().query_one(others, &[]).await.unwrap();
            (row.get::<_, i64>(0) == 0 && row.get::<_, i64>(1) > 20).then_some(())
        })
        .await;
    }

    /// The one message that there is says this, and what goes on is not told again.
    async fn is_told_once(&self, condition: &str, words: &str) {
        let said = self.has_rung(1).await[0].text.clone();
        for part in ["🚨 postbell 告警：", words, &format!("（{condition}）"), "处理："] {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
        self.goes_on_for(condition, 1.0).await;
        self.has_rung(1).await;
    }

    /// The second message is the all-clear, and nothing follows until something else is wrong.
    async fn is_over(&self, condition: &str) {
        let said = self.has_rung(2).await[1].text.clone();
        assert!(said.starts_with("✅ postbell 恢复：") && said.contains(&format!("（{condition}）")), "{said}");
        self.execute(
            "insert into notification_robots (name) values ('default') on conflict do nothing;
             insert into notification_channels (name, webhook) values ('witness', 'env:WITNESS');
             insert into notification_robots (name, paused_at, paused_by) values ('witness', now(), 'postbell')",
        )
        .await;
        let said = self.has_rung(3).await[2].text.clone();
        assert!(said.contains("机器人 witness 暂停"), "{said}");
    }
}

#[tokio::test]
async fn a_receiver_that_is_stopped_rings_once_and_gives_the_all_clear_once() {
    let ops = Ops::new().await;
    let receiver = sandbox(Settings { rate: None, ..Settings::default() }).await;
    let address = receiver.addr();
    let env = ops
        .env
        .clone()
        .with("DINGTALK_NOTIFICATION_WEBHOOK", receiver.webhook("token"))
        .with("NOTIFICATION_ALLOWED_HOSTS", format!("{address},{}", ops.robot.addr()))
        .with("NOTIFICATION_MAX_RETRY", "100")
        .with("NOTIFICATION_ALERT_FAILURE_RATE", "50%/10s");
    let _postbell = Postbell::start(&["run"], &env);
    ops.stage.publish(1).await;
    ops.stage.settled().await;
    receiver.shutdown().await;
    ops.stage.publish(1).await;
    ops.is_told_once("failure_rate", "最近 10 秒内发送 ").await;

    let listener = TcpListener::bind(address).await.unwrap();
    let _receiver = Sandbox::start(listener, Settings { rate: None, ..Settings::default() }).unwrap();
    ops.stage.settled().await;
    ops.is_over("failure_rate").await;
}

#[tokio::test]
async fn a_secret_that_is_broken_rings_once_and_gives_the_all_clear_once_it_is_mended() {
    let stage = Stage::with(Settings { secret: Some("SECright".into()), ..Settings::default() }).await;
    let file = std::env::temp_dir().join(format!("postbell-test-secret-{:016x}", fastrand::u64(..)));
    std::fs::write(&file, "SECwrong\n").unwrap();
    let ops = Ops::of(stage).await;
    let insert = "insert into notification_channels (name, webhook, secret) values ('hr', 'env:DINGTALK_NOTIFICATION_WEBHOOK', $1)";
    let secret = format!("file:{}", file.display());
    ops.stage.world.client().execute(insert, &[&secret]).await.unwrap();
    let env = ops.env.clone().with("NOTIFICATION_ROBOT_RATE", "18/60s").with("NOTIFICATION_SEND_LEASE", "20s");
    let _postbell = Postbell::start(&["run"], &env);
    ops.stage.publish_listed(10, "hr").await;
    ops.is_told_once("robot_paused", "机器人 hr 暂停").await;
    let said = ops.has_rung(1).await[0].text.clone();
    assert!(said.contains("robot's settings: the signature is wrong") && !said.contains("SECwrong"), "{said}");

    std::fs::write(&file, "SECright\n").unwrap();
    ops.stage.settled_within(Duration::from_secs(60)).await;
    ops.is_over("robot_paused").await;
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test]
async fn a_secret_that_is_mended_gives_the_all_clear_though_no_event_waits_to_try_it() {
    for probe in ["now() - interval '1 minute'", "now() + interval '1 minute'"] {
        let stage = Stage::with(Settings { secret: Some("SECright".into()), ..Settings::default() }).await;
        let file = std::env::temp_dir().join(format!("postbell-test-secret-{:016x}", fastrand::u64(..)));
        std::fs::write(&file, "SECwrong\n").unwrap();
        let ops = Ops::of(stage).await;
        let insert = "insert into notification_channels (name, webhook, secret) values ('hr', 'env:DINGTALK_NOTIFICATION_WEBHOOK', $1)";
        let secret = format!("file:{}", file.display());
        ops.stage.world.client().execute(insert, &[&secret]).await.unwrap();
        let postbell = ops.start("run");
        ops.stage.publish_listed(1, "hr").await;
        ops.is_told_once("robot_paused", "机器人 hr 暂停").await;
        ops.execute("select notification_cancel(id) from notification_events").await;
        ops.execute(&format!("update notification_robots set probe_at = {probe}")).await;

        std::fs::write(&file, "SECright\n").unwrap();
        postbell.wait_for_line("robot resumed: its settings have changed", SOON).await;
        ops.is_over("robot_paused").await;
        std::fs::remove_file(&file).unwrap();
    }
}

#[tokio::test]
async fn dead_letters_ring_once_and_a_replay_gives_the_all_clear_once() {
    let ops = Ops::new().await;
    let _postbell = ops.start("run");
    ops.execute(
        "insert into notification_events (event_type, payload, target)
         select 'plain', '{\"text\": \"x\"}', 'nobody' from generate_series(1, 10)",
    )
    .await;
    ops.is_told_once("dead_letters", "10 条失败的事件未处理（阈值 10）").await;
    ops.execute(
        "insert into notification_channels (name, webhook) values ('nobody', 'env:DINGTALK_NOTIFICATION_WEBHOOK')",
    )
    .await;
    eventually(2 * SOON, "a replay to deliver them all", async || {
        ops.execute("select notification_replay_all()").await;
        let counts = ops.stage.world.status_counts().await;
        (counts == BTreeMap::from([("delivered".to_owned(), 10)])).then_some(())
    })
    .await;
    ops.is_over("dead_letters").await;
}

#[tokio::test]
async fn a_consumer_that_is_stopped_rings_once_though_hints_are_renewed_and_gives_the_all_clear_once() {
    let ops = Ops::new().await;
    let env = ops.env.clone().with("NOTIFICATION_ALERT_OLDEST_DUE", "2s");
    let _relay = Postbell::start(&["relay"], &env);
    ops.stage.publish(3).await;
    ops.is_told_once("oldest_due", "最早的一条已晚 ").await;
    // A hint lasts 3 s.
    ops.goes_on_for("oldest_due", 4.0).await;
    ops.has_rung(1).await;
    let _consumer = Postbell::start(&["consume"], &env);
    ops.stage.settled().await;
    ops.is_over("oldest_due").await;
}

#[tokio::test]
async fn a_relay_that_is_stopped_rings_through_the_consumer() {
    let ops = Ops::new().await;
    let env = ops.env.clone().with("NOTIFICATION_ALERT_OLDEST_DUE", "2s");
    let _consumer = Postbell::start(&["consume"], &env);
    ops.stage.publish(3).await;
    ops.is_told_once("oldest_due", "最早的一条已晚 ").await;
}

/// A stage on which events wait for their robot, and what is late rings after 3 s.
async fn waiting() -> Ops {
    let ops = Ops::of(Stage::strict_within(Duration::from_secs(2)).await).await;
    let env = ops.env.clone().with("NOTIFICATION_ALERT_OLDEST_DUE", "3s").with("NOTIFICATION_SEND_LEASE", "3s");
    Ops { env, ..ops }
}

#[tokio::test]
async fn a_consumer_that_is_killed_rings_though_all_that_is_open_waits_for_its_robot() {
    let ops = waiting().await;
    let _relay = ops.start("relay");
    let mut consumer = ops.start("consume");
    ops.stage.publish(200).await;
    ops.stage.robot.wait_for_messages(1, SOON).await.unwrap();
    ops.everything_waits().await;
    consumer.sigkill().await;
    ops.is_told_once("oldest_due", "最早的一条已晚 ").await;
    // Hints of those that were unparked are renewed for ever.
    ops.goes_on_for("oldest_due", 4.0).await;
    ops.has_rung(1).await;
}

#[tokio::test]
async fn a_relay_that_is_killed_rings_though_all_that_is_open_waits_for_its_robot() {
    let ops = waiting().await;
    let mut relay = ops.start("relay");
    let _consumer = ops.start("consume");
    ops.stage.publish(200).await;
    ops.stage.robot.wait_for_messages(1, SOON).await.unwrap();
    ops.everything_waits().await;
    relay.sigkill().await;
    ops.is_told_once("oldest_due", "最早的一条已晚 ").await;
}

#[tokio::test]
async fn what_waits_for_a_robot_that_sends_slowly_rings_nobody() {
    let ops = waiting().await;
    let _postbell = ops.start("run");
    ops.stage.publish(100).await;
    ops.stage.settled_within(3 * SOON).await;
    let client = ops.stage.world.client();
    let waited = "select max(delivered_at - created_at) > interval '6 s' from notification_events";
    assert!(client.query_one(waited, &[]).await.unwrap().get::<_, bool>(0), "longer than what is late");
    let late = client.query("select from notification_alerts where condition = 'oldest_due'", &[]).await.unwrap();
    assert!(late.is_empty() && ops.robot.messages().is_empty(), "{:#?}", ops.robot.messages());
}

#[tokio::test]
async fn of_any_number_of_processes_one_rings() {
    let ops = Ops::new().await;
    let env = ops.env.clone().with("NOTIFICATION_ALERT_INTERVAL", "100ms");
    let _processes = ["run", "relay", "relay", "consume"].map(|command| Postbell::start(&[command], &env));
    ops.execute(DEAD_LETTERS).await;
    ops.is_told_once("dead_letters", "10 条失败的事件未处理").await;
    ops.execute("select notification_purge_all()").await;
    ops.is_over("dead_letters").await;
    assert_eq!(ops.robot.requests().len(), 3, "no message was sent twice");
}

#[tokio::test]
async fn a_process_that_is_killed_before_or_after_it_rang_costs_no_message_and_shows_none_twice() {
    for (step, side, again) in [("check_alerts", Where::AfterReply, 0), ("alerts_rung", Where::BeforeRequest, 1)] {
        let ops = Ops::new().await;
        ops.execute(DEAD_LETTERS).await;
        let proxy = Proxy::start(Protocol::Postgres, Postgres::shared().await.address()).await;
        let trap = proxy.at(step, 1, side);
        let url = ops.stage.world.database.url_through(&proxy.address());
        let mut killed = Postbell::start(&["relay"], &ops.env.clone().with("DATABASE_URL", url));
        trap.sprung().await;
        killed.sigkill().await;
        trap.cut();
        let _another = ops.start("relay");
        ops.is_told_once("dead_letters", "10 条失败的事件未处理").await;
        let requests = ops.robot.requests();
        assert_eq!(requests.len(), 1 + again, "{step}: {requests:#?}");
        assert_eq!(ops.robot.messages()[0].duplicates as usize, again, "{step}: the same msgUuid");
    }
}

#[tokio::test]
async fn what_the_operations_robot_refuses_is_logged_and_rung_again() {
    let ops = Ops::new().await;
    ops.robot.script([Rule::new(Do::Errcode { code: -1, msg: "system busy".into() }).times(2)]);
    ops.execute(DEAD_LETTERS).await;
    let postbell = ops.start("relay");
    let line = postbell.wait_for_line("the operations robot could not be rung", SOON).await;
    assert!(line.contains("dead_letters") && line.contains("system busy"), "{line}");
    ops.is_told_once("dead_letters", "10 条失败的事件未处理").await;
    assert_eq!(ops.robot.requests().len(), 3);
    let log = postbell.stderr().join("\n");
    assert!(!log.contains("SECops") && !log.contains("access_token="), "{log}");
}

#[tokio::test]
async fn what_the_operations_robot_refuses_is_rung_again_once_an_interval_however_many_look() {
    let ops = Ops::new().await;
    ops.robot.script([Rule::new(Do::Errcode { code: 130101, msg: "send too fast".into() }).forever()]);
    ops.execute(DEAD_LETTERS).await;
    let env = ops.env.clone().with("NOTIFICATION_ALERT_INTERVAL", "1s");
    let _processes = [(); 4].map(|()| Postbell::start(&["relay"], &env));
    ops.robot.wait_for_requests(1, SOON).await.unwrap();
    let first = Instant::now();
    ops.robot.wait_for_requests(4, SOON).await.unwrap();
    assert!(first.elapsed() > Duration::from_millis(2_500), "{:?}", first.elapsed());
}

#[tokio::test]
async fn what_is_more_than_a_message_takes_comes_with_others_and_so_do_the_all_clears() {
    let ops = Ops::new().await;
    let pause = "insert into notification_channels (name, webhook) select 'r' || n, 'env:X' from generate_series(10, 54) n;
        insert into notification_robots (name, paused_at, paused_by, pause_reason)
        select name, now(), 'postbell', repeat('因', case when name < 'r20' then 4000 else 200 end) from notification_channels";
    ops.execute(pause).await;
    let _processes = [(); 2].map(|()| ops.start("relay"));
    let told = async |sign: &str| {
        eventually(3 * SOON, "all robots to be told of", async || {
            let said: Vec<String> = ops.robot.messages().into_iter().map(|message| message.text).collect();
            let named = |n: i32| {
                let name = format!("{sign}：机器人 r{n} 暂停\n");
                said.iter().filter(|text| text.contains(&name)).count()
            };
            let counts: Vec<usize> = (10..55).map(named).collect();
            assert!(counts.iter().all(|count| *count < 2), "{counts:?}");
            counts.iter().all(|count| *count == 1).then_some(())
        })
        .await;
    };
    told("告警").await;
    ops.execute("update notification_robots set paused_at = null, paused_by = null, pause_reason = null").await;
    told("恢复").await;
}

#[tokio::test]
async fn an_operations_robot_with_another_secret_is_told_of_by_the_name_of_the_setting() {
    let ops = Ops::new().await;
    ops.execute(DEAD_LETTERS).await;
    let relay = Postbell::start(&["relay"], &ops.env.clone().with("NOTIFICATION_OPS_SECRET", "SECother"));
    let line = relay.wait_for_line("the operations robot could not be rung", SOON).await;
    assert!(line.contains("set NOTIFICATION_OPS_SECRET to the robot's secret"), "{line}");
    assert!(ops.robot.messages().is_empty());
}

#[tokio::test]
async fn a_process_that_is_told_to_stop_while_it_rings_ends_in_time_and_another_rings() {
    let ops = Ops::new().await;
    ops.robot.script([Rule::new(Do::Hang)]);
    ops.execute(DEAD_LETTERS).await;
    let mut relay = ops.start("relay");
    ops.robot.wait_for_requests(1, SOON).await.unwrap();
    relay.sigterm();
    assert_eq!(relay.exit_status(SOON).await.code(), Some(0));
    let _another = ops.start("relay");
    ops.is_told_once("dead_letters", "10 条失败的事件未处理").await;
}

#[tokio::test]
async fn what_goes_on_is_told_again_once_a_window() {
    let ops = Ops::new().await;
    ops.execute(DEAD_LETTERS).await;
    let _postbell = Postbell::start(&["relay"], &ops.env.clone().with("NOTIFICATION_ALERT_WINDOW", "2s"));
    let messages = ops.robot.wait_for_messages(3, SOON).await.unwrap();
    assert!(!messages[0].text.contains("仍未恢复"), "{messages:#?}");
    assert!(messages[1..].iter().all(|message| message.text.contains("告警（仍未恢复）：死信过多")), "{messages:#?}");
}

#[tokio::test]
async fn without_an_operations_robot_nothing_is_asked_of_the_database() {
    let ops = Ops::new().await;
    ops.execute(DEAD_LETTERS).await;
    let proxy = Proxy::start(Protocol::Postgres, Postgres::shared().await.address()).await;
    let asked = proxy.at("check_alerts", 1, Where::BeforeRequest);
    let url = ops.stage.world.database.url_through(&proxy.address());
    let env = ops.env.clone().with("DATABASE_URL", url).with("NOTIFICATION_OPS_WEBHOOK", "");
    let quiet = Postbell::start(&["run"], &env);
    quiet.wait_for_line("consumer started", SOON).await;
    // Another has looked many times meanwhile.
    let _postbell = ops.start("relay");
    ops.goes_on_for("dead_letters", 2.0).await;
    assert!(!asked.has_sprung(), "it asked");
}

#[tokio::test]
async fn while_the_database_is_away_the_log_says_that_nobody_is_rung_and_then_somebody_is() {
    let ops = Ops::new().await;
    let proxy = Proxy::start(Protocol::Postgres, Postgres::shared().await.address()).await;
    let url = ops.stage.world.database.url_through(&proxy.address());
    let relay = Postbell::start(&["relay"], &ops.env.clone().with("DATABASE_URL", url));
    relay.wait_for_line("relay started", SOON).await;
    proxy.refuse().await;
    proxy.cut();
    relay.wait_for_line("alerts cannot be checked, and nobody is rung", SOON).await;
    ops.execute(DEAD_LETTERS).await;
    proxy.accept().await;
    ops.is_told_once("dead_letters", "10 条失败的事件未处理").await;
    let said = relay.stderr().iter().filter(|line| line.contains("alerts cannot be checked")).count();
    assert_eq!(said, 1, "once");
}

#[tokio::test]
async fn a_consumer_that_writes_no_attempts_says_that_failures_are_not_counted() {
    let ops = Ops::new().await;
    let env = ops.env.clone().with("NOTIFICATION_ATTEMPTS", "off");
    let consumer = Postbell::start(&["consume"], &env);
    consumer.wait_for_line("no alert is rung about the rate of failures", SOON).await;
    let consumer = Postbell::start(&["consume"], &env.with("NOTIFICATION_ALERT_FAILURE_RATE", "off"));
    consumer.wait_for_line("consumer started", SOON).await;
    assert!(!consumer.stderr().join("\n").contains("the rate of failures"));
}

#[tokio::test]
async fn a_bad_operations_webhook_is_refused_at_start_and_not_shown() {
    let stage = Stage::new().await;
    let bad = "https://evil.example/?access_token=TOPSECRET";
    let mut relay = Postbell::start(&["relay"], &stage.env.clone().with("NOTIFICATION_OPS_WEBHOOK", bad));
    assert_eq!(relay.exit_status(SOON).await.code(), Some(64));
    let said = relay.stderr().join("\n");
    assert!(said.contains("NOTIFICATION_OPS_WEBHOOK (--ops-webhook)"), "{said}");
    assert!(said.contains("NOTIFICATION_ALLOWED_HOSTS") && !said.contains("TOPSECRET"), "{said}");
}
