//! The Grafana dashboard.

use std::collections::{BTreeMap, BTreeSet};

use super::live::watching;
use super::{assert_documented, read};
use crate::harness::stage::Stage;
use crate::harness::{SOON, eventually};
use crate::metrics::address;
use postbell::sandbox::{Do, Rule};
use serde::Deserialize;

/// A dashboard, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Dashboard {
    /// One database's own: none here.
    id: Option<u32>,
    uid: String,
    panels: Vec<Panel>,
    templating: List<Variable>,
    annotations: List<Annotation>,
}

#[derive(Debug, Deserialize)]
struct List<T> {
    list: Vec<T>,
}

#[derive(Debug, Deserialize)]
struct Panel {
    id: u32,
    title: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    description: String,
    #[serde(rename = "gridPos")]
    place: Place,
    #[serde(default)]
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Place {
    x: u32,
    y: u32,
    w: u32,
    h: u32,
}

impl Place {
    fn cells(&self) -> impl Iterator<Item = (u32, u32)> {
        (self.x..self.x + self.w).flat_map(|x| (self.y..self.y + self.h).map(move |y| (x, y)))
    }
}

#[derive(Debug, Deserialize)]
struct Target {
    datasource: Source,
    expr: String,
}

#[derive(Debug, Deserialize)]
struct Source {
    uid: String,
}

#[derive(Debug, Deserialize)]
struct Variable {
    name: String,
    #[serde(default)]
    definition: String,
}

#[derive(Debug, Deserialize)]
struct Annotation {
    #[serde(default)]
    expr: String,
}

fn dashboard() -> Dashboard {
    serde_json::from_str(&read("grafana/postbell.json")).unwrap()
}

/// A query as Grafana sends it where everything is selected.
fn filled_in(query: &str) -> String {
    let filled = [("$__rate_interval", "1m"), ("$job", "postbell"), ("$instance", ".*")]
        .iter()
        .fold(query.to_owned(), |query, (variable, value)| query.replace(variable, value));
    assert!(!filled.contains('$'), "there is no such variable: {filled}");
    filled
}

#[test]
fn every_panel_says_what_it_shows_in_a_place_of_its_own_and_asks_for_metrics_that_the_readme_names() {
    let dashboard = dashboard();
    assert_eq!((dashboard.id, dashboard.uid.as_str()), (None, "postbell"));
    let mut taken = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for panel in &dashboard.panels {
        let title = &panel.title;
        assert!(ids.insert(panel.id), "{title}: its id is another's");
        assert!(panel.place.x + panel.place.w <= 24, "{title} is wider than the page");
        for cell in panel.place.cells() {
            if let Some(other) = taken.insert(cell, title) {
                panic!("{title} lies on {other}");
            }
        }
        assert_eq!(panel.targets.is_empty(), panel.kind == "row", "{title}");
        assert!(panel.kind == "row" || panel.description.ends_with('.'), "{title} says what it shows");
        for target in &panel.targets {
            assert_eq!(target.datasource.uid, "${datasource}", "{title}");
            assert_documented(title, &target.expr);
        }
    }
    let variables: Vec<&str> = dashboard.templating.list.iter().map(|variable| variable.name.as_str()).collect();
    assert_eq!(variables, ["datasource", "job", "instance"]);
    let definitions = dashboard.templating.list.iter().map(|variable| &variable.definition);
    let annotations = dashboard.annotations.list.iter().map(|annotation| &annotation.expr);
    definitions.chain(annotations).for_each(|query| assert_documented("a variable or annotation", query));
}

#[tokio::test]
async fn every_panel_has_data_in_a_real_prometheus_that_scrapes_a_real_run() {
    let stage = Stage::strict().await;
    let postbell = stage.run();
    let prometheus = watching(&[&address(&postbell).await]).await;

    // Some arrive, one after a retry, one fails; and after a pause some more go in one message.
    let unsafe_content = Do::Errcode { code: 430104, msg: "unsafe content".into() };
    let disturbed = Do::Reply { status: 503, body: String::new(), headers: BTreeMap::new() };
    stage.robot.script([Rule::new(unsafe_content).containing("poison").forever(), Rule::new(disturbed).times(1)]);
    stage.publish(5).await;
    stage.publish_one("poison").await;
    stage.settled().await;
    let client = stage.world.client();
    client.query_one("select notification_robot_pause('default')", &[]).await.unwrap();
    stage.publish_listed(40, "default").await;
    eventually(SOON, "the events to wait for their robot", async || {
        let waiting = "select count(*) from notification_events where waiting_since is not null";
        (client.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 40).then_some(())
    })
    .await;
    client.query_one("select notification_robot_resume('default')", &[]).await.unwrap();
    stage.settled().await;

    let mut asked = 0;
    for Panel { title, targets, .. } in dashboard().panels {
        for Target { expr, .. } in targets {
            let query = filled_in(&expr);
            eventually(SOON, &format!("{title} to have data by {query}"), async || {
                let series = prometheus.query(&query).await;
                series.iter().any(|sample| sample.value().is_finite()).then_some(())
            })
            .await;
            asked += 1;
        }
    }
    assert!(asked >= 40, "{asked} queries");
    for Annotation { expr } in dashboard().annotations.list.into_iter().filter(|one| !one.expr.is_empty()) {
        assert!(prometheus.query(&filled_in(&expr)).await.is_empty(), "nothing is wrong");
    }
    assert!(prometheus.label_values("job").await.contains(&"postbell".to_owned()));
}
