//! Spans of each event, for OpenTelemetry (feature `otel`): *hint* by the relay, *send* by the consumer.
//!
//! They are children of the caller's span where the event's `trace_id` is a W3C `traceparent`; where it is a trace id of 32
//! hexadecimal digits they are in that trace; otherwise in one that has the event's own id. So nothing needs to be carried from
//! the one process to the other, and insert, hint and send are one trace.
//!
//! A span is made when what it tells of is over, from what was measured anyway. Without the feature all of this is empty.

#[cfg(not(feature = "otel"))]
mod off;
#[cfg(feature = "otel")]
mod otlp;

use std::time::{Duration, Instant};

use uuid::Uuid;

#[cfg(not(feature = "otel"))]
pub use off::Traces;
#[cfg(feature = "otel")]
pub use otlp::Traces;

/// What a span tells: never a payload, a token or a secret.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// `hint` or `send`.
    pub name: &'static str,
    /// The row.
    pub event_id: Uuid,
    /// Such as `resume.parsed`.
    pub event_type: &'a str,
    /// Template that renders it.
    pub template_id: &'a str,
    /// The caller's.
    pub trace_id: Option<&'a str>,
    /// Takes so far.
    pub attempt: i32,
    /// When it began; none: it took no time.
    pub began: Option<Instant>,
    /// How long it took.
    pub took: Duration,
    /// Of a send: what came of it.
    pub sent: Option<Sent<'a>>,
}

/// What came of a send.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// Such as `delivered`.
    pub outcome: &'static str,
    /// What the answer meant.
    pub class: &'static str,
    /// The robot, where one was chosen.
    pub robot: &'a str,
    /// Requests begun.
    pub tries: u32,
    /// Why it was not delivered.
    pub error: Option<&'a str>,
}
