//! The robots as this process would reach them, and whether one rings.

use std::time::Duration;

use super::Finding;
use crate::channel::{Channels, Proxy, Target};
use crate::commands::robots as command;
use crate::config;

const WHAT: &str = "robots";

/// How long a test message may take.
const RING: Duration = Duration::from_secs(30);

/// Judges the robot in the environment, and the rows of `notification_channels` where they could be read.
pub(super) fn judge(config: &config::Channel, targets: Option<&[Target]>) -> Vec<Finding> {
    let channels = match Channels::new(config, Proxy::from_env()) {
        Ok(channels) => channels,
        Err(error) => {
            return vec![Finding::fail(WHAT, error.to_string(), "correct the variable; no consumer starts like this")];
        }
    };
    let rows = targets.unwrap_or_default();
    channels.refresh(Some(rows.to_vec()));
    let mut findings = Vec::new();
    let names: Vec<String> = channels.budgeted().into_iter().map(|robot| robot.name).collect();
    if names.is_empty() {
        findings.push(Finding::fail(
            WHAT,
            "there is none",
            "set DINGTALK_NOTIFICATION_WEBHOOK, or postbell robots add NAME --webhook env:VARIABLE",
        ));
        return findings;
    }
    for (name, fault) in channels.faults() {
        findings.push(Finding::fail(
            WHAT,
            format!("{name}: {fault}"),
            format!("mend the reference where consumers run, or postbell robots add {name} --replace …"),
        ));
    }
    for target in rows {
        let members = target.robots.iter().flatten();
        let missing: Vec<&str> = members.filter(|member| !names.contains(member)).map(String::as_str).collect();
        if !missing.is_empty() {
            findings.push(Finding::fail(
                WHAT,
                format!("{}: a pool whose robots are not there: {}", target.name, missing.join(", ")),
                format!("postbell robots add each of them, or postbell robots add {} --replace --pool …", target.name),
            ));
        }
        if !target.enabled {
            findings.push(Finding::warn(
                WHAT,
                format!("{}: disabled, its events wait", target.name),
                format!("update notification_channels set enabled = true where name = '{}'", target.name),
            ));
        }
    }
    if !names.iter().any(|name| name == "default") {
        findings.push(Finding::warn(
            WHAT,
            "no robot is named default: events that name no target fail",
            "set DINGTALK_NOTIFICATION_WEBHOOK, or postbell robots add default --webhook env:VARIABLE",
        ));
    }
    match (config.webhook(), config.secret()) {
        (None, Some(_)) => findings.push(Finding::warn(
            WHAT,
            "DINGTALK_NOTIFICATION_SECRET is set, and DINGTALK_NOTIFICATION_WEBHOOK is not",
            "set both, or neither",
        )),
        (Some(_), Some(secret)) if !secrecy::ExposeSecret::expose_secret(secret).trim().starts_with("SEC") => {
            findings.push(Finding::warn(
                WHAT,
                "default: its secret does not begin with SEC, as DingTalk's do",
                "copy the secret again from the robot's settings (DINGTALK_NOTIFICATION_SECRET)",
            ));
        }
        (_, _) => {}
    }
    if findings.is_empty() {
        findings.push(Finding::ok(WHAT, format!("{} can be reached as configured", names.join(", "))));
    }
    findings
}

/// Rings one through the running sidecar.
pub(super) async fn ring(database: &config::Database, robot: &str) -> Finding {
    const WHAT: &str = "test message";
    match command::ring(database, robot, RING).await {
        Ok(()) => Finding::ok(WHAT, "delivered"),
        Err(error) => {
            let said = format!("{error:#}");
            let mut lines = said.lines().map(str::trim);
            let found = lines.next().unwrap_or_default().to_owned();
            let more: Vec<&str> = lines.collect();
            let remedy =
                if more.is_empty() { "postbell robots list; the consumer's log".to_owned() } else { more.join("; ") };
            Finding::fail(WHAT, found, remedy)
        }
    }
}
