//! Waiting rows into the stream: one relay, two, the hand-written loop, and other relays.

use std::time::Instant;

use super::peers;
use crate::bed::{Bed, number, until, while_running};
use crate::figure::{Figure, Goal};
use crate::harness::process::Postbell;
use crate::harness::servers::Database;
use crate::options::{Floor, Options};
use crate::usage;

const WORK: &str = "drain";

/// What one drain came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drained {
    /// Events a second.
    pub(crate) rate: f64,
    /// Seconds of CPU that the first relay used for 10,000 events.
    pub(crate) cpu: f64,
    /// The same of PostgreSQL.
    pub(crate) postgres_cpu: f64,
    /// Memory of the first relay after a tenth, and the most it ever had, in MiB.
    pub(crate) memory: (f64, f64),
}

pub(crate) async fn measure(bed: &Bed, options: &Options) -> Vec<Figure> {
    let rows = options.sized(20_000, 200_000, 200_000);
    let (mut one, mut two, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.runs() {
        one.push(by_postbell(bed, 1, rows).await);
        floor.push(by_hand(bed, rows).await);
        two.push(by_postbell(bed, 2, rows).await);
    }
    let rates = |runs: &[Drained]| runs.iter().map(|run| run.rate).collect::<Vec<f64>>();
    let cpus = |runs: &[Drained]| runs.iter().map(|run| run.cpu).collect::<Vec<f64>>();
    let postgres = |runs: &[Drained]| runs.iter().map(|run| run.postgres_cpu).collect::<Vec<f64>>();
    let mut figures = vec![
        Figure::against(
            WORK,
            format!("{rows} waiting rows, one relay, against the floor"),
            "events/s",
            &rates(&one),
            &rates(&floor),
        )
        .goal(Goal::AtLeast(0.9)),
        Figure::against(WORK, "CPU of that relay", "s/10,000", &cpus(&one), &cpus(&floor)).goal(Goal::AtMost(1.5)),
        Figure::against(WORK, "CPU of PostgreSQL meanwhile", "s/10,000", &postgres(&one), &postgres(&floor)),
        Figure::against(WORK, "two relays against one", "events/s", &rates(&two), &rates(&one))
            .goal(Goal::AtLeast(1.0)),
    ];
    figures.extend(memory(bed, options).await);
    if let Some(folder) = &options.peers {
        figures.extend(peers::drain(bed, options, folder, rows, &rates(&one)).await);
    }
    figures
}

/// While it drains a million rows.
async fn memory(bed: &Bed, options: &Options) -> Vec<Figure> {
    let rows = options.sized(20_000, 1_000_000, 1_000_000);
    let drained = by_postbell(bed, 1, rows).await;
    let (early, most) = drained.memory;
    vec![
        Figure::plain(WORK, format!("memory of a relay while draining {rows} rows"), most, "MiB")
            .goal(Goal::AtMost(40.0)),
        Figure::against(WORK, "the same, at most, against after a tenth", "MiB", &[most], &[early]),
    ]
}

/// One drain by so many relays of postbell; no row may be hinted twice.
pub(crate) async fn by_postbell(bed: &Bed, relays: usize, rows: u64) -> Drained {
    let database = bed.with_rows(rows).await;
    drain(bed, &database, relays, rows).await
}

/// Drains a database in which so many rows are due.
pub(crate) async fn drain(bed: &Bed, database: &Database, relays: usize, rows: u64) -> Drained {
    let mut relays: Vec<Postbell> = (0..relays).map(|_| bed.postbell("relay", database)).collect();
    let drained = watch(bed, &mut relays[0], rows).await;
    let client = database.client().await;
    let due = "select count(*) from notification_events
        where completed_at is null and greatest(hinted_until, scheduled_at) <= now()";
    until(async || number(&client, due).await == 0.0).await;
    let entries = bed.entries().await;
    assert_eq!(entries, rows, "a row was hinted twice, or not at all");
    drained
}

/// The same by the hand-written loop.
pub(crate) async fn by_hand(bed: &Bed, rows: u64) -> Drained {
    let database = bed.with_rows(rows).await;
    bed.always_notify(&database).await;
    watch(bed, &mut bed.floor(Floor::Relay, &database), rows).await
}

/// From the first entry on, until all are there.
pub(crate) async fn watch(bed: &Bed, relay: &mut Postbell, rows: u64) -> Drained {
    let (pid, mut first) = (relay.pid(), 0);
    while_running(relay, async || {
        first = bed.entries().await;
        first > 0
    })
    .await;
    let (start, cpu, postgres_cpu) = (Instant::now(), usage::cpu_seconds(pid), bed.postgres_cpu());
    let mut early = None;
    while_running(relay, async || {
        let entries = bed.entries().await;
        if entries > rows / 10 && early.is_none() {
            early = Some(usage::memory_mib(pid).0);
        }
        entries >= rows
    })
    .await;
    let took = start.elapsed().as_secs_f64();
    let moved = rows.saturating_sub(first).max(1) as f64;
    Drained {
        rate: moved / took,
        cpu: (usage::cpu_seconds(pid) - cpu) / moved * 10_000.0,
        postgres_cpu: (bed.postgres_cpu() - postgres_cpu) / moved * 10_000.0,
        memory: (early.unwrap_or_default(), usage::memory_mib(pid).1),
    }
}
