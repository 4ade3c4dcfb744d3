//! 6 — the channel: from a message to the robot of a group.
//!
//! [`Channels::resolve`] finds the robot that an event names, [`Channels::send`] sends it one message and reports what
//! became of it. What a platform's answer means is decided by one pure function per platform
//! (`dingtalk::outcome::classify`). Nothing here knows of rows, leases in SQL or budgets: the consumer asks for those
//! before it sends, and is asked through [`MaySend`] before every try.

use std::fmt::Write as _;
use std::time::Duration;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::cli::BadConfiguration;
use crate::config;
use crate::message::Message;

mod clock;
mod connect;
mod dingtalk;
mod hosts;
mod http;
#[cfg(test)]
mod rig;
mod robot;

pub use hyper_util::client::proxy::matcher::Matcher as Proxy;
pub use robot::Robot;

/// The kinds of robots there are. Chosen per event, by its `channel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Platform {
    DingTalk,
}

/// Every way to a robot, shared by all sends of a process.
pub struct Channels {
    /// The robot in the environment, where one is configured.
    default: Option<Robot>,
    hosts: hosts::Hosts,
    http: http::Http,
    tries: Tries,
}

/// Tries within one send, while nothing has left this machine.
#[derive(Clone, Copy, Debug)]
pub struct Tries {
    /// Most of them, the first included.
    pub most: u32,
    /// Pause between two.
    pub pause: Duration,
}

impl Default for Tries {
    fn default() -> Tries {
        Tries { most: 3, pause: Duration::from_secs(2) }
    }
}

/// Asked before every try; the consumer answers from its send lease.
pub trait MaySend: Sync {
    /// Whether a request that may take as long as `needs` can begin now. For a `further` try of the same send the row
    /// must still be its own, too.
    fn may_send(&self, needs: Duration, further: bool) -> impl Future<Output = bool> + Send;
}

/// What became of one send. Free of tokens and secrets throughout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What follows from it.
    pub class: Class,
    /// For a person: whose fault it is, and what to do.
    pub reason: String,
    /// The platform's answer, its first 500 bytes.
    pub response: Option<String>,
    /// Requests begun.
    pub tries: u32,
    /// HTTP status of the last answer.
    pub status: Option<u16>,
    /// Business code in the last answer.
    pub errcode: Option<i64>,
}

/// What follows from a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The platform said yes, in so many words.
    Success,
    /// Permanent, and the event's own: it fails now.
    Message,
    /// The robot is misconfigured or gone: pause it; the event keeps its retries.
    Robot,
    /// The robot needs a rest of this length; the event keeps its retries.
    Throttled(Duration),
    /// The platform refuses this process's address for this long: every robot needs a rest.
    Blocked(Duration),
    /// Not delivered, through a fault that passes: retry by the schedule.
    Transient,
    /// As transient, but it may have been delivered: the same key again, or not at all where the event says so.
    Ambiguous,
    /// Nothing was tried, because the lease did not allow it.
    Withheld,
}

impl Class {
    /// The word for it in SQL, logs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Class::Success => "success",
            Class::Message => "message",
            Class::Robot => "robot",
            Class::Throttled(_) => "throttled",
            Class::Blocked(_) => "blocked",
            Class::Transient => "transient",
            Class::Ambiguous => "ambiguous",
            Class::Withheld => "withheld",
        }
    }
}

impl Report {
    /// A failure of the event itself that no request was needed to find.
    fn of_the_event(reason: String) -> Report {
        Report { class: Class::Message, reason, response: None, tries: 0, status: None, errcode: None }
    }
}

impl Channels {
    /// Checks the configured robot, hosts and proxy, and readies the connections; connects to nothing yet.
    ///
    /// `proxy` is [`Proxy::from_env`] but in tests.
    ///
    /// # Errors
    ///
    /// A webhook, a proxy or a trust store that could never work; the variable is named, no token is shown.
    pub fn new(config: &config::Channel, proxy: Proxy) -> Result<Channels, BadConfiguration> {
        let hosts = hosts::Hosts::new(&config.allowed_hosts);
        let http = http::Http::new(&hosts, proxy, config.send_timeout)?;
        let default = robot::configured(config, &hosts)?;
        Ok(Channels { default, hosts, http, tries: Tries::default() })
    }

    /// The same with other tries, as tests need them.
    #[must_use]
    pub fn with_tries(self, tries: Tries) -> Channels {
        Channels { tries, ..self }
    }

    /// The robot that an event goes to: `default` is the one in the environment, a URL is its own.
    ///
    /// # Errors
    ///
    /// The report of an event that can never be sent as it is, class [`Class::Message`].
    pub fn resolve(&self, channel: &str, target: &str) -> Result<Robot, Report> {
        self.find(channel, target).map_err(Report::of_the_event)
    }

    fn find(&self, channel: &str, target: &str) -> Result<Robot, String> {
        let platform = match channel {
            "dingtalk" => Platform::DingTalk,
            unknown => return Err(format!("message: unknown channel {unknown:?} (known: dingtalk)")),
        };
        if target == robot::DEFAULT {
            let unset = "message: the robot named \"default\" is not configured; set DINGTALK_NOTIFICATION_WEBHOOK";
            return self.default.clone().ok_or_else(|| unset.to_owned());
        }
        if !target.contains("://") {
            // What is not plainly a name may be half a webhook URL, token included.
            let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
            let name = target.chars().count() <= 40 && target.chars().all(plain);
            let shown = if name { format!("{target:?}") } else { "(not shown: it may hold a token)".to_owned() };
            return Err(format!("message: unknown target {shown} (known: default, or a webhook URL)"));
        }
        let robot = Robot::at(platform, target, &self.hosts).map_err(|why| format!("message: target: {why}"))?;
        // The configured robot named by its URL is still that robot: one name, one budget, and its secret.
        Ok(self.default.as_ref().filter(|default| default.same_webhook(&robot)).cloned().unwrap_or(robot))
    }

    /// Sends one message, in as many tries as its answers and the lease allow.
    ///
    /// `key` is [`msg_uuid`]: the platform drops a second message with the same one.
    pub async fn send(&self, robot: &Robot, message: &Message, key: &str, lease: &impl MaySend) -> Report {
        match robot.platform() {
            Platform::DingTalk => dingtalk::send(&self.http, self.tries, robot, message, key, lease).await,
        }
    }
}

/// Bytes of the request that would send this message whole, mentions and key included.
pub fn body_size(message: &Message) -> usize {
    dingtalk::body_size(message)
}

/// Whether this message can be sent whole: with every line of it, and everybody it mentions.
pub fn fits(message: &Message) -> bool {
    dingtalk::fits(message)
}

/// The key under which the platform recognises a second send: 32 hex digits, the same for every send of one generation
/// of an event to one robot, and another after a replay.
pub fn msg_uuid(id: Uuid, replay_count: i32, robot: &str) -> String {
    hex(&Sha256::digest(format!("{id}\n{replay_count}\n{robot}")), 32)
}

/// The first `digits` hex digits of a digest.
fn hex(digest: &[u8], digits: usize) -> String {
    let mut text = String::with_capacity(2 * digest.len());
    for byte in digest {
        let _ = write!(text, "{byte:02x}");
    }
    text.truncate(digits);
    text
}

#[cfg(test)]
mod tests {
    use super::rig::{self, TOKEN};
    use super::*;

    fn refused(target: &str) -> String {
        let report = rig::channels(&["--dingtalk-webhook", rig::WEBHOOK]).resolve("dingtalk", target).unwrap_err();
        assert_eq!(report.class, Class::Message);
        assert_eq!(report.tries, 0);
        assert!(!format!("{report:?}").contains(TOKEN), "{report:?}");
        report.reason
    }

    #[test]
    fn the_key_is_the_same_for_one_generation_and_robot_only() {
        let id = Uuid::from_u128(7);
        let key = msg_uuid(id, 0, "default");
        assert_eq!(key.len(), 32);
        assert!(key.chars().all(|c| c.is_ascii_hexdigit()));
        assert_eq!(key, msg_uuid(id, 0, "default"));
        for other in [msg_uuid(Uuid::from_u128(8), 0, "default"), msg_uuid(id, 1, "default"), msg_uuid(id, 0, "ops")] {
            assert_ne!(key, other);
        }
    }

    #[test]
    fn what_names_no_robot_is_the_events_own_failure() {
        let channels = rig::channels(&["--dingtalk-webhook", rig::WEBHOOK]);
        assert_eq!(
            channels.resolve("fax", "default").unwrap_err().reason,
            "message: unknown channel \"fax\" (known: dingtalk)"
        );
        assert_eq!(refused("ops"), "message: unknown target \"ops\" (known: default, or a webhook URL)");
        assert!(refused(&format!("oapi.dingtalk.com/robot/send?access_token={TOKEN}")).contains("not shown"));
        assert!(refused(TOKEN).contains("not shown"));
    }

    #[test]
    fn an_unset_default_robot_is_told_by_the_variable_that_sets_it() {
        let report = rig::channels(&["--dingtalk-webhook", ""]).resolve("dingtalk", "default").unwrap_err();
        assert!(report.reason.contains("DINGTALK_NOTIFICATION_WEBHOOK"), "{}", report.reason);
    }

    #[test]
    fn a_webhook_is_refused_with_its_host_but_without_its_token() {
        let reason = refused(&format!("https://evil.example/robot/send?access_token={TOKEN}"));
        assert!(reason.contains("evil.example") && reason.contains("NOTIFICATION_ALLOWED_HOSTS"), "{reason}");
        for bad in [
            format!("http://oapi.dingtalk.com/robot/send?access_token={TOKEN}"),
            format!("https://oapi.dingtalk.com:8443/robot/send?access_token={TOKEN}"),
            format!("https://user:{TOKEN}@oapi.dingtalk.com/robot/send?access_token={TOKEN}"),
            format!("https://oapi.dingtalk.com/robot/send?access_token={TOKEN}#x"),
            format!("https://oapi.dingtalk.com/robot/send?access_token={TOKEN}&timestamp=1&sign=x"),
            format!("https://oapi.dingtalk.com/robot/send?token={TOKEN}"),
            format!("https://oapi.dingtalk.com@evil.example/?access_token={TOKEN}"),
            format!("ftp://oapi.dingtalk.com/{TOKEN}"),
            format!("https://[/{TOKEN}"),
        ] {
            refused(&bad);
        }
    }

    #[test]
    fn the_configured_webhook_is_checked_at_start_and_not_shown() {
        for bad in [format!("https://evil.example/?access_token={TOKEN}"), TOKEN.to_owned()] {
            let error = rig::try_channels(&["--dingtalk-webhook", &bad]).err().unwrap().to_string();
            assert!(error.starts_with("DINGTALK_NOTIFICATION_WEBHOOK (--dingtalk-webhook): "), "{error}");
            assert!(error.contains("allowed: ") && !error.contains(TOKEN), "{error}");
        }
    }

    #[test]
    fn the_configured_robot_is_itself_by_name_and_by_url() {
        let channels = rig::channels(&["--dingtalk-webhook", rig::WEBHOOK, "--dingtalk-secret", "SECtest"]);
        for target in ["default", rig::WEBHOOK] {
            assert_eq!(channels.resolve("dingtalk", target).unwrap().name(), "default");
        }
        let other = format!("https://oapi.dingtalk.io/robot/send?access_token={TOKEN}");
        let robot = channels.resolve("dingtalk", &other).unwrap();
        let (host, digest) = robot.name().split_once('#').unwrap();
        assert_eq!((host, digest.len()), ("oapi.dingtalk.io", 12));
        assert!(!format!("{robot:?}").contains(TOKEN));
    }
}
