//! The alerting rules.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde::Deserialize;

use super::{assert_documented, metrics_in, path, read};

/// A file of rules.
#[derive(Debug, Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

/// One alert.
#[derive(Debug, Deserialize)]
struct Rule {
    alert: String,
    expr: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

/// The alerts of `ops/prometheus/rules.yml`.
fn alerts() -> Vec<Rule> {
    let rules: Rules = serde_saphyr::from_str(&read("prometheus/rules.yml")).unwrap();
    rules.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// Runs promtool in `ops/prometheus`.
fn check(arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).current_dir(path("prometheus")).output();
    let output = output.unwrap_or_else(|error| panic!("promtool, which ops/test installs: {error}"));
    let [said, complained] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "promtool {arguments:?}:\n{said}{complained}");
}

#[test]
fn the_rules_fire_when_they_should_and_keep_quiet_when_they_should_not() {
    check(&["check", "config", "prometheus.yml"]);
    check(&["check", "rules", "--lint-fatal", "rules.yml"]);
    check(&["test", "rules", "rules_test.yml"]);
}

#[test]
fn every_alert_is_tested_both_ways() {
    #[derive(Deserialize)]
    struct Tests {
        tests: Vec<Test>,
    }
    #[derive(Deserialize)]
    struct Test {
        alert_rule_test: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        alertname: String,
        exp_alerts: Vec<serde_json::Value>,
    }
    let tests: Tests = serde_saphyr::from_str(&read("prometheus/rules_test.yml")).unwrap();
    let cases: Vec<Case> = tests.tests.into_iter().flat_map(|test| test.alert_rule_test).collect();
    let tested = |fires: bool| -> BTreeSet<&str> {
        let of_kind = cases.iter().filter(|case| case.exp_alerts.is_empty() != fires);
        of_kind.map(|case| case.alertname.as_str()).collect()
    };
    let alerts = alerts();
    let alerts: BTreeSet<&str> = alerts.iter().map(|rule| rule.alert.as_str()).collect();
    assert_eq!((tested(true), tested(false)), (alerts.clone(), alerts));
}

#[test]
fn both_readmes_list_every_alert() {
    let alerts = alerts();
    let alerts: BTreeSet<&str> = alerts.iter().map(|rule| rule.alert.as_str()).collect();
    for readme in ["README.md", "README.zh-CN.md"] {
        let text = read(&format!("../{readme}"));
        let listed = text.lines().filter_map(|line| line.strip_prefix("| `Postbell")?.split_once('`'));
        let listed: BTreeSet<String> = listed.map(|(name, _)| format!("Postbell{name}")).collect();
        assert_eq!(listed.iter().map(String::as_str).collect::<BTreeSet<_>>(), alerts, "{readme}");
    }
}

#[test]
fn every_alert_says_what_is_wrong_and_what_to_do_about_metrics_that_the_readme_names() {
    let alerts = alerts();
    assert!(alerts.len() >= 10);
    for Rule { alert, expr, labels, annotations } in alerts {
        let keys: Vec<&str> = annotations.keys().map(String::as_str).collect();
        assert_eq!(keys, ["description", "summary"], "{alert}");
        assert!(["critical", "warning"].contains(&labels["severity"].as_str()), "{alert}: {labels:?}");
        assert!(alert.starts_with("Postbell"), "{alert}");
        assert!(!metrics_in(&expr).is_empty() || expr.starts_with("up{"), "{alert}: {expr}");
        assert_documented(&alert, &expr);
    }
}

#[test]
fn the_rules_have_the_thresholds_that_the_service_has_unless_it_is_told_otherwise() {
    let example = read("../.env.example");
    let default = |name: &str| {
        let line = example.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("{name} is not in .env.example"))
    };
    let minutes = |text: &str| text.strip_suffix('m').unwrap().parse::<u32>().unwrap();
    let (percent, window) = default("NOTIFICATION_ALERT_FAILURE_RATE").split_once("%/").unwrap();
    let least = default("NOTIFICATION_ALERT_LEAST_SENDS");
    let share = percent.parse::<f64>().unwrap() / 100.0;
    for (alert, parts) in [
        ("PostbellDeadLetters", vec![format!(">= {} ", default("NOTIFICATION_ALERT_DEAD_LETTERS"))]),
        ("PostbellOldestDue", vec![format!("> {} ", 60 * minutes(default("NOTIFICATION_ALERT_OLDEST_DUE")))]),
        ("PostbellFailureRate", vec![format!("[{window}]"), format!(">= {share} "), format!(">= {least} ")]),
    ] {
        let expr = alerts().into_iter().find(|rule| rule.alert == alert).unwrap().expr;
        let words = expr.split_whitespace().map(|word| format!("{word} ")).collect::<String>();
        assert!(parts.iter().all(|part| words.contains(part)), "{alert}: {words} has not {parts:?}");
    }
}
