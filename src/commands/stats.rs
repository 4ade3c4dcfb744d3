//! `postbell stats`: how things are, at a glance.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use deadpool_postgres::Object;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{block_on, robots};
use crate::config;
use crate::db;

/// Arguments of `postbell stats`.
#[derive(clap::Args, Debug)]
#[command(after_help = "In SQL: select * from notification_stats; select * from notification_robot_status; \
                        select * from notification_alerts where cleared_at is null;")]
pub struct Args {
    /// Show it again and again, every so many seconds (2 if not given), until interrupted
    #[arg(
        long, short, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2",
        value_parser = clap::value_parser!(u32).range(1..=3_600)
    )]
    watch: Option<u32>,

    /// One JSON object a line: {"stats": {...}, "robots": [...], "alerts": [...]}
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: config::Database,
}

/// The row of `notification_stats`.
#[derive(Debug, Deserialize)]
struct Stats {
    at: Timestamp,
    due: i64,
    oldest_due_seconds: f64,
    hinted: i64,
    delivering: i64,
    scheduled: i64,
    retrying: i64,
    waiting: i64,
    oldest_waiting_seconds: f64,
    dead_letters: i64,
    dead_letters_to_be_written: i64,
    oldest_dead_letter_at: Option<Timestamp>,
    published_5m: i64,
    delivered_5m: i64,
    failed_5m: i64,
    published_1h: i64,
    delivered_1h: i64,
    failed_1h: i64,
    published_1d: i64,
    delivered_1d: i64,
    failed_1d: i64,
}

/// A row of `notification_alerts` that goes on.
#[derive(Debug, Deserialize)]
struct Alert {
    condition: String,
    subject: String,
    raised_at: Timestamp,
}

/// Prints it, once or until interrupted.
pub fn run(args: Args) -> anyhow::Result<()> {
    block_on(async {
        let client = super::connect(&args.database).await?;
        let Some(seconds) = args.watch else { return print(&client, &args).await };
        let mut ticks = tokio::time::interval(Duration::from_secs(seconds.into()));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let again = async {
            loop {
                ticks.tick().await;
                print(&client, &args).await?;
            }
        };
        tokio::select! {
            ended = again => ended,
            interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
        }
    })
}

async fn print(client: &Object, args: &Args) -> anyhow::Result<()> {
    let row = client.query_one(include_str!("../../sql/operate/stats.sql"), &[]).await;
    let row = row.map_err(db::Failed::from).context("reading notification_stats")?;
    let (stats, robots): (Value, Vec<Value>) = (row.get(0), serde_json::from_value(row.get(1))?);
    let alerts: Value = row.get(2);
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json!({ "stats": stats, "robots": robots, "alerts": alerts }))?;
        return Ok(());
    }
    let stats: Stats = serde_json::from_value(stats).context("reading notification_stats")?;
    let alerts: Vec<Alert> = serde_json::from_value(alerts).context("reading notification_alerts")?;
    let shown = show(&stats, robots, &alerts)?;
    if args.watch.is_some() && out.is_terminal() {
        // Home, and clear to the end: the screen does not flicker, and what was above is kept.
        write!(out, "\x1b[H\x1b[J{}\n\n{shown}", stats.at.strftime("%Y-%m-%d %H:%M:%S UTC"))?;
    } else {
        write!(out, "{shown}")?;
        if args.watch.is_some() {
            writeln!(out)?;
        }
    }
    Ok(out.flush()?)
}

fn show(stats: &Stats, robots: Vec<Value>, alerts: &[Alert]) -> anyhow::Result<String> {
    let mut shown = String::new();
    let old = |seconds: f64| super::roughly(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let oldest = |count: i64, seconds: f64| match count {
        0 => String::new(),
        _ => format!(", the oldest for {}", old(seconds)),
    };
    writeln!(shown, "backlog       {} due{}", stats.due, oldest(stats.due, stats.oldest_due_seconds))?;
    writeln!(shown, "under way     {} hinted, {} being sent", stats.hinted, stats.delivering)?;
    let waiting = oldest(stats.waiting, stats.oldest_waiting_seconds);
    writeln!(shown, "waiting       {} for a robot{waiting}", stats.waiting)?;
    writeln!(shown, "later         {} scheduled, {} for a retry", stats.scheduled, stats.retrying)?;
    let since = stats.oldest_dead_letter_at.map(|at| format!(", the oldest of {}", at.strftime("%Y-%m-%d %H:%M UTC")));
    let unwritten = match stats.dead_letters_to_be_written {
        0 => String::new(),
        count => format!(", {count} of them not in the stream yet"),
    };
    writeln!(shown, "dead letters  {}{}{unwritten}", stats.dead_letters, since.unwrap_or_default())?;
    for Alert { condition, subject, raised_at } in alerts {
        let since = raised_at.strftime("%Y-%m-%d %H:%M UTC");
        let of = if subject.is_empty() { String::new() } else { format!(" of {subject}") };
        writeln!(shown, "alert         {condition}{of}, since {since}")?;
    }
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["", "published", "delivered", "failed", "delivered a minute"]);
    let windows = [
        ("5 minutes", stats.published_5m, stats.delivered_5m, stats.failed_5m, 5.0),
        ("1 hour", stats.published_1h, stats.delivered_1h, stats.failed_1h, 60.0),
        ("1 day", stats.published_1d, stats.delivered_1d, stats.failed_1d, 1440.0),
    ];
    for (window, published, delivered, failed, minutes) in windows {
        #[expect(clippy::cast_precision_loss, reason = "a rate with one digit after the point")]
        let rate = format!("{:.1}", delivered as f64 / minutes);
        table.add_row([window.to_owned(), published.to_string(), delivered.to_string(), failed.to_string(), rate]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(shown, "\n{}", table.trim_fmt())?;
    if !robots.is_empty() {
        writeln!(shown, "\n{}", robots::table(robots, stats.at)?)?;
    }
    Ok(shown)
}
