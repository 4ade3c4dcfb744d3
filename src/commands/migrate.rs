//! `postbell migrate`: creates or updates the schema.

use std::io::Write as _;

use super::{block_on, connect};
use crate::cli::NotYet;
use crate::config;
use crate::migrations::{self, Schema};

/// Arguments of `postbell migrate`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Exit codes with --check: 0 up to date, 75 migrations are pending, 1 it could not be found out, or \
                        the schema was made by other migrations than this postbell's."
)]
pub struct Args {
    /// Apply nothing: list what is not applied yet, and end with 75 where there is any
    #[arg(long)]
    check: bool,

    #[command(flatten)]
    database: config::Database,
}

/// Applies what is missing and says so.
pub fn run(args: Args) -> anyhow::Result<()> {
    block_on(async {
        let mut client = connect(&args.database).await?;
        if args.check {
            return check(&client).await;
        }
        let applied = migrations::migrate(&mut client).await?;
        let mut out = std::io::stdout().lock();
        for migration in &applied {
            writeln!(out, "applied {migration}")?;
        }
        writeln!(out, "schema is at version {}", migrations::newest())?;
        Ok(())
    })
}

/// Says what is not applied yet.
async fn check(client: &tokio_postgres::Client) -> anyhow::Result<()> {
    let Schema { version, pending, changed } = migrations::look(client).await?;
    let mut out = std::io::stdout().lock();
    for migration in &pending {
        writeln!(out, "pending {migration}")?;
    }
    anyhow::ensure!(
        changed.is_empty(),
        "the schema was made by other migrations than this postbell's: {}; allowed: released binaries only",
        changed.join(", ")
    );
    if !pending.is_empty() {
        let count =
            if pending.len() == 1 { "1 migration is".to_owned() } else { format!("{} migrations are", pending.len()) };
        return Err(NotYet(format!("{count} not applied yet; postbell migrate applies them")).into());
    }
    writeln!(out, "schema is at version {version}")?;
    Ok(())
}
