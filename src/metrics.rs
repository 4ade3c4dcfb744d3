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
use prometheus_client::registry::{Registry, Unit};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Seconds = Gauge<f64, AtomicU64>;

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

/// A kind of row.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabels {
    /// `delivered`, `failed`, `attempts`, `audit` or `robots`.
    pub kind: &'static str,
}

/// All metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Outcomes recorded.
    pub events: Family<OutcomeLabels, Counter>,
    /// Time from the first byte of a request to the answer.
    pub delivery_duration: Family<SendLabels, Histogram, fn() -> Histogram>,
    /// Retries scheduled, by class of what failed.
    pub retries: Family<SendLabels, Counter>,
    /// Hints in the stream.
    pub queue_depth: Gauge,
    /// Rows due and not hinted, counted up to a limit.
    pub outbox_backlog: Gauge,
    /// Age of the oldest of them.
    pub oldest_due_age: Seconds,
    /// Hints and dead letters accepted by the queue.
    pub hints: Counter,
    /// Dead letters accepted by the queue.
    pub dead_letters: Counter,
    /// Received hints whose rows needed nothing.
    pub duplicate_hints: Counter,
    /// Takes whose outcome no longer counted when it was recorded.
    pub leases_lost: Counter,
    /// Events in the consumer's hand.
    pub in_hand: Gauge,
    /// Old rows removed.
    pub removed: Family<KindLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("notification");
        let duration: fn() -> Histogram =
            || Histogram::new([0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]);
        let metrics = Self {
            registry: Mutex::default(),
            events: Family::default(),
            delivery_duration: Family::new_with_constructor(duration),
            retries: Family::default(),
            queue_depth: Gauge::default(),
            outbox_backlog: Gauge::default(),
            oldest_due_age: Gauge::default(),
            hints: Counter::default(),
            dead_letters: Counter::default(),
            duplicate_hints: Counter::default(),
            leases_lost: Counter::default(),
            in_hand: Gauge::default(),
            removed: Family::default(),
        };
        let m = &metrics;
        registry.register("events", "Outcomes recorded", m.events.clone());
        registry.register_with_unit(
            "delivery_duration",
            "Time of one send to a robot, from request to answer",
            Unit::Seconds,
            m.delivery_duration.clone(),
        );
        registry.register("retry", "Retries scheduled", m.retries.clone());
        registry.register("queue_depth", "Hints in the stream", m.queue_depth.clone());
        registry.register("outbox_backlog", "Rows due and not hinted, counted up to 100000", m.outbox_backlog.clone());
        registry.register_with_unit(
            "outbox_oldest_due_age",
            "Age of the oldest row that is due and not hinted",
            Unit::Seconds,
            m.oldest_due_age.clone(),
        );
        registry.register("hints", "Hints accepted by the queue", m.hints.clone());
        registry.register("dead_letters", "Dead letters accepted by the queue", m.dead_letters.clone());
        registry.register("duplicate_hints", "Received hints whose rows needed nothing", m.duplicate_hints.clone());
        registry.register("leases_lost", "Outcomes that no longer counted when recorded", m.leases_lost.clone());
        registry.register("in_hand", "Events in the consumer's hand", m.in_hand.clone());
        registry.register("rows_removed", "Old rows removed", m.removed.clone());
        Self { registry: Mutex::new(registry), ..metrics }
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
    }

    /// An outcome was recorded.
    pub fn recorded(&self, channel: &str, template_id: &str, outcome: &'static str) {
        let (channel, template_id) = (self.known(channel).to_owned(), template_id.to_owned());
        self.events.get_or_create(&OutcomeLabels { channel, template_id, outcome }).inc();
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
        self.oldest_due_age.set(oldest.as_secs_f64());
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
