//! What operators do to events, one after the other: each says what happened, and is in the audit.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use deadpool_postgres::Object;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::filter::Parameters;
use super::list::{self, Event};
use super::listing;
use crate::config::{self, Rate, RobotRate};
use crate::db;

/// A connection on which the audit knows who acts.
pub(super) async fn connect(database: &config::Database, operator: &config::Operator) -> anyhow::Result<Object> {
    let client = super::connect(database).await?;
    if let Some(actor) = operator.actor() {
        client.execute("select set_config('postbell.actor', $1, false)", &[&actor]).await?;
    }
    Ok(client)
}

/// What to do to each.
pub(super) struct Act<'a> {
    /// In the past tense, as the function says it: `replayed`.
    pub(super) done: &'static str,
    /// The function's call, with the id as its first parameter.
    pub(super) call: &'static str,
    /// Its other parameters.
    pub(super) parameters: &'a [&'a (dyn ToSql + Sync)],
    /// Most of them in any such time.
    pub(super) rate: Option<Rate>,
}

/// `5/s`, `100/1m` or `off`.
pub(super) fn rate(text: &str) -> Result<RobotRate, String> {
    let with_one = match text.split_once('/') {
        Some((count, unit)) if unit.starts_with(|c: char| c.is_ascii_alphabetic()) => format!("{count}/1{unit}"),
        _ => text.to_owned(),
    };
    with_one.parse().map_err(|_| "a count from 1 to 999 and a time, such as 20/s or 100/1m, or off".to_owned())
}

/// Does it to each, with a bar of progress on a terminal, until interrupted; says what happened to those it was done to, if
/// asked to `tell`, and of all others. Fails where there are such.
pub(super) async fn each(client: &Object, ids: &[Uuid], act: &Act<'_>, tell: bool) -> anyhow::Result<()> {
    let call = client.prepare(act.call).await.map_err(db::Failed::from)?;
    let bar = bar(ids.len());
    let mut pace = act.rate.map(|rate| tokio::time::interval(pause(rate)));
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let (mut done, mut not_done) = (0, 0);
    for id in ids {
        let turn = async {
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
        };
        tokio::select! {
            // Asked first, so that it is heard at any rate.
            biased;
            _ = &mut interrupted => {
                bar.finish_and_clear();
                let left = ids.len() - done - not_done;
                anyhow::bail!("interrupted: {done} {}, {left} left as they were", act.done);
            }
            () = turn => {}
        }
        let parameters: Vec<&(dyn ToSql + Sync)> =
            std::iter::once(id as &(dyn ToSql + Sync)).chain(act.parameters.iter().copied()).collect();
        let row = client.query_one(&call, &parameters).await.map_err(db::Failed::from);
        let said: String = row.with_context(|| format!("{id}: not {}; {done} were before", act.done))?.get(0);
        let is_done = said.starts_with(act.done);
        *(if is_done { &mut done } else { &mut not_done }) += 1;
        bar.inc(1);
        if tell || !is_done {
            bar.suspend(|| writeln!(std::io::stdout().lock(), "{id}: {said}"))?;
        }
    }
    bar.finish_and_clear();
    if !tell {
        writeln!(std::io::stdout().lock(), "{done} {}", act.done)?;
    }
    anyhow::ensure!(not_done == 0, "{not_done} of {} not {}", ids.len(), act.done);
    Ok(())
}

/// The events that fit and have ended, the oldest first.
pub(super) async fn candidates(client: &Object, filter: &Parameters, most: i64) -> anyhow::Result<Vec<Event>> {
    let found = client.query(include_str!("../../sql/operate/candidates.sql"), &filter.and(&[&most])).await;
    Ok(list::events(&found.map_err(db::Failed::from).context("looking for events")?))
}

/// What it would be done to, for `--dry-run`.
pub(super) fn show(events: &[Event], done: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if !events.is_empty() {
        write!(out, "{}", list::table(events, listing::width()))?;
    }
    Ok(writeln!(out, "{} would be {done}", events.len())?)
}

/// Says so where there may be more than so many.
pub(super) fn tell_of_more(count: usize, most: i64) -> anyhow::Result<()> {
    if i64::try_from(count).is_ok_and(|count| count == most) {
        writeln!(
            std::io::stdout().lock(),
            "those were the oldest {most}; once more goes on, and --limit allows more at once"
        )?;
    }
    Ok(())
}

fn pause(rate: Rate) -> Duration {
    rate.window / u32::from(rate.limit.max(1))
}

fn bar(count: usize) -> ProgressBar {
    // One event needs none, and neither does another program.
    if count < 2 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(count.try_into().unwrap_or(u64::MAX));
    match ProgressStyle::with_template("{bar:40} {pos} of {len}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_count_in_a_time() {
        let paused = |text| rate(text).unwrap().0.map(pause);
        assert_eq!(paused("20/s"), Some(Duration::from_millis(50)));
        assert_eq!(paused("5/1s"), Some(Duration::from_millis(200)));
        assert_eq!(paused("60/1m"), Some(Duration::from_secs(1)));
        assert_eq!(paused("off"), None);
        for refused in ["", "0/s", "5", "5/", "fast"] {
            assert!(rate(refused).unwrap_err().contains("such as 20/s"), "{refused}");
        }
    }
}
