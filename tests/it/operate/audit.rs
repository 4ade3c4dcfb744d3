//! `postbell audit`: who changed what, under the name that was given; and `postbell status`, which has it beside each send.

use serde_json::Value;

use super::{dead_letter, done};
use crate::harness::World;

/// `action by on`, the oldest first.
async fn audit(world: &World, words: &str) -> Vec<String> {
    let shown = done(&format!("audit --json {words}"), &world.env()).await;
    let changes = shown.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let line = |change: Value| {
        let text = |key: &str| change[key].as_str().unwrap_or_default().to_owned();
        format!("{} {} {}{}", text("action"), text("actor"), text("robot"), text("event_id"))
    };
    changes.map(line).rev().collect()
}

#[tokio::test]
async fn every_command_that_changes_something_is_in_the_audit_under_the_name_that_was_given() {
    let world = World::new().await;
    let dead = dead_letter(&world, "a", "message: too long", 1).await;
    let gone = dead_letter(&world, "a", "message: too long", 1).await;
    for words in [
        format!("replay {dead} --as li.lei"),
        format!("reschedule {dead} --at 1h --as li.lei"),
        format!("cancel {dead} --as li.lei"),
        format!("dead-letter purge {gone} --as li.lei"),
        "robots add hr --webhook env:HR --as li.lei".to_owned(),
        "robots add hr --webhook env:HR2 --replace --as li.lei".to_owned(),
        "robots pause hr --as li.lei".to_owned(),
        "robots resume hr --as li.lei".to_owned(),
        "robots remove hr --as li.lei".to_owned(),
    ] {
        done(&words, &world.env()).await;
    }
    assert_eq!(
        audit(&world, "").await,
        [
            format!("replay li.lei {dead}"),
            format!("reschedule li.lei {dead}"),
            format!("cancel li.lei {dead}"),
            format!("purge li.lei {gone}"),
            "target_added li.lei hr".to_owned(),
            "target_changed li.lei hr".to_owned(),
            "pause li.lei hr".to_owned(),
            "resume li.lei hr".to_owned(),
            "target_removed li.lei hr".to_owned(),
        ]
    );
    assert_eq!(audit(&world, "--by nobody").await.len(), 0);
    assert_eq!(audit(&world, "--by postgres --action cancel").await, [format!("cancel li.lei {dead}")]);
    assert_eq!(audit(&world, &format!("--event {gone} --since 1h")).await, [format!("purge li.lei {gone}")]);
    assert_eq!(audit(&world, "--limit 1").await, ["target_removed li.lei hr"]);
}

#[tokio::test]
async fn without_a_name_it_is_the_databases_user_and_the_environment_gives_a_name() {
    let world = World::new().await;
    let id = dead_letter(&world, "a", "message: too long", 1).await;
    done(&format!("replay {id}"), &world.env()).await;
    done(&format!("cancel {id}"), &world.env().with("NOTIFICATION_ACTOR", "han.mei")).await;
    done(&format!("replay {id}"), &world.env().with("NOTIFICATION_ACTOR", "")).await;
    let changes = audit(&world, "").await;
    assert_eq!(
        changes,
        [format!("replay postgres {id}"), format!("cancel han.mei {id}"), format!("replay postgres {id}")]
    );
    let shown = done(&format!("status {id}"), &world.env()).await;
    assert!(shown.contains("changes") && shown.contains("han.mei (postgres)"), "{shown}");
}

#[tokio::test]
async fn the_status_of_one_event_is_its_whole_history() {
    let world = World::new().await;
    let id = dead_letter(&world, "a", "platform: busy", 1).await;
    let sends = "insert into notification_attempts
            (event_id, started_at, replay_count, attempt, duration_ms, errcode, http_status, tries, class, robot, worker, answer)
        values ($1, now() - interval '2 minutes', 0, 1, 83, null, 502, 1, 'ambiguous', 'default', 'host-1', 'bad gateway'),
               ($1, now() - interval '1 minute', 0, 2, 40, -1, 200, 1, 'transient', 'hr', 'host-2', E'busy\n')";
    world.client().execute(sends, &[&id]).await.unwrap();
    done(&format!("replay {id} --as li.lei"), &world.env()).await;
    let shown = done(&format!("status {id}"), &world.env()).await;
    let at = |part: &str| shown.find(part).unwrap_or_else(|| panic!("no {part:?} in {shown}"));
    assert!(at("sends") < at("ambiguous") && at("bad gateway") < at("transient"), "{shown}");
    assert!(at("transient") < at("changes") && at("changes") < at("li.lei (postgres)"), "{shown}");
    assert!(shown.contains("83 ms") && shown.contains("502"), "{shown}");
    let json: Value = serde_json::from_str(&done(&format!("status {id} --json"), &world.env()).await).unwrap();
    let event = &json["events"][0];
    assert_eq!(event["attempts"][1]["errcode"], -1);
    assert_eq!(event["attempts"][0]["http_status"], 502);
    assert_eq!(event["audit"][0]["action"], "replay");
    assert_eq!(event["audit"][0]["detail"]["last_error"], "platform: busy");
}
