//! The operations robot as this process would reach it, and whether it rings.

use secrecy::ExposeSecret as _;

use super::Finding;
use crate::channel::{self, Class, OpsRobot, Proxy};
use crate::config::{self, Switch};
use crate::message::{Format, Mentions, Message};

const WHAT: &str = "alerts";

/// Judges what is set.
pub(super) fn judge(alerts: &config::Alerts, sending: &config::Sending) -> Finding {
    let channel = &sending.channel;
    if let Err(error) = OpsRobot::new(alerts, &channel.requests, Proxy::from_env()) {
        return Finding::fail(WHAT, error.to_string(), "correct the variable; no sidecar starts like this");
    }
    let Some(webhook) = alerts.webhook() else {
        return match alerts.secret() {
            Some(_) => Finding::warn(
                WHAT,
                "NOTIFICATION_OPS_SECRET is set, and NOTIFICATION_OPS_WEBHOOK is not: nobody is rung",
                "set both, or neither",
            ),
            None => Finding::ok(WHAT, "off: no operations robot is set (NOTIFICATION_OPS_WEBHOOK)"),
        };
    };
    if channel.webhook().is_some_and(|of_events| of_events.expose_secret().trim() == webhook.expose_secret().trim()) {
        return Finding::warn(
            WHAT,
            "the operations robot is the one that events go through: where it fails, nobody is told",
            "give it a robot of its own (NOTIFICATION_OPS_WEBHOOK)",
        );
    }
    if sending.consumer.attempts == Switch::Off && alerts.alert_failure_rate.0.is_some() {
        return Finding::warn(
            WHAT,
            "failure_rate is not watched: sends are counted in notification_attempts, which is not written",
            "set NOTIFICATION_ATTEMPTS to on, or NOTIFICATION_ALERT_FAILURE_RATE to off",
        );
    }
    let [interval, window] = [alerts.alert_interval, alerts.alert_window].map(config::show);
    Finding::ok(WHAT, format!("an operations robot is set; looked every {interval}, rung once in {window} at most"))
}

/// Rings the operations robot from here, where one is set.
pub(super) async fn ring(alerts: &config::Alerts, requests: &config::Requests) -> Option<Finding> {
    const WHAT: &str = "test alert";
    // What cannot be used was judged before.
    let robot = OpsRobot::new(alerts, requests, Proxy::from_env()).ok()??;
    let body = "🔔 postbell：运维机器人工作正常，告警会发到这里。The operations robot works.".to_owned();
    let message = Message { format: Format::Text, title: String::new(), body, mentions: Mentions::default() };
    let key = channel::alert_msg_uuid(&[format!("{:032x}", fastrand::u128(..))]);
    let report = robot.ring(&message, &key).await;
    Some(match report.class {
        Class::Success => Finding::ok(WHAT, "delivered"),
        _ => Finding::fail(
            WHAT,
            report.reason,
            "NOTIFICATION_OPS_WEBHOOK and NOTIFICATION_OPS_SECRET; its keyword is postbell",
        ),
    })
}
