//! `postbell reschedule`: moves pending events to another time.

use jiff::Timestamp;
use uuid::Uuid;

use super::act::{self, Act};
use super::{block_on, publish};
use crate::config;

/// Arguments of `postbell reschedule`.
#[derive(clap::Args, Debug)]
#[command(after_help = "In SQL: select notification_reschedule('…', now() + interval '2 hours');")]
pub struct Args {
    /// Events to move: those that are pending
    #[arg(value_name = "ID", required = true)]
    ids: Vec<Uuid>,

    /// When to send them: a time such as 2026-12-24T09:00:00+08:00, or a duration from now such as 30m; what is past means now
    #[arg(long, value_name = "TIME", value_parser = publish::parse_time)]
    at: Timestamp,

    #[command(flatten)]
    operator: config::Operator,
    #[command(flatten)]
    database: config::Database,
}

/// Moves each and says what happened.
pub fn run(args: Args) -> anyhow::Result<()> {
    block_on(async {
        let client = act::connect(&args.database, &args.operator).await?;
        let call = "select notification_reschedule($1, $2)";
        let act = Act { done: "rescheduled", call, parameters: &[&args.at], rate: None };
        act::each(&client, &args.ids, &act, true).await
    })
}
