//! The status view.

use super::{database, one};

#[tokio::test]
async fn the_status_view_shows_no_payload_and_no_options() {
    let (_database, client) = database().await;
    client
        .batch_execute(
            r#"insert into notification_events (event_type, payload, options, target)
               values ('a', '{"phone": "SECRET"}', '{"at_mobiles": ["SECRET"]}', 'https://u:SECRET@h/?access_token=SECRET')"#,
        )
        .await
        .unwrap();
    let row = one(&client, "select row_to_json(s) from notification_status s").await;
    assert!(row.contains(r#""target":"https://h/***""#) && !row.contains("SECRET"), "{row}");
}

#[tokio::test]
async fn a_token_is_masked_however_odd_its_url_is() {
    let (_database, client) = database().await;
    let cases = [
        ("default", "default"),
        ("招聘群", "招聘群"),
        ("hr-team.2", "hr-team.2"),
        ("https://oapi.dingtalk.com/robot/send?access_token=SECRET", "https://oapi.dingtalk.com/***"),
        ("HTTPS://oapi.dingtalk.com:443?access_token=SECRET", "HTTPS://oapi.dingtalk.com:443/***"),
        ("https://user:SECRET@host/path", "https://host/***"),
        ("https://user:SEC@RET@host:8443#SECRET", "https://host:8443/***"),
        ("https://SECRET@[::1]:8080/x", "https://[::1]:8080/***"),
        ("https://host#SECRET", "https://host/***"),
        (r"https://host\SECRET", "https://host/***"),
        (r"https://host\@SECRET", "https://host/***"),
        ("https://user:SECRET/x@host/y", "https://user/***"),
        ("https:///SECRET", "https:///***"),
        ("https://host/a\nSECRET", "https://host/***"),
        (" https://host/SECRET", "***"),
        ("ht\ntps://host/SECRET", "***"),
        ("https:host/SECRET", "***"),
        ("https:/host/SECRET", "***"),
        (r"https:\\host\SECRET", "***"),
        ("//host/SECRET", "***"),
        ("oapi.dingtalk.com/robot/send?access_token=SECRET", "***"),
        ("access_token=SECRET", "***"),
        ("c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00", "***"),
        ("SECc0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00", "***"),
        ("693a91f6-7ac1-4bc4-97a0-0ec2f1fa5aaa", "***"),
        ("face-cafe", "face-cafe"),
    ];
    for (target, masked) in cases {
        let row = client.query_one("select notification_mask_target($1)", &[&target]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), masked, "{target:?}");
    }
}

#[tokio::test]
async fn the_detail_says_what_an_event_waits_for() {
    let (_database, client) = database().await;
    let cases = [
        ("status = 'pending'", "due"),
        ("scheduled_at = now() + interval '1 day'", "scheduled"),
        ("scheduled_at = now() + interval '1 minute', retry_count = 2", "waiting for retry 2"),
        ("waiting_since = now(), retry_count = 2", "waiting for its robot"),
        ("status = 'delivering', sending_until = now() + interval '1 minute'", "being sent"),
        (
            "status = 'delivering', sending_until = now() - interval '1 minute'",
            "its consumer is gone; it will be taken over",
        ),
        ("status = 'failed', failed_at = now()", "dead letter to be written"),
        ("status = 'failed', failed_at = now(), completed_at = now()", "dead letter written"),
        ("status = 'delivered', delivered_at = now(), completed_at = now()", "null"),
    ];
    for (columns, detail) in cases {
        let id = one(&client, "select notification_publish('a', '{}')").await;
        client.batch_execute(&format!("update notification_events set {columns} where id = '{id}'")).await.unwrap();
        let said = one(&client, &format!("select detail from notification_status where id = '{id}'")).await;
        assert_eq!(said, detail, "{columns}");
    }
}

#[tokio::test]
async fn every_reason_that_postbell_writes_is_of_a_class() {
    let (_database, client) = database().await;
    for (last_error, class) in [
        ("message: too long; shorten the template or its variables", "message"),
        ("message: unknown target \"ops\" (known: default, or a webhook URL)", "message"),
        ("robot's settings: its webhook cannot be read: env:HR: the variable is not set, or no text", "robot"),
        ("platform: busy; nothing to do but wait; no retry is left after 4 sends", "platform"),
        ("network: nothing was sent: connection refused; no retry is left after 4 sends", "network"),
        ("template notice: variable \"content\" is missing from the payload (line 4)", "template"),
        ("title of template notice: variable \"title\" is missing", "template"),
        ("unknown template \"x\"; the folder has: plain", "template"),
        ("expired: it was to ring before 2026-12-24, and it is 2026-12-25", "expired"),
        (
            "outcome unknown: a consumer stopped while sending this event, and it asks for at most one delivery",
            "unknown_outcome",
        ),
        ("outcome unknown, and it asks for at most one delivery: network: timed out", "unknown_outcome"),
        ("kills its consumer: 3 consumers in a row stopped while they had this event in hand", "kills_its_consumer"),
        ("options cannot be read: invalid type", "unreadable"),
        ("internal error: a task failed", "other"),
    ] {
        let quoted = last_error.replace('\'', "''");
        assert_eq!(one(&client, &format!("select notification_error_class('{quoted}')")).await, class, "{last_error}");
    }
    assert_eq!(one(&client, "select notification_error_class(null)").await, "null");
}
