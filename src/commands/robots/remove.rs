//! `postbell robots remove`: takes a name away.

use std::io::Write as _;

use anyhow::Context as _;
use tokio_postgres::Client;

use crate::commands::block_on;
use crate::config;

/// Arguments of `postbell robots remove`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The robot or pool
    name: String,

    /// Remove it although events are still to be sent to it, or pools have it
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    operator: config::Operator,
    #[command(flatten)]
    database: config::Database,
}

/// Removes the row; nobody's events are lost by surprise.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let removed = block_on(async {
        let client = super::connect_as(&args.database, &args.operator).await?;
        let known = client.query_opt("select from notification_channels where name = $1", &[&args.name]).await;
        anyhow::ensure!(
            known.context("reading notification_channels")?.is_some(),
            "not found: no robot or pool was added under this name; the one of DINGTALK_NOTIFICATION_WEBHOOK is removed \
             from the sidecar's environment"
        );
        let needed = needed(&client, &args.name).await?;
        anyhow::ensure!(
            args.force || needed.is_empty(),
            "not removed: {}; --force removes it all the same",
            needed.join("; ")
        );
        let delete = "delete from notification_channels where name = $1";
        client.execute(delete, &[&args.name]).await.context("removing from notification_channels")?;
        let listed = "select from notification_robot_status where name = $1";
        let listed = client.query_opt(listed, &[&args.name]).await.ok().flatten();
        // Added again within a minute, a robot has not got a second budget.
        let kept =
            listed.map(|_| "what was sent by it is kept, and postbell robots list goes on showing it".to_owned());
        Ok(needed.into_iter().chain(kept).collect::<Vec<_>>())
    })?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "removed: within seconds no consumer knows it any more")?;
    for what in removed {
        writeln!(out, "{what}")?;
    }
    Ok(())
}

/// What the robot is still needed for.
async fn needed(client: &Client, name: &str) -> anyhow::Result<Vec<String>> {
    let open = "select count(*) from notification_status
        where target = $1 and completed_at is null and failed_at is null";
    let open: i64 = client.query_one(open, &[&name]).await.context("counting its events")?.get(0);
    let pools =
        "select coalesce(array_agg(name order by name), '{}') from notification_channels where $1 = any(robots)";
    let pools: Vec<String> = client.query_one(pools, &[&name]).await.context("looking for its pools")?.get(0);
    let mut needed = Vec::new();
    if open > 0 {
        let events = if open == 1 { "1 event is".to_owned() } else { format!("{open} events are") };
        needed.push(format!(
            "{events} still to be sent to it, and without it for an unknown target: such events fail, or wait where \
             NOTIFICATION_UNKNOWN_TARGET is wait"
        ));
    }
    if !pools.is_empty() {
        needed.push(format!("it is one of the robots of {}", pools.join(", ")));
    }
    Ok(needed)
}
