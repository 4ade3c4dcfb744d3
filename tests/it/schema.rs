//! The tables, functions and statements of `sql/`, against a real database.

mod audit;
mod grants;
mod insert;
mod operate;
mod publish;
mod queries;
mod status;
mod wake_up;

use tokio_postgres::{Client, Error};

use crate::harness::servers::{Database, Postgres};

/// A migrated database and a connection to it.
async fn database() -> (Database, Client) {
    let database = Postgres::shared().await.database().await;
    let client = database.client().await;
    (database, client)
}

/// The first column of the one row that a query returns, as text.
async fn one(client: &Client, sql: &str) -> String {
    let rows = client.query(&format!("select ({sql})::text"), &[]).await;
    let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error:#}"));
    rows[0].get::<_, Option<String>>(0).unwrap_or_else(|| "null".to_owned())
}

/// What the server says against a statement that it refuses: the constraint's name where there is one.
fn refusal(error: &Error) -> String {
    let error = error.as_db_error().unwrap();
    error.constraint().unwrap_or_else(|| error.message()).to_owned()
}

/// Runs statements that must be refused.
async fn refused(client: &Client, sql: &str) -> String {
    match client.batch_execute(sql).await {
        Ok(()) => panic!("not refused: {sql}"),
        Err(error) => refusal(&error),
    }
}
