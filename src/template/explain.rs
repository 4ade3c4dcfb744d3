//! The engine's errors in our words. A payload is personal data: its values never get into a text that is stored and
//! logged, so what is shown comes from the template's source alone.

use std::error::Error as _;

use minijinja::{Environment, Error, ErrorKind, Value};

use super::engine::{MAX_RENDERED_BYTES, Refused};
use super::{address, escape::BadAddress};

/// What went wrong in a rendering, and where.
pub(super) fn rendering(error: &Error, name: &str) -> String {
    let error = innermost(error);
    let what = what(error);
    match (error.line(), error.name()) {
        (Some(line), Some(file)) if file != name => format!("{what} ({file}, line {line})"),
        (Some(line), _) => format!("{what} (line {line})"),
        (None, _) => what,
    }
}

fn what(error: &Error) -> String {
    let expression = expression(error).unwrap_or("an expression");
    if let Some(refused) = error.source().and_then(|source| source.downcast_ref::<Refused>()) {
        return format!("\"{expression}\" {refused}");
    }
    if let Some(variable) = missing_variable(error) {
        return format!("variable \"{variable}\" is missing from the payload");
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "the engine has more ways to fail than there are things to say")]
    match error.kind() {
        ErrorKind::OutOfFuel => "takes too many steps; shorten its loops".to_owned(),
        ErrorKind::WriteFailure => format!("renders more than {} kB", MAX_RENDERED_BYTES / 1024),
        ErrorKind::TemplateNotFound => "names a template that the folder does not have".to_owned(),
        ErrorKind::SyntaxError | ErrorKind::UnknownFilter | ErrorKind::UnknownTest | ErrorKind::UnknownFunction => {
            error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)
        }
        kind => format!("\"{expression}\" cannot be evaluated: {kind}"),
    }
}

/// The engine wraps what goes wrong in an included template.
fn innermost(error: &Error) -> &Error {
    let mut error = error;
    while let Some(inner) = error.source().and_then(|source| source.downcast_ref::<Error>()) {
        error = inner;
    }
    error
}

/// The source of the expression that failed, from its beginning: the engine names a filter without what it filters.
fn expression(error: &Error) -> Option<&str> {
    let (source, range) = (error.template_source()?, error.range()?);
    let start = source.get(..range.start)?.rfind("${").map_or(0, |at| at + "${".len());
    let unbroken = start > 0 && !source.get(start..range.start)?.contains(['}', '\n']);
    let text = source.get(if unbroken { start } else { range.start }..range.end)?.trim();
    Some(text).filter(|text| !text.is_empty() && text.len() < 120)
}

/// The name that the engine gives in "`candidate.name` is undefined"; only where it stands in the template.
fn missing_variable(error: &Error) -> Option<&str> {
    let named = error.detail().and_then(|detail| {
        let (before, _) = detail.split_once("` is undefined")?;
        before.rsplit_once('`').map(|(_, name)| name)
    });
    let named = named.filter(|name| error.template_source().is_some_and(|source| source.contains(name)));
    let missing = error.kind() == ErrorKind::UndefinedError;
    named.or_else(|| missing.then(|| expression(error).unwrap_or("?")))
}

/// Which value was to be an address: found by rendering once more, as this happens once in a message's life.
pub(super) fn bad_address(
    environment: &Environment,
    name: &str,
    context: &Value,
    marked: &str,
    bad: &BadAddress,
) -> String {
    let found = || {
        let at = bad.position(marked)?;
        let template = environment.get_template(name).ok()?;
        let (_, spans) = template.render_with_spans(context.clone()).ok()?;
        let span = spans.into_iter().find(|span| span.output_range().contains(&at))?;
        let source = environment.get_template(span.name()).ok()?;
        Some(format!(
            "\"{}\" in a link is not an address with {} (line {})",
            source.source().get(span.source_range())?.trim(),
            address::SCHEMES,
            span.line()
        ))
    };
    found().unwrap_or_else(|| format!("a value in a link is not an address with {}", address::SCHEMES))
}
