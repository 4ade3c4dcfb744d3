//! `postbell dead-letter`: what failed. The rows are the truth; the dead-letter stream is a notice of them.

use serde_json::Value;
use uuid::Uuid;

use super::act::{self, Act};
use super::filter::Rest;
use super::replay::{self, How};
use super::{block_on, list, text};
use crate::cli::BadConfiguration;
use crate::config;

/// What to do with dead letters.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Show events that failed, the newest first, and why
    List(list::DeadLetters),
    /// Send them again: all, those that fit, or by id
    Replay(Replay),
    /// Remove failed events for good: by id, or those that fit
    Purge(Purge),
}

/// Arguments of `postbell dead-letter replay`.
#[derive(clap::Args, Debug)]
pub struct Replay {
    /// Failed events to send again; without any, all that failed, or those that fit
    #[arg(value_name = "ID")]
    ids: Vec<Uuid>,

    #[command(flatten)]
    which: Rest,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    operator: config::Operator,
    #[command(flatten)]
    database: config::Database,
}

/// Arguments of `postbell dead-letter purge`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Their rows are removed, and the audit keeps what they were; entries in the dead-letter stream go when that is \
                  trimmed.\n\nExample:\n  postbell dead-letter purge --before 30d --dry-run\n\n\
                  In SQL: select * from notification_purge_all(before => now() - interval '30 days');"
)]
pub struct Purge {
    /// Failed events to remove; instead of them, which: --before, --type, …
    #[arg(value_name = "ID")]
    ids: Vec<Uuid>,

    /// All that failed
    #[arg(long, conflicts_with = "ids")]
    all: bool,

    #[command(flatten)]
    which: Rest,

    /// Most events, the oldest first
    #[arg(long, value_name = "EVENTS", default_value_t = 10_000, value_parser = clap::value_parser!(i64).range(1..=1_000_000))]
    limit: i64,

    /// Say which they are, and change nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    operator: config::Operator,
    #[command(flatten)]
    database: config::Database,
}

/// Runs the command.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List(args) => list::run(args.into()),
        Command::Replay(args) => {
            replay::only_one_way(&args.ids, &args.which)?;
            block_on(async {
                let client = act::connect(&args.database, &args.operator).await?;
                replay::replay(&client, args.ids, &args.which.parameters(Some("failed")), &args.how).await
            })
        }
        Command::Purge(args) => purge(args),
    }
}

fn purge(args: Purge) -> anyhow::Result<()> {
    let Purge { ids, all, which, limit, dry_run, operator, database } = args;
    if ids.is_empty() && which.is_empty() && !all {
        let why = "which dead letters? allowed: their ids, a filter such as --before 30d, or --all";
        return Err(BadConfiguration(why.to_owned()).into());
    }
    replay::only_one_way(&ids, &which)?;
    block_on(async {
        let client = act::connect(&database, &operator).await?;
        let tell = !ids.is_empty();
        let events = match tell {
            true => list::named(&client, &ids).await?,
            false => act::candidates(&client, &which.parameters(Some("failed")), limit).await?,
        };
        // The function removes whatever has ended.
        let others = events.iter().filter(|event| event.get("status").and_then(Value::as_str) != Some("failed"));
        let others: Vec<String> = others.map(|event| text(event.get("id"))).collect();
        anyhow::ensure!(
            others.is_empty(),
            "nothing removed: no dead letters, for they have not failed: {}",
            others.join(", ")
        );
        if dry_run {
            return act::show(&events, "removed");
        }
        let ids = if tell { ids } else { events.iter().filter_map(list::id).collect() };
        let act = Act { done: "removed", call: "select notification_purge($1)", parameters: &[], rate: None };
        act::each(&client, &ids, &act, tell).await?;
        if tell { Ok(()) } else { act::tell_of_more(ids.len(), limit) }
    })
}
