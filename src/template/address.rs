//! Addresses of links: only those that a chat may open, and nothing in them that would end the link.

use url::Url;

/// The schemes that a link may have.
pub(super) const SCHEMES: &str = "http://, https:// or dingtalk://";

/// The address as a link may carry it, or none where it is not one.
pub(super) fn whole(value: &str) -> Option<String> {
    let url = Url::parse(value.trim()).ok()?;
    let allowed = matches!(url.scheme(), "http" | "https" | "dingtalk") && url.has_host();
    allowed.then(|| percent_encode(url.as_str(), |c| c.is_ascii_graphic() && !"\"<>\\`()[]{}|^".contains(c)))
}

/// A value as a part of an address: a name or a number there, and never more of the address.
pub(super) fn part(value: &str) -> String {
    percent_encode(value, |c| c.is_ascii_alphanumeric() || "-._~/".contains(c))
}

fn percent_encode(text: &str, keep: fn(char) -> bool) -> String {
    let encode = |c: char| {
        let bytes = c.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("%{byte:02X}")).collect();
        if keep(c) { c.to_string() } else { bytes }
    };
    text.chars().map(encode).collect()
}
