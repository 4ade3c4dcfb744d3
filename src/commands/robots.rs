//! `postbell robots`: which robots there are and how they are, and what an operator does about them.

mod add;
mod list;
mod pause;
mod remove;
mod test;

use deadpool_postgres::Object;

pub(super) use list::shown as table;
pub(super) use test::ring;

use crate::cli::BadConfiguration;
use crate::config;

/// Arguments of `postbell robots`.
#[derive(clap::Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "All of it is SQL, too: the view notification_robot_status, the table notification_channels, \
                  notification_robot_pause(robot, reason, by) and notification_robot_resume(robot)."
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    // Those of list: flattened together they would be an option that is never there.
    /// One JSON object: {"robots": [...]}
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: Option<config::Database>,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Show robots and pools: budget left, pause and why, how many events wait; the same as no subcommand
    List(list::Args),
    /// Give a robot, or a pool of robots, a name that events can have as their target
    Add(add::Args),
    /// Take a name away
    Remove(remove::Args),
    /// Send a robot nothing until it is resumed; its events wait and use no retries
    Pause(pause::Pause),
    /// End a pause or a cool-down: what waits goes out as fast as the budget allows
    Resume(pause::Resume),
    /// Send a test message through the running sidecar and wait for the outcome
    Test(test::Args),
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    match (args.command, args.database) {
        (Some(Command::List(args)), _) => list::run(args),
        (Some(Command::Add(args)), _) => add::run(args),
        (Some(Command::Remove(args)), _) => remove::run(args),
        (Some(Command::Pause(args)), _) => pause::pause(args),
        (Some(Command::Resume(args)), _) => pause::resume(args),
        (Some(Command::Test(args)), _) => test::run(args),
        (None, Some(database)) => list::run(list::Args { json: args.json, database }),
        (None, None) => Err(BadConfiguration("DATABASE_URL (--database-url) is not set".to_owned()).into()),
    }
}

/// A connection on which the audit knows who acts.
async fn connect_as(config: &config::Database, operator: &config::Operator) -> anyhow::Result<Object> {
    super::act::connect(config, operator).await
}

async fn connect(config: &config::Database) -> anyhow::Result<Object> {
    super::connect(config).await
}
