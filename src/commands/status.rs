//! `postbell status`: what became of events.

use std::collections::HashMap;
use std::io::Write as _;

use anyhow::Context as _;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use deadpool_postgres::Object;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{audit, block_on, connect, cut, list, listing, text};
use crate::config;
use crate::db;

/// Arguments of `postbell status`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Events to show in full, with each send and with what was done to them; without any, the newest are listed
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
    let Read { counts, events, history } = block_on(read(&args))?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let answer = serde_json::json!({ "counts": counts, "events": events });
        writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?;
    } else if args.ids.is_empty() {
        writeln!(out, "{}", listing(&events))?;
        let counts: Vec<String> = counts.iter().map(|(status, count)| format!("{count} {status}")).collect();
        writeln!(out, "{}", if counts.is_empty() { "no events yet".to_owned() } else { counts.join(", ") })?;
    } else {
        for event in &events {
            writeln!(out, "{}\n", card(event))?;
        }
        for id in args.ids.iter().filter(|id| !found(&events, id)) {
            if let Some(changes) = history.get(id) {
                writeln!(out, " {id} is gone\n\n{}\n", audit::table(changes, listing::width()))?;
            }
        }
    }
    let missing: Vec<String> = args.ids.iter().filter(|id| !found(&events, id)).map(ToString::to_string).collect();
    anyhow::ensure!(missing.is_empty(), "no such event: {}", missing.join(", "));
    Ok(())
}

/// What there is to show.
struct Read {
    counts: Map<String, Value>,
    /// Those that were named have `attempts` and `audit`.
    events: Vec<Map<String, Value>>,
    /// What was done to those that were named, also to those that are gone.
    history: History,
}

type History = HashMap<Uuid, Vec<Map<String, Value>>>;

async fn read(args: &Args) -> anyhow::Result<Read> {
    let client = connect(&args.database).await?;
    let counts = client
        .query("select status, count(*) from notification_status group by status order by status", &[])
        .await
        .context("reading notification_status")?;
    let counts = counts.iter().map(|row| (row.get(0), Value::from(row.get::<_, i64>(1)))).collect();
    if args.ids.is_empty() {
        let newest = "select to_jsonb(s) from notification_status s where ($1::text is null or status = $1) order by seq desc limit $2";
        let rows = client.query(newest, &[&args.status, &args.limit]).await?;
        return Ok(Read { counts, events: list::events(&rows), history: History::new() });
    }
    let mut events = list::named(&client, &args.ids).await?;
    let mut attempts = by_event(&client, include_str!("../../sql/operate/attempts.sql"), &args.ids).await?;
    let history = by_event(&client, include_str!("../../sql/operate/history.sql"), &args.ids).await?;
    for event in &mut events {
        let Some(id) = list::id(event) else { continue };
        event.insert("attempts".to_owned(), json!(attempts.remove(&id).unwrap_or_default()));
        event.insert("audit".to_owned(), json!(history.get(&id).cloned().unwrap_or_default()));
    }
    Ok(Read { counts, events, history })
}

/// Rows of an id and an object.
async fn by_event(client: &Object, sql: &str, ids: &[Uuid]) -> anyhow::Result<History> {
    let rows = client.query(sql, &[&ids]).await.map_err(db::Failed::from).context("reading what became of them")?;
    let mut by_event = History::new();
    for row in rows {
        if let Value::Object(object) = row.get(1) {
            by_event.entry(row.get(0)).or_default().push(object);
        }
    }
    Ok(by_event)
}

fn found(events: &[Map<String, Value>], id: &Uuid) -> bool {
    events.iter().any(|event| list::id(event) == Some(*id))
}

fn listing(events: &[Map<String, Value>]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(COLUMNS);
    for event in events {
        table.add_row(COLUMNS.map(|column| shorten(column, &text(event.get(column)))));
    }
    table
}

/// The row, each send, and what was done to it.
fn card(event: &Map<String, Value>) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    let own =
        event.iter().filter(|(column, value)| !value.is_null() && !["attempts", "audit"].contains(&column.as_str()));
    for (column, value) in own {
        table.add_row([column, &text(Some(value))]);
    }
    let objects = |column: &str| -> Vec<Map<String, Value>> {
        let objects = event.get(column).and_then(Value::as_array).into_iter().flatten();
        objects.filter_map(Value::as_object).cloned().collect()
    };
    let mut card = table.trim_fmt();
    let (attempts, changes) = (objects("attempts"), objects("audit"));
    if !attempts.is_empty() {
        card.push_str(&format!("\n\n sends\n{}", sends(&attempts)));
    }
    if !changes.is_empty() {
        card.push_str(&format!("\n\n changes\n{}", audit::table(&changes, listing::width()).trim_end()));
    }
    card
}

/// Each send of an event.
fn sends(attempts: &[Map<String, Value>]) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header(["started", "replay", "attempt", "robot", "took", "class", "http", "errcode", "answer"]);
    for attempt in attempts {
        let of = |column: &str| text(attempt.get(column));
        let took = match of("duration_ms") {
            none if none.is_empty() => none,
            ms => format!("{ms} ms"),
        };
        table.add_row([
            listing::seconds(&of("started_at")),
            of("replay_count"),
            of("attempt"),
            of("robot"),
            took,
            of("class"),
            of("http_status"),
            of("errcode"),
            listing::printable(&cut(&of("answer"), 100)),
        ]);
    }
    table.trim_fmt()
}

/// Times to the second, errors to the first hundred characters.
fn shorten(column: &str, text: &str) -> String {
    match column {
        "created_at" => text.chars().take(19).collect::<String>().replace('T', " "),
        "last_error" => cut(text, 100),
        _ => text.to_owned(),
    }
}
