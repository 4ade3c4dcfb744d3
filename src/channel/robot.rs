//! A robot: where its webhook is, how it signs, and the name it goes by where its token must not be seen.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use url::Url;

use super::directory::Budgeted;
use super::hosts::Hosts;
use super::{Platform, hex};
use crate::cli::BadConfiguration;
use crate::config::{self, Rate};

/// The name of the robot in the environment.
pub(super) const DEFAULT: &str = "default";

/// The robot of one group.
#[derive(Clone)]
pub struct Robot {
    platform: Platform,
    name: String,
    webhook: SecretString,
    secret: Option<SecretString>,
    rate: Option<Rate>,
    /// Why it cannot be reached as it is configured.
    fault: Option<String>,
    /// What must not be seen of it, the longest first.
    hidden: Arc<[SecretString]>,
}

impl Robot {
    /// Stable and free of tokens: the name it is configured under, or the webhook's host and a digest of the whole. The
    /// same word in SQL, logs, metrics and message keys.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its budget, where it has one.
    pub fn rate(&self) -> Option<Rate> {
        self.rate
    }

    /// What its row must know.
    pub fn budgeted(&self) -> Budgeted {
        let channel = match self.platform {
            Platform::DingTalk => "dingtalk".to_owned(),
        };
        Budgeted { name: self.name.clone(), channel, rate: self.rate }
    }

    /// The robot behind a webhook URL; it does not sign.
    ///
    /// # Errors
    ///
    /// Why the URL is refused, without its token.
    pub(super) fn at(platform: Platform, webhook: &str, hosts: &Hosts) -> Result<Robot, String> {
        let url = Url::parse(webhook).map_err(|why| format!("not a URL ({why})"))?;
        hosts.check(&url)?;
        let webhook = url.as_str();
        webhook.parse::<http::Uri>().map_err(|_| "the URL has characters that must be percent-encoded".to_owned())?;
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let name = format!("{host}{port}#{}", hex(&Sha256::digest(webhook), 12));
        let hidden = hidden(&url, None);
        Ok(Robot { platform, name, webhook: webhook.into(), secret: None, rate: None, fault: None, hidden })
    }

    /// A robot that is configured so that it cannot be reached.
    pub(super) fn unreachable(platform: Platform, name: &str, fault: String) -> Robot {
        Robot {
            platform,
            name: name.to_owned(),
            webhook: String::new().into(),
            secret: None,
            rate: None,
            fault: Some(fault),
            hidden: Arc::default(),
        }
    }

    pub(super) fn named(self, name: &str) -> Robot {
        Robot { name: name.to_owned(), ..self }
    }

    pub(super) fn signing_with(self, secret: SecretString) -> Robot {
        let url = Url::parse(self.webhook());
        let hidden = url.map(|url| hidden(&url, Some(secret.expose_secret()))).unwrap_or_default();
        Robot { secret: Some(secret), hidden, ..self }
    }

    pub(super) fn with_rate(self, rate: Option<Rate>) -> Robot {
        Robot { rate, ..self }
    }

    /// Why it cannot be reached; free of tokens.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Whether both are the same place with the same secret.
    pub(super) fn reached_like(&self, other: &Robot) -> bool {
        self.webhook() == other.webhook() && self.secret() == other.secret() && self.fault == other.fault
    }

    pub(super) fn platform(&self) -> Platform {
        self.platform
    }

    pub(super) fn webhook(&self) -> &str {
        self.webhook.expose_secret()
    }

    pub(super) fn secret(&self) -> Option<&str> {
        self.secret.as_ref().map(ExposeSecret::expose_secret)
    }

    pub(super) fn same_webhook(&self, other: &Robot) -> bool {
        self.fault.is_none() && self.webhook() == other.webhook()
    }

    /// The text without anything that would let its reader send as this robot; `sign` is the last signature, if any.
    pub(super) fn mask<'a>(&self, text: &'a str, sign: Option<&str>) -> Cow<'a, str> {
        let hidden = self.hidden.iter().map(ExposeSecret::expose_secret).chain(sign);
        hidden.fold(Cow::Borrowed(text), |text, secret| match text.contains(secret) {
            true => Cow::Owned(text.replace(secret, "***")),
            false => text,
        })
    }
}

/// What must not be seen of a robot, as it is and as others may write it.
fn hidden(webhook: &Url, secret: Option<&str>) -> Arc<[SecretString]> {
    let mut hidden = vec![webhook.as_str().to_owned()];
    hidden.extend(secret.map(str::to_owned));
    hidden.extend(webhook.query_pairs().map(|(_, value)| value.into_owned()));
    let raw = webhook.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    hidden.extend(raw.map(|(_, value)| value.to_owned()));
    // Some gateways carry their token in the path.
    hidden.extend(webhook.path_segments().into_iter().flatten().filter(|part| part.len() > 15).map(str::to_owned));
    hidden.retain(|secret| secret.len() > 2);
    // An answer in JSON may write / as \/.
    let escaped: Vec<_> = hidden.iter().filter(|s| s.contains('/')).map(|s| s.replace('/', "\\/")).collect();
    hidden.extend(escaped);
    hidden.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    hidden.dedup();
    hidden.into_iter().map(SecretString::from).collect()
}

impl fmt::Debug for Robot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Robot").field("platform", &self.platform).field("name", &self.name).finish_non_exhaustive()
    }
}

/// A robot in the environment: which variables it comes from.
pub(super) struct Setting<'a> {
    /// The variable of the webhook, and its flag.
    pub(super) named: &'static str,
    pub(super) webhook: Option<&'a SecretString>,
    pub(super) secret: Option<&'a SecretString>,
}

/// The robot named `default`, where one is configured.
///
/// # Errors
///
/// As [`in_environment`].
pub(super) fn configured(config: &config::Channel, hosts: &Hosts) -> Result<Option<Robot>, BadConfiguration> {
    let named = "DINGTALK_NOTIFICATION_WEBHOOK (--dingtalk-webhook)";
    let setting = Setting { named, webhook: config.webhook(), secret: config.secret() };
    let robot = in_environment(&setting, hosts)?;
    Ok(robot.map(|robot| robot.named(DEFAULT).with_rate(config.robot_rate.0)))
}

/// A robot in the environment, where one is configured.
///
/// # Errors
///
/// Names the variable and what is allowed, never what was given.
pub(super) fn in_environment(setting: &Setting<'_>, hosts: &Hosts) -> Result<Option<Robot>, BadConfiguration> {
    let Some(webhook) = setting.webhook else { return Ok(None) };
    // Secrets that come from files end with a line break.
    let robot = Robot::at(Platform::DingTalk, webhook.expose_secret().trim(), hosts).map_err(|why| {
        BadConfiguration(format!(
            "{}: given a value that is not shown here: {why}; \
             allowed: https://oapi.dingtalk.com/robot/send?access_token=…, or https on a host that \
             NOTIFICATION_ALLOWED_HOSTS lists (http for a listed loopback host)",
            setting.named
        ))
    })?;
    Ok(Some(match setting.secret {
        Some(secret) => robot.signing_with(secret.expose_secret().trim().into()),
        None => robot,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echoed_token_secret_or_signature_is_masked() {
        let hosts = Hosts::new(&Default::default());
        let webhook = "https://oapi.dingtalk.com/robot/send?access_token=a%2Bb%2Fc0ffee";
        let robot = Robot::at(Platform::DingTalk, webhook, &hosts).unwrap();
        let robot = robot.signing_with("SECtest".into());
        let echo = format!(r#"{webhook} a+b/c0ffee a+b\/c0ffee a%2Bb%2Fc0ffee SECtest sIgN= access_token robot"#);
        assert_eq!(robot.mask(&echo, Some("sIgN=")), "*** *** *** *** *** *** access_token robot");
    }
}
