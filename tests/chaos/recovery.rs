//! How long it takes after a fault until delivery flows again, and until what had piled up is delivered.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::ledger::Ledger;

/// What is not recovered by then is not recovering.
const DEADLINE: Duration = Duration::from_secs(45);

/// How often the table is asked about what does not arrive.
const LOOK: Duration = Duration::from_millis(50);

/// Counted from the same moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recovery {
    /// Until the robot took an event that was begun since.
    pub(crate) flows: Duration,
    /// Until every event that was committed and due by then was taken by the robot, or is complete otherwise.
    pub(crate) caught_up: Duration,
    /// Until the robot took an event that was begun just before the fault: what delivery takes anyhow.
    pub(crate) usual: Duration,
}

/// Waits for both; the error says what did not come.
pub(crate) async fn watch(
    cluster: &Cluster,
    ledger: &Ledger,
    since: Instant,
    usual: Option<Duration>,
) -> Result<Recovery, String> {
    let mut changed = ledger.watch();
    let flows = first_new_arrival(ledger, &mut changed, since).await?;
    let caught_up = last_old_arrival(cluster, ledger, &mut changed, since).await?;
    let after = |time: Instant| time.saturating_duration_since(since);
    let (flows, caught_up) = (after(flows), caught_up.map_or(Duration::ZERO, after));
    Ok(Recovery { flows, caught_up, usual: usual.unwrap_or(flows) })
}

async fn first_new_arrival(
    ledger: &Ledger,
    changed: &mut watch::Receiver<()>,
    since: Instant,
) -> Result<Instant, String> {
    let limit = Instant::now() + DEADLINE;
    loop {
        if let Some(arrived) = ledger.first_arrival_of_an_event_begun_since(since) {
            return Ok(arrived);
        }
        if Instant::now() > limit {
            return Err(format!("nothing that was published afterwards has arrived within {DEADLINE:?}"));
        }
        let _ = tokio::time::timeout(LOOK, changed.changed()).await;
    }
}

async fn last_old_arrival(
    cluster: &Cluster,
    ledger: &Ledger,
    changed: &mut watch::Receiver<()>,
    since: Instant,
) -> Result<Option<Instant>, String> {
    let mut last = None;
    let mut open: Vec<Uuid> = Vec::new();
    for (id, arrived) in ledger.open_at(since) {
        last = last.max(arrived);
        open.extend(arrived.is_none().then_some(id));
    }
    if open.is_empty() {
        return Ok(last);
    }
    let client = cluster.client().await;
    let complete = "select id, extract(epoch from clock_timestamp() - completed_at)::double precision as age
        from notification_events where id = any($1) and completed_at is not null";
    let limit = Instant::now() + DEADLINE;
    loop {
        open.retain(|id| {
            let arrived = ledger.arrived(*id);
            last = last.max(arrived);
            arrived.is_none()
        });
        // An event that asks for at most one delivery may fail instead of arriving.
        for row in client.query(complete, &[&open]).await.map_err(|error| format!("asking the table: {error}"))? {
            let (id, age): (Uuid, f64) = (row.get("id"), row.get("age"));
            last = last.max(Instant::now().checked_sub(Duration::try_from_secs_f64(age).unwrap_or_default()));
            open.retain(|one| *one != id);
            ledger.give_up(id);
        }
        if open.is_empty() {
            return Ok(last);
        }
        if Instant::now() > limit {
            return Err(format!(
                "{} events that were due then are still not delivered after {DEADLINE:?}, {} among them",
                open.len(),
                open[0]
            ));
        }
        let _ = tokio::time::timeout(LOOK, changed.changed()).await;
    }
}
