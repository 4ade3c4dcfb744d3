use super::*;

const NOW_MS: i64 = 1_700_000_000_000;

fn call<'a>(method: &'a Method, content_type: Option<&'a str>, query: &'a str, body: &'a [u8]) -> Call<'a> {
    Call { method, content_type, query, body, endless: false, now_ms: NOW_MS }
}

fn post<'a>(query: &'a str, body: &'a str) -> Call<'a> {
    call(&Method::POST, Some("application/json; charset=utf-8"), query, body.as_bytes())
}

fn send(body: &str, settings: &Settings) -> Result<Content, Refusal> {
    content(&post("access_token=t", body), settings)
}

/// Each body is refused with this code and a text that contains this.
fn refused(cases: &[(&str, i64, &str)]) {
    for (body, code, text) in cases {
        let refusal = send(body, &Settings::default()).expect_err(body);
        assert_eq!(refusal.code, *code, "{body}: {refusal:?}");
        assert!(refusal.msg.contains(text), "{body}: {refusal:?}");
    }
}

fn signed(query: &str) -> Result<(), (i64, String)> {
    let settings = Settings { secret: Some("SECx".to_owned()), ..Settings::default() };
    let body = r#"{"msgtype":"text","text":{"content":"x"}}"#;
    content(&post(query, body), &settings).map(|_| ()).map_err(|refusal| (refusal.code, refusal.msg))
}

fn refused_as(result: Result<(), (i64, String)>, text: &str) {
    let (code, msg) = result.unwrap_err();
    assert!(code == 310_000 && msg.starts_with(text), "{code} {msg}");
}

#[test]
fn only_a_post_of_json_to_a_named_robot_is_read() {
    let settings = Settings::default();
    let json = Some("application/json");
    let code = |call| robot(&call, &settings).map_err(|refusal| refusal.code);
    assert_eq!(code(call(&Method::GET, json, "access_token=t", b"")), Err(43_002));
    for content_type in [None, Some("text/plain"), Some("application/json; charset=gbk")] {
        assert_eq!(code(call(&Method::POST, content_type, "access_token=t", b"")), Err(43_004), "{content_type:?}");
    }
    for query in ["", "access_token=", "token=t", "Access_Token=t"] {
        let refusal = robot(&call(&Method::POST, json, query, b""), &settings).unwrap_err();
        assert_eq!((refusal.code, refusal.msg.contains("access_token")), (40_035, true), "{query}");
    }
    assert_eq!(
        code(call(&Method::POST, Some("Application/JSON; charset=UTF-8"), "access_token=t", b"")),
        Ok("t".into())
    );
}

#[test]
fn a_token_that_does_not_exist_is_refused() {
    let settings = Settings { tokens: Some(vec!["known".to_owned()]), ..Settings::default() };
    assert_eq!(robot(&post("access_token=known", ""), &settings), Ok("known".to_owned()));
    let refusal = robot(&post("access_token=other", ""), &settings).unwrap_err();
    assert_eq!(refusal, Refusal::new(300_005, "token is not exist"));
}

#[test]
fn a_signature_is_encoded_once_and_of_this_hour() {
    let sign = "rgcjbH%2ByFyES%2BS0llX%2BcAPCwVRpsr7sbiX5Lnyo%2FocU%3D";
    let stamp = "access_token=t&timestamp=1700000000000";
    assert_eq!(signed(&format!("{stamp}&sign={sign}")), Ok(()));
    let mismatches = [
        stamp.to_owned(),
        format!("{stamp}&sign="),
        format!("{stamp}&sign={}", sign.replace('%', "%25")),
        format!("{stamp}&sign=rgcjbH+yFyES+S0llX+cAPCwVRpsr7sbiX5Lnyo/ocU="),
        format!("access_token=t&timestamp=1700000000001&sign={sign}"),
    ];
    for query in mismatches {
        refused_as(signed(&query), "sign not match, more: [https://");
    }
    for timestamp in
        ["", "&timestamp=", "&timestamp=1699996399999", "&timestamp=1700003600001", "&timestamp=1700000000"]
    {
        refused_as(signed(&format!("access_token=t{timestamp}&sign={sign}")), "invalid timestamp");
    }
    let (code, msg) = signed(&format!("{stamp}&sign={sign}&timestamp=1700000000000&sign={sign}")).unwrap_err();
    assert!(code == 400_402 && msg.contains("timestamp"), "{msg}");
}

#[test]
fn one_of_the_keywords_must_stand_in_the_message() {
    let settings = Settings { keywords: vec!["简历".to_owned(), "offer".to_owned()], ..Settings::default() };
    let text = |content: &str| format!(r#"{{"msgtype":"text","text":{{"content":"{content}"}}}}"#);
    assert!(send(&text("新简历"), &settings).is_ok());
    assert!(send(r#"{"msgtype":"markdown","markdown":{"title":"offer","text":"x"}}"#, &settings).is_ok());
    let refusal = send(&text("hello"), &settings).unwrap_err();
    assert!(refusal.code == 310_000 && refusal.msg.starts_with("keywords not in content"), "{refusal:?}");
}

#[test]
fn a_long_body_is_refused_whatever_is_in_it() {
    let settings = Settings::default();
    let frame = r#"{"msgtype":"text","text":{"content":""}}"#.len();
    let text = |bytes: usize| format!(r#"{{"msgtype":"text","text":{{"content":"{}"}}}}"#, "x".repeat(bytes - frame));
    assert!(send(&text(20_000), &settings).is_ok());
    assert_eq!(send(&text(20_001), &settings).unwrap_err().code, 460_101);
    let endless = Call { endless: true, ..post("access_token=t", "") };
    assert_eq!(content(&endless, &settings).unwrap_err().code, 460_101);
}

#[test]
fn every_documented_form_is_accepted() {
    for body in [
        r#"{"msgtype":"text","text":{"content":"hi @180xxxxxxxx"},"at":{"atMobiles":["180xxxxxxxx"],"isAtAll":false},"msgUuid":"m-1"}"#,
        r#"{"msgtype":"link","link":{"title":"T","text":"B","messageUrl":"https://a.example","picUrl":""}}"#,
        r#"{"msgtype":"markdown","markdown":{"title":"T","text":"@+1-1234567890，你好"},"at":{"atMobiles":["+1-1234567890"]}}"#,
        r#"{"msgtype":"actionCard","actionCard":{"title":"T","text":"md","singleTitle":"Open","singleURL":"https://a.example","btnOrientation":"0"}}"#,
        r#"{"msgtype":"actionCard","actionCard":{"title":"T","text":"md","btns":[{"title":"A","actionURL":"dingtalk://x"}]}}"#,
        r#"{"msgtype":"feedCard","feedCard":{"links":[{"title":"T","messageURL":"https://a.example","picURL":"https://a.example/p.png"}]}}"#,
    ] {
        assert!(send(body, &Settings::default()).is_ok(), "{body}: {:?}", send(body, &Settings::default()));
    }
}

#[test]
fn a_body_is_json_of_a_known_type() {
    refused(&[
        ("", 40_035, "json"),
        ("{", 400_402, "not JSON"),
        ("[]", 40_035, "msgtype"),
        ("{}", 40_035, "msgtype"),
        (r#"{"msgtype":"image","image":{}}"#, 400_105, "image"),
        (r#"{"msgtype":"actioncard"}"#, 400_105, "actioncard"),
        (r#"{"msgtype":"text"}"#, 40_035, "text"),
        (r#"{"msgtype":"text","text":{"content":"x"},"markdown":{}}"#, 400_402, "markdown beside"),
    ]);
}

#[test]
fn what_must_be_there_is_there() {
    refused(&[
        (r#"{"msgtype":"text","text":{"content":" "}}"#, 40_035, "content"),
        (r#"{"msgtype":"markdown","markdown":{"text":"x"}}"#, 300_001, "param title is null"),
        (r#"{"msgtype":"markdown","markdown":{"title":"","text":"x"}}"#, 300_001, "param title is null"),
        (r#"{"msgtype":"markdown","markdown":{"title":"x","text":""}}"#, 300_001, "param text is null"),
        (r#"{"msgtype":"link","link":{"title":"T","text":"B"}}"#, 300_001, "messageUrl"),
        (r#"{"msgtype":"link","link":{"title":"T","text":"B","messageUrl":"javascript:x"}}"#, 400_402, "messageUrl"),
        (r#"{"msgtype":"actionCard","actionCard":{"title":"T","text":"x","singleTitle":"a"}}"#, 300_001, "singleURL"),
        (r#"{"msgtype":"actionCard","actionCard":{"title":"T","text":"x","btns":[]}}"#, 300_001, "btns"),
        (
            r#"{"msgtype":"actionCard","actionCard":{"title":"T","text":"x","btns":[],"singleURL":"x"}}"#,
            400_402,
            "btns beside",
        ),
        (r#"{"msgtype":"feedCard","feedCard":{"links":[]}}"#, 300_001, "links"),
        (
            r#"{"msgtype":"feedCard","feedCard":{"links":[{"title":"T","messageURL":"https://a.example"}]}}"#,
            300_001,
            "picURL",
        ),
    ]);
}

#[test]
fn fields_that_are_unknown_wrongly_cased_or_given_twice_are_named() {
    refused(&[
        (r#"{"msgtype":"text","text":{"content":"x"},"at":{"AtMobiles":[]}}"#, 400_402, "AtMobiles"),
        (r#"{"msgtype":"text","text":{"content":"x"},"msguuid":"m"}"#, 400_402, "msguuid"),
        (r#"{"msgtype":"actionCard","actionCard":{"title":"T","text":"x","singleUrl":"x"}}"#, 400_402, "singleUrl"),
        (r#"{"msgtype":"link","link":{"title":"T","text":"x","messageURL":"x"}}"#, 400_402, "messageURL"),
        (r#"{"msgtype":"text","text":{"content":"x","content":"y"}}"#, 400_402, "duplicate field `content`"),
        (r#"{"msgtype":"text","text":{"content":"x"},"at":{"isAtAll":"true"}}"#, 400_402, "boolean"),
        (r#"{"msgtype":"text","text":{"content":"x"},"msgUuid":""}"#, 400_402, "msgUuid"),
    ]);
}

#[test]
fn a_mention_that_would_notify_nobody_is_refused() {
    refused(&[
        (r#"{"msgtype":"text","text":{"content":"hi"},"at":{"atMobiles":["138"]}}"#, 400_402, "@138"),
        (r#"{"msgtype":"text","text":{"content":"hi @1389"},"at":{"atMobiles":["138"]}}"#, 400_402, "@138"),
        (r#"{"msgtype":"markdown","markdown":{"title":"@u","text":"x"},"at":{"atUserIds":["u"]}}"#, 400_402, "@u"),
        (r#"{"msgtype":"text","text":{"content":"@ "},"at":{"atUserIds":[""]}}"#, 400_402, "mentions @"),
        (
            r#"{"msgtype":"link","link":{"title":"T","text":"B","messageUrl":"https://a.example"},"at":{"isAtAll":true}}"#,
            400_402,
            "cannot mention",
        ),
    ]);
    let people: Vec<String> = (100..151).map(|n| n.to_string()).collect();
    let text: Vec<String> = people.iter().map(|person| format!("@{person}")).collect();
    let body = serde_json::json!({"msgtype": "text", "text": {"content": text.join(" ")}, "at": {"atUserIds": people}});
    refused(&[(&body.to_string(), 400_402, "51 people")]);
}
