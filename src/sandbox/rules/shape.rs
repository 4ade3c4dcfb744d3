//! The form of a message: fields in their exact case, nothing missing, nothing that would silently do nothing.

use serde::{Deserialize, Serialize};
use url::Url;

use super::Refusal;

/// Most people that one message can mention.
const MAX_MENTIONS: usize = 50;

/// What the group would see of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sandbox) struct Content {
    pub(in crate::sandbox) msgtype: &'static str,
    pub(in crate::sandbox) title: String,
    pub(in crate::sandbox) text: String,
    pub(in crate::sandbox) links: Vec<Link>,
    pub(in crate::sandbox) at: At,
    pub(in crate::sandbox) msg_uuid: Option<String>,
}

/// A card's link or button.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Its label.
    pub title: String,
    /// Where it leads.
    pub url: String,
}

/// Whom a message mentions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct At {
    /// Mobile numbers.
    pub at_mobiles: Vec<String>,
    /// User ids.
    pub at_user_ids: Vec<String>,
    /// Everybody.
    pub is_at_all: bool,
}

impl At {
    /// Each mention as it must stand in the text.
    pub(in crate::sandbox) fn literals(&self) -> impl Iterator<Item = String> {
        self.at_mobiles.iter().chain(&self.at_user_ids).map(|person| format!("@{person}"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(rename = "msgtype")]
    _msgtype: String,
    text: Option<Text>,
    markdown: Option<Markdown>,
    link: Option<LinkCard>,
    #[serde(rename = "actionCard")]
    action_card: Option<ActionCard>,
    #[serde(rename = "feedCard")]
    feed_card: Option<FeedCard>,
    at: Option<At>,
    #[serde(rename = "msgUuid")]
    msg_uuid: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    content: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Markdown {
    title: Option<String>,
    text: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct LinkCard {
    title: Option<String>,
    text: Option<String>,
    message_url: Option<String>,
    pic_url: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ActionCard {
    title: Option<String>,
    text: Option<String>,
    #[serde(rename = "singleTitle")]
    single_title: Option<String>,
    #[serde(rename = "singleURL")]
    single_url: Option<String>,
    btns: Option<Vec<Button>>,
    #[serde(rename = "btnOrientation")]
    btn_orientation: Option<String>,
    #[serde(rename = "hideAvatar")]
    hide_avatar: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Button {
    title: Option<String>,
    #[serde(rename = "actionURL")]
    action_url: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FeedCard {
    links: Vec<FeedLink>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FeedLink {
    title: Option<String>,
    #[serde(rename = "messageURL")]
    message_url: Option<String>,
    #[serde(rename = "picURL")]
    pic_url: Option<String>,
}

/// Reads a body, or says what is wrong with it.
pub(super) fn read(body: &[u8]) -> Result<Content, Refusal> {
    if body.is_empty() {
        return Err(missing("json"));
    }
    let json: serde_json::Value =
        serde_json::from_slice(body).map_err(|error| Refusal::malformed(format!("not JSON: {error}")))?;
    let Some(msgtype) = json.get("msgtype").and_then(|msgtype| msgtype.as_str()) else {
        return Err(missing("msgtype"));
    };
    let known = ["text", "markdown", "link", "actionCard", "feedCard"];
    let Some(msgtype) = known.into_iter().find(|known| *known == msgtype) else {
        return Err(Refusal::new(400_105, format!("不支持的消息类型: unsupported msgtype {msgtype:?}")));
    };
    // From the text again, not from the value: only so are fields found that are given twice.
    let body: Body =
        serde_json::from_slice(body).map_err(|error| Refusal::malformed(format!("malformed message: {error}")))?;
    let content = content(msgtype, body)?;
    check_mentions(&content)?;
    check_uuid(content.msg_uuid.as_deref())?;
    Ok(content)
}

fn content(msgtype: &'static str, body: Body) -> Result<Content, Refusal> {
    let Body { _msgtype: _, text, markdown, link, action_card, feed_card, at, msg_uuid } = body;
    let given = [
        ("text", text.is_some()),
        ("markdown", markdown.is_some()),
        ("link", link.is_some()),
        ("actionCard", action_card.is_some()),
        ("feedCard", feed_card.is_some()),
    ];
    if let Some((other, _)) = given.into_iter().find(|(name, given)| *given && *name != msgtype) {
        return Err(Refusal::malformed(format!("{other} beside msgtype {msgtype}")));
    }
    let (title, text, links) = if let Some(text) = text {
        (String::new(), text.content.filter(|text| !text.trim().is_empty()).ok_or_else(|| missing("content"))?, vec![])
    } else if let Some(markdown) = markdown {
        (required(markdown.title, "title")?, required(markdown.text, "text")?, vec![])
    } else if let Some(link) = link {
        link.content()?
    } else if let Some(card) = action_card {
        card.content()?
    } else if let Some(card) = feed_card {
        card.content()?
    } else {
        return Err(missing(msgtype));
    };
    Ok(Content { msgtype, title, text, links, at: at.unwrap_or_default(), msg_uuid })
}

/// Title, text and links.
type Parts = (String, String, Vec<Link>);

impl LinkCard {
    fn content(self) -> Result<Parts, Refusal> {
        let (title, text) = (required(self.title, "title")?, required(self.text, "text")?);
        if let Some(picture) = self.pic_url.filter(|url| !url.is_empty()) {
            address(Some(picture), "picUrl")?;
        }
        let links = vec![Link { title: title.clone(), url: address(self.message_url, "messageUrl")? }];
        Ok((title, text, links))
    }
}

impl ActionCard {
    fn content(self) -> Result<Parts, Refusal> {
        let (title, text) = (required(self.title, "title")?, required(self.text, "text")?);
        for (name, value) in [("btnOrientation", self.btn_orientation), ("hideAvatar", self.hide_avatar)] {
            if value.is_some_and(|value| value != "0" && value != "1") {
                return Err(Refusal::malformed(format!("{name} is \"0\" or \"1\"")));
            }
        }
        let single = self.single_title.is_some() || self.single_url.is_some();
        let links = match self.btns {
            Some(_) if single => return Err(Refusal::malformed("btns beside singleTitle and singleURL")),
            Some(buttons) if buttons.is_empty() => return Err(null("btns")),
            Some(buttons) => buttons
                .into_iter()
                .map(|button| {
                    let title = required(button.title, "btns.title")?;
                    Ok(Link { title, url: address(button.action_url, "btns.actionURL")? })
                })
                .collect::<Result<_, Refusal>>()?,
            None => {
                let title = required(self.single_title, "singleTitle")?;
                vec![Link { title, url: address(self.single_url, "singleURL")? }]
            }
        };
        Ok((title, text, links))
    }
}

impl FeedCard {
    fn content(self) -> Result<Parts, Refusal> {
        if self.links.is_empty() {
            return Err(null("links"));
        }
        let links = self.links.into_iter().map(|link| {
            address(link.pic_url, "links.picURL")?;
            let title = required(link.title, "links.title")?;
            Ok(Link { title, url: address(link.message_url, "links.messageURL")? })
        });
        let links: Vec<Link> = links.collect::<Result<_, Refusal>>()?;
        let titles: Vec<&str> = links.iter().map(|link| link.title.as_str()).collect();
        Ok((String::new(), titles.join("\n"), links))
    }
}

/// A mention that is only in `at`, or in a form that cannot mention, notifies nobody: the real robot does not say so.
fn check_mentions(content: &Content) -> Result<(), Refusal> {
    let at = &content.at;
    let people = at.at_mobiles.len() + at.at_user_ids.len();
    if people > MAX_MENTIONS {
        return Err(Refusal::malformed(format!("at mentions {people} people, more than {MAX_MENTIONS}")));
    }
    if matches!(content.msgtype, "link" | "feedCard") && (people > 0 || at.is_at_all) {
        return Err(Refusal::malformed(format!("at: a {} cannot mention", content.msgtype)));
    }
    match at.literals().find(|literal| literal == "@" || !stands_in(&content.text, literal)) {
        Some(literal) => Err(Refusal::malformed(format!("at mentions {literal}, which does not stand in the text"))),
        None => Ok(()),
    }
}

/// Whether a mention stands in a text, and not only as the beginning of another one.
fn stands_in(text: &str, literal: &str) -> bool {
    text.match_indices(literal).any(|(start, _)| {
        let next = text[start + literal.len()..].chars().next();
        !next.is_some_and(|next| next.is_ascii_alphanumeric() || next == '_' || next == '-')
    })
}

/// Its length is undocumented; what is longer than this is not a short stable hash.
fn check_uuid(value: Option<&str>) -> Result<(), Refusal> {
    let valid = |value: &str| (1..=64).contains(&value.len()) && value.chars().all(|c| c.is_ascii_graphic());
    if value.is_none_or(valid) {
        return Ok(());
    }
    Err(Refusal::malformed("msgUuid is not 1 to 64 printable ASCII characters"))
}

fn missing(name: &str) -> Refusal {
    Refusal::new(40_035, format!("缺少参数 {name}"))
}

fn null(name: &str) -> Refusal {
    Refusal::new(300_001, format!("param {name} is null"))
}

fn required(value: Option<String>, name: &str) -> Result<String, Refusal> {
    value.filter(|value| !value.trim().is_empty()).ok_or_else(|| null(name))
}

fn address(value: Option<String>, name: &str) -> Result<String, Refusal> {
    let value = required(value, name)?;
    let opens = Url::parse(&value).is_ok_and(|url| matches!(url.scheme(), "http" | "https" | "dingtalk"));
    if opens { Ok(value) } else { Err(Refusal::malformed(format!("{name} is not an http, https or dingtalk URL"))) }
}
