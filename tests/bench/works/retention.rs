//! Old rows are removed beside a load: do the messages wait for it?

use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::Client;

use crate::bed::{Bed, number, until};
use crate::figure::{Figure, Goal, percentile};
use crate::harness::process::Postbell;
use crate::harness::servers::Database;
use crate::options::Options;

const WORK: &str = "retention";

/// Delivered a day longer ago than such rows stay.
const OLD: &str = "
    insert into notification_events
        (event_type, payload, status, completed_at, delivered_at, created_at, scheduled_at, hinted_until, dispatched_at, attempt)
    select 'bench', bench_payload(n), 'delivered', t, t, t, t, t, t, 1
    from generate_series(1, $1::bigint) n
    cross join lateral (select now() - interval '31 days' - n * interval '100 milliseconds') as at (t)";

/// Ten in one statement, a hundred times a second: 1,000 a second.
const INSERT: &str = "insert into notification_events (event_type, payload)
    select 'bench', bench_payload(n) from generate_series($1::bigint, $1::bigint + 9) n";

const PAUSE: Duration = Duration::from_millis(10);

pub(crate) async fn measure(bed: &Bed, options: &Options) -> Vec<Figure> {
    let (old, quiet) = options.sized((10_000, 5), (200_000, 20), (1_000_000, 60));
    let database = bed.with_rows(0).await;
    let client = database.client().await;
    client.execute(OLD, &[&(old as i64)]).await.unwrap();
    client.batch_execute("vacuum (freeze, analyze) notification_events").await.unwrap();
    client.batch_execute("checkpoint").await.unwrap();
    let start = Instant::now();
    let before = beside(bed, &database, "off", async || start.elapsed() >= Duration::from_secs(quiet)).await;
    let start = Instant::now();
    let during = beside(bed, &database, "30d", async || is_removed(&client).await).await;
    let took = start.elapsed().as_secs_f64();
    vec![
        Figure::plain(WORK, format!("{old} old rows removed beside 1,000 events/s"), old as f64 / took, "rows/s"),
        Figure::against(
            WORK,
            "commit to message meanwhile, p99, against without",
            "ms",
            &[percentile(&during, 0.99)],
            &[percentile(&before, 0.99)],
        )
        .goal(Goal::AtMost(2.0)),
        Figure::against(WORK, "the same, p50", "ms", &[percentile(&during, 0.5)], &[percentile(&before, 0.5)]),
    ]
}

async fn is_removed(client: &Client) -> bool {
    let oldest = "select count(*) from (select from notification_events
        where completed_at < now() - interval '31 days' and failed_at is null limit 1) old";
    number(client, oldest).await == 0.0
}

/// A relay that keeps delivered rows so long, a consumer, and 1,000 events a second until it is enough. Milliseconds from
/// commit to message of each.
async fn beside(bed: &Bed, database: &Database, keep: &str, mut is_enough: impl AsyncFnMut() -> bool) -> Vec<f64> {
    let client = database.client().await;
    let insert = client.prepare(INSERT).await.unwrap();
    bed.receiver.reset(false);
    let env = bed.env(database).with("NOTIFICATION_RETENTION_DELIVERED", keep);
    let _parts = [Postbell::start(&["relay"], &env), Postbell::start(&["consume"], &env)];
    // What starts takes its time.
    client.execute(&insert, &[&0_i64]).await.unwrap();
    until(async || bed.receiver.count() == 10).await;
    bed.receiver.reset(true);
    let mut tick = interval(PAUSE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut committed, mut looked) = (Vec::new(), Instant::now());
    loop {
        tick.tick().await;
        client.execute(&insert, &[&(committed.len() as i64 * 10)]).await.unwrap();
        committed.push(Instant::now());
        // Seldom, for to look is work as well.
        if looked.elapsed() >= Duration::from_secs(1) {
            looked = Instant::now();
            if is_enough().await {
                break;
            }
        }
    }
    until(async || bed.receiver.count() >= committed.len() * 10).await;
    let arrivals = bed.receiver.times();
    let waited = |(number, arrival): (&u64, &Instant)| {
        arrival.saturating_duration_since(committed[*number as usize / 10]).as_secs_f64() * 1000.0
    };
    arrivals.iter().map(waited).collect()
}
