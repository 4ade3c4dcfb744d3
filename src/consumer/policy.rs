//! What follows from a send: pure, so that every case can be read and tested.

use std::time::Duration;

use crate::channel::{Class, Report};
use crate::config::Backoff;
use crate::event::{Delivery, Event, Outcome};

/// How long an event waits whose lease, or whose robot's budget, was too short to send it.
const WITHHELD_PAUSE: Duration = Duration::from_secs(1);

/// At most this share is added to each delay, so that events that failed together do not come back together.
const JITTER: f64 = 0.1;

/// When to try again, and how often.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    max_retry: u32,
    backoff: Backoff,
}

impl RetryPolicy {
    /// Retries allowed where the event does not say, and the delay before each.
    pub fn new(max_retry: u64, backoff: Backoff) -> Self {
        Self { max_retry: u32::try_from(max_retry).unwrap_or(u32::MAX), backoff }
    }

    /// The delay before the retry that follows `retry_count` earlier ones; `chance` is from 0 to 1.
    pub fn delay(&self, retry_count: u32, chance: f64) -> Duration {
        let delays = &self.backoff.0;
        let index = usize::try_from(retry_count).unwrap_or(usize::MAX).min(delays.len().saturating_sub(1));
        delays.get(index).copied().unwrap_or_default().mul_f64(1.0 + JITTER * chance)
    }

    /// How many more times it may be retried.
    pub fn retries_left(&self, event: &Event) -> u32 {
        event.max_retry.unwrap_or(self.max_retry).saturating_sub(event.retry_count)
    }

    /// What becomes of an event whose send ended like this; `chance` is from 0 to 1.
    pub fn decide(&self, event: &Event, report: &Report, chance: f64) -> Outcome {
        let error = report.reason.clone();
        let response = report.response.clone();
        match report.class {
            Class::Success => Outcome::Delivered { response: response.unwrap_or_default() },
            Class::Message => Outcome::Failed { error, response },
            // Until when is the robot's, not the event's.
            Class::Robot | Class::Throttled(_) | Class::Blocked(_) => Outcome::Wait { after: None, error, response },
            // Not at once: whatever made the lease run short, a slow database mostly, is still there.
            Class::Withheld if !report.has_left => Outcome::Wait { after: Some(WITHHELD_PAUSE), error, response },
            Class::Ambiguous if event.options.delivery == Delivery::AtMostOnce => Outcome::Failed {
                error: format!("outcome unknown, and it asks for at most one delivery: {error}"),
                response,
            },
            // One that was refused, and whose remedy was not allowed, uses a retry: it must not go round for ever.
            Class::Transient | Class::Ambiguous | Class::Withheld => {
                if self.retries_left(event) == 0 {
                    let error = format!("{error}; no retry is left after {} sends", u64::from(event.retry_count) + 1);
                    return Outcome::Failed { error, response };
                }
                Outcome::Retry { after: self.delay(event.retry_count, chance), error, response }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn policy() -> RetryPolicy {
        RetryPolicy::new(3, Backoff(vec![MINUTE, MINUTE * 5, MINUTE * 30]))
    }

    fn event(retry_count: u32, max_retry: Option<u32>, delivery: Delivery) -> Event {
        Event {
            id: uuid::Uuid::nil(),
            seq: 1,
            event_type: "notice".into(),
            channel: "dingtalk".into(),
            target: "default".into(),
            template_id: None,
            payload: serde_json::Map::new(),
            options: crate::event::Options { delivery, ..Default::default() },
            trace_id: None,
            retry_count,
            max_retry,
            attempt: 1,
            replay_count: 0,
            late: Duration::ZERO,
            urgent: false,
            robot: None,
            digest_limit: None,
        }
    }

    fn decide(event: &Event, class: Class) -> Outcome {
        let report = Report {
            class,
            reason: "because".into(),
            response: None,
            tries: 1,
            has_left: true,
            status: None,
            errcode: None,
        };
        policy().decide(event, &report, 0.0)
    }

    #[test]
    fn delays_follow_the_list_and_the_last_repeats() {
        let delays: Vec<_> = (0..5).map(|retry| policy().delay(retry, 0.0)).collect();
        assert_eq!(delays, [MINUTE, MINUTE * 5, MINUTE * 30, MINUTE * 30, MINUTE * 30]);
    }

    #[test]
    fn jitter_adds_a_tenth_at_most() {
        assert_eq!(policy().delay(0, 1.0), Duration::from_secs(66));
    }

    #[test]
    fn three_retries_are_four_sends() {
        for retry_count in 0..3 {
            assert!(matches!(
                decide(&event(retry_count, None, Delivery::AtLeastOnce), Class::Transient),
                Outcome::Retry { .. }
            ));
        }
        let last = decide(&event(3, None, Delivery::AtLeastOnce), Class::Transient);
        assert_eq!(last, Outcome::Failed { error: "because; no retry is left after 4 sends".into(), response: None });
    }

    #[test]
    fn the_event_may_allow_fewer_or_more_retries() {
        assert!(matches!(decide(&event(0, Some(0), Delivery::AtLeastOnce), Class::Transient), Outcome::Failed { .. }));
        assert!(matches!(decide(&event(9, Some(10), Delivery::AtLeastOnce), Class::Transient), Outcome::Retry { .. }));
    }

    #[test]
    fn a_robot_that_cannot_take_it_now_costs_no_retry() {
        let event = event(3, None, Delivery::AtLeastOnce);
        for class in [Class::Robot, Class::Throttled(MINUTE * 10), Class::Blocked(MINUTE * 5)] {
            assert!(matches!(decide(&event, class), Outcome::Wait { after: None, .. }));
        }
        assert!(matches!(decide(&event, Class::Withheld), Outcome::Failed { .. }), "it was refused before");
    }

    #[test]
    fn a_message_that_is_refused_fails_at_once() {
        assert!(matches!(decide(&event(0, None, Delivery::AtLeastOnce), Class::Message), Outcome::Failed { .. }));
    }

    #[test]
    fn an_unknown_outcome_is_sent_again_unless_the_event_asks_for_at_most_once() {
        assert!(matches!(decide(&event(0, None, Delivery::AtLeastOnce), Class::Ambiguous), Outcome::Retry { .. }));
        assert!(matches!(decide(&event(0, None, Delivery::AtMostOnce), Class::Ambiguous), Outcome::Failed { .. }));
        assert!(matches!(decide(&event(0, None, Delivery::AtMostOnce), Class::Transient), Outcome::Retry { .. }));
    }
}
