//! `postbell migrate --check`, for pipelines.

use super::{done, failed, postbell};
use crate::harness::World;

#[tokio::test]
async fn a_check_says_what_is_pending_and_applies_nothing() {
    let world = World::new().await;
    assert!(done("migrate --check", &world.env()).await.starts_with("schema is at version "));
    // A schema newer than the binary is fine.
    let newer =
        "insert into postbell_schema_history (version, name, applied_on, checksum) values (999, 'later', '', '1')";
    world.client().batch_execute(newer).await.unwrap();
    assert_eq!(done("migrate --check", &world.env()).await, "schema is at version 999");

    let older = "delete from postbell_schema_history where version = 999 or version = (
        select max(version) from postbell_schema_history where version < 999)";
    world.client().batch_execute(older).await.unwrap();
    let count = "select count(*) from postbell_schema_history";
    let before: i64 = world.client().query_one(count, &[]).await.unwrap().get(0);
    let (code, stdout, stderr) = postbell("migrate --check", &world.env()).await;
    assert_eq!(code, 75, "{stderr}");
    assert!(stdout.starts_with("pending V") && stdout.lines().count() == 1, "{stdout}");
    assert!(stderr.contains("1 migration is not applied yet; postbell migrate applies them"), "{stderr}");
    assert_eq!(world.client().query_one(count, &[]).await.unwrap().get::<_, i64>(0), before);
}

#[tokio::test]
async fn a_database_without_schema_has_everything_pending_oldest_first() {
    let world = World::new().await;
    world.client().batch_execute("drop schema public cascade; create schema public").await.unwrap();
    let (code, stdout, _) = postbell("migrate --check", &world.env()).await;
    assert_eq!(code, 75);
    assert!(stdout.starts_with("pending V1__events\npending V2__wake_up\n"), "{stdout}");
    let tables = "select count(*) from pg_class where relnamespace = 'public'::regnamespace";
    assert_eq!(world.client().query_one(tables, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_schema_made_by_other_migrations_is_named() {
    let world = World::new().await;
    let other = "update postbell_schema_history set checksum = '1' where version = 4";
    world.client().batch_execute(other).await.unwrap();
    let refused = failed("migrate --check", 1, &world.env()).await;
    assert!(refused.contains("other migrations than this postbell's: V4__status_and_grants"), "{refused}");
}
