//! What is done to a template's text before the engine parses it, and what the engine would find too late.

use minijinja::{Environment, ErrorKind};

/// A name that means nothing, found before a message needs it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) line: usize,
    pub(super) text: String,
}

/// The body with its own line numbers, `above` lines down, and without the lines that hold only blocks.
///
/// Both are comments that span lines: the engine writes nothing for them and still counts. Its own `trim_blocks`
/// would join a line that happens to end in a block to the next one.
pub(super) fn prepare(body: &str, above: usize) -> String {
    let mut source = String::with_capacity(body.len() + 64);
    if above > 0 {
        source.push_str("<#");
        source.extend(std::iter::repeat_n('\n', above));
        source.push_str("#>");
    }
    let mut raw = false;
    for line in body.split_inclusive('\n') {
        let touched = line.contains("raw");
        raw = (raw || line.contains("<% raw")) && !line.contains("endraw");
        match line.strip_suffix('\n').filter(|line| !raw && !touched && is_blocks_only(line)) {
            Some(blocks) => source.extend([blocks.trim(), "<#\n#>"]),
            None => source.push_str(line),
        }
    }
    source
}

fn is_blocks_only(line: &str) -> bool {
    let mut rest = line.trim();
    let any = !rest.is_empty();
    while !rest.is_empty() {
        let end = if rest.starts_with("<%") { "%>" } else { "#>" };
        if !(rest.starts_with("<%") || rest.starts_with("<#")) {
            return false;
        }
        let Some((_, behind)) = rest.split_once(end) else { return false };
        rest = behind.trim_start();
    }
    any
}

/// The first filter or test that the engine does not have; it would say so only when it renders.
pub(super) fn unknown_name(environment: &Environment, source: &str) -> Option<Unknown> {
    // Raw text looks like expressions and is none.
    if source.contains("endraw") {
        return None;
    }
    let mut state = environment.empty_state();
    let mut at = 0;
    while let Some((start, end)) = next_tag(source, at) {
        let (code, mut before) = (without_strings(&source[start..end]), "");
        let words = code.split(|c: char| !(c.is_alphanumeric() || "_|".contains(c))).filter(|word| !word.is_empty());
        let spaced: Vec<String> = words.map(|word| word.replace('|', " | ")).collect();
        for word in spaced.iter().flat_map(|word| word.split_whitespace()) {
            let unknown = match before {
                "|" => state.apply_filter(word, &[]).is_err_and(|error| error.kind() == ErrorKind::UnknownFilter),
                "is" if word == "not" => continue,
                "is" => state.perform_test(word, &[]).is_err_and(|error| error.kind() == ErrorKind::UnknownTest),
                _ => false,
            };
            if unknown {
                let kind = if before == "|" { "filter" } else { "test" };
                let line = source[..start].matches('\n').count() + 1;
                return Some(Unknown { line, text: format!("unknown {kind} \"{word}\"") });
            }
            before = word;
        }
        at = end;
    }
    None
}

/// Where the code of the next `${…}` or `<% … %>` begins and ends.
fn next_tag(source: &str, mut from: usize) -> Option<(usize, usize)> {
    loop {
        let rest = &source[from..];
        let opening = rest.match_indices(['$', '<']).find_map(|(at, _)| {
            let close = match rest.get(at..at + 2)? {
                "${" => "}",
                "<%" => "%>",
                "<#" => "#>",
                _ => return None,
            };
            Some((from + at + 2, close))
        });
        let (start, close) = opening?;
        if close != "#>" {
            return Some((start, start + end_of_code(&source[start..], close)?));
        }
        from = start + source[start..].find(close)?;
    }
}

/// Where the first `close` stands that is not between quotes.
fn end_of_code(code: &str, close: &str) -> Option<usize> {
    let mut quote = None;
    code.char_indices().find_map(|(at, c)| {
        match quote {
            None if code[at..].starts_with(close) => return Some(at),
            None if "\"'".contains(c) => quote = Some(c),
            Some(open) if open == c => quote = None,
            _ => {}
        }
        None
    })
}

/// With the text between quotes blanked out.
fn without_strings(code: &str) -> String {
    let mut quote = None;
    let keep = |c: char| match (quote, c) {
        (None, '"' | '\'') => {
            quote = Some(c);
            ' '
        }
        (None, c) => c,
        (Some(open), c) => {
            quote = (c != open).then_some(open);
            ' '
        }
    };
    code.chars().map(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::super::engine;
    use super::*;

    fn unknown(source: &str) -> Option<(usize, String)> {
        unknown_name(&engine::environment().unwrap(), source).map(|unknown| (unknown.line, unknown.text))
    }

    #[test]
    fn a_filter_or_test_that_is_not_there_is_found_before_it_is_needed() {
        assert_eq!(unknown("a\n${x|upper|nope}"), Some((2, "unknown filter \"nope\"".to_owned())));
        assert_eq!(unknown("<% if x is not defind %>"), Some((1, "unknown test \"defind\"".to_owned())));
        for known in [
            "${x | default('a|b') | link(y)} it's |nope",
            "<% if x is not none and y is defined %>",
            "<# it's ${x|nope} #> ${x}",
            "${\"}|nope\"}",
            "<% raw %>${x|nope}<% endraw %>",
            "it's ${x|datetime(tz='UTC')} 'a",
            "${x",
            "|nope is nope",
        ] {
            assert_eq!(unknown(known), None, "{known}");
        }
    }

    #[test]
    fn line_numbers_stay_as_in_the_file() {
        for body in ["a\n<% if x %>\nb\n<% endif %>\nc", " <% if x %> <# y #> \n<% endif %>"] {
            let source = prepare(body, 3);
            assert_eq!(source.matches('\n').count(), body.matches('\n').count() + 3);
        }
        assert_eq!(prepare("a <% if x %>\n", 0), "a <% if x %>\n");
    }
}
