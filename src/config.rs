//! Configuration: the only reader of the environment, one struct a part.
//!
//! Every setting is a flag and an environment variable; the flag wins. Values are checked when they are read, relations
//! between them by [`Consumer::check`], and a bad one is refused at start rather than worked around.
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `DATABASE_URL` | – | PostgreSQL connection string |
//! | `REDIS_URL` | `redis://127.0.0.1:6379` | Redis connection string |
//! | `DINGTALK_NOTIFICATION_WEBHOOK` | – | webhook of the robot named `default` |
//! | `DINGTALK_NOTIFICATION_SECRET` | – | its signing secret |
//! | `NOTIFICATION_MAX_RETRY` | `3` | retries after the first send |
//! | `NOTIFICATION_RETRY_BACKOFF` | `1m,5m,30m` | delay before each retry; the last repeats |
//! | `NOTIFICATION_QUEUE_STREAM` | `notification:events` | stream of hints; urgent ones go to this key with `:urgent` added |
//! | `NOTIFICATION_DEAD_LETTER_STREAM` | `notification:deadletter` | stream of dead letters |
//! | `NOTIFICATION_CONSUMER_GROUP` | `postbell` | consumer group |
//! | `NOTIFICATION_STREAM_MAX_LEN` | `10000` | entries at which hinting pauses |
//! | `NOTIFICATION_STREAM_BLOCK` | `1s` | how long one read waits for entries |
//! | `NOTIFICATION_HINT_LEASE` | `1m` | how long a hint is trusted |
//! | `NOTIFICATION_SEND_LEASE` | `45s` | how long a consumer owns what it took |
//! | `NOTIFICATION_SEND_TIMEOUT` | `10s` | one request to a robot |
//! | `NOTIFICATION_POLL_INTERVAL` | `10s` | backstop where no notification comes |
//! | `NOTIFICATION_BATCH_SIZE` | `500` | rows of one claim |
//! | `NOTIFICATION_RETENTION_DELIVERED` | `30d` | how long delivered and cancelled events stay; `off`: for ever |
//! | `NOTIFICATION_RETENTION_FAILED` | `180d` | how long failed events stay |
//! | `NOTIFICATION_RETENTION_ATTEMPTS` | `90d` | how long rows of `notification_attempts` stay |
//! | `NOTIFICATION_RETENTION_AUDIT` | `400d` | how long rows of `notification_audit` stay |
//! | `NOTIFICATION_CONCURRENCY` | `64` | sends at the same time |
//! | `NOTIFICATION_ATTEMPTS` | `on` | whether each send gets a row in `notification_attempts`: `on` or `off` |
//! | `NOTIFICATION_TEMPLATES_DIR` | `templates` | folder of templates |
//! | `NOTIFICATION_ALLOWED_HOSTS` | – | webhook hosts beside DingTalk's own |
//! | `NOTIFICATION_ROBOT_RATE` | `18/60s` | most messages of one robot in any such window; `off` for no limit |
//! | `NOTIFICATION_ROBOT_URGENT_RESERVE` | `4` | of these, kept free for urgent events |
//! | `NOTIFICATION_UNKNOWN_TARGET` | `fail` | what becomes of an event whose target nobody knows: `fail` or `wait` |
//! | `NOTIFICATION_OPS_WEBHOOK` | – | webhook of the operations robot, which postbell rings about itself; none: no alerts |
//! | `NOTIFICATION_OPS_SECRET` | – | its signing secret |
//! | `NOTIFICATION_ALERT_INTERVAL` | `1m` | how often each process looks whether there is something to ring about |
//! | `NOTIFICATION_ALERT_WINDOW` | `30m` | one message of each condition in so much time, while it lasts |
//! | `NOTIFICATION_ALERT_DEAD_LETTERS` | `10` | dead letters that are one too many; `off`: not watched |
//! | `NOTIFICATION_ALERT_FAILURE_RATE` | `50%/10m` | share of the sends of so much time that may not fail; `off`: not watched |
//! | `NOTIFICATION_ALERT_LEAST_SENDS` | `3` | fewer sends than this are no rate |
//! | `NOTIFICATION_ALERT_OLDEST_DUE` | `10m` | how late the oldest event may not be; `off`: not watched |
//! | `NOTIFICATION_HTTP_ADDR` | `127.0.0.1:9464` | health and metrics; `off` for none |
//! | `NOTIFICATION_SHUTDOWN_GRACE` | `25s` | time to finish what is in hand |
//! | `NOTIFICATION_ACTOR` | – | who an operator is, for the audit |
//! | `NOTIFICATION_LOG` | `info` | log filter |
//! | `NOTIFICATION_LOG_FORMAT` | `text` | `text` or `json` |
//!
//! `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are honoured for requests to robots. With the feature `otel` the OpenTelemetry SDK
//! reads its own variables, `OTEL_…`, where they name a collector.

mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use secrecy::SecretString;

pub use values::{
    Backoff, FailureRate, HostList, HttpAddr, Keep, MostDeadLetters, MostFailures, MostLate, OptionalSecret, Rate,
    RobotRate, show,
};
use values::{
    Span, Whole, parse_actor, parse_addr, parse_filter, parse_key, parse_optional_secret, parse_redis_url, parse_secret,
};

/// Where the rows are.
#[derive(Args, Clone, Debug)]
pub struct Database {
    /// PostgreSQL connection string, such as postgres://user:password@host/database?sslmode=require
    ///
    /// sslmode is disable, prefer, require, verify-ca or verify-full; sslrootcert names a PEM file.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL", value_parser = parse_secret)]
    pub database_url: SecretString,
}

/// Where the hints go.
#[derive(Args, Clone, Debug)]
pub struct Queue {
    /// Redis connection string, such as redis://:password@host:6379/0; rediss:// for TLS
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_name = "URL", default_value = "redis://127.0.0.1:6379", value_parser = parse_redis_url)]
    pub redis_url: SecretString,

    /// Redis stream that carries the hints; urgent ones go to this key with :urgent added
    #[arg(long, env = "NOTIFICATION_QUEUE_STREAM", value_name = "KEY", default_value = "notification:events", value_parser = parse_key)]
    pub queue_stream: String,

    /// Redis stream that dead letters are announced in
    #[arg(long, env = "NOTIFICATION_DEAD_LETTER_STREAM", value_name = "KEY", default_value = "notification:deadletter", value_parser = parse_key)]
    pub dead_letter_stream: String,

    /// Consumer group on the stream of hints
    #[arg(long, env = "NOTIFICATION_CONSUMER_GROUP", value_name = "NAME", default_value = "postbell", value_parser = parse_key)]
    pub consumer_group: String,

    /// Entries in a stream of hints at which hinting pauses, for urgent ones and others apart; the dead-letter stream is trimmed to about as many
    #[arg(long, env = "NOTIFICATION_STREAM_MAX_LEN", value_name = "ENTRIES", default_value = "10000", value_parser = Whole { min: 1, max: 10_000_000 })]
    pub stream_max_len: u64,

    /// How long one read of the stream waits for new entries
    #[arg(long, env = "NOTIFICATION_STREAM_BLOCK", value_name = "DURATION", default_value = "1s", value_parser = Span { min_ms: 10, max_ms: 60_000 })]
    pub stream_block: Duration,
}

/// The hint lease is the relay's to give and the consumer's to give back.
#[derive(Args, Clone, Debug)]
pub struct Hints {
    /// How long a hint in the stream is trusted before its row is hinted again
    #[arg(long, env = "NOTIFICATION_HINT_LEASE", value_name = "DURATION", default_value = "1m", value_parser = Span { min_ms: 1_000, max_ms: 86_400_000 })]
    pub hint_lease: Duration,
}

/// How the relay works.
#[derive(Args, Clone, Debug)]
pub struct Relay {
    /// How often the table is looked at when no notification comes
    #[arg(long, env = "NOTIFICATION_POLL_INTERVAL", value_name = "DURATION", default_value = "10s", value_parser = Span { min_ms: 100, max_ms: 3_600_000 })]
    pub poll_interval: Duration,

    /// Most rows claimed, and hinted in one round trip, at a time
    #[arg(long, env = "NOTIFICATION_BATCH_SIZE", value_name = "ROWS", default_value = "500", value_parser = Whole { min: 1, max: 10_000 })]
    pub batch_size: u64,

    /// How long what is done stays.
    #[command(flatten)]
    pub retention: Retention,
}

/// How long rows stay that nothing depends on any more; counted from the end of an event.
#[derive(Args, Clone, Copy, Debug)]
pub struct Retention {
    /// How long delivered and cancelled events stay before they are removed, such as 30d; off for ever
    ///
    /// With an event its idempotency key goes, and is free again.
    #[arg(long, env = "NOTIFICATION_RETENTION_DELIVERED", value_name = "TIME", default_value = "30d")]
    pub retention_delivered: Keep,

    /// How long failed events stay whose dead letters are written
    #[arg(long, env = "NOTIFICATION_RETENTION_FAILED", value_name = "TIME", default_value = "180d")]
    pub retention_failed: Keep,

    /// How long rows of notification_attempts stay
    #[arg(long, env = "NOTIFICATION_RETENTION_ATTEMPTS", value_name = "TIME", default_value = "90d")]
    pub retention_attempts: Keep,

    /// How long rows of notification_audit stay
    #[arg(long, env = "NOTIFICATION_RETENTION_AUDIT", value_name = "TIME", default_value = "400d")]
    pub retention_audit: Keep,
}

/// How the consumer works.
#[derive(Args, Clone, Debug)]
pub struct Consumer {
    /// Retries after the first send, where the event does not say: 3 retries are 4 sends
    #[arg(long, env = "NOTIFICATION_MAX_RETRY", value_name = "RETRIES", default_value = "3", value_parser = Whole { min: 0, max: 100 })]
    pub max_retry: u64,

    /// Delay before each retry, comma-separated; the last repeats; up to a tenth is added at random
    #[arg(long, env = "NOTIFICATION_RETRY_BACKOFF", value_name = "DURATIONS", default_value = "1m,5m,30m")]
    pub retry_backoff: Backoff,

    /// How long a consumer owns an event it took; after that another may take it over
    #[arg(long, env = "NOTIFICATION_SEND_LEASE", value_name = "DURATION", default_value = "45s", value_parser = Span { min_ms: 500, max_ms: 3_600_000 })]
    pub send_lease: Duration,

    /// Most sends at the same time
    #[arg(long, env = "NOTIFICATION_CONCURRENCY", value_name = "SENDS", default_value = "64", value_parser = Whole { min: 1, max: 4_096 })]
    pub concurrency: u64,

    /// Whether each send gets a row in notification_attempts, written with its outcome
    #[arg(long, env = "NOTIFICATION_ATTEMPTS", value_name = "WHETHER", default_value = "on", value_enum)]
    pub attempts: Switch,
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
}

/// How requests to robots are made.
#[derive(Args, Clone, Debug)]
pub struct Requests {
    /// Total time for one request to a robot, connecting (at most 3s) included
    #[arg(long, env = "NOTIFICATION_SEND_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = Span { min_ms: 100, max_ms: 300_000 })]
    pub send_timeout: Duration,

    /// Webhook hosts allowed beside oapi.dingtalk.com and oapi.dingtalk.io, comma-separated, each host or host:port
    ///
    /// Plain http is allowed only for a listed loopback host, such as 127.0.0.1:8099.
    #[arg(long, env = "NOTIFICATION_ALLOWED_HOSTS", value_name = "HOSTS", default_value = "")]
    pub allowed_hosts: HostList,
}

/// The robots and the way to them.
#[derive(Args, Clone, Debug)]
pub struct Channel {
    /// Webhook URL of the DingTalk robot named "default"
    #[arg(long, env = "DINGTALK_NOTIFICATION_WEBHOOK", hide_env_values = true, value_name = "URL", value_parser = parse_optional_secret)]
    pub dingtalk_webhook: Option<OptionalSecret>,

    /// Signing secret of that robot (starts with SEC); empty if the robot does not sign
    #[arg(long, env = "DINGTALK_NOTIFICATION_SECRET", hide_env_values = true, value_name = "SECRET", value_parser = parse_optional_secret)]
    pub dingtalk_secret: Option<OptionalSecret>,

    /// How requests are made.
    #[command(flatten)]
    pub requests: Requests,

    /// Most messages that one robot is sent in any window of this length, by all consumers together; off for no limit
    ///
    /// DingTalk shuts a robot for ten minutes when it gets more than 20 in a minute. A named robot may have another rate.
    #[arg(long, env = "NOTIFICATION_ROBOT_RATE", value_name = "COUNT/DURATION", default_value = "18/60s")]
    pub robot_rate: RobotRate,

    /// How many of these are kept free for urgent events; at most all but one
    #[arg(long, env = "NOTIFICATION_ROBOT_URGENT_RESERVE", value_name = "MESSAGES", default_value = "4", value_parser = Whole { min: 0, max: 998 })]
    pub robot_urgent_reserve: u64,

    /// What becomes of an event whose target nobody knows: it fails, or waits until there is such a target
    #[arg(long, env = "NOTIFICATION_UNKNOWN_TARGET", value_name = "WHAT", default_value = "fail", value_enum)]
    pub unknown_target: UnknownTarget,
}

/// When postbell rings the operations robot about itself.
#[derive(Args, Clone, Debug)]
pub struct Alerts {
    /// Webhook URL of the operations robot, which postbell rings when something is wrong with its own work; none: no alerts
    ///
    /// A robot of its own: not one that events go through.
    #[arg(long, env = "NOTIFICATION_OPS_WEBHOOK", hide_env_values = true, value_name = "URL", value_parser = parse_optional_secret)]
    pub ops_webhook: Option<OptionalSecret>,

    /// Signing secret of that robot (starts with SEC); empty if the robot does not sign
    #[arg(long, env = "NOTIFICATION_OPS_SECRET", hide_env_values = true, value_name = "SECRET", value_parser = parse_optional_secret)]
    pub ops_secret: Option<OptionalSecret>,

    /// How often each process looks whether there is something to ring about: one statement
    #[arg(long, env = "NOTIFICATION_ALERT_INTERVAL", value_name = "DURATION", default_value = "1m", value_parser = Span { min_ms: 100, max_ms: 3_600_000 })]
    pub alert_interval: Duration,

    /// One message about each condition in so much time, while it lasts
    #[arg(long, env = "NOTIFICATION_ALERT_WINDOW", value_name = "DURATION", default_value = "30m", value_parser = Span { min_ms: 1_000, max_ms: 30 * 86_400_000 })]
    pub alert_window: Duration,

    /// How many dead letters ring; off: none do
    #[arg(long, env = "NOTIFICATION_ALERT_DEAD_LETTERS", value_name = "EVENTS", default_value = "10")]
    pub alert_dead_letters: MostDeadLetters,

    /// Which share of the sends of so much time rings when it fails; off: none does
    ///
    /// Sends are counted in notification_attempts, so that NOTIFICATION_ATTEMPTS must be on.
    #[arg(long, env = "NOTIFICATION_ALERT_FAILURE_RATE", value_name = "SHARE/DURATION", default_value = "50%/10m")]
    pub alert_failure_rate: MostFailures,

    /// Fewer sends than this in that time are no rate
    #[arg(long, env = "NOTIFICATION_ALERT_LEAST_SENDS", value_name = "SENDS", default_value = "3", value_parser = Whole { min: 1, max: 1_000 })]
    pub alert_least_sends: u64,

    /// How late the oldest event is when it rings; off: it does not
    ///
    /// Events that wait for their robot are meant only while it could send and sends nothing.
    #[arg(long, env = "NOTIFICATION_ALERT_OLDEST_DUE", value_name = "DURATION", default_value = "10m")]
    pub alert_oldest_due: MostLate,
}

impl Alerts {
    /// The webhook of the operations robot, where one is set.
    pub fn webhook(&self) -> Option<&SecretString> {
        self.ops_webhook.as_ref().and_then(|secret| secret.0.as_ref())
    }

    /// Its signing secret, where one is set.
    pub fn secret(&self) -> Option<&SecretString> {
        self.ops_secret.as_ref().and_then(|secret| secret.0.as_ref())
    }
}

/// What becomes of an event whose target nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnknownTarget {
    /// It fails and says so.
    Fail,
    /// It waits until there is such a target.
    Wait,
}

/// What a reference such as `env:OPS_SECRET` or `file:/run/secrets/ops` leads to, without the line break at its end.
///
/// # Errors
///
/// Why there is nothing; names the reference, and nothing of what it leads to.
pub fn referenced(reference: &str) -> Result<SecretString, String> {
    /// More than a URL or a secret could need.
    const MOST: u64 = 16 * 1024;
    let found = match reference.split_once(':') {
        #[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
        Some(("env", variable)) => {
            std::env::var(variable).map_err(|_| "the variable is not set, or no text".to_owned())
        }
        Some(("file", path)) => match std::fs::metadata(path) {
            // A device has no end.
            Ok(file) if !file.is_file() => Err("it is no regular file".to_owned()),
            Ok(file) if file.len() > MOST => Err(format!("the file is larger than {} kB", MOST / 1024)),
            Ok(_) => std::fs::read_to_string(path).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        },
        _ => Err("allowed: env:VARIABLE or file:/path".to_owned()),
    };
    match found.map(|text| text.trim().to_owned()) {
        Ok(text) if text.is_empty() => Err(format!("{reference}: it is empty")),
        Ok(text) => Ok(text.into()),
        Err(why) => Err(format!("{reference}: {why}")),
    }
}

/// Where spans are sent to, of which the OpenTelemetry SDK reads the rest for itself.
#[cfg(feature = "otel")]
#[derive(Debug)]
pub struct Collector {
    /// `OTEL_SERVICE_NAME`, where it is set.
    pub service_name: Option<String>,
}

/// The collector that the environment names, if it does.
#[cfg(feature = "otel")]
pub fn collector() -> Option<Collector> {
    #[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
    let read = |variable: &str| std::env::var(variable).ok().filter(|value| !value.trim().is_empty());
    let is_off = read("OTEL_SDK_DISABLED").is_some_and(|value| value.trim().eq_ignore_ascii_case("true"));
    read("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| read("OTEL_EXPORTER_OTLP_ENDPOINT")).filter(|_| !is_off)?;
    Some(Collector { service_name: read("OTEL_SERVICE_NAME") })
}

/// Where the templates are.
#[derive(Args, Clone, Debug)]
pub struct Templates {
    /// Folder of templates: <template_id>.md for Markdown, <template_id>.txt for plain text
    #[arg(long, env = "NOTIFICATION_TEMPLATES_DIR", value_name = "DIR", default_value = "templates")]
    pub templates_dir: PathBuf,
}

/// Where a long-running process tells how it gets on.
#[derive(Args, Clone, Debug)]
pub struct Http {
    /// Address for /livez, /readyz and /metrics; port 0 picks a free one, off for none
    #[arg(long, env = "NOTIFICATION_HTTP_ADDR", value_name = "ADDR", default_value = "127.0.0.1:9464", value_parser = parse_addr)]
    pub http_addr: HttpAddr,
}

/// What a long-running process needs beside its work.
#[derive(Args, Clone, Debug)]
pub struct Service {
    /// Health and metrics.
    #[command(flatten)]
    pub http: Http,

    /// Time to finish what is in hand after SIGTERM; what is left is given back
    #[arg(long, env = "NOTIFICATION_SHUTDOWN_GRACE", value_name = "DURATION", default_value = "25s", value_parser = Span { min_ms: 0, max_ms: 3_600_000 })]
    pub shutdown_grace: Duration,
}

/// What every long-running process needs.
#[derive(Args, Clone, Debug)]
pub struct Sidecar {
    /// Where the rows are.
    #[command(flatten)]
    pub database: Database,
    /// Where the hints go.
    #[command(flatten)]
    pub queue: Queue,
    /// How long a hint is trusted.
    #[command(flatten)]
    pub hints: Hints,
    /// Health, metrics and shutdown.
    #[command(flatten)]
    pub service: Service,
    /// What it rings about itself.
    #[command(flatten)]
    pub alerts: Alerts,
}

/// What a process needs that sends.
#[derive(Args, Clone, Debug)]
pub struct Sending {
    /// How it takes and retries.
    #[command(flatten)]
    pub consumer: Consumer,
    /// How it reaches the robots.
    #[command(flatten)]
    pub channel: Channel,
    /// What it renders with.
    #[command(flatten)]
    pub templates: Templates,
}

/// Who changes something.
#[derive(Args, Clone, Debug)]
pub struct Operator {
    /// Who you are, for the audit; without it there is the database's user alone
    #[arg(long = "as", env = "NOTIFICATION_ACTOR", value_name = "NAME", value_parser = parse_actor)]
    pub actor: Option<String>,
}

impl Operator {
    /// The name, where one is set.
    pub fn actor(&self) -> Option<&str> {
        self.actor.as_deref().filter(|name| !name.is_empty())
    }
}

/// What is logged, and how.
#[derive(Args, Clone, Debug)]
pub struct Log {
    /// Log filter: error, warn, info, debug or trace, or directives such as postbell=debug,info
    #[arg(long, global = true, env = "NOTIFICATION_LOG", value_name = "FILTER", default_value = "info", value_parser = parse_filter)]
    pub log: String,

    /// Log format
    #[arg(
        long,
        global = true,
        env = "NOTIFICATION_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text",
        value_enum
    )]
    pub log_format: LogFormat,
}

/// One line of text, or one JSON object, per log event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl Channel {
    /// The webhook of the robot named `default`, where one is set.
    pub fn webhook(&self) -> Option<&SecretString> {
        self.dingtalk_webhook.as_ref().and_then(|secret| secret.0.as_ref())
    }

    /// Its signing secret, where one is set.
    pub fn secret(&self) -> Option<&SecretString> {
        self.dingtalk_secret.as_ref().and_then(|secret| secret.0.as_ref())
    }
}

impl Consumer {
    /// Time that must be left of the send lease after the worst case of one request, for recording its outcome.
    pub const LEASE_MARGIN: Duration = Duration::from_millis(500);

    /// What the send lease must have beyond the send timeout: that margin, and time to begin.
    const LEASE_SURPLUS: Duration = Duration::from_secs(1);

    /// Refuses a send lease that one slow request could outlive: another consumer would send the same event meanwhile.
    pub fn check(&self, channel: &Channel) -> Result<(), String> {
        let least = channel.requests.send_timeout + Self::LEASE_SURPLUS;
        if self.send_lease < least {
            return Err(format!(
                "NOTIFICATION_SEND_LEASE (--send-lease): given {}; allowed: at least NOTIFICATION_SEND_TIMEOUT plus {}, here {}",
                show(self.send_lease),
                show(Self::LEASE_SURPLUS),
                show(least)
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_leads_to_a_variable_or_a_file_and_says_what_is_wrong_with_it() {
        use secrecy::ExposeSecret as _;
        let file = std::env::temp_dir().join(format!("postbell-secret-{:016x}", fastrand::u64(..)));
        let reference = format!("file:{}", file.display());
        assert!(referenced(&reference).unwrap_err().starts_with(&format!("{reference}: ")));
        std::fs::write(&file, " \n").unwrap();
        assert_eq!(referenced(&reference).unwrap_err(), format!("{reference}: it is empty"));
        std::fs::write(&file, "SECtest\n").unwrap();
        assert_eq!(referenced(&reference).unwrap().expose_secret(), "SECtest");
        std::fs::write(&file, "x".repeat(20_000)).unwrap();
        assert!(referenced(&reference).unwrap_err().ends_with("larger than 16 kB"));
        std::fs::remove_file(&file).unwrap();
        assert!(referenced("file:/dev/zero").unwrap_err().ends_with("no regular file"));
        assert!(referenced("env:PATH").is_ok());
        assert!(referenced("env:POSTBELL_HAS_NO_SUCH_VARIABLE").unwrap_err().contains("is not set"));
        assert!(referenced("SECtest").unwrap_err().contains("allowed: env:VARIABLE"));
    }
}
