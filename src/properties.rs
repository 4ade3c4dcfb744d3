//! What holds whatever a stranger writes: one function for each kind of input, which panics where it does not.
//!
//! The tests beside each give it random values; the targets in `fuzz/` give it those that find new ways through the code.

pub use crate::channel::properties::{hosts, robot_reply, webhook};
pub use crate::cli::properties::configuration;
pub use crate::event::properties::options;
pub use crate::queue::redis::properties::stream_reply;
pub use crate::template::properties::{payload, template};

/// Stands in every value that must not be shown, and nowhere else.
pub(crate) const MARK: char = '⁑';

/// JSON with the mark in every string, and under a key of every object; none where this is not an object.
pub(crate) fn marked(json: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
    fn mark(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::String(text) => text.push(MARK),
            serde_json::Value::Array(items) => items.iter_mut().for_each(mark),
            serde_json::Value::Object(fields) => {
                fields.values_mut().for_each(mark);
                fields.insert(MARK.to_string(), serde_json::Value::Null);
            }
            serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
        }
    }
    let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).ok()?;
    fields.values_mut().for_each(mark);
    fields.insert(MARK.to_string(), serde_json::Value::Null);
    Some(fields)
}

/// A reason that a person can be shown: there is one, it is not endless, and no value is in it.
pub(crate) fn is_clear(reason: &str) {
    assert!(!reason.trim().is_empty(), "no reason is given");
    assert!(reason.len() < 4_000, "{} bytes of reason: {reason}", reason.len());
    assert!(!reason.contains(MARK), "a value is shown: {reason}");
}

#[cfg(test)]
pub(crate) mod random {
    //! Random values, the same in every run unless `PROPTEST_RNG_SEED` says otherwise; `PROPTEST_CASES` makes more of them
    //! (256 are as many as here).

    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngSeed};

    /// So many cases.
    pub(crate) fn cases(cases: u32) -> Config {
        let given = Config::default();
        let rng_seed = match given.rng_seed {
            RngSeed::Random => RngSeed::Fixed(20_261_127),
            fixed @ RngSeed::Fixed(_) => fixed,
        };
        let cases = (u64::from(cases) * u64::from(given.cases) / 256).try_into().unwrap_or(u32::MAX);
        Config { cases, rng_seed, failure_persistence: None, ..given }
    }

    /// Text of pieces that are worst together, and of any characters.
    pub(crate) fn text(pieces: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => proptest::sample::select(pieces).prop_map(str::to_owned),
            1 => any::<char>().prop_map(String::from),
            1 => "[ -~]{0,6}",
        ];
        proptest::collection::vec(piece, 0..most).prop_map(|pieces| pieces.concat())
    }

    /// A JSON object whose keys are often these, with values of every kind.
    pub(crate) fn object(keys: &'static [&'static str]) -> impl Strategy<Value = String> {
        let number = prop_oneof![Just("1e400"), Just("-0"), Just("18446744073709551616"), Just("1e-400"), Just("95.0")];
        let scalar = prop_oneof![
            Just("null".to_owned()),
            any::<bool>().prop_map(|value| value.to_string()),
            any::<i64>().prop_map(|value| value.to_string()),
            number.prop_map(str::to_owned),
            text(&["\n", "\u{0}", "https://a.example/", "](", "@all", "<", "13800138000", "${x}", "<%"], 8)
                .prop_map(|text| serde_json::to_string(&text).unwrap()),
        ];
        let key = move || prop_oneof![3 => proptest::sample::select(keys).prop_map(str::to_owned), 1 => "[a-z]{0,3}"];
        let value = scalar.prop_recursive(4, 32, 6, move |inner| {
            let fields = proptest::collection::vec((key(), inner.clone()), 0..6);
            prop_oneof![
                proptest::collection::vec(inner, 0..6).prop_map(|items| format!("[{}]", items.join(","))),
                fields.prop_map(written),
            ]
        });
        proptest::collection::vec((key(), value), 0..8).prop_map(written)
    }

    fn written(fields: Vec<(String, String)>) -> String {
        let fields = fields.into_iter().map(|(key, value)| format!("{}:{value}", serde_json::to_string(&key).unwrap()));
        format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
    }
}
