//! What goes wrong fires its rule in a real Prometheus, and no other, and no longer than it lasts.

use std::collections::BTreeSet;
use std::time::Duration;

use postbell::sandbox::{Sandbox, Settings};
use serde_json::json;
use tokio::net::TcpListener;

use super::live::watching;
use crate::harness::process::Postbell;
use crate::harness::servers::{Prometheus, free_port};
use crate::harness::stage::Stage;
use crate::harness::{SOON, eventually};
use crate::metrics::address;

/// The longest rule here takes ten seconds, and the gauges it looks at are read every five.
const WHILE: Duration = Duration::from_secs(60);

/// The alerts that fire now, with the robot they are about.
async fn firing(prometheus: &Prometheus) -> BTreeSet<String> {
    let alerts = prometheus.query(r#"ALERTS{alertstate="firing"}"#).await;
    let named = alerts.iter().map(|alert| {
        let robot = alert.metric.get("robot").map(|robot| format!(" of {robot}")).unwrap_or_default();
        format!("{}{robot}", alert.metric["alertname"])
    });
    named.collect()
}

/// Waits until an alert fires; none but it and these others may.
async fn fires(prometheus: &Prometheus, alert: &str, others: &[&str]) {
    eventually(WHILE, &format!("{alert} to fire"), async || {
        let mut firing = firing(prometheus).await;
        let is_firing = firing.remove(alert);
        let unexpected: Vec<&String> = firing.iter().filter(|alert| !others.contains(&alert.as_str())).collect();
        assert!(unexpected.is_empty(), "{unexpected:?} fires, where {alert} should");
        is_firing.then_some(())
    })
    .await;
}

/// Waits until nothing is wrong any more.
async fn clears(prometheus: &Prometheus) {
    eventually(WHILE, "no alert to fire", async || firing(prometheus).await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn stopping_the_receiver_fires_the_failure_rate_until_it_is_back() {
    let Stage { world, robot, env } = Stage::new().await;
    let postbell = Postbell::start(&["run"], &env);
    let prometheus = watching(&[&address(&postbell).await]).await;
    let publish = async |text: &str| world.publish("plain", json!({ "text": text })).await;
    publish("before").await;
    robot.wait_for_messages(1, SOON).await.unwrap();
    assert_eq!(firing(&prometheus).await, BTreeSet::new());

    let receiver = robot.addr();
    robot.shutdown().await;
    publish("meanwhile").await;
    publish("meanwhile, too").await;
    fires(&prometheus, "PostbellFailureRate", &[]).await;

    let listener = TcpListener::bind(receiver).await.unwrap();
    let robot = Sandbox::start(listener, Settings { rate: None, ..Settings::default() }).unwrap();
    publish("after").await;
    robot.wait_for_messages(1, SOON).await.unwrap();
    clears(&prometheus).await;
}

#[tokio::test]
async fn breaking_the_secret_fires_that_the_robot_is_paused_until_it_is_mended() {
    let stage = Stage::with(Settings { rate: None, secret: Some("SECright".into()), ..Settings::default() }).await;
    let secret = std::env::temp_dir().join(format!("postbell-test-secret-{:016x}", fastrand::u64(..)));
    std::fs::write(&secret, "SECright").unwrap();
    let insert = "insert into notification_channels (name, webhook, secret) values ('hr', 'env:HR_WEBHOOK', $1)";
    stage.world.client().execute(insert, &[&format!("file:{}", secret.display())]).await.unwrap();
    let env = stage.env.clone().with("HR_WEBHOOK", stage.robot.webhook("hr"));
    let postbell = Postbell::start(&["run"], &env);
    let prometheus = watching(&[&address(&postbell).await]).await;
    let publish = async || stage.publish_to("hr", "plain", json!({"text": "x"})).await;
    publish().await;
    stage.settled().await;
    assert_eq!(firing(&prometheus).await, BTreeSet::new());

    std::fs::write(&secret, "SECwrong").unwrap();
    // Until the file is read again the right one is used.
    eventually(SOON, "the robot to be paused", async || {
        publish().await;
        let paused = "select 1 from notification_robots where name = 'hr' and paused_at is not null";
        stage.world.client().query_opt(paused, &[]).await.unwrap()
    })
    .await;
    fires(&prometheus, "PostbellRobotPaused of hr", &[]).await;

    std::fs::write(&secret, "SECright").unwrap();
    stage.settled_within(WHILE).await;
    clears(&prometheus).await;
    std::fs::remove_file(&secret).unwrap();
}

#[tokio::test]
async fn filling_the_dead_letter_fires_until_the_events_are_replayed() {
    let stage = Stage::new().await;
    let env = stage.env.clone().with("HR_WEBHOOK", stage.robot.webhook("hr"));
    let postbell = Postbell::start(&["run"], &env);
    let prometheus = watching(&[&address(&postbell).await]).await;
    stage.publish_listed(9, "hr").await;
    stage.settled().await;
    assert_eq!(firing(&prometheus).await, BTreeSet::new());
    stage.publish_listed(1, "hr").await;
    fires(&prometheus, "PostbellDeadLetters", &[]).await;

    let client = stage.world.client();
    let insert = "insert into notification_channels (name, webhook) values ('hr', 'env:HR_WEBHOOK')";
    client.batch_execute(insert).await.unwrap();
    client.batch_execute("select * from notification_replay_all(status => 'failed')").await.unwrap();
    stage.settled().await;
    clears(&prometheus).await;
    assert_eq!(stage.robot.messages().len(), 10);
}

#[tokio::test]
async fn stopping_the_consumer_fires_that_it_stands_still_and_that_events_are_late_until_it_is_back() {
    let stage = Stage::new().await;
    let on_one_port = stage.env.clone().with("NOTIFICATION_HTTP_ADDR", format!("127.0.0.1:{}", free_port()));
    let relay = Postbell::start(&["relay"], &stage.env);
    let mut consumer = Postbell::start(&["consume"], &on_one_port);
    let prometheus = watching(&[&address(&relay).await, &address(&consumer).await]).await;
    stage.publish(1).await;
    stage.settled().await;
    assert_eq!(firing(&prometheus).await, BTreeSet::new());

    consumer.sigterm();
    assert!(consumer.exit_status(SOON).await.success());
    stage.publish(5).await;
    // Minutes that the database measures are not hurried: this one is as late as it would be by then.
    let late = "insert into notification_events (event_type, payload, created_at, scheduled_at)
        values ('plain', '{\"text\": \"late\"}', now() - interval '11 minutes', now() - interval '11 minutes')";
    stage.world.client().batch_execute(late).await.unwrap();
    let both = ["PostbellConsumerStalled", "PostbellOldestDue"];
    for alert in both {
        // Its address does not answer, of course; and after a while the relay says that nobody reads.
        fires(&prometheus, alert, &[both[0], both[1], "PostbellDown", "PostbellNotReady"]).await;
    }

    let _consumer = Postbell::start(&["consume"], &on_one_port);
    stage.settled().await;
    clears(&prometheus).await;
}
