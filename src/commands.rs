//! One file a command: it reads its arguments, wires the parts, and says what happened.

mod act;
pub mod audit;
pub mod cancel;
pub mod consume;
pub mod dead_letter;
pub mod doctor;
mod filter;
pub mod health;
pub mod list;
mod listing;
pub mod migrate;
mod outcome;
pub mod publish;
pub mod relay;
pub mod replay;
pub mod reschedule;
pub mod robots;
pub mod run;
pub mod sandbox;
pub mod stats;
pub mod status;
pub mod template;

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use deadpool_postgres::Object;
use serde_json::Value;
use tokio_postgres::error::DbError;

use crate::cli::BadConfiguration;
use crate::config;
use crate::db::{self, Database};

/// Runs an asynchronous command on a runtime of its own.
///
/// One thread: a sidecar waits far more than it computes, and handing work from thread to thread cost a seventh of the
/// consumer's CPU. What may block (files, names of hosts) goes to threads of its own.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// The one connection of a command; an error says where it was tried.
async fn connect(config: &config::Database) -> anyhow::Result<Object> {
    let database = Database::new(config)?;
    let client = db::client(&database.pool(1)?).await;
    client.with_context(|| format!("PostgreSQL at {}", database.place()))
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

/// A value as a person reads it; nothing for null.
fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// A length of time in its two largest units: `3 min 20 s`.
fn roughly(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(seconds / 86_400, "d"), (seconds / 3_600 % 24, "h"), (seconds / 60 % 60, "min"), (seconds % 60, "s")];
    let first = units.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let shown = units.iter().skip(first).take(2).filter(|(count, unit)| *count > 0 || (first == 3 && *unit == "s"));
    shown.map(|(count, unit)| format!("{count} {unit}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_has_its_two_largest_units() {
        let shown = |seconds| roughly(Duration::from_secs(seconds));
        assert_eq!(
            [0, 59, 60, 200, 3_600, 90_061].map(shown),
            ["0 s", "59 s", "1 min", "3 min 20 s", "1 h", "1 d 1 h"]
        );
    }
}
