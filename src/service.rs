//! A long-running process: its parts, its health, its signals, its end.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use deadpool_postgres::Pool;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::alert::Alerts;
use crate::backoff::Backoff;
use crate::channel::{Channels, OpsRobot, Proxy};
use crate::cli::BadConfiguration;
use crate::config::{self, HttpAddr};
use crate::consumer::{Consumer, Parts, Stop};
use crate::db::{self, Database};
use crate::health::{self, Health};
use crate::metrics::Metrics;
use crate::migrations;
use crate::queue::redis::RedisQueue;
use crate::relay::Relay;
use crate::relay::retention::Retention;
use crate::store::Store;
use crate::template::Templates;
use crate::traces::Traces;

/// The name in health of what must be there before the parts start.
const DATABASE: &str = "database";

/// Connections of the relay beside the one it listens on: a pass uses one at a time, a scrape another.
const RELAY_CONNECTIONS: usize = 2;

/// Connections of the consumer: one takes while another records, and further tries ask for leave.
const CONSUMER_CONNECTIONS: usize = 4;

/// Most rows counted for the backlog gauge.
const BACKLOG_LIMIT: i64 = 100_000;

/// How long leaving the queue may take when the process ends.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Scrapes more frequent than this see the same numbers.
const GAUGE_INTERVAL: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Debug)]
pub struct Service {
    /// What every part needs.
    pub sidecar: config::Sidecar,
    /// The relay, if it is to run here.
    pub relay: Option<config::Relay>,
    /// The consumer, if it is to run here.
    pub sending: Option<config::Sending>,
    /// How requests to robots are made.
    pub requests: config::Requests,
}

impl Service {
    /// Runs until SIGTERM or SIGINT, then stops in order. A second signal ends the process at once.
    pub async fn run(self) -> anyhow::Result<()> {
        let sidecar = &self.sidecar;
        let database = Database::new(&sidecar.database)?;
        let health = Arc::new(Health::default());
        let metrics = Arc::new(Metrics::default());
        metrics.stream_max_entries.set(i64::try_from(sidecar.queue.stream_max_len).unwrap_or(i64::MAX));
        let send_lease = self.sending.as_ref().map_or(Duration::ZERO, |sending| sending.consumer.send_lease);
        let queue = Arc::new(RedisQueue::new(&sidecar.queue, send_lease)?);
        // Everything that can be refused is looked at before the first connection is made.
        let ops = OpsRobot::new(&sidecar.alerts, &self.requests, Proxy::from_env())?;
        let sending = match &self.sending {
            Some(config::Sending { consumer, channel, templates }) => {
                if channel.webhook().is_none() {
                    tracing::warn!("DINGTALK_NOTIFICATION_WEBHOOK is not set: events for the target default will fail");
                }
                consumer.check(channel).map_err(BadConfiguration)?;
                let reserve = channel.robot_urgent_reserve;
                Some((consumer, Channels::new(channel, Proxy::from_env())?, reserve, load(templates)?))
            }
            None => None,
        };
        let traces = Traces::start()?;
        health.expect(DATABASE, Duration::MAX);
        if let Some(config) = &self.relay {
            Relay::<RedisQueue>::expect(&health, config);
            RedisQueue::expect(&health);
        }
        if let Some(sending) = &self.sending {
            Consumer::<RedisQueue>::expect(&health, &sending.consumer, &sidecar.queue);
        }
        let listener = match sidecar.service.http.http_addr {
            HttpAddr::Off => None,
            HttpAddr::At(addr) => Some(TcpListener::bind(addr).await.with_context(|| {
                format!("NOTIFICATION_HTTP_ADDR (--http-addr): cannot listen on {addr}; choose another, port 0 for a free one, or off")
            })?),
        };

        let stop = stop_on_signals()?;
        let mut parts = JoinSet::new();
        let relay_pool = database.pool(RELAY_CONNECTIONS)?;
        let consumer_pool = database.pool(CONSUMER_CONNECTIONS)?;
        let gauges = Store::new(relay_pool.clone());
        if let Some(listener) = listener {
            let addr = listener.local_addr()?;
            tracing::info!(%addr, "serving /livez, /readyz and /metrics");
            let mut pools = vec![("relay", relay_pool.clone())];
            if sending.is_some() {
                pools.push(("consumer", consumer_pool.clone()));
            }
            let refresh = refresh(gauges, pools, queue.clone(), metrics.clone());
            // It answers to the end, while the parts stop, too.
            tokio::spawn(health::serve(listener, health.clone(), metrics.clone(), refresh));
        }
        if !wait_for_schema(&relay_pool, &database, &health, &stop).await? {
            return Ok(());
        }
        if let Some(ops) = ops {
            let alerts = self.alerts(ops, Store::new(relay_pool.clone()), &database);
            parts.spawn(named("watch for alerts", alerts.run(stop.clone())));
        }
        if let Some(config) = &self.relay {
            let store = Store::new(relay_pool);
            let relay = Relay::new(
                store,
                database.clone(),
                queue.clone(),
                config,
                &sidecar.hints,
                health.clone(),
                metrics.clone(),
            )
            .traced(traces.clone());
            tracing::info!(redis = queue.place(), stream = sidecar.queue.queue_stream, "relay started");
            let retention = Retention::new(database.clone(), config.retention, metrics.clone());
            parts.spawn(named("relay", relay.run(stop.clone())));
            parts.spawn(named("retention", retention.run(stop.clone())));
            parts.spawn(named("watch over the queue", queue.clone().watch(health.clone(), stop.clone())));
        }
        if let Some((config, channels, urgent_reserve, templates)) = sending {
            let store = Store::new(consumer_pool);
            let (health, metrics) = (health.clone(), metrics.clone());
            let (hints, queue_config) = (&sidecar.hints, &sidecar.queue);
            let parts_of_it = Parts {
                config,
                hints,
                worker: queue.consumer(),
                queue: queue_config,
                templates,
                channels,
                urgent_reserve,
                health,
                metrics,
                traces: traces.clone(),
            };
            let consumer = Consumer::new(store, queue.clone(), parts_of_it);
            tracing::info!(
                redis = queue.place(),
                stream = sidecar.queue.queue_stream,
                group = sidecar.queue.consumer_group,
                consumer = queue.consumer(),
                "consumer started"
            );
            let stop = Stop { requested: stop.clone(), grace: sidecar.service.shutdown_grace };
            parts.spawn(named("consumer", consumer.run(stop)));
        }
        let result = join(parts, &stop).await;
        // Whoever is left in the group is removed by the others.
        let _ = tokio::join!(tokio::time::timeout(LEAVE_TIMEOUT, queue.leave()), traces.flush());
        tracing::info!("stopped");
        result
    }

    /// What rings the operations robot.
    fn alerts(&self, robot: OpsRobot, store: Store, database: &Database) -> Alerts {
        let config = self.sidecar.alerts.clone();
        let no_attempts = |sending: &config::Sending| sending.consumer.attempts == config::Switch::Off;
        if config.alert_failure_rate.0.is_some() && self.sending.as_ref().is_some_and(no_attempts) {
            tracing::warn!("NOTIFICATION_ATTEMPTS is off: no alert is rung about the rate of failures");
        }
        tracing::info!(
            every = config::show(config.alert_interval),
            "the operations robot is rung when something is wrong"
        );
        Alerts::new(store, robot, config, database.place(), self.requests.send_timeout, self.sidecar.hints.hint_lease)
    }
}

async fn named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.await;
    name
}

/// Waits for all parts. One that ends before it was told to, or panics, ends the process: half a service is none.
async fn join(mut parts: JoinSet<&'static str>, stop: &CancellationToken) -> anyhow::Result<()> {
    let mut result = Ok(());
    while let Some(ended) = parts.join_next().await {
        let early = match ended {
            Ok(_) if stop.is_cancelled() => continue,
            Ok(name) => anyhow::anyhow!("the {name} ended without being told to"),
            Err(error) => anyhow::anyhow!("a part failed: {error}"),
        };
        stop.cancel();
        result = Err(early);
    }
    result
}

fn load(config: &config::Templates) -> anyhow::Result<Templates> {
    let templates = Templates::load(&config.templates_dir).map_err(|error| BadConfiguration(error.to_string()))?;
    for problem in templates.problems() {
        tracing::error!(%problem, "a template cannot be used; its events will fail");
    }
    tracing::info!(templates = templates.ids().count(), dir = %config.templates_dir.display(), "templates loaded");
    Ok(templates)
}

/// Waits for the database, since sidecars start in any order, and checks its schema. False: told to stop meanwhile.
async fn wait_for_schema(
    pool: &Pool,
    database: &Database,
    health: &Health,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let mut backoff = Backoff::reconnecting();
    loop {
        let Err(error) = migrations::check(pool).await else {
            health.moved(DATABASE);
            return Ok(true);
        };
        if db::refuses_for_good(&error) || error.downcast_ref::<BadConfiguration>().is_some() {
            return Err(error.context(format!("PostgreSQL at {}", database.place())));
        }
        let why = format!("cannot reach PostgreSQL at {}: {error:#}", database.place());
        if health.stuck(DATABASE, &why) {
            tracing::warn!("{why}; trying again until it answers");
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_delay()) => {}
            () = stop.cancelled() => return Ok(false),
        }
    }
}

/// A token that the first SIGTERM or SIGINT cancels; the second ends the process at once.
fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn({
        let stop = stop.clone();
        async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if stop.is_cancelled() {
                    tracing::warn!("told to stop a second time: leaving at once");
                    std::process::exit(1);
                }
                tracing::info!("stopping; once more stops at once");
                stop.cancel();
            }
        }
    });
    Ok(stop)
}

/// Brings the gauges that are asked for, not counted, up to date before a scrape.
fn refresh(
    store: Store,
    pools: Vec<(&'static str, Pool)>,
    queue: Arc<RedisQueue>,
    metrics: Arc<Metrics>,
) -> impl Fn() -> futures_util::future::BoxFuture<'static, ()> + Clone + Send + Sync {
    let last = Arc::new(tokio::sync::Mutex::new(None::<(tokio::time::Instant, bool)>));
    move || {
        let (store, queue, metrics, last) = (store.clone(), queue.clone(), metrics.clone(), last.clone());
        let pools = pools.clone();
        Box::pin(async move {
            let mut last = last.lock().await;
            if last.is_some_and(|(at, _)| at.elapsed() < GAUGE_INTERVAL) {
                return;
            }
            let was_read = last.is_none_or(|(_, was_read)| was_read);
            *last = Some((tokio::time::Instant::now(), was_read));
            let (read, ()) = tokio::join!(read_tables(&store, &metrics), read_streams(&queue, &metrics));
            // Said once: the gauges keep what they had, and look as if all were well.
            match read.as_ref().map_err(|error| format!("{error:#}")) {
                Err(error) if was_read => {
                    tracing::warn!(error, "the tables cannot be measured; their gauges stand still")
                }
                Err(error) => tracing::debug!(error, "the tables still cannot be measured"),
                Ok(()) if !was_read => tracing::info!("the tables can be measured again"),
                Ok(()) => {}
            }
            *last = Some((tokio::time::Instant::now(), read.is_ok()));
            for (name, pool) in &pools {
                let status = pool.status();
                let idle = status.available.min(status.size);
                metrics.saw_pool(name, idle, status.size - idle, status.waiting);
            }
        })
    }
}

async fn read_tables(store: &Store, metrics: &Metrics) -> anyhow::Result<()> {
    let backlog = store.backlog(BACKLOG_LIMIT).await?;
    metrics.saw_backlog(backlog.due, backlog.oldest);
    metrics.saw(&store.gauges(BACKLOG_LIMIT).await?);
    Ok(())
}

async fn read_streams(queue: &RedisQueue, metrics: &Metrics) {
    match queue.levels().await {
        Ok(levels) => {
            // Only those that consumers read have hints.
            let hints = levels.iter().filter(|(.., pending)| pending.is_some()).map(|(_, entries, _)| entries);
            metrics.queue_depth.set(hints.sum());
            levels.iter().for_each(|(stream, entries, pending)| metrics.saw_stream(stream, *entries, *pending));
        }
        Err(error) => tracing::debug!(%error, "reading the queue's streams failed"),
    }
    queue.links().for_each(|link| metrics.saw_link(link));
}
