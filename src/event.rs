//! 1 — the row: an event as a consumer takes it, and what can become of it.

#[cfg(any(test, fuzzing))]
pub(crate) mod properties;

use std::time::Duration;

use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use uuid::Uuid;

/// An event in a consumer's hand: the row as the take returned it.
#[derive(Clone, Debug)]
pub struct Event {
    /// Primary key, and what every log line and message about the event names.
    pub id: Uuid,
    /// Insertion order.
    pub seq: i64,
    /// Such as `resume.parsed`.
    pub event_type: String,
    /// Kind of robot, such as `dingtalk`.
    pub channel: String,
    /// Named robot, or a webhook URL: never to be shown unmasked.
    pub target: String,
    /// Template, where it is not named after the event type.
    pub template_id: Option<String>,
    /// Template variables: a JSON object.
    pub payload: serde_json::Map<String, serde_json::Value>,
    /// Send options.
    pub options: Options,
    /// The caller's, carried into the stream and the logs.
    pub trace_id: Option<String>,
    /// Retries used so far.
    pub retry_count: u32,
    /// Retries allowed, where the event says.
    pub max_retry: Option<u32>,
    /// Fence: raised at each take.
    pub attempt: i32,
    /// Generation: raised at each replay.
    pub replay_count: i32,
    /// How long after its `scheduled_at` it was taken.
    pub late: Duration,
    /// Whether it goes before others, and alone.
    pub urgent: bool,
    /// The robot or pool that it has waited for, or must stay with.
    pub robot: Option<String>,
    /// Most events in a message that it may be merged into; none: as many as fit.
    pub digest_limit: Option<i32>,
}

impl Event {
    /// The template that renders this event: its own, or the one named after its type.
    pub fn template_id(&self) -> &str {
        self.template_id.as_deref().unwrap_or(&self.event_type)
    }

    /// Whether it must not ring any more.
    pub fn expired(&self, now: Timestamp) -> bool {
        self.options.expires_at.is_some_and(|expires_at| expires_at <= now)
    }
}

/// What the caller asks of the send; keys that postbell does not know are left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Mobile numbers of group members to mention; overseas numbers as `+1-1234567890`.
    #[serde(deserialize_with = "mobiles")]
    pub at_mobiles: Vec<String>,
    /// User ids of group members to mention.
    #[serde(deserialize_with = "user_ids")]
    pub at_user_ids: Vec<String>,
    /// Mention everybody.
    #[serde(deserialize_with = "all")]
    pub at_all: bool,
    /// What to do where it is unknown whether a send arrived.
    #[serde(deserialize_with = "delivery")]
    pub delivery: Delivery,
    /// From when on the event fails rather than rings.
    #[serde(deserialize_with = "time")]
    pub expires_at: Option<Timestamp>,
    /// Events of one template with the same key are merged when they must be, instead of those for the same target.
    #[serde(deserialize_with = "digest_key")]
    pub digest_key: Option<String>,
}

// Each says what is allowed and never what was given: the error is stored, shown and logged.

fn mobiles<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<String>, D::Error> {
    read(value, "at_mobiles is a list of strings")
}

fn user_ids<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<String>, D::Error> {
    read(value, "at_user_ids is a list of strings")
}

fn all<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    read(value, "at_all is true or false")
}

fn delivery<'de, D: Deserializer<'de>>(value: D) -> Result<Delivery, D::Error> {
    read(value, "delivery is \"at_least_once\" or \"at_most_once\"")
}

fn digest_key<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    read(value, "digest_key is a string")
}

fn time<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Timestamp>, D::Error> {
    let allowed = "expires_at is a time with its offset such as 2026-12-24T09:00:00+08:00";
    let text: Option<String> = read(value, allowed)?;
    text.map(|text| text.parse().map_err(|_| D::Error::custom(allowed))).transpose()
}

fn read<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D, allowed: &str) -> Result<T, D::Error> {
    T::deserialize(value).map_err(|_| D::Error::custom(allowed))
}

/// What to do where it is unknown whether a send arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Send again, with the same `msgUuid`.
    #[default]
    AtLeastOnce,
    /// Fail with that reason rather than risk a second message.
    AtMostOnce,
}

/// What became of one take, as `record` writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The platform said yes.
    Delivered {
        /// Its answer.
        response: String,
    },
    /// Not delivered, and no retry can help or none is left.
    Failed {
        /// Whose fault it is and what to do.
        error: String,
        /// The platform's answer, where there was one.
        response: Option<String>,
    },
    /// Not delivered (or not known to be); to be sent again after a delay, which uses a retry.
    Retry {
        /// From now.
        after: Duration,
        /// What went wrong.
        error: String,
        /// The platform's answer, where there was one.
        response: Option<String>,
    },
    /// It cannot be sent now, through no fault of the event's: put back, no retry used.
    Wait {
        /// From now; none: until its robot can take it.
        after: Option<Duration>,
        /// What it waits for.
        error: String,
        /// The platform's answer, where there was one.
        response: Option<String>,
    },
    /// Given back by a consumer that stops: due at once, no retry used.
    Released {
        /// Why, where a send had begun.
        error: Option<String>,
    },
}

impl Outcome {
    /// The word for it in SQL, logs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Outcome::Delivered { .. } => "delivered",
            Outcome::Failed { .. } => "failed",
            Outcome::Retry { .. } => "retry",
            Outcome::Wait { .. } => "wait",
            Outcome::Released { .. } => "released",
        }
    }

    /// What is written to `last_error`.
    pub fn error(&self) -> Option<&str> {
        match self {
            Outcome::Delivered { .. } => None,
            Outcome::Failed { error, .. } | Outcome::Retry { error, .. } | Outcome::Wait { error, .. } => Some(error),
            Outcome::Released { error } => error.as_deref(),
        }
    }

    /// What is written to `response`.
    pub fn response(&self) -> Option<&str> {
        match self {
            Outcome::Delivered { response } => Some(response),
            Outcome::Failed { response, .. } | Outcome::Retry { response, .. } | Outcome::Wait { response, .. } => {
                response.as_deref()
            }
            Outcome::Released { .. } => None,
        }
    }

    /// How long from now until the row is due again; none: until its robot can take it.
    pub fn delay(&self) -> Option<Duration> {
        match self {
            Outcome::Retry { after, .. } => Some(*after),
            Outcome::Wait { after, .. } => *after,
            Outcome::Delivered { .. } | Outcome::Failed { .. } | Outcome::Released { .. } => Some(Duration::ZERO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(json: &str) -> Result<Options, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_time_to_expire_at_has_its_offset() {
        assert_eq!(options("{}").unwrap().expires_at, None);
        assert_eq!(options(r#"{"expires_at": null}"#).unwrap().expires_at, None);
        let utc: Timestamp = "2026-12-24T01:00:00Z".parse().unwrap();
        for same in ["2026-12-24T09:00:00+08:00", "2026-12-24T01:00:00Z"] {
            assert_eq!(options(&format!(r#"{{"expires_at": "{same}"}}"#)).unwrap().expires_at, Some(utc));
        }
        for wrong in [r#""tomorrow""#, r#""2026-12-24 09:00""#, r#""""#, "1766538000", "[]"] {
            let error = options(&format!(r#"{{"expires_at": {wrong}}}"#)).unwrap_err();
            assert!(
                error.contains("expires_at is a time with its offset such as") && !error.contains("tomorrow"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_wrong_with_options_is_said_without_their_values() {
        for (wrong, allowed) in [
            (r#"{"at_mobiles": "SECRET"}"#, "at_mobiles is a list of strings"),
            (r#"{"at_mobiles": [["SECRET"]]}"#, "at_mobiles is a list of strings"),
            (r#"{"at_user_ids": {"SECRET": 1}}"#, "at_user_ids is a list of strings"),
            (r#"{"at_all": "SECRET"}"#, "at_all is true or false"),
            (r#"{"delivery": "SECRET"}"#, "delivery is \"at_least_once\" or \"at_most_once\""),
            (r#"{"delivery": {"SECRET": 1}}"#, "delivery is"),
            (r#"{"expires_at": ["SECRET"]}"#, "expires_at is a time with its offset"),
            (r#"{"digest_key": ["SECRET"]}"#, "digest_key is a string"),
        ] {
            let error = options(wrong).unwrap_err();
            assert!(error.starts_with(allowed) && !error.contains("SECRET"), "{error}");
        }
    }
}
