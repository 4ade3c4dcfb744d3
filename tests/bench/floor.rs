//! The floors: what a good engineer would write by hand in an afternoon, with the same libraries, for the same table. They
//! keep what makes a relay fast (batches, pipelines, kept connections) and leave out what makes it reliable: no lease runs
//! out, nothing is taken over, no reply is looked at, no answer is judged, nothing is retried, digested or dead-lettered. One of
//! them takes and records by postbell's own statements, which judge each row.

use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use redis::aio::MultiplexedConnection;
use redis::{Value, cmd, pipe};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};
use uuid::Uuid;

use crate::harness::servers::{connect_listening, connect_redis};
use crate::options::Floor;

/// The channel that the trigger of [`ALWAYS_NOTIFY`] notifies on.
const CHANNEL: &str = "bench_floor";

/// Instead of postbell's own trigger: a notification from every statement that inserts.
pub(crate) const ALWAYS_NOTIFY: &str = "
    alter table notification_events disable trigger notification_events_wake_relay;
    create function bench_notify() returns trigger language plpgsql as $$
    begin perform pg_notify('bench_floor', ''); return null; end $$;
    create trigger bench_notify after insert on notification_events for each statement execute function bench_notify()";

/// As many as postbell claims at a time.
const BATCH: i64 = 500;

/// As many as postbell sends at a time.
const CONCURRENCY: usize = 64;

const CLAIM: &str = "
    update notification_events
    set hinted_until = now() + interval '1 minute', dispatched_at = now(), updated_at = now()
    where id = any(array(
        select id
        from notification_events
        where completed_at is null and failed_at is null and greatest(hinted_until, scheduled_at) <= now()
        order by greatest(hinted_until, scheduled_at), seq
        limit $1
        for update skip locked))
    returning id, event_type, payload::text";

const TAKE: &str = "
    update notification_events
    set status = 'delivering', attempt = attempt + 1, sending_until = now() + interval '45 seconds', updated_at = now()
    where id = any($1) and completed_at is null and status = 'pending'
    returning id, payload";

/// With a line of the log of sends, as postbell keeps it.
const RECORD: &str = "
    with recorded as (
        update notification_events e
        set status = 'delivered', delivered_at = now(), completed_at = now(), sending_until = null,
            response = r.response, robot = 'default', updated_at = now()
        from unnest($1::uuid[], $2::text[]) r (id, response)
        where e.id = r.id and e.completed_at is null
        returning e.id, e.attempt)
    insert into notification_attempts (event_id, replay_count, attempt, robot, started_at, duration_ms, class, tries, worker)
    select id, 0, attempt, 'default', now(), 1, 'success', 1, 'floor' from recorded";

/// What postbell itself takes and records by: with these the rest of the loop is what it was.
const OWN_TAKE: &str = include_str!("../../sql/queries/take.sql");
const OWN_RECORD: &str = include_str!("../../sql/queries/record.sql");

/// What the benchmark tells a floor.
struct Told {
    database_url: String,
    redis_url: String,
    stream: String,
    webhook: String,
}

impl Told {
    #[expect(clippy::disallowed_methods, reason = "the environment of a floor is the benchmark's own")]
    fn by_environment() -> Told {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        Told {
            database_url: variable("DATABASE_URL"),
            redis_url: variable("REDIS_URL"),
            stream: variable("NOTIFICATION_QUEUE_STREAM"),
            webhook: variable("DINGTALK_NOTIFICATION_WEBHOOK"),
        }
    }
}

/// Runs until it is killed.
pub(crate) fn run(floor: Floor) -> ExitCode {
    let told = Told::by_environment();
    // One task: nothing here could use a second thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match floor {
            Floor::Relay => relay(told).await,
            Floor::Consumer => consumer(told, Statements::Plain).await,
            Floor::OwnStatements => consumer(told, Statements::Own).await,
        }
    });
    ExitCode::SUCCESS
}

async fn relay(told: Told) {
    let (client, mut heard) = connect_listening(&told.database_url).await;
    // As postbell's relay: a claim that a crash undoes is only a hint twice.
    client.batch_execute(&format!("set synchronous_commit = off; listen {CHANNEL}")).await.unwrap();
    let claim = client.prepare(CLAIM).await.unwrap();
    let mut queue = connect_redis(&told.redis_url).await;
    loop {
        let rows = client.query(&claim, &[&BATCH]).await.unwrap();
        if rows.is_empty() {
            heard.recv().await.unwrap();
            while heard.try_recv().is_ok() {}
            continue;
        }
        let mut burst = pipe();
        for row in &rows {
            let xadd = burst.cmd("XADD").arg(&told.stream).arg("*");
            xadd.arg("event_id").arg(row.get::<_, Uuid>(0).to_string());
            xadd.arg("event_type").arg(row.get::<_, &str>(1)).arg("payload").arg(row.get::<_, &str>(2)).ignore();
        }
        burst.exec_async(&mut queue).await.unwrap();
    }
}

async fn consumer(told: Told, statements: Statements) {
    let (client, _heard) = connect_listening(&told.database_url).await;
    let (take, record) = match statements {
        Statements::Plain => (TAKE, RECORD),
        Statements::Own => (OWN_TAKE, OWN_RECORD),
    };
    let rows = Rows {
        take: client.prepare(take).await.unwrap(),
        record: client.prepare(record).await.unwrap(),
        statements,
        client,
    };
    let mut queue = connect_redis(&told.redis_url).await;
    let _: Result<Value, _> = cmd("XGROUP")
        .arg("CREATE")
        .arg(&told.stream)
        .arg("bench")
        .arg("0")
        .arg("MKSTREAM")
        .query_async(&mut queue)
        .await;
    let http: HttpClient<HttpConnector, Full<Bytes>> =
        HttpClient::builder(TokioExecutor::new()).pool_max_idle_per_host(CONCURRENCY).build_http();
    let posting = Arc::new((http, told.webhook.clone()));
    loop {
        let (entries, ids) = read(&mut queue, &told.stream).await;
        if ids.is_empty() {
            continue;
        }
        batch(&rows, &posting, &ids).await;
        let mut done = pipe();
        done.cmd("XACK").arg(&told.stream).arg("bench").arg(&entries).ignore();
        done.cmd("XDEL").arg(&told.stream).arg(&entries).ignore();
        done.exec_async(&mut queue).await.unwrap();
    }
}

/// By which statements a consumer takes and records.
enum Statements {
    /// The plainest that do.
    Plain,
    /// postbell's.
    Own,
}

struct Rows {
    client: Client,
    statements: Statements,
    take: Statement,
    record: Statement,
}

impl Rows {
    async fn take(&self, ids: &[Uuid]) -> Vec<(Uuid, serde_json::Value)> {
        match self.statements {
            Statements::Plain => {
                let rows = self.client.query(&self.take, &[&ids]).await.unwrap();
                rows.iter().map(|row| (row.get("id"), row.get("payload"))).collect()
            }
            Statements::Own => {
                let rows = self.client.query(&self.take, &[&ids, &45.0, &false, &3]).await.unwrap();
                let payload = |row: &Row| serde_json::from_str(row.get("payload")).unwrap();
                rows.iter().map(|row| (row.get("id"), payload(row))).collect()
            }
        }
    }

    async fn record(&self, ids: &[Uuid], answers: &[String]) {
        let Statements::Own = self.statements else {
            self.client.execute(&self.record, &[&ids, &answers]).await.unwrap();
            return;
        };
        fn all<T: Copy>(ids: &[Uuid], value: T) -> Vec<T> {
            vec![value; ids.len()]
        }
        let (zeros, ones, tries, took) = (all(ids, 0), all(ids, 1), all(ids, 1_i16), all(ids, 0.001));
        let (robots, kinds, classes) = (all(ids, "default"), all(ids, "delivered"), all(ids, "success"));
        let (no_text, no_uuid, no_time) = (all(ids, None::<&str>), all(ids, None::<Uuid>), all(ids, None::<f64>));
        let (no_number, no_flag, statuses) = (all(ids, None::<i32>), all(ids, false), all(ids, 200_i16));
        #[rustfmt::skip]
        let parameters: &[&(dyn ToSql + Sync)] = &[
            &ids, &zeros, &ones, &kinds, &no_text, &answers, &no_time, &robots, &no_uuid, &no_flag, &no_number, &no_text,
            &ids, &zeros, &ones, &no_uuid, &no_text, &robots, &took, &ones, &classes, &statuses, &zeros, &no_text, &tries,
            &"floor",
        ];
        self.client.execute(&self.record, parameters).await.unwrap();
    }
}

type Posting = Arc<(HttpClient<HttpConnector, Full<Bytes>>, String)>;

/// Takes, sends, records.
async fn batch(rows: &Rows, posting: &Posting, ids: &[Uuid]) {
    let taken = rows.take(ids).await.into_iter();
    let sends: Vec<_> = taken.map(|(id, payload)| tokio::spawn(send(posting.clone(), id, payload))).collect();
    let (mut done, mut answers) = (Vec::new(), Vec::new());
    for send in sends {
        let (id, answer) = send.await.unwrap();
        done.push(id);
        answers.push(answer);
    }
    rows.record(&done, &answers).await;
}

async fn send(posting: Posting, id: Uuid, payload: serde_json::Value) -> (Uuid, String) {
    let (http, webhook) = &*posting;
    let field = |name: &str| payload[name].as_str().map_or_else(|| payload[name].to_string(), str::to_owned);
    let title = format!("{} · {} · {}", field("candidate"), field("position"), field("score"));
    let text = format!("{title}\n\n{} #{}#\n", field("summary"), field("n"));
    let body = serde_json::json!({"msgtype": "markdown", "msgUuid": id, "markdown": {"title": title, "text": text}});
    let request = hyper::Request::post(webhook)
        .header("content-type", "application/json; charset=utf-8")
        .body(Full::new(Bytes::from(body.to_string())));
    let answer = http.request(request.unwrap()).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    (id, String::from_utf8_lossy(&answer).into_owned())
}

/// Entries of the stream and the rows they name.
async fn read(queue: &mut MultiplexedConnection, stream: &str) -> (Vec<String>, Vec<Uuid>) {
    let reply: redis::streams::StreamReadReply = cmd("XREADGROUP")
        .arg("GROUP")
        .arg("bench")
        .arg("floor")
        .arg("COUNT")
        .arg(CONCURRENCY)
        .arg("BLOCK")
        .arg(1000)
        .arg("STREAMS")
        .arg(stream)
        .arg(">")
        .query_async(queue)
        .await
        .unwrap();
    let entries = reply.keys.into_iter().flat_map(|key| key.ids);
    let named = |entry: redis::streams::StreamId| {
        let event_id: Uuid = entry.get::<String>("event_id")?.parse().ok()?;
        Some((entry.id, event_id))
    };
    entries.filter_map(named).unzip()
}
