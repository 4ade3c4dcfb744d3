//! `postbell cancel`: takes events back that are not delivered yet.

use uuid::Uuid;

use super::act::{self, Act};
use super::block_on;
use crate::config;

/// Arguments of `postbell cancel`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "A send that is under way cannot be called back: there will be no further one, and if it succeeds the event is \
                  recorded as delivered.\n\nIn SQL: select notification_cancel('…');"
)]
pub struct Args {
    /// Events to take back: pending or delivering
    #[arg(value_name = "ID", required = true)]
    ids: Vec<Uuid>,

    #[command(flatten)]
    operator: config::Operator,
    #[command(flatten)]
    database: config::Database,
}

/// Cancels each and says what happened.
pub fn run(args: Args) -> anyhow::Result<()> {
    block_on(async {
        let client = act::connect(&args.database, &args.operator).await?;
        let act = Act { done: "cancelled", call: "select notification_cancel($1)", parameters: &[], rate: None };
        act::each(&client, &args.ids, &act, true).await
    })
}
