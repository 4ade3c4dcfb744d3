//! `postbell replay`, `cancel` and `reschedule`, and the functions behind them.

use std::time::{Duration, Instant};

use super::{dead_letter, done, failed, postbell, statuses};
use crate::harness::World;
use crate::harness::process::Postbell;
use crate::harness::{SOON, eventually};

#[tokio::test]
async fn what_fits_is_replayed_and_nothing_else_and_a_dry_run_only_says_so() {
    let world = World::new().await;
    let old = dead_letter(&world, "resume.parsed", "template resume.parsed: variable \"name\" is missing", 30).await;
    let one = dead_letter(&world, "resume.parsed", "template resume.parsed: variable \"name\" is missing", 3).await;
    let two = dead_letter(&world, "resume.parsed", "template resume.parsed: variable \"name\" is missing", 2).await;
    let other = dead_letter(&world, "resume.parsed", "message: too long", 1).await;
    let ids = [old, one, two, other];
    let which = "--status failed --since 1d --error-class template";
    let dry = done(&format!("replay {which} --dry-run"), &world.env()).await;
    assert!(dry.contains(&one.to_string()) && dry.contains(&two.to_string()), "{dry}");
    assert!(dry.ends_with("2 would be replayed"), "{dry}");
    assert_eq!(statuses(&world, &ids).await, ["failed"; 4]);
    assert_eq!(done(&format!("replay {which}"), &world.env()).await, "2 replayed");
    assert_eq!(statuses(&world, &ids).await, ["failed", "pending", "pending", "failed"]);
    assert_eq!(done(&format!("replay {which}"), &world.env()).await, "0 replayed");
    let one = done("replay --error LONG --limit 1", &world.env()).await;
    assert!(one.starts_with("1 replayed\nthose were the oldest 1; once more goes on"), "{one}");
    assert_eq!(statuses(&world, &ids).await, ["failed", "pending", "pending", "pending"]);
}

#[tokio::test]
async fn psql_alone_replays_what_fits() {
    let world = World::new().await;
    let old = dead_letter(&world, "a", "message: too long", 30).await;
    let new = dead_letter(&world, "b", "message: too long", 1).await;
    let ids = [old, new];
    let replay = async |words: &str| {
        let sql = format!("select event_id::text || ' ' || said from notification_replay_all({words})");
        let rows = world.client().query(&sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    };
    let dry = replay("dry_run => true").await;
    assert_eq!(
        dry,
        [
            format!("{old} would be replayed: a, message: too long"),
            format!("{new} would be replayed: b, message: too long"),
        ]
    );
    assert_eq!(replay("since => now() - interval '1 day', error_class => 'network'").await.len(), 0);
    assert_eq!(
        replay("since => now() - interval '1 day', error_class => 'message'").await,
        [format!("{new} replayed: the event was failed and is sent again now")]
    );
    assert_eq!(statuses(&world, &ids).await, ["failed", "pending"]);
    assert_eq!(replay("most => 1").await.len(), 1);
    assert_eq!(statuses(&world, &ids).await, ["pending", "pending"]);
}

#[tokio::test]
async fn each_id_is_told_what_happened_to_it_and_one_that_was_not_replayed_is_a_failure() {
    let world = World::new().await;
    let dead = dead_letter(&world, "a", "message: too long", 1).await;
    let open = world.publish("a", serde_json::json!({})).await;
    let nobody = "00000000-0000-0000-0000-000000000000";
    let (code, stdout, stderr) = postbell(&format!("replay {dead} {open} {nobody}"), &world.env()).await;
    assert_eq!(code, 1);
    assert!(stdout.contains(&format!("{dead}: replayed: the event was failed")), "{stdout}");
    assert!(stdout.contains(&format!("{open}: unchanged: the event is still pending")), "{stdout}");
    assert!(stdout.contains(&format!("{nobody}: not found: no event has this id")), "{stdout}");
    assert!(stderr.contains("2 of 3 not replayed"), "{stderr}");

    let cancelled = done(&format!("cancel {dead} {open}"), &world.env()).await;
    assert_eq!(cancelled, format!("{dead}: cancelled\n{open}: cancelled"));
    let unchanged = failed(&format!("reschedule {open} --at 1h"), 1, &world.env()).await;
    assert!(unchanged.contains("1 of 1 not rescheduled"), "{unchanged}");
    let open = world.publish("a", serde_json::json!({})).await;
    let moved = done(&format!("reschedule {open} --at 2031-05-06T07:08:00Z"), &world.env()).await;
    assert!(moved.contains("rescheduled: from ") && moved.ends_with("to 2031-05-06 07:08:00+00"), "{moved}");
}

#[tokio::test]
async fn nothing_is_replayed_by_mistake() {
    let world = World::new().await;
    let dead = dead_letter(&world, "a", "message: too long", 1).await;
    for (words, says) in [
        ("replay".to_owned(), "which events? allowed: their ids, or a filter such as --status failed"),
        ("replay --since soon".to_owned(), "allowed: a duration such as 90m"),
        ("replay --status pending".to_owned(), "allowed: delivered, failed, cancelled"),
        (format!("replay {dead} --type a"), "given ids and a filter; allowed: one of them"),
        (format!("replay {dead} --rate fast"), "such as 20/s or 100/1m, or off"),
        ("replay https://x/?access_token=TOKEN".to_owned(), "invalid value"),
    ] {
        let refused = failed(&words, 64, &world.env()).await;
        assert!(refused.contains(says), "{words}: {refused}");
    }
    assert_eq!(statuses(&world, &[dead]).await, ["failed"]);
}

#[tokio::test]
async fn a_rate_is_kept_and_an_interruption_says_what_was_done() {
    let world = World::new().await;
    for _ in 0..6 {
        dead_letter(&world, "a", "message: too long", 1).await;
    }
    let start = Instant::now();
    let three = done("replay --status failed --limit 3 --rate 4/s", &world.env()).await;
    assert!(three.starts_with("3 replayed\n"), "{three}");
    assert!(start.elapsed() > Duration::from_millis(500), "two pauses of 250 ms: {:?}", start.elapsed());

    let mut slow = Postbell::start(&["replay", "--status", "failed", "--rate", "1/1h"], &world.env());
    eventually(SOON, "the first to be replayed", async || {
        (world.status_counts().await.get("failed") == Some(&2)).then_some(())
    })
    .await;
    slow.sigint();
    assert_eq!(slow.exit_status(SOON).await.code(), Some(1));
    assert!(slow.stderr().join("\n").contains("interrupted: 1 replayed, 2 left as they were"), "{:?}", slow.stderr());
}
