//! How the connections to Redis are, for people to know.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One of a process's connections to Redis.
#[derive(Debug)]
pub struct Link {
    /// `write`, by which hints are added, acknowledged and counted, or `read`, by which they are received.
    pub name: &'static str,
    is_wanted: AtomicBool,
    is_up: AtomicBool,
    made: AtomicU64,
}

impl Link {
    pub(super) fn new(name: &'static str) -> Link {
        Link { name, is_wanted: AtomicBool::new(false), is_up: AtomicBool::new(false), made: AtomicU64::new(0) }
    }

    /// Whether this process has ever tried to make it: one that does not receive needs none to read.
    pub fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    /// Whether it stands, as far as is known: a broken one is noticed when it is used.
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// How often it was made.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// It was tried to make it.
    pub(super) fn tried(&self, is_made: bool) {
        self.is_wanted.store(true, Ordering::Relaxed);
        self.made.fetch_add(is_made.into(), Ordering::Relaxed);
        self.stands(is_made);
    }

    /// Whether it stands now.
    pub(super) fn stands(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::Relaxed);
    }
}
