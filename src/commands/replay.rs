//! `postbell replay`: sends events again that have ended.

use deadpool_postgres::Object;
use uuid::Uuid;

use super::act::{self, Act};
use super::block_on;
use super::filter::{Parameters, Rest};
use super::list;
use crate::cli::BadConfiguration;
use crate::config::{self, RobotRate};

/// Arguments of `postbell replay`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                  postbell replay 01a20bef-3461-7fa5-918b-b3aa9e8f845d\n  \
                  postbell replay --status failed --since 1d --error-class template --dry-run\n  \
                  postbell replay --status failed --since 1d --error-class template\n\n\
                  In SQL: select * from notification_replay_all(since => now() - interval '1 day', error_class => 'template');\n\n\
                  Exit codes: 0 all were replayed; 1 some were not (they are named), or none fits an id.")]
pub struct Args {
    /// Events to send again; instead of them, which: --status, --type, --since, …
    #[arg(value_name = "ID")]
    ids: Vec<Uuid>,

    /// Only events with this status; failed if not given
    #[arg(long, value_parser = ["delivered", "failed", "cancelled"], conflicts_with = "ids")]
    status: Option<String>,

    #[command(flatten)]
    which: Rest,

    #[command(flatten)]
    how: How,

    #[command(flatten)]
    operator: config::Operator,
    #[command(flatten)]
    database: config::Database,
}

/// How many, and how fast.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct How {
    /// Most events, the oldest first
    #[arg(long, value_name = "EVENTS", default_value_t = 10_000, value_parser = clap::value_parser!(i64).range(1..=1_000_000))]
    limit: i64,

    /// Say which they are, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// How fast, such as 20/s or 100/1m, or off; robots are sent no more than their budgets whatever it is
    #[arg(long, value_name = "COUNT/TIME", default_value = "20/s", value_parser = act::rate)]
    rate: RobotRate,
}

/// Replays what is asked for.
pub fn run(args: Args) -> anyhow::Result<()> {
    let Args { ids, status, which, how, operator, database } = args;
    if ids.is_empty() && status.is_none() && which.is_empty() {
        return Err(BadConfiguration(
            "which events? allowed: their ids, or a filter such as --status failed, which is all that failed"
                .to_owned(),
        )
        .into());
    }
    only_one_way(&ids, &which)?;
    block_on(async {
        let client = act::connect(&database, &operator).await?;
        let parameters = which.parameters(Some(status.as_deref().unwrap_or("failed")));
        replay(&client, ids, &parameters, &how).await
    })
}

/// An id and a filter together would be read as either.
pub(super) fn only_one_way(ids: &[Uuid], which: &Rest) -> Result<(), BadConfiguration> {
    if ids.is_empty() || which.is_empty() {
        return Ok(());
    }
    Err(BadConfiguration("given ids and a filter; allowed: one of them".to_owned()))
}

/// Replays these, or where there are none, those that fit.
pub(super) async fn replay(client: &Object, ids: Vec<Uuid>, which: &Parameters, how: &How) -> anyhow::Result<()> {
    let tell = !ids.is_empty();
    let events = if ids.is_empty() { act::candidates(client, which, how.limit).await? } else { Vec::new() };
    let events = if how.dry_run && tell { list::named(client, &ids).await? } else { events };
    if how.dry_run {
        return act::show(&events, "replayed");
    }
    let ids = if tell { ids } else { events.iter().filter_map(list::id).collect() };
    let act = Act { done: "replayed", call: "select notification_replay($1)", parameters: &[], rate: how.rate.0 };
    act::each(client, &ids, &act, tell).await?;
    if tell { Ok(()) } else { act::tell_of_more(ids.len(), how.limit) }
}
