//! How long it takes from the answer to a commit until the entry is in the stream, and until the message is received.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use redis::streams::StreamReadReply;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::Client;

use super::peers;
use crate::bed::{Bed, STREAM, unfinished, until, while_running};
use crate::figure::{Figure, Goal, percentile};
use crate::harness::process::Postbell;
use crate::harness::servers::{Database, connect_redis};
use crate::options::{Floor, Options};

const WORK: &str = "latency";

/// 100 inserts a second.
const STEADY: Duration = Duration::from_millis(10);

/// 20 a second.
const LIGHT: Duration = Duration::from_millis(50);

pub(crate) async fn measure(bed: &Bed, options: &Options) -> Vec<Figure> {
    let (hints, messages) = options.sized((200, 60), (1000, 200), (3000, 600));
    let mut entry: [Vec<Vec<f64>>; 2] = Default::default();
    let mut message: [Vec<Vec<f64>>; 2] = Default::default();
    for _ in 0..options.runs() {
        for (side, is_floor) in [false, true].into_iter().enumerate() {
            let database = bed.with_rows(0).await;
            let _relay = if is_floor {
                bed.always_notify(&database).await;
                bed.floor(Floor::Relay, &database)
            } else {
                bed.postbell("relay", &database)
            };
            entry[side].push(to_entries(bed, insert_by_sql(database.client().await), hints).await);
            let mut consumer =
                if is_floor { bed.floor(Floor::Consumer, &database) } else { bed.postbell("consume", &database) };
            message[side].push(to_messages(bed, &database, &mut consumer, messages).await);
        }
    }
    let at = |runs: &[Vec<f64>], share: f64| runs.iter().map(|run| percentile(run, share)).collect::<Vec<f64>>();
    let against = |what: &str, [ours, floor]: &[Vec<Vec<f64>>; 2], share| {
        Figure::against(WORK, what, "ms", &at(ours, share), &at(floor, share))
    };
    let mut figures = vec![
        against("commit to entry at 100 inserts/s, p50, against the floor", &entry, 0.5).goal(Goal::AtMost(1.5)),
        against("the same, p99", &entry, 0.99).goal(Goal::AtMost(2.0)),
        against("commit to message at 20 inserts/s, p50, against the floors of its steps", &message, 0.5)
            .goal(Goal::AtMost(1.5)),
        against("the same, p99", &message, 0.99),
    ];
    if let Some(folder) = &options.peers {
        figures.extend(peers::latency(bed, folder, hints, &at(&entry[0], 0.5)).await);
    }
    figures
}

/// Publishes the numbered event in a transaction of its own.
pub(crate) trait Publish {
    async fn publish(&mut self, number: u64);
}

struct InsertBySql(Client);

fn insert_by_sql(client: Client) -> InsertBySql {
    InsertBySql(client)
}

impl Publish for InsertBySql {
    async fn publish(&mut self, number: u64) {
        let insert = "insert into notification_events (event_type, payload) select 'bench', bench_payload($1)";
        self.0.execute(insert, &[&(number as i64)]).await.unwrap();
    }
}

/// Milliseconds from commit to entry, of so many events.
pub(crate) async fn to_entries(bed: &Bed, mut publish: impl Publish, count: u64) -> Vec<f64> {
    // The first ones find connections that are not made yet.
    publish.publish(0).await;
    until(async || bed.entries().await > 0).await;
    let (mut from, mut arrivals) = ("0".to_owned(), HashMap::new());
    let mut queue = connect_redis(&bed.redis_url()).await;
    let reading: JoinHandle<HashMap<u64, Instant>> = tokio::spawn(async move {
        while arrivals.len() as u64 <= count {
            let reply: StreamReadReply = redis::cmd("XREAD")
                .arg("BLOCK")
                .arg(20_000)
                .arg("STREAMS")
                .arg(STREAM)
                .arg(&from)
                .query_async(&mut queue)
                .await
                .unwrap();
            let now = Instant::now();
            for entry in reply.keys.into_iter().flat_map(|key| key.ids) {
                let payload: Option<serde_json::Value> =
                    entry.get::<String>("payload").and_then(|payload| serde_json::from_str(&payload).ok());
                let number =
                    payload.and_then(|payload| payload["n"].as_u64().or_else(|| payload["n"].as_str()?.parse().ok()));
                arrivals.insert(number.expect("an entry has a payload with a number"), now);
                from = entry.id;
            }
        }
        arrivals
    });
    let committed = publish_at(STEADY, &mut publish, count).await;
    let arrivals = reading.await.unwrap();
    committed.iter().map(|(number, at)| millis(*at, arrivals[number])).collect()
}

/// Milliseconds from commit to message, of so many events.
async fn to_messages(bed: &Bed, database: &Database, consumer: &mut Postbell, count: u64) -> Vec<f64> {
    // What was published before is gone by then.
    let mut publish = insert_by_sql(database.client().await);
    let client = database.client().await;
    while_running(consumer, async || unfinished(&client).await == 0.0).await;
    bed.receiver.reset(true);
    let committed = publish_at(LIGHT, &mut publish, count).await;
    while_running(consumer, async || bed.receiver.count() as u64 >= count).await;
    let arrivals = bed.receiver.times();
    committed.iter().map(|(number, at)| millis(*at, arrivals[number])).collect()
}

/// Publishes 1, 2, 3, … and says when each was committed, as its publisher knows it.
async fn publish_at(pause: Duration, publish: &mut impl Publish, count: u64) -> Vec<(u64, Instant)> {
    let mut tick = interval(pause);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut committed = Vec::new();
    for number in 1..=count {
        tick.tick().await;
        publish.publish(number).await;
        committed.push((number, Instant::now()));
    }
    committed
}

/// The entry may be read before the answer to the commit is.
fn millis(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1000.0
}
