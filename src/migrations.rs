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
pub async fn migrate(client: &mut tokio_postgres::Client) -> anyhow::Result<Vec<String>> {
    client.batch_execute("set statement_timeout = 0").await?;
    client.execute("select pg_advisory_lock($1)", &[&LOCK]).await.context("waiting for another migration to end")?;
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name(HISTORY);
    let result = runner.run_async(client).await;
    client.execute("select pg_advisory_unlock($1)", &[&LOCK]).await?;
    let report = result.context("applying migrations")?;
    Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
}

/// The newest migration this binary knows.
pub fn newest() -> i32 {
    let runner = embedded::migrations::runner();
    runner.get_migrations().iter().map(refinery::Migration::version).max().unwrap_or(0)
}

/// What a database has of the migrations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    /// The newest that it has; 0: none.
    pub version: i32,
    /// Those that this binary knows and it has not, oldest first.
    pub pending: Vec<String>,
    /// Those that it has in another form than this binary knows.
    pub changed: Vec<String>,
}

/// Looks which migrations a database has; changes nothing.
pub async fn look(client: &tokio_postgres::Client) -> anyhow::Result<Schema> {
    let mut known = embedded::migrations::runner().get_migrations().clone();
    known.sort_by_key(refinery::Migration::version);
    let rows = if exists(client).await? {
        let query = format!("select version, name, checksum from public.{HISTORY} order by version");
        client.query(&query, &[]).await.map_err(db::Failed::from).context("reading which migrations there are")?
    } else {
        Vec::new()
    };
    let has = |migration: &&refinery::Migration| rows.iter().find(|row| row.get::<_, i32>(0) == migration.version());
    let is_other = |row: &tokio_postgres::Row, migration: &refinery::Migration| {
        row.get::<_, &str>(1) != migration.name() || row.get::<_, &str>(2) != migration.checksum().to_string()
    };
    let pending = known.iter().filter(|migration| has(migration).is_none()).map(ToString::to_string).collect();
    let changed = known.iter().filter(|migration| has(migration).is_some_and(|row| is_other(row, migration)));
    let changed = changed.map(ToString::to_string).collect();
    Ok(Schema { version: rows.last().map_or(0, |row| row.get(0)), pending, changed })
}

async fn exists(client: &tokio_postgres::Client) -> anyhow::Result<bool> {
    let history = format!("public.{HISTORY}");
    let row = client.query_one("select to_regclass($1) is not null", &[&history]).await.map_err(db::Failed::from)?;
    Ok(row.get(0))
}

/// Refuses a schema older than this binary. A newer one is fine: migrations only expand what an older binary uses.
pub async fn check(pool: &Pool) -> anyhow::Result<()> {
    let client = db::client(pool).await?;
    let found: i32 = if exists(&client).await? {
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
