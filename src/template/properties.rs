//! Templates and payloads: rendered into a message that can be sent, or refused with a reason that shows no value.

#![expect(clippy::unwrap_used, reason = "a property panics where it does not hold")]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use super::{Facts, Templates};
use crate::channel;
use crate::message::{Format, Message};
use crate::properties::{MARK, is_clear, marked};

/// Any payload, under every template that comes with postbell, alone and as a digest.
pub fn payload(json: &str) {
    static TEMPLATES: LazyLock<Templates> =
        LazyLock::new(|| Templates::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("templates")).unwrap());
    rendered(&TEMPLATES, json);
}

/// Any template is rendered, or it is said what is wrong with it: when it is loaded, or when it meets this payload.
pub fn template(text: &str, json: &str) {
    // A mark in a template may be shown.
    let text = text.replace(MARK, "");
    let folder = Folder::new();
    std::fs::write(folder.0.join("a.md"), &text).unwrap();
    std::fs::write(folder.0.join("a.digest.md"), text).unwrap();
    let templates = Templates::load(&folder.0).unwrap();
    templates.problems().iter().for_each(|problem| is_clear(&problem.text));
    rendered(&templates, json);
}

fn rendered(templates: &Templates, json: &str) {
    let Some(payload) = marked(json) else { return };
    for id in templates.ids().chain(["no.such.template"]) {
        let facts = Facts { id: uuid::Uuid::nil(), event_type: id, trace_id: None, retry_count: 0 };
        let single = templates.render(id, &facts, &payload);
        let digest = templates.digest(id, &[&payload, &payload, &payload], |message, _| channel::fits(message));
        assert_eq!(
            digest.members.len() + digest.bad.len(),
            if digest.message.is_some() { 3 } else { digest.bad.len() }
        );
        for result in
            [single].into_iter().chain(digest.message.map(Ok)).chain(digest.bad.into_iter().map(|(_, bad)| Err(bad)))
        {
            match result {
                Ok(message) => is_message(&message),
                Err(why) => is_clear(&why.to_string()),
            }
        }
        templates.variables(id);
    }
}

/// A platform would take it.
fn is_message(message: &Message) {
    let Message { format, title, body, .. } = message;
    assert!(!body.trim().is_empty() && !title.trim().is_empty(), "{message:?}");
    assert!(title.chars().count() <= 128 && !title.contains('\n'), "{title:?}");
    assert!(!body.contains(|c: char| ('\u{FDD0}'..='\u{FDEF}').contains(&c)), "{body:?}");
    if let Format::ActionCard(buttons) = format {
        assert!(!buttons.is_empty() && buttons.iter().all(|button| button.url.contains("://")), "{buttons:?}");
    }
    channel::properties::sendable(message);
}

/// A folder of its own, gone with this value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let folder = std::env::temp_dir().join(format!("postbell-properties-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).unwrap();
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::properties::random;

    /// Of the templates that come with postbell, and of those made up below.
    const KEYS: &[&str] = &[
        "candidate",
        "name",
        "position",
        "score",
        "skills",
        "resume_url",
        "job",
        "title",
        "url",
        "content",
        "time",
        "starts_at",
        "interviewer",
        "location",
        "summary",
        "review_url",
        "event",
        "events",
        "count",
        "x",
    ];

    const PIECES: &[&str] = &[
        "---\n",
        "title: ",
        "type: actionCard\n",
        "type: text\n",
        "button: {title: a, url: \"${x}\"}\n",
        "buttons:\n",
        "at_mobiles: [1, a]\n",
        "&a [*a, *a]",
        "${",
        "}",
        "${x}",
        "${x.name}",
        "${x|link(url)}",
        "${time|datetime}",
        "|default(\"-\")",
        "|join",
        "|safe",
        "|truncate(3)",
        "<%",
        "%>",
        "<% for s in skills %>",
        "<% endfor %>",
        "<% if x %>",
        "<% else %>",
        "<% endif %>",
        "<% include \"a.md\" %>",
        "<% set x = x %>",
        "<% raw %>",
        "<% endraw %>",
        "<#",
        "#>",
        "[a](${x})",
        "](",
        "((((",
        "))))",
        "\"",
        "'",
        "\n",
        "\n\n",
        "#### ",
        "- ",
        "> ",
        "range(99999)",
        " * 999999",
        " ~ x",
        "events",
        "count",
        "macro m(x)",
        "m(x)",
        "endmacro",
        "\u{FDD0}",
        "\u{0}",
    ];

    proptest! {
        #![proptest_config(random::cases(200))]

        #[test]
        fn any_payload_becomes_a_message_or_a_reason_without_its_values(json in random::object(KEYS)) {
            payload(&json);
        }

        #[test]
        fn any_template_renders_or_says_what_is_wrong(
            text in random::text(PIECES, 14), json in random::object(KEYS),
        ) {
            template(&text, &json);
        }
    }
}
