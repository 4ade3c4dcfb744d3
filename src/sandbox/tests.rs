//! Over real HTTP, on a free port.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use super::*;

const SOON: Duration = Duration::from_secs(10);

async fn start(settings: Settings) -> Sandbox {
    Sandbox::start(TcpListener::bind("127.0.0.1:0").await.unwrap(), settings).unwrap()
}

/// One request on a connection of its own; none where there is no answer.
async fn request(method: Method, url: String, body: String) -> Option<(StatusCode, String)> {
    let client = Client::builder(TokioExecutor::new()).retry_canceled_requests(false).build_http::<Full<Bytes>>();
    let request = http::Request::builder().method(method).uri(url).header("content-type", "application/json");
    let response = client.request(request.body(body.into()).unwrap()).await.ok()?;
    let status = response.status();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8(body.into()).unwrap()))
}

/// Sends to the robot and returns its errcode.
async fn send(url: String, body: Value) -> Option<i64> {
    let (status, answer) = request(Method::POST, url, body.to_string()).await?;
    assert_eq!(status, StatusCode::OK);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["errcode"].as_i64()
}

async fn call(sandbox: &Sandbox, method: Method, path: &str, body: Value) -> (StatusCode, String) {
    request(method, format!("http://{}{path}", sandbox.addr()), body.to_string()).await.unwrap()
}

fn text(content: &str, msg_uuid: &str) -> Value {
    json!({"msgtype": "text", "text": {"content": content}, "msgUuid": msg_uuid})
}

#[tokio::test]
async fn a_message_is_accepted_once_and_its_duplicates_are_counted() {
    let sandbox = start(Settings::default()).await;
    for body in [text("a", "1"), text("a", "1"), text("b", "1"), text("a", "2")] {
        assert_eq!(send(sandbox.webhook("token-one"), body).await, Some(0));
    }
    assert_eq!(send(sandbox.webhook("token-two"), text("a", "1")).await, Some(0), "another robot has seen nothing");
    let messages = sandbox.wait_for_messages(3, SOON).await.unwrap();
    let counts: Vec<_> = messages.iter().map(|m| (m.text.as_str(), m.duplicates, m.mismatched, m.attempts)).collect();
    assert_eq!(counts, [("a", 2, true, 3), ("a", 0, false, 1), ("a", 0, false, 1)]);
    assert_eq!(sandbox.max_in_any_window(SOON), 4, "of one robot");
}

#[tokio::test]
async fn json_shows_messages_and_requests_without_tokens() {
    let sandbox = start(Settings::default()).await;
    send(sandbox.webhook("token-one"), text("a", "1")).await;
    send(sandbox.webhook("token-one"), json!({"msgtype": "image"})).await;
    let (_, messages) = call(&sandbox, Method::GET, "/messages", Value::Null).await;
    let messages: Value = serde_json::from_str(&messages).unwrap();
    assert_eq!(messages[0]["robot"], "toke…");
    assert_eq!((&messages[0]["msgUuid"], &messages[0]["text"]), (&json!("1"), &json!("a")));
    let (_, requests) = call(&sandbox, Method::GET, "/requests?since=1", Value::Null).await;
    assert!(!requests.contains("token-one"));
    let requests: Value = serde_json::from_str(&requests).unwrap();
    assert_eq!((requests.as_array().unwrap().len(), &requests[0]["errcode"]), (1, &json!(400_105)));
    assert_eq!(call(&sandbox, Method::DELETE, "/messages", Value::Null).await.0, StatusCode::NO_CONTENT);
    assert!(sandbox.messages().is_empty() && sandbox.requests().is_empty());
    assert_eq!(call(&sandbox, Method::GET, "/healthz", Value::Null).await.0, StatusCode::OK);
    assert_eq!(call(&sandbox, Method::GET, "/nothing", Value::Null).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_robot_that_is_sent_too_much_refuses_for_a_while_and_others_do_not() {
    let sandbox = start(Settings { rate: Some((2, Duration::from_secs(60))), ..Settings::default() }).await;
    let mut codes = Vec::new();
    for n in 0..4 {
        codes.push(send(sandbox.webhook("busy"), text("a", &n.to_string())).await.unwrap());
    }
    assert_eq!(codes, [0, 0, 410_100, 410_100]);
    assert_eq!(sandbox.requests()[3].errmsg, "send too fast, exceed 2 times per minute");
    assert_eq!(send(sandbox.webhook("idle"), text("a", "1")).await, Some(0));
}

#[tokio::test]
async fn a_long_body_gets_its_errcode_even_where_it_is_endless() {
    let sandbox = start(Settings::default()).await;
    for length in [20_001, 2 << 20] {
        let answer = send(sandbox.webhook("t"), text(&"x".repeat(length), "1")).await;
        // The far too long one may be cut off while it is still being written.
        assert!(answer == Some(460_101) || length > 1 << 20, "{answer:?}");
    }
    let requests = sandbox.wait_for_requests(2, SOON).await.unwrap();
    assert!(requests.iter().all(|request| request.errcode == Some(460_101)));
}

#[tokio::test]
async fn a_lost_answer_is_a_message_delivered_or_not_as_the_script_says() {
    let sandbox = start(Settings::default()).await;
    sandbox.script([
        Rule::new(Do::DropAfterReading).msg_uuid("lost"),
        Rule::new(Do::DropAfterReading).accepted().msg_uuid("delivered"),
        Rule::new(Do::DropBeforeReading).robot("unread"),
    ]);
    assert_eq!(send(sandbox.webhook("t"), text("a", "lost")).await, None);
    assert!(sandbox.messages().is_empty());
    assert_eq!(send(sandbox.webhook("t"), text("a", "delivered")).await, None);
    assert_eq!(sandbox.messages().len(), 1);
    assert_eq!(send(sandbox.webhook("unread"), text("a", "1")).await, None);
    assert_eq!(send(sandbox.webhook("t"), text("a", "lost")).await, Some(0), "each rule took one request");
    let requests = sandbox.requests();
    let verdicts: Vec<_> = requests.iter().map(|request| request.verdict).collect();
    assert_eq!(verdicts, [Verdict::Lost, Verdict::Accepted, Verdict::Lost, Verdict::Accepted]);
    assert_eq!(sandbox.messages()[1].attempts, 2);
}

#[tokio::test]
async fn a_script_over_http_answers_what_it_says() {
    let sandbox = start(Settings::default()).await;
    let rules = json!([
        {"match": {"contains": "busy"}, "do": {"errcode": {"code": -1, "msg": "system busy"}}},
        {"do": {"reply": {"status": 429, "body": "slow", "headers": {"Retry-After": "7"}}}},
        {"do": "html"},
    ]);
    assert_eq!(call(&sandbox, Method::POST, "/script", rules).await.0, StatusCode::OK);
    let to_robot = |content: &str| request(Method::POST, sandbox.webhook("t"), text(content, content).to_string());
    assert_eq!(to_robot("busy").await.unwrap().1, r#"{"errcode":-1,"errmsg":"system busy"}"#);
    assert_eq!(to_robot("a").await.unwrap(), (StatusCode::TOO_MANY_REQUESTS, "slow".to_owned()));
    assert!(to_robot("b").await.unwrap().1.starts_with("<!doctype html>"));
    assert!(sandbox.messages().is_empty());
    let (status, error) = call(&sandbox, Method::POST, "/script", json!([{"do": "explode"}])).await;
    assert!(status == StatusCode::BAD_REQUEST && error.contains("explode"), "{error}");
    call(&sandbox, Method::POST, "/script", json!([{"do": "hang", "times": "forever"}])).await;
    assert_eq!(call(&sandbox, Method::DELETE, "/script", Value::Null).await.0, StatusCode::NO_CONTENT);
    assert_eq!(to_robot("c").await.unwrap().0, StatusCode::OK);
}

#[tokio::test]
async fn a_request_that_hangs_ends_with_the_sandbox() {
    let sandbox = start(Settings::default()).await;
    sandbox.script([Rule::new(Do::Hang).accepted(), Rule::new(Do::DelayMs(3_600_000))]);
    let hanging = tokio::spawn(send(sandbox.webhook("t"), text("a", "1")));
    sandbox.wait_for_messages(1, SOON).await.unwrap();
    let delayed = tokio::spawn(send(sandbox.webhook("t"), text("b", "2")));
    sandbox.wait_for_messages(2, SOON).await.unwrap();
    sandbox.shutdown().await;
    assert_eq!((hanging.await.unwrap(), delayed.await.unwrap()), (None, None));
}

#[tokio::test]
async fn hooks_see_a_request_before_and_after_its_answer() {
    let (told, mut events) = tokio::sync::mpsc::unbounded_channel();
    let hook = |name: &'static str| -> Option<Hook> {
        let told = told.clone();
        Some(Arc::new(move |request: &Request| told.send((name, request.seq, request.answered)).unwrap()))
    };
    let settings = Settings { on_request: hook("request"), on_answered: hook("answered"), ..Settings::default() };
    let sandbox = start(settings).await;
    sandbox.script([Rule::new(Do::DropAfterReading).nth(2)]);
    for n in 1..=3 {
        send(sandbox.webhook("t"), text("a", &n.to_string())).await;
    }
    sandbox.wait_until("the last answer", SOON, |s| s.requests().get(2)?.answered.then_some(())).await.unwrap();
    sandbox.shutdown().await;
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        seen.push(event);
    }
    let expected = [("request", 1), ("answered", 1), ("request", 2), ("request", 3), ("answered", 3)];
    assert_eq!(seen, expected.map(|(name, seq)| (name, seq, name == "answered")));
}

#[tokio::test]
async fn waiting_in_vain_says_what_there_is() {
    let sandbox = start(Settings::default()).await;
    send(sandbox.webhook("t"), json!({"msgtype": "image"})).await;
    let error = sandbox.wait_for_messages(1, Duration::ZERO).await.unwrap_err().to_string();
    assert!(error.contains("1 messages; there are 0") && error.contains("400105"), "{error}");
}

#[tokio::test]
async fn the_page_shows_the_group_and_its_feed_only_what_is_new() {
    let sandbox = start(Settings::default()).await;
    let (_, page) = call(&sandbox, Method::GET, "/?lang=zh", Value::Null).await;
    assert!(page.contains("还没有消息") && page.contains("access_token=sandbox"), "{page}");
    send(sandbox.webhook("token-one"), text("<b>hi</b>", "1")).await;
    let (_, page) = call(&sandbox, Method::GET, "/", Value::Null).await;
    assert!(page.contains("&lt;b&gt;hi&lt;/b&gt;") && !page.contains("token-one"), "{page}");

    let feed = async |since: &Value| {
        let (_, feed) = call(&sandbox, Method::GET, &format!("/feed?since={since}"), Value::Null).await;
        serde_json::from_str::<Value>(&feed).unwrap()
    };
    let first = feed(&json!(0)).await;
    assert_eq!(first["items"][0]["id"], "m1");
    // Nothing is new yet: the answer comes with the refusal.
    let (next, code) = tokio::join!(feed(&first["revision"]), send(sandbox.webhook("t"), json!({"msgtype": "image"})));
    assert_eq!(
        (&next["items"][0]["id"], next["items"].as_array().unwrap().len(), code),
        (&json!("r2"), 1, Some(400_105))
    );
    sandbox.clear();
    assert_eq!(feed(&next["revision"]).await["afresh"], true);
    send(sandbox.webhook("token-one"), text("<b>hi</b>", "1")).await;
    let (_, page) = call(&sandbox, Method::GET, "/", Value::Null).await;
    assert!(page.contains("duplicates swallowed"), "the robot remembers what the page has cleared: {page}");
}
