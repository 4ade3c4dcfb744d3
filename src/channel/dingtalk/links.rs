//! Links in a message: where they are, so that none is cut in half, and the message without them.

use std::ops::Range;

/// Stands where an address stood.
const LEFT_OUT: &str = "（链接已略去）";

/// A longer destination is taken for text; it bounds the search for its end.
const LONGEST: usize = 4096;

/// `[text](destination)` or `![text](destination)`.
#[derive(Debug, PartialEq, Eq)]
struct Link {
    whole: Range<usize>,
    text: Range<usize>,
}

/// Moves a place to cut at to before the link or address that it would cut in half.
pub(super) fn outside(text: &str, markdown: bool, mut cut: usize) -> usize {
    let mut spans = addresses(text);
    if markdown {
        spans.extend(links(text).into_iter().map(|link| link.whole));
    }
    // From the innermost outwards.
    spans.sort_by_key(|span| std::cmp::Reverse(span.start));
    for span in spans {
        if span.start < cut && cut < span.end {
            cut = span.start;
        }
    }
    cut
}

/// The text of links and images without their destinations, and no address that a client would make clickable.
pub(super) fn strip(text: &str, markdown: bool) -> String {
    let mut syntax: Vec<Range<usize>> = Vec::new();
    if markdown {
        for link in links(text) {
            syntax.push(link.whole.start..link.text.start);
            syntax.push(link.text.end..link.whole.end);
        }
    }
    let plain = replace(text, syntax, "");
    let addresses = addresses(&plain);
    replace(&plain, addresses, LEFT_OUT)
}

fn replace(text: &str, mut ranges: Vec<Range<usize>>, with: &str) -> String {
    ranges.sort_by_key(|range| range.start);
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for range in ranges {
        out.push_str(text.get(from..range.start).unwrap_or_default());
        out.push_str(with);
        from = range.end.max(from);
    }
    out.push_str(text.get(from..).unwrap_or_default());
    out
}

/// Every link and image, nested ones included, innermost first.
fn links(text: &str) -> Vec<Link> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut open: Vec<(usize, usize)> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let next = bytes.get(at + 1).copied();
        match byte {
            b'\\' => at += 1,
            b'!' if next == Some(b'[') => {
                open.push((at, at + 2));
                at += 1;
            }
            b'[' => open.push((at, at + 1)),
            b']' => {
                if let (Some((start, text)), Some(b'(')) = (open.pop(), next)
                    && let Some(end) = destination_end(bytes, at + 2)
                {
                    found.push(Link { whole: start..end, text: text..at });
                    at = end - 1;
                }
            }
            // No link spans paragraphs.
            b'\n' if next == Some(b'\n') => open.clear(),
            _ => {}
        }
        at += 1;
    }
    found
}

fn destination_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut depth = 1;
    let mut at = from;
    while let Some(&byte) = bytes.get(at).filter(|_| at - from < LONGEST) {
        match byte {
            b'\\' => at += 1,
            b'(' => depth += 1,
            b')' if depth == 1 => return Some(at + 1),
            b')' => depth -= 1,
            b'\n' => return None,
            _ => {}
        }
        at += 1;
    }
    None
}

/// Every bare address: `scheme://…` or `www.…`, up to what cannot belong to it (a Chinese character, for one).
fn addresses(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let from = found.last().map_or(0, |last| last.end);
        let start = if rest.starts_with(b"://") {
            let scheme = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+.-".contains(byte);
            let length = bytes[from..at].iter().rev().take_while(scheme).count();
            (length > 0).then(|| at - length)
        } else if rest.get(..4).is_some_and(|word| word.eq_ignore_ascii_case(b"www.")) {
            let joined = at > from && bytes[at - 1].is_ascii_alphanumeric();
            (!joined).then_some(at)
        } else {
            None
        };
        match start {
            Some(start) => {
                let belongs = |byte: &&u8| byte.is_ascii_graphic() && !b"<>\"'`|\\^{}()[]".contains(byte);
                let length = rest.iter().take_while(belongs).count();
                let trailing = rest[..length].iter().rev().take_while(|byte| b".,;:!?*_~".contains(byte)).count();
                let end = at + (length - trailing).max(3);
                found.push(start..end);
                at = end;
            }
            None => at += 1,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_images_leave_their_text_behind() {
        for (given, kept) in [
            ("see [the page](https://x.example/a_(b)?c=1) now", "see the page now"),
            ("![简历](https://x.example/1.png)", "简历"),
            ("[![logo](https://a/1.png) 首页](https://a)", "logo 首页"),
            ("[](https://a)end", "end"),
            ("[https://a.example](https://a.example)", "（链接已略去）"),
            ("点此https://a.example/b?c=d查看", "点此（链接已略去）查看"),
            ("<HTTPS://a.example>.", "<（链接已略去）>."),
            ("dingtalk://dingtalkclient/page, www.a.example.", "（链接已略去）, （链接已略去）."),
            (r"\[not\](a link) [x] (y) [z", r"\[not\](a link) [x] (y) [z"),
            ("a://", "（链接已略去）"),
            ("no links: 1/2 a:b //", "no links: 1/2 a:b //"),
        ] {
            assert_eq!(strip(given, true), kept, "{given}");
        }
    }

    #[test]
    fn plain_text_keeps_its_brackets() {
        assert_eq!(strip("[a](b) https://c.example/d", false), "[a](b) （链接已略去）");
    }

    #[test]
    fn a_cut_moves_before_the_link_it_would_halve() {
        let text = "一 [二](https://x.example) 三";
        let start = text.find('[').unwrap();
        let end = text.find(')').unwrap() + 1;
        for cut in start..=end {
            assert_eq!(outside(text, true, cut), if cut < end { start } else { end });
        }
        assert_eq!(outside("a https://x.example", false, 5), 2);
        let nested = "a [![i](u)](v)";
        assert_eq!(outside(nested, true, nested.find("u)").unwrap()), 2);
    }

    #[test]
    fn hostile_text_takes_no_quadratic_time() {
        let begin = std::time::Instant::now();
        for hostile in ["[", "](", "[](", "![", "://", "www.", "a", "\\"] {
            let text = hostile.repeat(64 * 1024 / hostile.len());
            strip(&text, true);
            outside(&text, true, 1000);
        }
        // Seconds even on a machine that is busy; were it quadratic, many minutes.
        assert!(begin.elapsed() < std::time::Duration::from_secs(90));
    }
}
