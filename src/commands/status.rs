//! `postbell status`: what became of events.

use std::io::Write as _;

use anyhow::Context as _;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{block_on, cut, text};
use crate::config;
use crate::db::{self, Database, Durability};

/// Arguments of `postbell status`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Events to show in full; without any, the newest are listed
    #[arg(value_name = "ID")]
    ids: Vec<Uuid>,

    /// Only events with this status
    #[arg(long, value_parser = ["pending", "delivering", "delivered", "failed", "cancelled"], conflicts_with = "ids")]
    status: Option<String>,

    /// Most events to list
    #[arg(long, value_name = "EVENTS", default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,

    /// One JSON object: {"counts": {...}, "events": [...]}
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: config::Database,
}

/// The columns of the list.
const COLUMNS: [&str; 8] =
    ["id", "event_type", "status", "detail", "target", "retry_count", "created_at", "last_error"];

/// Prints the events asked for; an id that does not exist is a failure.
pub fn run(args: Args) -> anyhow::Result<()> {
    let (counts, events) = block_on(read(&args))?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let answer = serde_json::json!({ "counts": counts, "events": events });
        writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?;
    } else if args.ids.is_empty() {
        writeln!(out, "{}", list(&events))?;
        let counts: Vec<String> = counts.iter().map(|(status, count)| format!("{count} {status}")).collect();
        writeln!(out, "{}", if counts.is_empty() { "no events yet".to_owned() } else { counts.join(", ") })?;
    } else {
        for event in &events {
            writeln!(out, "{}\n", card(event))?;
        }
    }
    let found = |id: &Uuid| events.iter().any(|event| event.get("id").and_then(Value::as_str) == Some(&id.to_string()));
    let missing: Vec<String> = args.ids.iter().filter(|id| !found(id)).map(ToString::to_string).collect();
    anyhow::ensure!(missing.is_empty(), "no such event: {}", missing.join(", "));
    Ok(())
}

async fn read(args: &Args) -> anyhow::Result<(Map<String, Value>, Vec<Map<String, Value>>)> {
    let pool = Database::new(&args.database)?.pool(1, Durability::Durable)?;
    let client = db::client(&pool).await?;
    let counts = client
        .query("select status, count(*) from notification_status group by status order by status", &[])
        .await
        .context("reading notification_status")?;
    let counts = counts.iter().map(|row| (row.get(0), Value::from(row.get::<_, i64>(1)))).collect();
    let rows = if args.ids.is_empty() {
        let newest = "select to_jsonb(s) from notification_status s where ($1::text is null or status = $1) order by seq desc limit $2";
        client.query(newest, &[&args.status, &args.limit]).await?
    } else {
        let named = "select to_jsonb(s) from notification_status s where id = any($1) order by seq";
        client.query(named, &[&args.ids]).await?
    };
    let events = rows.iter().filter_map(|row| match row.get(0) {
        Value::Object(event) => Some(event),
        _ => None,
    });
    Ok((counts, events.collect()))
}

fn list(events: &[Map<String, Value>]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(COLUMNS);
    for event in events {
        table.add_row(COLUMNS.map(|column| shorten(column, &text(event.get(column)))));
    }
    table
}

fn card(event: &Map<String, Value>) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    for (column, value) in event.iter().filter(|(_, value)| !value.is_null()) {
        table.add_row([column, &text(Some(value))]);
    }
    table
}

/// Times to the second, errors to the first hundred characters.
fn shorten(column: &str, text: &str) -> String {
    match column {
        "created_at" => text.chars().take(19).collect::<String>().replace('T', " "),
        "last_error" => cut(text, 100),
        _ => text.to_owned(),
    }
}
