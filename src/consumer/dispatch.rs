//! From a letter in hand to its end: admission, where its robot has a budget, the send, and the way to the recorder.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::letter::{Done, Letter, Member, Sent};
use super::place::Slot;
use super::send::Sender;
use super::turn::Turn;
use crate::backoff::Backoff;
use crate::channel::Robot;
use crate::event::Outcome;
use crate::metrics::Metrics;
use crate::queue::Receipt;
use crate::store::robots::{Admission, Admissions, Ask, Granted};

/// How long a robot's row may be held by somebody else before what asks for admission is put back.
const BUSY_PATIENCE: Duration = Duration::from_secs(1);

/// For how long.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// Where what was taken goes; cheap to clone.
#[derive(Clone)]
pub(super) struct Dispatch {
    pub sender: Arc<Sender>,
    pub metrics: Arc<Metrics>,
    pub sends: TaskTracker,
    pub done: UnboundedSender<Done>,
    pub acks: UnboundedSender<Vec<Receipt>>,
    /// Ends the waits for answers.
    pub abandon: CancellationToken,
}

/// A letter that can be sent.
pub(super) struct Ready {
    pub letter: Letter,
    pub slot: Slot,
    /// Its place in the order of its lane.
    pub turn: Option<Turn>,
}

impl Dispatch {
    /// To be recorded. The recorder outlives every send, but for a panic, which ends the process.
    pub(super) fn ended(&self, done: Done) {
        let _ = self.done.send(done);
    }

    /// Hints that are not needed any more.
    pub(super) fn drop_hints(&self, receipts: Vec<Receipt>) {
        let _ = self.acks.send(receipts);
    }

    /// Starts one send, which was granted not before the moment given.
    pub(super) fn start(&self, ready: Ready, granted: Granted, granted_at: Instant) {
        let Ready { letter, slot, turn } = ready;
        let in_hand = letter.members.len() as i64;
        let sending = self.sender.clone().send(letter, granted, granted_at, turn, self.abandon.clone());
        let dispatch = self.clone();
        // In a box: a task is moved several times on its way, and this one has kilobytes.
        self.sends.spawn(Box::pin(async move {
            let (members, sent) = sending.await;
            dispatch.metrics.in_hand.inc_by(members.len() as i64 - in_hand);
            dispatch.ended(Done { members, sent, place: Some(slot.sent()) });
        }));
    }

    /// One whose target has no robot that can be used now.
    pub(super) fn put_back(&self, ready: Ready) {
        let name = &ready.letter.lane.name;
        let sent =
            Sent::waiting_for_target(name, format!("the target {name} is disabled, or none of its robots is there"));
        self.unsent(ready, sent);
    }

    /// Asks for leave to send these, which are for one lane, and starts those that get it; the others are parked. Not in
    /// the consumer's own loop: one robot's row that somebody holds must not hold up the others.
    pub(super) fn admit(&self, asking: Vec<Ready>, turn: Turn) {
        let dispatch = self.clone();
        self.sends.spawn(async move {
            // In the order in which they were taken: a newcomer must not find room before older ones have asked.
            let _mine = turn.come(BUSY_PATIENCE).await;
            let asked_at = Instant::now();
            let asks: Vec<Ask> = asking.iter().flat_map(|ready| asks(&ready.letter)).collect();
            let admissions = tokio::select! {
                biased;
                admissions = dispatch.ask(&asking, &asks) => admissions,
                () = dispatch.abandon.cancelled() => Ok(None),
            };
            match admissions {
                Ok(Some(admissions)) => dispatch.admitted(asking, admissions, asked_at),
                // It may have been granted; then its places end by themselves.
                Ok(None) if dispatch.abandon.is_cancelled() => {
                    asking.into_iter().for_each(|ready| dispatch.give_back(ready));
                }
                Ok(None) => asking.into_iter().for_each(|ready| dispatch.postpone(ready)),
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(error, events = asks.len(), "asking for admission failed; giving back what asked");
                    asking.into_iter().for_each(|ready| dispatch.give_back(ready));
                }
            }
        });
    }

    /// None: somebody else has held the row of one of the robots all the time.
    async fn ask(&self, asking: &[Ready], asks: &[Ask]) -> anyhow::Result<Option<Vec<Admission>>> {
        let Some(Ready { letter: Letter { lane, .. }, .. }) = asking.first() else { return Ok(None) };
        let robots: Vec<&str> = lane.robots.iter().map(Robot::name).collect();
        self.sender.watch.ensure(&lane.robots).await?;
        let deadline = asking.iter().map(|ready| ready.letter.deadline).max().unwrap_or_else(Instant::now);
        let end = Instant::now() + BUSY_PATIENCE;
        let mut pause = Backoff::new(Duration::from_millis(1), Duration::from_millis(100));
        loop {
            let hold = deadline.saturating_duration_since(Instant::now());
            match self.sender.store.admit(&lane.name, &robots, asks, hold).await? {
                Admissions::Judged(admissions) => return Ok(Some(admissions)),
                Admissions::Busy => {}
                Admissions::Missing => {
                    self.sender.watch.forget(&lane.robots);
                    self.sender.watch.ensure(&lane.robots).await?;
                }
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            tokio::time::sleep(pause.next_delay()).await;
        }
    }

    fn admitted(&self, asking: Vec<Ready>, admissions: Vec<Admission>, asked_at: Instant) {
        let mut admitted: HashMap<Uuid, Option<Granted>> =
            admissions.into_iter().map(|admission| (admission.id, admission.granted)).collect();
        for ready in asking {
            let members = &ready.letter.members;
            let of_it: Vec<_> = members.iter().filter_map(|member| admitted.remove(&member.key.id)).collect();
            let is_whole = of_it.len() == members.len();
            match of_it.into_iter().next() {
                Some(Some(granted)) if is_whole => self.start(ready, granted, asked_at),
                // It is hinted again in its turn.
                Some(None) if is_whole => self.parked(ready.letter),
                // Somebody's transaction holds it, or it is not this consumer's any more: the record finds out which.
                _ => self.give_back(ready),
            }
        }
    }

    fn parked(&self, mut letter: Letter) {
        for member in &mut letter.members {
            let Member { key, channel, template_id, receipts, .. } = member;
            self.metrics.in_hand.dec();
            self.metrics.recorded(channel, template_id, "wait");
            self.metrics.throttled_waits.inc();
            tracing::debug!(event_id = %key.id, robot = letter.lane.name, "parked");
            self.drop_hints(std::mem::take(receipts));
        }
    }

    fn give_back(&self, ready: Ready) {
        let sent = Sent { keeps_digest: true, ..Sent::unsent(Outcome::Released { error: None }) };
        self.unsent(ready, sent);
    }

    /// Put back for a moment: its turn stays its own.
    fn postpone(&self, ready: Ready) {
        let error = "somebody's transaction holds the row of its robot".to_owned();
        let outcome = Outcome::Wait { after: Some(BUSY_PAUSE), error, response: None };
        let sent = Sent { keeps_digest: true, ..Sent::unsent(outcome) };
        self.unsent(ready, sent);
    }

    fn unsent(&self, ready: Ready, sent: Sent) {
        let Ready { letter, slot, .. } = ready;
        let keeps_digest = sent.keeps_digest || letter.is_again;
        // What must stay with a robot does.
        let robot = sent.robot.or_else(|| letter.event.robot.clone());
        let sent = Sent { robot, digest_id: letter.digest_id, digest_key: letter.digest_key, keeps_digest, ..sent };
        self.ended(Done { members: letter.members, sent, place: Some(slot.sent()) });
    }
}

fn asks(letter: &Letter) -> Vec<Ask> {
    let unit = letter.digest_id.unwrap_or(letter.event.id);
    let ask = |member: &Member| Ask {
        id: member.key.id,
        attempt: member.key.attempt,
        digest_key: letter.digest_key.clone(),
        unit,
    };
    letter.members.iter().map(ask).collect()
}
