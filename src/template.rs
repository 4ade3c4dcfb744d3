//! 5 — the templates: load, check, render, escape.
//!
//! A template is a file `<template_id>.md` (Markdown) or `<template_id>.txt` (plain text); its body alone is enough:
//!
//! ```text
//! ---
//! title: 新简历 ${candidate.name}
//! at_mobiles: ["13800000000"]
//! ---
//! #### ${candidate.name}
//! **评分** ${score|default("未评")}
//! <% for skill in skills %>
//! - ${skill}
//! <% endfor %>
//! ${"查看简历"|link(resume_url)}
//! ```
//!
//! - `${…}` is a value, `<% … %>` a block, `<# … #>` a comment; the rest is Jinja. Variables are the keys of the
//!   payload, and `event` (id, type, trace) unless the payload has a key of that name.
//! - What is missing or null is an error that names it; `|default("…")` stands in for both. A list or an object is
//!   an error too: nobody wants JSON in a chat.
//! - Front matter: `title`, `type` (`markdown`, `text` or `actionCard`), `at_mobiles`, `at_user_ids`, `at_all`. Without a
//!   title the first line of the body is it. An `actionCard` has a `button` (`title` and `url`, which are templates too)
//!   or a list of them, `buttons`; one whose `url` renders nothing is left out.
//! - Beside Jinja's filters: `text|link(url)`, `text|truncate(length)`, `time|datetime` with `format` and `tz`.
//! - A line that holds only blocks and comments leaves no line behind.
//! - Values are text (see `escape`), line breaks show as written (see `tidy`); `|safe` lets a value's Markdown through.
//! - `<template_id>.digest.md` renders several events of that template as one: `events`, their payloads, and `count`.
//! - `postbell.test`, what `postbell robots test` sends, is there without a file; a file of that name takes its place and
//!   gets `robot`, `text` and `at`.

mod address;
mod digest;
mod engine;
mod escape;
mod explain;
mod folder;
mod front_matter;
#[cfg(test)]
mod hostile;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod source;
#[cfg(test)]
mod tests;
mod tidy;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use minijinja::value::Serde;
use minijinja::{Environment, Value};
use serde::Serialize;

use crate::event::Event;
use crate::message::{Button, Format, Mentions, Message};

pub use digest::Digest;
pub(crate) use engine::local_time;
use front_matter::Kind;

/// A payload as the row has it.
pub type Payload = serde_json::Map<String, serde_json::Value>;

/// The templates of a folder, parsed once; cheap to render from many tasks.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
    forms: BTreeMap<Form, Result<Template, Problem>>,
    /// Rendered like those of the folder, but not listed among them.
    built_in: BTreeMap<Form, Template>,
    problems: Vec<Problem>,
}

/// A template for one event, or for several as one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Single(String),
    Digest(String),
}

/// What the folder says about one form; its body and its title are in the environment.
#[derive(Clone, Debug)]
struct Template {
    /// Of the body.
    name: String,
    /// Of the title, where it has one.
    title: Option<String>,
    kind: Kind,
    buttons: Vec<ButtonNames>,
    mentions: Mentions,
}

/// A button's two templates in the environment.
#[derive(Clone, Debug)]
struct ButtonNames {
    title: String,
    url: String,
}

/// What is wrong with one file of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Name of the file in the folder.
    pub file: String,
    /// Line in it, where one can be named.
    pub line: Option<usize>,
    /// What is wrong, and what is allowed.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.text),
            None => write!(f, "{}: {}", self.file, self.text),
        }
    }
}

/// The folder cannot be used at all.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(String);

/// This event cannot be rendered, now or ever, by these templates. The text carries no value of the payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RenderError(String);

/// What a template may know of the event beside its payload: `${event.id}` and so on.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Facts<'a> {
    /// The row's primary key.
    pub id: uuid::Uuid,
    /// Such as `resume.parsed`.
    pub event_type: &'a str,
    /// The caller's; null where it gave none.
    pub trace_id: Option<&'a str>,
    /// Retries used so far.
    pub retry_count: u32,
}

impl<'a> From<&'a Event> for Facts<'a> {
    fn from(event: &'a Event) -> Facts<'a> {
        Facts {
            id: event.id,
            event_type: &event.event_type,
            trace_id: event.trace_id.as_deref(),
            retry_count: event.retry_count,
        }
    }
}

impl Templates {
    /// Reads and parses every template of the folder. A broken one is a problem and does not stop the others.
    pub fn load(dir: &Path) -> Result<Templates, LoadError> {
        folder::load(dir)
    }

    /// The ids of all templates of the folder, broken ones included, in order.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.forms.keys().filter_map(|form| match form {
            Form::Single(id) => Some(id.as_str()),
            Form::Digest(_) => None,
        })
    }

    /// Whether there is such a template, broken or not, or built in.
    pub fn contains(&self, template_id: &str) -> bool {
        self.form(&Form::Single(template_id.to_owned())).is_some()
    }

    /// What is wrong in the folder, in the order of its files.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether several events of this template can be rendered as one.
    pub fn has_digest(&self, template_id: &str) -> bool {
        matches!(self.forms.get(&Form::Digest(template_id.to_owned())), Some(Ok(_)))
    }

    /// The variables that the template may ask for, such as `candidate.name`, in order; a function of the engine or
    /// `event` is none.
    pub fn variables(&self, template_id: &str) -> BTreeSet<String> {
        let Some(Ok(template)) = self.form(&Form::Single(template_id.to_owned())) else {
            return BTreeSet::new();
        };
        let buttons = template.buttons.iter().flat_map(|button| [&button.title, &button.url]);
        let parsed = [&template.name].into_iter().chain(&template.title).chain(buttons);
        let parsed = parsed.filter_map(|name| self.environment.get_template(name).ok());
        let globals: BTreeSet<&str> = self.environment.globals().map(|(name, _)| name).chain(["event"]).collect();
        let mut variables: BTreeSet<String> = parsed.flat_map(|parsed| parsed.undeclared_variables(true)).collect();
        variables.retain(|variable| !globals.contains(variable.split('.').next().unwrap_or_default()));
        variables
    }

    /// Renders one event.
    pub fn render(&self, template_id: &str, facts: &Facts, payload: &Payload) -> Result<Message, RenderError> {
        let mut variables: BTreeMap<&str, Value> = BTreeMap::from([("event", Value::from(Serde(facts)))]);
        variables.extend(payload.iter().map(|(key, value)| (key.as_str(), Value::from(Serde(value)))));
        self.render_form(&Form::Single(template_id.to_owned()), &Value::from(variables))
    }

    /// Renders several events of one template as one message.
    pub fn render_digest(&self, template_id: &str, payloads: &[&Payload]) -> Result<Message, RenderError> {
        self.render_members(template_id, payloads.iter().map(|payload| Value::from(Serde(payload))).collect())
    }

    fn render_members(&self, template_id: &str, members: Vec<Value>) -> Result<Message, RenderError> {
        let count = Value::from(members.len());
        let variables = BTreeMap::from([("events", Value::from(members)), ("count", count)]);
        self.render_form(&Form::Digest(template_id.to_owned()), &Value::from(variables))
    }

    fn form(&self, form: &Form) -> Option<Result<&Template, &Problem>> {
        let of_the_folder = self.forms.get(form).map(Result::as_ref);
        of_the_folder.or_else(|| self.built_in.get(form).map(Ok))
    }

    fn render_form(&self, form: &Form, context: &Value) -> Result<Message, RenderError> {
        let template = match self.form(form) {
            Some(Ok(template)) => template,
            Some(Err(problem)) => return Err(RenderError(format!("template {form} is broken: {problem}"))),
            None => return Err(self.unknown(form)),
        };
        let body = self.body(template, context).map_err(|what| RenderError(format!("template {form}: {what}")))?;
        let title = match &template.title {
            Some(name) => {
                engine::render(&self.environment, name, context).map(|title| tidy::title(&title)).map_err(|error| {
                    RenderError(format!("title of template {form}: {}", explain::rendering(&error, name)))
                })?
            }
            None => match template.kind {
                Kind::Markdown | Kind::ActionCard => tidy::first_line(&body),
                Kind::Text => tidy::title(body.lines().next().unwrap_or_default()),
            },
        };
        let title = if title.is_empty() { form.id().to_owned() } else { title };
        let format = match template.kind {
            Kind::Text => Format::Text,
            Kind::Markdown => Format::Markdown,
            Kind::ActionCard => {
                let buttons = self.buttons(template, context);
                let buttons = buttons.map_err(|what| RenderError(format!("button of template {form}: {what}")))?;
                // The platform takes no card without a button.
                if buttons.is_empty() { Format::Markdown } else { Format::ActionCard(buttons) }
            }
        };
        Ok(Message { format, title, body, mentions: template.mentions.clone() })
    }

    fn buttons(&self, template: &Template, context: &Value) -> Result<Vec<Button>, String> {
        let mut buttons = Vec::with_capacity(template.buttons.len());
        for ButtonNames { title, url } in &template.buttons {
            let render = |name| {
                engine::render(&self.environment, name, context).map_err(|error| explain::rendering(&error, name))
            };
            let marked = render(url)?;
            let link = escape::markdown(&marked)
                .map_err(|bad| explain::bad_address(&self.environment, url, context, &marked, &bad))?;
            let address = link.strip_prefix("[](").and_then(|link| link.strip_suffix(')')).unwrap_or_default().trim();
            if address.is_empty() {
                continue;
            }
            let url = address::whole(address)
                .ok_or_else(|| format!("its url is not an address with {}", address::SCHEMES))?;
            let title = tidy::title(&render(title)?);
            if title.is_empty() {
                return Err("its title renders nothing".to_owned());
            }
            buttons.push(Button { title, url });
        }
        Ok(buttons)
    }

    fn body(&self, template: &Template, context: &Value) -> Result<String, String> {
        let Template { name, kind, .. } = template;
        let marked =
            engine::render(&self.environment, name, context).map_err(|error| explain::rendering(&error, name))?;
        let body = match kind {
            Kind::Text => escape::text(&marked).trim().to_owned(),
            Kind::Markdown | Kind::ActionCard => {
                let body = escape::markdown(&marked);
                tidy::break_lines(
                    &body.map_err(|bad| explain::bad_address(&self.environment, name, context, &marked, &bad))?,
                )
            }
        };
        // A platform refuses it, and a group has no use for it.
        if body.is_empty() { Err("renders nothing".to_owned()) } else { Ok(body) }
    }

    fn unknown(&self, form: &Form) -> RenderError {
        const SHOWN: usize = 12;
        let mut ids: Vec<&str> = self.ids().collect();
        let more = if ids.len() > SHOWN { format!(" and {} more", ids.len() - SHOWN) } else { String::new() };
        ids.truncate(SHOWN);
        let has = if ids.is_empty() { "no template".to_owned() } else { format!("{}{more}", ids.join(", ")) };
        RenderError(format!("unknown template \"{form}\"; the folder has: {has}"))
    }
}

impl Form {
    /// The template's.
    fn id(&self) -> &str {
        match self {
            Form::Single(id) | Form::Digest(id) => id,
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Form::Single(id) => f.write_str(id),
            Form::Digest(id) => write!(f, "{id}.digest"),
        }
    }
}
