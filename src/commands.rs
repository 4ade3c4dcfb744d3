//! One file a command: it reads its arguments, wires the parts, and says what happened.

pub mod consume;
pub mod migrate;
mod outcome;
pub mod publish;
pub mod relay;
pub mod robots;
pub mod run;
pub mod sandbox;
pub mod status;
pub mod template;

use std::future::Future;

use tokio_postgres::error::DbError;

use crate::cli::BadConfiguration;
use crate::db;

/// Runs an asynchronous command on a runtime of its own.
///
/// One thread: a sidecar waits far more than it computes, and handing work from thread to thread cost a seventh of the
/// consumer's CPU. What may block (files, names of hosts) goes to threads of its own.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// A row that the database refuses is bad usage; the constraint's name says what is allowed.
fn explain(what: &str, error: tokio_postgres::Error) -> anyhow::Error {
    match error.as_db_error().and_then(DbError::constraint) {
        Some(rule) => BadConfiguration(format!("{what} was refused: {}", rule.replace('_', " "))).into(),
        None => anyhow::Error::new(db::Failed::from(error)).context(format!("{what} was not inserted")),
    }
}

/// The first characters of a long text.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() > most { text.chars().take(most - 1).chain(['…']).collect() } else { text.to_owned() }
}
