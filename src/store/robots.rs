//! Robots: who may send now, what waits, and what an answer means for those who come after.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::{Store, query, storable};
use crate::channel::{Budgeted, Target};
use crate::message::Mentions;

/// How long after it was paused, or last tried, a robot that postbell paused is tried again.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// One event that asks for admission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The row.
    pub id: Uuid,
    /// Its take.
    pub attempt: i32,
    /// What it may be merged with while it waits; none: nothing.
    pub digest_key: Option<String>,
    /// The same for all that go in one message.
    pub unit: Uuid,
}

/// What became of those that asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admissions {
    /// Each was admitted or parked.
    Judged(Vec<Admission>),
    /// Nothing was done: somebody else holds the row of a robot.
    Busy,
    /// Nothing was done: a robot has no row.
    Missing,
}

/// What became of one that asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The row.
    pub id: Uuid,
    /// Where it may be sent; none: it is parked.
    pub granted: Option<Granted>,
}

/// The leave to send one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Through this robot.
    pub robot: String,
    /// The place of its budget that is held for it; none where it has no budget.
    pub slot: Option<Timestamp>,
    /// Whether the robot is paused, and this is to find out whether it works again.
    pub probes: bool,
    /// Whether what waits is to be merged into it.
    pub merges: bool,
}

/// What one send leaves behind at its robot.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    /// The robot.
    pub robot: String,
    /// The place of its budget that was held.
    pub slot: Option<Timestamp>,
    /// Whether a request may have left this machine.
    pub has_left: bool,
    /// What the answer says about the robot.
    pub ruling: Option<Ruling>,
    /// In what words.
    pub reason: Option<String>,
}

/// What an answer says about its robot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// Its settings are wrong: nothing more is sent but a probe now and then.
    Pause,
    /// It needs a rest.
    Cool(Duration),
    /// All robots need a rest.
    Block(Duration),
    /// It works again.
    Resume,
}

/// What is new about a robot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The robot.
    pub robot: String,
    /// `paused`, `resumed` or `cooling`; `busy` where nothing was noted, for somebody else holds its row.
    pub kind: String,
    /// Why.
    pub reason: String,
}

impl Change {
    fn of(row: &tokio_postgres::Row) -> Option<Change> {
        let reason: Option<String> = row.get("reason");
        let robot: Option<String> = row.get("name");
        Some(Change { robot: robot?, kind: row.get("change"), reason: reason.unwrap_or_default() })
    }
}

impl Store {
    /// Asks for leave to send many events through one lane. Those that do not get it are parked; those that do not come
    /// back are held by somebody's transaction, or not this consumer's any more. `hold` ends when no request can be
    /// written any more.
    pub async fn admit(&self, lane: &str, robots: &[&str], asks: &[Ask], hold: Duration) -> anyhow::Result<Admissions> {
        let ids: Vec<Uuid> = asks.iter().map(|ask| ask.id).collect();
        let attempts: Vec<i32> = asks.iter().map(|ask| ask.attempt).collect();
        let keys: Vec<Option<&str>> = asks.iter().map(|ask| ask.digest_key.as_deref()).collect();
        let units: Vec<Uuid> = asks.iter().map(|ask| ask.unit).collect();
        let (hold, probe) = (hold.as_secs_f64(), PROBE_INTERVAL.as_secs_f64());
        let query = query!("admit");
        let rows = self.rows("admit", query, &[&lane, &robots, &ids, &attempts, &keys, &units, &hold, &probe]).await?;
        let admission = |row: &tokio_postgres::Row| Admission {
            id: row.get("id"),
            granted: row.get::<_, Option<String>>("robot").map(|robot| Granted {
                robot,
                slot: row.get("slot"),
                probes: row.get("probes"),
                merges: row.get("merges"),
            }),
        };
        Ok(match rows.first().and_then(|row| row.get::<_, Option<&str>>("why")) {
            Some("missing") => Admissions::Missing,
            Some(_) => Admissions::Busy,
            None => Admissions::Judged(rows.iter().map(admission).collect()),
        })
    }

    /// One more place of a robot's budget, where there is one.
    pub async fn admit_again(&self, robot: &str, hold: Duration) -> anyhow::Result<Option<Timestamp>> {
        let rows = self.rows("admit_again", query!("admit_again"), &[&robot, &hold.as_secs_f64()]).await?;
        Ok(rows.first().map(|row| row.get("slot")))
    }

    /// Notes what sends leave behind, and says what is new.
    pub async fn settle(&self, settled: &[Settled]) -> anyhow::Result<Vec<Change>> {
        let robots: Vec<&str> = settled.iter().map(|one| one.robot.as_str()).collect();
        let slots: Vec<Option<Timestamp>> = settled.iter().map(|one| one.slot).collect();
        let left: Vec<bool> = settled.iter().map(|one| one.has_left).collect();
        let rulings: Vec<Option<&str>> = settled.iter().map(|one| one.ruling.map(Ruling::word)).collect();
        let reasons: Vec<Option<String>> = settled.iter().map(|one| one.reason.as_deref().map(storable)).collect();
        let rests: Vec<Option<f64>> = settled.iter().map(|one| one.ruling.and_then(Ruling::rest_s)).collect();
        let probe = PROBE_INTERVAL.as_secs_f64();
        let query = query!("settle");
        let rows = self.rows("settle", query, &[&robots, &slots, &left, &rulings, &reasons, &rests, &probe]).await?;
        Ok(rows.iter().filter_map(Change::of).collect())
    }

    /// Makes due what rests for robots that have places; returns how many rows that were.
    pub async fn unpark(&self) -> anyhow::Result<i64> {
        let rows = self.rows("unpark", query!("unpark"), &[]).await?;
        Ok(rows.first().map_or(0, |row| row.get("unparked")))
    }

    /// Makes sure that these robots have rows, with their budgets; `urgent_reserve` places are kept for urgent events.
    pub async fn sync_robots(&self, robots: &[Budgeted], urgent_reserve: i32) -> anyhow::Result<()> {
        let names: Vec<&str> = robots.iter().map(|robot| robot.name.as_str()).collect();
        let channels: Vec<&str> = robots.iter().map(|robot| robot.channel.as_str()).collect();
        let limits: Vec<Option<i32>> = robots.iter().map(|robot| robot.rate.map(|rate| rate.limit.into())).collect();
        let windows: Vec<Option<f64>> =
            robots.iter().map(|robot| robot.rate.map(|rate| rate.window.as_secs_f64())).collect();
        let reserves = vec![urgent_reserve; robots.len()];
        let query = query!("sync_robots");
        self.rows("sync_robots", query, &[&names, &channels, &limits, &windows, &reserves]).await.map(drop)
    }

    /// Has what waited for unknown or unusable targets wait for these, which can be used.
    pub async fn adopt(&self, names: &[String]) -> anyhow::Result<()> {
        /// Most rows in one transaction.
        const BATCH: i64 = 5_000;
        loop {
            let rows = self.rows("adopt", query!("adopt"), &[&names, &BATCH]).await?;
            if rows.first().map_or(0, |row| row.get::<_, i64>("adopted")) < BATCH {
                return Ok(());
            }
        }
    }

    /// Has robots that postbell paused tried at once; says which were resumed, for nothing waits for them.
    pub async fn probe_now(&self, robots: &[String]) -> anyhow::Result<Vec<Change>> {
        let rows = self.rows("probe_now", query!("probe_now"), &[&robots]).await?;
        Ok(rows.iter().filter_map(Change::of).collect())
    }

    /// The robots that take nothing now, and why, a line each.
    pub async fn closed_robots(&self) -> anyhow::Result<Vec<String>> {
        let rows = self.rows("closed_robots", query!("closed_robots"), &[]).await?;
        let line = |row: &tokio_postgres::Row| {
            let text = |column: &str| row.get::<_, String>(column);
            let paused_by: Option<String> = row.get("paused_by");
            let (state, why) = match paused_by {
                Some(by) => (format!("paused by {by}"), text("pause_reason")),
                None => {
                    let rest = Duration::try_from_secs_f64(row.get("cools_s")).unwrap_or_default();
                    (format!("cooling down for {} s", rest.as_secs()), text("cool_reason"))
                }
            };
            format!("robot {} is {state}: {why}", text("name")).trim_end_matches(": ").to_owned()
        };
        Ok(rows.iter().map(line).collect())
    }

    /// The named targets.
    pub async fn targets(&self) -> anyhow::Result<Vec<Target>> {
        let rows = self.rows("targets", query!("targets"), &[]).await?;
        let target = |row: &tokio_postgres::Row| Target {
            name: row.get("name"),
            channel: row.get("channel"),
            webhook: row.get("webhook"),
            secret: row.get("secret"),
            robots: row.get("robots"),
            rate: row.get("rate"),
            enabled: row.get("enabled"),
            mentions: Mentions {
                at_mobiles: row.get("at_mobiles"),
                at_user_ids: row.get("at_user_ids"),
                at_all: row.get("at_all"),
            },
        };
        Ok(rows.iter().map(target).collect())
    }
}

impl Ruling {
    /// The word for it in SQL.
    fn word(self) -> &'static str {
        match self {
            Ruling::Pause => "pause",
            Ruling::Cool(_) => "cool",
            Ruling::Block(_) => "block",
            Ruling::Resume => "resume",
        }
    }

    fn rest_s(self) -> Option<f64> {
        match self {
            Ruling::Cool(rest) | Ruling::Block(rest) => Some(rest.as_secs_f64()),
            Ruling::Pause | Ruling::Resume => None,
        }
    }
}
