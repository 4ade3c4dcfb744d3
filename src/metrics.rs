//! What is measured. Names are stable: see the table in the README.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::queue::redis::Link;
use crate::store::Measured;

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Seconds = Gauge<f64, AtomicU64>;

/// Of a series that not every process has.
type NoLabels = [(&'static str, &'static str); 0];

/// What became of an event, by channel and template.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// An announced channel, else `unknown`: labels must not grow with what callers make up.
    pub channel: String,
    /// A known template's id, else `unknown`.
    pub template_id: String,
    /// `delivered`, `failed`, `retry`, `wait` or `released`.
    pub outcome: &'static str,
}

/// A send, by channel and class of its result.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SendLabels {
    /// Such as `dingtalk`.
    pub channel: String,
    /// `success`, `message`, `robot`, `throttled`, `blocked`, `transient`, `ambiguous` or `withheld`.
    pub class: &'static str,
}

/// A channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ChannelLabels {
    /// As [`OutcomeLabels::channel`].
    pub channel: String,
}

/// A part of the process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PartLabels {
    /// As `/readyz` names it.
    pub part: &'static str,
}

/// A connection to Redis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LinkLabels {
    /// `write`, by which hints are added, acknowledged and counted, or `read`, by which a consumer receives them.
    pub link: &'static str,
}

/// A kind of row.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabels {
    /// `delivered`, `failed`, `attempts`, `audit` or `robots`.
    pub kind: &'static str,
}

/// A robot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RobotLabels {
    /// A named target, else `other`: labels must not grow with what callers make up.
    pub robot: String,
}

/// What postbell rings the operations robot about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConditionLabels {
    /// `dead_letters`, `failure_rate`, `robot_paused` or `oldest_due`.
    pub condition: String,
}

/// A stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StreamLabels {
    /// Its key.
    pub stream: String,
}

/// Connections to the database.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PoolLabels {
    /// `relay`, which scrapes use as well, or `consumer`.
    pub pool: &'static str,
    /// `idle` or `used`.
    pub state: &'static str,
}

/// What asks for connections to the database.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WaitingLabels {
    /// As [`PoolLabels::pool`].
    pub pool: &'static str,
}

/// All metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Outcomes recorded.
    pub events: Family<OutcomeLabels, Counter>,
    /// Time from the first byte of a request to the answer.
    pub delivery_duration: Family<SendLabels, Histogram, fn() -> Histogram>,
    /// Time from when an event was due to the record that it is delivered.
    pub commit_to_send: Family<ChannelLabels, Histogram, fn() -> Histogram>,
    /// Retries scheduled, by class of what failed.
    pub retries: Family<SendLabels, Counter>,
    /// Hints in the stream.
    pub queue_depth: Gauge,
    /// Rows due and not hinted, counted up to a limit.
    pub outbox_backlog: Gauge,
    /// Age of the oldest of them.
    pub outbox_oldest_due_age: Seconds,
    /// Age of the oldest row that should have been sent, hinted or not; of what waits for a robot, how long that could have
    /// sent and sent nothing.
    pub oldest_due_age: Seconds,
    /// Hints and dead letters accepted by the queue.
    pub hints: Counter,
    /// Dead letters accepted by the queue.
    pub dead_letters: Counter,
    /// Received hints whose rows needed nothing.
    pub duplicate_hints: Counter,
    /// Takes whose outcome no longer counted when it was recorded.
    pub leases_lost: Counter,
    /// Rows that were in the hand of a consumer whose send lease had run out when they were taken.
    pub takeovers: Counter,
    /// Events in the consumer's hand.
    pub in_hand: Gauge,
    /// Old rows removed.
    pub removed: Family<KindLabels, Counter>,
    /// Events that had to wait, for their robot had no place for them.
    pub throttled_waits: Counter,
    /// Events in each message of several.
    pub digest_events: Histogram,
    /// Entries of each stream.
    pub stream_entries: Family<StreamLabels, Gauge>,
    /// Entries that consumers have received and not acknowledged.
    pub stream_pending: Family<StreamLabels, Gauge>,
    /// Most entries of each stream.
    pub stream_max_entries: Gauge,
    /// Which connections to Redis stand.
    pub redis_connected: Family<LinkLabels, Gauge>,
    /// How often they were made.
    pub redis_connects: Family<LinkLabels, Counter>,
    /// Failed rows.
    pub dead_letter_backlog: Gauge,
    /// How many transactions ago the oldest one began that vacuum must still respect.
    pub oldest_xmin_age: Gauge,
    /// Free places of each robot.
    pub robot_budget_left: Family<RobotLabels, Gauge>,
    /// For how long each robot rests.
    pub robot_cool_down: Family<RobotLabels, Seconds>,
    /// Whether each robot is paused.
    pub robot_paused: Family<RobotLabels, Gauge>,
    /// Events that wait for each robot or pool.
    pub robot_waiting: Family<RobotLabels, Gauge>,
    /// Alerts that go on.
    pub alerts_raised: Family<ConditionLabels, Gauge>,
    /// Connections to the database.
    pub pool_connections: Family<PoolLabels, Gauge>,
    /// Who waits for a connection.
    pub pool_waiting: Family<WaitingLabels, Gauge>,
    /// Whether the relay hears notifications; no series where none runs, or none has looked yet.
    pub listening: Family<NoLabels, Gauge>,
    /// Which parts get on.
    pub ready: Family<PartLabels, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut all = Registry::default();
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        all.sub_registry_with_prefix("postbell").register("build", "The version that runs", version);
        let registry = all.sub_registry_with_prefix("notification");
        let duration: fn() -> Histogram =
            || Histogram::new([0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]);
        // From one that is sent as soon as it is committed to one that waits for its retries.
        let latency: fn() -> Histogram = || {
            Histogram::new([
                0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
            ])
        };
        let metrics = Self {
            registry: Mutex::default(),
            events: Family::default(),
            delivery_duration: Family::new_with_constructor(duration),
            commit_to_send: Family::new_with_constructor(latency),
            retries: Family::default(),
            queue_depth: Gauge::default(),
            outbox_backlog: Gauge::default(),
            outbox_oldest_due_age: Gauge::default(),
            oldest_due_age: Gauge::default(),
            hints: Counter::default(),
            dead_letters: Counter::default(),
            duplicate_hints: Counter::default(),
            leases_lost: Counter::default(),
            takeovers: Counter::default(),
            in_hand: Gauge::default(),
            removed: Family::default(),
            throttled_waits: Counter::default(),
            digest_events: Histogram::new([2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0]),
            stream_entries: Family::default(),
            stream_pending: Family::default(),
            stream_max_entries: Gauge::default(),
            redis_connected: Family::default(),
            redis_connects: Family::default(),
            dead_letter_backlog: Gauge::default(),
            oldest_xmin_age: Gauge::default(),
            robot_budget_left: Family::default(),
            robot_cool_down: Family::default(),
            robot_paused: Family::default(),
            robot_waiting: Family::default(),
            alerts_raised: Family::default(),
            pool_connections: Family::default(),
            pool_waiting: Family::default(),
            listening: Family::default(),
            ready: Family::default(),
        };
        let m = &metrics;
        registry.register("events", "Outcomes recorded", m.events.clone());
        registry.register_with_unit(
            "delivery_duration",
            "Time of one send to a robot, from request to answer",
            Unit::Seconds,
            m.delivery_duration.clone(),
        );
        registry.register_with_unit(
            "commit_to_send",
            "Time from when an event was due, mostly its commit, to the record that it is delivered",
            Unit::Seconds,
            m.commit_to_send.clone(),
        );
        registry.register("retry", "Retries scheduled", m.retries.clone());
        registry.register("queue_depth", "Hints in the stream", m.queue_depth.clone());
        registry.register("outbox_backlog", "Rows due and not hinted, counted up to 100000", m.outbox_backlog.clone());
        registry.register_with_unit(
            "outbox_oldest_due_age",
            "Age of the oldest row that is due and not hinted",
            Unit::Seconds,
            m.outbox_oldest_due_age.clone(),
        );
        registry.register_with_unit(
            "oldest_due_age",
            "Age of the oldest event that should have been sent and does not wait for its robot",
            Unit::Seconds,
            m.oldest_due_age.clone(),
        );
        registry.register("hints", "Hints accepted by the queue", m.hints.clone());
        registry.register("dead_letters", "Dead letters accepted by the queue", m.dead_letters.clone());
        registry.register("duplicate_hints", "Received hints whose rows needed nothing", m.duplicate_hints.clone());
        registry.register("leases_lost", "Outcomes that no longer counted when recorded", m.leases_lost.clone());
        registry.register(
            "takeovers",
            "Events taken over from a consumer whose send lease had run out",
            m.takeovers.clone(),
        );
        registry.register("in_hand", "Events in the consumer's hand", m.in_hand.clone());
        registry.register("rows_removed", "Old rows removed", m.removed.clone());
        registry.register(
            "throttled_waits",
            "Events that had to wait, for their robot had no place for them",
            m.throttled_waits.clone(),
        );
        registry.register("digest_events", "Events in each message of several", m.digest_events.clone());
        registry.register("stream_entries", "Entries of the stream", m.stream_entries.clone());
        registry.register("stream_pending", "Entries received and not acknowledged", m.stream_pending.clone());
        registry.register("stream_max_entries", "Most entries of each stream", m.stream_max_entries.clone());
        registry.register("redis_connected", "1 while the connection stands, else 0", m.redis_connected.clone());
        registry.register("redis_connects", "Connections made to Redis", m.redis_connects.clone());
        registry.register("dead_letter_backlog", "Failed rows, counted up to 100000", m.dead_letter_backlog.clone());
        registry.register(
            "oldest_xmin_age_transactions",
            "How many transactions ago the oldest one began that vacuum must respect",
            m.oldest_xmin_age.clone(),
        );
        registry.register("robot_budget_left", "Messages that it may be sent now", m.robot_budget_left.clone());
        registry.register_with_unit(
            "robot_cool_down",
            "For how long it takes nothing",
            Unit::Seconds,
            m.robot_cool_down.clone(),
        );
        registry.register("robot_paused", "1 while it is paused, else 0", m.robot_paused.clone());
        registry.register("robot_waiting_events", "Events that wait for it", m.robot_waiting.clone());
        registry.register("alerts_raised", "Alerts that go on", m.alerts_raised.clone());
        registry.register("pool_connections", "Connections to the database", m.pool_connections.clone());
        registry.register("pool_waiting", "Tasks that wait for a connection", m.pool_waiting.clone());
        registry.register("listening", "1 while the relay hears notifications, else 0", m.listening.clone());
        registry.register("ready", "1 while the part gets on, else 0", m.ready.clone());
        Self { registry: Mutex::new(all), ..metrics }
    }
}

impl Metrics {
    /// Makes the series of these templates, so that a rate can be taken of their first event.
    pub fn announce<'a>(&self, channel: &str, template_ids: impl Iterator<Item = &'a str>) {
        for template_id in template_ids.chain(["unknown"]) {
            for outcome in ["delivered", "failed", "retry", "wait", "released"] {
                drop(self.events.get_or_create(&OutcomeLabels {
                    channel: channel.to_owned(),
                    template_id: template_id.to_owned(),
                    outcome,
                }));
            }
        }
        for class in ["success", "message", "robot", "throttled", "blocked", "transient", "ambiguous", "withheld"] {
            let labels = SendLabels { channel: channel.to_owned(), class };
            drop(self.delivery_duration.get_or_create(&labels));
            drop(self.retries.get_or_create(&labels));
        }
        drop(self.commit_to_send.get_or_create(&ChannelLabels { channel: channel.to_owned() }));
    }

    /// An outcome was recorded.
    pub fn recorded(&self, channel: &str, template_id: &str, outcome: &'static str) {
        let (channel, template_id) = (self.known(channel).to_owned(), template_id.to_owned());
        self.events.get_or_create(&OutcomeLabels { channel, template_id, outcome }).inc();
    }

    /// An event was delivered, so long after it was due.
    pub fn delivered(&self, channel: &str, late: Duration) {
        let labels = ChannelLabels { channel: self.known(channel).to_owned() };
        self.commit_to_send.get_or_create(&labels).observe(late.as_secs_f64());
    }

    /// The channel where it was announced.
    fn known<'a>(&self, channel: &'a str) -> &'a str {
        let unknown = || "unknown".to_owned();
        let announced = OutcomeLabels { channel: channel.to_owned(), template_id: unknown(), outcome: "failed" };
        if self.events.get(&announced).is_some() { channel } else { "unknown" }
    }

    /// What was seen in the table.
    pub fn saw_backlog(&self, rows: u64, oldest: Duration) {
        self.outbox_backlog.set(i64::try_from(rows).unwrap_or(i64::MAX));
        self.outbox_oldest_due_age.set(oldest.as_secs_f64());
    }

    /// What else was seen in the tables.
    pub fn saw(&self, measured: &[Measured]) {
        self.robot_budget_left.clear();
        self.robot_cool_down.clear();
        self.robot_paused.clear();
        self.robot_waiting.clear();
        for Measured { gauge, label, value } in measured {
            let labels = RobotLabels { robot: label.clone().unwrap_or_default() };
            let whole = *value as i64;
            match gauge.as_str() {
                "dead_letter_backlog" => drop(self.dead_letter_backlog.set(whole)),
                "oldest_due_age" => drop(self.oldest_due_age.set(*value)),
                "oldest_xmin_age" => drop(self.oldest_xmin_age.set(whole)),
                "robot_budget_left" => drop(self.robot_budget_left.get_or_create(&labels).set(whole)),
                "robot_cool_down" => drop(self.robot_cool_down.get_or_create(&labels).set(*value)),
                "robot_paused" => drop(self.robot_paused.get_or_create(&labels).set(whole)),
                "alerts_raised" => {
                    let labels = ConditionLabels { condition: label.clone().unwrap_or_default() };
                    self.alerts_raised.get_or_create(&labels).set(whole);
                }
                "robot_waiting" => drop(self.robot_waiting.get_or_create(&labels).set(whole)),
                _ => {}
            }
        }
    }

    /// How a stream is.
    pub fn saw_stream(&self, stream: &str, entries: i64, pending: Option<i64>) {
        let labels = StreamLabels { stream: stream.to_owned() };
        self.stream_entries.get_or_create(&labels).set(entries);
        if let Some(pending) = pending {
            self.stream_pending.get_or_create(&labels).set(pending);
        }
    }

    /// How a connection to Redis is.
    pub fn saw_link(&self, link: &Link) {
        let labels = LinkLabels { link: link.name };
        self.redis_connected.get_or_create(&labels).set(link.is_up().into());
        let connects = self.redis_connects.get_or_create(&labels);
        connects.inc_by(link.made().saturating_sub(connects.get()));
    }

    /// Whether the relay hears notifications.
    pub fn listens(&self, does: bool) {
        self.listening.get_or_create(&[]).set(does.into());
    }

    /// Which parts get on.
    pub fn saw_parts(&self, parts: &[(&'static str, bool)]) {
        for (part, is_ready) in parts {
            self.ready.get_or_create(&PartLabels { part }).set((*is_ready).into());
        }
    }

    /// How a pool of connections is.
    pub fn saw_pool(&self, pool: &'static str, idle: usize, used: usize, waiting: usize) {
        for (state, connections) in [("idle", idle), ("used", used)] {
            self.pool_connections.get_or_create(&PoolLabels { pool, state }).set(connections as i64);
        }
        self.pool_waiting.get_or_create(&WaitingLabels { pool }).set(waiting as i64);
    }

    /// The exposition, in the OpenMetrics text format.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_do_not_grow_with_what_callers_make_up() {
        let metrics = Metrics::default();
        metrics.announce("dingtalk", ["plain"].into_iter());
        for n in 0..3 {
            metrics.recorded(&format!("fax?access_token={n}"), "unknown", "failed");
        }
        metrics.recorded("dingtalk", "plain", "failed");
        let text = metrics.encode().unwrap();
        assert!(text.contains(r#"{channel="unknown",template_id="unknown",outcome="failed"} 3"#), "{text}");
        assert!(text.contains(r#"{channel="dingtalk",template_id="plain",outcome="failed"} 1"#), "{text}");
        assert!(!text.contains("access_token"), "{text}");
    }
}
