//! Tests: whatever a stranger writes arrives as text, in every place where a template can put it.

use pulldown_cmark::{Event, Options, Parser, Tag};

use super::{escape, tidy};

/// Where a value can stand; `{}` is the value.
const PLACES: [&str; 19] = [
    "{}",
    "{} 后",
    "前 {}",
    "前\n{}",
    "{}\n后",
    "- {}",
    "- a\n- {}\n- b",
    "1. {}",
    "> {}",
    "> a\n> {}\n> b",
    "#### {}",
    "## 前 {} 后",
    "**评分** {}",
    "[前]{}",
    "{}[后](https://a.example)",
    "[{}](https://a.example)",
    "{}(https://a.example)",
    "a {}{}",
    "{}\n\n---\n{}",
];

const HOSTILE: [&str; 40] = [
    "[click](http://evil.example)",
    "![x](http://evil.example/x.png)",
    "# heading",
    "## h ##",
    "> quote",
    "- list",
    "* list",
    "+ list",
    "1. list",
    "2) list",
    "**bold**",
    "*it*",
    "__bold__",
    "_it_",
    "<font color=red>x</font>",
    "<a href=\"http://evil.example\">x</a>",
    "<http://evil.example>",
    "<a@evil.example>",
    "<!-- x",
    "<?php",
    "`code`",
    "```\ncode\n```",
    "a\n# b",
    "a\n\n- b\n\n    code",
    "a\n===",
    "a\n---",
    "***",
    "___",
    "\\",
    "a\\",
    "\\[a](b)",
    "[a]: http://evil.example\n\n[a]",
    "[a][b]",
    "|a|b|\n|-|-|\n|c|d|",
    "a|b\n:-|-:\nc|d",
    "&lt;b&gt; &#35;",
    "[ ] task",
    "a  \nb",
    "[^1]: note",
    "](http://evil.example)",
];

/// Pieces that are worst together.
const ALPHABET: [&str; 48] = [
    "[",
    "]",
    "(",
    ")",
    "!",
    "<",
    ">",
    "/",
    "#",
    "-",
    "+",
    "*",
    "_",
    "`",
    "~",
    "\\",
    "|",
    ":",
    "=",
    ".",
    "&",
    ";",
    "\n",
    "\n\n",
    " ",
    "    ",
    "\t",
    "1",
    "9",
    "a",
    "b",
    "字",
    "（",
    "@",
    "all",
    "\"",
    "'",
    "http://e.example",
    "](",
    "![",
    "**",
    "```",
    "<a",
    "&#",
    "^",
    "$",
    "\u{200B}",
    "\r",
];

/// The block and inline structure, and the text, of what a strict reader sees.
fn read(markdown: &str) -> (Vec<String>, String) {
    let options = Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES | Options::ENABLE_TASKLISTS | Options::ENABLE_GFM;
    let (mut structure, mut text) = (Vec::new(), String::new());
    for event in Parser::new_ext(markdown, options) {
        #[expect(clippy::wildcard_enum_match_arm, reason = "all else is structure")]
        match event {
            Event::Text(part) => text.push_str(&part),
            Event::SoftBreak | Event::HardBreak => text.push(' '),
            // Which list is tight depends on nothing that a value could change.
            Event::Start(Tag::Paragraph) | Event::End(pulldown_cmark::TagEnd::Paragraph) => text.push(' '),
            other => structure.push(format!("{other:?}")),
        }
    }
    (structure, plain(&text))
}

/// Without what a message may change: white space and what takes no room.
fn plain(text: &str) -> String {
    escape::clean(text).split_whitespace().collect()
}

fn rendered(place: &str, value: &str) -> String {
    tidy::break_lines(&escape::markdown(&place.replace("{}", &escape::mark(value))).unwrap())
}

fn arrives_as_text(value: &str) {
    for place in PLACES {
        let (structure, text) = read(&rendered(place, value));
        let (expected, around) = read(&rendered(place, "值"));
        assert_eq!(structure, expected, "{value:?} in {place:?} is {:?}", rendered(place, value));
        assert_eq!(text, around.replace("值", &plain(value)), "{value:?} in {place:?} is {:?}", rendered(place, value));
    }
}

#[test]
fn what_strangers_are_known_to_write_arrives_as_text() {
    HOSTILE.iter().for_each(|value| arrives_as_text(value));
}

#[test]
fn whatever_strangers_make_of_the_worst_pieces_arrives_as_text() {
    let mut random = fastrand::Rng::with_seed(20_261_124);
    for _ in 0..4_000 {
        let pieces = random.usize(1..12);
        let value: String = (0..pieces).map(|_| ALPHABET[random.usize(..ALPHABET.len())]).collect();
        if !plain(&value).is_empty() {
            arrives_as_text(&value);
        }
    }
}

#[test]
fn two_strangers_together_can_do_no_more_than_one() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..4_000 {
        let mut value =
            || -> String { (0..random.usize(1..6)).map(|_| ALPHABET[random.usize(..ALPHABET.len())]).collect() };
        let (a, b) = (value(), value());
        let markdown = tidy::break_lines(&escape::markdown(&(escape::mark(&a) + &escape::mark(&b))).unwrap());
        let (structure, _) = read(&markdown);
        assert_eq!(structure, Vec::<String>::new(), "{a:?} and {b:?} are {markdown:?}");
    }
}

#[test]
fn a_reader_that_honours_no_backslash_sees_no_link_either() {
    let mut random = fastrand::Rng::with_seed(3);
    for value in HOSTILE
        .iter()
        .map(|value| (*value).to_owned())
        .chain((0..2_000).map(|_| (0..random.usize(1..12)).map(|_| ALPHABET[random.usize(..ALPHABET.len())]).collect()))
    {
        assert!(!rendered("{}", &value).contains("]("), "{value:?}");
    }
}

#[test]
fn nobody_is_mentioned_by_a_value() {
    for name in ["@all", "@所有人", "@13800000000", "张三@所有人", "a @all", "@@all", "x@13800000000"] {
        for body in [rendered("{}", name), escape::text(&escape::mark(name))] {
            assert!(!["@all", "@所有人", "@138"].iter().any(|mention| body.contains(mention)), "{body}");
        }
    }
}
