//! `postbell run`: relay and consumer in one process.

use super::block_on;
use crate::config;
use crate::service::Service;

/// Arguments of `postbell run`.
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
    consumer: config::Consumer,
    #[command(flatten)]
    channel: config::Channel,
    #[command(flatten)]
    templates: config::Templates,
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
        consumer: Some((args.consumer, args.channel, args.templates)),
    };
    block_on(service.run())
}
