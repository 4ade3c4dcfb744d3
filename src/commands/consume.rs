//! `postbell consume`: takes hints, renders the events and sends them.

use super::block_on;
use crate::config;
use crate::service::Service;

/// Arguments of `postbell consume`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    sidecar: config::Sidecar,
    #[command(flatten)]
    sending: config::Sending,
}

/// Runs until told to stop.
pub fn run(args: Args) -> anyhow::Result<()> {
    let requests = args.sending.channel.requests.clone();
    block_on(Service { sidecar: args.sidecar, relay: None, sending: Some(args.sending), requests }.run())
}
