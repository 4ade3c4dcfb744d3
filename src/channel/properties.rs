//! Webhook URLs and lists of hosts: what is allowed is exactly what is connected to.

#![expect(clippy::unwrap_used, reason = "a property panics where it does not hold")]

use std::sync::LazyLock;

use http::Uri;
use url::Url;

use super::hosts::Hosts;
use super::robot::Robot;
use super::{Class, Platform, dingtalk};
use crate::config::HostList;
use crate::properties::is_clear;

pub use dingtalk::properties::robot_reply;
pub(crate) use dingtalk::properties::sendable;

/// Stands for a token; no host is named so.
const TOKEN: &str = "c0ffee00c0ffee00c0ffee00c0ffee00";

/// A webhook is one of an allowed host, by the eyes of who connects too, or it is said without its token why not.
pub fn webhook(text: &str) {
    static HOSTS: LazyLock<Hosts> =
        LazyLock::new(|| Hosts::new(&HostList(["robots.example:8443", "127.0.0.1:8099"].map(String::from).into())));
    let shown = match Robot::at(Platform::DingTalk, text, &HOSTS) {
        Err(why) => why,
        Ok(robot) => {
            let uri: Uri = robot.webhook().parse().unwrap();
            let tls = uri.scheme_str() == Some("https");
            let at = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(if tls { 443 } else { 80 }), tls);
            let allowed = [
                ("oapi.dingtalk.com", 443, true),
                ("oapi.dingtalk.io", 443, true),
                ("robots.example", 8443, true),
                ("127.0.0.1", 8099, true),
                ("127.0.0.1", 8099, false),
            ];
            assert!(allowed.contains(&at), "{text:?} leads to {at:?}");
            assert!(!uri.authority().unwrap().as_str().contains('@'), "{text:?}");
            format!("{} {robot:?} {}", robot.name(), robot.mask(robot.webhook(), None))
        }
    };
    is_clear(&shown);
    let in_host = Url::parse(text).is_ok_and(|url| url.host_str().is_some_and(|host| host.contains(TOKEN)));
    assert!(in_host || !shown.contains(TOKEN), "{shown}");
}

/// Every host of a list that is accepted is one that can be reached by it, on that port and on no other.
pub fn hosts(list: &str) {
    match list.parse::<HostList>() {
        Err(why) => is_clear(&why),
        Ok(list) => {
            let hosts = Hosts::new(&list);
            for entry in &list.0 {
                let url = Url::parse(&format!("https://{entry}/x?access_token=t")).unwrap();
                assert_eq!(hosts.check(&url), Ok(()), "{entry:?} of {list:?}");
                assert!(hosts.may_be_private(&url.host().unwrap().to_string()), "{entry:?}");
            }
        }
    }
}

/// A report is stored and logged: bounded, without control characters, without the token.
pub(super) fn is_storable(report: &super::Report, token: &str) {
    is_clear(&report.reason);
    for text in [Some(&report.reason), report.response.as_ref()].into_iter().flatten() {
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert!(!text.contains(token), "{text}");
    }
    assert!(report.response.as_ref().is_none_or(|response| response.len() <= 500));
    assert!(report.class != Class::Success || report.status.is_some_and(|status| (200..300).contains(&status)));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::properties::random;

    const PIECES: &[&str] = &[
        "https://",
        "http://",
        "HTTPS://",
        "//",
        "/",
        "\\",
        "@",
        ":",
        ":443",
        ":8443",
        ":8099",
        "#",
        "?",
        "&",
        "%40",
        "%2e",
        ".",
        "。",
        "oapi.dingtalk.com",
        "oapi.dingtalk.io",
        "OAPI.DingTalk.com",
        "robots.example",
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "evil.example",
        "user:hunter2@",
        "\t",
        "\n",
        " ",
        "\u{0}",
        "/robot/send",
        "?access_token=",
        "access_token=",
        "c0ffee00c0ffee00c0ffee00c0ffee00",
        "&timestamp=1&sign=x",
        "ＯＡＰＩ",
        "ı",
        "xn--",
        "*",
    ];

    proptest! {
        #![proptest_config(random::cases(2_000))]

        #[test]
        fn a_webhook_leads_to_an_allowed_host_or_nowhere(text in random::text(PIECES, 10)) {
            webhook(&text);
        }

        #[test]
        fn what_is_done_to_a_good_webhook_leaves_it_good_or_refused(
            at in 0..80_usize, piece in proptest::sample::select(PIECES), host in 0..3_usize,
        ) {
            let host = ["https://oapi.dingtalk.com", "https://robots.example:8443", "http://127.0.0.1:8099"][host];
            let mut text = format!("{host}/robot/send?access_token={TOKEN}");
            let at = at.min(text.len());
            text.insert_str(at, piece);
            webhook(&text);
        }

        #[test]
        fn every_host_of_a_list_can_be_reached_or_the_list_is_refused(list in random::text(PIECES, 4)) {
            hosts(&list);
            hosts(&format!("robots.example,{list}"));
        }
    }
}
