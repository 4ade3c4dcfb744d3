//! One take, from its row to its outcome: render, find the robot, send.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::policy::RetryPolicy;
use crate::channel::{self, Channels, MaySend, Report};
use crate::config::Consumer as ConsumerConfig;
use crate::event::{Delivery, Event, Outcome};
use crate::message::Mentions;
use crate::metrics::{Metrics, SendLabels};
use crate::store::{Key, Store};
use crate::template::{Facts, Templates};

/// Turns events into outcomes.
pub(super) struct Sender {
    store: Store,
    templates: Templates,
    channels: Channels,
    policy: RetryPolicy,
    metrics: Arc<Metrics>,
}

/// What became of a take, and what the log says of it.
#[derive(Debug)]
pub(super) struct Sent {
    pub outcome: Outcome,
    pub channel: String,
    pub template_id: String,
    pub event_type: String,
    pub trace_id: Option<String>,
    pub robot: Option<String>,
    pub class: &'static str,
    pub tries: u32,
    pub took: Duration,
}

impl Sent {
    /// Nothing was sent, or even understood.
    pub(super) fn unsent(outcome: Outcome) -> Self {
        Self {
            outcome,
            channel: String::new(),
            template_id: String::new(),
            event_type: String::new(),
            trace_id: None,
            robot: None,
            class: "message",
            tries: 0,
            took: Duration::ZERO,
        }
    }
}

/// The right to send: a row is this consumer's while its send lease lasts.
struct Lease<'a> {
    store: &'a Store,
    key: Key,
    deadline: Instant,
}

impl MaySend for Lease<'_> {
    async fn may_send(&self, needs: Duration, further: bool) -> bool {
        // The first try follows the take at once; before a further one the row may have been cancelled.
        if further && !self.store.holds(self.key).await.unwrap_or(false) {
            return false;
        }
        // Asked last: asking the database took time.
        self.deadline.saturating_duration_since(Instant::now()) >= needs + ConsumerConfig::LEASE_MARGIN
    }
}

impl Sender {
    pub(super) fn new(
        store: Store,
        templates: Templates,
        channels: Channels,
        policy: RetryPolicy,
        metrics: Arc<Metrics>,
    ) -> Self {
        metrics.announce("dingtalk", templates.ids());
        Self { store, templates, channels, policy, metrics }
    }

    /// A template's id where there is such a template, else `unknown`: metrics must not grow with what callers make up.
    pub(super) fn known<'a>(&self, template_id: &'a str) -> &'a str {
        if self.templates.contains(template_id) { template_id } else { "unknown" }
    }

    /// Sends an event that was taken; `abandon` ends the wait for an answer.
    pub(super) async fn send(
        self: Arc<Self>,
        event: Event,
        key: Key,
        deadline: Instant,
        abandon: CancellationToken,
    ) -> Sent {
        let started = Instant::now();
        let mut sent = Sent {
            channel: event.channel.clone(),
            template_id: self.known(event.template_id()).to_owned(),
            event_type: event.event_type.clone(),
            trace_id: event.trace_id.clone(),
            ..Sent::unsent(Outcome::Released { error: None })
        };
        let lease = Lease { store: &self.store, key, deadline };
        let attempt = std::panic::AssertUnwindSafe(self.attempt(&event, &lease, &mut sent)).catch_unwind();
        let ended = tokio::select! {
            // A send that has ended is not abandoned.
            biased;
            ended = attempt => Some(ended),
            () = abandon.cancelled() => None,
        };
        sent.outcome = match ended {
            Some(Ok(outcome)) => outcome,
            Some(Err(_panic)) => Outcome::Failed {
                error: "internal error: sending this event made postbell panic; please report it".to_owned(),
                response: None,
            },
            None if event.options.delivery == Delivery::AtMostOnce => Outcome::Failed {
                error: "outcome unknown: stopped while sending this event, and it asks for at most one delivery"
                    .to_owned(),
                response: None,
            },
            None => Outcome::Released { error: Some("stopped while sending; it may have arrived".to_owned()) },
        };
        sent.took = started.elapsed();
        sent
    }

    async fn attempt(&self, event: &Event, lease: &Lease<'_>, sent: &mut Sent) -> Outcome {
        let failed = |error: String| Outcome::Failed { error, response: None };
        let now = jiff::Timestamp::now();
        if let Some(expires_at) = event.options.expires_at.filter(|_| event.expired(now)) {
            return failed(format!("expired: it was to ring before {expires_at}, and it is {now:.0}"));
        }
        let mut message = match self.templates.render(event.template_id(), &Facts::from(event), &event.payload) {
            Ok(message) => message,
            Err(error) => return failed(error.to_string()),
        };
        message.mentions = message.mentions.union(&Mentions {
            at_mobiles: event.options.at_mobiles.clone(),
            at_user_ids: event.options.at_user_ids.clone(),
            at_all: event.options.at_all,
        });
        let robot = match self.channels.resolve(&event.channel, &event.target) {
            Ok(robot) => robot,
            Err(report) => return self.policy.decide(event, &report, 0.0),
        };
        sent.robot = Some(robot.name().to_owned());
        let msg_uuid = channel::msg_uuid(event.id, event.replay_count, robot.name());
        let started = Instant::now();
        let report: Report = self.channels.send(&robot, &message, &msg_uuid, lease).await;
        sent.class = report.class.kind();
        sent.tries = report.tries;
        let labels = SendLabels { channel: event.channel.clone(), class: sent.class };
        self.metrics.delivery_duration.get_or_create(&labels).observe(started.elapsed().as_secs_f64());
        let outcome = self.policy.decide(event, &report, fastrand::f64());
        if matches!(outcome, Outcome::Retry { .. }) {
            self.metrics.retries.get_or_create(&labels).inc();
        }
        outcome
    }
}
