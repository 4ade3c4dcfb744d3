//! The template language: its syntax, its limits, its filters, and how a value is written.

use std::borrow::Cow;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value};

use super::{address, escape};

/// The most that a template may render, which is far more than a platform takes.
pub(super) const MAX_RENDERED_BYTES: usize = 256 * 1024;
/// Steps, and 64-byte pieces of data, that one rendering may use: enough for a digest of a thousand events.
const FUEL: u64 = 100_000;
const TIME_ZONE: &str = "Asia/Shanghai";
const TIME_FORMAT: &str = "%m-%d %H:%M";
/// Ends the name of a title among the templates: titles are plain text, so nothing in them is escaped.
pub(super) const TITLE: &str = "#title";

/// A sentence of our own inside the engine's error: what is wrong with a value, never the value.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(pub(super) &'static str);

fn refuse(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, why).with_source(Refused(why))
}

/// The engine without templates.
pub(super) fn environment() -> Result<Environment<'static>, Error> {
    let syntax = SyntaxConfig::builder()
        .variable_delimiters("${", "}")
        .block_delimiters("<%", "%>")
        .comment_delimiters("<#", "#>")
        .lstrip_blocks(true)
        .build()?;
    let mut environment = Environment::new();
    environment.set_syntax(syntax);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(64);
    // Only with it does an error know the name of a missing variable. What else it knows is never shown.
    environment.set_debug(true);
    environment.set_auto_escape_callback(|name| match name.ends_with(TITLE) {
        true => AutoEscape::None,
        false => AutoEscape::Custom(Cow::Borrowed("marked")),
    });
    environment.set_formatter(write_value);
    // It would print the whole payload.
    environment.remove_global("debug");
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("tojson", to_json);
    environment.add_filter("link", link);
    environment.add_filter("datetime", datetime);
    environment.add_filter("truncate", truncate);
    Ok(environment)
}

/// Writes a value between marks, so that it can be escaped once its surroundings are known.
fn write_value(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let text = scalar(value)?;
    let verbatim = value.is_safe() || !matches!(state.auto_escape(), AutoEscape::Custom(_));
    if verbatim {
        out.write_str(&text)?
    } else {
        out.write_str(&escape::mark(&text))?
    }
    Ok(())
}

/// The text of a value that is one: numbers as they are written, and nothing for null, lists and objects.
fn scalar(value: &Value) -> Result<Cow<'_, str>, Error> {
    if let Some(text) = value.as_str() {
        return Ok(Cow::Borrowed(text));
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "the engine's kinds may grow, and none of them is text")]
    match value.kind() {
        // What an `if` without `else` leaves; a missing variable never gets here.
        ValueKind::Undefined => Ok(Cow::Borrowed("")),
        ValueKind::Bool => Ok(Cow::Borrowed(if value.is_true() { "true" } else { "false" })),
        ValueKind::Number if value.is_integer() => Ok(Cow::Owned(value.to_string())),
        // 95, not 95.0; and never an exponent.
        ValueKind::Number => Ok(Cow::Owned(f64::try_from(value.clone())?.to_string())),
        ValueKind::None => Err(refuse("is null; give it a |default(\"…\")")),
        ValueKind::Seq | ValueKind::Iterable => Err(refuse("is a list; use |join(\"、\") or a <% for %> loop")),
        ValueKind::Map => Err(refuse("is an object; name one of its fields")),
        _ => Err(refuse("is no text, number or true/false")),
    }
}

/// As built in, and null counts as missing.
fn default(value: &Value, other: Option<Value>, empty_too: Option<bool>) -> Value {
    let missing = value.is_undefined() || value.is_none() || (empty_too.unwrap_or(false) && !value.is_true());
    if missing { other.unwrap_or_else(|| Value::from("")) } else { value.clone() }
}

/// As built in, but escaped like any other value.
fn to_json(value: &Value) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|_| refuse("cannot be written as JSON"))
}

/// `${name|link(url)}`: a link in Markdown, the text and the address elsewhere.
fn link(state: &State, text: &Value, url: &Value) -> Result<Value, Error> {
    let (text, url) = (scalar(defined(text)?)?, scalar(defined(url)?)?);
    let Some(url) = address::whole(&url) else {
        return Err(refuse("links to something that is no http://, https:// or dingtalk:// address"));
    };
    if !matches!(state.auto_escape(), AutoEscape::Custom(_)) {
        return Ok(Value::from(format!("{text} {url}")));
    }
    let text = escape::mark(if text.trim().is_empty() { &url } else { &text });
    if state.name().ends_with(".md") {
        return Ok(Value::from_safe_string(format!("[{text}]({})", escape::mark(&url))));
    }
    Ok(Value::from_safe_string(format!("{text} {url}")))
}

/// Fails for a missing variable in the engine's own way, which names it.
fn defined(value: &Value) -> Result<&Value, Error> {
    if value.is_undefined() { value.get_attr("").map(|_| value) } else { Ok(value) }
}

/// `${time|datetime}`: an RFC 3339 time as `11-24 15:30` in China; `format` is strftime's, `tz` an IANA name.
fn datetime(value: &Value, options: Kwargs) -> Result<String, Error> {
    let text = scalar(defined(value)?)?;
    let format: Option<String> = options.get("format")?;
    let zone: Option<String> = options.get("tz")?;
    options.assert_all_used()?;
    let time: jiff::Timestamp =
        text.trim().parse().map_err(|_| refuse("is not a time with its offset, such as 2026-11-24T15:30:00+08:00"))?;
    let zoned = time
        .in_tz(zone.as_deref().unwrap_or(TIME_ZONE))
        .map_err(|_| refuse("needs a time zone (tz) such as Asia/Shanghai"))?;
    jiff::fmt::strtime::format(format.as_deref().unwrap_or(TIME_FORMAT), &zoned)
        .map_err(|_| refuse("needs a format such as %Y-%m-%d %H:%M"))
}

/// A time as `${time|datetime}` writes it.
pub(crate) fn local_time(time: jiff::Timestamp) -> Result<String, jiff::Error> {
    jiff::fmt::strtime::format(TIME_FORMAT, &time.in_tz(TIME_ZONE)?)
}

/// `${summary|truncate(100)}`: the beginning of a long text.
fn truncate(value: &Value, length: usize) -> Result<String, Error> {
    let text = scalar(defined(value)?)?;
    match text.char_indices().nth(length) {
        None => Ok(text.into_owned()),
        Some(_) => Ok(text.chars().take(length.saturating_sub(1)).chain(['…']).collect()),
    }
}

/// Renders into memory, but not without bound.
pub(super) fn render(environment: &Environment, name: &str, context: &Value) -> Result<String, Error> {
    let mut page = Bounded(Vec::new());
    environment.get_template(name)?.render_captured_to(context.clone(), &mut page)?;
    String::from_utf8(page.0).map_err(|_| Error::new(ErrorKind::WriteFailure, "not UTF-8"))
}

struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_RENDERED_BYTES {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
