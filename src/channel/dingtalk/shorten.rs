//! Where to cut a text that is too long.

use super::links;

/// How a text that was shortened ends.
pub(super) const NOTE: &str = "…（内容过长，已截断）";

/// The longest clean beginning of a text that takes at most `most` bytes in JSON: up to a line's end where that keeps at
/// least half, else up to a character's; never half a link.
pub(super) fn shorten(text: &str, markdown: bool, most: usize) -> &str {
    let fitting = fitting(text, most);
    let line = text[..fitting].rfind('\n').filter(|line| 2 * line >= fitting);
    let cut = links::outside(text, markdown, line.unwrap_or(fitting));
    let kept = text[..cut].trim_end();
    // A backslash that has lost what it escapes would break the line, or show.
    let escapes = kept.len() - kept.trim_end_matches('\\').len();
    if markdown && escapes % 2 == 1 { kept[..kept.len() - 1].trim_end() } else { kept }
}

/// How many bytes of a text fit in so many bytes of JSON.
fn fitting(text: &str, most: usize) -> usize {
    let mut taken = 0;
    let too_long = text.char_indices().find(|(_, c)| {
        taken += in_json(*c);
        taken > most
    });
    too_long.map_or(text.len(), |(at, _)| at)
}

/// Bytes that a character takes in a JSON string, as `serde_json` writes it.
fn in_json(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        c if c < ' ' => 6,
        c => c.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_at_a_line_else_at_a_character_and_in_no_link() {
        assert_eq!(shorten("one\ntwo\nthree", true, 11), "one\ntwo");
        assert_eq!(shorten("a\nlonglonglong", true, 10), "a\nlonglon", "a line's end too early is no clean cut");
        assert_eq!(shorten("简历简历", true, 7), "简历");
        assert_eq!(shorten("see this [page](https://x.example)", true, 20), "see this");
        assert_eq!(shorten("see this [page](https://x.example)", false, 14), "see this [page");
        assert_eq!(shorten("fits", true, 4), "fits");
        assert_eq!(shorten(r"a\*b", true, 3), "a");
        assert_eq!(shorten(r"a\*b", false, 3), r"a\");
        assert_eq!(shorten(r"a\\b", true, 5), r"a\\");
        assert_eq!(shorten("none", true, 0), "");
    }

    #[test]
    fn characters_are_counted_as_json_writes_them() {
        for c in (0..0x3000).filter_map(char::from_u32) {
            assert_eq!(in_json(c), serde_json::to_string(&c).unwrap().len() - 2, "{c:?}");
        }
    }
}
