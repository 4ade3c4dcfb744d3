//! Alerts: what is wrong, and whose it is to ring about it.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::{Store, query};
use crate::config;

/// The right to tell people one thing, until its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// What kind of thing: see [`crate::alert::Condition`].
    pub condition: String,
    /// What it is about, where there are several; else empty.
    pub subject: String,
    /// Since when it goes on.
    pub raised_at: Timestamp,
    /// When it was last seen to.
    pub held_at: Timestamp,
    /// When people were last told of it.
    pub rung_at: Option<Timestamp>,
    /// Whether they are to be told that it is over.
    pub is_over: bool,
    /// In figures.
    pub detail: Value,
    /// The end of the right, by which it is known.
    pub until: Timestamp,
}

impl Store {
    /// Finds out what is wrong, and takes the right to ring about that of which it is time to. Something is over once nobody
    /// has seen it for as long as `quiet`; a right that is not used lasts as long as `lease`. Hints last no longer than
    /// `hint_lease`.
    pub async fn check_alerts(
        &self,
        config: &config::Alerts,
        quiet: Duration,
        lease: Duration,
        hint_lease: Duration,
    ) -> anyhow::Result<Vec<Right>> {
        let letters = config.alert_dead_letters.0.map(i64::from);
        let percent = config.alert_failure_rate.0.map(|rate| i64::from(rate.percent));
        let period = config.alert_failure_rate.0.map(|rate| rate.period.as_secs_f64());
        let least = i64::try_from(config.alert_least_sends).unwrap_or(i64::MAX);
        let late = config.alert_oldest_due.0.map(|late| late.as_secs_f64());
        let [window, quiet, lease, hint_lease] =
            [config.alert_window, quiet, lease, hint_lease].map(|span| span.as_secs_f64());
        let query = query!("check_alerts");
        let rows = self
            .rows(
                "check_alerts",
                query,
                &[&letters, &percent, &period, &least, &late, &window, &quiet, &lease, &hint_lease],
            )
            .await?;
        let right = |row: &tokio_postgres::Row| Right {
            condition: row.get("condition"),
            subject: row.get("subject"),
            raised_at: row.get("raised_at"),
            held_at: row.get("held_at"),
            rung_at: row.get("rung_at"),
            is_over: row.get("is_over"),
            detail: row.get("detail"),
            until: row.get("ringing_until"),
        };
        Ok(rows.iter().map(right).collect())
    }

    /// Notes that people were told, or that they were not: then anybody may try after the rest.
    pub async fn alerts_rung(&self, rights: &[Right], were_told: bool, rest: Duration) -> anyhow::Result<()> {
        let conditions: Vec<&str> = rights.iter().map(|right| right.condition.as_str()).collect();
        let subjects: Vec<&str> = rights.iter().map(|right| right.subject.as_str()).collect();
        let ends: Vec<Timestamp> = rights.iter().map(|right| right.until).collect();
        let over: Vec<bool> = rights.iter().map(|right| right.is_over).collect();
        let (query, rest) = (query!("alerts_rung"), rest.as_secs_f64());
        self.rows("alerts_rung", query, &[&conditions, &subjects, &ends, &over, &were_told, &rest]).await.map(drop)
    }
}
