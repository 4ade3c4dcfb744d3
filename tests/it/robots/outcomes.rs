//! What a robot answers, what becomes of the event and of the robot, and whose fault it is said to be: the whole table.

use std::time::Duration;

use postbell::sandbox::{Do, Request, Rule, Settings};
use serde_json::{Value, json};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::rest::robot;
use super::resume;
use crate::harness::process::{Env, Postbell};
use crate::harness::servers::free_port;
use crate::harness::stage::Stage;
use crate::harness::{SOON, eventually};

/// The link that every message has, unless it was found unsafe.
const LINK: &str = "https://hire.example.com/resumes/42";

/// What a robot does, and what follows from it.
struct Case {
    /// One each for its first requests; it takes those after them.
    does: Vec<Rule>,
    then: Then,
    requests: usize,
    /// How the reason begins.
    reason: &'static str,
    options: Value,
    max_retry: Option<i32>,
    /// Instead of a robot of its own.
    target: Option<String>,
    /// Messages in the group.
    shown: usize,
}

/// What becomes of the event and of its robot, which is open but where it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// After so many retries.
    Delivered(i32),
    Failed,
    /// It waits, and postbell has paused the robot.
    Paused,
    /// It waits, and the robot rests for so many seconds.
    Rests(i64),
    /// It has waited for as many, and was delivered then.
    Rested(i64),
}

impl Case {
    fn new(does: &[Rule], then: Then, requests: usize, reason: &'static str) -> Case {
        let is_delivered = matches!(then, Then::Delivered(_) | Then::Rested(_));
        Case {
            does: does.to_vec(),
            then,
            requests,
            reason,
            options: json!({}),
            max_retry: None,
            target: None,
            shown: usize::from(is_delivered),
        }
    }

    fn at_most_once(self) -> Case {
        Case { options: json!({"delivery": "at_most_once"}), ..self }
    }

    /// The group shows a message although the event knows nothing of it.
    fn shown(self) -> Case {
        Case { shown: 1, ..self }
    }

    /// To a place that nobody answers from, and without a retry.
    fn to(self, target: String) -> Case {
        Case { target: Some(target), max_retry: Some(0), ..self }
    }
}

fn errcode(code: i64, msg: &str) -> Rule {
    Rule::new(Do::Errcode { code, msg: msg.to_owned() })
}

fn status(status: u16) -> Rule {
    answers(status, "", [])
}

fn body(body: &str) -> Rule {
    answers(200, body, [])
}

fn answers<const N: usize>(status: u16, body: &str, headers: [(&str, &str); N]) -> Rule {
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Rule::new(Do::Reply { status, body: body.to_owned(), headers })
}

/// The table. `elsewhere` is the webhook of a robot that no event is for, `unheard` are webhooks that nobody listens at.
fn table(elsewhere: &str, unheard: &[String]) -> Vec<Case> {
    use Then::{Delivered, Failed, Paused, Rested, Rests};
    let case = Case::new;
    let unsafe_content = |code| errcode(code, "unsafe content");
    let too_old = || errcode(310000, "invalid timestamp, more: [https://ding-doc.dingtalk.com]");
    let mut table = vec![
        // It says yes, in so many words.
        case(&[], Delivered(0), 1, ""),
        case(&[body(r#"{"errcode":"0","errmsg":"ok"}"#).accepted()], Delivered(0), 1, ""),
        // The message's fault: it fails at once, and its robot goes on.
        case(&[errcode(40035, "缺少参数 json")], Failed, 1, "message: a parameter is missing"),
        case(&[errcode(300001, "param title is null")], Failed, 1, "message: a parameter is missing"),
        case(&[errcode(43002, "require POST")], Failed, 1, "message: its form is refused"),
        case(&[errcode(43004, "无效的HTTP HEADER Content-Type")], Failed, 1, "message: its form is refused"),
        case(&[errcode(400105, "不支持的消息类型")], Failed, 1, "message: its form is refused"),
        case(&[errcode(400402, "参数错误")], Failed, 1, "message: its form is refused"),
        case(&[errcode(101002, "too long")], Failed, 1, "message: too long"),
        case(&[errcode(460101, "message too long, exceed 20000 bytes")], Failed, 1, "message: too long"),
        case(&[status(413)], Failed, 1, "message: too long"),
        case(&[status(414)], Failed, 1, "message: too long"),
        case(&[errcode(123456, "no idea")], Failed, 1, "message: refused with a code that postbell does not know"),
        case(&[body(r#"{"errcode":"E17","errmsg":"no"}"#)], Failed, 1, "message: refused with a code"),
        // The robot's fault: it is paused, and the event waits.
        case(&[errcode(40035, "缺少参数 access_token")], Paused, 1, "robot's settings: the access token"),
        case(&[errcode(300001, "token is not exist")], Paused, 1, "robot's settings: the access token"),
        case(&[errcode(88, "token 不能为空")], Paused, 1, "robot's settings: the access token"),
        case(&[errcode(40014, "不合法的access_token")], Paused, 1, "robot's settings: the access token"),
        case(&[errcode(300005, "token is not exist")], Paused, 1, "robot's settings: the access token"),
        case(&[body(r#"{"errcode":"300005","errmsg":"x"}"#)], Paused, 1, "robot's settings: the access token"),
        case(&[errcode(400101, "access_token不存在")], Paused, 1, "robot's settings: the access token"),
        case(&[errcode(310000, "keywords not in content")], Paused, 1, "robot's settings: none of its keywords"),
        case(&[errcode(310000, "错误描述:关键词不匹配")], Paused, 1, "robot's settings: none of its keywords"),
        case(&[errcode(310000, "sign not match")], Paused, 1, "robot's settings: the signature is wrong"),
        case(&[errcode(310000, "签名不匹配,时间戳")], Paused, 1, "robot's settings: the signature is wrong"),
        case(&[errcode(310000, "ip 1.2.3.4 not in whitelist")], Paused, 1, "robot's settings: this machine's address"),
        case(&[errcode(310000, "something new")], Paused, 1, "robot's settings: its security settings"),
        case(&[errcode(400013, "群已被解散")], Paused, 1, "robot's settings: its group was disbanded"),
        case(&[errcode(400102, "机器人已停用")], Paused, 1, "robot's settings: it is disabled"),
        case(&[errcode(400106, "机器人不存在")], Paused, 1, "robot's settings: it was removed"),
        case(&[answers(302, "", [("location", elsewhere)])], Paused, 1, "robot's settings: a redirect"),
        case(&[answers(308, r#"{"errcode":0}"#, [("location", elsewhere)])], Paused, 1, "robot's settings: a redirect"),
        case(&[status(400)], Paused, 1, "robot's settings: the webhook is refused"),
        case(
            &[answers(403, r#"{"errcode":0,"errmsg":"ok"}"#, [])],
            Paused,
            1,
            "robot's settings: the webhook is refused",
        ),
        case(&[status(404)], Paused, 1, "robot's settings: the webhook is refused"),
        // The time in the signature is refused: it is signed once more.
        case(&[too_old()], Delivered(0), 2, ""),
        case(&[too_old(), too_old()], Paused, 2, "robot's settings: the signature's time"),
        // The robot needs a rest, and the event waits.
        case(&[errcode(410100, "发送速度太快而限流")], Rests(600), 1, "platform: this robot sent too fast"),
        case(&[errcode(130101, "send too fast")], Rests(600), 1, "platform: this robot sent too fast"),
        case(&[errcode(660026, "send too fast")], Rests(600), 1, "platform: this robot sent too fast"),
        case(&[errcode(90030, "quota")], Rests(3600), 1, "platform: the quota is used up"),
        case(&[errcode(90018, "qps")], Rested(5), 2, "platform: too many requests in this second"),
        case(&[errcode(90002, "qps")], Rested(5), 2, "platform: too many requests in this second"),
        case(&[errcode(123456, "Send Too Fast")], Rests(60), 1, "platform: too many requests, it seems"),
        case(&[errcode(123456, "请求被限流")], Rests(60), 1, "platform: too many requests, it seems"),
        case(&[Rule::new(Do::Html)], Rests(60), 1, "platform: the answer is not the robot's"),
        case(&[body("")], Rests(60), 1, "platform: the answer is not the robot's"),
        case(&[body(r#"{"errcode":0,"errmsg":"#)], Rests(60), 1, "platform: the answer is not the robot's"),
        case(&[body(r#"{"success":true}"#)], Rests(60), 1, "platform: the answer is not the robot's"),
        case(&[status(429)], Rests(60), 1, "platform: too many requests"),
        case(&[answers(429, "", [("retry-after", "5")])], Rests(60), 1, "platform: too many requests"),
        case(&[answers(429, "", [("retry-after", "90")])], Rests(90), 1, "platform: too many requests"),
        // It fails for a while: a retry.
        case(&[errcode(-1, "系统繁忙")], Delivered(1), 2, "platform: busy"),
        case(&[errcode(-1, "busy")], Delivered(1), 2, "platform: busy").at_most_once(),
        case(&[status(500)], Delivered(1), 2, "platform: failed inside"),
        case(&[answers(503, r#"{"errcode":0}"#, [])], Delivered(1), 2, "platform: failed inside"),
        // It is unknown whether it arrived: a retry, unless the event asks for at most one delivery.
        case(&[status(502)], Delivered(1), 2, "platform: a gateway failed; it is unknown"),
        case(&[status(504).accepted()], Delivered(1), 2, "platform: a gateway failed; it is unknown"),
        case(&[Rule::new(Do::Hang)], Delivered(1), 2, "network: it is unknown"),
        case(&[Rule::new(Do::Hang).accepted()], Delivered(1), 2, "network: it is unknown"),
        case(&[Rule::new(Do::DropAfterReading)], Delivered(1), 2, "network: it is unknown"),
        case(&[Rule::new(Do::DropAfterReading).accepted()], Delivered(1), 2, "network: it is unknown"),
        case(&[Rule::new(Do::DropBeforeReading)], Delivered(1), 2, "network: it is unknown"),
        case(&[status(504)], Failed, 1, "outcome unknown, and it asks for at most one delivery: platform")
            .at_most_once(),
        case(
            &[Rule::new(Do::Hang).accepted()],
            Failed,
            1,
            "outcome unknown, and it asks for at most one delivery: network",
        )
        .at_most_once()
        .shown(),
    ];
    for code in 430101..=430104 {
        let refused = "message: its content is found unsafe, without links too";
        table.push(case(&[unsafe_content(code)], Delivered(0), 2, ""));
        table.push(case(&[unsafe_content(code), unsafe_content(code)], Failed, 2, refused));
    }
    // Nothing was sent.
    let unsent = |url: &String| case(&[], Failed, 0, "network: nothing was sent").to(url.clone());
    table.extend(unheard.iter().map(unsent));
    table.extend(unheard.iter().map(|url| unsent(url).at_most_once()));
    table
}

/// What has become of an event and of its robot.
#[derive(Debug)]
struct Seen {
    status: String,
    retry_count: i32,
    waits: bool,
    last_error: String,
    paused_by: Option<String>,
    pause_reason: Option<String>,
    cool_until: Option<i64>,
    cool_reason: Option<String>,
    slots: i64,
}

async fn seen(stage: &Stage, id: Uuid) -> Seen {
    let query = "select e.status, e.retry_count, e.waiting_since is not null as waits,
            coalesce(e.last_error, '') as last_error, r.paused_by, r.pause_reason,
            extract(epoch from r.cool_until)::bigint as cool_until, r.cool_reason,
            coalesce(cardinality(r.slots), 0)::bigint as slots
        from notification_events e left join notification_robots r on r.name = e.robot where e.id = $1";
    let row = stage.world.client().query_one(query, &[&id]).await.unwrap();
    Seen {
        status: row.get("status"),
        retry_count: row.get("retry_count"),
        waits: row.get("waits"),
        last_error: row.get("last_error"),
        paused_by: row.get("paused_by"),
        pause_reason: row.get("pause_reason"),
        cool_until: row.get("cool_until"),
        cool_reason: row.get("cool_reason"),
        slots: row.get("slots"),
    }
}

fn requests(stage: &Stage, token: &str) -> Vec<Request> {
    stage.robot.requests().into_iter().filter(|request| request.token.as_deref() == Some(token)).collect()
}

/// What is not as the table says.
fn differences(case: &Case, seen: &Seen, requests: &[Request], shown: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut is = |what: &str, right: bool| {
        if !right {
            wrong.push(what.to_owned());
        }
    };
    let (status, retries) = match case.then {
        Then::Delivered(retries) => ("delivered", retries),
        Then::Rested(_) => ("delivered", 0),
        Then::Failed => ("failed", 0),
        Then::Paused | Then::Rests(_) => ("pending", 0),
    };
    is("status", seen.status == status && seen.waits == (status == "pending"));
    is("retries", seen.retry_count == retries);
    is("reason", seen.last_error.starts_with(case.reason) && seen.last_error.is_empty() == case.reason.is_empty());
    let paused = (case.then == Then::Paused).then_some("postbell");
    is("pause", seen.paused_by.as_deref() == paused);
    is("reason of the pause", seen.pause_reason.as_deref() == paused.map(|_| seen.last_error.as_str()));
    match case.then {
        Then::Rests(rest) | Then::Rested(rest) => {
            let from = requests.first().map_or(0, |request| request.received_at.as_second());
            let rests = seen.cool_until.unwrap_or_default() - from;
            is("rest", (rest..rest + 8).contains(&rests));
            is("reason of the rest", seen.cool_reason.as_deref() == Some(&seen.last_error));
            let gaps = requests.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs_f64());
            is("requests during the rest", gaps.min_by(f64::total_cmp).is_none_or(|gap| gap > rest as f64 - 0.1));
        }
        Then::Delivered(_) | Then::Failed | Then::Paused => is("no rest", seen.cool_until.is_none()),
    }
    is("requests", requests.len() == case.requests);
    is("messages", shown == case.shown);
    // What was not read has no key, no body and no link.
    let read: Vec<&Request> = requests.iter().filter(|request| request.msg_uuid.is_some()).collect();
    is("one msgUuid", read.windows(2).all(|pair| pair[0].msg_uuid == pair[1].msg_uuid));
    let is_unsafe = case.does.iter().any(|rule| matches!(rule.action, Do::Errcode { code: 430101..=430104, .. }));
    let has_link = |request: &Request| String::from_utf8_lossy(&request.body).contains(LINK);
    match is_unsafe {
        true => is("links only at first", has_link(read[0]) && !has_link(read[1])),
        false => is("the same body", read.iter().all(|one| one.body == read[0].body && has_link(one))),
    }
    wrong
}

/// Runs the whole table at once, each case with a robot of its own.
async fn check(stage: &Stage, env: Env) {
    let closed = format!("127.0.0.1:{}", free_port());
    let hosts = format!("{0},{closed},robot.invalid", stage.robot.addr());
    let unheard = [
        format!("http://{closed}/robot/send?access_token=closed"),
        // It does not speak TLS.
        stage.robot.webhook("no-tls").replacen("http:", "https:", 1),
        "https://robot.invalid/robot/send?access_token=no-name".to_owned(),
    ];
    let table = table(&stage.robot.webhook("elsewhere"), &unheard);
    let insert = "insert into notification_events (event_type, payload, options, max_retry, target)
        values ('card', $1, $2, $3, $4) returning id";
    let mut ids: Vec<Uuid> = Vec::new();
    for (number, case) in table.iter().enumerate() {
        let token = format!("token-{number}");
        stage.robot.script(case.does.iter().map(|rule| rule.clone().robot(&token)));
        let target = case.target.clone().unwrap_or_else(|| stage.robot.webhook(&token));
        let payload = json!({"text": format!("case {number}"), "url": LINK});
        let values: &[&(dyn ToSql + Sync)] = &[&payload, &case.options, &case.max_retry, &target];
        ids.push(stage.world.client().query_one(insert, values).await.unwrap().get(0));
    }
    let env = env
        .with("NOTIFICATION_ALLOWED_HOSTS", hosts)
        // No try is cut short on a busy machine.
        .with("NOTIFICATION_SEND_LEASE", "10s")
        .with("NOTIFICATION_SEND_TIMEOUT", "2s");
    let _postbell = Postbell::start(&["run"], &env);

    let waiting = table.iter().filter(|case| matches!(case.then, Then::Paused | Then::Rests(_))).count();
    eventually(SOON, "every event to be where it stays", async || {
        let counts = "select count(*) filter (where completed_at is null),
                count(*) filter (where completed_at is null and waiting_since is not null)
            from notification_events";
        let row = stage.world.client().query_one(counts, &[]).await.unwrap();
        let waiting = i64::try_from(waiting).unwrap();
        (row.get::<_, i64>(0) <= waiting && row.get::<_, i64>(0) == row.get::<_, i64>(1)).then_some(())
    })
    .await;
    let mut wrong = Vec::new();
    for (number, (case, id)) in table.iter().zip(&ids).enumerate() {
        let token = format!("token-{number}");
        let (seen, requests) = (seen(stage, *id).await, requests(stage, &token));
        let shown = stage.robot.messages().iter().filter(|message| message.token == token).count();
        let mut differences = differences(case, &seen, &requests, shown);
        if has_budget(stage, *id).await && seen.slots != i64::try_from(requests.len()).unwrap() {
            differences.push("places of the budget".to_owned());
        }
        if !differences.is_empty() {
            let requests: Vec<String> = requests.iter().map(Request::to_string).collect();
            wrong.push(format!("{:?}, then {:?}: {differences:?}\n{seen:?}\n{requests:?}", case.does, case.then));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), table.len(), wrong.join("\n\n"));
    assert!(requests(stage, "elsewhere").is_empty(), "a redirect was followed");
}

async fn has_budget(stage: &Stage, id: Uuid) -> bool {
    let name: String = stage.column(id, "robot").await;
    robot(stage, &name, "rate_limit").await.is_some()
}

#[tokio::test]
async fn every_answer_has_its_consequences() {
    let stage = Stage::new().await;
    check(&stage, stage.env.clone()).await;
}

#[tokio::test]
async fn every_answer_has_the_same_consequences_and_every_request_a_place_where_there_is_a_budget() {
    let stage = Stage::new().await;
    check(&stage, stage.env.clone().with("NOTIFICATION_ROBOT_RATE", "18/60s")).await;
}

#[tokio::test]
async fn where_the_platform_blocks_this_address_every_robot_rests_and_no_retry_is_used() {
    let stage = Stage::new().await;
    let _postbell = stage.run();
    let [one, other] = ["one", "other"].map(|token| stage.robot.webhook(token));
    let publish = async |target: &str| stage.publish_to(target, "plain", json!({"text": "a message"})).await;
    let mut ids = vec![publish("default").await, publish(&one).await, publish(&other).await];
    stage.settled().await;

    let firewall = [
        r#"{"status":1111,"wait":5,"source":"x5","punish":"deny","uuid":"x"}"#,
        "<script>location='/_____tmd_____/punish?x5secdata=1'</script>",
    ];
    for answer in firewall {
        let before = stage.robot.requests().len();
        stage.robot.script([body(answer).robot("one")]);
        ids.push(publish(&one).await);
        let resting = "select count(*) from notification_robots
            where cool_until between now() + interval '285 s' and now() + interval '300 s'
              and cool_reason like 'platform: calls from this address are blocked%'";
        eventually(SOON, "all robots to rest", async || {
            (stage.world.client().query_one(resting, &[]).await.unwrap().get::<_, i64>(0) == 3).then_some(())
        })
        .await;
        ids.extend([publish("default").await, publish(&other).await]);
        eventually(SOON, "all events to wait", async || {
            let waiting = "select count(*) from notification_events where waiting_since is not null";
            (stage.world.client().query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 3).then_some(())
        })
        .await;
        assert_eq!(stage.robot.requests().len(), before + 1);

        let rows = stage.world.client().query("select name from notification_robots", &[]).await.unwrap();
        for row in rows {
            resume(&stage, row.get(0)).await;
        }
        stage.settled().await;
    }
    stage.assert_arrived_once(&ids, 0);
    for id in ids {
        assert_eq!(stage.column::<i32>(id, "retry_count").await, 0);
    }
}

#[tokio::test]
async fn where_no_place_is_left_for_the_message_without_its_links_the_event_is_retried_when_there_is() {
    let window = Duration::from_secs(4);
    let stage = Stage::with(Settings { rate: Some((3, window)), ..Settings::default() }).await;
    stage.robot.script([errcode(430101, "unsafe link").containing(LINK).forever()]);
    let env = stage.env.clone().with("NOTIFICATION_ROBOT_RATE", "3/4s").with("NOTIFICATION_ROBOT_URGENT_RESERVE", "0");
    // One transaction, and so one admission, which takes all places.
    let insert = "insert into notification_events (event_type, payload)
        select case n when 3 then 'card' else 'plain' end, jsonb_build_object('text', 'number ' || n, 'url', $1::text)
        from generate_series(1, 3) n returning id";
    let ids: Vec<Uuid> =
        stage.world.client().query(insert, &[&LINK]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let _postbell = Postbell::start(&["run"], &env.with("NOTIFICATION_SEND_LEASE", "10s"));
    stage.settled().await;

    let error: String = stage.column(ids[2], "last_error").await;
    assert!(error.contains("unsafe") && error.contains("no place for another try"), "{error}");
    assert_eq!(stage.column::<String>(ids[2], "status").await, "delivered");
    // It was refused, so it uses one: else it could go round for ever.
    assert!(stage.column::<i32>(ids[2], "retry_count").await >= 1);
    let messages = stage.robot.messages();
    assert_eq!((messages.len(), messages[2].links.len()), (3, 0));
    assert!(stage.robot.max_in_any_window(window) <= 3);
    let over_the_rate = stage.robot.requests().into_iter().filter(|request| request.errcode == Some(410100)).count();
    assert_eq!(over_the_rate, 0);
}
