//! What became of one event that a command has published, and waits for.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::cli::NotYet;

/// The pauses between two looks.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What is known of the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) status: String,
    pub(super) detail: Option<String>,
    pub(super) last_error: Option<String>,
    /// The robot it was sent by, or waits for.
    pub(super) robot: Option<String>,
}

/// Looks at the row until its event is complete, what is seen is `enough`, or the time is up.
pub(super) async fn wait(
    client: &Client,
    id: Uuid,
    most: Duration,
    enough: impl Fn(&Seen) -> bool,
) -> anyhow::Result<Seen> {
    let look = client
        .prepare("select status, detail, last_error, robot from notification_status where id = $1")
        .await
        .context("the event was published, but waiting for it reads notification_status: grant the role reader, too")?;
    let deadline = Instant::now() + most;
    let mut pause = FIRST_PAUSE;
    loop {
        let row = client.query_opt(&look, &[&id]).await.context("waiting for the event, which was published")?;
        let row = row.context("the event was published, and is gone by now")?;
        let seen = Seen { status: row.get(0), detail: row.get(1), last_error: row.get(2), robot: row.get(3) };
        let left = deadline.saturating_duration_since(Instant::now());
        if seen.is_complete() || enough(&seen) || left.is_zero() {
            return Ok(seen);
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

impl Seen {
    /// Whether nothing more becomes of it.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self.status.as_str(), "delivered" | "failed" | "cancelled")
    }

    /// How a command ends that has waited so long; standard output stays the id's alone.
    pub(super) fn end(&self, most: Duration) -> anyhow::Result<()> {
        let Seen { status, detail, last_error, robot } = self;
        if status == "delivered" {
            writeln!(std::io::stderr().lock(), "delivered to {}", robot.as_deref().unwrap_or_default())?;
            return Ok(());
        }
        if self.is_complete() {
            anyhow::bail!("{status}: {}", last_error.as_deref().unwrap_or("no reason is recorded"));
        }
        let detail = detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
        let why = last_error.as_ref().map(|why| format!("; last error: {why}")).unwrap_or_default();
        Err(NotYet(format!("still {status} after {} s{detail}{why}", most.as_secs())).into())
    }
}
