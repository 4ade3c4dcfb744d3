//! Which robots there are: the one in the environment, and the rows of `notification_channels`. What webhooks and secrets
//! are is read anew again and again, so that a corrected file counts without a restart.

use std::collections::{BTreeMap, BTreeSet};

use secrecy::ExposeSecret as _;

use super::hosts::Hosts;
use super::robot::{DEFAULT, Robot};
use super::{Lane, Platform};
use crate::config::{self, Rate, RobotRate};
use crate::message::Mentions;

/// A row of `notification_channels`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What events name it by.
    pub name: String,
    /// Kind of robot.
    pub channel: String,
    /// Where its webhook URL is.
    pub webhook: Option<String>,
    /// Where its signing secret is.
    pub secret: Option<String>,
    /// Instead of a webhook: the robots of a pool.
    pub robots: Option<Vec<String>>,
    /// Its own budget.
    pub rate: Option<String>,
    /// Whether it is sent to.
    pub enabled: bool,
    /// Whom to mention where nobody else is.
    pub mentions: Mentions,
}

/// A robot's row in `notification_robots`, as far as it follows from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budgeted {
    /// The robot.
    pub name: String,
    /// Its kind.
    pub channel: String,
    /// Its budget.
    pub rate: Option<Rate>,
}

/// All robots and pools that have names.
#[derive(Debug, Default)]
pub(super) struct Directory {
    robots: BTreeMap<String, Entry>,
    pools: BTreeMap<String, Pool>,
}

#[derive(Debug)]
struct Entry {
    robot: Robot,
    enabled: bool,
    mentions: Mentions,
}

#[derive(Debug)]
struct Pool {
    robots: Vec<String>,
    enabled: bool,
    mentions: Mentions,
}

impl Directory {
    /// Follows every reference of the rows. The robot in the environment is reached as the environment says.
    pub(super) fn read(default: Option<&Robot>, targets: &[Target], hosts: &Hosts, rate: Option<Rate>) -> Directory {
        let mut directory = Directory::default();
        for target in targets {
            let Target { name, enabled, mentions, .. } = target;
            let (enabled, mentions) = (*enabled, mentions.clone());
            match &target.robots {
                Some(robots) => {
                    let robots = robots.clone();
                    directory.pools.insert(name.clone(), Pool { robots, enabled, mentions });
                }
                None => {
                    let robot = robot(target, hosts, rate);
                    directory.robots.insert(name.clone(), Entry { robot, enabled, mentions });
                }
            }
        }
        if let Some(robot) = default {
            // A row of its name says all but how it is reached.
            let row = targets.iter().find(|target| target.name == DEFAULT);
            let entry = Entry {
                robot: robot.clone().with_rate(row.map_or(robot.rate(), |row| rate_of(row, rate))),
                enabled: row.is_none_or(|row| row.enabled),
                mentions: row.map(|row| row.mentions.clone()).unwrap_or_default(),
            };
            directory.robots.insert(DEFAULT.to_owned(), entry);
        }
        directory
    }

    /// The way to a robot or a pool; none: nobody knows it. One without robots, for it is disabled, is a lane to wait in.
    pub(super) fn lane(&self, name: &str) -> Option<Lane> {
        if let Some(Entry { robot, enabled, mentions }) = self.robots.get(name) {
            let robots = if *enabled { vec![robot.clone()] } else { vec![] };
            return Some(Lane { name: name.to_owned(), robots, mentions: mentions.clone() });
        }
        let Pool { robots, enabled, mentions } = self.pools.get(name)?;
        let members =
            robots.iter().filter_map(|member| self.robots.get(member)).filter(|entry| *enabled && entry.enabled);
        let robots = members.map(|entry| entry.robot.clone()).collect();
        Some(Lane { name: name.to_owned(), robots, mentions: mentions.clone() })
    }

    /// The robot with this webhook, where it has a name.
    pub(super) fn by_webhook(&self, robot: &Robot) -> Option<&Robot> {
        self.robots.values().map(|entry| &entry.robot).find(|known| known.same_webhook(robot))
    }

    /// What `notification_robots` must know.
    pub(super) fn budgeted(&self) -> Vec<Budgeted> {
        self.robots.values().map(|entry| entry.robot.budgeted()).collect()
    }

    /// The robots that cannot be reached as they are configured, and why.
    pub(super) fn faults(&self) -> Vec<(String, String)> {
        let faults =
            self.robots.iter().filter_map(|(name, entry)| Some((name.clone(), entry.robot.fault()?.to_owned())));
        faults.collect()
    }

    /// The robots that are reached otherwise than before, or were not there.
    pub(super) fn changed_since(&self, before: &Directory) -> Vec<String> {
        let changed = |(name, entry): &(&String, &Entry)| {
            before.robots.get(*name).is_none_or(|known| !known.robot.reached_like(&entry.robot))
        };
        self.robots.iter().filter(changed).map(|(name, _)| name.clone()).collect()
    }

    /// Whether this robot is reached otherwise by now.
    pub(super) fn is_outdated(&self, robot: &Robot) -> bool {
        self.robots.get(robot.name()).is_some_and(|entry| !entry.robot.reached_like(robot))
    }

    /// Every name, for the reason why another is not known.
    pub(super) fn names(&self) -> BTreeSet<&str> {
        self.robots.keys().chain(self.pools.keys()).map(String::as_str).collect()
    }
}

/// A row's own rate, or the one that is for all.
fn rate_of(target: &Target, rate: Option<Rate>) -> Option<Rate> {
    match target.rate.as_deref().map(str::parse::<RobotRate>) {
        Some(Ok(own)) => own.0,
        // A window that is too long: a budget is better than none.
        Some(Err(_)) | None => rate,
    }
}

/// The robot that a row describes; one that cannot be reached as it is described says why when it is sent to.
fn robot(target: &Target, hosts: &Hosts, rate: Option<Rate>) -> Robot {
    let Target { name, webhook, secret, .. } = target;
    let rate = rate_of(target, rate);
    let found = config::referenced(webhook.as_deref().unwrap_or_default())
        .map_err(|why| format!("its webhook cannot be read: {why}"))
        .and_then(|webhook| {
            Robot::at(Platform::DingTalk, webhook.expose_secret(), hosts).map_err(|why| format!("its webhook: {why}"))
        })
        .and_then(|robot| match secret {
            Some(secret) => match config::referenced(secret) {
                Ok(secret) => Ok(robot.signing_with(secret)),
                Err(why) => Err(format!("its secret cannot be read: {why}")),
            },
            None => Ok(robot),
        });
    match found {
        Ok(robot) => robot.named(name).with_rate(rate),
        Err(why) => Robot::unreachable(Platform::DingTalk, name, why).with_rate(rate),
    }
}
