//! What operators call: replay, cancel, reschedule.

use tokio_postgres::Client;

use super::{database, one};

/// Every state in which an event can lie, as the columns that make it.
const STATES: [(&str, &str); 7] = [
    ("pending", "status = 'pending'"),
    ("delivering", "status = 'delivering', sending_until = now() + interval '1 minute'"),
    ("abandoned", "status = 'delivering', sending_until = now() - interval '1 minute'"),
    ("delivered", "status = 'delivered', delivered_at = now(), completed_at = now()"),
    ("failed", "status = 'failed', failed_at = now()"),
    ("buried", "status = 'failed', failed_at = now(), completed_at = now()"),
    ("cancelled", "status = 'cancelled', completed_at = now()"),
];

/// Makes an event of one state and used-up counters, and calls a function with its id.
async fn call(client: &Client, state: &str, function: &str) -> String {
    let (_, columns) = STATES.iter().find(|(name, _)| *name == state).unwrap();
    let id = one(client, "select notification_publish('a', '{}')").await;
    let update = format!(
        "update notification_events set {columns}, retry_count = 3, lost_leases = 2, hinted_until = now() + interval '1 hour'
         where id = '{id}'"
    );
    client.batch_execute(&update).await.unwrap();
    let said = one(client, &format!("select {}", function.replace("$id", &format!("'{id}'")))).await;
    let now = "select concat_ws(' ', status, retry_count, lost_leases, replay_count, completed_at is null, hinted_until is null)
        from notification_events";
    format!("{said} => {}", one(client, &format!("{now} where id = '{id}'")).await)
}

#[tokio::test]
async fn replay_sends_what_has_ended_again_as_a_new_generation() {
    let (_database, client) = database().await;
    for (state, was) in
        [("delivered", "delivered"), ("failed", "failed"), ("buried", "failed"), ("cancelled", "cancelled")]
    {
        let expected = format!("replayed: the event was {was} and is sent again now => pending 0 0 1 t t");
        assert_eq!(call(&client, state, "notification_replay($id)").await, expected, "{state}");
    }
    for (state, is) in [("pending", "pending"), ("delivering", "delivering"), ("abandoned", "delivering")] {
        let expected = format!(
            "unchanged: the event is still {is}; replay is for events that are delivered, failed or cancelled => {is} 3 2 0 t f"
        );
        assert_eq!(call(&client, state, "notification_replay($id)").await, expected, "{state}");
    }
}

#[tokio::test]
async fn cancel_takes_back_what_has_not_ended() {
    let (_database, client) = database().await;
    let cancel = "notification_cancel($id)";
    for state in ["pending", "abandoned"] {
        assert_eq!(call(&client, state, cancel).await, "cancelled => cancelled 3 2 0 f f", "{state}");
    }
    assert_eq!(
        call(&client, "delivering", cancel).await,
        "cancelled: a send was under way; there will be no further one, and if it succeeds the event is recorded as delivered \
         => cancelled 3 2 0 f f"
    );
    for (state, is, open) in [
        ("delivered", "delivered", "f"),
        ("failed", "failed", "t"),
        ("buried", "failed", "f"),
        ("cancelled", "cancelled", "f"),
    ] {
        let expected = format!("unchanged: the event is already {is} => {is} 3 2 0 {open} f");
        assert_eq!(call(&client, state, cancel).await, expected, "{state}");
    }
}

#[tokio::test]
async fn reschedule_moves_what_is_pending() {
    let (_database, client) = database().await;
    let reschedule = "notification_reschedule($id, '2031-05-06 07:08Z')";
    let said = call(&client, "pending", reschedule).await;
    assert!(said.starts_with("rescheduled: from 2"), "{said}");
    assert!(said.ends_with(" to 2031-05-06 07:08:00+00 => pending 3 2 0 t t"), "{said}");
    for state in ["delivering", "abandoned"] {
        let expected = "unchanged: the event is being sent at this moment => delivering 3 2 0 t f";
        assert_eq!(call(&client, state, reschedule).await, expected, "{state}");
    }
    for (state, is, open) in [
        ("delivered", "delivered", "f"),
        ("failed", "failed", "t"),
        ("buried", "failed", "f"),
        ("cancelled", "cancelled", "f"),
    ] {
        let expected =
            format!("unchanged: the event is already {is}; notification_replay sends it again => {is} 3 2 0 {open} f");
        assert_eq!(call(&client, state, reschedule).await, expected, "{state}");
    }
}

#[tokio::test]
async fn a_time_in_the_past_means_now_and_no_time_or_an_endless_one_is_refused() {
    let (_database, client) = database().await;
    let said = call(&client, "pending", "notification_reschedule($id, '2001-01-01Z')").await;
    assert!(said.starts_with("rescheduled: from 2") && !said.contains("2001"), "{said}");
    let said = call(&client, "pending", "notification_reschedule($id, null)").await;
    assert_eq!(said, "unchanged: the new time must not be null => pending 3 2 0 t f");
    let said = call(&client, "pending", "notification_reschedule($id, 'infinity')").await;
    assert_eq!(said, "unchanged: the new time must not be infinite => pending 3 2 0 t f");
    let said = call(&client, "pending", "notification_reschedule($id, '-infinity')").await;
    assert!(said.starts_with("rescheduled: from 2"), "{said}");
}

#[tokio::test]
async fn an_unknown_id_is_said_to_be_unknown() {
    let (_database, client) = database().await;
    for function in ["replay(gen_random_uuid())", "cancel(gen_random_uuid())", "reschedule(gen_random_uuid(), now())"] {
        let said = one(&client, &format!("select notification_{function}")).await;
        assert_eq!(said, "not found: no event has this id", "{function}");
    }
}
