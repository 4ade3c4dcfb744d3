//! Options: read or refused, and what they ask of a message.

use jiff::Timestamp;

use super::Options;
use crate::channel;
use crate::message::{Format, Mentions, Message};
use crate::properties::{is_clear, marked};

/// Options are read, or it is said what is wrong with them; and so is whom they mention.
pub fn options(json: &str) {
    let Some(options) = marked(json) else { return };
    match serde_json::from_str::<Options>(&serde_json::Value::from(options).to_string()) {
        Err(error) => is_clear(&error.to_string()),
        Ok(Options { at_mobiles, at_user_ids, at_all, expires_at, .. }) => {
            assert!(expires_at.is_none_or(|at| at <= Timestamp::MAX));
            let mentions = Mentions { at_mobiles, at_user_ids, at_all };
            let mentions = mentions.union(&Mentions { at_mobiles: vec!["13800138000".into()], ..mentions.clone() });
            for format in [Format::Text, Format::Markdown] {
                let body = "@13800138000\n".repeat(2_000);
                channel::properties::sendable(&Message { format, title: "t".into(), body, mentions: mentions.clone() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::properties::random;

    const KEYS: &[&str] = &["at_mobiles", "at_user_ids", "at_all", "delivery", "expires_at", "urgent", "digest_key"];

    proptest! {
        #![proptest_config(random::cases(100))]

        #[test]
        fn any_options_are_read_or_it_is_said_what_is_wrong_with_them(json in random::object(KEYS)) {
            options(&json);
        }

        #[test]
        fn anybody_is_mentioned_or_it_is_said_why_not(
            mobiles in proptest::collection::vec("[+0-9-]{0,16}|\\PC{0,3}", 0..60),
            user_ids in proptest::collection::vec("[a-z.]{0,6}|\\PC{0,70}", 0..60),
        ) {
            options(&serde_json::json!({ "at_mobiles": mobiles, "at_user_ids": user_ids }).to_string());
        }
    }
}
