//! Writing a message as an entry of a stream.

use redis::{Cmd, cmd};
use uuid::Uuid;

use super::Settings;
use crate::queue::{Lane, MAX_PAYLOAD, Message, Topic};

/// Adds one entry.
pub(super) fn xadd(settings: &Settings, topic: Topic, message: &Message) -> Cmd {
    let mut xadd = cmd("XADD");
    match topic {
        // Adding to a stream that is gone would make one without its group, and hide that hints were lost.
        Topic::Hints => xadd.arg(settings.stream(Lane::of(message))).arg("NOMKSTREAM"),
        Topic::DeadLetters => xadd.arg(&settings.dead_letter_stream).arg("MAXLEN").arg("~").arg(settings.max_len),
    };
    xadd.arg("*").arg("event_id").arg(message.event_id.hyphenated().encode_lower(&mut Uuid::encode_buffer()) as &str);
    let mut field = |name: &str, value: &str| {
        xadd.arg(name).arg(value);
    };
    field("event_type", &message.event_type);
    match &message.payload {
        Some(payload) if payload.len() <= MAX_PAYLOAD => field("payload", payload),
        _ => field("payload_omitted", "too large; see the row"),
    }
    field("retry_count", &message.retry_count.to_string());
    field("trace_id", message.trace_id.as_deref().unwrap_or_default());
    field("channel", &message.channel);
    field("target", &message.target);
    field("template_id", &message.template_id);
    field("attempt", &message.attempt.to_string());
    field("replay_count", &message.replay_count.to_string());
    if message.urgent {
        field("urgent", "1");
    }
    if let Some(error) = &message.last_error {
        field("last_error", error);
    }
    xadd
}
