//! What the log says of each event.

use std::collections::BTreeMap;

use postbell::sandbox::{Do, Rule};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::process::Postbell;
use crate::harness::stage::Stage;
use crate::harness::{SOON, eventually};

async fn publish(stage: &Stage, payload: Value, trace_id: &str) -> Uuid {
    let insert =
        "insert into notification_events (event_type, payload, trace_id) values ('plain', $1, $2) returning id";
    stage.world.client().query_one(insert, &[&payload, &trace_id]).await.unwrap().get(0)
}

#[tokio::test]
async fn each_outcome_is_one_line_with_event_trace_and_template_id_and_no_payload() {
    let stage = Stage::new().await;
    let env = stage.env.clone().with("NOTIFICATION_LOG", "info").with("NOTIFICATION_LOG_FORMAT", "json");
    let mut postbell = Postbell::start(&["run"], &env);
    let text = |text: &str| json!({ "text": format!("{text} payl0ad-of-somebody") });
    let busy = Do::Reply { status: 503, body: String::new(), headers: Default::default() };
    stage.robot.script([Rule::new(busy).containing("twice").times(1)]);
    let delivered = publish(&stage, text("once"), "trace-of-one").await;
    let retried = publish(&stage, text("twice"), "trace-of-two").await;
    let failed = publish(&stage, json!({ "more": "payl0ad-of-somebody" }), "trace-of-three").await;
    stage.settled().await;
    eventually(SOON, "the last outcome in the log", async || {
        let lines = postbell.stderr();
        [delivered, retried, failed]
            .iter()
            .all(|id| lines.iter().any(|line| line.contains(&id.to_string())))
            .then_some(())
    })
    .await;
    postbell.sigterm();
    assert!(postbell.exit_status(SOON).await.success());

    let mut said: BTreeMap<Uuid, Vec<String>> = BTreeMap::new();
    for line in postbell.stderr() {
        assert!(!line.contains("payl0ad") && !line.contains("access_token"), "{line}");
        let line: Value = serde_json::from_str(&line).unwrap();
        let Some(id) = line["event_id"].as_str() else { continue };
        let told = ["level", "message", "trace_id", "template_id"].map(|field| line[field].as_str().unwrap_or("–"));
        said.entry(id.parse().unwrap()).or_default().push(told.join(" "));
    }
    let expected = [
        (delivered, vec!["INFO delivered trace-of-one plain"]),
        (retried, vec!["WARN retry trace-of-two plain", "INFO delivered trace-of-two plain"]),
        (failed, vec!["ERROR failed trace-of-three plain"]),
    ];
    let expected: BTreeMap<Uuid, Vec<String>> =
        expected.into_iter().map(|(id, lines)| (id, lines.into_iter().map(str::to_owned).collect())).collect();
    assert_eq!(said, expected);
}
