//! `postbell migrate`: creates or updates the schema.

use std::io::Write as _;

use super::block_on;
use crate::config;
use crate::db::{Database, Durability};
use crate::migrations;

/// Arguments of `postbell migrate`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    database: config::Database,
}

/// Applies what is missing and says so.
pub fn run(args: Args) -> anyhow::Result<()> {
    block_on(async {
        let database = Database::new(&args.database)?;
        let pool = database.pool(1, Durability::Durable)?;
        let applied = migrations::migrate(&pool).await?;
        let mut out = std::io::stdout().lock();
        for migration in &applied {
            writeln!(out, "applied {migration}")?;
        }
        writeln!(out, "schema is at version {}", migrations::newest())?;
        Ok(())
    })
}
