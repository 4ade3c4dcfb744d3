//! How much a consumer holds: so many sends at the same time, and as many again whose outcomes are being recorded.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio_util::sync::CancellationToken;

/// All places of one consumer.
pub(super) struct Places {
    /// Sends at the same time.
    sends: Arc<Semaphore>,
    /// Takes whose outcomes are not recorded yet. A slow database slows down the taking, and what a crash leaves unknown
    /// is bounded.
    hand: Arc<Semaphore>,
    most_sends: u32,
}

/// How many takes there may be for each send at the same time. With one, nothing would be sent while outcomes are written.
const TAKES: u32 = 3;

/// How long to wait for more places than one.
const GATHERING: Duration = Duration::from_millis(3);

/// A place among the sends at the same time, and one in the hand.
#[derive(Debug)]
pub(super) struct Slot {
    _send: OwnedSemaphorePermit,
    hand: InHand,
}

/// A place in the hand, freed when the outcome is recorded.
#[derive(Debug)]
pub(super) struct InHand(#[expect(dead_code, reason = "held, and freed by being dropped")] OwnedSemaphorePermit);

impl Places {
    /// Most sends at the same time that can be counted.
    pub(super) const MOST: usize = (u32::MAX / TAKES) as usize;

    pub(super) fn new(sends: usize) -> Places {
        let most_sends = u32::try_from(sends.min(Places::MOST)).unwrap_or(u32::MAX / TAKES);
        let semaphore = |places: u32| Arc::new(Semaphore::new((places as usize).min(Semaphore::MAX_PERMITS)));
        Places { sends: semaphore(most_sends), hand: semaphore(most_sends * TAKES), most_sends }
    }

    /// Waits until a place is free, and says how many are; 0 where a stop came first. Where most are taken it waits a
    /// moment for more: one statement for many is much less work than many for one each.
    pub(super) async fn free(&self, stop: &CancellationToken) -> usize {
        let some = async {
            // Given back at once: whoever asks is the only one who takes.
            drop(self.hand.acquire().await);
            drop(self.sends.acquire().await);
            let half = self.sends.acquire_many(self.most_sends.div_ceil(2));
            drop(tokio::time::timeout(GATHERING, half).await);
        };
        tokio::select! {
            () = some => self.sends.available_permits().min(self.hand.available_permits()),
            () = stop.cancelled() => 0,
        }
    }

    /// Waits until nothing is in hand; false where a stop came first.
    pub(super) async fn all_free(&self, stop: &CancellationToken) -> bool {
        tokio::select! {
            permits = self.hand.acquire_many(self.most_sends * TAKES) => permits.is_ok(),
            () = stop.cancelled() => false,
        }
    }

    /// Takes a place that is free.
    pub(super) fn take(&self) -> Result<Slot, TryAcquireError> {
        let hand = InHand(self.hand.clone().try_acquire_owned()?);
        Ok(Slot { _send: self.sends.clone().try_acquire_owned()?, hand })
    }
}

impl Slot {
    /// The send has ended, or there was none; what remains is held until the outcome is recorded.
    pub(super) fn sent(self) -> InHand {
        self.hand
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_send_that_has_ended_makes_room_for_another_though_its_outcome_is_not_recorded() {
        let (places, stop) = (Places::new(2), CancellationToken::new());
        let mut unrecorded = Vec::new();
        for _ in 0..TAKES {
            let slots = [places.take().unwrap(), places.take().unwrap()];
            assert!(places.take().is_err());
            unrecorded.extend(slots.map(Slot::sent));
        }
        // The bound of what is in hand.
        assert!(places.take().is_err());
        unrecorded.truncate(unrecorded.len() - 1);
        assert_eq!(places.free(&stop).await, 1);
        drop(unrecorded);
        assert_eq!(places.free(&stop).await, 2);
        assert!(places.all_free(&stop).await);
    }

    #[tokio::test]
    async fn a_stop_ends_the_wait() {
        let (places, stop) = (Places::new(1), CancellationToken::new());
        let _slot = places.take().unwrap();
        stop.cancel();
        assert_eq!(places.free(&stop).await, 0);
        assert!(!places.all_free(&stop).await);
    }
}
