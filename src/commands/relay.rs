//! `postbell relay`: moves hints of due rows to the queue.

use super::block_on;
use crate::config;
use crate::service::Service;

/// Arguments of `postbell relay`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    sidecar: config::Sidecar,
    #[command(flatten)]
    relay: config::Relay,
    #[command(flatten)]
    requests: config::Requests,
}

/// Runs until told to stop.
pub fn run(args: Args) -> anyhow::Result<()> {
    block_on(Service { sidecar: args.sidecar, relay: Some(args.relay), sending: None, requests: args.requests }.run())
}
