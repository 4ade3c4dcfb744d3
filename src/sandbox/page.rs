//! The page for people: the group as DingTalk would show it, with what was refused as small notes.
//!
//! Everything is rendered here and escaped here; the script of the page only puts rendered items in their place.

mod markdown;
mod words;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use pulldown_cmark_escape::escape_html;
use serde::Serialize;

use super::Settings;
use super::journal::Journal;
use super::record::{Message, Request, Verdict};
pub(super) use words::Lang;
use words::Words;

pub(super) const CSS: &str = include_str!("page/page.css");
pub(super) const JS: &str = include_str!("page/page.js");
pub(super) const ICON: &str = include_str!("page/icon.svg");
/// Nothing from elsewhere, nothing inline: whatever a message contains, it cannot run or load anything.
pub(super) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
     connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = include_str!("page/page.html");
/// Most requests, from the latest back, that the page shows.
const SHOWN: usize = 300;

/// What the page shows, or what is new of it.
pub(super) struct View {
    pub(super) items: Vec<Item>,
}

/// One line of the group: a message, or a note about a request that did not become one.
#[derive(Serialize)]
pub(super) struct Item {
    id: String,
    html: String,
}

impl View {
    /// What changed since a revision.
    pub(super) fn new(journal: &Journal, since: u64, lang: Lang) -> View {
        let words = lang.words();
        let items = journal.latest(SHOWN).filter_map(|(request, message)| match (request.verdict, message) {
            (Verdict::Accepted, Some(message)) if message.revision.max(request.revision) > since => {
                Some(Item { id: format!("m{}", message.seq), html: bubble(message, request, words) })
            }
            // A duplicate is counted on its message; where that was cleared, it would leave no trace.
            (Verdict::Refused | Verdict::Lost, _) | (Verdict::Duplicate, None) if request.revision > since => {
                Some(Item { id: format!("r{}", request.seq), html: note(request, words) })
            }
            (Verdict::Accepted | Verdict::Duplicate | Verdict::Refused | Verdict::Lost, _) => None,
        });
        View { items: items.collect() }
    }
}

/// The whole page, as the group stands now.
pub(super) fn html(journal: &Journal, settings: &Settings, lang: Lang, host: &str) -> String {
    let words = lang.words();
    let view = View::new(journal, 0, lang);
    let mut items = String::new();
    for Item { html, .. } in &view.items {
        items.push_str(html);
    }
    let token = settings.tokens.as_ref().and_then(|tokens| tokens.first()).map_or("sandbox", String::as_str);
    let keyword = settings.keywords.first().map_or(words.hello, String::as_str);
    // In single quotes for a shell and in double quotes for JSON: neither may occur.
    let quotable = |text: &str| text.chars().filter(|c| !matches!(c, '\'' | '"' | '\\')).collect::<String>();
    let curl = format!(
        "curl 'http://{}/robot/send?access_token={}' \\\n  -H 'Content-Type: application/json' \\\n  \
         -d '{{\"msgtype\":\"text\",\"text\":{{\"content\":\"{}\"}}}}'",
        quotable(host),
        utf8_percent_encode(token, NON_ALPHANUMERIC),
        quotable(keyword),
    );
    let signed = if settings.secret.is_some() { words.must_be_signed } else { "" };
    let values = [
        ("lang", words.code.into()),
        ("title", words.title.into()),
        ("rules", rules(settings, host, words).into()),
        ("clear", words.clear.into()),
        ("live", words.live.into()),
        ("lost", words.connection_lost.into()),
        ("other", words.other_code.into()),
        ("other_name", words.other_name.into()),
        ("empty_title", words.empty_title.into()),
        ("empty_text", words.empty_text.into()),
        ("empty_more", words.empty_more.into()),
        ("signed", signed.into()),
        ("curl", Cow::from(curl)),
        ("copy", words.copy.into()),
        ("copied", words.copied.into()),
        ("foot", words.foot.into()),
        ("revision", journal.revision().to_string().into()),
        ("clears", journal.clears().to_string().into()),
    ];
    fill(HTML, &values, &items)
}

/// Replaces `{{name}}` by its escaped value, and `{{items}}` by what is HTML already.
fn fill(template: &str, values: &[(&str, Cow<'_, str>)], items: &str) -> String {
    let mut page = String::with_capacity(template.len() + items.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        page.push_str(before);
        match values.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => page.push_str(&escaped(value)),
            None => page.push_str(items),
        }
        rest = after;
    }
    page.push_str(rest);
    page
}

/// What the robots of this sandbox insist on, in one line.
fn rules(settings: &Settings, host: &str, words: &Words) -> String {
    let mut parts = vec![host.to_owned()];
    parts.push(match settings.rate {
        Some((count, window)) if window == Duration::from_secs(60) => format!("{count}{}", words.a_minute),
        Some((count, window)) => format!("{count} / {}", crate::config::show(window)),
        None => words.no_limit.to_owned(),
    });
    if settings.secret.is_some() {
        parts.push(words.signed.to_owned());
    }
    if !settings.keywords.is_empty() {
        parts.push(format!("{}{}", words.keywords, settings.keywords.join(" / ")));
    }
    parts.join(" · ")
}

fn bubble(message: &Message, request: &Request, words: &Words) -> String {
    let hue = message.token.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % 5;
    let body = match message.msgtype {
        "markdown" => markdown::render(&message.text, &message.at),
        "actionCard" => {
            format!("<h4>{}</h4>{}", escaped(&message.title), markdown::render(&message.text, &message.at))
        }
        "link" => {
            let url = message.links.first().map_or("", |link| link.url.as_str());
            format!("<h4>{}</h4><p>{}</p>", markdown::link(url, &escaped(&message.title)), escaped(&message.text))
        }
        "feedCard" => String::new(),
        _ => format!("<p class=\"plain\">{}</p>", markdown::mentions(&message.text, &message.at)),
    };
    let everybody = if message.at.is_at_all {
        format!("<p><span class=\"at\">{}</span></p>", words.everybody)
    } else {
        String::new()
    };
    let mut links = String::new();
    for link in message.links.iter().filter(|_| message.msgtype != "link") {
        let _ = write!(links, "<li>{}</li>", markdown::link(&link.url, &escaped(&link.title)));
    }
    if !links.is_empty() {
        links = format!("<ul class=\"links\">{links}</ul>");
    }
    let mut aside = Vec::new();
    if message.msgtype == "markdown" {
        aside.push(format!("{}{}", words.chat_list, escaped(&message.title)));
    }
    if message.duplicates > 0 {
        aside.push(format!("{} ×{}", words.duplicates, message.duplicates));
    }
    if message.mismatched {
        aside.push(format!("<strong>{}</strong>", words.mismatched));
    }
    if let Some(script) = request.script {
        aside.push(format!("{}{script}", words.scripted));
    }
    let aside = if aside.is_empty() { String::new() } else { format!("<p class=\"aside\">{}</p>", aside.join(" · ")) };
    format!(
        "<li class=\"message {kind}\" id=\"m{seq}\"><span class=\"avatar hue{hue}\" aria-hidden=\"true\"></span>\
         <div class=\"column\"><p class=\"who\"><b>{name}</b> <span class=\"tag\">{tag}</span> <code>{robot}</code> {time}</p>\
         <div class=\"bubble\">{body}{everybody}{links}</div>{aside}</div></li>",
        kind = message.msgtype,
        seq = message.seq,
        name = words.name,
        tag = words.tag,
        robot = escaped(&message.robot),
        time = time(message.received_at),
    )
}

fn note(request: &Request, words: &Words) -> String {
    let what = match request.errcode {
        Some(code) => format!("<b>{code}</b> {}", escaped(&request.errmsg)),
        None => words.unseen.to_owned(),
    };
    let script = request.script.map(|name| format!(" · {}{name}", words.scripted)).unwrap_or_default();
    let robot = request.robot.as_deref().map(|robot| format!(" <code>{}</code>", escaped(robot))).unwrap_or_default();
    let label = match request.verdict {
        Verdict::Lost => words.lost,
        Verdict::Duplicate => words.duplicates,
        Verdict::Accepted | Verdict::Refused => words.refused,
    };
    format!(
        "<li class=\"note\" id=\"r{seq}\"><p>{label}{robot} {what}{script} {time}</p></li>",
        seq = request.seq,
        time = time(request.received_at),
    )
}

/// In UTC here; the page's script shows the reader's own time.
fn time(at: jiff::Timestamp) -> String {
    format!("<time datetime=\"{at}\">{} UTC</time>", at.strftime("%H:%M"))
}

fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    // Writing to a string does not fail.
    let _ = escape_html(&mut html, text);
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_escapes_what_it_is_given_and_leaves_no_gap() {
        let settings = Settings { keywords: vec!["</pre><script>'".to_owned()], ..Settings::default() };
        for lang in [Lang::Zh, Lang::En] {
            let page = html(&Journal::new(1), &settings, lang, "h\"<b>");
            assert!(!page.contains("{{") && page.ends_with("</html>\n"), "{page}");
            assert!(!page.contains("<script>'") && !page.contains("<b>"), "{page}");
        }
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere_and_runs_nothing_inline() {
        for part in [HTML, CSS, JS] {
            assert!(!part.contains("http://") && !part.contains("https://"));
        }
        assert!(!HTML.contains("<style") && !HTML.contains(" style=") && !HTML.contains(" onclick"));
    }
}
