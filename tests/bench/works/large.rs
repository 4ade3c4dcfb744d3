//! Does it matter how much has been delivered, and how much is scheduled for later?

use super::drain::drain;
use crate::bed::Bed;
use crate::figure::{Figure, Goal};
use crate::options::Options;

const WORK: &str = "large";

/// Finished rows as they are left behind, and rows that are due in a week.
const FINISHED: &str = "
    insert into notification_events
        (event_type, payload, status, completed_at, delivered_at, created_at, scheduled_at, hinted_until, dispatched_at, attempt)
    select 'bench', bench_payload(n), 'delivered', t, t, t, t, t, t, 1
    from generate_series(1, $1::bigint) n cross join lateral (select now() - (n % 1000000) * interval '1 second') as at (t)";

const SCHEDULED: &str = "
    insert into notification_events (event_type, payload, scheduled_at)
    select 'bench', bench_payload(n), now() + interval '7 days' + n * interval '1 second'
    from generate_series(1, $1::bigint) n";

pub(crate) async fn measure(bed: &Bed, options: &Options) -> Vec<Figure> {
    let (finished, scheduled, due): (i64, i64, u64) =
        options.sized((100_000, 10_000, 20_000), (1_000_000, 100_000, 100_000), (10_000_000, 1_000_000, 200_000));
    let full = bed.with_rows(0).await;
    let client = full.client().await;
    client.batch_execute("set synchronous_commit = off").await.unwrap();
    client.execute(FINISHED, &[&finished]).await.unwrap();
    client.execute(SCHEDULED, &[&scheduled]).await.unwrap();
    client.batch_execute("vacuum (freeze, analyze) notification_events").await.unwrap();
    let empty = bed.with_rows(0).await;
    let other = empty.client().await;
    let (mut ours, mut bases) = (Vec::new(), Vec::new());
    for _ in 0..options.runs() {
        for (client, database, rates) in [(&client, &full, &mut ours), (&other, &empty, &mut bases)] {
            redis::cmd("FLUSHALL").exec_async(&mut bed.queue()).await.unwrap();
            client
                .batch_execute(
                    "update notification_events set status = 'cancelled', completed_at = now()
                where completed_at is null and scheduled_at <= now()",
                )
                .await
                .unwrap();
            let fill = "insert into notification_events (event_type, payload)
                select 'bench', bench_payload(n) from generate_series(1, $1::bigint) n";
            client.execute(fill, &[&(due as i64)]).await.unwrap();
            client.batch_execute("vacuum notification_events").await.unwrap();
            client.batch_execute("checkpoint").await.unwrap();
            rates.push(drain(bed, database, 1, due).await.rate);
        }
    }
    vec![
        Figure::against(
            WORK,
            format!("{due} rows beside {finished} finished and {scheduled} scheduled ones, against an empty table"),
            "events/s",
            &ours,
            &bases,
        )
        .goal(Goal::AtLeast(0.9)),
    ]
}
