//! `postbell list`: finds events, and follows what becomes of them.

use std::collections::HashMap;
use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use deadpool_postgres::Object;
use jiff::Timestamp;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::filter::{Filter, Parameters, Rest};
use super::listing::{self, Row, printable, seconds};
use super::{block_on, cut, text};
use crate::config;
use crate::db;

/// Arguments of `postbell list`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                  postbell list --status failed --since 1d\n  \
                  postbell list --type 'resume.*' --error-class template --json\n  \
                  postbell list --status failed --follow\n\n\
                  In SQL: select * from notification_find(status => 'failed', since => now() - interval '1 day');")]
pub struct Args {
    #[command(flatten)]
    filter: Filter,

    #[command(flatten)]
    shown: Shown,

    #[command(flatten)]
    database: config::Database,
}

/// The same for what failed.
#[derive(clap::Args, Debug)]
pub struct DeadLetters {
    #[command(flatten)]
    which: Rest,

    #[command(flatten)]
    shown: Shown,

    #[command(flatten)]
    database: config::Database,
}

impl From<DeadLetters> for Args {
    fn from(DeadLetters { which, shown, database }: DeadLetters) -> Args {
        Args { filter: Filter { status: Some("failed".to_owned()), rest: which }, shown, database }
    }
}

/// How many, and in which form.
#[derive(clap::Args, Debug)]
struct Shown {
    /// Most events to list, the newest first
    #[arg(long, value_name = "EVENTS", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    limit: i64,

    /// One JSON object a line
    #[arg(long)]
    json: bool,

    /// Go on with each event that is new, fails or changes, until interrupted; the newest last
    #[arg(long, short)]
    follow: bool,

    /// Show payload and options, too; they may be personal data, and the role must be allowed to read the table
    #[arg(long)]
    payload: bool,
}

/// How often changes are looked for.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// Changes are looked for from so long before the last one: a transaction commits later than its time.
const OVERLAP: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// An event, as `notification_status` has it, and more.
pub(super) type Event = Map<String, Value>;

/// Prints the events that fit.
pub fn run(args: Args) -> anyhow::Result<()> {
    block_on(async {
        let client = super::connect(&args.database).await?;
        let (parameters, args) = (args.filter.parameters(), args.shown);
        if args.follow {
            return tokio::select! {
                followed = follow(&client, &parameters, &args) => followed,
                interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
            };
        }
        let mut events = find(&client, &parameters, args.limit).await?;
        if args.payload {
            add_payloads(&client, &mut events).await?;
        }
        print(&events, &args)
    })
}

/// The newest events that fit, the newest first.
async fn find(client: &Object, filter: &Parameters, most: i64) -> anyhow::Result<Vec<Event>> {
    let found = client.query(include_str!("../../sql/operate/list.sql"), &filter.and(&[&most])).await;
    Ok(events(&found.map_err(db::Failed::from).context("looking for events")?))
}

/// These events, in the order in which they were published.
pub(super) async fn named(client: &Object, ids: &[Uuid]) -> anyhow::Result<Vec<Event>> {
    let named = "select to_jsonb(s) from notification_status s where id = any($1) order by seq";
    let found = client.query(named, &[&ids]).await;
    Ok(events(&found.map_err(db::Failed::from).context("reading notification_status")?))
}

/// The rows' first column.
pub(super) fn events(rows: &[tokio_postgres::Row]) -> Vec<Event> {
    let events = rows.iter().filter_map(|row| match row.get(0) {
        Value::Object(event) => Some(event),
        _ => None,
    });
    events.collect()
}

/// Puts payload and options into each.
async fn add_payloads(client: &Object, events: &mut [Event]) -> anyhow::Result<()> {
    let ids: Vec<Uuid> = events.iter().filter_map(id).collect();
    let found = client.query(include_str!("../../sql/operate/payloads.sql"), &[&ids]).await;
    let found = found.map_err(db::Failed::from).context("--payload reads notification_events itself")?;
    let payloads: HashMap<Uuid, (Value, Value)> =
        found.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    for event in events {
        if let Some((payload, options)) = id(event).and_then(|id| payloads.get(&id)) {
            event.insert("payload".to_owned(), payload.clone());
            event.insert("options".to_owned(), options.clone());
        }
    }
    Ok(())
}

/// Its primary key.
pub(super) fn id(event: &Event) -> Option<Uuid> {
    event.get("id")?.as_str()?.parse().ok()
}

/// Prints those that there are, and then each that changes.
async fn follow(client: &Object, filter: &Parameters, args: &Shown) -> anyhow::Result<()> {
    let query = client.prepare(include_str!("../../sql/operate/follow.sql")).await?;
    let mut last: Timestamp = client.query_one("select now()", &[]).await?.get(0);
    let mut shown = find(client, filter, args.limit).await?;
    shown.reverse();
    // What each event was when it was shown.
    let mut known: HashMap<Uuid, (String, bool, Timestamp)> = HashMap::new();
    let mut is_first = true;
    loop {
        let mut news = Vec::new();
        for event in std::mem::take(&mut shown) {
            let Some(id) = id(&event) else { continue };
            let updated_at = event.get("updated_at").and_then(Value::as_str).and_then(|at| at.parse().ok());
            let at = updated_at.unwrap_or(last);
            // The time alone would miss two changes within one transaction's time.
            let state =
                format!("{} {:?} {:?}", text(event.get("status")), event.get("attempt"), event.get("updated_at"));
            if known.get(&id).is_none_or(|(before, ..)| *before != state) {
                let is_open = event.get("completed_at").is_none_or(Value::is_null);
                known.insert(id, (state, is_open, at));
                last = last.max(at);
                news.push(event);
            }
        }
        if args.payload {
            add_payloads(client, &mut news).await?;
        }
        print_each(&news, args)?;
        let from = last - OVERLAP;
        known.retain(|_, (_, is_open, at)| *is_open || *at >= from);
        if !is_first {
            tokio::time::sleep(FOLLOW_INTERVAL).await;
        }
        is_first = false;
        let open: Vec<Uuid> = known.iter().filter(|(_, (_, is_open, _))| *is_open).map(|(id, _)| *id).collect();
        let found = client.query(&query, &filter.and(&[&from, &open])).await;
        shown = events(&found.map_err(db::Failed::from).context("looking for changes")?);
    }
}

fn print(events: &[Event], args: &Shown) -> anyhow::Result<()> {
    if args.json {
        return print_each(events, args);
    }
    let mut out = std::io::stdout().lock();
    if events.is_empty() {
        writeln!(out, "no event fits")?;
        return Ok(());
    }
    write!(out, "{}", table(events, listing::width()))?;
    let count = i64::try_from(events.len()).unwrap_or(i64::MAX);
    if count == args.limit {
        writeln!(out, "the newest {count}; --limit shows more")?;
    }
    Ok(())
}

/// A line each, without a header.
fn print_each(events: &[Event], args: &Shown) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for event in events {
        if args.json {
            writeln!(out, "{}", serde_json::to_string(event)?)?;
        } else {
            let mut cells = cells(event);
            cells.extend(why(event));
            writeln!(out, "{}", printable(&cells.join("  ")))?;
            for line in payload(event).lines() {
                writeln!(out, "    {line}")?;
            }
        }
    }
    Ok(out.flush()?)
}

/// Payload and options, a line each, where they were asked for.
fn payload(event: &Event) -> String {
    let parts = ["payload", "options"].into_iter().filter_map(|key| match event.get(key)? {
        Value::Object(empty) if empty.is_empty() => None,
        value => Some(format!("{key}: {value}\n")),
    });
    parts.collect()
}

/// The columns of the table.
const COLUMNS: [&str; 6] = ["id", "last change", "status", "event type", "target", "why"];

/// The events with why they failed, or what they wait for.
pub(super) fn table(events: &[Event], width: Option<usize>) -> String {
    let row = |event: &Event| Row { cells: cells(event), note: why(event), below: payload(event) };
    listing::show(&COLUMNS, &events.iter().map(row).collect::<Vec<_>>(), width)
}

fn cells(event: &Event) -> Vec<String> {
    let changed = ["failed_at", "delivered_at", "completed_at", "created_at"];
    let changed = changed.iter().map(|column| text(event.get(*column))).find(|at| !at.is_empty()).unwrap_or_default();
    let changed = seconds(&changed);
    let status = text(event.get("status"));
    let (event_type, target) = (cut(&text(event.get("event_type")), 40), cut(&text(event.get("target")), 40));
    vec![text(event.get("id")), changed, status, event_type, target]
}

/// Why it is not delivered: what it waits for, and its last error.
fn why(event: &Event) -> Option<String> {
    let (status, detail, error) = (text(event.get("status")), text(event.get("detail")), text(event.get("last_error")));
    let detail = if matches!(status.as_str(), "pending" | "delivering") { detail } else { String::new() };
    let why = match (status.as_str(), detail.is_empty(), error.is_empty()) {
        ("delivered" | "cancelled", _, _) | (_, true, true) => return None,
        (_, true, false) => error,
        (_, false, true) => detail,
        (_, false, false) => format!("{detail}; last error: {error}"),
    };
    Some(cut(&why, 300))
}
