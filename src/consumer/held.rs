//! Hints of rows that a transaction held when they were to be taken. Nobody sends these rows, and as a rule the
//! transaction is a relay's claim that has found them claimed already and ends in a moment: to leave them until their
//! hints can be reclaimed would cost a send lease.

use std::time::Duration;

use tokio::time::Instant;

use crate::queue::Hint;

/// Pause between two looks at rows that are held.
const PAUSE: Duration = Duration::from_millis(250);

/// Most hints that are kept. Somebody's long transaction may hold any number of rows; looking at them must stay cheap.
const MOST: usize = 256;

/// What is to be looked at again soon.
#[derive(Default)]
pub(super) struct Held {
    hints: Vec<Hint>,
    look_at: Option<Instant>,
}

impl Held {
    /// Keeps a hint for the next look. Beyond the most it stays pending, as that of a row that is being sent does.
    pub(super) fn keep(&mut self, hint: Hint) {
        if self.hints.len() < MOST {
            self.look_at.get_or_insert_with(|| Instant::now() + PAUSE);
            self.hints.push(hint);
        }
    }

    /// All of them, when it is time.
    pub(super) fn due(&mut self) -> Vec<Hint> {
        match self.look_at {
            Some(at) if at <= Instant::now() => {
                self.look_at = None;
                std::mem::take(&mut self.hints)
            }
            _ => Vec::new(),
        }
    }
}
