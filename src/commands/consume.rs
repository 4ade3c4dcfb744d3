//! `postbell consume`: takes hints, renders the events and sends them.

use super::block_on;
use crate::config;
use crate::service::Service;

/// Arguments of `postbell consume`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    database: config::Database,
    #[command(flatten)]
    queue: config::Queue,
    #[command(flatten)]
    hints: config::Hints,
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
        relay: None,
        consumer: Some((args.consumer, args.channel, args.templates)),
    };
    block_on(service.run())
}
