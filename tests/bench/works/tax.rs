//! What inserting transactions pay for postbell: 16 writers, with postbell's trigger, without any, and with one that
//! notifies always. In all three the relay works on what they insert.

use std::process::Stdio;

use tokio::process::Command;

use crate::bed::Bed;
use crate::figure::{Figure, Goal};
use crate::floor::ALWAYS_NOTIFY;
use crate::harness::servers::{Database, bin_dir};
use crate::options::Options;

const WORK: &str = "tax";

/// The barest insert there is.
const BARE: &str = "insert into notification_events (event_type, payload) values ('bench', '{\"n\": 1}');";

/// A transaction of three statements, of which one publishes.
const BUSINESS: &str = "\\set id random(1, 1000)
begin;
update bench_jobs set applications = applications + 1 where id = :id;
insert into bench_applications (job_id, resume) values (:id, repeat('x', 200));
insert into notification_events (event_type, payload) values ('bench', '{\"n\": 1}');
commit;";

const TABLES: &str = "
    create table bench_jobs (id integer primary key, applications integer not null default 0) with (fillfactor = 50);
    create table bench_applications (id bigint generated always as identity primary key, job_id integer, resume text);
    insert into bench_jobs (id) select generate_series(1, 1000)";

const NO_TRIGGER: &str = "alter table notification_events disable trigger notification_events_wake_relay";

pub(crate) async fn measure(bed: &Bed, options: &Options) -> Vec<Figure> {
    let seconds = options.sized(1, 6, 20);
    let mut rates: [Vec<f64>; 5] = Default::default();
    let sides = [(BARE, ""), (BARE, NO_TRIGGER), (BARE, ALWAYS_NOTIFY), (BUSINESS, ""), (BUSINESS, NO_TRIGGER)];
    for _ in 0..options.runs().max(if options.quick { 1 } else { 5 }) {
        for (side, (script, trigger)) in sides.into_iter().enumerate() {
            rates[side].push(write(bed, script, trigger, seconds).await);
        }
    }
    let [bare, bare_without, bare_always, business, business_without] = &rates;
    vec![
        Figure::against(WORK, "bare inserts by 16 writers, against no trigger", "inserts/s", bare, bare_without)
            .goal(Goal::AtLeast(0.85)),
        Figure::against(
            WORK,
            "business transactions of three statements, against no trigger",
            "tx/s",
            business,
            business_without,
        )
        .goal(Goal::AtLeast(0.95)),
        Figure::against(WORK, "bare inserts, against a trigger that notifies always", "inserts/s", bare, bare_always)
            .goal(Goal::AtLeast(2.5)),
    ]
}

/// Transactions a second.
async fn write(bed: &Bed, script: &str, trigger: &str, seconds: u64) -> f64 {
    let database = bed.with_rows(0).await;
    let client = database.client().await;
    client.batch_execute(&format!("{TABLES}; {trigger}")).await.unwrap();
    // Where nobody wakes it, it looks often enough to have the same work.
    let env = bed.env(&database).with("NOTIFICATION_POLL_INTERVAL", "100ms");
    let relay = crate::harness::process::Postbell::start(&["relay"], &env);
    client.batch_execute("insert into notification_events (event_type, payload) values ('bench', '{}')").await.unwrap();
    crate::bed::until(async || bed.entries().await > 0).await;
    let rate = pgbench(&database, script, seconds).await;
    drop(relay);
    rate
}

async fn pgbench(database: &Database, script: &str, seconds: u64) -> f64 {
    let file = std::env::temp_dir().join(format!("postbell-bench-{:016x}.sql", fastrand::u64(..)));
    std::fs::write(&file, script).unwrap();
    let seconds = seconds.to_string();
    let output = Command::new(bin_dir().join("pgbench"))
        .args(["--no-vacuum", "--client=16", "--jobs=1", "--protocol=prepared", "--time", &seconds, "--file"])
        .arg(&file)
        .arg(database.url())
        .stdin(Stdio::null())
        .output()
        .await
        .expect("pgbench comes with the server");
    std::fs::remove_file(&file).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.unwrap_or_else(|| panic!("pgbench says: {text}{}", String::from_utf8_lossy(&output.stderr)))
}
