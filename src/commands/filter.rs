//! Which events a command is about: the same words for all commands, and for `notification_find`.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo, Timestamp};
use tokio_postgres::types::ToSql;

/// What events must fit; what is not given fits all.
#[derive(clap::Args, Clone, Debug, Default)]
pub(super) struct Filter {
    /// Only events with this status
    #[arg(long, value_parser = ["pending", "delivering", "delivered", "failed", "cancelled"])]
    pub(super) status: Option<String>,

    #[command(flatten)]
    pub(super) rest: Rest,
}

/// The same for commands that are about one status.
#[derive(clap::Args, Clone, Debug, Default)]
pub(super) struct Rest {
    /// Only events of this type; * stands for any characters, as in resume.*
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,

    /// Only events for this target: a robot, a pool, or a webhook URL, of which the host counts
    // Not shown where it is refused: a webhook has its token in it.
    #[arg(long, value_name = "TARGET", hide_env_values = true)]
    target: Option<String>,

    /// Only what failed, was delivered or cancelled since, or else was published: 90m, 12h, 2d, or a time
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    since: Option<When>,

    /// The same, before a time
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    before: Option<When>,

    /// Only events whose last error is of this class
    #[arg(long, value_name = "CLASS", value_parser = CLASSES)]
    error_class: Option<String>,

    /// Only events whose last error has this in it, in small or capital letters
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
}

/// What `notification_error_class` says.
const CLASSES: [&str; 10] = [
    "message",
    "robot",
    "platform",
    "network",
    "template",
    "expired",
    "unknown_outcome",
    "kills_its_consumer",
    "unreadable",
    "other",
];

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum When {
    /// As it was given.
    At(Timestamp),
    /// By the clock of PostgreSQL.
    Ago(Duration),
}

impl When {
    /// Reads it.
    pub(super) fn parse(text: &str) -> Result<When, String> {
        let allowed = || "a duration such as 90m, 12h or 2d, a day such as 2026-11-26 (UTC), or a time such as 2026-11-26T09:00:00+08:00";
        if let Ok(at) = text.parse::<Timestamp>() {
            return Ok(When::At(at));
        }
        if let Ok(day) = text.parse::<jiff::civil::Date>() {
            let at = day.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| allowed())?;
            return Ok(When::At(at.timestamp()));
        }
        let span: Span = text.parse().map_err(|_| allowed())?;
        let span = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| allowed())?;
        Duration::try_from(span).map(When::Ago).map_err(|_| allowed().to_owned())
    }

    /// As a statement takes it.
    pub(super) fn moment(when: Option<When>) -> Moment {
        match when {
            None => (None, None),
            Some(When::At(at)) => (Some(at), None),
            Some(When::Ago(ago)) => (None, Some(ago.as_secs_f64())),
        }
    }
}

/// A time, or how many seconds ago it was: two parameters of a statement.
pub(super) type Moment = (Option<Timestamp>, Option<f64>);

/// The first nine parameters of the statements that find events.
pub(super) struct Parameters {
    status: Option<String>,
    event_type: Option<String>,
    target: Option<String>,
    since: Moment,
    before: Moment,
    error_class: Option<String>,
    error: Option<String>,
}

impl Parameters {
    /// With those that follow.
    pub(super) fn and<'a>(&'a self, more: &[&'a (dyn ToSql + Sync)]) -> Vec<&'a (dyn ToSql + Sync)> {
        let Parameters { status, event_type, target, since, before, error_class, error } = self;
        let own: [&(dyn ToSql + Sync); 9] =
            [status, event_type, target, &since.0, &since.1, &before.0, &before.1, error_class, error];
        own.into_iter().chain(more.iter().copied()).collect()
    }
}

impl Filter {
    /// As a statement takes it.
    pub(super) fn parameters(&self) -> Parameters {
        self.rest.parameters(self.status.as_deref())
    }
}

impl Rest {
    /// Whether it fits every event.
    pub(super) fn is_empty(&self) -> bool {
        let Rest { event_type, target, since, before, error_class, error } = self;
        [event_type, target, error_class, error].iter().all(|text| text.is_none()) && since.or(*before).is_none()
    }

    /// As a statement takes it, for events of this status.
    pub(super) fn parameters(&self, status: Option<&str>) -> Parameters {
        Parameters {
            status: status.map(str::to_owned),
            event_type: self.event_type.clone(),
            target: self.target.clone(),
            since: When::moment(self.since),
            before: When::moment(self.before),
            error_class: self.error_class.clone(),
            error: self.error.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_duration_a_day_or_a_time() {
        assert_eq!(When::parse("90m"), Ok(When::Ago(Duration::from_secs(5400))));
        assert_eq!(When::parse("1d"), Ok(When::Ago(Duration::from_secs(86_400))));
        let at = |text: &str| Ok(When::At(text.parse().unwrap()));
        assert_eq!(When::parse("2026-11-26"), at("2026-11-26T00:00:00Z"));
        assert_eq!(When::parse("2026-11-26T09:00:00+08:00"), at("2026-11-26T01:00:00Z"));
        for refused in ["", "yesterday", "-1h", "5", "1 month"] {
            assert!(When::parse(refused).unwrap_err().contains("such as 90m, 12h or 2d"), "{refused}");
        }
    }
}
