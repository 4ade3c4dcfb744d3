//! postbell: a row committed in PostgreSQL rings in a chat group — always, promptly, and once.
//!
//! # The walk of one event
//!
//! 1. Business code inserts a row into `notification_events` in its own transaction ([`event`], `sql/migrations`). Its
//!    commit wakes the relay.
//! 2. The [`relay`] *claims* due rows: each gets a hint lease.
//! 3. It *hints* them: one entry each in the [`queue`].
//! 4. The [`consumer`] *receives* hints, *takes* their rows, as many as it can start to send now: each gets a send
//!    lease and a new attempt number.
//! 5. It renders each with its [`template`], asks for *admission* by its robot, whose budget is a row of its own
//!    (what gets no place is *parked*, and *unparked* by the relay in its turn; what waits in numbers is *merged*) …
//! 6. … and *sends* it through its [`channel`] to the robot.
//! 7. It *settles* with the robot, *records* the outcome in the row, and only then *acknowledges* the hint.
//! 8. A row that failed is due once more: the relay *buries* it, a dead letter in a stream of its own.
//!
//! # The one idea
//!
//! The row is the truth; a queue entry is only a hint that a row is due. First send, scheduled send, retry, replay,
//! recovery of a dead process or of a queue that lost its data are one rule: a row that is not complete and whose time
//! has come is hinted again.
//!
//! # Invariants
//!
//! * A row that is not complete becomes due again, whatever dies: every lease ends by itself.
//! * Nothing is sent but by the consumer that holds the row's send lease, and no try begins without time for its end.
//! * What was decided before a send (attempt, generation, robot, who is in the message) is durable before the first byte
//!   leaves.
//! * A robot gets no more requests in any window than its budget has, whatever dies.
//! * A message of several events whose outcome is unknown is sent again only as it was, as a whole.
//! * An outcome counts only for its own generation (`replay_count`); a failure only while its take (`attempt`) holds
//!   the row; a success always, unless the row is complete.
//! * A hint is acknowledged only after its outcome is recorded. Any hint may be lost, doubled, late or trimmed.
//! * A row is `delivered` only after the platform said yes to a send of that generation, and complete as `failed` only
//!   after its dead letter is in the stream.
//! * All stored times are PostgreSQL's. No transaction is open while a process talks to the queue or to a robot.
//! * No token, secret or payload appears in a log, an error, a metric or a view.
//!
//! The statements of the protocol are the files of `sql/queries`, run by [`store`]. ARCHITECTURE.md has the reasons.

pub mod alert;
pub mod backoff;
pub mod channel;
pub mod cli;
pub mod commands;
pub mod config;
pub mod consumer;
pub mod db;
pub mod event;
pub mod health;
pub mod log;
pub mod message;
pub mod metrics;
pub mod migrations;
#[cfg(any(test, fuzzing))]
pub mod properties;
pub mod queue;
pub mod relay;
pub mod sandbox;
pub mod service;
pub mod store;
pub mod template;
pub mod traces;
