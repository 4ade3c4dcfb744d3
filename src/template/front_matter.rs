//! The YAML between `---` lines at the top of a template: everything in it is optional.

use serde::Deserialize;

use crate::message::Mentions;

/// What the front matter says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FrontMatter {
    pub(super) title: Option<String>,
    pub(super) kind: Option<Kind>,
    pub(super) buttons: Vec<Button>,
    pub(super) mentions: Mentions,
}

/// The kind of message that a template makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Markdown,
    ActionCard,
}

/// A button of an action card: two little templates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Button {
    pub(super) title: String,
    pub(super) url: String,
}

/// Most buttons of a card: a phone shows them one below the other.
const MOST_BUTTONS: usize = 5;

/// What is wrong with it, and in which line of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) line: Option<usize>,
    pub(super) text: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Yaml {
    title: Option<String>,
    r#type: Option<String>,
    button: Option<Button>,
    buttons: Option<Vec<Button>>,
    at_mobiles: Vec<Person>,
    at_user_ids: Vec<Person>,
    at_all: bool,
}

/// A mobile number that somebody wrote without quotes is a number to YAML.
#[derive(Deserialize)]
#[serde(untagged)]
enum Person {
    Number(u64),
    Text(String),
}

/// A file in two: the front matter, where there is one, and the body behind it, with the lines before the body counted.
pub(super) fn split(file: &str) -> Result<(Option<&str>, &str, usize), Wrong> {
    let Some(rest) = file.strip_prefix("---\n") else {
        return Ok((None, file, 0));
    };
    let mut length = 0;
    for (index, line) in rest.split_inclusive('\n').enumerate() {
        if line.trim_end() == "---" {
            return Ok((Some(&rest[..length]), &rest[length + line.len()..], index + 2));
        }
        length += line.len();
    }
    Err(Wrong { line: Some(1), text: "the front matter does not end; put a line --- behind it".to_owned() })
}

/// Reads the front matter.
pub(super) fn read(yaml: &str) -> Result<FrontMatter, Wrong> {
    let yaml_line = |key: &str| yaml.lines().position(|line| line.trim_start().starts_with(key)).map(|at| at + 2);
    let read: Option<Yaml> = match yaml.trim() {
        "" => None,
        _ => serde_saphyr::from_str(yaml).map_err(|error| wrong_yaml(&error))?,
    };
    let read = read.unwrap_or_default();
    let kind = match read.r#type.as_deref() {
        None => None,
        Some("markdown") => Some(Kind::Markdown),
        Some("text") => Some(Kind::Text),
        Some("actionCard") => Some(Kind::ActionCard),
        Some(other) => {
            let text = format!("unknown type {other:?}; allowed: markdown, text, actionCard");
            return Err(Wrong { line: yaml_line("type"), text });
        }
    };
    let wrong_buttons = |text: &str| Wrong { line: yaml_line("button").or(yaml_line("type")), text: text.to_owned() };
    let buttons = match (kind, read.button, read.buttons) {
        (_, Some(_), Some(_)) => return Err(wrong_buttons("button and buttons; keep one of them")),
        (Some(Kind::ActionCard), Some(button), None) => vec![button],
        (Some(Kind::ActionCard), None, Some(buttons)) if (1..=MOST_BUTTONS).contains(&buttons.len()) => buttons,
        (Some(Kind::ActionCard), None, _) => {
            return Err(wrong_buttons("an actionCard has a button: {title, url}, or buttons: a list of 1 to 5"));
        }
        (_, None, None) => vec![],
        _ => return Err(wrong_buttons("only a template with type: actionCard has buttons")),
    };
    if buttons.iter().any(|button| button.title.trim().is_empty() || button.url.trim().is_empty()) {
        return Err(wrong_buttons("a button has a title and a url"));
    }
    let names = |people: Vec<Person>| people.into_iter().map(Person::name).collect();
    let mentions =
        Mentions { at_mobiles: names(read.at_mobiles), at_user_ids: names(read.at_user_ids), at_all: read.at_all };
    Ok(FrontMatter { title: read.title, kind, buttons, mentions })
}

impl Person {
    fn name(self) -> String {
        match self {
            Person::Number(number) => number.to_string(),
            Person::Text(text) => text,
        }
    }
}

fn wrong_yaml(error: &serde_saphyr::Error) -> Wrong {
    let line = error.location().and_then(|location| usize::try_from(location.line()).ok()).map(|line| line + 1);
    let text = error.without_snippet().to_string();
    let first = text.lines().next().unwrap_or_default().trim();
    Wrong { line, text: format!("front matter: {first}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_front_matter_is_all_body() {
        assert_eq!(split("a\n---\nb"), Ok((None, "a\n---\nb", 0)));
        assert_eq!(split("---\n---\nb"), Ok((Some(""), "b", 2)));
        assert_eq!(split("---\ntitle: a\n---"), Ok((Some("title: a\n"), "", 3)));
        assert!(split("---\ntitle: a\n").is_err());
    }

    #[test]
    fn everything_in_it_is_optional() {
        assert_eq!(read(""), Ok(FrontMatter::default()));
        assert_eq!(read("# nothing\n"), Ok(FrontMatter::default()));
        let all = read("title: 新简历 ${candidate.name}\ntype: text\nat_mobiles: [13800000000, \"+1-212\"]\nat_user_ids:\n  - u1\nat_all: true\n").unwrap();
        assert_eq!(all.title.as_deref(), Some("新简历 ${candidate.name}"));
        assert_eq!(all.kind, Some(Kind::Text));
        assert_eq!(all.mentions.at_mobiles, ["13800000000", "+1-212"]);
        assert_eq!(all.mentions.at_user_ids, ["u1"]);
        assert!(all.mentions.at_all);
    }

    #[test]
    fn a_card_has_one_to_five_buttons_and_nothing_else_has_any() {
        let one = read("type: actionCard\nbutton: {title: 看, url: \"${url}\"}\n").unwrap();
        assert_eq!(one.kind, Some(Kind::ActionCard));
        assert_eq!(one.buttons, [Button { title: "看".into(), url: "${url}".into() }]);
        let list = |count: usize| "  - {title: a, url: \"https://b.example\"}\n".repeat(count);
        assert_eq!(read(&format!("type: actionCard\nbuttons:\n{}", list(5))).unwrap().buttons.len(), 5);
        for (wrong, line) in [
            ("type: actionCard\n".to_owned(), 2),
            ("type: actionCard\nbuttons: []\n".to_owned(), 3),
            (format!("type: actionCard\nbuttons:\n{}", list(6)), 3),
            (format!("type: actionCard\nbutton: {{title: a, url: b}}\nbuttons:\n{}", list(1)), 3),
            ("type: actionCard\nbutton: {title: a, url: \"\"}\n".to_owned(), 3),
            ("type: text\nbutton: {title: a, url: b}\n".to_owned(), 3),
            ("button: {title: a, url: b}\n".to_owned(), 2),
        ] {
            let refused = read(&wrong).unwrap_err();
            assert_eq!(refused.line, Some(line), "{wrong}: {refused:?}");
            assert!(refused.text.contains("button"), "{refused:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_what_is_allowed() {
        let wrong = read("title: a\ntype: card\n").unwrap_err();
        let text = "unknown type \"card\"; allowed: markdown, text, actionCard".to_owned();
        assert_eq!(wrong, Wrong { line: Some(3), text });
        let wrong = read("title: a\ntitel: b\n").unwrap_err();
        assert_eq!(wrong.line, Some(3), "{wrong:?}");
        assert!(wrong.text.contains("titel") && wrong.text.contains("at_user_ids"), "{wrong:?}");
        let wrong = read("title: [a\n").unwrap_err();
        assert!(wrong.line.is_some(), "{wrong:?}");
        let wrong = read("at_all: yes please\n").unwrap_err();
        assert_eq!(wrong.line, Some(2), "{wrong:?}");
    }
}
