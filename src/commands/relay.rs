//! `postbell relay`: moves hints of due rows to the queue.

use super::block_on;
use crate::config;
use crate::service::Service;

/// Arguments of `postbell relay`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    database: config::Database,
    #[command(flatten)]
    queue: config::Queue,
    #[command(flatten)]
    hints: config::Hints,
    #[command(flatten)]
    relay: config::Relay,
    #[command(flatten)]
    service: config::Service,
}

/// Runs until told to stop.
pub fn run(args: Args) -> anyhow::Result<()> {
    let service = Service {
        database: args.database,
        queue: args.queue,
        hints: args.hints,
        service: args.service,
        relay: Some(args.relay),
        consumer: None,
    };
    block_on(service.run())
}
