//! `postbell robots list`: how robots and pools are.

use std::io::Write as _;

use anyhow::Context as _;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::commands::{block_on, cut};
use crate::config;

/// Arguments of `postbell robots list`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// One JSON object: {"robots": [...]}
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    pub(super) database: config::Database,
}

/// A row of `notification_robot_status`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Robot {
    pub(super) name: String,
    pub(super) state: String,
    rate: Option<String>,
    budget_left: Option<i64>,
    urgent_budget_left: Option<i64>,
    first_free_at: Option<Timestamp>,
    cool_until: Option<Timestamp>,
    cool_reason: Option<String>,
    paused_at: Option<Timestamp>,
    pause_reason: Option<String>,
    probe_at: Option<Timestamp>,
    waiting: i64,
}

/// The columns of the list.
const COLUMNS: [&str; 6] = ["name", "state", "left", "urgent left", "waiting", "why"];

/// Most characters of a reason.
const REASON: usize = 100;

/// Prints every robot and pool.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let (rows, now) = block_on(async {
        let client = super::connect(&args.database).await?;
        read(&client).await
    })?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&json!({ "robots": rows }))?)?;
    } else if rows.is_empty() {
        writeln!(
            out,
            "no robots yet: add one with postbell robots add NAME --webhook env:VARIABLE, or start a sidecar"
        )?;
        writeln!(out, "with DINGTALK_NOTIFICATION_WEBHOOK set, which is the robot named default")?;
    } else {
        writeln!(out, "{}", shown(rows, now)?)?;
    }
    Ok(())
}

/// All that the view has, and PostgreSQL's time.
async fn read(client: &Client) -> anyhow::Result<(Vec<Value>, Timestamp)> {
    let all = "select to_jsonb(s), now() from notification_robot_status s order by name";
    let rows = client.query(all, &[]).await.context("reading notification_robot_status")?;
    let now = rows.first().map_or_else(Timestamp::now, |row| row.get(1));
    Ok((rows.iter().map(|row| row.get(0)).collect(), now))
}

fn robots(rows: Vec<Value>) -> anyhow::Result<Vec<Robot>> {
    rows.into_iter().map(serde_json::from_value).collect::<Result<_, _>>().context("reading notification_robot_status")
}

/// How a robot is, a line each; of a pool, its members, too. A reason that was `said` is not said again.
pub(super) async fn describe(client: &Client, name: &str, said: Option<&str>) -> anyhow::Result<Vec<String>> {
    let (rows, now) = read(client).await?;
    let mut robots = robots(rows)?;
    for robot in &mut robots {
        robot.pause_reason.take_if(|reason| Some(reason.as_str()) == said);
        robot.cool_reason.take_if(|reason| Some(reason.as_str()) == said);
    }
    Ok(concerned(&robots, name).map(|robot| robot.line(now)).collect())
}

fn concerned<'a>(robots: &'a [Robot], name: &'a str) -> impl Iterator<Item = &'a Robot> {
    let pool = robots.iter().find(|robot| robot.name == name).and_then(|robot| robot.state.strip_prefix("pool of "));
    let members: Vec<&str> = pool.map(|members| members.split(", ").collect()).unwrap_or_default();
    robots.iter().filter(move |robot| robot.name == name || members.contains(&robot.name.as_str()))
}

/// The rows of the view as a table.
pub(in crate::commands) fn shown(rows: Vec<Value>, now: Timestamp) -> anyhow::Result<String> {
    Ok(table(&robots(rows)?, now).trim_fmt())
}

fn table(robots: &[Robot], now: Timestamp) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(COLUMNS);
    for robot in robots {
        let urgent = robot.urgent_budget_left.filter(|_| robot.has_budget());
        let urgent = urgent.map(|left| left.to_string()).unwrap_or_default();
        table.add_row([
            robot.name.clone(),
            robot.state.clone(),
            robot.left(),
            urgent,
            robot.waiting.to_string(),
            robot.why(now),
        ]);
    }
    table
}

impl Robot {
    /// Pools have none, nor robots with the rate off; the view has a 0 for them.
    fn has_budget(&self) -> bool {
        self.rate.as_ref().is_some_and(|rate| rate != "no budget")
    }

    /// Such as `14 of 18 in 60 s`, for events that are not urgent.
    fn left(&self) -> String {
        match (self.budget_left, &self.rate) {
            (Some(left), Some(rate)) if self.has_budget() => format!("{left} of {rate}"),
            (_, rate) => rate.clone().unwrap_or_default(),
        }
    }

    /// What holds its events up, since when and until when.
    fn why(&self, now: Timestamp) -> String {
        let because = |reason: &Option<String>| match reason.as_deref() {
            None | Some("") => String::new(),
            Some(reason) => format!(": {}", cut(reason, REASON)),
        };
        let mut parts = Vec::new();
        if let Some(since) = self.paused_at {
            let probe = match self.probe_at {
                Some(at) if at > now => format!(", next probe {}", time(at)),
                Some(_) => ", its next event is the probe".to_owned(),
                None => String::new(),
            };
            parts.push(format!("since {}{probe}{}", time(since), because(&self.pause_reason)));
        }
        if let Some(until) = self.cool_until.filter(|until| *until > now) {
            let cooling = if self.paused_at.is_some() { "cooling down " } else { "" };
            parts.push(format!("{cooling}until {}{}", time(until), because(&self.cool_reason)));
        }
        if let (true, Some(0), Some(free)) = (parts.is_empty(), self.budget_left, self.first_free_at) {
            parts.push(format!("next place {}", time(free)));
        }
        parts.join("; ")
    }

    fn line(&self, now: Timestamp) -> String {
        let left = self.left();
        let left = match (left.is_empty(), self.has_budget()) {
            (true, _) => left,
            (false, true) => format!(", {left} left"),
            (false, false) => format!(", {left}"),
        };
        let why = self.why(now);
        let why = if why.is_empty() { why } else { format!(", {why}") };
        format!("{}: {}{left}, {} waiting{why}", self.name, self.state, self.waiting)
    }
}

/// To the second; PostgreSQL's times are UTC here.
fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn robot(row: Value) -> Robot {
        let mut whole = json!({"name": "hr", "state": "open", "rate": "18 in 60 s", "budget_left": 14,
            "urgent_budget_left": 18, "waiting": 0});
        let Value::Object(row) = row else { panic!("{row}") };
        whole.as_object_mut().unwrap().extend(row);
        serde_json::from_value(whole).unwrap()
    }

    fn why(row: Value) -> String {
        robot(row).why("2026-11-27T10:00:00Z".parse().unwrap())
    }

    #[test]
    fn it_says_why_a_robots_events_wait_since_when_and_until_when() {
        assert_eq!(why(json!({})), "");
        let paused = json!({"paused_at": "2026-11-27T09:58:00.1+00:00", "pause_reason": "the signature is wrong",
            "probe_at": "2026-11-27T10:00:58+00:00"});
        assert_eq!(
            why(paused),
            "since 2026-11-27 09:58:00 UTC, next probe 2026-11-27 10:00:58 UTC: the signature is wrong"
        );
        let late = json!({"paused_at": "2026-11-27T09:58:00Z", "pause_reason": "", "probe_at": "2026-11-27T09:59:00Z"});
        assert_eq!(why(late), "since 2026-11-27 09:58:00 UTC, its next event is the probe");
        let cooling = json!({"cool_until": "2026-11-27T10:08:00Z", "cool_reason": "sent too fast", "budget_left": 0});
        assert_eq!(why(cooling), "until 2026-11-27 10:08:00 UTC: sent too fast");
        let over = json!({"cool_until": "2026-11-27T09:59:00Z", "cool_reason": "sent too fast"});
        assert_eq!(why(over), "");
        let both = json!({"paused_at": "2026-11-27T09:58:00Z", "cool_until": "2026-11-27T10:08:00Z"});
        assert_eq!(why(both), "since 2026-11-27 09:58:00 UTC; cooling down until 2026-11-27 10:08:00 UTC");
        let used = json!({"budget_left": 0, "first_free_at": "2026-11-27T10:00:30Z"});
        assert_eq!(why(used), "next place 2026-11-27 10:00:30 UTC");
        let long = why(json!({"paused_at": "2026-11-27T09:58:00Z", "pause_reason": "x".repeat(500)}));
        assert!(long.ends_with('…') && long.len() < 150, "{long}");
    }

    #[test]
    fn the_budget_left_is_of_so_many_or_there_is_none() {
        assert_eq!(robot(json!({})).left(), "14 of 18 in 60 s");
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(robot(json!({})).line(now), "hr: open, 14 of 18 in 60 s left, 0 waiting");
        for left in [json!(0), json!(null)] {
            let boundless = robot(json!({"rate": "no budget", "budget_left": left, "urgent_budget_left": left}));
            assert_eq!(boundless.line(now), "hr: open, no budget, 0 waiting");
            let pool =
                robot(json!({"state": "pool of a", "rate": null, "budget_left": left, "urgent_budget_left": left}));
            assert_eq!(pool.line(now), "hr: pool of a, 0 waiting");
            let table = table(&[boundless, pool], now).to_string();
            assert!(table.contains("no budget") && table.matches('0').count() == 2, "{table}");
        }
    }

    #[test]
    fn a_pool_is_described_with_its_members() {
        let robots = ["a", "b", "c", "x"].map(|name| robot(json!({"name": name, "waiting": 2})));
        let pool = robot(json!({"name": "hiring", "state": "pool of a, c", "rate": null, "budget_left": null}));
        let robots: Vec<Robot> = robots.into_iter().chain([pool]).collect();
        let now = Timestamp::UNIX_EPOCH;
        let lines = |name| concerned(&robots, name).map(|robot| robot.line(now)).collect::<Vec<_>>();
        assert_eq!(
            lines("hiring"),
            [
                "a: open, 14 of 18 in 60 s left, 2 waiting",
                "c: open, 14 of 18 in 60 s left, 2 waiting",
                "hiring: pool of a, c, 0 waiting"
            ]
        );
        assert_eq!(lines("b").len(), 1);
        assert_eq!(lines("nobody").len(), 0);
    }
}
