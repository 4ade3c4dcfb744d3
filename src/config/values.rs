//! Values of settings: what is allowed, and how it is read.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;

/// How long something stays; none: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep(pub Option<Duration>);

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const HOUR_MS: u64 = 3_600_000;
        const MOST_DAYS: u64 = 36_500;
        if text == "off" {
            return Ok(Keep(None));
        }
        let read = match text.strip_suffix('d') {
            Some(days) => Whole { min: 1, max: MOST_DAYS }.read(days).map(|days| Duration::from_secs(days * 86_400)),
            None => Span { min_ms: HOUR_MS, max_ms: MOST_DAYS * 24 * HOUR_MS }.read(text),
        };
        let allowed =
            |_| format!("days such as 30d (at most {MOST_DAYS}d), a duration of at least an hour such as 12h, or off");
        read.map(|keep| Keep(Some(keep))).map_err(allowed)
    }
}

/// The budget of a robot, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RobotRate(pub Option<Rate>);

/// So many messages in any window of this length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// 1 to 999.
    pub limit: u16,
    /// Up to a day.
    pub window: Duration,
}

impl FromStr for RobotRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(RobotRate(None));
        }
        let allowed = || "a count from 1 to 999 and a duration from 100ms to 1 day, such as 18/60s, or off".to_owned();
        let (limit, window) = text.split_once('/').ok_or_else(allowed)?;
        let limit = Whole { min: 1, max: 999 }.read(limit.trim()).map_err(|_| allowed())?;
        let window = Span { min_ms: 100, max_ms: 86_400_000 }.read(window.trim()).map_err(|_| allowed())?;
        Ok(RobotRate(Some(Rate { limit: u16::try_from(limit).map_err(|_| allowed())?, window })))
    }
}

/// So many dead letters are too many; none: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MostDeadLetters(pub Option<u32>);

impl FromStr for MostDeadLetters {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(MostDeadLetters(None));
        }
        let count = Whole { min: 1, max: 100_000 }.read(text).map_err(|allowed| format!("{allowed}, or off"))?;
        Ok(MostDeadLetters(u32::try_from(count).ok()))
    }
}

/// Such a share of the sends of so much time is too much; none: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MostFailures(pub Option<FailureRate>);

/// A share of the sends of so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureRate {
    /// 1 to 100.
    pub percent: u8,
    /// Up to a day.
    pub period: Duration,
}

impl FromStr for MostFailures {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(MostFailures(None));
        }
        let allowed = || "a share from 1% to 100% and a duration from 1s to 1 day, such as 50%/10m, or off".to_owned();
        let (share, period) = text.split_once("%/").ok_or_else(allowed)?;
        let percent = Whole { min: 1, max: 100 }.read(share.trim()).map_err(|_| allowed())?;
        let period = Span { min_ms: 1_000, max_ms: 86_400_000 }.read(period.trim()).map_err(|_| allowed())?;
        Ok(MostFailures(Some(FailureRate { percent: u8::try_from(percent).map_err(|_| allowed())?, period })))
    }
}

/// So late is too late; none: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MostLate(pub Option<Duration>);

impl FromStr for MostLate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(MostLate(None));
        }
        let span = Span { min_ms: 1_000, max_ms: 30 * 86_400_000 };
        span.read(text).map(|late| MostLate(Some(late))).map_err(|allowed| format!("{allowed}, or off"))
    }
}

/// Delays before the first, second, … retry; the last one repeats. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff(pub Vec<Duration>);

impl FromStr for Backoff {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let span = Span { min_ms: 0, max_ms: 30 * 86_400_000 };
        text.split(',')
            .map(|part| span.read(part.trim()))
            .collect::<Result<Vec<_>, _>>()
            .map(Backoff)
            .map_err(|_| "comma-separated durations of at most 30 days each, such as 1m,5m,30m".to_owned())
    }
}

/// Hosts, each with or without a port, as the operator listed them; lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostList(pub Vec<String>);

impl FromStr for HostList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hosts = text.split(',').map(str::trim).filter(|host| !host.is_empty());
        hosts
            .map(|host| {
                let url = url::Url::parse(&format!("https://{host}/"));
                // What a URL parser would take out, or read as something behind the host, would list another host.
                let plain = host.chars().all(|c| c.is_alphanumeric() || ".-_:[]".contains(c));
                if plain && url.is_ok() {
                    Ok(host.to_ascii_lowercase())
                } else {
                    Err("comma-separated hosts, each host or host:port, without scheme, path or wildcard".to_owned())
                }
            })
            .collect::<Result<Vec<_>, _>>()
            .map(HostList)
    }
}

/// Where health and metrics are served, if anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpAddr {
    /// Nowhere.
    Off,
    /// At this address.
    At(SocketAddr),
}

/// A secret that an empty value leaves unset, as compose files and `.env` files write it.
#[derive(Clone, Debug)]
pub struct OptionalSecret(pub(super) Option<SecretString>);

/// A duration as people write it: `90s` is `1m 30s`.
pub fn show(duration: Duration) -> String {
    jiff::SignedDuration::try_from(duration).map_or_else(|_| format!("{duration:?}"), |span| format!("{span:#}"))
}

/// Reads a whole number within bounds.
#[derive(Clone, Debug)]
pub(super) struct Whole {
    pub(super) min: u64,
    pub(super) max: u64,
}

impl Whole {
    fn read(&self, text: &str) -> Result<u64, String> {
        match text.parse() {
            Ok(value) if (self.min..=self.max).contains(&value) => Ok(value),
            _ => Err(format!("a whole number from {} to {}", self.min, self.max)),
        }
    }
}

/// Reads a duration within bounds, such as `500ms`, `45s` or `1m 30s`.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) min_ms: u64,
    pub(super) max_ms: u64,
}

impl Span {
    fn read(&self, text: &str) -> Result<Duration, String> {
        let allowed = || {
            format!(
                "a duration from {} to {}, such as 500ms, 45s or 5m",
                show(Duration::from_millis(self.min_ms)),
                show(Duration::from_millis(self.max_ms))
            )
        };
        let span: jiff::SignedDuration = text.parse().map_err(|_| allowed())?;
        let duration = Duration::try_from(span).map_err(|_| allowed())?;
        let bounds = Duration::from_millis(self.min_ms)..=Duration::from_millis(self.max_ms);
        if bounds.contains(&duration) { Ok(duration) } else { Err(allowed()) }
    }
}

/// Makes clap use a reader above, so that the error text says what is allowed.
macro_rules! value_parser {
    ($reader:ty, $value:ty) => {
        impl clap::builder::TypedValueParser for $reader {
            type Value = $value;

            fn parse_ref(
                &self,
                command: &clap::Command,
                arg: Option<&clap::Arg>,
                value: &std::ffi::OsStr,
            ) -> Result<$value, clap::Error> {
                let reader = self.clone();
                let parse = move |text: &str| reader.read(text);
                clap::builder::TypedValueParser::parse_ref(&parse, command, arg, value)
            }
        }
    };
}
value_parser!(Whole, u64);
value_parser!(Span, Duration);

pub(super) fn parse_secret(text: &str) -> Result<SecretString, String> {
    if text.is_empty() { Err("a PostgreSQL connection string".to_owned()) } else { Ok(text.into()) }
}

pub(super) fn parse_optional_secret(text: &str) -> Result<OptionalSecret, String> {
    Ok(OptionalSecret((!text.is_empty()).then(|| text.into())))
}

pub(super) fn parse_redis_url(text: &str) -> Result<SecretString, String> {
    use redis::IntoConnectionInfo;
    match text.into_connection_info() {
        Ok(_) => Ok(text.into()),
        Err(_) => Err("redis://[[user]:password@]host[:port][/db], rediss:// for TLS, or unix:///path".to_owned()),
    }
}

pub(super) fn parse_key(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 512 || text.chars().any(char::is_control) {
        return Err("1 to 512 printable characters".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn parse_actor(text: &str) -> Result<String, String> {
    if text.chars().count() > 128 || text.chars().any(char::is_control) {
        return Err("at most 128 printable characters".to_owned());
    }
    Ok(text.trim().to_owned())
}

pub(super) fn parse_addr(text: &str) -> Result<HttpAddr, String> {
    if text.is_empty() || text == "off" {
        return Ok(HttpAddr::Off);
    }
    text.parse()
        .map(HttpAddr::At)
        .map_err(|_| "an address and port such as 127.0.0.1:9464 or [::]:9464, or off".to_owned())
}

pub(super) fn parse_filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("error, warn, info, debug or trace, or directives such as postbell=debug,info".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_outside_their_bounds_are_refused_with_what_is_allowed() {
        let span = Span { min_ms: 1_000, max_ms: 60_000 };
        assert_eq!(span.read("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(span.read("1500ms"), Ok(Duration::from_millis(1500)));
        for refused in ["", "5", "-5s", "61s", "999ms", "soon"] {
            assert_eq!(
                span.read(refused),
                Err("a duration from 1s to 1m, such as 500ms, 45s or 5m".to_owned()),
                "{refused}"
            );
        }
    }

    #[test]
    fn backoff_is_a_list_that_is_never_empty() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        assert_eq!("1m, 5m,30m".parse(), Ok(Backoff(vec![minutes(1), minutes(5), minutes(30)])));
        assert!("".parse::<Backoff>().is_err());
        assert!("1m,,5m".parse::<Backoff>().is_err());
    }

    #[test]
    fn a_rate_is_a_count_in_a_window_or_off() {
        let rate = |limit, seconds| Ok(RobotRate(Some(Rate { limit, window: Duration::from_secs(seconds) })));
        assert_eq!("18/60s".parse(), rate(18, 60));
        assert_eq!("100/1m".parse(), rate(100, 60));
        assert_eq!("off".parse(), Ok(RobotRate(None)));
        for refused in ["", "18", "0/60s", "1000/60s", "18/0s", "18/2d", "18/60", "/60s", "many/60s", "-1/60s", "on"] {
            assert!(refused.parse::<RobotRate>().unwrap_err().contains("18/60s, or off"), "{refused}");
        }
    }

    #[test]
    fn thresholds_of_alerts_are_numbers_with_bounds_or_off() {
        assert_eq!("10".parse(), Ok(MostDeadLetters(Some(10))));
        assert_eq!("off".parse(), Ok(MostDeadLetters(None)));
        let rate = FailureRate { percent: 50, period: Duration::from_secs(600) };
        assert_eq!("50%/10m".parse(), Ok(MostFailures(Some(rate))));
        assert_eq!("off".parse(), Ok(MostFailures(None)));
        assert_eq!("90s".parse(), Ok(MostLate(Some(Duration::from_secs(90)))));
        assert_eq!("off".parse(), Ok(MostLate(None)));
        for refused in ["", "0", "-1", "many", "100001"] {
            assert!(refused.parse::<MostDeadLetters>().unwrap_err().ends_with(", or off"), "{refused}");
        }
        for refused in ["", "50", "50%", "50/10m", "0%/10m", "101%/10m", "50%/0s", "50%/2d", "%/10m"] {
            assert!(refused.parse::<MostFailures>().unwrap_err().ends_with("50%/10m, or off"), "{refused}");
        }
        for refused in ["", "10", "0s", "-1m", "late"] {
            assert!(refused.parse::<MostLate>().unwrap_err().ends_with(", or off"), "{refused}");
        }
    }

    #[test]
    fn rows_stay_for_days_or_hours_or_for_ever() {
        let hours = |n: u64| Ok(Keep(Some(Duration::from_secs(n * 3_600))));
        assert_eq!("30d".parse(), hours(720));
        assert_eq!("36500d".parse(), hours(876_000));
        assert_eq!("12h".parse(), hours(12));
        assert_eq!("off".parse(), Ok(Keep(None)));
        for refused in ["", "0d", "d", "30", "59m", "-1d", "1.5d", "36501d", "for ever"] {
            assert!(refused.parse::<Keep>().unwrap_err().ends_with(", or off"), "{refused}");
        }
    }

    #[test]
    fn hosts_come_without_scheme_path_or_credentials() {
        assert_eq!("".parse(), Ok(HostList::default()));
        assert_eq!(
            "Robots.example:8443, [::1]:80".parse(),
            Ok(HostList(vec!["robots.example:8443".into(), "[::1]:80".into()]))
        );
        for refused in [
            "https://a.example",
            "a.example/path",
            "u:p@a.example",
            "a b",
            "a#b",
            "a?b",
            "a\\b",
            "a\tb",
            "*.a.example",
            "a:b",
        ] {
            assert!(refused.parse::<HostList>().is_err(), "{refused}");
        }
    }
}
