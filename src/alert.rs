//! What postbell rings about itself: an operations robot is told what is wrong, once in a while, and when it is over.
//!
//! Every long-running process looks now and then, by one statement, whether one of the [`Condition`]s holds: what it asks is
//! the same for all of them, so that it does not matter which of them still run. Who may ring is decided by that statement as
//! well, in `notification_alerts`: one message of each condition and subject in each window, and one all-clear, however many
//! look. Nothing of it goes through the outbox, which may be what fails.
//!
//! The right to ring ends by itself. Who dies between taking it and ringing costs a delay; who dies between ringing and noting
//! so, a second message. It has the same `msgUuid`, so that people do not see it, as long as it tells the same things; where
//! something has begun or ended meanwhile it is another message, and they read the rest of it twice.
//!
//! A database that cannot be reached gives nobody the right: then each process says so in its log, `/readyz` fails, and who
//! looks at those rings.

mod condition;
mod message;

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::channel::{self, Class, OpsRobot};
use crate::config;
use crate::store::Store;
use crate::store::alerts::Right;

pub use condition::Condition;
use message::Context;

/// What holds no more must not have been seen for so many looks: what comes and goes is one thing.
const QUIET_LOOKS: u32 = 3;

/// So many things are told in one message: more than people read, and mostly less than the platform takes.
const MOST_TOLD: usize = 20;

/// What a right to ring lasts longer than the one request that it is for.
const LEASE_MARGIN: Duration = Duration::from_secs(5);

/// Looks and rings.
pub struct Alerts {
    store: Store,
    robot: OpsRobot,
    config: config::Alerts,
    /// Where the database is: several deployments may have one operations robot.
    place: String,
    lease: Duration,
    hint_lease: Duration,
}

impl Alerts {
    /// Rings this robot; a request takes no longer than `send_timeout`, and hints last no longer than `hint_lease`.
    pub fn new(
        store: Store,
        robot: OpsRobot,
        config: config::Alerts,
        place: String,
        send_timeout: Duration,
        hint_lease: Duration,
    ) -> Alerts {
        Alerts { store, robot, config, place, lease: send_timeout + LEASE_MARGIN, hint_lease }
    }

    /// Looks again and again, until told to stop. What it has begun to ring it ends, as long as the right to lasts.
    pub async fn run(self, stop: CancellationToken) {
        // Processes that start together look at different times: what one of them has found out the others need not wait for.
        let mut pause = self.config.alert_interval.mul_f64(fastrand::f64());
        let mut is_stuck = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
            pause = self.config.alert_interval;
            let until = Instant::now() + self.lease;
            let rights = tokio::select! {
                rights = self.store.check_alerts(&self.config, pause * QUIET_LOOKS, self.lease, self.hint_lease) => rights,
                () = stop.cancelled() => return,
            };
            let result = match rights {
                Ok(rights) if rights.is_empty() => Ok(()),
                // Later it is somebody else's, and what became of it is not known: as if this process had died.
                Ok(rights) => timeout_at(until, self.ring(&rights)).await.unwrap_or(Ok(())),
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => is_stuck = false,
                Err(error) if is_stuck => {
                    tracing::debug!(error = format!("{error:#}"), "alerts still cannot be checked")
                }
                Err(error) => {
                    is_stuck = true;
                    let error = format!("{error:#}");
                    tracing::warn!(error, "alerts cannot be checked, and nobody is rung; trying again until they can");
                }
            }
        }
    }

    /// Tells people: in one message, so that many robots that are paused at once are no more than the operations robot takes.
    /// What does not fit into it comes with another.
    async fn ring(&self, rights: &[Right]) -> anyhow::Result<()> {
        let context = Context { config: &self.config, place: &self.place };
        let fits = |count: &usize| self.robot.fits(&message::written(&rights[..*count], &context));
        let count = (1..=rights.len().min(MOST_TOLD)).rev().find(fits).unwrap_or(1);
        let (rights, later) = rights.split_at(count);
        let report = self.robot.ring(&message::written(rights, &context), &key(rights)).await;
        let were_told = report.class == Class::Success;
        for Right { condition, subject, is_over, detail, .. } in rights {
            let reason = &report.reason;
            match (were_told, is_over) {
                (true, false) => tracing::warn!(condition, subject, %detail, "rang the operations robot"),
                (true, true) => tracing::info!(condition, subject, "rang the operations robot: it is over"),
                (false, _) => {
                    tracing::error!(
                        condition,
                        subject,
                        is_over,
                        reason,
                        "the operations robot could not be rung; trying again in a while"
                    );
                }
            }
        }
        let rest = self.config.alert_interval;
        self.store.alerts_rung(rights, were_told, rest).await?;
        if later.is_empty() { Ok(()) } else { self.store.alerts_rung(later, false, rest).await }
    }
}

/// The same for the same things, told of for the same time: what is rung again because nobody knows whether it was, the
/// platform drops.
fn key(rights: &[Right]) -> String {
    let part = |right: &Right| {
        let Right { condition, subject, raised_at, rung_at, is_over, .. } = right;
        let rung_at = rung_at.map_or_else(String::new, |at| at.to_string());
        format!("{condition}\n{subject}\n{raised_at}\n{rung_at}\n{is_over}")
    };
    channel::alert_msg_uuid(&rights.iter().map(part).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rung_again_has_the_same_key_until_somebody_was_told() {
        let right = message::tests::right(Condition::OldestDue, "", false);
        let again = Right { until: "2026-11-27T13:00:00Z".parse().unwrap(), detail: 5.into(), ..right.clone() };
        assert_eq!(key(std::slice::from_ref(&right)), key(&[again]));
        assert_eq!(key(std::slice::from_ref(&right)).len(), 32);
        let together = [right.clone(), message::tests::right(Condition::DeadLetters, "", false)];
        assert_ne!(key(std::slice::from_ref(&right)), key(&together), "what is told with other things is told again");
        for other in [
            Right { rung_at: Some(right.raised_at), ..right.clone() },
            Right { is_over: true, ..right.clone() },
            Right { subject: "hr".into(), ..right.clone() },
            Right { raised_at: right.held_at, ..right.clone() },
        ] {
            assert_ne!(key(std::slice::from_ref(&right)), key(&[other]));
        }
    }
}
