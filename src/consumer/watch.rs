//! Keeps the directory of robots true: rows of `notification_channels`, and the files and variables they refer to, count
//! without a restart.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::channel::{Budgeted, Channels, Robot};
use crate::health::Health;
use crate::store::Store;
use crate::store::robots::Change;

/// How often files are read again.
const FILES_INTERVAL: Duration = Duration::from_secs(1);

/// How many readings of files there are for one of the rows.
const FILES_PER_ROWS: u32 = 6;

/// Reads what is configured, and tells the robots' rows.
pub(super) struct Watch {
    store: Store,
    channels: Arc<Channels>,
    urgent_reserve: i32,
    told: Mutex<Told>,
    health: Arc<Health>,
}

/// How often it is looked for events that wait for targets nobody knew, where no target has become usable: a consumer
/// that put some there may have died before it knew the target.
const ADOPT_INTERVAL: Duration = Duration::from_secs(60);

/// The name in health.
const PART: &str = "robots";

/// What the rows of `notification_robots` have been told.
#[derive(Default)]
struct Told {
    /// Robots that have a row.
    known: BTreeSet<String>,
    /// What those with names were said to have.
    budgeted: Vec<Budgeted>,
    /// Robots that are reached otherwise than before, of which it has not been told yet.
    changed: BTreeSet<String>,
    /// For which targets waiting events were last adopted, and when.
    adopted: Option<(Vec<String>, Instant)>,
}

impl Watch {
    /// Registers the watch with the health of its process.
    pub(super) fn expect(health: &Health) {
        health.expect(PART, FILES_INTERVAL * FILES_PER_ROWS + Duration::from_secs(60));
    }

    pub(super) fn new(store: Store, channels: Arc<Channels>, urgent_reserve: u64, health: Arc<Health>) -> Watch {
        let urgent_reserve = i32::try_from(urgent_reserve).unwrap_or(i32::MAX);
        // Whoever starts may bring a corrected webhook or secret.
        let changed = channels.budgeted().into_iter().map(|robot| robot.name).collect();
        Watch { store, channels, urgent_reserve, told: Mutex::new(Told { changed, ..Told::default() }), health }
    }

    /// Runs until told to stop.
    pub(super) async fn run(self: Arc<Watch>, stop: CancellationToken) {
        let mut reading = 0;
        while !stop.is_cancelled() {
            let has_asked = reading % FILES_PER_ROWS == 0;
            let result = if has_asked { self.look().await } else { self.reread().await };
            match result {
                Ok(()) if has_asked => self.health.moved(PART),
                // Files alone say nothing of the database.
                Ok(()) => {}
                Err(error) => {
                    let error = format!("{error:#}");
                    if self.health.stuck(PART, &error) {
                        tracing::warn!(error, "the targets cannot be read; trying again until they can");
                    }
                }
            }
            reading = reading.wrapping_add(1);
            tokio::select! {
                () = tokio::time::sleep(FILES_INTERVAL) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Reads everything, and tells people what is closed.
    async fn look(&self) -> anyhow::Result<()> {
        self.refresh().await?;
        self.health.note(self.store.closed_robots().await?);
        Ok(())
    }

    /// Reads rows, files and variables.
    pub(super) async fn refresh(&self) -> anyhow::Result<()> {
        let rows = self.store.targets().await?;
        self.read(Some(rows)).await
    }

    /// Reads files and variables.
    async fn reread(&self) -> anyhow::Result<()> {
        self.read(None).await
    }

    async fn read(&self, rows: Option<Vec<crate::channel::Target>>) -> anyhow::Result<()> {
        let has_new_rows = rows.is_some();
        let channels = self.channels.clone();
        // A file may be on a mount that does not answer.
        let changed = tokio::task::spawn_blocking(move || channels.refresh(rows)).await?;
        let robots = self.channels.budgeted();
        // Not held while a statement runs: whoever asks for admission looks here.
        let is_new = {
            let mut told = self.told();
            told.changed.extend(changed);
            told.budgeted != robots
        };
        if is_new {
            self.store.sync_robots(&robots, self.urgent_reserve).await?;
            let mut told = self.told();
            told.known.extend(robots.iter().map(|robot| robot.name.clone()));
            told.budgeted = robots;
        }
        if has_new_rows {
            self.adopt().await?;
        }
        self.tell_changed().await
    }

    /// Lets those wait for their robots that waited for targets nobody knew.
    async fn adopt(&self) -> anyhow::Result<()> {
        let usable = self.channels.usable();
        let is_done = self
            .told()
            .adopted
            .as_ref()
            .is_some_and(|(targets, at)| *targets == usable && at.elapsed() < ADOPT_INTERVAL);
        if !is_done {
            self.store.adopt(&usable).await?;
            self.told().adopted = Some((usable, Instant::now()));
        }
        Ok(())
    }

    /// Has those robots tried at once that are reached otherwise than before.
    async fn tell_changed(&self) -> anyhow::Result<()> {
        let changed: Vec<String> = self.told().changed.iter().cloned().collect();
        if !changed.is_empty() {
            let changes = self.store.probe_now(&changed).await?;
            let (busy, resumed): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| change.kind == "busy");
            for Change { robot, reason, .. } in resumed {
                tracing::info!(
                    robot,
                    reason,
                    "robot resumed: its settings have changed, and nothing waits for it to try them"
                );
            }
            let is_busy = |name: &String| busy.iter().any(|change| change.robot == *name);
            self.told().changed.retain(|name| !changed.contains(name) || is_busy(name));
        }
        Ok(())
    }

    /// A robot has refused a message that was sent with these settings: whether they are not its settings any more.
    /// Then the next probe is due at once, for this one said nothing of the robot: one that another process made due may
    /// have come before this process had read the change.
    pub(super) async fn is_outdated(&self, robot: &Robot) -> bool {
        // What cannot be read now is read again soon.
        let _ = self.reread().await;
        let is_outdated = self.channels.is_outdated(robot);
        if is_outdated {
            self.told().changed.insert(robot.name().to_owned());
            let _ = self.tell_changed().await;
        }
        is_outdated
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this robot is known to have a row.
    pub(super) fn knows(&self, robot: &Robot) -> bool {
        self.told().known.contains(robot.name())
    }

    /// Makes sure that these robots have rows.
    pub(super) async fn ensure(&self, robots: &[Robot]) -> anyhow::Result<()> {
        let missing: Vec<Budgeted> = robots.iter().filter(|robot| !self.knows(robot)).map(Robot::budgeted).collect();
        if !missing.is_empty() {
            self.store.sync_robots(&missing, self.urgent_reserve).await?;
            self.told().known.extend(missing.into_iter().map(|robot| robot.name));
        }
        Ok(())
    }

    /// One of these has no row any more: somebody has deleted it.
    pub(super) fn forget(&self, robots: &[Robot]) {
        let mut told = self.told();
        for robot in robots {
            told.known.remove(robot.name());
        }
    }
}
