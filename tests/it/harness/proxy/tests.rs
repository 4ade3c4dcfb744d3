//! The proxy against real servers.

use std::time::Instant;

use redis::AsyncCommands;
use redis::streams::{StreamReadOptions, StreamReadReply};
use tokio_postgres::{Client, NoTls};

use super::*;
use crate::harness::servers::{Database, Postgres, Redis, connect, connect_redis};

const TAKE: &str = "-- take: as the consumer does\nupdate t set n = n + 1";

/// A table of one row with n = 0, a direct connection, and one through a proxy.
async fn postgres() -> (Database, Proxy, Client, Client) {
    let server = Postgres::shared().await;
    let database = server.database().await;
    let proxy = Proxy::start(Protocol::Postgres, server.address()).await;
    let direct = database.client().await;
    direct.batch_execute("create table t as select 0 as n").await.unwrap();
    let proxied = connect(&database.url_through(&proxy.address())).await;
    (database, proxy, direct, proxied)
}

async fn n(direct: &Client) -> i32 {
    direct.query_one("select n from t", &[]).await.unwrap().get(0)
}

async fn redis() -> (Redis, Proxy, redis::aio::MultiplexedConnection) {
    let server = Redis::start().await;
    let proxy = Proxy::start(Protocol::Redis, server.address()).await;
    let proxied = connect_redis(&format!("redis://{}", proxy.address())).await;
    (server, proxy, proxied)
}

#[tokio::test]
async fn a_trap_before_a_request_keeps_it_from_the_server() {
    let (_database, proxy, direct, proxied) = postgres().await;
    let take = proxied.prepare(TAKE).await.unwrap();
    let trap = proxy.at("take", 2, Where::BeforeRequest);
    proxied.execute(&take, &[]).await.unwrap();
    assert!(!trap.has_sprung());
    let second = tokio::spawn(async move { proxied.execute(&take, &[]).await });
    trap.sprung().await;
    assert_eq!(n(&direct).await, 1);
    trap.cut();
    assert!(second.await.unwrap().is_err());
    assert_eq!(n(&direct).await, 1);
}

#[tokio::test]
async fn a_client_that_dies_in_a_trap_takes_its_request_with_it() {
    let (database, proxy, direct, _proxied) = postgres().await;
    let url = database.url_through(&proxy.address());
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let pid: i32 = client.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let trap = proxy.at("take", 1, Where::BeforeRequest);
    tokio::spawn(async move { client.execute(TAKE, &[]).await });
    trap.sprung().await;
    connection.abort();
    let is_gone = "select not exists (select from pg_stat_activity where pid = $1)";
    eventually(SOON, "the server to hear of it", async || {
        direct.query_one(is_gone, &[&pid]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    trap.release();
    assert_eq!(n(&direct).await, 0);
}

#[tokio::test]
async fn a_trap_after_a_reply_keeps_the_client_from_knowing() {
    let (_database, proxy, direct, proxied) = postgres().await;
    let trap = proxy.at("take", 1, Where::AfterReply);
    let first = tokio::spawn(async move { proxied.execute(TAKE, &[]).await });
    trap.sprung().await;
    assert_eq!(n(&direct).await, 1);
    assert!(!first.is_finished());
    trap.release();
    assert_eq!(first.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn a_step_that_failed_and_another_step_spring_no_trap() {
    let (_database, proxy, direct, proxied) = postgres().await;
    let trap = proxy.at("take", 1, Where::AfterReply);
    assert!(proxied.execute("-- take: fails\nselect 1 / (n - n) from t", &[]).await.is_err());
    proxied.execute("-- record: another\nupdate t set n = 5", &[]).await.unwrap();
    proxied.batch_execute("begin; update t set n = n + 1; commit").await.unwrap();
    assert!(!trap.has_sprung());
    proxied.batch_execute("-- ping: \nselect 1").await.unwrap();
    assert_eq!(n(&direct).await, 6);
}

#[tokio::test]
async fn a_cut_connection_is_gone_and_the_next_one_passes() {
    let (database, proxy, _direct, proxied) = postgres().await;
    proxy.cut();
    assert!(proxied.simple_query("select 1").await.is_err());
    let url = database.url_through(&proxy.address());
    proxy.refuse().await;
    assert!(tokio_postgres::connect(&url, NoTls).await.is_err());
    proxy.accept().await;
    connect(&url).await.simple_query("select 1").await.unwrap();
}

#[tokio::test]
async fn a_stalled_proxy_loses_nothing() {
    let (_database, proxy, direct, proxied) = postgres().await;
    proxy.stall();
    let first = tokio::spawn(async move { proxied.execute(TAKE, &[]).await });
    direct.simple_query("select pg_sleep(0.05)").await.unwrap();
    assert_eq!(n(&direct).await, 0);
    proxy.resume();
    assert_eq!(first.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn a_delay_is_felt_in_both_directions() {
    let (_server, proxy, mut proxied) = redis().await;
    proxy.delay(Duration::from_millis(50));
    let start = Instant::now();
    let (): () = proxied.set("a", 1).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn a_delay_costs_no_bandwidth() {
    let (_database, proxy, _direct, proxied) = postgres().await;
    proxy.delay(Duration::from_millis(20));
    let start = Instant::now();
    let rows = proxied.query("select repeat('x', 100) from generate_series(1, 2000)", &[]).await.unwrap();
    assert_eq!(rows.len(), 2000);
    assert!(start.elapsed() < Duration::from_secs(2), "it took {:?}", start.elapsed());
}

#[tokio::test]
async fn a_trap_inside_a_pipeline_lets_pass_what_stands_before_it() {
    let (server, proxy, mut proxied) = redis().await;
    let trap = proxy.at("XADD events", 2, Where::BeforeRequest);
    let pipeline = tokio::spawn(async move {
        let mut pipeline = redis::pipe();
        for key in ["other", "events", "events", "events"] {
            pipeline.xadd(key, "*", &[("a", "b")]);
        }
        pipeline.exec_async(&mut proxied).await
    });
    trap.sprung().await;
    let length: usize = eventually(SOON, "the first entry", async || {
        server.client().await.xlen("events").await.ok().filter(|length| *length > 0)
    })
    .await;
    assert_eq!(length, 1);
    trap.release();
    pipeline.await.unwrap().unwrap();
    let length: usize = server.client().await.xlen("events").await.unwrap();
    assert_eq!(length, 3);
}

#[tokio::test]
async fn a_blocking_read_springs_its_trap_only_with_entries() {
    let (server, proxy, mut proxied) = redis().await;
    let mut direct = server.client().await;
    let (): () = direct.xgroup_create_mkstream("events", "g", "0").await.unwrap();
    let options = StreamReadOptions::default().group("g", "c").block(20);
    let trap = proxy.at("XREADGROUP", 1, Where::AfterReply);
    let empty: Option<StreamReadReply> = proxied.xread_options(&["events"], &[">"], &options).await.unwrap();
    assert!(empty.is_none_or(|reply| reply.keys.is_empty()));
    assert!(!trap.has_sprung());

    let reader = tokio::spawn(async move {
        let options = StreamReadOptions::default().group("g", "c").block(20_000);
        proxied.xread_options::<_, _, StreamReadReply>(&["events"], &[">"], &options).await
    });
    let (): () = direct.xadd("events", "*", &[("a", "b")]).await.unwrap();
    trap.sprung().await;
    let pending: redis::streams::StreamPendingReply = direct.xpending("events", "g").await.unwrap();
    assert_eq!(pending.count(), 1);
    assert!(!reader.is_finished());
    trap.release();
    assert_eq!(reader.await.unwrap().unwrap().keys[0].ids.len(), 1);
}
