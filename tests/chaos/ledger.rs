//! What the writers know of each event, and what the robot got of it.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use postbell::sandbox::{Request, Verdict};
use serde_json::Value;
use tokio::sync::watch;
use uuid::Uuid;

/// Arrivals that are kept for finding the first one of an event begun after a fault.
const RECENT: usize = 10_000;

/// How a transaction ended, as far as its writer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// PostgreSQL said so.
    Committed,
    /// Its writer took it back, or was cut off before it asked for a commit.
    RolledBack,
    /// The answer to the commit was lost: the table knows.
    Unknown,
}

/// An event as its writer knows it.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    /// When its writer began.
    pub(crate) begun: Instant,
    /// When it is to be sent, at the earliest.
    pub(crate) due: Instant,
    /// Whether it asks for at most one delivery.
    pub(crate) at_most_once: bool,
    /// Whether it goes before others.
    pub(crate) urgent: bool,
    /// How its transaction ended, and when that was known.
    pub(crate) ended: Option<(Instant, End)>,
    /// When the robot first took it.
    pub(crate) arrived: Option<Instant>,
}

/// One request to the robot that was about an event.
#[derive(Clone, Debug)]
pub(crate) struct Sighting {
    pub(crate) at: Instant,
    pub(crate) msg_uuid: Option<String>,
    pub(crate) verdict: Verdict,
    /// The misbehaviour it met.
    pub(crate) script: Option<&'static str>,
    pub(crate) body_hash: u64,
}

/// Totals while it runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) committed: u64,
    pub(crate) arrived: u64,
    pub(crate) sent_again: u64,
}

/// Shared by the writers, the robot and those who wait for something to happen.
#[derive(Default)]
pub(crate) struct Ledger {
    pages: Mutex<Pages>,
    changed: watch::Sender<()>,
}

/// What stands in it.
#[derive(Default)]
pub(crate) struct Pages {
    pub(crate) written: HashMap<Uuid, Written>,
    pub(crate) sightings: HashMap<Uuid, Vec<Sighting>>,
    /// What should not happen: requests that the robot refused or that are about no event, processes that end badly.
    pub(crate) oddities: Vec<String>,
    /// When events were begun that the robot took, urgent ones aside, and when that was.
    recent: VecDeque<(Instant, Instant)>,
    scripted: HashMap<&'static str, usize>,
    /// Committed and neither arrived nor given up.
    open: HashSet<Uuid>,
    totals: Totals,
}

impl Ledger {
    /// An event is about to be written.
    pub(crate) fn begin(&self, id: Uuid, delay: Duration, at_most_once: bool, urgent: bool) {
        let begun = Instant::now();
        let written = Written { begun, due: begun + delay, at_most_once, urgent, ended: None, arrived: None };
        self.pages().written.insert(id, written);
    }

    /// Its transaction has ended.
    pub(crate) fn end(&self, ids: &[Uuid], end: End) {
        let now = Instant::now();
        let mut pages = self.pages();
        let Pages { written, open, totals, .. } = &mut *pages;
        for id in ids {
            let Some(written) = written.get_mut(id) else { continue };
            written.ended = Some((now, end));
            if end == End::Committed {
                totals.committed += 1;
                if written.arrived.is_none() {
                    open.insert(*id);
                }
            }
        }
    }

    /// The robot got a request.
    pub(crate) fn receive(&self, request: &Request) {
        self.pages().receive(request);
        self.changed.send_replace(());
    }

    /// The event is complete, and did not arrive: it asks for at most one delivery.
    pub(crate) fn give_up(&self, id: Uuid) {
        self.pages().open.remove(&id);
    }

    /// How many committed events are still to arrive.
    pub(crate) fn behind(&self) -> usize {
        self.pages().open.len()
    }

    /// Something happened that should not.
    pub(crate) fn note(&self, oddity: String) {
        self.pages().oddities.push(oddity);
    }

    /// When the robot first took an event that was begun at this time or later and is not urgent, if it has.
    pub(crate) fn first_arrival_of_an_event_begun_since(&self, since: Instant) -> Option<Instant> {
        let pages = self.pages();
        pages.recent.iter().filter(|(begun, _)| *begun >= since).map(|(_, arrived)| *arrived).min()
    }

    /// Events that had been committed, were due, and had not arrived at this time; and when they arrived, if they have.
    pub(crate) fn open_at(&self, time: Instant) -> Vec<(Uuid, Option<Instant>)> {
        let is_open = |written: &Written| {
            let committed = matches!(written.ended, Some((at, End::Committed)) if at <= time);
            committed && written.due <= time && written.arrived.is_none_or(|at| at > time)
        };
        let pages = self.pages();
        let open = pages.written.iter().filter(|(_, written)| is_open(written));
        open.map(|(id, written)| (*id, written.arrived)).collect()
    }

    /// When the robot first took this event.
    pub(crate) fn arrived(&self, id: Uuid) -> Option<Instant> {
        self.pages().written.get(&id)?.arrived
    }

    /// How many requests have met this scripted misbehaviour.
    pub(crate) fn scripted(&self, name: &str) -> usize {
        self.pages().scripted.get(name).copied().unwrap_or(0)
    }

    /// Totals of this moment.
    pub(crate) fn totals(&self) -> Totals {
        self.pages().totals
    }

    /// Told of every request.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// All of it.
    pub(crate) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap()
    }
}

impl Pages {
    fn receive(&mut self, request: &Request) {
        if let Some(script) = request.script {
            *self.scripted.entry(script).or_default() += 1;
        }
        if request.verdict == Verdict::Refused {
            self.oddities.push(format!("the robot refused a request: {request}"));
        }
        let Some(id) = event_id(&request.body) else {
            self.oddities.push(format!("a request is about no event: {request}"));
            return;
        };
        if request.verdict == Verdict::Duplicate {
            self.totals.sent_again += 1;
        }
        if request.verdict == Verdict::Accepted
            && let Some(written) = self.written.get_mut(&id)
        {
            written.arrived.get_or_insert(request.at);
            self.open.remove(&id);
            self.totals.arrived += 1;
            if self.recent.len() >= RECENT {
                self.recent.pop_front();
            }
            // An urgent one flows where others are held up.
            if !written.urgent {
                self.recent.push_back((written.begun, request.at));
            }
        }
        let mut hasher = DefaultHasher::new();
        request.body.hash(&mut hasher);
        self.sightings.entry(id).or_default().push(Sighting {
            at: request.at,
            msg_uuid: request.msg_uuid.clone(),
            verdict: request.verdict,
            script: request.script,
            body_hash: hasher.finish(),
        });
    }
}

/// The event that a message is about: its text begins with the id, see tests/it/templates/plain.txt.
fn event_id(body: &[u8]) -> Option<Uuid> {
    let body: Value = serde_json::from_slice(body).ok()?;
    body["text"]["content"].as_str()?.split(' ').next()?.parse().ok()
}
