//! What an answer means: the whole table, as one pure function.

use std::time::Duration;

use serde_json::Value;

use super::super::Class;
use super::super::http::{Answer, Failure};
use super::cut;

/// Most of a platform's own words that a reason repeats, in bytes.
const QUOTED: usize = 200;

/// A platform's wish to be left alone is believed up to here.
const LONGEST_REST: Duration = Duration::from_secs(24 * 3600);

/// What one try came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// What follows, unless the remedy helps.
    pub(super) class: Class,
    /// Whose fault it is and what to do; may repeat the platform's words.
    pub(super) reason: String,
    /// Business code in the answer.
    pub(super) errcode: Option<i64>,
    /// What may be tried at once.
    pub(super) remedy: Option<Remedy>,
}

/// What may be tried at once, before the class counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The same again, after a pause: nothing had been sent.
    TryAgain,
    /// The same again, once, with a signature of now.
    SignAgain,
    /// The message without its links, once.
    LeaveOutLinks,
}

/// Decides what a try came to. Only errcode 0 is success, whatever the HTTP status says.
///
/// `mask` takes out of the platform's words what may not be repeated: before they are cut, for half a token is too much
/// as well.
pub(super) fn classify(result: &Result<Answer, Failure>, mask: impl Fn(&str) -> String) -> Verdict {
    let answer = match result {
        Ok(answer) => answer,
        Err(Failure::NotSent(why)) => {
            let reason = format!("network: nothing was sent: {why}");
            return Verdict { class: Class::Transient, reason, errcode: None, remedy: Some(Remedy::TryAgain) };
        }
        Err(Failure::PossiblySent(why)) => {
            let reason = format!("network: it is unknown whether the message arrived: {why}");
            return Verdict { class: Class::Ambiguous, reason, errcode: None, remedy: None };
        }
    };
    let said = Said::read(&answer.body);
    let status = answer.status;
    let (class, advice, remedy) = match (status, &said.code) {
        (_, None) if said.punished => (
            Class::Blocked(secs(300)),
            "platform: calls from this address are blocked for a while; lower the rate of all robots behind it",
            None,
        ),
        (200..=299, Some(code)) => business(code, &said),
        (300..=399, _) => (Class::Robot, "robot's settings: a redirect is not followed; correct the webhook URL", None),
        (413 | 414, _) => (Class::Message, "message: too long; shorten the template or its variables", None),
        (429, _) => {
            let rest = answer.retry_after.unwrap_or_default().clamp(secs(60), LONGEST_REST);
            (Class::Throttled(rest), "platform: too many requests", None)
        }
        (400..=499, _) => (Class::Robot, "robot's settings: the webhook is refused; check its URL and any proxy", None),
        (502 | 504, _) => {
            (Class::Ambiguous, "platform: a gateway failed; it is unknown whether the message arrived", None)
        }
        (500..=599, _) => (Class::Transient, "platform: failed inside; nothing to do but wait", None),
        _ => (Class::Throttled(secs(60)), "platform: the answer is not the robot's but a gateway's page", None),
    };
    let reason = said.reason(advice, status, mask);
    Verdict { class, reason, errcode: said.code.as_ref().and_then(Code::number), remedy }
}

/// The meaning of a business code, which arrives under HTTP 200.
fn business(code: &Code, said: &Said) -> (Class, &'static str, Option<Remedy>) {
    let Code::Number(number) = code else { return unknown(said) };
    let invalid_token =
        "robot's settings: the access token is not accepted; copy the webhook from the group's robot again";
    match number {
        0 => (Class::Success, "accepted", None),
        -1 => (Class::Transient, "platform: busy; nothing to do but wait", None),
        40035 if said.has(&["access_token"]) => (Class::Robot, invalid_token, None),
        300001 if said.has(&["token"]) => (Class::Robot, invalid_token, None),
        40035 | 300001 => {
            (Class::Message, "message: a parameter is missing; check the template's title and body", None)
        }
        43002 | 43004 | 400105 | 400402 => (Class::Message, "message: its form is refused", None),
        88 | 40014 | 300005 | 400101 => (Class::Robot, invalid_token, None),
        310000 => security(said),
        400013 => (Class::Robot, "robot's settings: its group was disbanded; use a robot of another group", None),
        400102 => (Class::Robot, "robot's settings: it is disabled; enable it in the group", None),
        400106 => (Class::Robot, "robot's settings: it was removed from its group; add it again", None),
        410100 | 130101 | 660026 => (Class::Throttled(secs(600)), "platform: this robot sent too fast", None),
        90030 => (Class::Throttled(secs(3600)), "platform: the quota is used up", None),
        90018 | 90002 => (Class::Throttled(secs(5)), "platform: too many requests in this second", None),
        101002 | 460101 => (Class::Message, "message: too long; shorten the template or its variables", None),
        430101..=430104 => (
            Class::Message,
            "message: its content is found unsafe, without links too; check the links and words of the template",
            Some(Remedy::LeaveOutLinks),
        ),
        _ => unknown(said),
    }
}

/// One of the robot's security settings refuses. The advice on a wrong signature speaks of timestamps as well, so it is
/// looked for first.
fn security(said: &Said) -> (Class, &'static str, Option<Remedy>) {
    let (advice, remedy) = if said.has(&["keyword", "关键词", "关键字"]) {
        ("robot's settings: none of its keywords is in the message; put one in the template or remove them", None)
    } else if said.has(&["sign not match", "签名不匹配"]) {
        ("robot's settings: the signature is wrong; set DINGTALK_NOTIFICATION_SECRET to the robot's secret", None)
    } else if said.has(&["timestamp", "时间戳", "签名过期"]) {
        ("robot's settings: the signature's time is refused; set this machine's clock", Some(Remedy::SignAgain))
    } else if said.has(&["whitelist", "white list", "白名单"]) {
        ("robot's settings: this machine's address is not on its list; add it in the group's robot settings", None)
    } else {
        ("robot's settings: its security settings refuse the message", None)
    };
    (Class::Robot, advice, remedy)
}

fn unknown(said: &Said) -> (Class, &'static str, Option<Remedy>) {
    if said.has(&["too fast", "too many", "frequency", "限流", "太快"]) {
        (Class::Throttled(secs(60)), "platform: too many requests, it seems", None)
    } else {
        (Class::Message, "message: refused with a code that postbell does not know", None)
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// What can be read from an answer's body.
struct Said {
    code: Option<Code>,
    errmsg: String,
    /// The platform's firewall speaks.
    punished: bool,
}

/// A business code; some answers quote it.
enum Code {
    Number(i64),
    Word(String),
}

impl Code {
    fn number(&self) -> Option<i64> {
        match self {
            Code::Number(number) => Some(*number),
            Code::Word(_) => None,
        }
    }
}

impl Said {
    fn read(body: &[u8]) -> Said {
        let body = String::from_utf8_lossy(body);
        let json: Value = serde_json::from_str(body.trim_start_matches('\u{feff}')).unwrap_or_default();
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), |text| text.trim().to_owned());
        let code = json.get("errcode").filter(|code| code.is_number() || code.is_string()).map(|code| {
            let word = text(code);
            // Written as a number is: +0 and 00 are no yes in so many words.
            let number = word.parse().ok().filter(|number: &i64| number.to_string() == word);
            number.map_or(Code::Word(word), Code::Number)
        });
        let blocked = json.get("status").is_some_and(|status| text(status) == "1111");
        let errmsg = json.get("errmsg").and_then(Value::as_str).unwrap_or_default().to_owned();
        Said { code, errmsg, punished: blocked || body.contains("punish") }
    }

    /// Whether the message has one of these, written in lower case.
    fn has(&self, words: &[&str]) -> bool {
        let errmsg = self.errmsg.to_lowercase();
        words.iter().any(|word| errmsg.contains(word))
    }

    fn reason(&self, advice: &str, status: u16, mask: impl Fn(&str) -> String) -> String {
        let quoted = |words: &str| cut(&mask(words), QUOTED).to_owned();
        let errmsg = quoted(&self.errmsg);
        match &self.code {
            Some(Code::Number(0)) if status == 200 => advice.to_owned(),
            Some(Code::Number(code)) => format!("{advice} (HTTP {status}, errcode {code}: {errmsg})"),
            Some(Code::Word(code)) => format!("{advice} (HTTP {status}, errcode {}: {errmsg})", quoted(code)),
            None => format!("{advice} (HTTP {status}, no errcode)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Verdict {
        classify(&Ok(Answer { status, retry_after: None, body: body.to_owned().into() }), str::to_owned)
    }

    fn errcode(code: &str, errmsg: &str) -> Verdict {
        answer(200, &format!(r#"{{"errcode":{code},"errmsg":{errmsg:?}}}"#))
    }

    fn rest(seconds: u64) -> Class {
        Class::Throttled(secs(seconds))
    }

    #[test]
    fn every_business_code_has_its_class() {
        use Class::{Message, Robot, Success, Transient};
        let table = [
            ("0", "ok", Success),
            ("\"0\"", "ok", Success),
            ("-1", "系统繁忙", Transient),
            ("40035", "缺少参数 json", Message),
            ("40035", "缺少参数 access_token", Robot),
            ("43002", "require POST", Message),
            ("43004", "无效的HTTP HEADER Content-Type", Message),
            ("88", "token 不能为空", Robot),
            ("40014", "不合法的access_token", Robot),
            ("300005", "token is not exist", Robot),
            ("\"300005\"", "token is not exist", Robot),
            ("400101", "access_token不存在", Robot),
            ("300001", "token is not exist", Robot),
            ("300001", "param title is null", Message),
            ("310000", "keywords not in content, more: [https://x.example]", Robot),
            ("310000", "错误描述:关键词不匹配", Robot),
            ("310000", "sign not match, more: [https://x.example]", Robot),
            ("310000", "错误描述:机器人发送签名不匹配;解决方案:请确认签名和生成签名的时间戳", Robot),
            ("310000", "invalid timestamp, more: [https://x.example]", Robot),
            ("310000", "ip 1.2.3.4 not in whitelist", Robot),
            ("310000", "错误描述:IP地址不在白名单", Robot),
            ("310000", "something new", Robot),
            ("400013", "群已被解散", Robot),
            ("400102", "机器人已停用", Robot),
            ("400106", "机器人不存在", Robot),
            ("400105", "不支持的消息类型", Message),
            ("400402", "参数错误", Message),
            ("410100", "发送速度太快而限流", rest(600)),
            ("130101", "send too fast, exceed 20 times per minute", rest(600)),
            ("660026", "send too fast", rest(600)),
            ("90030", "quota", rest(3600)),
            ("90018", "qps", rest(5)),
            ("90002", "qps", rest(5)),
            ("101002", "too long", Message),
            ("460101", "message too long, exceed 20000 bytes", Message),
            ("430101", "unsafe link", Message),
            ("430102", "unsafe text", Message),
            ("430103", "unsafe image", Message),
            ("430104", "unsafe content", Message),
            ("123456", "send too fast", rest(60)),
            ("123456", "Too Many requests", rest(60)),
            ("123456", "frequency limit", rest(60)),
            ("123456", "限流", rest(60)),
            ("123456", "太快", rest(60)),
            ("123456", "no idea", Message),
            ("200", "ok", Message),
            ("0.0", "ok", Message),
            ("\"+0\"", "ok", Message),
            ("\"00\"", "ok", Message),
            ("-0", "ok", Message),
            ("\"ok\"", "too fast", rest(60)),
            ("99999999999999999999", "ok", Message),
        ];
        for (code, errmsg, class) in table {
            assert_eq!(errcode(code, errmsg).class, class, "{code} {errmsg}");
        }
    }

    #[test]
    fn every_http_status_has_its_class() {
        use Class::{Ambiguous, Blocked, Message, Robot, Transient};
        let punished = r#"{"status":1111,"wait":5,"source":"x5","punish":"deny","uuid":"x"}"#;
        let table = [
            (200, punished, Blocked(secs(300))),
            (200, r#"{"punish":"deny"}"#, Blocked(secs(300))),
            (200, r#"{"status":"1111"}"#, Blocked(secs(300))),
            (403, punished, Blocked(secs(300))),
            (200, "<script>location='/_____tmd_____/punish?x5secdata=1'</script>", Blocked(secs(300))),
            (200, "<!DOCTYPE html><html>welcome</html>", rest(60)),
            (200, "", rest(60)),
            (200, "{}", rest(60)),
            (200, "[0]", rest(60)),
            (200, r#"{"errcode":null}"#, rest(60)),
            (200, r#"{"errcode":0,"errmsg":"#, rest(60)),
            (200, r#"{"code":0,"success":true}"#, rest(60)),
            (301, "", Robot),
            (302, r#"{"errcode":0}"#, Robot),
            (400, r#"{"errcode":0}"#, Robot),
            (413, "", Message),
            (414, "", Message),
            (429, "", rest(60)),
            (500, r#"{"errcode":0}"#, Transient),
            (503, "<html>", Transient),
            (502, "", Ambiguous),
            (504, "", Ambiguous),
        ];
        for (status, body, class) in table {
            assert_eq!(answer(status, body).class, class, "{status} {body}");
        }
        assert_eq!(answer(200, "\u{feff}{\"errcode\":0}").class, Class::Success);
    }

    #[test]
    fn a_rest_is_as_long_as_the_platform_asks_within_reason() {
        let throttled = |seconds| {
            let answer = Answer { status: 429, retry_after: Some(secs(seconds)), body: Default::default() };
            classify(&Ok(answer), str::to_owned).class
        };
        assert_eq!(throttled(5), rest(60));
        assert_eq!(throttled(90), rest(90));
        assert_eq!(throttled(u64::MAX), Class::Throttled(LONGEST_REST));
    }

    #[test]
    fn a_request_without_an_answer_is_transient_or_ambiguous() {
        let not_sent = classify(&Err(Failure::NotSent("dns".into())), str::to_owned);
        assert_eq!((not_sent.class, not_sent.remedy), (Class::Transient, Some(Remedy::TryAgain)));
        let possibly = classify(&Err(Failure::PossiblySent("reset".into())), str::to_owned);
        assert_eq!((possibly.class, possibly.remedy), (Class::Ambiguous, None));
    }

    #[test]
    fn only_time_and_unsafe_content_have_a_remedy() {
        for (code, errmsg, remedy) in [
            ("310000", "invalid timestamp", Some(Remedy::SignAgain)),
            ("310000", "错误描述:机器人发送签名过期", Some(Remedy::SignAgain)),
            ("310000", "sign not match, check timestamp", None),
            ("310000", "签名不匹配,时间戳", None),
            ("430101", "unsafe link", Some(Remedy::LeaveOutLinks)),
            ("430104", "unsafe content", Some(Remedy::LeaveOutLinks)),
            ("430105", "", None),
            ("410100", "too fast", None),
            ("0", "ok", None),
        ] {
            assert_eq!(errcode(code, errmsg).remedy, remedy, "{code} {errmsg}");
        }
    }

    #[test]
    fn a_reason_says_whose_fault_it_is_and_what_the_platform_said() {
        assert_eq!(
            errcode("300005", "token is not exist").reason,
            "robot's settings: the access token is not accepted; copy the webhook from the group's robot again \
             (HTTP 200, errcode 300005: token is not exist)"
        );
        assert_eq!(errcode("\"300005\"", "x").errcode, Some(300005));
        assert!(errcode("1", &"长".repeat(500)).reason.len() < 400);
    }
    #[test]
    fn no_part_of_a_token_is_left_wherever_the_platforms_words_are_cut() {
        const TOKEN: &str = "c0ffee00c0ffee00";
        for before in 0..=QUOTED {
            for body in [
                serde_json::json!({ "errcode": 310000, "errmsg": format!("{}{TOKEN}", " ".repeat(before)) }),
                serde_json::json!({ "errcode": format!("{}{TOKEN}", "x".repeat(before)) }),
            ] {
                let answer = Answer { status: 200, retry_after: None, body: body.to_string().into() };
                let reason = classify(&Ok(answer), |text| text.replace(TOKEN, "***")).reason;
                assert!(!reason.contains("c0f"), "{before}: {reason}");
            }
        }
    }
}
