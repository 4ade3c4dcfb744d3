//! A minute in which nothing happens.

use std::time::Duration;

use crate::bed::{Bed, number, until};
use crate::figure::{Figure, Goal};
use crate::options::Options;
use crate::usage;

const WORK: &str = "idle";

pub(crate) async fn measure(bed: &Bed, options: &Options) -> Vec<Figure> {
    let seconds = options.sized(10, 60, 180);
    let database = bed.with_rows(1).await;
    let client = database.client().await;
    let parts = [bed.postbell("relay", &database), bed.postbell("consume", &database)];
    until(async || crate::bed::unfinished(&client).await == 0.0).await;
    client.batch_execute("create extension if not exists pg_stat_statements").await.unwrap();
    let calls = "select sum(calls) from pg_stat_statements
        where dbid = (select oid from pg_database where datname = current_database()) and query not like '%pg_stat_%'";
    // What a start and a first event bring with them is over after a few seconds.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let cpu = || parts.iter().map(|part| usage::cpu_seconds(part.pid())).sum::<f64>();
    let before = (number(&client, calls).await, cpu(), bed.postgres_cpu());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = (number(&client, calls).await, cpu(), bed.postgres_cpu());
    let percent = |before: f64, after: f64| (after - before) / seconds as f64 * 100.0;
    vec![
        Figure::plain(
            WORK,
            "statements of relay and consumer",
            (after.0 - before.0) * 60.0 / seconds as f64,
            "a minute",
        )
        .goal(Goal::AtMost(60.0)),
        Figure::plain(WORK, "CPU of relay and consumer", percent(before.1, after.1), "% of a core")
            .goal(Goal::AtMost(0.1)),
        Figure::plain(WORK, "CPU of PostgreSQL", percent(before.2, after.2), "% of a core"),
    ]
}
