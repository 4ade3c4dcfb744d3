//! The whole path: waiting rows → relay → stream → consumer → HTTP receiver → recorded as delivered.

use std::time::Instant;

use crate::bed::{Bed, unfinished, until, while_running};
use crate::figure::{Figure, Goal};
use crate::harness::process::Postbell;
use crate::harness::servers::Database;
use crate::options::{Floor, Options};
use crate::usage;

const WORK: &str = "path";

struct Walked {
    rate: f64,
    cpu: f64,
    memory: f64,
}

pub(crate) async fn measure(bed: &Bed, options: &Options) -> Vec<Figure> {
    let rows = options.sized(10_000, 50_000, 50_000);
    let (mut ours, mut floor, mut own) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.runs() {
        let database = bed.with_rows(rows).await;
        ours.push(
            walk(bed, &database, &[bed.postbell("relay", &database)], bed.postbell("consume", &database), rows).await,
        );
        for (consumer, walked) in [(Floor::Consumer, &mut floor), (Floor::OwnStatements, &mut own)] {
            let database = bed.with_rows(rows).await;
            bed.always_notify(&database).await;
            let relay = bed.floor(Floor::Relay, &database);
            walked.push(walk(bed, &database, &[relay], bed.floor(consumer, &database), rows).await);
        }
    }
    fn column(runs: &[Walked], of: impl Fn(&Walked) -> f64) -> Vec<f64> {
        runs.iter().map(of).collect()
    }
    let (rate, cpu) = (|run: &Walked| run.rate, |run: &Walked| run.cpu);
    let most = column(&ours, |run| run.memory).into_iter().fold(0.0, f64::max);
    vec![
        Figure::against(
            WORK,
            format!("{rows} waiting rows, sent and recorded, against a loop of the same statements"),
            "events/s",
            &column(&ours, rate),
            &column(&own, rate),
        )
        .goal(Goal::AtLeast(0.8)),
        Figure::against(
            WORK,
            "the same, against the floor, whose statements judge nothing",
            "events/s",
            &column(&ours, rate),
            &column(&floor, rate),
        ),
        Figure::against(
            WORK,
            "CPU of the consumer, against the floor",
            "s/10,000",
            &column(&ours, cpu),
            &column(&floor, cpu),
        )
        .goal(Goal::AtMost(2.0)),
        Figure::plain(WORK, "memory of the consumer", most, "MiB").goal(Goal::AtMost(40.0)),
    ]
}

/// From the first message on, until every row is delivered.
async fn walk(bed: &Bed, database: &Database, _relays: &[Postbell], mut consumer: Postbell, rows: u64) -> Walked {
    bed.receiver.reset(false);
    while_running(&mut consumer, async || bed.receiver.count() > 0).await;
    let (start, cpu, first) = (Instant::now(), usage::cpu_seconds(consumer.pid()), bed.receiver.count());
    while_running(&mut consumer, async || bed.receiver.count() as u64 >= rows).await;
    let client = database.client().await;
    until(async || unfinished(&client).await == 0.0).await;
    let took = start.elapsed().as_secs_f64();
    assert_eq!(bed.receiver.count() as u64, rows, "an event was sent twice");
    let walked = (rows as usize - first) as f64;
    Walked {
        rate: walked / took,
        cpu: (usage::cpu_seconds(consumer.pid()) - cpu) / walked * 10_000.0,
        memory: usage::memory_mib(consumer.pid()).1,
    }
}
