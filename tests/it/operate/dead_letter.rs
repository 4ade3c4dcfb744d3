//! `postbell dead-letter`: what failed, listed, sent again, removed.

use super::{dead_letter, done, failed, statuses};
use crate::harness::World;

#[tokio::test]
async fn dead_letters_are_the_rows_that_failed() {
    let world = World::new().await;
    let old = dead_letter(&world, "old", "network: nothing was sent", 30).await;
    let new = dead_letter(&world, "new", "message: too long", 1).await;
    let open = world.publish("open", serde_json::json!({})).await;
    let listed = done("dead-letter list", &world.env()).await;
    assert!(listed.contains(&old.to_string()) && listed.contains(&new.to_string()), "{listed}");
    assert!(!listed.contains(&open.to_string()), "{listed}");
    let listed = done("dead-letter list --before 1d --json", &world.env()).await;
    assert!(listed.contains("\"old\"") && listed.lines().count() == 1, "{listed}");

    let dry = done("dead-letter replay --dry-run", &world.env()).await;
    assert!(dry.ends_with("2 would be replayed"), "{dry}");
    assert_eq!(done("dead-letter replay --type new", &world.env()).await, "1 replayed");
    assert_eq!(done("dead-letter replay", &world.env()).await, "1 replayed");
    assert_eq!(statuses(&world, &[old, new, open]).await, ["pending"; 3]);
}

#[tokio::test]
async fn only_what_failed_for_good_is_purged() {
    let world = World::new().await;
    let old = dead_letter(&world, "old", "network: nothing was sent", 1000).await;
    let new = dead_letter(&world, "new", "message: too long", 1).await;
    let owed = dead_letter(&world, "owed", "message: too long", 1).await;
    let unwritten = "update notification_events set completed_at = null where event_type = 'owed'";
    world.client().batch_execute(unwritten).await.unwrap();
    let open = world.publish("open", serde_json::json!({})).await;
    let ids = [old, new, owed, open];

    let refused = failed("dead-letter purge", 64, &world.env()).await;
    assert!(
        refused.contains("which dead letters? allowed: their ids, a filter such as --before 30d, or --all"),
        "{refused}"
    );
    let dry = done("dead-letter purge --before 30d --dry-run", &world.env()).await;
    assert!(dry.contains(&old.to_string()) && dry.ends_with("1 would be removed"), "{dry}");
    assert_eq!(done("dead-letter purge --before 30d", &world.env()).await, "1 removed");
    assert_eq!(statuses(&world, &ids).await, ["gone", "failed", "failed", "pending"]);

    let (code, stdout, stderr) = super::postbell(&format!("dead-letter purge {new} {open}"), &world.env()).await;
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(
        stderr.contains(&format!("nothing removed: no dead letters, for they have not failed: {open}")),
        "{stderr}"
    );
    for (id, says) in [(owed, "unchanged: the event is failed; only what is"), (old, "not found: no event has this id")]
    {
        let (code, stdout, _) = super::postbell(&format!("dead-letter purge {id}"), &world.env()).await;
        assert_eq!(code, 1);
        assert!(stdout.starts_with(&format!("{id}: {says}")), "{stdout}");
    }
    let purge = "select event_id, said from notification_purge_all(error => 'TOO LONG')";
    let purged = world.client().query(purge, &[]).await.unwrap();
    assert_eq!(purged.len(), 1);
    assert_eq!(purged[0].get::<_, String>(1), "removed: the event was failed");
    assert_eq!(statuses(&world, &ids).await, ["gone", "gone", "failed", "pending"]);
}

#[tokio::test]
async fn what_was_purged_is_known_to_the_audit_alone() {
    let world = World::new().await;
    let id = dead_letter(&world, "resume.parsed", "message: too long", 1).await;
    let url = "update notification_events set target = 'https://oapi.dingtalk.com/robot/send?access_token=TOKEN'";
    world.client().batch_execute(url).await.unwrap();
    assert_eq!(
        done(&format!("dead-letter purge {id} --as han.mei"), &world.env()).await,
        format!("{id}: removed: the event was failed")
    );
    let shown = done("audit --by han.mei --action purge", &world.env()).await;
    for part in [&id.to_string(), "han.mei (postgres)", "purge", "event_type: resume.parsed", "was: failed"] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    let json = done("audit --json --since 1h", &world.env()).await;
    let change: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(change["detail"]["event_type"], "resume.parsed");
    assert_eq!(done(&format!("audit --event {}", uuid::Uuid::nil()), &world.env()).await, "no change fits");

    let (code, stdout, stderr) = super::postbell(&format!("status {id}"), &world.env()).await;
    assert_eq!(code, 1);
    assert!(
        stderr.contains("no such event") && stdout.contains("is gone") && stdout.contains("purge"),
        "{stdout} {stderr}"
    );
    for text in [shown, json, stdout] {
        assert!(!text.contains("TOKEN") && !text.contains("PAYLOAD"), "{text}");
    }
}
