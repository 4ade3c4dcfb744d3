//! A strict stand-in for the DingTalk robot: by the platform's documentation, and stricter where that catches a
//! sender's mistake.
//!
//! It is behind `postbell sandbox`, it shows people what a group would see, and tests start it in their own process:
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use postbell::sandbox::{Do, Rule, Sandbox, Settings};
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let robot = Sandbox::start(listener, Settings::default())?;
//! robot.script([Rule::new(Do::DropAfterReading).accepted()]); // delivered, but the sender never hears of it
//! // … send to robot.webhook("some-token") …
//! robot.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! A request passes `server` (HTTP) → `script` (misbehaviour, if any) → `pace` (rate and ban) → `rules` (signature, form,
//! mentions, keyword) → `journal` (accepted, swallowed or refused) → `page` (what people see).

mod journal;
mod pace;
mod page;
mod record;
mod rules;
mod script;
mod server;
mod tap;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use record::{Message, Request, Verdict, mask};
pub use rules::{At, Link};
pub use script::{Do, Match, Rule, Times};

use journal::Journal;

/// Called in the middle of a request; it may use the [`Sandbox`], and it holds the answer back until it returns.
pub type Hook = Arc<dyn Fn(&Request) + Send + Sync>;

/// How strict the robots are, and what a test wants to be told.
#[derive(Clone)]
pub struct Settings {
    /// Requests allowed to one robot in any window of this length; none: no limit.
    pub rate: Option<(u32, Duration)>,
    /// How long a robot refuses everything once the rate was exceeded.
    pub ban: Duration,
    /// The secret that requests must be signed with, if any.
    pub secret: Option<String>,
    /// At least one of these must stand in a message, if there are any.
    pub keywords: Vec<String>,
    /// The access tokens that exist; none: every token does.
    pub tokens: Option<Vec<String>>,
    /// Longest body in bytes.
    pub max_body: usize,
    /// Most messages, and most requests, that are remembered; the oldest go first.
    pub history: usize,
    /// Called when a request has been read and judged, before anything is answered.
    pub on_request: Option<Hook>,
    /// Called when its answer has been handed to the network.
    pub on_answered: Option<Hook>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            rate: Some((20, Duration::from_secs(60))),
            ban: Duration::from_secs(600),
            secret: None,
            keywords: Vec::new(),
            tokens: None,
            max_body: 20_000,
            history: 20_000,
            on_request: None,
            on_answered: None,
        }
    }
}

/// A running stand-in. Dropping it stops it.
pub struct Sandbox {
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

/// What was waited for did not happen in time.
#[derive(Debug, thiserror::Error)]
#[error("waited {waited:?} for {what}; there are {messages} messages, and the last request is {last}")]
pub struct Overdue {
    what: String,
    waited: Duration,
    messages: usize,
    last: String,
}

/// What the connections share.
struct Shared {
    addr: SocketAddr,
    settings: Settings,
    journal: Mutex<Journal>,
    /// The journal's revision, for those who wait for a change.
    changed: watch::Sender<u64>,
    stop: CancellationToken,
}

impl Sandbox {
    /// Serves on the listener until [`Sandbox::shutdown`] or drop. Needs a tokio runtime.
    pub fn start(listener: TcpListener, settings: Settings) -> std::io::Result<Sandbox> {
        let shared = Arc::new(Shared {
            addr: listener.local_addr()?,
            journal: Mutex::new(Journal::new(settings.history)),
            settings,
            changed: watch::Sender::new(0),
            stop: CancellationToken::new(),
        });
        let server = tokio::spawn(server::serve(listener, Arc::clone(&shared)));
        Ok(Sandbox { shared, server })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// The webhook URL of the robot with this access token.
    pub fn webhook(&self, token: &str) -> String {
        format!("http://{}/robot/send?access_token={}", self.addr(), utf8_percent_encode(token, NON_ALPHANUMERIC))
    }

    /// The messages that the group shows, oldest first.
    pub fn messages(&self) -> Vec<Message> {
        self.shared.journal().messages(0)
    }

    /// Every request to a robot, whatever became of it, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.journal().requests(0)
    }

    /// Forgets messages and requests. What belongs to the robots stays: rates, bans and the `msgUuid`s they have seen.
    pub fn clear(&self) {
        self.shared.change(Journal::clear);
    }

    /// Adds rules of misbehaviour behind those that are there.
    pub fn script(&self, rules: impl IntoIterator<Item = Rule>) {
        self.shared.journal().script.add(rules);
    }

    /// Behaves again.
    pub fn clear_script(&self) {
        self.shared.journal().script.clear();
    }

    /// The most requests that any one robot got in any window of this length (half-open), refused and lost ones included.
    pub fn max_in_any_window(&self, window: Duration) -> usize {
        self.shared.journal().max_in_any_window(window)
    }

    /// Waits until the group shows this many messages, and returns them.
    pub async fn wait_for_messages(&self, count: usize, within: Duration) -> Result<Vec<Message>, Overdue> {
        self.wait_until(&format!("{count} messages"), within, |sandbox| {
            let messages = sandbox.messages();
            (messages.len() >= count).then_some(messages)
        })
        .await
    }

    /// Waits until there were this many requests, and returns them.
    pub async fn wait_for_requests(&self, count: usize, within: Duration) -> Result<Vec<Request>, Overdue> {
        self.wait_until(&format!("{count} requests"), within, |sandbox| {
            let requests = sandbox.requests();
            (requests.len() >= count).then_some(requests)
        })
        .await
    }

    /// Waits until `look` finds something. It looks at once, and again after every request and every answer.
    pub async fn wait_until<T>(
        &self,
        what: &str,
        within: Duration,
        mut look: impl FnMut(&Sandbox) -> Option<T>,
    ) -> Result<T, Overdue> {
        let mut changed = self.shared.changed.subscribe();
        let found = tokio::time::timeout(within, async {
            loop {
                // Marked as seen before looking: a change in between is not missed.
                changed.mark_unchanged();
                if let Some(found) = look(self) {
                    return Some(found);
                }
                changed.changed().await.ok()?;
            }
        });
        if let Ok(Some(found)) = found.await {
            return Ok(found);
        }
        let journal = self.shared.journal();
        let last = journal.last_request().map_or_else(|| "none".to_owned(), Request::to_string);
        Err(Overdue { what: what.to_owned(), waited: within, messages: journal.messages(0).len(), last })
    }

    /// Stops: no new connections, delayed and hanging requests are cut off, idle connections closed.
    pub async fn shutdown(mut self) {
        self.shared.stop.cancel();
        let _ = (&mut self.server).await;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("addr", &self.shared.addr).finish_non_exhaustive()
    }
}

impl Shared {
    fn journal(&self) -> MutexGuard<'_, Journal> {
        // Only whole entries are added under this lock, so a panic elsewhere leaves it usable.
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the journal and wakes those who wait for a change.
    fn change<T>(&self, change: impl FnOnce(&mut Journal) -> T) -> T {
        let mut journal = self.journal();
        let result = change(&mut journal);
        self.changed.send_replace(journal.revision());
        result
    }

    /// An answer has been handed to the network.
    fn answered(&self, seq: u64) {
        let request = self.change(|journal| journal.answered(seq));
        if let (Some(hook), Some(request)) = (&self.settings.on_answered, request) {
            hook(&request);
        }
    }
}

#[cfg(test)]
mod tests;
