//! Reading the replies of XREADGROUP and XAUTOCLAIM, in which anybody may have put anything.

use redis::Value;
use uuid::Uuid;

use crate::queue::{Hint, Lane, Receipt};

/// Entries, told apart by whether they are hints.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entries {
    /// Entries that name a row.
    pub hints: Vec<Hint>,
    /// Entries that do not, or that were deleted while pending: to be acknowledged and forgotten.
    pub junk: Vec<Receipt>,
    /// The id of the last entry, where one stream was read.
    pub last_id: Option<String>,
}

/// The answer of XREADGROUP: nil, or `[[stream, entries], …]`, in the order in which the streams were asked for.
pub(super) fn read(reply: Value, lane: impl Fn(&str) -> Option<Lane>) -> Entries {
    let mut found = Entries::default();
    let Value::Array(streams) = reply else { return found };
    for stream in streams {
        let Value::Array(parts) = stream else { continue };
        let mut parts = parts.into_iter();
        let lane = parts.next().and_then(text).and_then(|stream| lane(&stream));
        if let (Some(lane), Some(entries)) = (lane, parts.next()) {
            found.add(lane, entries);
        }
    }
    found
}

/// The answer of XAUTOCLAIM: `[next cursor, entries, deleted ids]`, the last part from Redis 7 on.
pub(super) fn claimed(reply: Value, lane: Lane) -> (Option<String>, Entries) {
    let mut found = Entries::default();
    let Value::Array(parts) = reply else { return (None, found) };
    let mut parts = parts.into_iter();
    let cursor = parts.next().and_then(text);
    if let Some(entries) = parts.next() {
        found.add(lane, entries);
    }
    if let Some(Value::Array(deleted)) = parts.next() {
        found.junk.extend(deleted.into_iter().filter_map(text).map(|id| Receipt { lane, id }));
    }
    (cursor, found)
}

impl Entries {
    fn add(&mut self, lane: Lane, entries: Value) {
        let Value::Array(entries) = entries else { return };
        for entry in entries {
            let Value::Array(parts) = entry else { continue };
            let mut parts = parts.into_iter();
            let Some(id) = parts.next().and_then(text) else { continue };
            self.last_id = Some(id.clone());
            let receipt = Receipt { lane, id };
            match parts.next().and_then(event_id) {
                Some(event_id) => self.hints.push(Hint { event_id, receipt }),
                None => self.junk.push(receipt),
            }
        }
    }
}

fn event_id(fields: Value) -> Option<Uuid> {
    let Value::Array(fields) = fields else { return None };
    let mut fields = fields.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        if text(name).as_deref() == Some("event_id") {
            return text(value).and_then(|id| id.parse().ok());
        }
    }
    None
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn entry(id: &str, fields: &[&str]) -> Value {
        Value::Array(vec![bulk(id), Value::Array(fields.iter().copied().map(bulk).collect())])
    }

    fn receipt(lane: Lane, id: &str) -> Receipt {
        Receipt { lane, id: id.to_owned() }
    }

    fn lane(stream: &str) -> Option<Lane> {
        [("u", Lane::Urgent), ("n", Lane::Normal)].into_iter().find(|(name, _)| *name == stream).map(|(_, lane)| lane)
    }

    #[test]
    fn an_entry_that_names_no_row_is_junk_and_takes_no_neighbour_with_it() {
        let id = Uuid::from_u128(7);
        let reply = Value::Array(vec![Value::Array(vec![
            bulk("n"),
            Value::Array(vec![
                entry("1-0", &["hello", "world"]),
                entry("2-0", &["event_id", "not a uuid"]),
                entry("3-0", &["x", "y", "event_id", &id.to_string()]),
                Value::Array(vec![bulk("4-0"), Value::Nil]),
                entry("5-0", &["event_id"]),
                Value::Int(6),
            ]),
        ])]);
        let found = read(reply, lane);
        assert_eq!(found.hints, [Hint { event_id: id, receipt: receipt(Lane::Normal, "3-0") }]);
        assert_eq!(found.junk, ["1-0", "2-0", "4-0", "5-0"].map(|id| receipt(Lane::Normal, id)));
        assert_eq!(found.last_id.as_deref(), Some("5-0"));
    }

    #[test]
    fn entries_of_two_streams_keep_their_order_and_know_their_lane() {
        let id = Uuid::from_u128(7);
        let of = |stream: &str, junk: &str, hint: &str| {
            let entries = vec![entry(junk, &[]), entry(hint, &["event_id", &id.to_string()])];
            Value::Array(vec![bulk(stream), Value::Array(entries)])
        };
        let found = read(Value::Array(vec![of("u", "1-0", "2-0"), of("n", "1-1", "1-2"), of("x", "9-0", "9-1")]), lane);
        let receipts: Vec<Receipt> = found.hints.into_iter().map(|hint| hint.receipt).collect();
        assert_eq!(receipts, [receipt(Lane::Urgent, "2-0"), receipt(Lane::Normal, "1-2")]);
        assert_eq!(found.junk, [receipt(Lane::Urgent, "1-0"), receipt(Lane::Normal, "1-1")]);
    }

    #[test]
    fn a_read_that_timed_out_has_nothing() {
        assert_eq!(read(Value::Nil, lane), Entries::default());
    }

    #[test]
    fn entries_deleted_while_pending_are_junk() {
        let reply = Value::Array(vec![bulk("0-0"), Value::Array(vec![]), Value::Array(vec![bulk("9-1")])]);
        let (cursor, entries) = claimed(reply, Lane::Urgent);
        assert_eq!(cursor.as_deref(), Some("0-0"));
        assert_eq!(entries.junk, [receipt(Lane::Urgent, "9-1")]);
    }
}
