//! A message in DingTalk's JSON: mentions written out, and never too long.

use bytes::Bytes;
use serde::Serialize;

use super::{links, shorten};
use crate::message::{Button, Format, Mentions, Message};

/// Most bytes of a body; the platform refuses 20,000.
const MOST: usize = 18_000;

/// Most people that one message mentions.
const MOST_MENTIONS: usize = 50;

/// As long as [`crate::channel::msg_uuid`] makes it.
const KEY_LIKE: &str = "00000000000000000000000000000000";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    msgtype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    markdown: Option<Markdown<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action_card: Option<ActionCard<'a>>,
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

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ActionCard<'a> {
    title: &'a str,
    text: &'a str,
    /// One below the other: side by side, a phone shows only the first characters of each.
    btn_orientation: &'static str,
    #[serde(flatten)]
    buttons: Buttons<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Buttons<'a> {
    One {
        #[serde(rename = "singleTitle")]
        title: &'a str,
        #[serde(rename = "singleURL")]
        url: &'a str,
    },
    Many {
        btns: Vec<Btn<'a>>,
    },
}

#[derive(Serialize)]
struct Btn<'a> {
    title: &'a str,
    #[serde(rename = "actionURL")]
    url: &'a str,
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
    let mobiles = people(&mentions.at_mobiles, is_mobile, "at_mobiles", "a mobile number (overseas: +1-1234567890)")?;
    let user_ids = people(&mentions.at_user_ids, is_user_id, "at_user_ids", "a user id")?;
    let at = At { at_mobiles: &mobiles, at_user_ids: &user_ids, is_at_all: mentions.at_all };
    let mentioned = at.at_mobiles.len() + at.at_user_ids.len();
    if mentioned > MOST_MENTIONS {
        return Err(format!(
            "message: mentions {mentioned} people; DingTalk takes at most {MOST_MENTIONS}, so mention fewer or at_all"
        ));
    }
    let json = |text: &str| encode(message, text, at, key);
    let whole = json(&with_mentions(&message.format, &message.body, at))?;
    if whole.len() <= MOST {
        return Ok(whole.into());
    }
    let note = format!("{}{}", paragraph(&message.format), shorten::NOTE);
    // As if everybody had to be named after the cut.
    let rest = json(&with_mentions(&message.format, &note, at))?.len();
    let Some(left) = MOST.checked_sub(rest) else {
        if matches!(message.format, Format::ActionCard(_)) {
            // An address cannot be shortened, and the text matters more than its buttons.
            return build(&Message { format: Format::Markdown, ..message.clone() }, key);
        }
        return Err("message: the title and mentions alone are too long; shorten the title".to_owned());
    };
    let beginning = shorten::shorten(&message.body, message.format.is_markdown(), left);
    Ok(json(&with_mentions(&message.format, &format!("{beginning}{note}"), at))?.into())
}

/// Bytes of the body of a message that is not shortened, with a key of the usual length.
pub(in crate::channel) fn size(message: &Message) -> usize {
    let Mentions { at_mobiles, at_user_ids, at_all } = &message.mentions;
    let mobiles: Vec<&str> = at_mobiles.iter().map(String::as_str).collect();
    let user_ids: Vec<&str> = at_user_ids.iter().map(String::as_str).collect();
    let at = At { at_mobiles: &mobiles, at_user_ids: &user_ids, is_at_all: *at_all };
    let text = with_mentions(&message.format, &message.body, at);
    encode(message, &text, at, KEY_LIKE).map_or(usize::MAX, |body| body.len())
}

/// Whether [`build`] would leave nothing out and refuse nothing for its size.
pub(in crate::channel) fn fits(message: &Message) -> bool {
    let mentioned = message.mentions.at_mobiles.len() + message.mentions.at_user_ids.len();
    mentioned <= MOST_MENTIONS && size(message) <= MOST
}

/// The message as it is sent when the platform finds its content unsafe.
pub(super) fn without_links(message: &Message) -> Message {
    let strip = |text: &str| links::strip(text, message.format.is_markdown());
    let format = match message.format {
        Format::Text => Format::Text,
        Format::Markdown | Format::ActionCard(_) => Format::Markdown,
    };
    Message { format, title: strip(&message.title), body: strip(&message.body), ..message.clone() }
}

fn encode(message: &Message, text: &str, at: At<'_>, key: &str) -> Result<Vec<u8>, String> {
    let title = &message.title;
    let mut body = Body { msgtype: "text", text: None, markdown: None, action_card: None, at, msg_uuid: key };
    match &message.format {
        Format::Text => body.text = Some(Text { content: text }),
        Format::Markdown => (body.msgtype, body.markdown) = ("markdown", Some(Markdown { title, text })),
        Format::ActionCard(all) => {
            let card = ActionCard { title, text, btn_orientation: "0", buttons: buttons(all) };
            (body.msgtype, body.action_card) = ("actionCard", Some(card));
        }
    }
    serde_json::to_vec(&body).map_err(|error| format!("message: cannot be written as JSON: {error}"))
}

/// A single button has a form of its own.
fn buttons(all: &[Button]) -> Buttons<'_> {
    match all {
        [Button { title, url }] => Buttons::One { title, url },
        all => Buttons::Many { btns: all.iter().map(|Button { title, url }| Btn { title, url }).collect() },
    }
}

/// Each person once, checked: a mention goes into the text as it is. Who is refused is counted and not named.
fn people<'a>(all: &'a [String], valid: fn(&str) -> bool, list: &str, wanted: &str) -> Result<Vec<&'a str>, String> {
    let mut people: Vec<&str> = Vec::with_capacity(all.len());
    for (index, person) in all.iter().enumerate() {
        if !valid(person) {
            let number = index + 1;
            return Err(format!("message: cannot mention number {number} of {list}, which is not {wanted}"));
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
fn with_mentions(format: &Format, text: &str, at: At<'_>) -> String {
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
fn paragraph(format: &Format) -> &'static str {
    if format.is_markdown() { "\n\n" } else { "\n" }
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
        let text =
            body.pointer("/markdown/text").or(body.pointer("/text/content")).or(body.pointer("/actionCard/text"));
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

    fn button(title: &str, url: &str) -> Button {
        Button { title: title.into(), url: url.into() }
    }

    #[test]
    fn a_card_has_one_button_or_a_list_of_them() {
        let mut card = message(Format::ActionCard(vec![button("看", "https://a.example/1")]), "**评审**");
        card.mentions = mentioning(&["13800138000"], &[]);
        assert_eq!(
            built(&card),
            r#"{"msgtype":"actionCard","actionCard":{"title":"标题","text":"**评审**\n\n@13800138000","btnOrientation":"0","singleTitle":"看","singleURL":"https://a.example/1"},"at":{"atMobiles":["13800138000"],"atUserIds":[],"isAtAll":false},"msgUuid":"k"}"#
        );
        card.format = Format::ActionCard(vec![button("看", "https://a.example/1"), button("评", "dingtalk://b/2")]);
        assert!(
            built(&card).contains(
                r#""btnOrientation":"0","btns":[{"title":"看","actionURL":"https://a.example/1"},{"title":"评","actionURL":"dingtalk://b/2"}]}"#
            ),
            "{}",
            built(&card)
        );
    }

    #[test]
    fn a_card_without_links_is_plain_markdown_with_its_mentions() {
        let mut card =
            message(Format::ActionCard(vec![button("看", "https://a.example/1")]), "[评](https://b.example)");
        card.mentions = mentioning(&["13800138000"], &[]);
        let plain = without_links(&card);
        assert_eq!((&plain.format, plain.body.as_str()), (&Format::Markdown, "评"));
        assert_eq!(text(&plain), "评\n\n@13800138000");
        assert!(!built(&plain).contains("example"));
    }

    #[test]
    fn buttons_that_leave_no_room_are_left_out() {
        let long = format!("https://a.example/{}", "x".repeat(20_000));
        let card = message(Format::ActionCard(vec![button("看", &long)]), "评审");
        let body = built(&card);
        assert!(body.contains(r#""msgtype":"markdown""#) && body.contains("评审"), "{body}");
        assert!(!fits(&card));
    }

    #[test]
    fn the_size_is_that_of_the_body_that_would_be_sent_whole() {
        let key = crate::channel::msg_uuid(uuid::Uuid::nil(), 0, "default");
        for format in [Format::Text, Format::Markdown, Format::ActionCard(vec![button("看", "https://a.example")])] {
            let mut message = message(format, "简历 \"一\"\n二");
            message.mentions = mentioning(&["13800138000"], &["user1"]);
            assert_eq!(size(&message), build(&message, &key).unwrap().len());
            assert!(fits(&message));
            message.body = "简".repeat(6_000);
            assert!(size(&message) > 18_000 && !fits(&message));
        }
        let mut crowded = message(Format::Text, "x");
        crowded.mentions.at_user_ids = (0..51).map(|n| n.to_string()).collect();
        assert!(!fits(&crowded));
    }

    #[test]
    fn every_form_is_shortened_with_a_note_and_never_rejected() {
        let line = "- [李雷](https://hire.example.com/r/1) \\*后端\\* 🎉 \"一\"\n";
        for format in [Format::Text, Format::Markdown, Format::ActionCard(vec![button("看", "https://a.example/1")])] {
            let mut long = message(format.clone(), &line.repeat(1_000));
            long.mentions = mentioning(&["13800138000"], &[]);
            let body = built(&long);
            assert!((MOST - 200..=MOST).contains(&body.len()), "{}", body.len());
            let between = if format.is_markdown() { "\n\n" } else { "\n" };
            let text = text(&long);
            let end = format!("\"一\"{between}{}{between}@13800138000", shorten::NOTE);
            assert!(text.ends_with(&end), "{}", &text[text.len() - 200..]);
            assert_eq!(body.contains("singleURL"), matches!(format, Format::ActionCard(_)));
        }
    }

    #[test]
    fn fifty_people_in_all_are_mentioned_and_never_by_what_the_text_says() {
        let mut crowded = message(Format::Markdown, "@13900139000 @user.x 请看");
        crowded.mentions.at_mobiles = (0..25).map(|n| format!("138001380{n:02}")).collect();
        crowded.mentions.at_user_ids = (0..25).map(|n| format!("user{n}")).collect();
        let body: serde_json::Value = serde_json::from_str(&built(&crowded)).unwrap();
        assert_eq!(body["at"]["atMobiles"].as_array().unwrap().len(), 25);
        assert!(!body["at"].to_string().contains("13900139000") && !body["at"].to_string().contains("user.x"));
        crowded.mentions.at_mobiles.push("+1-1234567890".into());
        assert!(build(&crowded, "k").unwrap_err().contains("51 people"));
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
            assert!(why.starts_with("message: cannot mention number 1 of at_"), "{why}");
            assert!(!why.contains("evil.example"), "{why}");
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
            let message =
                Message { mentions: mentioning(&["13800138000"], &["user1"]), ..message(format.clone(), &body) };
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
