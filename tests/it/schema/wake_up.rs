//! Waking the relay: the advisory lock and the notification.

use tokio::sync::mpsc::UnboundedReceiver;
use tokio_postgres::{Client, Notification};

use super::{database, one, refused};
use crate::harness::servers::{Database, connect_listening};

const LOCK: &str = "select pg_try_advisory_lock(8101821198367026284)";
const UNLOCK: &str = "select pg_advisory_unlock(8101821198367026284)";
const INSERT: &str = "insert into notification_events (event_type, payload) values ('a', '{}')";
const ISOLATIONS: [&str; 3] = ["read committed", "repeatable read", "serializable"];

/// A connection that listens as the relay does, on a lock that it may hold.
struct Relay {
    client: Client,
    notifications: UnboundedReceiver<Notification>,
}

impl Relay {
    async fn new(database: &Database) -> Relay {
        let (client, notifications) = connect_listening(&database.url()).await;
        client.batch_execute("listen notification_events; listen sentinel").await.unwrap();
        Relay { client, notifications }
    }

    /// How many notifications have come. What has committed before the sentinel arrives before it.
    async fn woken(&mut self) -> usize {
        self.client.batch_execute("notify sentinel").await.unwrap();
        let mut count = 0;
        while let Some(notification) = self.notifications.recv().await {
            if notification.channel() == "sentinel" {
                return count;
            }
            count += 1;
        }
        panic!("the connection of the relay is gone");
    }
}

/// Modes of the locks that others than the relay hold on the key.
async fn locks(relay: &Relay) -> String {
    let locks =
        "select coalesce(string_agg(mode, ' '), 'none') from pg_locks l join pg_database d on d.oid = l.database
        where datname = current_database() and locktype = 'advisory' and pid <> pg_backend_pid() and granted
          and (classid::bigint << 32) + objid::bigint = 8101821198367026284 and objsubid = 1";
    one(&relay.client, locks).await
}

#[tokio::test]
async fn an_insert_notifies_exactly_while_a_relay_sleeps() {
    let (database, client) = database().await;
    let mut relay = Relay::new(&database).await;
    for isolation in ISOLATIONS {
        let insert = format!("begin isolation level {isolation}; {INSERT}; {INSERT}; commit");
        client.batch_execute(&insert).await.unwrap();
        assert_eq!(relay.woken().await, 0, "awake, {isolation}");

        assert_eq!(one(&relay.client, LOCK).await, "true");
        client.batch_execute(&insert).await.unwrap();
        assert_eq!(relay.woken().await, 1, "asleep, {isolation}");
        client.batch_execute(&insert.replace("; commit", "; rollback")).await.unwrap();
        assert_eq!(relay.woken().await, 0, "rolled back, {isolation}");

        assert_eq!(one(&relay.client, UNLOCK).await, "true");
        client.batch_execute(&insert).await.unwrap();
        assert_eq!(relay.woken().await, 0, "awake again, {isolation}");
    }
}

#[tokio::test]
async fn no_relay_falls_asleep_before_an_insert_that_did_not_notify_has_ended() {
    let (database, client) = database().await;
    let relay = Relay::new(&database).await;
    for isolation in ISOLATIONS {
        for end in ["commit", "rollback"] {
            client.batch_execute(&format!("begin isolation level {isolation}; {INSERT}")).await.unwrap();
            assert_eq!(locks(&relay).await, "ShareLock", "{isolation}");
            assert_eq!(one(&relay.client, LOCK).await, "false", "{isolation}");
            client.batch_execute(end).await.unwrap();
            assert_eq!(locks(&relay).await, "none", "{isolation}");
            assert_eq!(one(&relay.client, LOCK).await, "true", "{isolation}");
            assert_eq!(one(&relay.client, UNLOCK).await, "true", "{isolation}");
        }
    }
}

#[tokio::test]
async fn a_snapshot_older_than_the_sleep_notifies_all_the_same() {
    let (database, client) = database().await;
    let mut relay = Relay::new(&database).await;
    for isolation in ISOLATIONS {
        let look = format!("begin isolation level {isolation}; select count(*) from notification_events");
        client.batch_execute(&look).await.unwrap();
        assert_eq!(one(&relay.client, LOCK).await, "true");
        client.batch_execute(&format!("{INSERT}; commit")).await.unwrap();
        assert_eq!(relay.woken().await, 1, "{isolation}");
        assert_eq!(one(&relay.client, UNLOCK).await, "true");
    }
}

#[tokio::test]
async fn whatever_makes_an_event_due_wakes_the_relay() {
    let (database, client) = database().await;
    let id = one(&client, "select notification_publish('a', '{}')").await;
    let mut relay = Relay::new(&database).await;
    assert_eq!(one(&relay.client, LOCK).await, "true");
    for statement in [
        format!("select notification_reschedule('{id}', now())"),
        format!("select notification_cancel('{id}'); select notification_replay('{id}')"),
        "select notification_publish('b', '{}', 'key')".to_owned(),
        "copy (select 1) to '/dev/null'; insert into notification_events (event_type, payload)
            select 'a', '{}' from generate_series(1, 100)"
            .to_owned(),
    ] {
        client.batch_execute(&statement).await.unwrap();
        assert_eq!(relay.woken().await, 1, "{statement}");
    }
}

#[tokio::test]
async fn two_sleeping_relays_know_of_each_other() {
    let (database, client) = database().await;
    let sql = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/queries/try_sleep.sql")).unwrap();
    let (first, second) = (Relay::new(&database).await, Relay::new(&database).await);
    let try_sleep = async |relay: &Relay| {
        let row = relay.client.query_one(&sql, &[&8_101_821_198_367_026_284_i64]).await.unwrap();
        (row.get::<_, bool>("taken"), row.get::<_, bool>("another_relay_sleeps"))
    };
    client.batch_execute(&format!("begin; {INSERT}")).await.unwrap();
    assert_eq!(try_sleep(&first).await, (false, false));
    client.batch_execute("commit").await.unwrap();
    assert_eq!(try_sleep(&first).await, (true, false));
    assert_eq!(try_sleep(&second).await, (false, true));
}

#[tokio::test]
async fn a_transaction_that_is_to_be_prepared_turns_notifications_off() {
    let (database, client) = database().await;
    let mut relay = Relay::new(&database).await;
    assert_eq!(one(&relay.client, LOCK).await, "true");
    let name = format!("postbell_{:016x}", fastrand::u64(..));
    let refusal = refused(&client, &format!("begin; {INSERT}; prepare transaction '{name}'")).await;
    assert!(refusal.contains("NOTIFY"), "{refusal}");
    client.batch_execute("rollback").await.unwrap();

    client
        .batch_execute(&format!("begin; set local postbell.notify = off; {INSERT}; prepare transaction '{name}'"))
        .await
        .unwrap();
    assert_eq!(locks(&relay).await, "none");
    client.batch_execute(&format!("commit prepared '{name}'")).await.unwrap();
    assert_eq!(one(&client, "select count(*) from notification_events").await, "1");
    assert_eq!(relay.woken().await, 0);
    // It was for that transaction only.
    client.batch_execute(INSERT).await.unwrap();
    assert_eq!(relay.woken().await, 1);
}
