//! The protocol, small enough to look at every state it can reach, whatever goes wrong in whatever order.
//!
//! [`protocol`] is one row between relays and consumers, [`digest`] are rows that are sent together, and [`wake_up`] is
//! the lock on which relays sleep. Their steps bear the names of the statements and functions that they stand for; the
//! bounds of each exploration stand at its end. None is cut short: within its bounds, every state was seen.
//!
//! A model is worth what it notices, so each comes with a list of mutations, every one of which must break a property.

#[cfg(test)]
mod digest;
#[cfg(test)]
mod explore;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod wake_up;
