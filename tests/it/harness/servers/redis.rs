//! A Redis server of the test's own: it keeps nothing on disk, so a restart is a loss of all data.

use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;

use super::{Server, free_port, on_path};

/// A running Redis server.
pub(crate) struct Redis {
    server: Server,
    port: u16,
}

impl Redis {
    /// Starts one; it takes about 30 ms.
    pub(crate) async fn start() -> Redis {
        Redis::with("no").await
    }

    /// A server to measure with: it writes to disk what it is told, once a second.
    #[allow(dead_code, reason = "for the benchmark")]
    pub(crate) async fn measured() -> Redis {
        Redis::with("yes").await
    }

    async fn with(append_only: &str) -> Redis {
        let binary = on_path("redis-server").expect("redis-server is not installed; ops/test installs it");
        for _ in 0..10 {
            let port = free_port();
            let server = Server::new("redis", "KILL", |folder| {
                let folder = folder.to_str().unwrap();
                let (binary, port) = (binary.to_str().unwrap(), port.to_string());
                let always = ["--bind", "127.0.0.1", "--save", "", "--appendonly", append_only, "--dir", folder];
                [binary, "--port", &port].iter().chain(&always).map(ToString::to_string).collect()
            });
            let redis = Redis { server, port };
            if redis.try_start().await {
                return redis;
            }
        }
        panic!("no port is free for Redis");
    }

    /// Ends it without notice.
    pub(crate) async fn kill(&self) {
        self.server.stop("KILL").await;
    }

    /// Starts it again on the same port, without any of its data.
    pub(crate) async fn restart_empty(&self) {
        self.kill().await;
        assert!(self.try_start().await, "port {} was taken while Redis was down", self.port);
    }

    /// Removes all keys, consumer groups with them.
    pub(crate) async fn flushall(&self) {
        redis::cmd("FLUSHALL").exec_async(&mut self.client().await).await.unwrap();
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A connection string.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}/", self.address())
    }

    /// A new connection.
    pub(crate) async fn client(&self) -> MultiplexedConnection {
        connect(&self.url()).await
    }

    async fn try_start(&self) -> bool {
        self.server.start(|log| log.contains("eady to accept connections")).await
    }
}

/// A new connection, with time for blocking reads.
pub(crate) async fn connect(url: &str) -> MultiplexedConnection {
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
    let client = redis::Client::open(url).unwrap();
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap_or_else(|error| panic!("{url}: {error}"))
}

mod tests {
    use std::path::Path;

    use redis::AsyncCommands;
    use tokio::io::{AsyncBufReadExt, BufReader};

    use super::*;
    use crate::harness::{SOON, eventually};

    #[tokio::test]
    async fn redis_comes_back_empty_on_the_same_port() {
        let redis = Redis::start().await;
        let (): () = redis.client().await.set("a", 1).await.unwrap();
        redis.kill().await;
        assert!(tokio::net::TcpStream::connect(redis.address()).await.is_err());
        redis.restart_empty().await;
        let kept: Option<i32> = redis.client().await.get("a").await.unwrap();
        assert_eq!(kept, None);

        let (): () = redis.client().await.set("b", 1).await.unwrap();
        redis.flushall().await;
        let kept: Option<i32> = redis.client().await.get("b").await.unwrap();
        assert_eq!(kept, None);
    }

    async fn is_gone(address: &str, folder: &Path) {
        eventually(SOON, "the server and its folder to be gone", async || {
            (!folder.exists() && std::net::TcpStream::connect(address).is_err()).then_some(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_server_and_its_folder_end_with_the_test() {
        let redis = Redis::start().await;
        let (address, folder) = (redis.address(), redis.server.folder.clone());
        assert!(folder.exists());
        drop(redis);
        is_gone(&address, &folder).await;
    }

    #[tokio::test]
    #[ignore = "run by the test below, in a process that is killed"]
    async fn hold_a_server() {
        let redis = Redis::start().await;
        println!("\nholding {} {}", redis.address(), redis.server.folder.display());
        tokio::time::sleep(SOON).await;
    }

    #[tokio::test]
    async fn a_server_and_its_folder_end_with_a_test_process_that_is_killed() {
        let test = concat!(module_path!(), "::hold_a_server");
        let (_crate, test) = test.split_once("::").unwrap();
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--nocapture", "--exact", test])
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let held = loop {
            let line = lines.next_line().await.unwrap().expect("it says what it holds before it ends");
            if let Some(held) = line.strip_prefix("holding ") {
                break held.to_owned();
            }
        };
        let (address, folder) = held.split_once(' ').unwrap();
        assert!(std::net::TcpStream::connect(address).is_ok() && Path::new(folder).exists());
        child.kill().await.unwrap();
        is_gone(address, Path::new(folder)).await;
    }
}
