//! What a robot refuses, as pure functions: a request and the time come in, what the group would see or a refusal comes out.

mod shape;

use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::Method;
use sha2::Sha256;

use super::Settings;
pub(super) use shape::Content;
pub use shape::{At, Link};

/// Most skew between the timestamp of a signature and our clock.
const MAX_SKEW_MS: u64 = 3_600_000;

/// A request as it was read.
pub(super) struct Call<'a> {
    pub(super) method: &'a Method,
    pub(super) content_type: Option<&'a str>,
    pub(super) query: &'a str,
    pub(super) body: &'a [u8],
    /// The body was not read to its end.
    pub(super) endless: bool,
    pub(super) now_ms: i64,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: i64,
    pub(super) msg: String,
}

impl Refusal {
    fn new(code: i64, msg: impl Into<String>) -> Refusal {
        Refusal { code, msg: msg.into() }
    }

    /// A parameter that is not as documented.
    fn malformed(msg: impl Into<String>) -> Refusal {
        Refusal::new(400_402, msg)
    }

    /// A security setting of the robot that the request does not meet.
    fn insecure(what: &str) -> Refusal {
        Refusal::new(310_000, format!("{what}, more: [https://ding-doc.dingtalk.com/doc#/serverapi2/qf2nxq]"))
    }

    /// Over the rate, or banned for having been.
    pub(super) fn too_fast(settings: &Settings) -> Refusal {
        let (count, window) = settings.rate.unwrap_or_default();
        let window = if window.as_secs() == 60 { "minute".to_owned() } else { crate::config::show(window) };
        Refusal::new(410_100, format!("send too fast, exceed {count} times per {window}"))
    }
}

/// The robot that a request is for: its access token.
pub(super) fn robot(call: &Call<'_>, settings: &Settings) -> Result<String, Refusal> {
    if call.method != Method::POST {
        return Err(Refusal::new(43_002, format!("需要POST请求: the method is {}", call.method)));
    }
    if !is_json(call.content_type) {
        let given = call.content_type.unwrap_or("missing");
        return Err(Refusal::new(
            43_004,
            format!("无效的HTTP HEADER Content-Type: it is {given}, not application/json; charset=utf-8"),
        ));
    }
    let Some(token) = parameter(call.query, "access_token").filter(|token| !token.is_empty()) else {
        return Err(Refusal::new(40_035, "缺少参数 access_token"));
    };
    if settings.tokens.as_ref().is_some_and(|tokens| !tokens.contains(&token)) {
        return Err(Refusal::new(300_005, "token is not exist"));
    }
    Ok(token)
}

/// What the group would see.
pub(super) fn content(call: &Call<'_>, settings: &Settings) -> Result<Content, Refusal> {
    // Twice is what comes of signing a URL that is signed already; a robot reads either.
    for name in ["access_token", "timestamp", "sign"] {
        if url::form_urlencoded::parse(call.query.as_bytes()).filter(|(key, _)| key == name).count() > 1 {
            return Err(Refusal::malformed(format!("query parameter {name} is given more than once")));
        }
    }
    if let Some(secret) = &settings.secret {
        check_signature(call, secret)?;
    }
    if call.endless || call.body.len() > settings.max_body {
        let length = if call.endless { "more".to_owned() } else { call.body.len().to_string() };
        return Err(Refusal::new(460_101, format!("message too long, exceed {} bytes: {length}", settings.max_body)));
    }
    let content = shape::read(call.body)?;
    let known = |keyword: &String| content.title.contains(keyword) || content.text.contains(keyword);
    if !settings.keywords.is_empty() && !settings.keywords.iter().any(known) {
        return Err(Refusal::insecure("keywords not in content"));
    }
    Ok(content)
}

/// A query parameter, percent-decoded once.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// The `msgUuid` of a body that need not be right otherwise.
pub(super) fn msg_uuid(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    body.get("msgUuid")?.as_str().map(str::to_owned)
}

fn is_json(content_type: Option<&str>) -> bool {
    let Some(content_type) = content_type else { return false };
    let (kind, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    let charset = parameters.trim().to_ascii_lowercase();
    kind.trim().eq_ignore_ascii_case("application/json") && matches!(charset.as_str(), "" | "charset=utf-8")
}

/// Written apart from the sender's own: a stand-in that shared its mistakes would not find them.
fn check_signature(call: &Call<'_>, secret: &str) -> Result<(), Refusal> {
    let timestamp = parameter(call.query, "timestamp").unwrap_or_default();
    let fresh = timestamp.parse::<i64>().is_ok_and(|ms| ms.abs_diff(call.now_ms) <= MAX_SKEW_MS);
    if !fresh {
        return Err(Refusal::insecure("invalid timestamp"));
    }
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
        return Err(Refusal::insecure("sign not match"));
    };
    mac.update(format!("{timestamp}\n{secret}").as_bytes());
    let expected = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
    if parameter(call.query, "sign").as_deref() != Some(expected.as_str()) {
        return Err(Refusal::insecure("sign not match"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
