//! What XREADGROUP and XAUTOCLAIM answer, in which anybody may have put anything.

use redis::Value;

use super::reply;
use crate::queue::Lane;

/// Any answer of the server is read, and of entries that have an id none is lost: each is a hint, or dropped.
pub fn stream_reply(resp: &[u8]) {
    if let Ok(reply) = redis::parse_redis_value(resp) {
        entries(&reply);
    }
}

fn entries(answer: &Value) {
    let lane = |stream: &str| (!stream.is_empty()).then_some(Lane::Normal);
    let read = reply::read(answer.clone(), lane);
    let with_id = |entries: &Value| match entries {
        Value::Array(entries) => entries.iter().filter(|entry| named(entry).is_some()).count(),
        _ => 0,
    };
    let streams: &[Value] = if let Value::Array(streams) = answer { streams } else { &[] };
    let expected: usize = streams
        .iter()
        .filter(|stream| named(stream).and_then(lane).is_some())
        .map(|stream| if let Value::Array(parts) = stream { parts.get(1).map_or(0, with_id) } else { 0 })
        .sum();
    assert_eq!(read.hints.len() + read.junk.len(), expected);
    assert_eq!(read.last_id.is_some(), expected > 0);

    let (_, claimed) = reply::claimed(answer.clone(), Lane::Urgent);
    let of_second = if let Value::Array(parts) = answer { parts.get(1).map_or(0, with_id) } else { 0 };
    assert!(claimed.hints.len() + claimed.junk.len() >= of_second);
}

/// The text that an array begins with.
fn named(value: &Value) -> Option<&str> {
    let Value::Array(parts) = value else { return None };
    match parts.first()? {
        Value::BulkString(bytes) => str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::properties::random;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Nil),
            Just(Value::Okay),
            any::<i64>().prop_map(Value::Int),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::BulkString),
            proptest::sample::select(vec!["event_id", "0-0", "1-1", "00000000-0000-0000-0000-000000000007", "n"])
                .prop_map(|text| Value::BulkString(text.into())),
            "[a-z]{0,4}".prop_map(Value::SimpleString),
        ];
        leaf.prop_recursive(5, 64, 6, |inner| proptest::collection::vec(inner, 0..6).prop_map(Value::Array))
    }

    proptest! {
        #![proptest_config(random::cases(2_000))]

        #[test]
        fn whatever_the_server_answers_is_read_and_no_entry_is_lost(answer in value()) {
            entries(&answer);
        }

        #[test]
        fn an_entry_of_anything_takes_no_neighbour_with_it(stranger in value(), id in any::<u128>()) {
            let id = uuid::Uuid::from_u128(id);
            let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
            let fields = Value::Array(vec![bulk("event_id"), bulk(&id.to_string())]);
            let neighbour = |entry: &str| Value::Array(vec![bulk(entry), fields.clone()]);
            let entries = Value::Array(vec![neighbour("1-0"), stranger, neighbour("3-0")]);
            let answer = Value::Array(vec![Value::Array(vec![bulk("n"), entries])]);
            let found = reply::read(answer, |_| Some(Lane::Normal));
            for entry in ["1-0", "3-0"] {
                prop_assert!(found.hints.iter().any(|hint| hint.event_id == id && hint.receipt.id == entry));
            }
        }

        #[test]
        fn any_bytes_are_an_answer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            stream_reply(&bytes);
        }
    }
}
