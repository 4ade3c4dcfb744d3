//! A stuck pipeline shows: the part that is stuck is not ready, and says why.

use postbell::sandbox::{Do, Rule};

use crate::cli::ended;
use crate::harness::process::Postbell;
use crate::harness::servers::{Postgres, free_port};
use crate::harness::stage::Stage;
use crate::harness::{SOON, eventually, get};

/// Where a process serves its health.
async fn address(postbell: &Postbell) -> String {
    let line = postbell.wait_for_line("serving /livez", SOON).await;
    line.rsplit("addr=").next().unwrap().trim().to_owned()
}

async fn is_ready(address: &str) -> String {
    eventually(SOON, "the process to be ready", async || {
        let (status, body) = get(address, "/readyz").await;
        status.contains("200").then_some(body)
    })
    .await
}

/// Waits until the process is not ready and says so with these words.
async fn is_stuck(address: &str, words: &[&str]) {
    let deadline = SOON * 3;
    eventually(deadline, &format!("the process to be not ready and say {words:?}"), async || {
        let (status, body) = get(address, "/readyz").await;
        (status.contains("503") && words.iter().all(|word| body.contains(word))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn readiness_fails_while_redis_is_away_and_names_it_and_metrics_count_what_was_done() {
    let stage = Stage::new().await;
    let postbell = stage.run();
    let address = address(&postbell).await;
    stage.publish(3).await;
    stage.settled().await;
    assert!(get(&address, "/livez").await.0.contains("200"));
    assert!(get(&address, "/readyz").await.0.contains("200"));
    let expected = [
        "notification_events_total{channel=\"dingtalk\",template_id=\"plain\",outcome=\"delivered\"} 3",
        "notification_delivery_duration_seconds_count{channel=\"dingtalk\",class=\"success\"} 3",
        "notification_retry_total{channel=\"dingtalk\",class=\"transient\"} 0",
        "notification_queue_depth 0",
        "notification_outbox_backlog 0",
        "notification_outbox_oldest_due_age_seconds 0",
    ];
    // Hints are acknowledged after their events are recorded, and gauges are read every few seconds.
    eventually(SOON, "the metrics to say what was done", async || {
        let (_, metrics) = get(&address, "/metrics").await;
        expected.iter().all(|line| metrics.contains(line)).then_some(())
    })
    .await;
    stage.world.redis.kill().await;
    is_stuck(&address, &["queue: Redis", "consumer: Redis"]).await;
    assert!(get(&address, "/livez").await.0.contains("200"), "a restart would not help");
    stage.world.redis.restart_empty().await;
    is_ready(&address).await;
}

#[tokio::test]
async fn a_database_that_is_away_is_named_by_relay_and_consumer_though_they_have_nothing_to_do() {
    let stage = Stage::new().await;
    let postgres = Postgres::own().await;
    let database = postgres.database().await;
    let env = stage.env.clone().with("DATABASE_URL", database.url()).with("NOTIFICATION_POLL_INTERVAL", "1s");
    let [relay, consumer] = ["relay", "consume"].map(|part| Postbell::start(&[part], &env));
    let (relay, consumer) = (address(&relay).await, address(&consumer).await);
    tokio::join!(is_ready(&relay), is_ready(&consumer));
    postgres.stop_immediate().await;
    tokio::join!(is_stuck(&relay, &["relay: "]), is_stuck(&consumer, &["robots: "]));
    postgres.start().await;
    tokio::join!(is_ready(&relay), is_ready(&consumer));
}

#[tokio::test]
async fn a_relay_without_consumers_says_so_and_no_longer_when_one_comes() {
    let stage = Stage::new().await;
    let relay = Postbell::start(&["relay"], &stage.env.clone().with("NOTIFICATION_HINT_LEASE", "5s"));
    let relay = address(&relay).await;
    is_ready(&relay).await;
    stage.publish(1).await;
    is_stuck(&relay, &["queue: no consumer reads the hints in the stream"]).await;
    let _consumer = Postbell::start(&["consume"], &stage.env);
    stage.settled().await;
    is_ready(&relay).await;
}

#[tokio::test]
async fn a_group_that_is_gone_is_made_again_and_a_stream_that_is_none_is_named() {
    let stage = Stage::new().await;
    let postbell = stage.run();
    let address = address(&postbell).await;
    is_ready(&address).await;
    let mut redis = stage.world.redis.client().await;
    let destroyed: i64 = redis::cmd("XGROUP")
        .arg("DESTROY")
        .arg("notification:events")
        .arg("postbell")
        .query_async(&mut redis)
        .await
        .unwrap();
    assert_eq!(destroyed, 1);
    stage.publish(3).await;
    stage.settled().await;
    is_ready(&address).await;

    let () = redis::cmd("SET").arg("notification:events").arg("a stranger's").query_async(&mut redis).await.unwrap();
    is_stuck(&address, &["queue: ", "consumer: ", "WRONGTYPE"]).await;
    let () = redis::cmd("DEL").arg("notification:events").query_async(&mut redis).await.unwrap();
    is_ready(&address).await;
    stage.publish(3).await;
    stage.settled().await;
}

#[tokio::test]
async fn a_paused_robot_is_reported_by_a_process_that_is_ready() {
    let stage = Stage::new().await;
    stage.robot.script([Rule::new(Do::Errcode { code: 400102, msg: "robot disabled".into() }).forever()]);
    let postbell = stage.run();
    let address = address(&postbell).await;
    assert_eq!(is_ready(&address).await, "ready\n");
    stage.publish(1).await;
    let reported = "robot default is paused by postbell: robot's settings: it is disabled";
    eventually(SOON, "the robot to be reported", async || {
        let (status, body) = get(&address, "/readyz").await;
        (status.contains("200") && body.starts_with("ready\n") && body.contains(reported)).then_some(())
    })
    .await;
    stage.robot.clear_script();
    let resume = "select notification_robot_resume('default')";
    stage.world.client().query_one(resume, &[]).await.unwrap();
    eventually(SOON, "nothing to be reported", async || (get(&address, "/readyz").await.1 == "ready\n").then_some(()))
        .await;
}

#[tokio::test]
async fn health_asks_the_running_process_and_ends_with_its_answer_and_the_reason() {
    let stage = Stage::new().await;
    let port = free_port();
    let env = stage.env.clone().with("NOTIFICATION_HTTP_ADDR", format!("0.0.0.0:{port}"));
    let (code, _, stderr) = ended(&["health"], &env).await;
    assert_eq!(code, 1, "nobody answers yet: {stderr}");
    assert!(stderr.contains(&format!("http://127.0.0.1:{port}/readyz: Connection refused")), "{stderr}");

    let postbell = Postbell::start(&["run"], &env);
    is_ready(&address(&postbell).await).await;
    assert_eq!(ended(&["health"], &env).await, (0, "ready".to_owned(), String::new()));
    assert_eq!(ended(&["health", "--live"], &env).await, (0, "alive".to_owned(), String::new()));

    stage.world.redis.kill().await;
    is_stuck(&format!("127.0.0.1:{port}"), &["queue: Redis", "consumer: Redis"]).await;
    let (code, stdout, stderr) = ended(&["health"], &env).await;
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.starts_with("postbell: not ready: ") && stderr.contains("queue: Redis"), "{stderr}");
    assert_eq!(ended(&["health", "--live"], &env).await.0, 0, "a restart would not help");

    for nobody in ["off", "127.0.0.1:0"] {
        let (code, _, stderr) = ended(&["health"], &env.clone().with("NOTIFICATION_HTTP_ADDR", nobody)).await;
        assert_eq!(code, 64, "{stderr}");
        assert!(stderr.contains("NOTIFICATION_HTTP_ADDR (--http-addr): given"), "{stderr}");
    }
}

#[tokio::test]
async fn health_says_that_it_is_somebody_else_who_listens_there() {
    let stage = Stage::new().await;
    let env = stage.env.clone().with("NOTIFICATION_HTTP_ADDR", stage.robot.addr());
    let (code, _, stderr) = ended(&["health"], &env).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("it is not postbell that listens there"), "{stderr}");
}
