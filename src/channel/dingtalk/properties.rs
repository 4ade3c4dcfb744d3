//! What a robot, or whatever answers in its place, may say.

#![expect(clippy::unwrap_used, reason = "a property panics where it does not hold")]

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::super::hosts::Hosts;
use super::super::http::Answer;
use super::super::properties::is_storable;
use super::super::robot::Robot;
use super::super::{Class, Platform, Report, msg_uuid};
use super::{body, outcome};
use crate::message::{Format, Message};
use crate::properties::is_clear;

const TOKEN: &str = "c0ffee00c0ffee00c0ffee00c0ffee00";

/// Any answer has a class and a reason, repeats no token, and is a success only with errcode 0 under a status of success.
pub fn robot_reply(status: u16, rest: Option<u64>, body: &[u8]) -> Class {
    static ROBOT: LazyLock<Robot> = LazyLock::new(|| {
        let webhook = format!("https://oapi.dingtalk.com/robot/send?access_token={TOKEN}");
        Robot::at(Platform::DingTalk, &webhook, &Hosts::new(&Default::default())).unwrap()
    });
    let answer = Answer { status, retry_after: rest.map(Duration::from_secs), body: Bytes::copy_from_slice(body) };
    let (result, mask) = (Ok(answer), |text: &str| ROBOT.mask(text, None).into_owned());
    let verdict = outcome::classify(&result, mask);
    let report: Report = super::report(&verdict, &result, mask);
    is_storable(&report, TOKEN);
    if let Class::Throttled(rest) | Class::Blocked(rest) = report.class {
        assert!(rest >= Duration::from_secs(5) && rest <= Duration::from_secs(86_400), "{rest:?}");
    }
    assert_eq!(report.class == Class::Success, (200..300).contains(&status) && says_zero(body), "{report:?}");
    report.class
}

/// Whether the body is an object whose errcode is 0, as a number or quoted.
fn says_zero(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    let json: Value = serde_json::from_str(text.trim_start_matches('\u{feff}')).unwrap_or_default();
    match json.get("errcode") {
        Some(Value::Number(number)) => number.as_u64() == Some(0),
        Some(Value::String(text)) => text.trim() == "0",
        _ => false,
    }
}

/// A message is short enough, is JSON and names everybody whom it mentions, or it is said why it cannot be sent.
pub(crate) fn sendable(message: &Message) {
    match body::build(message, &msg_uuid(uuid::Uuid::nil(), 0, "default")) {
        Err(why) => {
            is_clear(&why);
            assert!(why.starts_with("message: "), "{why}");
        }
        Ok(body) => {
            assert!(body.len() <= 18_000, "{} bytes", body.len());
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let text = ["/text/content", "/markdown/text", "/actionCard/text"].iter().find_map(|at| body.pointer(at));
            let text = text.unwrap().as_str().unwrap();
            for person in message.mentions.at_mobiles.iter().chain(&message.mentions.at_user_ids) {
                assert!(text.contains(&format!("@{person}")), "{person} is not named");
            }
            assert!(matches!(message.format, Format::Text) || body.pointer("/markdown/title") != Some(&"".into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::properties::random;

    const PIECES: &[&str] = &[
        "{",
        "}",
        "\"errcode\"",
        ":",
        "0",
        "\"0\"",
        "-1",
        "310000",
        "430101",
        "\"errmsg\"",
        ",",
        "\"ok\"",
        "null",
        "[",
        "]",
        "\u{feff}",
        "punish",
        "<html>",
        "\"status\":1111",
        "too fast",
        "token",
        "0.0",
        "00",
        "1e400",
        "\\u0000",
        "c0ffee00c0ffee00c0ffee00c0ffee00",
    ];

    fn status() -> impl Strategy<Value = u16> {
        prop_oneof![3 => Just(200), 1 => 100..600_u16, 1 => any::<u16>()]
    }

    proptest! {
        #![proptest_config(random::cases(800))]

        #[test]
        fn any_bytes_are_an_answer(status in status(), rest in any::<Option<u64>>(), body in any::<Vec<u8>>()) {
            robot_reply(status, rest, &body);
        }

        #[test]
        fn what_resembles_an_answer_is_a_success_only_with_errcode_0(
            status in status(), body in random::text(PIECES, 16),
        ) {
            robot_reply(status, None, body.as_bytes());
        }

        #[test]
        fn a_code_of_any_kind_is_a_success_only_if_it_is_0(
            status in status(),
            code in prop_oneof![
                Just(0), any::<i64>(), Just(310_000), 430_101..430_105_i64, -3..3_i64,
            ],
            quoted in any::<bool>(),
            errmsg in random::text(PIECES, 30),
        ) {
            let code = if quoted { Value::from(code.to_string()) } else { Value::from(code) };
            let zero = code == 0 || code == "0";
            let body = serde_json::json!({ "errcode": code, "errmsg": errmsg }).to_string();
            let class = robot_reply(status, None, body.as_bytes());
            prop_assert_eq!(class == Class::Success, zero && (200..300).contains(&status));
        }
    }
}
