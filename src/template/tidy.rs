//! Line breaks as the platform wants them, and a title where the template gives none.
//!
//! In the platform's Markdown a newline alone is a space: a line break is two spaces before it. A template is written
//! as it should look, so every newline between two lines becomes such a break; only behind a heading, which ends by
//! itself, and beside blank lines there is none to make. Blank lines are kept, several as one.

use pulldown_cmark::{Event, Parser, TagEnd};

const TITLE_CHARS: usize = 64;

/// Rendered Markdown with its line breaks made to show.
pub(super) fn break_lines(body: &str) -> String {
    let mut tidy = String::with_capacity(body.len() + body.len() / 16);
    let mut lines = body.trim().lines().map(str::trim_end).peekable();
    let mut blank = false;
    while let Some(line) = lines.next() {
        if !(line.is_empty() && blank) {
            let breaks = !line.is_empty() && !is_heading(line) && lines.peek().is_some_and(|next| !next.is_empty());
            tidy.push_str(line);
            tidy.push_str(if breaks { "  \n" } else { "\n" });
        }
        blank = line.is_empty();
    }
    tidy.truncate(tidy.trim_end().len());
    tidy
}

/// `#` to `######`, a space and text.
fn is_heading(line: &str) -> bool {
    let text = line.trim_start_matches('#');
    (1..=6).contains(&(line.len() - text.len())) && text.starts_with(' ')
}

/// The first line of Markdown that says something, as plain text.
pub(super) fn first_line(markdown: &str) -> String {
    let mut line = String::new();
    for event in Parser::new(markdown) {
        #[expect(clippy::wildcard_enum_match_arm, reason = "all else shows no text")]
        match event {
            Event::Text(text) | Event::Code(text) => line.push_str(&text),
            Event::SoftBreak | Event::HardBreak | Event::Rule => line.push('\n'),
            Event::End(TagEnd::Paragraph | TagEnd::Heading(_) | TagEnd::Item | TagEnd::CodeBlock) => line.push('\n'),
            _ => {}
        }
        if line.ends_with('\n') && !line.trim().is_empty() {
            break;
        }
    }
    title(line.trim().lines().next().unwrap_or_default())
}

/// One line of plain text, of limited length.
pub(super) fn title(text: &str) -> String {
    let clean = super::escape::clean(text);
    let line = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(TITLE_CHARS) {
        None => line,
        Some(_) => line.chars().take(TITLE_CHARS - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newline_between_two_lines_becomes_a_break() {
        assert_eq!(break_lines("\n\na\nb   \n\n\n\nc\n"), "a  \nb\n\nc");
        assert_eq!(break_lines("#### t\na\n- b\n- c\n> d"), "#### t\na  \n- b  \n- c  \n> d");
        assert_eq!(break_lines(""), "");
    }

    #[test]
    fn a_title_is_the_first_line_without_its_markdown() {
        assert_eq!(first_line("#### **新简历** [张三](https://a.example)\n\nx"), "新简历 张三");
        assert_eq!(first_line("![](https://a.example/b.png)\n\n- a  \nb"), "a");
        assert_eq!(first_line(r"\[a\] \# b"), "[a] # b");
        assert_eq!(first_line(""), "");
    }

    #[test]
    fn a_title_is_one_short_line() {
        assert_eq!(title(" a\n b\u{202E} "), "a b");
        assert_eq!(title(&"字".repeat(64)).chars().count(), 64);
        assert_eq!(title(&"字".repeat(65)), "字".repeat(63) + "…");
    }
}
