//! Scripted misbehaviour: rules that say which requests go wrong, how often, and how.
//!
//! As JSON, for `POST /script`, an array of:
//! ```json
//! {"match": {"contains": "Li Hua", "msgUuid": "…", "robot": "token", "nth": 2}, "times": 1, "do": "hang", "accept": true}
//! ```
//! `do` is one of `{"delay_ms": 3000}`, `"drop_before_reading"`, `"drop_after_reading"`, `"hang"`, `"html"`,
//! `{"reply": {"status": 502, "body": "", "headers": {}}}`, `{"errcode": {"code": -1, "msg": "system busy"}}`.
//! The rest may be left out; `times` may be `"forever"`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One rule. Rules are asked in order; a request that one takes is not seen by those behind it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which requests it is about.
    #[serde(default, rename = "match")]
    pub only: Match,
    /// How many of them it takes.
    #[serde(default)]
    pub times: Times,
    /// What it does.
    #[serde(rename = "do")]
    pub action: Do,
    /// Whether the robot gets the request nevertheless: what is lost is only the answer. Without it the robot never
    /// sees the request. It says nothing about a delay, which the robot always gets, and a drop before reading, which it
    /// never does.
    #[serde(default)]
    pub accept: bool,
    #[serde(skip)]
    seen: u32,
}

/// Which requests a rule is about: all that is given must hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// Stands in the body as it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// Is its `msgUuid`.
    #[serde(rename = "msgUuid", skip_serializing_if = "Option::is_none")]
    pub msg_uuid: Option<String>,
    /// Is its access token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub robot: Option<String>,
    /// The first that is taken of those that match otherwise, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nth: Option<u32>,
}

/// How often a rule applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Value", into = "serde_json::Value")]
pub enum Times {
    /// To this many requests.
    Count(u32),
    /// To all, until the script is cleared.
    Forever,
}

/// What goes wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Do {
    /// The robot gets it at once and answers this much later.
    DelayMs(u64),
    /// The connection is closed before the body is read.
    DropBeforeReading,
    /// The connection is closed without an answer.
    DropAfterReading,
    /// There is no answer until the sandbox stops.
    Hang,
    /// A gateway's page with status 200.
    Html,
    /// Any answer.
    Reply {
        /// HTTP status.
        status: u16,
        /// Body.
        #[serde(default)]
        body: String,
        /// Headers.
        #[serde(default)]
        headers: BTreeMap<String, String>,
    },
    /// The platform's own form of an error, with status 200.
    Errcode {
        /// `errcode`.
        code: i64,
        /// `errmsg`.
        msg: String,
    },
}

impl Rule {
    /// A rule about the next request.
    pub fn new(action: Do) -> Rule {
        Rule { only: Match::default(), times: Times::default(), action, accept: false, seen: 0 }
    }

    /// Applies to so many requests.
    #[must_use]
    pub fn times(self, count: u32) -> Rule {
        Rule { times: Times::Count(count), ..self }
    }

    /// Applies until the script is cleared.
    #[must_use]
    pub fn forever(self) -> Rule {
        Rule { times: Times::Forever, ..self }
    }

    /// Only requests with this text in the body.
    #[must_use]
    pub fn containing(mut self, text: impl Into<String>) -> Rule {
        self.only.contains = Some(text.into());
        self
    }

    /// Only requests with this `msgUuid`.
    #[must_use]
    pub fn msg_uuid(mut self, value: impl Into<String>) -> Rule {
        self.only.msg_uuid = Some(value.into());
        self
    }

    /// Only requests to the robot with this access token.
    #[must_use]
    pub fn robot(mut self, token: impl Into<String>) -> Rule {
        self.only.robot = Some(token.into());
        self
    }

    /// From the nth of the requests that match otherwise, counted from 1.
    #[must_use]
    pub fn nth(mut self, nth: u32) -> Rule {
        self.only.nth = Some(nth);
        self
    }

    /// The robot gets the request; only its answer is lost.
    #[must_use]
    pub fn accepted(self) -> Rule {
        Rule { accept: true, ..self }
    }

    /// Whether the robot gets to see a request that this rule takes.
    pub(super) fn reaches_robot(&self) -> bool {
        self.accept || matches!(self.action, Do::DelayMs(_))
    }

    /// Refuses what cannot be meant.
    pub(super) fn check(&self) -> Result<(), String> {
        let before_reading = matches!(self.action, Do::DropBeforeReading);
        if before_reading && (self.accept || self.only.contains.is_some() || self.only.msg_uuid.is_some()) {
            return Err("drop_before_reading knows no body: it takes no accept, contains or msgUuid".to_owned());
        }
        if self.only.nth == Some(0) || self.times == Times::Count(0) {
            return Err("nth and times count from 1".to_owned());
        }
        if let Do::Reply { status, headers, .. } = &self.action {
            // Below 200 is not an answer yet.
            if !(200..=599).contains(status) {
                return Err(format!("status {status}: allowed are 200 to 599"));
            }
            for (name, value) in headers {
                let valid = http::HeaderName::try_from(name).is_ok() && http::HeaderValue::try_from(value).is_ok();
                if !valid {
                    return Err(format!("header {name:?} cannot be sent"));
                }
            }
        }
        Ok(())
    }

    /// Counts a request, and says whether the rule takes it.
    fn takes(&mut self, request: &Facts<'_>) -> bool {
        let only = &self.only;
        let matches = only.robot.as_deref().is_none_or(|robot| request.token == Some(robot))
            && only.msg_uuid.as_deref().is_none_or(|value| request.msg_uuid == Some(value))
            && only.contains.as_deref().is_none_or(|text| String::from_utf8_lossy(request.body).contains(text));
        if !matches {
            return false;
        }
        self.seen = self.seen.saturating_add(1);
        let first = only.nth.unwrap_or(1);
        self.seen >= first
            && match self.times {
                Times::Count(count) => self.seen - first < count,
                Times::Forever => true,
            }
    }
}

impl Default for Times {
    fn default() -> Self {
        Times::Count(1)
    }
}

impl TryFrom<serde_json::Value> for Times {
    type Error = &'static str;

    fn try_from(value: serde_json::Value) -> Result<Self, Self::Error> {
        if value == "forever" {
            return Ok(Times::Forever);
        }
        let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
        count.map(Times::Count).ok_or("times is a number or \"forever\"")
    }
}

impl From<Times> for serde_json::Value {
    fn from(times: Times) -> Self {
        match times {
            Times::Count(count) => count.into(),
            Times::Forever => "forever".into(),
        }
    }
}

impl Do {
    /// Its name in a script.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Do::DelayMs(_) => "delay_ms",
            Do::DropBeforeReading => "drop_before_reading",
            Do::DropAfterReading => "drop_after_reading",
            Do::Hang => "hang",
            Do::Html => "html",
            Do::Reply { .. } => "reply",
            Do::Errcode { .. } => "errcode",
        }
    }
}

/// What rules look at.
#[derive(Clone, Copy, Default)]
pub(super) struct Facts<'a> {
    pub(super) token: Option<&'a str>,
    pub(super) msg_uuid: Option<&'a str>,
    pub(super) body: &'a [u8],
}

/// The rules that are there.
#[derive(Debug, Default)]
pub(super) struct Script(Vec<Rule>);

impl Script {
    pub(super) fn add(&mut self, rules: impl IntoIterator<Item = Rule>) {
        self.0.extend(rules);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn rules(&self) -> &[Rule] {
        &self.0
    }

    /// Whether the connection is to be closed before the body is read.
    pub(super) fn drops_unread(&mut self, request: &Facts<'_>) -> bool {
        self.0.iter_mut().filter(|rule| matches!(rule.action, Do::DropBeforeReading)).any(|rule| rule.takes(request))
    }

    /// The rule for a request that was read.
    pub(super) fn next(&mut self, request: &Facts<'_>) -> Option<Rule> {
        let mut rules = self.0.iter_mut().filter(|rule| !matches!(rule.action, Do::DropBeforeReading));
        rules.find_map(|rule| rule.takes(request).then(|| rule.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(script: &mut Script, body: &str) -> Option<&'static str> {
        script.next(&Facts { body: body.as_bytes(), ..Facts::default() }).map(|rule| rule.action.name())
    }

    #[test]
    fn rules_follow_each_other_and_are_used_up() {
        let mut script = Script::default();
        script.add([Rule::new(Do::Hang), Rule::new(Do::Html).times(2)]);
        let all: Vec<_> = (0..4).map(|_| taken(&mut script, "")).collect();
        assert_eq!(all, [Some("hang"), Some("html"), Some("html"), None]);
    }

    #[test]
    fn nth_counts_only_what_matches_otherwise() {
        let mut script = Script::default();
        script.add([Rule::new(Do::Hang).containing("a").nth(2).times(2)]);
        let all: Vec<_> = ["a", "b", "ba", "ab", "a"].map(|body| taken(&mut script, body)).into();
        assert_eq!(all, [None, None, Some("hang"), Some("hang"), None]);
    }

    #[test]
    fn every_action_can_be_written_as_json() {
        let json = r#"[{"do":{"delay_ms":5}},{"do":"drop_before_reading"},{"do":"drop_after_reading","accept":true},
            {"do":"hang","times":"forever"},{"do":"html","match":{"msgUuid":"m","robot":"r","nth":2}},
            {"do":{"reply":{"status":502}}},{"do":{"errcode":{"code":-1,"msg":"system busy"}},"times":3}]"#;
        let rules: Vec<Rule> = serde_json::from_str(json).unwrap();
        assert!(rules.iter().all(|rule| rule.check().is_ok()));
        assert_eq!(rules[3].times, Times::Forever);
        assert!(serde_json::from_str::<Rule>(r#"{"do":"explode"}"#).is_err());
    }

    #[test]
    fn rules_that_cannot_be_meant_are_refused() {
        let reply = |status| Do::Reply { status, body: String::new(), headers: BTreeMap::new() };
        for rule in [
            Rule::new(Do::DropBeforeReading).accepted(),
            Rule::new(Do::DropBeforeReading).containing("x"),
            Rule::new(Do::Hang).nth(0),
            Rule::new(Do::Hang).times(0),
            Rule::new(reply(100)),
        ] {
            assert!(rule.check().is_err(), "{rule:?}");
        }
    }
}
