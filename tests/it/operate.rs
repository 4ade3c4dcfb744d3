//! What people on call do, with the command line and with SQL alone.

mod audit;
mod dead_letter;
pub(crate) mod doctor;
mod list;
mod migrate;
mod replay;
mod stats;
mod walk_through;

use uuid::Uuid;

use crate::cli::ended;
use crate::harness::World;
use crate::harness::process::Env;

/// Runs `postbell` with these words to its end: exit code, standard output, standard error.
async fn postbell(words: &str, env: &Env) -> (i32, String, String) {
    ended(&words.split_whitespace().collect::<Vec<_>>(), env).await
}

/// The same, where it must succeed: its standard output.
async fn done(words: &str, env: &Env) -> String {
    let (code, stdout, stderr) = postbell(words, env).await;
    assert_eq!(code, 0, "{words}: {stdout} {stderr}");
    stdout
}

/// The same, where it must fail: its standard error.
async fn failed(words: &str, code: i32, env: &Env) -> String {
    let (ended, stdout, stderr) = postbell(words, env).await;
    assert_eq!(ended, code, "{words}: {stdout} {stderr}");
    stderr
}

/// An event that failed so many hours ago, with its dead letter written.
async fn dead_letter(world: &World, event_type: &str, error: &str, hours_ago: i32) -> Uuid {
    let id = world.publish(event_type, serde_json::json!({"secret": "PAYLOAD"})).await;
    let fail = "update notification_events
        set status = 'failed', last_error = $2, failed_at = now() - $3 * interval '1 hour', completed_at = now(),
            created_at = now() - $3 * interval '1 hour'
        where id = $1";
    world.client().execute(fail, &[&id, &error, &f64::from(hours_ago)]).await.unwrap();
    id
}

/// How often each status is among these events.
async fn statuses(world: &World, ids: &[Uuid]) -> Vec<String> {
    let statuses = "select e.status from unnest($1::uuid[]) with ordinality a (id, nth)
        left join notification_events e using (id) order by nth";
    let rows = world.client().query(statuses, &[&ids]).await.unwrap();
    rows.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or_else(|| "gone".to_owned())).collect()
}
