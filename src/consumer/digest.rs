//! One message for several events: those that wait behind one that is admitted, or those of one whose outcome is unknown.

use tokio::time::Instant;
use uuid::Uuid;

use super::letter::{Done, Letter, Member, Sent};
use super::send::{Sender, mentions};
use crate::channel;
use crate::event::{Event, Outcome};
use crate::queue::Receipt;
use crate::store::robots::Granted;
use crate::template::Payload;

/// Most events looked at for one message: more than fit into one.
const MOST: i64 = 500;

impl Sender {
    /// Merges what waits behind this event into its message, as much as fits. Where there is nothing, it stays what it is.
    ///
    /// # Errors
    ///
    /// Whether membership is stored is not known, or the event is not this consumer's any more: it must not be sent.
    pub(super) async fn merge(&self, letter: &mut Letter, granted: &Granted) -> anyhow::Result<()> {
        let Some(digest_key) = &letter.digest_key else { return Ok(()) };
        let now = jiff::Timestamp::now();
        let mut waiting = self.store.mergeable(&letter.lane.name, digest_key, MOST).await?;
        // They fail in their own turn, and say so.
        waiting.retain(|event| !event.expired(now) && event.id != letter.event.id);
        let events: Vec<&Event> = within_limits(&letter.event, &waiting);
        let template_id = letter.event.template_id();
        let payloads: Vec<&Payload> = events.iter().map(|event| &event.payload).collect();
        let digest = self.templates.digest(template_id, &payloads, |message, places| {
            let mut message = message.clone();
            let members = places.iter().map(|place| events[*place]);
            message.mentions = mentions(message.mentions, members, &letter.lane);
            channel::fits(&message)
        });
        let apart: Vec<Uuid> =
            digest.bad.iter().map(|(place, _)| events[*place].id).filter(|id| *id != letter.event.id).collect();
        if !apart.is_empty() {
            self.store.set_apart(&apart).await?;
        }
        if digest.members.first() != Some(&0) || digest.members.len() < 2 {
            return Ok(());
        }

        let others: Vec<&Event> = digest.members[1..].iter().map(|place| events[*place]).collect();
        let digest_id = Uuid::new_v4();
        let leader = letter.members[0].key;
        // The leader's own deadline stays: the place of the budget is held for no longer.
        let keys = self.store.merge(leader, &others, digest_id, &granted.robot, self.send_lease).await?;
        anyhow::ensure!(keys.iter().any(|key| key.id == leader.id), "the event is not this consumer's any more");
        let mut members: Vec<Event> = others.into_iter().chain([&letter.event]).cloned().collect();
        members.retain_mut(|event| match keys.iter().find(|key| key.id == event.id) {
            Some(key) => {
                event.attempt = key.attempt;
                true
            }
            None => false,
        });
        members.sort_by_key(|event| event.seq);
        self.fill(letter, members, digest_id)
    }

    /// Makes the letter one for these events, which are in order.
    fn fill(&self, letter: &mut Letter, events: Vec<Event>, digest_id: Uuid) -> anyhow::Result<()> {
        let payloads: Vec<&Payload> = events.iter().map(|event| &event.payload).collect();
        let mut message = self.templates.render_digest(letter.event.template_id(), &payloads)?;
        message.mentions = mentions(message.mentions, &events, &letter.lane);
        let hints = std::mem::take(&mut letter.members[0].receipts);
        letter.members = self.members(&events, hints);
        letter.message = message;
        letter.digest_id = Some(digest_id);
        if let Some(event) = self.most_patient(events) {
            letter.event = event;
        }
        Ok(())
    }

    /// The message of several events, taken together, whose outcome is unknown: as it was.
    ///
    /// # Errors
    ///
    /// What becomes of them without a send.
    pub(super) fn whole(
        &self,
        events: Vec<Event>,
        digest_id: Uuid,
        receipts: Vec<Receipt>,
        deadline: Instant,
    ) -> Result<Letter, Box<Done>> {
        let members = self.members(&events, receipts);
        let without = |members, sent: Sent| {
            // Whatever it waits for, it is sent again only as it was.
            let keeps_digest = !matches!(sent.outcome, Outcome::Failed { .. });
            let sent = Sent { digest_id: Some(digest_id), keeps_digest, is_unknown: true, ..sent };
            Box::new(Done { members, sent, place: None })
        };
        let Some(first) = events.first() else {
            return Err(without(members, Sent::unsent(Outcome::Released { error: None })));
        };
        let lane = match self.lane(first) {
            Ok(lane) => lane,
            Err(sent) => return Err(without(members, *sent)),
        };
        let payloads: Vec<&Payload> = events.iter().map(|event| &event.payload).collect();
        let mut message = match self.templates.render_digest(first.template_id(), &payloads) {
            Ok(message) => message,
            Err(error) => {
                let error = format!("outcome unknown, and the message cannot be made again as it was: {error}");
                return Err(without(members, Sent::unsent(Outcome::Failed { error, response: None })));
            }
        };
        message.mentions = mentions(message.mentions, &events, &lane);
        let digest_key = self.digest_key(first, &lane);
        let Some(event) = self.most_patient(events) else {
            return Err(without(members, Sent::unsent(Outcome::Released { error: None })));
        };
        Ok(Letter { members, event, message, lane, digest_id: Some(digest_id), is_again: true, digest_key, deadline })
    }

    /// The hints are dropped together, with the first.
    fn members(&self, events: &[Event], mut receipts: Vec<Receipt>) -> Vec<Member> {
        events.iter().map(|event| self.member(event, std::mem::take(&mut receipts))).collect()
    }

    /// So that none of them is given up while another may be retried: they stay together.
    fn most_patient(&self, events: Vec<Event>) -> Option<Event> {
        events.into_iter().max_by_key(|event| self.policy.retries_left(event))
    }
}

/// The leader and as many others as the limits of all of them allow.
fn within_limits<'a>(leader: &'a Event, waiting: &'a [Event]) -> Vec<&'a Event> {
    let limit = |event: &Event| event.digest_limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(1));
    let mut most = limit(leader);
    let mut events = vec![leader];
    for event in waiting {
        if events.len() + 1 > most.min(limit(event)) {
            break;
        }
        most = most.min(limit(event));
        events.push(event);
    }
    events
}
