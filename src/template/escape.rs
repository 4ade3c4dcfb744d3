//! Values stay text: what a stranger wrote cannot become a link, a heading, a list or a mention.
//!
//! While a template renders, each value is put between two marks that no payload can contain. [`settle`] then reads the
//! whole message once and knows, for each value, what stands around it: so `-` is escaped where it would begin a list
//! and left alone in `C-3`, and a value inside `](…)` is treated as an address.

use std::borrow::Cow;

use super::address;

const OPEN: char = '\u{FDD0}';
const CLOSE: char = '\u{FDD1}';
/// Takes no room and joins nothing: it separates what a renderer would read as one.
const GAP: char = '\u{200B}';

/// Puts a value between marks.
pub(super) fn mark(value: &str) -> String {
    let mut marked = String::with_capacity(OPEN.len_utf8() + value.len() + CLOSE.len_utf8());
    marked.push(OPEN);
    value.split(is_mark).for_each(|inner| marked.push_str(inner));
    marked.push(CLOSE);
    marked
}

fn is_mark(c: char) -> bool {
    ('\u{FDD0}'..='\u{FDEF}').contains(&c)
}

/// A value stands where a link's address begins and is none: the how-manieth value of the message it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadAddress(pub(super) usize);

impl BadAddress {
    /// Where in the marked text the value's mark stands.
    pub(super) fn position(&self, marked: &str) -> Option<usize> {
        marked.match_indices(OPEN).nth(self.0).map(|(at, _)| at)
    }
}

/// Marked Markdown to Markdown in which every value is text.
pub(super) fn markdown(marked: &str) -> Result<String, BadAddress> {
    let mut page = Page::new(marked.len());
    for (index, part) in parts(marked).into_iter().enumerate() {
        page.template(part.before);
        if let Some(value) = part.value {
            page.value(&lines(value), part.next).map_err(|()| BadAddress(index))?;
        }
    }
    Ok(page.out)
}

/// Marked plain text to text in which no value mentions anybody.
pub(super) fn text(marked: &str) -> String {
    let mut page = Page::new(marked.len());
    for part in parts(marked) {
        page.template(part.before);
        let value = clean(part.value.unwrap_or_default());
        for (c, rest) in with_rest(&value) {
            page.guarded(c, rest);
        }
    }
    page.out
}

/// Without control characters, byte order marks, zero-width spaces and bidirectional overrides; one kind of newline.
pub(super) fn clean(value: &str) -> Cow<'_, str> {
    // Most values are.
    if value.chars().all(|c| c == '\n' || is_clean(c)) {
        return Cow::Borrowed(value);
    }
    let one_kind = value.replace("\r\n", "\n");
    let kept = one_kind.chars().filter_map(|c| match c {
        '\n' | '\r' | '\u{0B}' | '\u{0C}' | '\u{85}' | '\u{2028}' | '\u{2029}' => Some('\n'),
        '\t' => Some(' '),
        c => is_clean(c).then_some(c),
    });
    Cow::Owned(kept.collect())
}

/// Whether it stays as it is, line breaks and tabs apart.
fn is_clean(c: char) -> bool {
    let is_gone = match c {
        ' '..='~' => false,
        GAP | '\u{FEFF}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => true,
        c => c.is_control() || is_mark(c),
    };
    !is_gone
}

/// Each character, and what follows it.
fn with_rest(value: &str) -> impl Iterator<Item = (char, &str)> {
    value.char_indices().map(|(at, c)| (c, &value[at + c.len_utf8()..]))
}

/// The lines that say something, without the white space around them.
fn lines(value: &str) -> String {
    let clean = clean(value);
    let mut lines = String::with_capacity(clean.len());
    for line in clean.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if !lines.is_empty() {
            lines.push('\n');
        }
        lines.push_str(line);
    }
    lines
}

/// Template text, the value behind it, and the character behind that where it is known.
struct Part<'a> {
    before: &'a str,
    value: Option<&'a str>,
    next: Option<char>,
}

fn parts(marked: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = marked;
    while let Some((before, after)) = rest.split_once(OPEN) {
        // A filter may have cut a value's end off: then all that follows counts as the value.
        let (value, behind) = after.split_once(CLOSE).unwrap_or((after, ""));
        let next = behind.chars().next().unwrap_or('\n');
        parts.push(Part { before, value: Some(value), next: (!is_mark(next)).then_some(next) });
        rest = behind;
    }
    parts.push(Part { before: rest, value: None, next: None });
    parts
}

/// The message so far, and what of it matters for the next character.
struct Page {
    out: String,
    /// Where the current line begins.
    line: usize,
    /// Nothing but white space and block markers stands in the current line.
    fresh: bool,
    /// Digits that end a fresh line: with a dot they would number a list.
    digits: usize,
    /// Where the address of an unfinished link begins.
    address: Option<usize>,
}

impl Page {
    fn new(capacity: usize) -> Page {
        Page { out: String::with_capacity(capacity), line: 0, fresh: true, digits: 0, address: None }
    }

    fn push(&mut self, c: char) {
        self.out.push(c);
        match c {
            '\n' => (self.line, self.fresh, self.digits) = (self.out.len(), true, 0),
            '0'..='9' => self.digits += 1,
            ' ' | '>' | '#' | '-' | '+' | '*' | '.' | ')' => self.digits = 0,
            _ => self.fresh = false,
        }
    }

    fn template(&mut self, text: &str) {
        for c in text.chars().filter(|c| !is_mark(*c)) {
            self.push(c);
            match c {
                '(' if self.out.ends_with("](") => self.address = Some(self.out.len()),
                ')' => self.address = None,
                c if c.is_whitespace() => self.address = None,
                _ => {}
            }
        }
    }

    fn value(&mut self, value: &str, next: Option<char>) -> Result<(), ()> {
        if let Some(start) = self.address {
            let whole = matches!(&self.out[start..], "" | "<");
            self.out.push_str(&if whole { address::whole(value).ok_or(())? } else { address::part(value) });
            self.fresh = false;
            return Ok(());
        }
        for (c, rest) in with_rest(value) {
            // Nothing is made of these, whatever stands around them.
            if c == ' ' || c.is_alphanumeric() {
                self.push(c);
            } else {
                self.escaped(c, rest, rest.chars().next().or(next));
            }
        }
        Ok(())
    }

    /// `next` is none where another value follows: then the worst is assumed of it.
    fn escaped(&mut self, c: char, rest: &str, next: Option<char>) {
        let before = self.out.chars().next_back();
        let next_is = |test: fn(char) -> bool| next.is_none_or(test);
        let active = match c {
            '\n' => return self.new_line(),
            '`' | '*' | '[' | ']' => true,
            '\\' => next_is(|c| c == '\n' || c.is_ascii_punctuation()),
            '_' => !(before.is_some_and(char::is_alphanumeric) && next.is_some_and(char::is_alphanumeric)),
            '~' => before == Some('~') || next_is(|c| c == '~'),
            '<' => next_is(|c| c.is_ascii_alphabetic() || "/!?".contains(c)),
            '!' => next_is(|c| c == '['),
            '&' => is_entity(rest),
            '#' => self.fresh || self.in_heading(),
            '>' | '=' | '|' => self.fresh,
            '-' | '+' => self.fresh && next_is(|c| c.is_whitespace() || "-|:".contains(c)),
            ':' => self.fresh && next_is(|c| c == '-'),
            '.' | ')' => self.fresh && self.digits > 0 && next_is(char::is_whitespace),
            _ => false,
        };
        // Some renderers do not honour a backslash; none reads a link across a gap.
        if matches!(c, '(' | ':') && before == Some(']') {
            self.push(GAP);
        }
        if active {
            self.push('\\');
        }
        self.guarded(c, rest);
        if c == ']' && next_is(|c| c == '(') {
            self.push(GAP);
        }
    }

    /// A newline in a value breaks the line and nothing else: it stays in its quotation, and a heading is one line.
    fn new_line(&mut self) {
        if self.in_heading() {
            return self.push(' ');
        }
        let line = &self.out[self.line..];
        let markers = line.len() - line.trim_start_matches([' ', '>']).len();
        let quote = line[..markers].to_owned();
        self.push('\n');
        if quote.contains('>') {
            quote.chars().for_each(|c| self.push(c));
        }
    }

    /// A character that may begin a mention; `a@b.example` is left whole.
    fn guarded(&mut self, c: char, rest: &str) {
        if c != '@' {
            return self.push(c);
        }
        let local = self.out.chars().next_back().is_some_and(|c| c.is_ascii_alphanumeric() || "._%+-".contains(c));
        self.push(c);
        if !(local && is_domain(rest)) {
            self.push(GAP);
        }
    }

    fn in_heading(&self) -> bool {
        self.out[self.line..].trim_start_matches([' ', '>']).starts_with('#')
    }
}

/// Whether this begins with something like `mail.example`.
fn is_domain(rest: &str) -> bool {
    let host = rest.split(|c: char| !(c.is_ascii_alphanumeric() || ".-".contains(c))).next().unwrap_or_default();
    let first = host.split('.').next().unwrap_or_default();
    let next = host.split('.').nth(1).unwrap_or_default();
    !first.is_empty() && next.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// Whether `&` before this would be read as an entity, such as `&lt;`.
fn is_entity(rest: &str) -> bool {
    let name = rest.bytes().take(40).take_while(|c| c.is_ascii_alphanumeric() || *c == b'#').count();
    name > 0 && rest[name..].starts_with(';')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_markdown(before: &str, value: &str, after: &str) -> String {
        markdown(&format!("{before}{}{after}", mark(value))).unwrap()
    }

    #[test]
    fn what_needs_no_escape_gets_none() {
        for plain in [
            "C++",
            "Node.js",
            "3.5",
            "foo-bar",
            "张三（高级）",
            "R&D",
            "snake_case",
            "3~5年",
            "C#",
            "-5",
            "+86 138",
            "a<3",
            "10% + 5",
            "https://a.example/x?y=1&z=2#top",
            "a.b@c.example",
            "$100",
            "Hi!",
            r"C:\dir",
            "2026.11",
        ] {
            assert_eq!(in_markdown("", plain, " end"), plain.to_owned() + " end");
        }
        assert_eq!(in_markdown("分数：", "- # > 1. =", ""), "分数：- # > 1. =");
    }

    #[test]
    fn a_value_cannot_begin_a_block() {
        for (value, escaped) in [
            ("# a", r"\# a"),
            ("> a", r"\> a"),
            ("- a", r"\- a"),
            ("+ a", r"\+ a"),
            ("1. a", r"1\. a"),
            ("12) a", r"12\) a"),
            ("~~~", r"\~\~\~"),
            ("a\n\n    - b", "a\n\\- b"),
            ("a\n===", "a\n\\==="),
            ("|a|\n|-|", "\\|a|\n\\|-|"),
        ] {
            for before in ["", "- ", "> ", "1. ", "**"] {
                let value = in_markdown(before, value, "");
                let quoted = escaped.replace('\n', "\n> ");
                assert_eq!(value, before.to_owned() + if before == "> " { &quoted } else { escaped });
            }
        }
        assert_eq!(in_markdown("## ", "a\n# b #", ""), r"## a \# b \#");
    }

    #[test]
    fn two_values_side_by_side_make_nothing_together() {
        let pair = |a: &str, b: &str| markdown(&(mark(a) + &mark(b))).unwrap();
        assert_eq!(pair("[a]", "(http://b)"), "\\[a\\]\u{200B}(http://b)");
        assert_eq!(pair("<", "script>"), r"\<script>");
        assert_eq!(pair("1", ". a"), r"1\. a");
        assert_eq!(pair("!", "[a"), r"\!\[a");
        assert_eq!(in_markdown("[a]", "(http://b)", ""), "[a]\u{200B}(http://b)");
    }

    #[test]
    fn a_mention_in_a_value_is_parted_and_an_address_is_not() {
        for (value, parted) in [
            ("@all", "@\u{200B}all"),
            ("你好@所有人", "你好@\u{200B}所有人"),
            ("x@13800000000", "x@\u{200B}13800000000"),
            ("a.b@c.example", "a.b@c.example"),
        ] {
            assert_eq!(in_markdown("", value, ""), parted);
            assert_eq!(text(&mark(value)), parted);
        }
    }

    #[test]
    fn an_address_in_a_link_is_one_or_is_refused() {
        let link = |value: &str| markdown(&format!("[看]({})", mark(value)));
        assert_eq!(link("https://a.example/b?c=d&e=f_g#h").unwrap(), "[看](https://a.example/b?c=d&e=f_g#h)");
        assert_eq!(link("https://a.example/) [b](c d").unwrap(), "[看](https://a.example/%29%20%5Bb%5D%28c%20d)");
        for refused in ["", "a.example", "javascript:alert(1)", "java\nscript:alert(1)", "data:text/html,x", "http:"] {
            assert_eq!(link(refused), Err(BadAddress(0)), "{refused}");
        }
        assert_eq!(
            in_markdown("[看](https://a.example/", "1 ) 张", ")"),
            "[看](https://a.example/1%20%29%20%E5%BC%A0)"
        );
    }

    #[test]
    fn invisible_characters_are_dropped() {
        assert_eq!(in_markdown("", "a\u{0}b\u{202E}c\u{FDD1}d\u{7}\u{FEFF}", ""), "abcd");
        assert_eq!(in_markdown("", "<\u{0}b>", ""), r"\<b>");
        assert_eq!(text(&mark("a\r\nb\u{1b}[31m")), "a\nb[31m");
    }

    #[test]
    fn a_value_of_any_size_is_settled_in_one_pass() {
        for long in ["1", "-", "#", "\\", "[", "@", "&"] {
            let value = long.repeat(60_000);
            assert!(in_markdown("", &value, "").len() >= value.len());
        }
    }
}
