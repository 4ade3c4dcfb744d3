//! `postbell audit`: who changed what, and when.

use std::io::Write as _;

use anyhow::Context as _;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::filter::When;
use super::listing::{self, Row};
use super::{block_on, cut, text};
use crate::config;
use crate::db;

/// Arguments of `postbell audit`.
#[derive(clap::Args, Debug)]
#[command(after_help = "In SQL: select * from notification_audit order by at desc limit 50;")]
pub struct Args {
    /// Only what was done since: 90m, 12h, 2d, or a time
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    since: Option<When>,

    /// Only what this person, or this role of the database, did
    #[arg(long, value_name = "NAME")]
    by: Option<String>,

    /// Only this kind of change, such as replay
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,

    /// Only what was done to this event
    #[arg(long, value_name = "ID")]
    event: Option<Uuid>,

    /// Most changes to show, the newest first
    #[arg(long, value_name = "CHANGES", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    limit: i64,

    /// One JSON object a line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: config::Database,
}

/// The columns of the table.
const COLUMNS: [&str; 5] = ["at", "by", "action", "on", "detail"];

/// Prints the changes that fit.
pub fn run(args: Args) -> anyhow::Result<()> {
    let rows = block_on(async {
        let client = super::connect(&args.database).await?;
        let (at, ago_s) = When::moment(args.since);
        let audit = include_str!("../../sql/operate/audit.sql");
        let rows = client.query(audit, &[&at, &ago_s, &args.by, &args.action, &args.event, &args.limit]).await;
        rows.map_err(db::Failed::from).context("reading notification_audit")
    })?;
    let changes = rows.iter().filter_map(|row| match row.get(0) {
        Value::Object(change) => Some(change),
        _ => None,
    });
    let changes: Vec<Map<String, Value>> = changes.collect();
    let mut out = std::io::stdout().lock();
    if args.json {
        for change in &changes {
            writeln!(out, "{}", serde_json::to_string(change)?)?;
        }
    } else if changes.is_empty() {
        writeln!(out, "no change fits")?;
    } else {
        write!(out, "{}", table(&changes, listing::width()))?;
    }
    Ok(())
}

/// Changes as a table, with a line break at its end.
pub(super) fn table(changes: &[Map<String, Value>], width: Option<usize>) -> String {
    listing::show(&COLUMNS, &changes.iter().map(row).collect::<Vec<_>>(), width)
}

fn row(change: &Map<String, Value>) -> Row {
    let (actor, user) = (text(change.get("actor")), text(change.get("database_user")));
    let by = if actor.is_empty() || actor == user { user } else { format!("{actor} ({user})") };
    let on = [change.get("event_id"), change.get("robot")].map(text).into_iter().find(|name| !name.is_empty());
    let detail = match change.get("detail") {
        Some(Value::Object(detail)) => {
            let parts = detail.iter().filter(|(_, value)| !value.is_null());
            parts.map(|(key, value)| format!("{key}: {}", text(Some(value)))).collect::<Vec<_>>().join(", ")
        }
        other => text(other),
    };
    let at = listing::seconds(&text(change.get("at")));
    let note = Some(cut(&detail, 300)).filter(|detail| !detail.is_empty());
    Row { cells: vec![at, by, text(change.get("action")), on.unwrap_or_default()], note, below: String::new() }
}
