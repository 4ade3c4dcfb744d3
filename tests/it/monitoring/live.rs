//! A real Prometheus with the project's own configuration and rules, scraping real processes.

use serde_json::{Value, json};

use super::read;
use crate::harness::servers::Prometheus;
use crate::harness::{SOON, eventually};

/// Prometheus as `ops/prometheus` has it, but for these targets, and for the time: it scrapes every second, and what the
/// rules call a minute is a second.
pub(super) async fn watching(targets: &[&str]) -> Prometheus {
    let mut config: Value = serde_saphyr::from_str(&read("prometheus/prometheus.yml")).unwrap();
    config["global"] = json!({"scrape_interval": "1s", "evaluation_interval": "1s"});
    config["scrape_configs"][0]["static_configs"] = json!([{ "targets": targets }]);
    let mut rules: Value = serde_saphyr::from_str(&read("prometheus/rules.yml")).unwrap();
    for rule in rules["groups"][0]["rules"].as_array_mut().unwrap() {
        let [pause, expression] = ["for", "expr"].map(|key| rule[key].as_str().unwrap().to_owned());
        rule["for"] = hurried(&pause).into();
        // A range stands in brackets.
        let mut parts = expression.split('[');
        let first = parts.next().unwrap().to_owned();
        let hurried = parts.fold(first, |whole, part| {
            let (range, rest) = part.split_once(']').unwrap();
            format!("{whole}[{}]{rest}", hurried(range))
        });
        rule["expr"] = hurried.into();
    }
    // All JSON is YAML.
    let prometheus =
        Prometheus::start(&[("prometheus.yml", config.to_string()), ("rules.yml", rules.to_string())]).await;
    eventually(SOON, "the processes to be scraped twice", async || {
        let scraped = prometheus.query("count_over_time(up[1m]) >= 2 and up == 1").await;
        (scraped.len() == targets.len()).then_some(())
    })
    .await;
    prometheus
}

/// So many minutes, as so many seconds.
fn hurried(duration: &str) -> String {
    let minutes: u32 = duration.strip_suffix('m').and_then(|minutes| minutes.parse().ok()).unwrap();
    format!("{minutes}s")
}
