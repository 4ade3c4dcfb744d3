//! The connection that hears notifications, and holds the wake-up lock while the relay sleeps.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::FutureExt as _;
use tokio::sync::{Notify, mpsc};
use tokio_postgres::{AsyncMessage, Client};

use crate::db::{self, ANSWER_TIMEOUT, Database};
use crate::store::Store;

/// The wake-up lock, as in sql/migrations/V2__wake_up.sql: "postbell".
const LOCK: i64 = 8_101_821_198_367_026_284;

/// The channel of `NOTIFY`.
const CHANNEL: &str = "notification_events";

/// How long the test notification may take. Behind a pooler that shares sessions it never comes.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// What became of the wish to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    /// This relay has the lock: whoever makes a row due from now on notifies.
    Mine,
    /// Another relay sleeps with the lock, and its notifications reach this one too.
    AnotherRelays,
    /// A transaction that made rows due has not ended yet.
    InFlight,
}

/// A connection on which a notification has been heard.
pub(super) struct Listener {
    client: Client,
    alive: Arc<AtomicBool>,
}

impl Listener {
    /// Connects, listens, and checks that a notification sent on another connection is heard on this one. `heard` is
    /// notified of every later one, and when the connection ends.
    pub(super) async fn connect(database: &Database, store: &Store, heard: Arc<Notify>) -> anyhow::Result<Self> {
        let connected = tokio::time::timeout(ANSWER_TIMEOUT, Self::try_connect(database, store, heard)).await;
        connected.context("listening: PostgreSQL does not answer")?
    }

    async fn try_connect(database: &Database, store: &Store, heard: Arc<Notify>) -> anyhow::Result<Self> {
        let (client, mut connection) = database.connect().await.context("listening: connecting to PostgreSQL")?;
        let alive = Arc::new(AtomicBool::new(true));
        let (probes, mut probed) = mpsc::unbounded_channel();
        // The connection must be polled while LISTEN itself runs, so this comes first. It ends with the client.
        tokio::spawn({
            let alive = alive.clone();
            async move {
                loop {
                    match poll_fn(|context| connection.poll_message(context)).await {
                        Some(Ok(AsyncMessage::Notification(notification))) => match notification.payload() {
                            "" => heard.notify_one(),
                            // The receiver is gone once the probe is over, and others' probes are nothing to us.
                            probe => drop(probes.send(probe.to_owned())),
                        },
                        Some(Ok(_)) => {}
                        Some(Err(error)) => {
                            tracing::debug!(%error, "the listening connection failed");
                            break;
                        }
                        None => break,
                    }
                }
                alive.store(false, Ordering::Release);
                heard.notify_one();
            }
            .boxed()
        });
        let probe = format!("probe {}", uuid::Uuid::new_v4());
        client.batch_execute(&db::session()).await?;
        // If this host dies, the server must drop the lock soon: until then everybody notifies nobody.
        client
            .batch_execute(
                "set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3; \
                 set tcp_user_timeout = 20000; set application_name = 'postbell listen'",
            )
            .await?;
        client.batch_execute(&format!("listen {CHANNEL}")).await?;
        // Sent while this connection is idle: a pooler in transaction mode has then given its session to others, and
        // neither the notification nor a lock taken here would be this relay's.
        store.notify(CHANNEL, &probe).await?;
        let was_heard = async {
            while let Some(payload) = probed.recv().await {
                if payload == probe {
                    return true;
                }
            }
            false
        };
        match tokio::time::timeout(PROBE_TIMEOUT, was_heard).await {
            Ok(true) => Ok(Self { client, alive }),
            _ => anyhow::bail!("notifications are not heard; is there a pooler in transaction mode between?"),
        }
    }

    /// Whether the connection still stands.
    pub(super) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Tries to take the wake-up lock.
    pub(super) async fn try_lock(&self) -> anyhow::Result<Lock> {
        let asked = self.client.query_one(include_str!("../../sql/queries/try_sleep.sql"), &[&LOCK]);
        let row = tokio::time::timeout(ANSWER_TIMEOUT, asked).await??;
        Ok(match (row.get("taken"), row.get("another_relay_sleeps")) {
            (true, _) => Lock::Mine,
            (false, true) => Lock::AnotherRelays,
            (false, false) => Lock::InFlight,
        })
    }

    /// Gives the wake-up lock back.
    pub(super) async fn unlock(&self) -> anyhow::Result<()> {
        let asked = self.client.execute("select pg_advisory_unlock($1)", &[&LOCK]);
        tokio::time::timeout(ANSWER_TIMEOUT, asked).await??;
        Ok(())
    }
}
