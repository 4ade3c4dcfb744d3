//! 6 — the channel: from a message to the robot of a group.
//!
//! [`Channels::resolve`] finds the robots that an event may go through, [`Channels::send`] sends one message through one of
//! them and reports what became of it. What a platform's answer means is decided by one pure function per platform
//! (`dingtalk::outcome::classify`). Nothing here knows of rows, leases in SQL or the state of budgets: the consumer asks for
//! those before it sends, and is asked through [`MaySend`] before every try.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::cli::BadConfiguration;
use crate::config::{self, Rate, UnknownTarget};
use crate::message::{Mentions, Message};

mod clock;
mod connect;
mod dingtalk;
mod directory;
mod hosts;
mod http;
mod ops;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
#[cfg(test)]
mod rig;
mod robot;

use directory::Directory;
pub use directory::{Budgeted, Target};
pub use hyper_util::client::proxy::matcher::Matcher as Proxy;
pub use ops::OpsRobot;
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
    /// The budget of a robot that has none of its own.
    rate: Option<Rate>,
    unknown_target: UnknownTarget,
    /// The rows that the directory was read from.
    targets: Mutex<Vec<Target>>,
    directory: RwLock<Arc<Directory>>,
}

/// The way to a group: one robot, or several of a pool.
#[derive(Clone, Debug)]
pub struct Lane {
    /// The robot's name, or the pool's. What waits here, waits under this name.
    pub name: String,
    /// Those that may be used; none while all are disabled.
    pub robots: Vec<Robot>,
    /// Whom to mention where nobody else is.
    pub mentions: Mentions,
}

impl Lane {
    /// Whether so many messages may go through it and no more.
    pub fn has_budget(&self) -> bool {
        self.robots.iter().any(|robot| robot.rate().is_some())
    }
}

/// Why there is no way for an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoLane {
    /// It can never be sent as it is; class [`Class::Message`].
    Refused(Report),
    /// Nobody knows its target, or not yet; with what to say where it must not wait.
    Unknown(Report),
}

/// What is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Parcel<'a> {
    /// The message.
    pub message: &'a Message,
    /// [`msg_uuid`]: the platform drops a second message with the same one.
    pub key: &'a str,
    /// Whether what is found unsafe is sent once more without its links, rather than in parts.
    pub may_lose_links: bool,
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

/// Asked before every try; the consumer answers from its send lease, and from the robot's budget.
pub trait MaySend: Sync {
    /// Whether a request that may take as long as `needs` can begin now.
    fn may_send(&self, needs: Duration, request: Try) -> impl Future<Output = Leave> + Send;
}

/// Which request of a send it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Try {
    /// The first.
    First,
    /// The same again: nothing had left this machine. The row must still be the sender's own.
    Again,
    /// One more, for the answer to the one before calls for it: the robot gets a second request.
    Answered,
}

/// Whether a request may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// It may.
    Granted,
    /// The send lease does not allow it.
    NoTime,
    /// The robot's budget does not allow it.
    NoPlace,
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
    /// Whether one of them may have left this machine.
    pub has_left: bool,
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
    /// What was to be tried was not allowed, by the lease or by the budget.
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
        Report::without_request(Class::Message, reason)
    }

    /// What is known without a request.
    fn without_request(class: Class, reason: String) -> Report {
        Report { class, reason, response: None, tries: 0, has_left: false, status: None, errcode: None }
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
        let hosts = hosts::Hosts::new(&config.requests.allowed_hosts);
        let http = http::Http::new(&hosts, proxy, config.requests.send_timeout)?;
        let default = robot::configured(config, &hosts)?;
        let rate = config.robot_rate.0;
        let directory = Directory::read(default.as_ref(), &[], &hosts, rate);
        Ok(Channels {
            default,
            hosts,
            http,
            tries: Tries::default(),
            rate,
            unknown_target: config.unknown_target,
            targets: Mutex::default(),
            directory: RwLock::new(Arc::new(directory)),
        })
    }

    /// The same with other tries, as tests need them.
    #[must_use]
    pub fn with_tries(self, tries: Tries) -> Channels {
        Channels { tries, ..self }
    }

    /// Reads the directory anew: from these rows, or from those of last time, whose files may have changed. Returns the
    /// robots that are reached otherwise now.
    pub fn refresh(&self, rows: Option<Vec<Target>>) -> Vec<String> {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rows) = rows {
            *targets = rows;
        }
        let directory = Directory::read(self.default.as_ref(), &targets, &self.hosts, self.rate);
        let mut current = self.directory.write().unwrap_or_else(PoisonError::into_inner);
        let changed = directory.changed_since(&current);
        *current = Arc::new(directory);
        changed
    }

    /// Whether the robot of this name is reached otherwise by now.
    pub fn is_outdated(&self, robot: &Robot) -> bool {
        self.directory().is_outdated(robot)
    }

    /// Every robot that has a name, with its budget.
    pub fn budgeted(&self) -> Vec<Budgeted> {
        self.directory().budgeted()
    }

    /// The robots that cannot be reached as they are configured, and why; free of tokens.
    pub fn faults(&self) -> Vec<(String, String)> {
        self.directory().faults()
    }

    /// The names of all robots and pools that can be used.
    pub fn usable(&self) -> Vec<String> {
        let directory = self.directory();
        let usable = |name: &&str| directory.lane(name).is_some_and(|lane| !lane.robots.is_empty());
        directory.names().into_iter().filter(usable).map(str::to_owned).collect()
    }

    /// Whether an event whose target nobody knows waits for it.
    pub fn waits_for_unknown(&self) -> bool {
        self.unknown_target == UnknownTarget::Wait
    }

    fn directory(&self) -> Arc<Directory> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The way that an event takes: its target names a robot or a pool, or is the URL of a robot; an event that is
    /// `bound` to a robot stays with it, while there is such a one.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn resolve(&self, channel: &str, target: &str, bound: Option<&str>) -> Result<Lane, NoLane> {
        let refused = |why: String| NoLane::Refused(Report::of_the_event(why));
        let platform = match channel {
            "dingtalk" => Platform::DingTalk,
            unknown => return Err(refused(format!("message: unknown channel {unknown:?} (known: dingtalk)"))),
        };
        let directory = self.directory();
        if let Some(lane) = bound.and_then(|bound| directory.lane(bound)) {
            // Whom to mention the target says: sent again by one robot of a pool it is the same message.
            let mentions = directory.lane(target).map_or(lane.mentions, |target| target.mentions);
            return Ok(Lane { mentions, ..lane });
        }
        if !target.contains("://") {
            return directory.lane(target).ok_or_else(|| unknown_target(target, &directory));
        }
        let robot =
            Robot::at(platform, target, &self.hosts).map_err(|why| refused(format!("message: target: {why}")))?;
        // A robot with a name that is named by its URL is still that robot: one name, one budget, and its secret.
        if let Some(lane) = directory.by_webhook(&robot).and_then(|known| directory.lane(known.name())) {
            return Ok(lane);
        }
        let robot = robot.with_rate(self.rate);
        Ok(Lane { name: robot.name().to_owned(), robots: vec![robot], mentions: Mentions::default() })
    }

    /// Sends one message, in as many tries as its answers, the lease and the budget allow.
    pub async fn send(&self, robot: &Robot, parcel: Parcel<'_>, lease: &impl MaySend) -> Report {
        if let Some(fault) = robot.fault() {
            return Report::without_request(Class::Robot, format!("robot's settings: {fault}"));
        }
        match robot.platform() {
            Platform::DingTalk => dingtalk::send(&self.http, self.tries, robot, parcel, lease).await,
        }
    }
}

fn unknown_target(target: &str, directory: &Directory) -> NoLane {
    const SHOWN: usize = 12;
    if target == robot::DEFAULT {
        let unset = "message: the robot named \"default\" is not configured; set DINGTALK_NOTIFICATION_WEBHOOK";
        return NoLane::Unknown(Report::of_the_event(unset.to_owned()));
    }
    // What is not plainly a name may be half a webhook URL, token included.
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    let hex = target.trim_start_matches("SEC").chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    if target.chars().count() > 40 || !target.chars().all(plain) || target.len() > 31 && hex {
        let why = "message: unknown target (not shown: it may hold a token); allowed: a name, or a whole webhook URL";
        return NoLane::Refused(Report::of_the_event(why.to_owned()));
    }
    let names = directory.names();
    let mut known: Vec<&str> = names.iter().copied().take(SHOWN).collect();
    if names.len() > SHOWN {
        known.push("…");
    }
    known.push("or a webhook URL");
    NoLane::Unknown(Report::of_the_event(format!("message: unknown target {target:?} (known: {})", known.join(", "))))
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

/// The key of a message of several events; a digest has one generation only.
pub fn digest_msg_uuid(digest_id: Uuid, robot: &str) -> String {
    hex(&Sha256::digest(format!("{digest_id}\n{robot}")), 32)
}

/// The key of a message about postbell itself, which tells these things.
pub fn alert_msg_uuid(things: &[String]) -> String {
    hex(&Sha256::digest(things.join("\n\n")), 32)
}

/// The key under which events wait that may be merged with each other: those of one template, for one target or with one
/// `digest_key` of the caller's. A digest, for a target may hold a token.
pub fn digest_key(template_id: &str, target: &str, digest_key: Option<&str>) -> String {
    let by = digest_key.map_or_else(|| format!("target\n{target}"), |key| format!("key\n{key}"));
    hex(&Sha256::digest(format!("{template_id}\n{by}")), 32)
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

    fn report(no_lane: NoLane) -> Report {
        match no_lane {
            NoLane::Refused(report) | NoLane::Unknown(report) => report,
        }
    }

    fn refused(target: &str) -> String {
        let channels = rig::channels(&["--dingtalk-webhook", rig::WEBHOOK]);
        let report = report(channels.resolve("dingtalk", target, None).unwrap_err());
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
            report(channels.resolve("fax", "default", None).unwrap_err()).reason,
            "message: unknown channel \"fax\" (known: dingtalk)"
        );
        assert_eq!(refused("ops"), "message: unknown target \"ops\" (known: default, or a webhook URL)");
        assert!(refused(&format!("oapi.dingtalk.com/robot/send?access_token={TOKEN}")).contains("not shown"));
        assert!(refused(TOKEN).contains("not shown"));
        for short in [&TOKEN[..32], &format!("SEC{}", &TOKEN[..32]), "693a91f6-7ac1-4bc4-97a0-0ec2f1fa5aaa"] {
            assert!(refused(short).contains("not shown"), "{short}");
        }
    }

    #[test]
    fn an_unset_default_robot_is_told_by_the_variable_that_sets_it() {
        let channels = rig::channels(&["--dingtalk-webhook", ""]);
        let report = report(channels.resolve("dingtalk", "default", None).unwrap_err());
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
            assert_eq!(channels.resolve("dingtalk", target, None).unwrap().name, "default");
        }
        let other = format!("https://oapi.dingtalk.io/robot/send?access_token={TOKEN}");
        let robot = channels.resolve("dingtalk", &other, None).unwrap().robots.remove(0);
        let (host, digest) = robot.name().split_once('#').unwrap();
        assert_eq!((host, digest.len()), ("oapi.dingtalk.io", 12));
        assert!(!format!("{robot:?}").contains(TOKEN));
    }
}
