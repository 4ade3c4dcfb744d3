//! DingTalk's custom group robot: build the body once, then sign, post and judge each try.

use bytes::Bytes;

use super::http::{Answer, Failure, Http};
use super::robot::Robot;
use super::{Class, Leave, MaySend, Parcel, Report, Tries, Try, clock};

mod body;
mod links;
mod outcome;
#[cfg(any(test, fuzzing))]
pub(super) mod properties;
mod shorten;
mod sign;

pub(super) use body::{fits, size as body_size};
use outcome::{Remedy, Verdict};

/// Most of an answer that a report shows, in bytes.
const SHOWN: usize = 500;

/// Sends one message; see [`super::Channels::send`].
pub(super) async fn send(http: &Http, tries: Tries, robot: &Robot, parcel: Parcel<'_>, lease: &impl MaySend) -> Report {
    let Parcel { message, key, may_lose_links } = parcel;
    let mut body = match body::build(message, key) {
        Ok(body) => body,
        Err(why) => return Report::of_the_event(why),
    };
    let mut signed_again = false;
    let mut without_links = !may_lose_links;
    let mut request = Try::First;
    let mut last: Option<Report> = None;
    loop {
        let leave = lease.may_send(http.timeout(), request).await;
        if leave != Leave::Granted {
            return cut_short(last, leave);
        }
        let (verdict, mut report) = try_once(http, robot, body.clone()).await;
        report.tries += last.as_ref().map_or(0, |report| report.tries);
        report.has_left |= last.as_ref().is_some_and(|report| report.has_left);
        match verdict.remedy {
            Some(Remedy::TryAgain) if report.tries < tries.most => {
                tokio::time::sleep(tries.pause).await;
                request = Try::Again;
            }
            Some(Remedy::SignAgain) if !signed_again => {
                signed_again = true;
                request = Try::Answered;
            }
            Some(Remedy::LeaveOutLinks) if !without_links => {
                without_links = true;
                request = Try::Answered;
                // The same key: what the platform refused, it has not delivered.
                body = match body::build(&body::without_links(message), key) {
                    Ok(body) => body,
                    Err(_) => return report,
                };
            }
            Some(_) | None => return report,
        }
        last = Some(report);
    }
}

/// One request, signed for the moment it is made.
async fn try_once(http: &Http, robot: &Robot, body: Bytes) -> (Verdict, Report) {
    let unix_ms = clock::unix_ms();
    let sign = robot.secret().map(|secret| sign::sign(unix_ms, secret));
    let result = match &sign {
        Some(sign) => http.post(&sign::signed(robot.webhook(), unix_ms, sign), body).await,
        None => http.post(robot.webhook(), body).await,
    };
    let mask = |text: &str| {
        let text = robot.mask(text, sign.as_deref());
        // A page that repeats the URL has the signature as the URL has it.
        sign.as_deref().map_or_else(|| text.to_string(), |sign| text.replace(&sign::encoded(sign), "***"))
    };
    let verdict = outcome::classify(&result, mask);
    let report = report(&verdict, &result, mask);
    (verdict, report)
}

fn report(verdict: &Verdict, result: &Result<Answer, Failure>, mask: impl Fn(&str) -> String) -> Report {
    let answer = result.as_ref().ok();
    // Masked first, cut second: half a token is too much as well.
    let shown = |answer: &Answer| cut(&printable(&mask(&String::from_utf8_lossy(&answer.body))), SHOWN).to_owned();
    Report {
        class: verdict.class,
        reason: printable(&mask(&verdict.reason)),
        response: answer.map(shown),
        tries: 1,
        has_left: !matches!(result, Err(Failure::NotSent(_))),
        status: answer.map(|answer| answer.status),
        errcode: verdict.errcode,
    }
}

/// The report of a send whose next try was not allowed: what that try could have mended is not final yet.
fn cut_short(last: Option<Report>, leave: Leave) -> Report {
    let Some(last) = last else {
        let reason = "the send lease is too short for a request by now; nothing was sent".to_owned();
        return Report::without_request(Class::Withheld, reason);
    };
    let (class, why) = match leave {
        Leave::NoPlace => (Class::Withheld, "the robot's budget has no place for another try now"),
        Leave::NoTime | Leave::Granted => (Class::Transient, "no time left for another try"),
    };
    Report { class, reason: format!("{}; {why}", last.reason), ..last }
}

/// PostgreSQL's text and a line of log take no control characters.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// At most so many bytes of a text, never half a character.
fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::super::rig::{self, Reply, Server, TOKEN};
    use super::*;
    use crate::message::{Format, Mentions, Message};

    /// A lease that allows so many tries, and notes what it was asked.
    struct Lease(usize, Leave, Mutex<Vec<Try>>);

    impl Lease {
        fn of(tries: usize) -> Lease {
            Lease(tries, Leave::NoTime, Mutex::default())
        }

        fn asked(&self) -> Vec<Try> {
            self.2.lock().unwrap().clone()
        }
    }

    impl MaySend for Lease {
        async fn may_send(&self, needs: Duration, request: Try) -> Leave {
            assert_eq!(needs, rig::TIMEOUT);
            let mut asked = self.2.lock().unwrap();
            asked.push(request);
            if asked.len() <= self.0 { Leave::Granted } else { self.1 }
        }
    }

    fn message() -> Message {
        let mentions = Mentions { at_mobiles: vec!["13800138000".into()], ..Mentions::default() };
        let body = "see [the page](https://x.example/1)".into();
        Message { format: Format::Markdown, title: "新简历".into(), body, mentions }
    }

    async fn send_to(url: &str, lease: &Lease) -> Report {
        let host = url.split('/').nth(2).unwrap();
        let args = ["--allowed-hosts", host, "--dingtalk-webhook", url, "--dingtalk-secret", "SECtest"];
        let channels = rig::channels(&args).with_tries(Tries { most: 3, pause: Duration::from_millis(1) });
        let robot = channels.resolve("dingtalk", "default", None).unwrap().robots.remove(0);
        channels.send(&robot, parcel(&message()), lease).await
    }

    fn parcel(message: &Message) -> Parcel<'_> {
        Parcel { message, key: "key", may_lose_links: true }
    }

    async fn send(replies: impl IntoIterator<Item = Reply>, tries: usize) -> (Report, Server, Lease) {
        let (server, lease) = (Server::start(replies).await, Lease::of(tries));
        let report = send_to(&server.url(), &lease).await;
        (report, server, lease)
    }

    #[tokio::test]
    async fn a_yes_is_reported_with_the_platforms_answer() {
        let (report, server, lease) = send([Reply::ok()], 1).await;
        assert_eq!((report.class, report.tries, report.status), (Class::Success, 1, Some(200)));
        assert_eq!(report.response.as_deref(), Some(r#"{"errcode":0,"errmsg":"ok"}"#));
        assert_eq!(lease.asked(), [Try::First]);
        let seen = &server.seen()[0];
        let query: Vec<_> = seen.query().into_iter().map(|(name, _)| name).collect();
        assert_eq!(query, ["access_token", "timestamp", "sign"]);
        assert_eq!(seen.query()[2].1, sign::sign(seen.query()[1].1.parse().unwrap(), "SECtest"));
        assert!(seen.body.contains(r#""msgUuid":"key""#) && seen.body.contains("@13800138000"), "{}", seen.body);
    }

    #[tokio::test]
    async fn what_was_not_sent_is_tried_three_times_while_the_lease_allows() {
        let address = rig::closed_port().await;
        let url = format!("http://{address}/robot/send?access_token={TOKEN}");
        let lease = Lease::of(9);
        let report = send_to(&url, &lease).await;
        assert_eq!((report.class, report.tries, report.status), (Class::Transient, 3, None));
        assert_eq!(lease.asked(), [Try::First, Try::Again, Try::Again]);
        assert!(!report.has_left);

        let lease = Lease::of(2);
        let report = send_to(&url, &lease).await;
        assert_eq!((report.class, report.tries), (Class::Transient, 2));
    }

    #[tokio::test]
    async fn nothing_is_sent_without_the_lease() {
        let (report, server, _) = send([Reply::ok()], 0).await;
        assert_eq!((report.class, report.tries), (Class::Withheld, 0));
        assert!(server.seen().is_empty());
    }

    #[tokio::test]
    async fn what_may_have_arrived_is_not_tried_again_here() {
        let (report, server, _) = send([Reply::Drop, Reply::ok()], 9).await;
        assert_eq!((report.class, report.tries), (Class::Ambiguous, 1));
        assert_eq!(server.seen().len(), 1);
    }

    #[tokio::test]
    async fn a_stale_timestamp_is_signed_again_once() {
        let stale = || Reply::json(r#"{"errcode":310000,"errmsg":"invalid timestamp"}"#);
        let (report, server, lease) = send([stale(), Reply::ok()], 9).await;
        assert_eq!((report.class, report.tries), (Class::Success, 2));
        assert_eq!(lease.asked(), [Try::First, Try::Answered]);
        assert_eq!(server.seen()[0].body, server.seen()[1].body);
        let (report, ..) = send([stale(), stale(), Reply::ok()], 9).await;
        assert_eq!((report.class, report.tries), (Class::Robot, 2));
        let (report, ..) = send([stale()], 1).await;
        assert_eq!(report.class, Class::Transient, "the lease, not the robot, stood in the way");
    }

    #[tokio::test]
    async fn unsafe_content_is_sent_once_more_without_links() {
        let unsafe_link = || Reply::json(r#"{"errcode":"430101","errmsg":"unsafe link"}"#);
        let (report, server, _) = send([unsafe_link(), Reply::ok()], 9).await;
        assert_eq!((report.class, report.tries), (Class::Success, 2));
        let seen = server.seen();
        assert!(seen[0].body.contains("x.example") && !seen[1].body.contains("x.example"), "{}", seen[1].body);
        assert!(seen[1].body.contains("see the page") && seen[1].body.contains("@13800138000"), "{}", seen[1].body);
        assert!(seen[1].body.contains(r#""msgUuid":"key""#));
        let (report, ..) = send([unsafe_link(), unsafe_link(), Reply::ok()], 9).await;
        assert_eq!((report.class, report.tries), (Class::Message, 2));

        let server = Server::start([unsafe_link()]).await;
        let lease = Lease(1, Leave::NoPlace, Mutex::default());
        let report = send_to(&server.url(), &lease).await;
        assert_eq!((report.class, report.tries, report.has_left), (Class::Withheld, 1, true));
    }

    #[tokio::test]
    async fn gateways_are_not_taken_for_success() {
        let html = || Reply::Answer(200, vec![("content-type", "text/html".into())], "<html>ok</html>".into());
        assert_eq!(send([html()], 1).await.0.class, Class::Throttled(Duration::from_secs(60)));
        assert_eq!(send([Reply::Answer(502, vec![], String::new())], 1).await.0.class, Class::Ambiguous);
        let limited = Reply::Answer(429, vec![("retry-after", "90".into())], String::new());
        assert_eq!(send([limited], 1).await.0.class, Class::Throttled(Duration::from_secs(90)));
    }

    #[tokio::test]
    async fn what_cannot_be_sent_is_not() {
        let server = Server::start([Reply::ok()]).await;
        let channels = rig::channels(&["--allowed-hosts", &server.address(), "--dingtalk-webhook", &server.url()]);
        let mut message = message();
        message.mentions.at_user_ids = (0..50).map(|n| format!("user{n}")).collect();
        let robot = channels.resolve("dingtalk", "default", None).unwrap().robots.remove(0);
        let report = channels.send(&robot, parcel(&message), &Lease::of(1)).await;
        assert_eq!((report.class, report.tries), (Class::Message, 0));
        assert!(server.seen().is_empty());
    }

    #[tokio::test]
    async fn no_token_secret_or_signature_is_ever_shown() {
        let logs = rig::Logs::capture();
        for status in [200, 302, 403, 429, 500, 502] {
            let (report, server, _) = send([Reply::Echo(status)], 1).await;
            let shown = format!("{report:?} {}", logs.text());
            let sign = &server.seen()[0].query()[2].1;
            for secret in [TOKEN, &TOKEN[..12], "SECtest", sign, &sign::encoded(sign)] {
                assert!(!shown.contains(secret), "{secret} in {shown}");
            }
            assert!(report.response.unwrap().contains("***"));
        }
        assert!(!logs.text().is_empty(), "the capture of logs works");
    }

    #[test]
    fn an_answer_is_cut_between_characters_after_it_was_masked() {
        let text = format!("{}钉钉\u{0}", "x".repeat(SHOWN - 2));
        let answer = Answer { status: 200, retry_after: None, body: text.into_bytes().into() };
        let result = Ok(answer);
        let report = report(&outcome::classify(&result, str::to_owned), &result, str::to_owned);
        assert_eq!(report.response, Some("x".repeat(SHOWN - 2)));
        assert_eq!(printable("a\u{0}b\nc"), "a b c");
    }
}
