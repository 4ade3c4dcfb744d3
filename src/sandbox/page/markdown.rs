//! DingTalk's subset of Markdown. What is not in it shows as it was written, so that the author sees it before the group does.

use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, TextMergeStream, html};
use url::Url;

use super::escaped;
use crate::sandbox::At;

/// Renders a message's Markdown; HTML in it is shown, not obeyed.
pub(super) fn render(markdown: &str, at: &At) -> String {
    let mut subset = Vec::new();
    let mut links = Vec::new();
    for event in Parser::new_ext(markdown, Options::empty()) {
        reduce(event, &mut links, &mut subset);
    }
    // Merged first: a mention may come in pieces, as `@user_id` does.
    let events = TextMergeStream::new(subset.into_iter()).map(|event| match event {
        Event::Text(text) => Event::InlineHtml(mentions(&text, at).into()),
        other @ (Event::Start(_)
        | Event::End(_)
        | Event::Code(_)
        | Event::InlineMath(_)
        | Event::DisplayMath(_)
        | Event::Html(_)
        | Event::InlineHtml(_)
        | Event::FootnoteReference(_)
        | Event::SoftBreak
        | Event::HardBreak
        | Event::Rule
        | Event::TaskListMarker(_)) => other,
    });
    let mut page = String::new();
    html::push_html(&mut page, events);
    page
}

/// Text, escaped, with the mentions in it highlighted.
pub(super) fn mentions(text: &str, at: &At) -> String {
    let mut literals: Vec<String> = at.literals().filter(|literal| literal.len() > 1).collect();
    // The longer first: one may begin with another.
    literals.sort_by_key(|literal| std::cmp::Reverse(literal.len()));
    let mut page = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('@') {
        let (before, from) = rest.split_at(start);
        page.push_str(&escaped(before));
        let literal = literals.iter().find(|literal| from.starts_with(literal.as_str()));
        let (mention, after) = from.split_at(literal.map_or(1, String::len));
        match literal {
            Some(_) => page.push_str(&format!("<span class=\"at\">{}</span>", escaped(mention))),
            None => page.push_str(mention),
        }
        rest = after;
    }
    page.push_str(&escaped(rest));
    page
}

/// A link that opens apart and does not say where it came from; only the label where it is no web address.
pub(super) fn link(url: &str, label_html: &str) -> String {
    match opening(url) {
        Some(opening) => format!("{opening}{label_html}</a>"),
        None => label_html.to_owned(),
    }
}

fn opening(url: &str) -> Option<String> {
    let known = Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https" | "dingtalk"));
    known.then(|| format!("<a href=\"{}\" target=\"_blank\" rel=\"noopener noreferrer\">", escaped(url)))
}

/// Keeps what DingTalk shows, and turns the rest into text. `links` remembers which open links are real.
fn reduce<'a>(event: Event<'a>, links: &mut Vec<bool>, subset: &mut Vec<Event<'a>>) {
    let reduced = match event {
        Event::Start(Tag::Link { dest_url, .. }) => {
            let opening = opening(&dest_url);
            links.push(opening.is_some());
            let Some(opening) = opening else { return };
            Event::InlineHtml(opening.into())
        }
        Event::End(TagEnd::Link) => {
            if links.pop() != Some(true) {
                return;
            }
            Event::InlineHtml("</a>".into())
        }
        // Pictures come from elsewhere, and this page loads nothing from there.
        Event::Start(Tag::Image { .. }) => Event::Text("🖼 ".into()),
        Event::End(TagEnd::Image) => return,
        Event::Start(Tag::CodeBlock(_) | Tag::HtmlBlock) => Event::Start(Tag::Paragraph),
        Event::End(TagEnd::CodeBlock | TagEnd::HtmlBlock) => Event::End(TagEnd::Paragraph),
        Event::Code(text) => Event::Text(CowStr::from(format!("`{text}`"))),
        Event::Html(text) | Event::InlineHtml(text) => Event::Text(text),
        Event::InlineMath(text) | Event::DisplayMath(text) | Event::FootnoteReference(text) => Event::Text(text),
        Event::Rule => {
            subset.extend([Event::Start(Tag::Paragraph), Event::Text("---".into())]);
            Event::End(TagEnd::Paragraph)
        }
        kept @ (Event::Start(_)
        | Event::End(_)
        | Event::Text(_)
        | Event::SoftBreak
        | Event::HardBreak
        | Event::TaskListMarker(_)) => kept,
    };
    subset.push(reduced);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(markdown: &str) -> String {
        render(markdown, &At { at_mobiles: vec!["138".into()], at_user_ids: vec!["user_id".into()], is_at_all: false })
    }

    #[test]
    fn the_documented_subset_is_rendered() {
        assert_eq!(
            rendered("#### T  \n> **b** *i*"),
            "<h4>T</h4>\n<blockquote>\n<p><strong>b</strong> <em>i</em></p>\n</blockquote>\n"
        );
        assert_eq!(rendered("- a\n- b"), "<ul>\n<li>a</li>\n<li>b</li>\n</ul>\n");
        assert_eq!(rendered("a  \nb\nc"), "<p>a<br />\nb\nc</p>\n");
    }

    #[test]
    fn html_is_shown_and_not_obeyed() {
        assert_eq!(rendered("<script>x</script>"), "<p>&lt;script&gt;x&lt;/script&gt;</p>\n");
        assert_eq!(rendered("a <img src=x onerror=y>"), "<p>a &lt;img src=x onerror=y&gt;</p>\n");
    }

    #[test]
    fn links_open_apart_and_only_to_web_addresses() {
        assert_eq!(
            rendered("[a](https://a.example/?x=1&y=\"2\")"),
            "<p>[a](https://a.example/?x=1&amp;y=&quot;2&quot;)</p>\n".replace("[a](https://a.example/?x=1&amp;y=&quot;2&quot;)", "<a href=\"https://a.example/?x=1&amp;y=&quot;2&quot;\" target=\"_blank\" rel=\"noopener noreferrer\">a</a>")
        );
        assert_eq!(rendered("[a](javascript:alert(1)) b"), "<p>a b</p>\n");
    }

    #[test]
    fn what_dingtalk_does_not_know_shows_as_it_was_written() {
        assert_eq!(rendered("`x`"), "<p>`x`</p>\n");
        assert_eq!(rendered("| a | b |\n|---|---|"), "<p>| a | b |\n|---|---|</p>\n");
        assert_eq!(rendered("![alt](https://a.example/p.png)"), "<p>🖼 alt</p>\n");
    }

    #[test]
    fn mentions_are_highlighted_and_other_names_are_not() {
        assert_eq!(rendered("@user_id @other"), "<p><span class=\"at\">@user_id</span> @other</p>\n");
        assert_eq!(rendered("**@138**"), "<p><strong><span class=\"at\">@138</span></strong></p>\n");
    }
}
