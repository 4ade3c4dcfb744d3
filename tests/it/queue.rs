//! What any queue must do (`contract`), and what Redis Streams must do beside, in both lanes.

mod urgent;

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Parser as _;
use postbell::config;
use postbell::queue::redis::RedisQueue;
use postbell::queue::{Hint, Lane, MAX_PAYLOAD, Message, Published, Queue, Receipt, Topic};
use uuid::Uuid;

use crate::harness::proxy::Proxy;
use crate::harness::servers::Redis;
use crate::harness::wire::Protocol;
use crate::harness::{SOON, eventually};

/// How long a consumer may keep a hint before it comes to another.
const SEND_LEASE: Duration = Duration::from_millis(300);
const WAIT: Duration = Duration::from_millis(50);

#[derive(clap::Parser)]
struct Settings {
    #[command(flatten)]
    queue: config::Queue,
}

fn connect(url: &str, extra: &[&str]) -> RedisQueue {
    let arguments = ["test", "--redis-url", url].into_iter().chain(extra.iter().copied());
    RedisQueue::new(&Settings::try_parse_from(arguments).unwrap().queue, SEND_LEASE).unwrap()
}

fn message(event_id: Uuid) -> Message {
    Message {
        event_id,
        event_type: "resume.parsed".into(),
        channel: "dingtalk".into(),
        target: "default".into(),
        template_id: "resume.parsed".into(),
        payload: Some(r#"{"name": "张三"}"#.into()),
        trace_id: Some("trace".into()),
        retry_count: 0,
        attempt: 0,
        replay_count: 0,
        urgent: false,
        last_error: None,
    }
}

/// Messages 1 to `count`.
fn messages(lane: Lane, count: u128) -> Vec<Message> {
    let urgent = lane == Lane::Urgent;
    (1..=count).map(|n| Message { urgent, ..message(Uuid::from_u128(n)) }).collect()
}

/// The key of a stream of hints.
fn stream(lane: Lane) -> &'static str {
    match lane {
        Lane::Urgent => "notification:events:urgent",
        Lane::Normal => "notification:events",
    }
}

/// How many more hints fit into a lane.
fn room(published: &Published, lane: Lane) -> usize {
    match lane {
        Lane::Urgent => published.room.urgent,
        Lane::Normal => published.room.normal,
    }
}

async fn length(redis: &Redis, stream: &str) -> usize {
    ::redis::cmd("XLEN").arg(stream).query_async(&mut redis.client().await).await.unwrap()
}

fn ids(hints: &[Hint]) -> BTreeSet<Uuid> {
    hints.iter().map(|hint| hint.event_id).collect()
}

fn receipts(hints: &[Hint]) -> Vec<Receipt> {
    hints.iter().map(|hint| hint.receipt.clone()).collect()
}

/// Receives until there are so many.
async fn receive(queue: &impl Queue, count: usize) -> Vec<Hint> {
    let mut hints = Vec::new();
    let deadline = tokio::time::Instant::now() + SOON;
    while hints.len() < count {
        assert!(tokio::time::Instant::now() < deadline, "received {} of {count} hints", hints.len());
        hints.extend(queue.receive(count - hints.len(), WAIT).await.unwrap().hints);
    }
    hints
}

/// What any queue promises of each lane; `connect` makes another client of the same empty queue.
async fn contract<Q: Queue>(lane: Lane, connect: impl Fn() -> Q) {
    let (relay, one, other) = (connect(), connect(), connect());
    let ask = async || relay.publish(Topic::Hints, &[]).await.unwrap();

    // A fresh queue may have lost anything, and says so once.
    assert!(ask().await.hints_lost.is_some());
    assert_eq!(ask().await.hints_lost, None);

    // Every message is accepted for itself, and room is told, of each lane.
    let before = ask().await;
    let published = relay.publish(Topic::Hints, &messages(lane, 10)).await.unwrap();
    assert_eq!(published.refused, vec![None; 10]);
    for other in Lane::ALL {
        assert_eq!(room(&published, other), room(&before, other) - if other == lane { 10 } else { 0 });
    }

    // No more than asked for, in order, to one consumer only.
    let first = one.receive(4, WAIT).await.unwrap().hints;
    assert_eq!(ids(&first), (1..=4).map(Uuid::from_u128).collect());
    let rest = receive(&other, 6).await;
    assert_eq!(ids(&rest), (5..=10).map(Uuid::from_u128).collect());
    one.ack(&receipts(&first)).await.unwrap();
    assert_eq!(room(&ask().await, lane), room(&before, lane) - 6, "what is acknowledged makes room");

    // What was not acknowledged comes again, to whoever asks.
    let again = receive(&one, 6).await;
    assert_eq!(ids(&again), ids(&rest));
    one.ack(&receipts(&again)).await.unwrap();
    // Acknowledging twice, or by the receipts of somebody who was too late, harms nothing.
    other.ack(&receipts(&rest)).await.unwrap();
    assert_eq!(ask().await.room, before.room);

    // Nothing there: it waits, and has nothing.
    let waited = tokio::time::Instant::now();
    assert_eq!(one.receive(5, WAIT).await.unwrap().hints, []);
    assert!(waited.elapsed() >= WAIT);

    // Urgent ones overtake the others, all the way and never beyond what is asked for; none is lost for it.
    relay.publish(Topic::Hints, &messages(Lane::Normal, 5)).await.unwrap();
    let urgent = (6..=9).map(|n| Message { urgent: true, ..message(Uuid::from_u128(n)) });
    relay.publish(Topic::Hints, &urgent.collect::<Vec<_>>()).await.unwrap();
    let mut received = Vec::new();
    while received.len() < 9 {
        let hints = one.receive(2, WAIT).await.unwrap().hints;
        assert!((1..=2).contains(&hints.len()), "{hints:?}");
        received.extend(hints);
    }
    let order: Vec<u128> = received.iter().map(|hint| hint.event_id.as_u128()).collect();
    assert_eq!(order, [6, 7, 8, 9, 1, 2, 3, 4, 5]);
    one.ack(&receipts(&received)).await.unwrap();
    assert_eq!(ask().await.room, before.room);

    // Dead letters go elsewhere.
    assert_eq!(relay.publish(Topic::DeadLetters, &messages(lane, 2)).await.unwrap().refused, [None, None]);
    assert_eq!(one.receive(5, WAIT).await.unwrap().hints, []);
}

/// Runs a test in each lane, on a server of its own.
async fn in_each_lane(test: impl AsyncFn(Redis, Lane)) {
    for lane in Lane::ALL {
        test(Redis::start().await, lane).await;
    }
}

#[tokio::test]
async fn redis_streams_keep_the_contract() {
    in_each_lane(async |redis, lane| contract(lane, || connect(&redis.url(), &[])).await).await;
}

#[tokio::test]
async fn a_flushed_stream_is_made_again_and_reported_by_the_reader() {
    in_each_lane(async |redis, lane| {
        let queue = connect(&redis.url(), &[]);
        queue.publish(Topic::Hints, &messages(lane, 3)).await.unwrap();
        receive(&queue, 1).await;
        redis.flushall().await;
        let reported = eventually(SOON, "the loss to be reported", async || {
            queue.receive(1, WAIT).await.unwrap().hints_lost.map(drop)
        });
        reported.await;
        queue.publish(Topic::Hints, &messages(lane, 1)).await.unwrap();
        assert_eq!(ids(&receive(&queue, 1).await), BTreeSet::from([Uuid::from_u128(1)]));
    })
    .await;
}

#[tokio::test]
async fn a_hint_for_a_flushed_stream_is_refused_and_not_added_beside_its_group() {
    in_each_lane(async |redis, lane| {
        let queue = connect(&redis.url(), &[]);
        queue.publish(Topic::Hints, &[]).await.unwrap();
        redis.flushall().await;
        let published = queue.publish(Topic::Hints, &messages(lane, 2)).await.unwrap();
        assert!(published.hints_lost.is_some());
        assert!(published.refused.iter().all(Option::is_some), "{published:?}");
        assert_eq!(queue.publish(Topic::Hints, &messages(lane, 2)).await.unwrap().refused, [None, None]);
        assert_eq!(receive(&queue, 2).await.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn another_server_at_the_same_address_is_noticed() {
    in_each_lane(async |redis, lane| {
        let queue = connect(&redis.url(), &[]);
        queue.publish(Topic::Hints, &[]).await.unwrap();
        redis.kill().await;
        assert!(queue.publish(Topic::Hints, &messages(lane, 1)).await.is_err());
        redis.restart_empty().await;
        // Somebody else has made the group already: only the server's run_id tells.
        connect(&redis.url(), &[]).publish(Topic::Hints, &[]).await.unwrap();
        let noticed = eventually(SOON, "the other server to be noticed", async || {
            queue.publish(Topic::Hints, &[]).await.ok()?.hints_lost.map(drop)
        });
        noticed.await;
    })
    .await;
}

#[tokio::test]
async fn a_full_stream_has_no_room_and_dead_letters_are_trimmed_instead() {
    in_each_lane(async |redis, lane| {
        let queue = connect(&redis.url(), &["--stream-max-len", "3"]);
        queue.publish(Topic::Hints, &[]).await.unwrap();
        assert_eq!(room(&queue.publish(Topic::Hints, &messages(lane, 2)).await.unwrap(), lane), 1);
        let published = queue.publish(Topic::Hints, &messages(lane, 2)).await.unwrap();
        for other in Lane::ALL {
            assert_eq!(room(&published, other), if other == lane { 0 } else { 3 });
        }
        for _ in 0..5 {
            assert_eq!(queue.publish(Topic::DeadLetters, &messages(lane, 100)).await.unwrap().refused, vec![None; 100]);
        }
        let length = length(&redis, "notification:deadletter").await;
        assert!(length < 300, "the dead-letter stream grew to {length} entries");
    })
    .await;
}

#[tokio::test]
async fn entries_of_strangers_are_dropped_and_take_no_hint_with_them() {
    in_each_lane(async |redis, lane| {
        let queue = connect(&redis.url(), &[]);
        queue.publish(Topic::Hints, &[]).await.unwrap();
        let mut client = redis.client().await;
        for fields in [["event_id", "nonsense"], ["hello", "world"], ["event_id", "\u{0}"]] {
            let _: String =
                ::redis::cmd("XADD").arg(stream(lane)).arg("*").arg(&fields).query_async(&mut client).await.unwrap();
        }
        queue.publish(Topic::Hints, &messages(lane, 1)).await.unwrap();
        let hints = receive(&queue, 1).await;
        queue.ack(&receipts(&hints)).await.unwrap();
        assert_eq!(length(&redis, stream(lane)).await, 0);
    })
    .await;
}

/// Adds an entry with the last id there can be: Redis adds none behind it.
async fn use_up_ids(redis: &Redis, stream: &str) {
    let last = format!("{0}-{0}", u64::MAX);
    let mut client = redis.client().await;
    let _: String = ::redis::cmd("XADD").arg(stream).arg(last).arg(&["a", "b"]).query_async(&mut client).await.unwrap();
}

#[tokio::test]
async fn a_stream_whose_ids_a_stranger_has_used_up_is_made_again() {
    in_each_lane(async |redis, lane| {
        let queue = connect(&redis.url(), &[]);
        queue.publish(Topic::Hints, &[]).await.unwrap();
        for received in [false, true] {
            use_up_ids(&redis, stream(lane)).await;
            if received {
                // The stranger's entry is gone, and its id is still the last.
                let gone = eventually(SOON, "the entry to be dropped", async || {
                    queue.receive(1, WAIT).await.unwrap();
                    (length(&redis, stream(lane)).await == 0).then_some(())
                });
                gone.await;
            }
            let published = queue.publish(Topic::Hints, &messages(lane, 2)).await.unwrap();
            assert!(published.refused.iter().all(Option::is_some) && published.hints_lost.is_some(), "{published:?}");
            assert_eq!(queue.publish(Topic::Hints, &messages(lane, 2)).await.unwrap().refused, [None, None]);
            queue.ack(&receipts(&receive(&queue, 2).await)).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn dead_letters_find_room_behind_a_strangers_last_id_and_keep_those_before_it() {
    let redis = Redis::start().await;
    let queue = connect(&redis.url(), &[]);
    let letters = messages(Lane::Normal, 2);
    queue.publish(Topic::DeadLetters, &letters).await.unwrap();
    use_up_ids(&redis, "notification:deadletter").await;
    assert!(queue.publish(Topic::DeadLetters, &letters).await.unwrap().refused.iter().all(Option::is_some));
    assert_eq!(queue.publish(Topic::DeadLetters, &letters).await.unwrap().refused, [None, None]);
    assert_eq!(length(&redis, "notification:deadletter").await, 4);
}

#[tokio::test]
async fn dead_letters_and_hints_may_not_share_a_stream() {
    for shared in ["a", "a:urgent"] {
        let arguments = ["test", "--queue-stream", "a", "--dead-letter-stream", shared];
        let refused = RedisQueue::new(&Settings::try_parse_from(arguments).unwrap().queue, SEND_LEASE).err().unwrap();
        assert!(refused.to_string().starts_with("NOTIFICATION_DEAD_LETTER_STREAM (--dead-letter-stream): given"));
    }
}

#[tokio::test]
async fn a_refused_entry_does_not_hide_in_a_successful_pipeline() {
    in_each_lane(async |redis, lane| {
        let queue = connect(&redis.url(), &[]);
        queue.publish(Topic::Hints, &messages(lane, 1)).await.unwrap();
        let mut client = redis.client().await;
        let _: () = ::redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").query_async(&mut client).await.unwrap();
        let published = queue.publish(Topic::Hints, &messages(lane, 2)).await.unwrap();
        assert!(published.refused.iter().flatten().all(|why| why.contains("OOM")), "{published:?}");
        assert_eq!(published.refused.iter().flatten().count(), 2);
    })
    .await;
}

#[tokio::test]
async fn hints_that_were_on_their_way_when_the_connection_broke_come_again_at_once() {
    in_each_lane(async |redis, lane| {
        let proxy = Proxy::start(Protocol::Redis, redis.address()).await;
        let queue = connect(&format!("redis://{}", proxy.address()), &[]);
        queue.publish(Topic::Hints, &[]).await.unwrap();
        queue.receive(1, WAIT).await.unwrap();
        let trap = proxy.at("XREADGROUP", 1, crate::harness::proxy::Where::AfterReply);
        queue.publish(Topic::Hints, &messages(lane, 3)).await.unwrap();
        let (received, ()) = tokio::join!(queue.receive(3, WAIT), async {
            trap.sprung().await;
            trap.cut();
        });
        assert!(received.is_err(), "the reply was cut off");
        assert_eq!(ids(&receive(&queue, 3).await).len(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_person_who_looks_into_the_stream_finds_what_the_hint_is_about() {
    let redis = Redis::start().await;
    let queue = connect(&redis.url(), &[]);
    queue.publish(Topic::Hints, &[]).await.unwrap();
    let large = Message { payload: Some("x".repeat(MAX_PAYLOAD + 1)), ..message(Uuid::from_u128(2)) };
    queue.publish(Topic::Hints, &[message(Uuid::from_u128(1)), large]).await.unwrap();
    let entries: Vec<(String, std::collections::BTreeMap<String, String>)> = ::redis::cmd("XRANGE")
        .arg("notification:events")
        .arg("-")
        .arg("+")
        .query_async(&mut redis.client().await)
        .await
        .unwrap();
    let (small, large) = (&entries[0].1, &entries[1].1);
    assert_eq!(small["event_id"], Uuid::from_u128(1).to_string());
    assert_eq!(small["payload"], r#"{"name": "张三"}"#);
    for field in
        ["event_type", "retry_count", "trace_id", "channel", "target", "template_id", "attempt", "replay_count"]
    {
        assert!(small.contains_key(field), "{field}");
    }
    assert!(!large.contains_key("payload") && large.contains_key("payload_omitted"));
}

#[tokio::test]
async fn a_server_out_of_memory_can_still_be_read_from_and_so_freed() {
    in_each_lane(async |redis, lane| {
        connect(&redis.url(), &[]).publish(Topic::Hints, &[]).await.unwrap();
        connect(&redis.url(), &[]).publish(Topic::Hints, &messages(lane, 5)).await.unwrap();
        let mut client = redis.client().await;
        let _: () = ::redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").query_async(&mut client).await.unwrap();
        let newcomer = connect(&redis.url(), &[]);
        let hints = receive(&newcomer, 5).await;
        newcomer.ack(&receipts(&hints)).await.unwrap();
        assert_eq!(length(&redis, stream(lane)).await, 0);
    })
    .await;
}

#[tokio::test]
async fn replies_are_read_as_resp2_whatever_the_url_asks_for() {
    let redis = Redis::start().await;
    let queue = connect(&format!("{}?protocol=resp3", redis.url()), &[]);
    queue.publish(Topic::Hints, &[]).await.unwrap();
    queue.publish(Topic::Hints, &messages(Lane::Normal, 2)).await.unwrap();
    assert_eq!(receive(&queue, 2).await.len(), 2);
}
