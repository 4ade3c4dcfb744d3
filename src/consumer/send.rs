//! One message: what it says, which way it goes, and what becomes of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::letter::{Done, Letter, Member, Sent};
use super::policy::RetryPolicy;
use super::turn::{PATIENCE, Turn};
use super::watch::Watch;
use crate::channel::{self, Channels, Class, Lane, Leave, MaySend, NoLane, Parcel, Report, Try};
use crate::config::Consumer as ConsumerConfig;
use crate::event::{Delivery, Event, Outcome};
use crate::message::{Mentions, Message};
use crate::metrics::{Metrics, SendLabels};
use crate::queue::Receipt;
use crate::store::robots::{Granted, Ruling, Settled};
use crate::store::{Attempt, Key, Store};
use crate::template::{Facts, Templates};

/// Longest rest of a robot, whatever it asks for.
const LONGEST_REST: Duration = Duration::from_secs(86_400);

/// Turns events into outcomes.
pub(super) struct Sender {
    pub(super) store: Store,
    pub(super) templates: Templates,
    pub(super) channels: Arc<Channels>,
    pub(super) policy: RetryPolicy,
    pub(super) send_lease: Duration,
    pub(super) watch: Arc<Watch>,
    pub(super) halts: Halts,
    pub(super) metrics: Arc<Metrics>,
}

/// The robots that have just said that they take nothing: what was granted before then is not sent to them any more.
#[derive(Default)]
pub(super) struct Halts(Mutex<HashMap<String, Instant>>);

impl Halts {
    /// Longer than it takes until all who ask for admission are told.
    const REMEMBERED: Duration = Duration::from_secs(60);

    fn note(&self, robot: &str, ruling: Ruling) {
        let robot = match ruling {
            Ruling::Resume => return,
            Ruling::Pause | Ruling::Cool(_) => robot,
            // All of them.
            Ruling::Block(_) => "",
        };
        let mut halts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        halts.retain(|_, at| at.elapsed() < Halts::REMEMBERED);
        halts.insert(robot.to_owned(), Instant::now());
    }

    fn since(&self, robot: &str, granted_at: Instant) -> bool {
        let halts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        [robot, ""].iter().any(|name| halts.get(*name).is_some_and(|at| *at >= granted_at))
    }
}

/// The right to send: a row is this consumer's while its send lease lasts, and a robot takes as many requests as there are
/// slots.
struct Lease<'a> {
    store: &'a Store,
    key: Key,
    deadline: Instant,
    /// The robot, where it has a budget.
    robot: Option<&'a str>,
    slots: Mutex<Vec<Timestamp>>,
}

impl MaySend for Lease<'_> {
    async fn may_send(&self, needs: Duration, request: Try) -> Leave {
        // The first try follows the take at once; before a further one the row may have been cancelled.
        if request != Try::First && !self.store.holds(self.key).await.unwrap_or(false) {
            return Leave::NoTime;
        }
        let left = || self.deadline.saturating_duration_since(Instant::now());
        if let (Try::Answered, Some(robot)) = (request, self.robot) {
            match self.another_place(robot, left()).await {
                Ok(Some(slot)) => self.slots().push(slot),
                Ok(None) => return Leave::NoPlace,
                Err(_) => return Leave::NoTime,
            }
        }
        // Asked last: asking the database took time.
        if left() >= needs + ConsumerConfig::LEASE_MARGIN { Leave::Granted } else { Leave::NoTime }
    }
}

impl Lease<'_> {
    /// Asked a few times: somebody may hold the robot's row for a moment.
    async fn another_place(&self, robot: &str, hold: Duration) -> anyhow::Result<Option<Timestamp>> {
        for _ in 0..5 {
            let place = self.store.admit_again(robot, hold).await?;
            if place.is_some() {
                return Ok(place);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(None)
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, Vec<Timestamp>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sender {
    /// A template's id where there is such a template, else `unknown`: metrics must not grow with what callers make up.
    pub(super) fn known<'a>(&self, template_id: &'a str) -> &'a str {
        if self.templates.contains(template_id) { template_id } else { "unknown" }
    }

    /// An event as one of those that a message is for.
    pub(super) fn member(&self, event: &Event, receipts: Vec<Receipt>) -> Member {
        Member {
            key: Key { id: event.id, replay_count: event.replay_count, attempt: event.attempt },
            receipts,
            channel: event.channel.clone(),
            event_type: event.event_type.clone(),
            template_id: self.known(event.template_id()).to_owned(),
            trace_id: event.trace_id.clone(),
            digest_limit: event.digest_limit,
        }
    }

    /// Whether nobody knows the event's target, or not yet.
    pub(super) fn is_for_unknown_target(&self, event: &Event) -> bool {
        matches!(self.resolve(event), Err(NoLane::Unknown(_)))
    }

    fn resolve(&self, event: &Event) -> Result<Lane, NoLane> {
        self.channels.resolve(&event.channel, &event.target, event.robot.as_deref())
    }

    /// The way that an event takes.
    ///
    /// # Errors
    ///
    /// What becomes of it without one.
    pub(super) fn lane(&self, event: &Event) -> Result<Lane, Box<Sent>> {
        self.resolve(event).map_err(|no_lane| {
            Box::new(match no_lane {
                NoLane::Unknown(report) if self.channels.waits_for_unknown() => {
                    Sent::waiting_for_target(&event.target, report.reason)
                }
                NoLane::Unknown(report) | NoLane::Refused(report) => {
                    Sent::unsent(self.policy.decide(event, &report, 0.0))
                }
            })
        })
    }

    /// The message for one event, rendered, and the way it takes.
    ///
    /// # Errors
    ///
    /// What becomes of the event without a send.
    pub(super) fn prepare(&self, event: Event, receipts: Vec<Receipt>, deadline: Instant) -> Result<Letter, Box<Done>> {
        let member = self.member(&event, receipts);
        let prepared = self.check_and_render(&event).and_then(|message| Ok((message, self.lane(&event)?)));
        let (mut message, lane) = match prepared {
            Ok(prepared) => prepared,
            Err(sent) => return Err(Box::new(Done { members: vec![member], sent: *sent, place: None })),
        };
        message.mentions = mentions(message.mentions, [&event], &lane);
        let digest_key = self.digest_key(&event, &lane);
        Ok(Letter {
            members: vec![member],
            event,
            message,
            lane,
            digest_id: None,
            is_again: false,
            digest_key,
            deadline,
        })
    }

    fn check_and_render(&self, event: &Event) -> Result<Message, Box<Sent>> {
        let failed = |error: String| Box::new(Sent::unsent(Outcome::Failed { error, response: None }));
        let now = Timestamp::now();
        if let Some(expires_at) = event.options.expires_at.filter(|_| event.expired(now)) {
            return Err(failed(format!("expired: it was to ring before {expires_at}, and it is {now:.0}")));
        }
        let rendered = self.templates.render(event.template_id(), &Facts::from(event), &event.payload);
        rendered.map_err(|error| failed(error.to_string()))
    }

    /// What it may be merged with; none: nothing.
    pub(super) fn digest_key(&self, event: &Event, lane: &Lane) -> Option<String> {
        let may_be_merged = lane.has_budget()
            && !event.urgent
            && event.options.delivery == Delivery::AtLeastOnce
            && event.digest_limit.is_none_or(|limit| limit > 1)
            && self.templates.has_digest(event.template_id());
        let of_its_own = event.options.digest_key.as_deref();
        may_be_merged.then(|| channel::digest_key(event.template_id(), &event.target, of_its_own))
    }

    /// Sends a message by the robot it was granted; `abandon` ends the wait for an answer. The letter may gain members.
    pub(super) async fn send(
        self: Arc<Self>,
        mut letter: Letter,
        granted: Granted,
        granted_at: Instant,
        turn: Option<Turn>,
        abandon: CancellationToken,
    ) -> (Vec<Member>, Sent) {
        let started = Instant::now();
        let mut sent = Sent {
            robot: Some(granted.robot.clone()),
            settled: vec![Settled {
                robot: granted.robot.clone(),
                slot: granted.slot,
                has_left: false,
                ruling: None,
                reason: None,
            }],
            ..Sent::unsent(Outcome::Released { error: None })
        };
        let attempt = async {
            let _mine = match turn {
                Some(turn) => Some(turn.come(PATIENCE).await),
                None => None,
            };
            self.attempt(&mut letter, &granted, granted_at, &mut sent).await
        };
        let attempt = std::panic::AssertUnwindSafe(attempt).catch_unwind();
        let ended = tokio::select! {
            // A send that has ended is not abandoned.
            biased;
            ended = attempt => Some(ended),
            () = abandon.cancelled() => None,
        };
        let has_left = sent.settled.iter().any(|settled| settled.has_left);
        let is_unknown = (ended.is_none() && has_left) || sent.class == Class::Ambiguous.kind();
        let has_report = matches!(ended, Some(Ok(_)));
        sent.outcome = match ended {
            Some(Ok(outcome)) => outcome,
            Some(Err(_panic)) => Outcome::Failed {
                error: "internal error: sending this event made postbell panic; please report it".to_owned(),
                response: None,
            },
            None if !has_left => Outcome::Released { error: None },
            None if letter.event.options.delivery == Delivery::AtMostOnce => Outcome::Failed {
                error: "outcome unknown: stopped while sending this event, and it asks for at most one delivery"
                    .to_owned(),
                response: None,
            },
            None => Outcome::Released { error: Some("stopped while sending; it may have arrived".to_owned()) },
        };
        if let (Some(attempt), false) = (&mut sent.attempt, has_report) {
            attempt.took = attempt.started_at.elapsed();
            attempt.answer = sent.outcome.error().map(str::to_owned);
        }
        self.conclude(&letter, &mut sent, is_unknown);
        sent.took = started.elapsed();
        (letter.members, sent)
    }

    /// Who stays with whom, and with which robot.
    fn conclude(&self, letter: &Letter, sent: &mut Sent, is_unknown: bool) {
        // An event that may have arrived alone before is known by its limit of one.
        let is_unknown = is_unknown || letter.is_again;
        sent.is_unknown = is_unknown;
        sent.digest_id = letter.digest_id;
        sent.digest_key = letter.digest_key.clone().filter(|_| sent.digest_limit != Some(1));
        match &sent.outcome {
            Outcome::Delivered { .. } => sent.keeps_digest = true,
            Outcome::Failed { .. } => {}
            // It was refused as it is, and so it did not arrive before either.
            Outcome::Wait { .. } if sent.digest_limit.is_some() => sent.robot = Some(letter.lane.name.clone()),
            Outcome::Wait { .. } => {
                sent.keeps_digest = is_unknown;
                sent.robot = Some(letter.lane.name.clone());
            }
            Outcome::Retry { .. } | Outcome::Released { .. } => {
                // A merge of which nothing is known counts as one.
                sent.keeps_digest = is_unknown || matches!(sent.outcome, Outcome::Released { .. });
                if !is_unknown && sent.robot.as_deref() != Some(&letter.lane.name) {
                    sent.robot = None;
                }
            }
        }
    }

    async fn attempt(&self, letter: &mut Letter, granted: &Granted, granted_at: Instant, sent: &mut Sent) -> Outcome {
        let released = |sent: &mut Sent, error: String| {
            sent.class = Class::Withheld.kind();
            Outcome::Released { error: Some(error) }
        };
        if self.halts.since(&granted.robot, granted_at) {
            let error = "nothing was sent: its robot has just refused another message".to_owned();
            return Outcome::Wait { after: None, error, response: None };
        }
        if granted.merges
            && let Err(error) = self.merge(letter, granted).await
        {
            return released(sent, format!("nothing was sent: merging what waits failed: {error:#}"));
        }
        let Some(robot) = letter.lane.robots.iter().find(|robot| robot.name() == granted.robot) else {
            return released(sent, format!("nothing was sent: the robot {} is gone", granted.robot));
        };
        let key = match letter.digest_id {
            Some(digest_id) => channel::digest_msg_uuid(digest_id, robot.name()),
            None => channel::msg_uuid(letter.event.id, letter.event.replay_count, robot.name()),
        };
        let lease = Lease {
            store: &self.store,
            key: letter.members[0].key,
            deadline: letter.deadline,
            robot: granted.slot.map(|_| robot.name()),
            slots: Mutex::default(),
        };
        // Several events found unsafe are sent in parts, rather than all without their links.
        let parcel = Parcel { message: &letter.message, key: &key, may_lose_links: letter.members.len() == 1 };
        if letter.digest_id.is_some() {
            self.metrics.digest_events.observe(letter.members.len() as f64);
        }
        let started = Instant::now();
        // Until the answer is here, what was begun may have arrived.
        sent.settled.iter_mut().for_each(|settled| settled.has_left = true);
        let attempt = sent.attempt.insert(begun(robot.name()));
        let report: Report = self.channels.send(robot, parcel, &lease).await;
        ended(attempt, &report);
        // What was not allowed, or has no settings to be sent with, was no send.
        sent.attempt.take_if(|_| report.tries == 0);
        sent.class = report.class.kind();
        sent.tries = report.tries;
        let labels = SendLabels { channel: letter.event.channel.clone(), class: sent.class };
        self.metrics.delivery_duration.get_or_create(&labels).observe(started.elapsed().as_secs_f64());
        let mut ruling = ruling(report.class, granted.probes);
        // Settings that somebody has just corrected, and this process had not read yet, are not the robot's any more.
        if ruling == Some(Ruling::Pause) && self.watch.is_outdated(robot).await {
            ruling = None;
        }
        if let Some(ruling) = ruling {
            self.halts.note(robot.name(), ruling);
        }
        let slots = std::mem::take(&mut *lease.slots());
        let reason = ruling.map(|_| report.reason.clone());
        sent.settled = std::iter::once((granted.slot, ruling, reason))
            .chain(slots.into_iter().map(|slot| (Some(slot), None, None)))
            .map(|(slot, ruling, reason)| Settled {
                robot: robot.name().to_owned(),
                slot,
                has_left: report.has_left,
                ruling,
                reason,
            })
            .collect();
        if report.class == Class::Message && letter.members.len() > 1 {
            let half = letter.members.len().div_ceil(2);
            sent.digest_limit = Some(i32::try_from(half).unwrap_or(i32::MAX));
            let error =
                format!("refused together with {} others, tried in parts: {}", letter.members.len() - 1, report.reason);
            return Outcome::Wait { after: None, error, response: report.response };
        }
        if granted.probes && report.class == Class::Transient {
            // It says nothing of the robot; and what waits for one uses no retries.
            return Outcome::Wait { after: None, error: report.reason, response: report.response };
        }
        let outcome = self.policy.decide(&letter.event, &report, fastrand::f64());
        if matches!(outcome, Outcome::Retry { .. }) {
            self.metrics.retries.get_or_create(&labels).inc();
        }
        outcome
    }
}

/// A send that begins now; until there is an answer it may have arrived.
fn begun(robot: &str) -> Attempt {
    Attempt {
        robot: robot.to_owned(),
        started_at: std::time::Instant::now(),
        took: Duration::ZERO,
        class: Class::Ambiguous.kind(),
        status: None,
        errcode: None,
        answer: None,
        tries: 1,
    }
}

/// The same with what is known at its end.
fn ended(attempt: &mut Attempt, report: &Report) {
    attempt.took = attempt.started_at.elapsed();
    attempt.class = report.class.kind();
    attempt.status = report.status;
    attempt.errcode = report.errcode;
    attempt.tries = report.tries;
    // Of a success, its code says it all; and most sends succeed.
    attempt.answer = match report.class {
        Class::Success => None,
        _ => Some(report.response.as_ref().filter(|text| !text.is_empty()).unwrap_or(&report.reason).clone()),
    };
}

/// Whom to mention: whom the template and these events name, and, where they name nobody, whom the target does.
pub(super) fn mentions<'a>(
    of_template: Mentions,
    events: impl IntoIterator<Item = &'a Event>,
    lane: &Lane,
) -> Mentions {
    let named = events.into_iter().fold(of_template, |named, event| {
        named.union(&Mentions {
            at_mobiles: event.options.at_mobiles.clone(),
            at_user_ids: event.options.at_user_ids.clone(),
            at_all: event.options.at_all,
        })
    });
    if named == Mentions::default() { lane.mentions.clone() } else { named }
}

/// What an answer says about the robot.
fn ruling(class: Class, probes: bool) -> Option<Ruling> {
    match class {
        Class::Robot => Some(Ruling::Pause),
        Class::Throttled(rest) => Some(Ruling::Cool(rest.min(LONGEST_REST))),
        Class::Blocked(rest) => Some(Ruling::Block(rest.min(LONGEST_REST))),
        // It speaks of the message, so the robot is all right.
        Class::Success | Class::Message if probes => Some(Ruling::Resume),
        Class::Success | Class::Message | Class::Transient | Class::Ambiguous | Class::Withheld => None,
    }
}
