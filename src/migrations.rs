//! The schema: migrations compiled into the binary, and the check that a database has them.

use anyhow::Context as _;
use deadpool_postgres::Pool;

use crate::cli::BadConfiguration;
use crate::db;

mod embedded {
    refinery::embed_migrations!("sql/migrations");
}

/// Remembers which migrations a database has.
pub const HISTORY: &str = "postbell_schema_history";

/// Sidecars that start together queue here; refinery takes no lock of its own. The key spells "pbmigrat".
const LOCK: i64 = 0x7062_6d69_6772_6174;

/// Applies what is missing and returns its names, oldest first.
pub async fn migrate(pool: &Pool) -> anyhow::Result<Vec<String>> {
    let mut client = db::client(pool).await?;
    client.batch_execute("set statement_timeout = 0").await?;
    client.execute("select pg_advisory_lock($1)", &[&LOCK]).await.context("waiting for another migration to end")?;
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name(HISTORY);
    let result = runner.run_async(&mut **client).await;
    client.execute("select pg_advisory_unlock($1)", &[&LOCK]).await?;
    let report = result.context("applying migrations")?;
    Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
}

/// The newest migration this binary knows.
pub fn newest() -> i32 {
    let runner = embedded::migrations::runner();
    runner.get_migrations().iter().map(refinery::Migration::version).max().unwrap_or(0)
}

/// Refuses a schema older than this binary. A newer one is fine: migrations only expand what an older binary uses.
pub async fn check(pool: &Pool) -> anyhow::Result<()> {
    let client = db::client(pool).await?;
    let exists: bool =
        client.query_one("select to_regclass($1) is not null", &[&format!("public.{HISTORY}")]).await?.get(0);
    let found: i32 = if exists {
        let query = format!("select coalesce(max(version), 0)::integer from public.{HISTORY}");
        client.query_one(&query, &[]).await?.get(0)
    } else {
        0
    };
    if found < newest() {
        let state = if found == 0 { "is missing".to_owned() } else { format!("is at version {found}") };
        anyhow::bail!(BadConfiguration(format!(
            "the schema {state}, this postbell needs version {}: run postbell migrate first",
            newest()
        )));
    }
    Ok(())
}
