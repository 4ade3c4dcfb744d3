//! The signature of a request, made anew for every try: it holds for an hour.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::Sha256;

/// All but the unreserved characters, so that `+`, `/` and `=` of a signature survive the query.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// `base64(HMAC-SHA256(secret, "{unix_ms}\n{secret}"))`, not yet encoded for a query.
pub(super) fn sign(unix_ms: i64, secret: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map(|mut mac| {
        mac.update(format!("{unix_ms}\n{secret}").as_bytes());
        STANDARD.encode(mac.finalize().into_bytes())
    });
    // HMAC takes a key of any length.
    mac.unwrap_or_default()
}

/// The webhook with a signature added to its query, encoded once.
pub(super) fn signed(webhook: &str, unix_ms: i64, sign: &str) -> String {
    let joint = if webhook.ends_with(['?', '&']) {
        ""
    } else if webhook.contains('?') {
        "&"
    } else {
        "?"
    };
    format!("{webhook}{joint}timestamp={unix_ms}&sign={}", encoded(sign))
}

/// A signature as it stands in a query.
pub(super) fn encoded(sign: &str) -> String {
    utf8_percent_encode(sign, QUERY).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_platform() {
        let known = [
            (
                1700000000000,
                "SECtest",
                "aZLLrriXgn05YbwaGR7knYsLeJADjr9NwLaNNKpxh4g=",
                "aZLLrriXgn05YbwaGR7knYsLeJADjr9NwLaNNKpxh4g%3D",
            ),
            (
                1700000000000,
                "SECx",
                "rgcjbH+yFyES+S0llX+cAPCwVRpsr7sbiX5Lnyo/ocU=",
                "rgcjbH%2ByFyES%2BS0llX%2BcAPCwVRpsr7sbiX5Lnyo%2FocU%3D",
            ),
            (
                1735689600123,
                "SEC密钥",
                "XzUDl2ZgQWEGpaDjLF1H0stepAMyhy+xI3vzJqifcog=",
                "XzUDl2ZgQWEGpaDjLF1H0stepAMyhy%2BxI3vzJqifcog%3D",
            ),
        ];
        for (unix_ms, secret, plain, encoded) in known {
            assert_eq!(sign(unix_ms, secret), plain);
            assert_eq!(
                signed("https://h/robot/send?access_token=T", unix_ms, plain),
                format!("https://h/robot/send?access_token=T&timestamp={unix_ms}&sign={encoded}")
            );
        }
    }

    #[test]
    fn a_webhook_without_a_query_gets_one() {
        assert_eq!(signed("https://h/x", 1, "a+b"), "https://h/x?timestamp=1&sign=a%2Bb");
        assert_eq!(signed("https://h/x?", 1, "a"), "https://h/x?timestamp=1&sign=a");
    }
}
