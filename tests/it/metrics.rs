//! What a scrape shows of a real run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use postbell::sandbox::{Do, Rule};

use crate::harness::process::Postbell;
use crate::harness::proxy::Proxy;
use crate::harness::servers::Postgres;
use crate::harness::stage::Stage;
use crate::harness::wire::Protocol;
use crate::harness::{SOON, eventually, get};
use crate::operate::doctor::deaf;

/// The metrics of the table, as they are called in a scrape.
pub(super) fn documented(readme: &str) -> BTreeSet<String> {
    let named = |line: &str| {
        let name = line.strip_prefix("| `")?.split('`').next()?;
        let is_metric = name.starts_with("notification_") || name.starts_with("postbell_");
        let kind = line.split(" | ").nth(1)?.trim();
        (is_metric && ["counter", "gauge", "histogram", "info"].contains(&kind)).then(|| name.to_owned())
    };
    readme.lines().filter_map(named).collect()
}

/// The metrics that have a value in a scrape.
fn scraped(text: &str) -> BTreeSet<String> {
    let histograms: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" histogram")).collect();
    let name = |line: &str| {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let of = histograms
            .iter()
            .find(|histogram| name.strip_prefix(**histogram).is_some_and(|rest| rest.starts_with('_')));
        of.map_or_else(|| name.to_owned(), |histogram| (*histogram).to_owned())
    };
    text.lines().filter(|line| !line.starts_with('#')).map(name).collect()
}

/// Where a process is scraped.
pub(super) async fn address(postbell: &Postbell) -> String {
    let line = postbell.wait_for_line("serving /livez", SOON).await;
    line.rsplit("addr=").next().unwrap().trim().to_owned()
}

/// The value of a series in a scrape.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// Waits until a scrape has these values.
async fn shows(address: &str, expected: &[(&str, f64)]) {
    eventually(SOON, &format!("a scrape with {expected:?}"), async || {
        let (_, text) = get(address, "/metrics").await;
        expected.iter().all(|(series, expected)| value(&text, series) == Some(*expected)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_metric_of_the_readme_is_in_a_scrape_of_a_real_run_and_no_other() {
    let stage = Stage::strict().await;
    let fault = Rule::new(Do::Errcode { code: 400102, msg: "robot disabled".into() });
    stage.robot.script([fault.forever()]);
    let postbell = stage.run();
    let address = &address(&postbell).await;
    stage.publish_to("nobody", "plain", serde_json::json!({"text": "x"})).await;
    stage.publish_listed(5, "default").await;
    let expected = [
        "notification_robot_paused{robot=\"default\"} 1",
        "notification_dead_letter_backlog 1",
        "notification_stream_entries{stream=\"notification:deadletter\"} 1",
        "notification_robot_waiting_events{robot=\"default\"} 5",
    ];
    eventually(SOON, "the metrics to say that the robot is paused", async || {
        let (_, text) = get(address, "/metrics").await;
        expected.iter().all(|line| text.contains(line)).then_some(())
    })
    .await;

    let readme = documented(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")));
    let other = documented(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/README.zh-CN.md")));
    assert_eq!(readme, other, "both READMEs have the same");
    let (_, text) = get(address, "/metrics").await;
    assert_eq!(scraped(&text), readme, "in the scrape, and in the README");
    assert!(text.contains(concat!("postbell_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1")), "{text}");
}

#[tokio::test]
async fn a_delivery_is_timed_from_its_commit_or_from_when_it_was_scheduled_and_with_its_retries() {
    let stage = Stage::new().await;
    let fault = Do::Reply { status: 503, body: String::new(), headers: BTreeMap::new() };
    stage.robot.script([Rule::new(fault).containing("again").times(1)]);
    let env = stage.env.clone().with("NOTIFICATION_RETRY_BACKOFF", "1500ms");
    let insert = "insert into notification_events (event_type, payload, created_at, scheduled_at) values
        ('plain', '{\"text\": \"late\"}', now() - interval '45 seconds', now() - interval '45 seconds'),
        ('plain', '{\"text\": \"scheduled\"}', now() - interval '1 day', now() - interval '10 minutes'),
        ('plain', '{\"text\": \"again\"}', now() - interval '1 day', now())";
    stage.world.client().batch_execute(insert).await.unwrap();
    let postbell = Postbell::start(&["run"], &env);
    let address = address(&postbell).await;
    stage.settled().await;
    // The one that is sent again was late by its retry, and counts neither from its creation nor from the retry.
    for (limit, within) in [("1.0", 0.0), ("30.0", 1.0), ("60.0", 2.0), ("300.0", 2.0), ("900.0", 3.0), ("+Inf", 3.0)] {
        let series = format!("notification_commit_to_send_seconds_bucket{{le=\"{limit}\",channel=\"dingtalk\"}}");
        shows(&address, &[(&series, within)]).await;
    }
    // What is due and sent at once is quicker; what fails is not timed.
    stage
        .robot
        .script([Rule::new(Do::Errcode { code: 430104, msg: "unsafe content".into() }).containing("poison").forever()]);
    stage.publish_one("poison").await;
    stage.publish_one("prompt").await;
    stage.settled().await;
    shows(
        &address,
        &[
            ("notification_commit_to_send_seconds_bucket{le=\"30.0\",channel=\"dingtalk\"}", 2.0),
            ("notification_commit_to_send_seconds_count{channel=\"dingtalk\"}", 4.0),
            ("notification_events_total{channel=\"dingtalk\",template_id=\"plain\",outcome=\"failed\"}", 1.0),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_oldest_event_that_should_have_been_sent_is_known_though_it_is_hinted() {
    let stage = Stage::new().await;
    let relay = Postbell::start(&["relay"], &stage.env.clone().with("NOTIFICATION_HINT_LEASE", "1m"));
    let relay = address(&relay).await;
    shows(&relay, &[("notification_oldest_due_age_seconds", 0.0)]).await;
    // Neither one that waits for its robot, nor one that is done, nor one that is scheduled for later.
    let insert = "insert into notification_events
            (event_type, payload, created_at, scheduled_at, status, waiting_since, hinted_until, robot, delivered_at, completed_at)
        values
            ('plain', '{}', now() - interval '200 s', now() - interval '100 s', 'pending', null, null, null, null, null),
            ('plain', '{}', now() - interval '1 h', now() - interval '1 h', 'pending', now(), 'infinity', 'default', null, null),
            ('plain', '{}', now() - interval '1 h', now() - interval '1 h', 'delivered', null, null, null, now(), now()),
            ('plain', '{}', now() - interval '1 h', now() + interval '1 h', 'pending', null, null, null, null, null)";
    stage.world.client().batch_execute(insert).await.unwrap();
    eventually(SOON, "the age of the one that is hinted", async || {
        let (_, text) = get(&relay, "/metrics").await;
        let [not_hinted, not_sent] =
            ["notification_outbox_oldest_due_age_seconds", "notification_oldest_due_age_seconds"]
                .map(|series| value(&text, series).unwrap());
        (not_hinted == 0.0 && (100.0..200.0).contains(&not_sent)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_taken_over_from_a_consumer_whose_lease_has_run_out_is_counted_and_nothing_else() {
    let stage = Stage::new().await;
    // Two that go alone, one of which asks for at most one send, and two of one message; and one that was given back.
    let insert = "insert into notification_events
            (event_type, payload, options, status, attempt, lost_leases, sending_until, digest_id)
        values
            ('plain', '{\"text\": \"a\"}', '{}', 'delivering', 1, 0, now() - interval '1 second', null),
            ('plain', '{\"text\": \"b\"}', '{\"delivery\": \"at_most_once\"}', 'delivering', 1, 0, now(), null),
            ('listed', '{\"text\": \"c\"}', '{}', 'delivering', 1, 0, now(), '00000000-0000-4000-8000-000000000001'),
            ('listed', '{\"text\": \"d\"}', '{}', 'delivering', 1, 0, now(), '00000000-0000-4000-8000-000000000001'),
            ('plain', '{\"text\": \"e\"}', '{}', 'pending', 1, 1, null, null)";
    stage.world.client().batch_execute(insert).await.unwrap();
    let postbell = stage.run();
    let address = address(&postbell).await;
    stage.settled().await;
    stage.publish(3).await;
    stage.settled().await;
    shows(&address, &[("notification_takeovers_total", 4.0), ("notification_leases_lost_total", 0.0)]).await;
    assert_eq!(stage.robot.messages().len(), 6);
}

#[tokio::test]
async fn waits_and_the_sizes_of_messages_of_several_events_are_counted() {
    let stage = Stage::strict().await;
    let postbell = stage.run();
    let address = address(&postbell).await;
    stage.publish_listed(1, "default").await;
    stage.settled().await;
    shows(&address, &[("notification_throttled_waits_total", 0.0), ("notification_digest_events_count", 0.0)]).await;
    let client = stage.world.client();
    client.query_one("select notification_robot_pause('default')", &[]).await.unwrap();
    stage.publish_listed(40, "default").await;
    shows(
        &address,
        &[
            ("notification_throttled_waits_total", 40.0),
            ("notification_robot_waiting_events{robot=\"default\"}", 40.0),
            ("notification_events_total{channel=\"dingtalk\",template_id=\"listed\",outcome=\"wait\"}", 40.0),
        ],
    )
    .await;
    client.query_one("select notification_robot_resume('default')", &[]).await.unwrap();
    stage.settled().await;
    shows(
        &address,
        &[
            ("notification_digest_events_count", 1.0),
            ("notification_digest_events_sum", 40.0),
            ("notification_digest_events_bucket{le=\"20.0\"}", 0.0),
            ("notification_digest_events_bucket{le=\"50.0\"}", 1.0),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_scrape_says_which_connections_to_redis_stand_and_which_parts_get_on() {
    let stage = Stage::new().await;
    let [postbell, relay] = ["run", "relay"].map(|part| Postbell::start(&[part], &stage.env));
    let (address, relay) = (address(&postbell).await, address(&relay).await);
    let links = ["write", "read"].map(|link| {
        ["connected", "connects_total"].map(|metric| format!("notification_redis_{metric}{{link=\"{link}\"}}"))
    });
    let [[write, writes], [read, reads]] = &links;
    let parts = ["database", "relay", "queue", "consumer", "recorder", "robots"]
        .map(|part| format!("notification_ready{{part=\"{part}\"}}"));
    let all_ready: Vec<(&str, f64)> = parts.iter().map(|series| (series.as_str(), 1.0)).collect();
    shows(&address, &all_ready).await;
    shows(&address, &[(write, 1.0), (writes, 1.0), (read, 1.0), (reads, 1.0)]).await;
    shows(&relay, &[(write, 1.0), (writes, 1.0)]).await;
    let (_, text) = get(&relay, "/metrics").await;
    assert_eq!((value(&text, read), value(&text, &parts[3])), (None, None), "a relay does not receive: {text}");

    stage.world.redis.kill().await;
    shows(&address, &[(write, 0.0), (read, 0.0), (&parts[2], 0.0), (&parts[3], 0.0), (&parts[0], 1.0)]).await;
    stage.world.redis.restart_empty().await;
    shows(&address, &[(write, 1.0), (read, 1.0)]).await;
    shows(&address, &all_ready).await;
    let (_, text) = get(&address, "/metrics").await;
    assert!(value(&text, writes) >= Some(2.0) && value(&text, reads) >= Some(2.0), "{text}");
}

#[tokio::test]
async fn a_scrape_says_whether_the_relay_hears_of_new_events() {
    let stage = Stage::new().await;
    let server = Postgres::shared().await.address();
    let url = format!("{}?sslmode=disable", stage.world.database.url_through(&deaf(server).await));
    let deaf = Postbell::start(&["relay"], &stage.env.clone().with("DATABASE_URL", url));
    let [relay, consumer] = ["relay", "consume"].map(|part| Postbell::start(&[part], &stage.env));
    shows(&address(&deaf).await, &[("notification_listening{}", 0.0)]).await;
    shows(&address(&relay).await, &[("notification_listening{}", 1.0)]).await;
    let consumer = address(&consumer).await;
    shows(&consumer, &[("notification_ready{part=\"consumer\"}", 1.0)]).await;
    let (_, text) = get(&consumer, "/metrics").await;
    assert_eq!(value(&text, "notification_listening{}"), None, "a consumer does not listen: {text}");
}

#[tokio::test]
async fn a_scrape_is_answered_while_postgresql_does_not_answer() {
    let stage = Stage::new().await;
    let postgres = Proxy::start(Protocol::Postgres, Postgres::shared().await.address()).await;
    let env = stage.env.clone().with("DATABASE_URL", stage.world.database.url_through(&postgres.address()));
    let postbell = Postbell::start(&["run"], &env);
    let address = address(&postbell).await;
    stage.publish(1).await;
    stage.settled().await;
    postgres.stall();
    let delivered = "notification_events_total{channel=\"dingtalk\",template_id=\"plain\",outcome=\"delivered\"}";
    // By then the values are old enough to be read anew.
    eventually(SOON, "a scrape that waits for PostgreSQL, but not for long", async || {
        let began = Instant::now();
        let (status, text) = get(&address, "/metrics").await;
        assert!(status.contains("200") && value(&text, delivered) == Some(1.0), "{status} {text}");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(8), "Prometheus waits 10 s, and this took {took:?}");
        (took > Duration::from_secs(2)).then_some(())
    })
    .await;
    postgres.resume();
}
