//! `postbell robots pause` and `postbell robots resume`.

use std::io::Write as _;

use anyhow::Context as _;

use crate::commands::block_on;
use crate::config;

/// Arguments of `postbell robots pause`.
#[derive(clap::Args, Debug)]
pub(super) struct Pause {
    /// The robot, as postbell robots list names it
    name: String,

    /// Why, for those who find it paused
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    /// Who pauses it; if not given the same as --as, or the role that is logged in to PostgreSQL
    #[arg(long, value_name = "NAME")]
    by: Option<String>,

    #[command(flatten)]
    operator: config::Operator,
    #[command(flatten)]
    database: config::Database,
}

/// Arguments of `postbell robots resume`.
#[derive(clap::Args, Debug)]
pub(super) struct Resume {
    /// The robot, as postbell robots list names it
    name: String,

    #[command(flatten)]
    operator: config::Operator,
    #[command(flatten)]
    database: config::Database,
}

/// Pauses the robot and says what happened.
pub(super) fn pause(args: Pause) -> anyhow::Result<()> {
    let said = block_on(async {
        let client = super::connect_as(&args.database, &args.operator).await?;
        let pause = "select notification_robot_pause($1, $2, $3)";
        let by = args.by.as_deref().or(args.operator.actor());
        let row = client.query_one(pause, &[&args.name, &args.reason, &by]).await;
        Ok(row.context("the robot was not paused")?.get::<_, String>(0))
    })?;
    print(said)
}

/// Resumes the robot and says what happened.
pub(super) fn resume(args: Resume) -> anyhow::Result<()> {
    let said = block_on(async {
        let client = super::connect_as(&args.database, &args.operator).await?;
        let row = client.query_one("select notification_robot_resume($1)", &[&args.name]).await;
        Ok(row.context("the robot was not resumed")?.get::<_, String>(0))
    })?;
    print(said)
}

/// What changed nothing is a failure.
fn print(said: String) -> anyhow::Result<()> {
    anyhow::ensure!(!said.starts_with("not found"), "{said}; postbell robots list shows those there are");
    anyhow::ensure!(!said.starts_with("unchanged"), said);
    writeln!(std::io::stdout().lock(), "{said}")?;
    Ok(())
}
