//! Minutes of load, and what is left of the speed: with vacuum at work, and with a transaction open that keeps dead rows
//! from being removed.

use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::Client;

use super::drain::{Drained, drain};
use crate::bed::{Bed, unfinished, until};
use crate::figure::{Figure, Goal};
use crate::harness::servers::Database;
use crate::options::Options;

const WORK: &str = "steady";

/// Inserted every tenth of a second: 2,000 a second.
const INSERT: &str = "insert into notification_events (event_type, payload) select 'bench', bench_payload(n) from generate_series(1, 200) n";

pub(crate) async fn measure(bed: &Bed, options: &Options) -> Vec<Figure> {
    let (steady, foreign, due) = options.sized((10, 10, 20_000), (120, 60, 100_000), (600, 300, 100_000));
    let database = bed.with_rows(0).await;
    let client = database.client().await;
    let mut figures = Vec::new();
    let at_start = backlogs(bed, &database, &client, due, options).await;
    load(bed, &database, &client, Duration::from_secs(steady)).await;
    let after = backlogs(bed, &database, &client, due, options).await;
    let what = format!("{due} rows after {steady} s of 2,000/s, sent and recorded, against at start");
    figures.push(Figure::against(WORK, what, "events/s", &after, &at_start).goal(Goal::AtLeast(0.9)));
    let held = database.client().await;
    held.batch_execute("begin isolation level repeatable read; select count(*) from pg_class").await.unwrap();
    load(bed, &database, &client, Duration::from_secs(foreign)).await;
    let beside = backlogs(bed, &database, &client, due, options).await;
    held.batch_execute("commit").await.unwrap();
    let what = format!("{due} rows beside a transaction that has been open for {foreign} s of it, against at start");
    figures.push(Figure::against(WORK, what, "events/s", &beside, &at_start).goal(Goal::AtLeast(0.5)));
    figures
}

/// Steady inserts, and relay and consumer that keep up with them.
async fn load(bed: &Bed, database: &Database, client: &Client, lasts: Duration) {
    let _parts = [bed.postbell("relay", database), bed.postbell("consume", database)];
    let start = Instant::now();
    let mut tick = interval(Duration::from_millis(100));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while start.elapsed() < lasts {
        tick.tick().await;
        client.batch_execute(INSERT).await.unwrap();
    }
    until(async || unfinished(client).await == 0.0).await;
}

/// Rates of some backlogs, one after the other.
async fn backlogs(bed: &Bed, database: &Database, client: &Client, due: u64, options: &Options) -> Vec<f64> {
    let mut rates = Vec::new();
    for _ in 0..options.runs() {
        rates.push(backlog(bed, database, client, due).await.rate);
    }
    rates
}

/// So many rows at once, hinted by one relay; then they are out of the way.
async fn backlog(bed: &Bed, database: &Database, client: &Client, due: u64) -> Drained {
    redis::cmd("FLUSHALL").exec_async(&mut bed.queue()).await.unwrap();
    let fill = "insert into notification_events (event_type, payload)
        select 'bench', bench_payload(n) from generate_series(1, $1::bigint) n";
    client.execute(fill, &[&(due as i64)]).await.unwrap();
    let drained = drain(bed, database, 1, due).await;
    let away = "update notification_events set status = 'cancelled', completed_at = now() where completed_at is null";
    client.batch_execute(away).await.unwrap();
    redis::cmd("FLUSHALL").exec_async(&mut bed.queue()).await.unwrap();
    drained
}
