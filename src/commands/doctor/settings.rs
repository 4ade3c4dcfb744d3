//! Relations between settings, by arithmetic alone.

use std::time::Duration;

use super::Finding;
use crate::config::{self, show};

/// How far apart polls may be where nobody says that an event is there.
const LONG_POLL: Duration = Duration::from_secs(60);

/// What DingTalk takes of one robot in a minute.
const PLATFORM_RATE: u32 = 20;

pub(super) fn judge(sidecar: &config::Sidecar, relay: &config::Relay, sending: &config::Sending) -> Vec<Finding> {
    vec![
        leases(sidecar, &sending.consumer, &sending.channel),
        grace(&sidecar.service, &sending.channel),
        polls(relay),
        rate(&sending.channel),
    ]
}

fn leases(sidecar: &config::Sidecar, consumer: &config::Consumer, channel: &config::Channel) -> Finding {
    const WHAT: &str = "leases";
    let (send, hint) = (consumer.send_lease, sidecar.hints.hint_lease);
    if let Err(why) = consumer.check(channel) {
        return Finding::fail(
            WHAT,
            why,
            "raise the lease with the timeout: a slow request that outlives its lease is sent a second time",
        );
    }
    if hint < send {
        return Finding::warn(
            WHAT,
            format!("the hint lease of {} is shorter than the send lease of {}", show(hint), show(send)),
            "raise NOTIFICATION_HINT_LEASE above NOTIFICATION_SEND_LEASE: events are hinted again while they are being sent",
        );
    }
    let timeout = show(channel.requests.send_timeout);
    Finding::ok(WHAT, format!("hint {}, send {}, one request at most {timeout}", show(hint), show(send)))
}

fn grace(service: &config::Service, channel: &config::Channel) -> Finding {
    const WHAT: &str = "shutdown";
    let (grace, timeout) = (service.shutdown_grace, channel.requests.send_timeout);
    if grace < timeout {
        return Finding::warn(
            WHAT,
            format!("a stopping consumer has {}, and one request may take {}", show(grace), show(timeout)),
            "raise NOTIFICATION_SHUTDOWN_GRACE above NOTIFICATION_SEND_TIMEOUT: what is cut off may be sent twice",
        );
    }
    Finding::ok(WHAT, format!("{} to finish what is in hand", show(grace)))
}

fn polls(relay: &config::Relay) -> Finding {
    const WHAT: &str = "polling";
    let every = relay.poll_interval;
    if every > LONG_POLL {
        return Finding::warn(
            WHAT,
            format!("only every {} where no notification comes", show(every)),
            "lower NOTIFICATION_POLL_INTERVAL: it is how late an event may be after a fault of the listening connection",
        );
    }
    Finding::ok(WHAT, format!("every {} where no notification comes", show(every)))
}

fn rate(channel: &config::Channel) -> Finding {
    const WHAT: &str = "robot rate";
    let remedy =
        "set NOTIFICATION_ROBOT_RATE to 18/60s: DingTalk shuts a robot for ten minutes at its 21st message in a minute";
    match channel.robot_rate.0 {
        None => Finding::warn(WHAT, "off: nothing keeps a robot from being sent too much", remedy),
        // What fits into one minute: all of a shorter window's, as often as it begins.
        Some(rate) => {
            let windows = 60.0 / rate.window.as_secs_f64();
            let a_minute = f64::from(rate.limit) * windows.max(1.0);
            let text = format!("{} in {}", rate.limit, show(rate.window));
            if a_minute > f64::from(PLATFORM_RATE) {
                return Finding::fail(
                    WHAT,
                    format!("{text} is more than the {PLATFORM_RATE} a minute that DingTalk takes"),
                    remedy,
                );
            }
            Finding::ok(WHAT, text)
        }
    }
}
