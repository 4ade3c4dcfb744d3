//! What a template renders and a channel sends.

/// A message, ready but for the platform's own form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// How the body is to be read.
    pub format: Format,
    /// Shown in the chat list; never empty for Markdown.
    pub title: String,
    /// The rendered body, without mentions: the channel writes those.
    pub body: String,
    /// Whom to mention: the template's defaults, and what the event asks for.
    pub mentions: Mentions,
}

/// How a body is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// As it stands.
    Text,
    /// As the platform's subset of Markdown.
    Markdown,
    /// As Markdown, with these buttons below it: at least one.
    ActionCard(Vec<Button>),
}

impl Format {
    /// Whether the body is Markdown.
    pub fn is_markdown(&self) -> bool {
        match self {
            Format::Text => false,
            Format::Markdown | Format::ActionCard(_) => true,
        }
    }
}

/// What opens an address at a tap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Button {
    /// Its label: one line of plain text.
    pub title: String,
    /// An http, https or dingtalk address.
    pub url: String,
}

/// Whom a message mentions. Never taken from its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mentions {
    /// Mobile numbers; overseas ones as `+1-1234567890`.
    pub at_mobiles: Vec<String>,
    /// User ids.
    pub at_user_ids: Vec<String>,
    /// Everybody.
    pub at_all: bool,
}

impl Mentions {
    /// Both, each person once.
    pub fn union(&self, other: &Mentions) -> Mentions {
        let join = |mine: &[String], theirs: &[String]| {
            let mut all = mine.to_vec();
            all.extend(theirs.iter().filter(|person| !mine.contains(person)).cloned());
            all
        };
        Mentions {
            at_mobiles: join(&self.at_mobiles, &other.at_mobiles),
            at_user_ids: join(&self.at_user_ids, &other.at_user_ids),
            at_all: self.at_all || other.at_all,
        }
    }
}
