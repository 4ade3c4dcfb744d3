//! Reading the replies of XREADGROUP and XAUTOCLAIM, in which anybody may have put anything.

use redis::Value;
use uuid::Uuid;

use super::super::{Hint, Receipt};

/// Entries of a stream, told apart by whether they are hints.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entries {
    /// Entries that name a row.
    pub hints: Vec<Hint>,
    /// Entries that do not, or that were deleted while pending: to be acknowledged and forgotten.
    pub junk: Vec<Receipt>,
    /// The id of the last entry.
    pub last_id: Option<String>,
}

/// The answer of XREADGROUP on one stream: nil, or `[[stream, entries]]`.
pub(super) fn read(reply: Value) -> Entries {
    let entries = match reply {
        Value::Array(streams) => streams.into_iter().next().and_then(|stream| match stream {
            Value::Array(mut parts) if parts.len() == 2 => parts.pop(),
            _ => None,
        }),
        _ => None,
    };
    entries.map(self::entries).unwrap_or_default()
}

/// The answer of XAUTOCLAIM: `[next cursor, entries, deleted ids]`, the last part from Redis 7 on.
pub(super) fn claimed(reply: Value) -> (Option<String>, Entries) {
    let Value::Array(parts) = reply else { return (None, Entries::default()) };
    let mut parts = parts.into_iter();
    let cursor = parts.next().and_then(text);
    let mut entries = parts.next().map(entries).unwrap_or_default();
    if let Some(Value::Array(deleted)) = parts.next() {
        entries.junk.extend(deleted.into_iter().filter_map(text).map(Receipt));
    }
    (cursor, entries)
}

fn entries(value: Value) -> Entries {
    let mut found = Entries::default();
    let Value::Array(entries) = value else { return found };
    for entry in entries {
        let Value::Array(parts) = entry else { continue };
        let mut parts = parts.into_iter();
        let Some(id) = parts.next().and_then(text) else { continue };
        found.last_id = Some(id.clone());
        match parts.next().and_then(event_id) {
            Some(event_id) => found.hints.push(Hint { event_id, receipt: Receipt(id) }),
            None => found.junk.push(Receipt(id)),
        }
    }
    found
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

    #[test]
    fn an_entry_that_names_no_row_is_junk_and_takes_no_neighbour_with_it() {
        let id = Uuid::from_u128(7);
        let reply = Value::Array(vec![Value::Array(vec![
            bulk("stream"),
            Value::Array(vec![
                entry("1-0", &["hello", "world"]),
                entry("2-0", &["event_id", "not a uuid"]),
                entry("3-0", &["x", "y", "event_id", &id.to_string()]),
                Value::Array(vec![bulk("4-0"), Value::Nil]),
                entry("5-0", &["event_id"]),
                Value::Int(6),
            ]),
        ])]);
        let found = read(reply);
        assert_eq!(found.hints, [Hint { event_id: id, receipt: Receipt("3-0".into()) }]);
        assert_eq!(found.junk, ["1-0", "2-0", "4-0", "5-0"].map(|id| Receipt(id.into())));
        assert_eq!(found.last_id.as_deref(), Some("5-0"));
    }

    #[test]
    fn a_read_that_timed_out_has_nothing() {
        assert_eq!(read(Value::Nil), Entries::default());
    }

    #[test]
    fn entries_deleted_while_pending_are_junk() {
        let reply = Value::Array(vec![bulk("0-0"), Value::Array(vec![]), Value::Array(vec![bulk("9-1")])]);
        let (cursor, entries) = claimed(reply);
        assert_eq!(cursor.as_deref(), Some("0-0"));
        assert_eq!(entries.junk, [Receipt("9-1".into())]);
    }
}
