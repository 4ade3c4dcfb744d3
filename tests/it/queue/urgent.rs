//! The urgent lane beside the other.

use super::*;

fn urgent(ids: std::ops::RangeInclusive<u128>) -> Vec<Message> {
    ids.map(|n| Message { urgent: true, ..message(Uuid::from_u128(n)) }).collect()
}

fn order(hints: &[Hint]) -> Vec<u128> {
    hints.iter().map(|hint| hint.event_id.as_u128()).collect()
}

#[tokio::test]
async fn an_urgent_hint_overtakes_five_thousand_others_and_finds_room_where_they_find_none() {
    let redis = Redis::start().await;
    let queue = connect(&redis.url(), &["--stream-max-len", "5000"]);
    queue.publish(Topic::Hints, &[]).await.unwrap();
    let full = queue.publish(Topic::Hints, &messages(Lane::Normal, 5_000)).await.unwrap();
    assert_eq!((full.room.normal, full.room.urgent), (0, 5_000));
    assert_eq!(queue.receive(2, WAIT).await.unwrap().hints.len(), 2, "others were being received");
    let published = queue.publish(Topic::Hints, &urgent(9_001..=9_003)).await.unwrap();
    assert_eq!(published.refused, [None, None, None]);
    assert_eq!((published.room.normal, published.room.urgent), (0, 4_997));
    assert_eq!(order(&receive(&queue, 3).await), [9_001, 9_002, 9_003]);
    assert_eq!(queue.depth().await.unwrap(), 5_003);
}

#[tokio::test]
async fn a_consumer_that_waits_is_woken_by_either_lane() {
    let redis = Redis::start().await;
    let queue = connect(&redis.url(), &[]);
    queue.publish(Topic::Hints, &[]).await.unwrap();
    for lane in Lane::ALL {
        let waiting = queue.receive(1, SOON);
        let publishing = async {
            let relay = connect(&redis.url(), &[]);
            eventually(SOON, "the consumer to wait", async || {
                let clients: String =
                    ::redis::cmd("INFO").arg("clients").query_async(&mut redis.client().await).await.unwrap();
                clients.contains("blocked_clients:1").then_some(())
            })
            .await;
            relay.publish(Topic::Hints, &messages(lane, 1)).await.unwrap();
        };
        let (received, ()) = tokio::join!(waiting, publishing);
        let hints = received.unwrap().hints;
        assert_eq!(hints.iter().map(|hint| hint.receipt.lane).collect::<Vec<_>>(), [lane]);
        queue.ack(&receipts(&hints)).await.unwrap();
    }
}

#[tokio::test]
async fn what_was_read_beyond_what_was_asked_for_is_kept_and_survives_a_reconnect() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(Protocol::Redis, redis.address()).await;
    let queue = connect(&format!("redis://{}", proxy.address()), &[]);
    queue.publish(Topic::Hints, &[]).await.unwrap();
    queue.receive(1, WAIT).await.unwrap();
    for cut in [false, true] {
        // Both lanes fill between the look at the urgent one and the read of both.
        let trap = proxy.at("XREADGROUP BLOCK", 1, crate::harness::proxy::Where::BeforeRequest);
        let (received, ()) = tokio::join!(queue.receive(2, WAIT), async {
            trap.sprung().await;
            let relay = connect(&redis.url(), &[]);
            relay.publish(Topic::Hints, &messages(Lane::Normal, 2)).await.unwrap();
            relay.publish(Topic::Hints, &urgent(11..=12)).await.unwrap();
            trap.release();
        });
        let hints = received.unwrap().hints;
        assert_eq!(order(&hints), [11, 12]);
        queue.ack(&receipts(&hints)).await.unwrap();
        connect(&redis.url(), &[]).publish(Topic::Hints, &urgent(13..=13)).await.unwrap();
        if cut {
            proxy.cut();
        }
        // The first use of a connection that was cut fails.
        let deadline = tokio::time::Instant::now() + SOON;
        let mut rest = Vec::new();
        while rest.len() < 3 {
            assert!(tokio::time::Instant::now() < deadline, "received {rest:?} only");
            rest.extend(queue.receive(2, WAIT).await.map(|received| received.hints).unwrap_or_default());
        }
        assert_eq!(order(&rest), [13, 1, 2]);
        eventually(SOON, "the hints to be acknowledged", async || queue.ack(&receipts(&rest)).await.ok()).await;
        assert_eq!(queue.depth().await.unwrap(), 0);
    }
}

#[tokio::test]
async fn one_stream_that_is_deleted_is_made_again_and_costs_the_other_nothing() {
    let redis = Redis::start().await;
    for (gone, other) in [(Lane::Urgent, Lane::Normal), (Lane::Normal, Lane::Urgent)] {
        let queue = connect(&redis.url(), &[]);
        queue.publish(Topic::Hints, &[]).await.unwrap();
        queue.receive(1, WAIT).await.unwrap();
        let _: () = ::redis::cmd("DEL").arg(stream(gone)).query_async(&mut redis.client().await).await.unwrap();
        let mixed = [&messages(gone, 1)[..], &messages(other, 1)].concat();
        let published = queue.publish(Topic::Hints, &mixed).await.unwrap();
        assert_eq!(published.refused.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false]);
        assert!(published.hints_lost.is_some());
        queue.publish(Topic::Hints, &messages(gone, 1)).await.unwrap();
        let hints = receive(&queue, 2).await;
        queue.ack(&receipts(&hints)).await.unwrap();

        // The same, noticed by a consumer that is waiting.
        let (received, ()) = tokio::join!(queue.receive(1, Duration::from_secs(1)), async {
            let _: () = ::redis::cmd("DEL").arg(stream(gone)).query_async(&mut redis.client().await).await.unwrap();
        });
        if received.unwrap().hints_lost.is_none() {
            eventually(SOON, "the loss to be reported", async || {
                queue.receive(1, WAIT).await.unwrap().hints_lost.map(drop)
            })
            .await;
        }
    }
}

#[tokio::test]
async fn who_leaves_leaves_both_groups_but_for_one_where_something_is_pending() {
    let redis = Redis::start().await;
    let queue = connect(&redis.url(), &[]);
    queue.publish(Topic::Hints, &[]).await.unwrap();
    queue.publish(Topic::Hints, &[messages(Lane::Normal, 1), urgent(2..=2)].concat()).await.unwrap();
    let hints = receive(&queue, 2).await;
    queue.ack(&receipts(&hints[..1])).await.unwrap();
    queue.leave().await;
    let mut members = Vec::new();
    for lane in Lane::ALL {
        let consumers: Vec<::redis::Value> = ::redis::cmd("XINFO")
            .arg("CONSUMERS")
            .arg(stream(lane))
            .arg("postbell")
            .query_async(&mut redis.client().await)
            .await
            .unwrap();
        members.push(consumers.len());
    }
    assert_eq!(hints[0].receipt.lane, Lane::Urgent);
    assert_eq!(members, [0, 1]);
}

#[tokio::test]
async fn a_person_who_looks_into_the_stream_sees_that_a_hint_is_urgent() {
    let redis = Redis::start().await;
    let queue = connect(&redis.url(), &[]);
    queue.publish(Topic::Hints, &[]).await.unwrap();
    for lane in Lane::ALL {
        queue.publish(Topic::Hints, &messages(lane, 1)).await.unwrap();
        let entries: Vec<(String, std::collections::BTreeMap<String, String>)> = ::redis::cmd("XRANGE")
            .arg(stream(lane))
            .arg("-")
            .arg("+")
            .query_async(&mut redis.client().await)
            .await
            .unwrap();
        assert_eq!(entries[0].1.get("urgent").map(String::as_str), (lane == Lane::Urgent).then_some("1"));
    }
}
