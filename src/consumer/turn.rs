//! Who goes first: messages for one robot with a budget ask for admission, and start, one after the other, so that the group
//! reads them in the order in which they were published.

use std::collections::HashMap;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

/// A message goes at last when the one before has been under way for so long.
pub(super) const PATIENCE: Duration = Duration::from_millis(250);

/// The last turn of each lane.
#[derive(Debug, Default)]
pub(super) struct Turns(HashMap<String, Markers>);

#[derive(Clone, Debug, Default)]
struct Markers {
    begun: CancellationToken,
    ended: CancellationToken,
}

/// A place in the order of a lane. It ends when it is dropped, however that comes.
#[derive(Debug)]
pub(super) struct Turn {
    before: Option<Markers>,
    begun: DropGuard,
    _ended: DropGuard,
}

impl Turns {
    /// The place behind all that were given before.
    pub(super) fn next(&mut self, lane: &str) -> Turn {
        self.0.retain(|_, last| !last.ended.is_cancelled());
        let mine = Markers::default();
        let before = self.0.insert(lane.to_owned(), mine.clone());
        Turn { before, begun: mine.begun.drop_guard(), _ended: mine.ended.drop_guard() }
    }
}

impl Turn {
    /// Waits for it, once the one before has begun no longer than this; whoever is next waits for what is returned.
    pub(super) async fn come(self, patience: Duration) -> impl Drop {
        let Turn { before, begun, _ended: ended } = self;
        if let Some(before) = before {
            before.begun.cancelled().await;
            let _ = tokio::time::timeout(patience, before.ended.cancelled()).await;
        }
        drop(begun);
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn each_begins_when_the_one_before_has_ended_or_takes_long() {
        let mut turns = Turns::default();
        let order = Arc::new(Mutex::new(Vec::new()));
        let endless = CancellationToken::new();
        let tasks: Vec<_> = (0..4)
            .map(|n| {
                let (turn, order, endless) = (turns.next("ops"), order.clone(), endless.clone());
                tokio::spawn(async move {
                    let _mine = turn.come(PATIENCE).await;
                    order.lock().unwrap().push((n, Instant::now()));
                    if n == 1 {
                        endless.cancelled().await;
                    }
                })
            })
            .collect();
        let mut tasks = tasks.into_iter();
        let endless_task = tasks.nth(1).unwrap();
        for task in tasks {
            task.await.unwrap();
        }
        let order = order.lock().unwrap().clone();
        assert_eq!(order.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(order[2].1 - order[1].1 >= PATIENCE);
        endless.cancel();
        endless_task.await.unwrap();
    }

    #[tokio::test]
    async fn one_that_never_comes_holds_up_none_and_is_forgotten() {
        let mut turns = Turns::default();
        let (first, second) = (turns.next("ops"), turns.next("ops"));
        drop(first);
        drop(second.come(PATIENCE).await);
        assert!(turns.next("hr").before.is_none());
        assert_eq!(turns.0.len(), 1);
    }
}
