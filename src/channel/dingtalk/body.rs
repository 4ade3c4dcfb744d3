//! A message in DingTalk's JSON: mentions written out, and never too long.

use bytes::Bytes;
use serde::Serialize;

use super::{links, shorten};
use crate::message::{Format, Message};

/// Most bytes of a body; the platform refuses 20,000.
const MOST: usize = 18_000;

/// Most people that one message mentions.
const MOST_MENTIONS: usize = 50;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    msgtype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    markdown: Option<Markdown<'a>>,
    at: At<'a>,
    msg_uuid: &'a str,
}

#[derive(Serialize)]
struct Text<'a> {
    content: &'a str,
}

#[derive(Serialize)]
struct Markdown<'a> {
    title: &'a str,
    text: &'a str,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct At<'a> {
    at_mobiles: &'a [&'a str],
    at_user_ids: &'a [&'a str],
    is_at_all: bool,
}

/// The body of a request: as long as allowed, shortened where it must be.
///
/// # Errors
///
/// What about the message can never be sent, as a report's reason.
pub(super) fn build(message: &Message, key: &str) -> Result<Bytes, String> {
    let mentions = &message.mentions;
    let mobiles = people(&mentions.at_mobiles, is_mobile, "a mobile number (overseas: +1-1234567890)")?;
    let user_ids = people(&mentions.at_user_ids, is_user_id, "a user id")?;
    let at = At { at_mobiles: &mobiles, at_user_ids: &user_ids, is_at_all: mentions.at_all };
    let mentioned = at.at_mobiles.len() + at.at_user_ids.len();
    if mentioned > MOST_MENTIONS {
        return Err(format!(
            "message: mentions {mentioned} people; DingTalk takes at most {MOST_MENTIONS}, so mention fewer or at_all"
        ));
    }
    let json = |text: &str| encode(message, text, at, key);
    let whole = json(&with_mentions(message.format, &message.body, at))?;
    if whole.len() <= MOST {
        return Ok(whole.into());
    }
    let note = format!("{}{}", paragraph(message.format), shorten::NOTE);
    // As if everybody had to be named after the cut.
    let rest = json(&with_mentions(message.format, &note, at))?.len();
    let Some(left) = MOST.checked_sub(rest) else {
        return Err("message: the title and mentions alone are too long; shorten the title".to_owned());
    };
    let beginning = shorten::shorten(&message.body, message.format == Format::Markdown, left);
    Ok(json(&with_mentions(message.format, &format!("{beginning}{note}"), at))?.into())
}

/// The message as it is sent when the platform finds its content unsafe.
pub(super) fn without_links(message: &Message) -> Message {
    let strip = |text: &str| links::strip(text, message.format == Format::Markdown);
    Message { title: strip(&message.title), body: strip(&message.body), ..message.clone() }
}

fn encode(message: &Message, text: &str, at: At<'_>, key: &str) -> Result<Vec<u8>, String> {
    let body = match message.format {
        Format::Text => Body { msgtype: "text", text: Some(Text { content: text }), markdown: None, at, msg_uuid: key },
        Format::Markdown => {
            let markdown = Some(Markdown { title: &message.title, text });
            Body { msgtype: "markdown", text: None, markdown, at, msg_uuid: key }
        }
    };
    serde_json::to_vec(&body).map_err(|error| format!("message: cannot be written as JSON: {error}"))
}

/// Each person once, checked: a mention goes into the text as it is.
fn people<'a>(all: &'a [String], valid: fn(&str) -> bool, wanted: &str) -> Result<Vec<&'a str>, String> {
    let mut people: Vec<&str> = Vec::with_capacity(all.len());
    for person in all {
        if !valid(person) {
            return Err(format!("message: cannot mention {person:?}, which is not {wanted}"));
        }
        if !people.contains(&person.as_str()) {
            people.push(person);
        }
    }
    Ok(people)
}

fn is_mobile(text: &str) -> bool {
    let digits = |text: &str, least, most| {
        (least..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    match text.strip_prefix('+') {
        Some(overseas) => {
            overseas.split_once('-').is_some_and(|(code, number)| digits(code, 1, 4) && digits(number, 4, 15))
        }
        None => (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
    }
}

fn is_user_id(text: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !"@[]()<>".contains(c);
    (1..=64).contains(&text.chars().count()) && text.chars().all(plain)
}

/// The text with everybody who is mentioned named in it: without that nobody is notified.
fn with_mentions(format: Format, text: &str, at: At<'_>) -> String {
    let everybody = at.at_mobiles.iter().chain(at.at_user_ids);
    let missing: Vec<String> = everybody.filter(|person| !names(text, person)).map(|p| format!("@{p}")).collect();
    if missing.is_empty() {
        return text.to_owned();
    }
    let between = if text.is_empty() { "" } else { paragraph(format) };
    format!("{text}{between}{}", missing.join(" "))
}

/// Whether a text names this person, and not one whose number begins with the same digits.
fn names(text: &str, person: &str) -> bool {
    let mention = format!("@{person}");
    text.match_indices(&mention).any(|(at, found)| {
        let next = text[at + found.len()..].chars().next();
        !next.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
    })
}

/// What begins a new line: Markdown wants an empty one before it.
fn paragraph(format: Format) -> &'static str {
    match format {
        Format::Text => "\n",
        Format::Markdown => "\n\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Mentions;

    fn message(format: Format, body: &str) -> Message {
        Message { format, title: "标题".into(), body: body.into(), mentions: Mentions::default() }
    }

    fn mentioning(mobiles: &[&str], user_ids: &[&str]) -> Mentions {
        let own = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect();
        Mentions { at_mobiles: own(mobiles), at_user_ids: own(user_ids), at_all: false }
    }

    fn built(message: &Message) -> String {
        String::from_utf8(build(message, "k").unwrap().to_vec()).unwrap()
    }

    fn text(message: &Message) -> String {
        let body: serde_json::Value = serde_json::from_str(&built(message)).unwrap();
        let text = body.pointer("/markdown/text").or(body.pointer("/text/content"));
        text.unwrap().as_str().unwrap().to_owned()
    }

    #[test]
    fn text_and_markdown_are_written_as_the_platform_reads_them() {
        assert_eq!(
            built(&message(Format::Text, "新简历 \"张三\"")),
            r#"{"msgtype":"text","text":{"content":"新简历 \"张三\""},"at":{"atMobiles":[],"atUserIds":[],"isAtAll":false},"msgUuid":"k"}"#
        );
        let mut markdown = message(Format::Markdown, "**新简历**");
        markdown.mentions.at_all = true;
        assert_eq!(
            built(&markdown),
            r#"{"msgtype":"markdown","markdown":{"title":"标题","text":"**新简历**"},"at":{"atMobiles":[],"atUserIds":[],"isAtAll":true},"msgUuid":"k"}"#
        );
    }

    #[test]
    fn mentions_stand_in_the_text_and_beside_it() {
        let mut message = message(Format::Text, "@13800138000 and @138001380001");
        message.mentions = mentioning(&["13800138000", "13800138001", "13800138001", "+1-1234567890"], &["user.1"]);
        assert_eq!(text(&message), "@13800138000 and @138001380001\n@13800138001 @+1-1234567890 @user.1");
        assert!(
            built(&message).contains(
                r#""atMobiles":["13800138000","13800138001","+1-1234567890"],"atUserIds":["user.1"],"isAtAll":false"#
            ),
            "{}",
            built(&message)
        );
        message.body = "@138001380001".into();
        message.format = Format::Markdown;
        message.mentions = mentioning(&["13800138000"], &[]);
        assert_eq!(text(&message), "@138001380001\n\n@13800138000");
    }

    #[test]
    fn mentions_that_could_notify_nobody_are_refused() {
        for (mobiles, user_ids) in [
            (["+11234567890"].as_slice(), [].as_slice()),
            (&["+1-"], &[]),
            (&["+1-12a4567"], &[]),
            (&["+-1234567"], &[]),
            (&[""], &[]),
            (&["138 0013"], &[]),
            (&[], &[""]),
            (&[], &["a\nb"]),
            (&[], &["x](https://evil.example)"]),
        ] {
            let refused = Message { mentions: mentioning(mobiles, user_ids), ..message(Format::Text, "x") };
            let why = build(&refused, "k").unwrap_err();
            assert!(why.starts_with("message: cannot mention"), "{why}");
        }
        let crowd: Vec<String> = (0..51).map(|n| format!("user{n}")).collect();
        let mut crowded = message(Format::Text, "x");
        crowded.mentions.at_user_ids = crowd;
        assert!(build(&crowded, "k").unwrap_err().contains("51 people"));
        crowded.mentions.at_user_ids.pop();
        assert!(build(&crowded, "k").is_ok());
    }

    #[test]
    fn a_long_message_is_shortened_and_keeps_its_title_and_mentions() {
        let mut long = message(Format::Markdown, &format!("{}@13800138000", "第一行\"\n".repeat(2_000)));
        long.mentions = mentioning(&["13800138000"], &["user1"]);
        let body = built(&long);
        assert!((MOST - 100..=MOST).contains(&body.len()), "{}", body.len());
        assert!(body.contains(r#""title":"标题""#));
        let text = text(&long);
        assert!(text.ends_with("第一行\"\n\n…（内容过长，已截断）\n\n@13800138000 @user1"), "{text}");
    }

    #[test]
    fn no_body_is_too_long_whatever_it_is_made_of() {
        let parts = ["x", "简", "\n", "\"", "\u{1}", "🎉", "[a](https://x.example/b)", "![", "](", "@13800138000 "];
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..60 {
            let count = random.usize(0..12_000);
            let body: String = (0..count).map(|_| parts[random.usize(0..parts.len())]).collect();
            let format = if random.bool() { Format::Text } else { Format::Markdown };
            let message = Message { mentions: mentioning(&["13800138000"], &["user1"]), ..message(format, &body) };
            let built = built(&message);
            assert!(built.len() <= MOST);
            let text = text(&message);
            assert!(text.contains("@user1") && text.contains("@13800138000"));
        }
    }

    #[test]
    fn a_title_that_leaves_no_room_is_refused() {
        let title = "长".repeat(6_000);
        assert!(build(&Message { title, ..message(Format::Markdown, "x") }, "k").unwrap_err().contains("title"));
    }
}
