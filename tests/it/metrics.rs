//! What a scrape shows of a real run.

use std::collections::BTreeSet;

use postbell::sandbox::{Do, Rule};

use crate::harness::stage::Stage;
use crate::harness::{SOON, eventually, get};

/// The metrics of the table, as they are called in a scrape.
fn documented(readme: &str) -> BTreeSet<String> {
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

#[tokio::test]
async fn every_metric_of_the_readme_is_in_a_scrape_of_a_real_run_and_no_other() {
    let stage = Stage::strict().await;
    let fault = Rule::new(Do::Errcode { code: 400102, msg: "robot disabled".into() });
    stage.robot.script([fault.forever()]);
    let postbell = stage.run();
    let line = postbell.wait_for_line("serving /livez", SOON).await;
    let address = line.rsplit("addr=").next().unwrap().trim();
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
