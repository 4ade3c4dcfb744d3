//! PostgreSQL: one server for all tests, a migrated database for each, and servers of their own for tests that crash them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::{OnceCell, mpsc::UnboundedReceiver};
use tokio_postgres::{AsyncMessage, Client, NoTls, Notification};

use super::{Server, free_port, on_path, output, own_disk};

/// Made for tests, but with a meaning to durability: what committed is there after an immediate shutdown (the operating
/// system survives, so fsync does not matter), and what did not is not.
const SETTINGS: &[&str] = &[
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=300",
    "max_prepared_transactions=20",
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=on",
    "shared_buffers=64MB",
    "jit=off",
    "timezone=UTC",
    "log_min_messages=log",
];

/// As a careful operator would run it, and with a count of every statement; checkpoints stay out of what is measured.
#[allow(dead_code, reason = "for the benchmark")]
const MEASURED: &[&str] = &[
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=100",
    "fsync=on",
    "synchronous_commit=on",
    "shared_buffers=512MB",
    "max_wal_size=16GB",
    "checkpoint_timeout=1h",
    "shared_preload_libraries=pg_stat_statements",
    "pg_stat_statements.track=top",
    "pg_stat_statements.track_utility=on",
    "jit=off",
    "timezone=UTC",
];

/// How long a server may take for recovering by itself.
const PATIENCE: Duration = Duration::from_secs(5);

const TEMPLATE: &str = "postbell_template";

/// A running PostgreSQL server with a migrated template database.
pub(crate) struct Postgres {
    server: Server,
    port: u16,
    dropper: mpsc::Sender<String>,
}

impl Postgres {
    /// The server that all tests of this process share.
    pub(crate) async fn shared() -> &'static Postgres {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED.get_or_init(Postgres::own).await
    }

    /// A server of the test's own, to be crashed; it takes about two seconds.
    pub(crate) async fn own() -> Postgres {
        Postgres::with(None, SETTINGS).await
    }

    /// A server to measure with: durable, and it counts statements (pg_stat_statements).
    #[allow(dead_code, reason = "for the benchmark")]
    pub(crate) async fn measured() -> Postgres {
        Postgres::with(None, MEASURED).await
    }

    /// The same with a disk of so many megabytes, in memory, that can be full; none where this system does not allow it.
    pub(crate) async fn on_disk_of(megabytes: u64) -> Option<Postgres> {
        if own_disk() { Some(Postgres::with(Some(megabytes), SETTINGS).await) } else { None }
    }

    async fn with(disk: Option<u64>, settings: &[&str]) -> Postgres {
        let bin = bin_dir();
        for _ in 0..10 {
            let port = free_port();
            let server = Server::with("postgres", "QUIT", disk, |folder| command(&bin, folder, port, settings));
            let postgres = Postgres { server, port, dropper: start_dropper(port) };
            if postgres.try_start().await {
                postgres.admin(&format!("create database {TEMPLATE}")).await;
                migrate(&postgres.url(TEMPLATE)).await;
                return postgres;
            }
        }
        panic!("no port is free for PostgreSQL");
    }

    /// A new database with the whole schema; it takes about 80 ms.
    pub(crate) async fn database(&self) -> Database {
        let name = format!("test_{:016x}", fastrand::u64(..));
        self.admin(&format!("create database {name} template {TEMPLATE}")).await;
        Database { url: self.url(&name), name, dropper: self.dropper.clone() }
    }

    /// A new database that is a copy of another, to which nobody is connected. PostgreSQL 15 or later.
    #[allow(dead_code, reason = "for the benchmark")]
    pub(crate) async fn copy(&self, of: &Database) -> Database {
        let name = format!("test_{:016x}", fastrand::u64(..));
        self.admin(&format!("create database {name} template {} strategy file_copy", of.name)).await;
        Database { url: self.url(&name), name, dropper: self.dropper.clone() }
    }

    /// An empty database, without the schema.
    #[allow(dead_code, reason = "for the benchmark")]
    pub(crate) async fn empty(&self) -> Database {
        let name = format!("test_{:016x}", fastrand::u64(..));
        self.admin(&format!("create database {name}")).await;
        Database { url: self.url(&name), name, dropper: self.dropper.clone() }
    }

    /// Ends it as a crash would: no checkpoint, no word to its clients.
    pub(crate) async fn stop_immediate(&self) {
        self.server.stop("QUIT").await;
    }

    /// Starts it again after [`Self::stop_immediate`], on the same port with the same data.
    pub(crate) async fn start(&self) {
        assert!(self.try_start().await, "port {} was taken while PostgreSQL was down", self.port);
    }

    /// From now on nothing can be added to its disk.
    pub(crate) async fn fill_disk(&self) {
        self.server.fill_disk().await;
    }

    /// Ends [`Self::fill_disk`]. A server that did not survive it is started again.
    pub(crate) async fn empty_disk(&self) {
        self.server.empty_disk().await;
        let start = Instant::now();
        while tokio_postgres::connect(&self.url("postgres"), NoTls).await.is_err() {
            if start.elapsed() > PATIENCE {
                self.stop_immediate().await;
                return self.start().await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn try_start(&self) -> bool {
        self.server.start(|log| log.contains("ready to accept connections")).await
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.address())
    }

    /// Runs a statement in the maintenance database.
    async fn admin(&self, sql: &str) {
        let client = connect(&self.url("postgres")).await;
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:#}"));
    }
}

/// A database of the test's own, dropped with this value.
pub(crate) struct Database {
    url: String,
    name: String,
    dropper: mpsc::Sender<String>,
}

impl Database {
    /// A connection string, as a superuser.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Its name on its server.
    #[allow(dead_code, reason = "for the benchmark")]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A connection string that leads through a proxy.
    pub(crate) fn url_through(&self, address: &str) -> String {
        format!("postgres://postgres@{address}/{}", self.name)
    }

    /// A new connection, as a superuser.
    pub(crate) async fn client(&self) -> Client {
        connect(&self.url).await
    }

    /// A connection string, as another role.
    pub(crate) fn url_as(&self, role: &str) -> String {
        self.url.replacen("postgres@", &format!("{role}@"), 1)
    }

    /// A new connection as another role.
    pub(crate) async fn client_as(&self, role: &str) -> Client {
        connect(&self.url_as(role)).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = self.dropper.send(format!("drop database if exists {} with (force)", self.name));
    }
}

/// A new connection.
pub(crate) async fn connect(url: &str) -> Client {
    connect_listening(url).await.0
}

/// A new connection and what it is notified of.
pub(crate) async fn connect_listening(url: &str) -> (Client, UnboundedReceiver<Notification>) {
    let connecting = tokio_postgres::connect(url, NoTls).await;
    let (client, mut connection) = connecting.unwrap_or_else(|error| panic!("{url}: {error:#}"));
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        // Errors end the connection; the client reports them.
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = sender.send(notification);
            }
        }
    });
    (client, receiver)
}

/// Brings a database to the newest schema, as an operator would.
async fn migrate(url: &str) {
    let migrating =
        Command::new(env!("CARGO_BIN_EXE_postbell")).arg("migrate").env_clear().env("DATABASE_URL", url).output();
    let output = migrating.expect("the binary starts");
    assert!(output.status.success(), "postbell migrate: {}", String::from_utf8_lossy(&output.stderr));
}

/// Drops databases behind the tests' backs: a full run would otherwise fill a gigabyte.
fn start_dropper(port: u16) -> mpsc::Sender<String> {
    let (sender, statements) = mpsc::channel::<String>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        for statement in statements {
            runtime.block_on(async {
                // A server that is gone has no databases to drop.
                if let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await {
                    tokio::spawn(connection);
                    let _ = client.batch_execute(&statement).await;
                }
            });
        }
    });
    sender
}

/// Makes the cluster at the first start; `exec`, so that signals reach the server itself.
fn command(bin: &Path, folder: &Path, port: u16, settings: &[&str]) -> Vec<String> {
    let script = r#"
        bin=$1 data=$2
        shift 2
        [ -s "$data/PG_VERSION" ] ||
            "$bin/initdb" --no-sync -D "$data" -U postgres -A trust -E UTF8 --locale=C >/dev/null || exit 1
        exec "$bin/postgres" -D "$data" "$@""#;
    let data = folder.join("data");
    let mut command: Vec<String> =
        ["/bin/sh", "-c", script, "postgres", bin.to_str().unwrap(), data.to_str().unwrap(), "-p", &port.to_string()]
            .map(str::to_owned)
            .into();
    command.extend(settings.iter().flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()]));
    command
}

/// Where `postgres` and `initdb` are: distributions keep them off the PATH.
pub(crate) fn bin_dir() -> PathBuf {
    let configured = output("pg_config", &["--bindir"]).map(PathBuf::from);
    let by_path = on_path("postgres").and_then(|program| program.canonicalize().ok()?.parent().map(Path::to_owned));
    let complete = |dir: &PathBuf| dir.join("initdb").exists() && dir.join("postgres").exists();
    configured.into_iter().chain(packaged()).chain(by_path).find(complete).expect(
        "no PostgreSQL server (postgres and initdb) on this machine; ops/test installs it where it knows how to",
    )
}

/// Folders of Debian's packages, the newest version first.
fn packaged() -> Vec<PathBuf> {
    let entries = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    versions.sort_by_key(|version| std::cmp::Reverse(*version));
    versions.iter().map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"))).collect()
}

mod tests {
    use tokio_postgres::error::SqlState;

    use super::*;

    #[tokio::test]
    async fn what_committed_survives_an_immediate_shutdown() {
        let postgres = Postgres::own().await;
        let database = postgres.database().await;
        let client = database.client().await;
        client
            .batch_execute("insert into notification_events (event_type, payload) values ('kept', '{}')")
            .await
            .unwrap();
        client
            .batch_execute("begin; insert into notification_events (event_type, payload) values ('lost', '{}')")
            .await
            .unwrap();
        postgres.stop_immediate().await;
        assert!(tokio_postgres::connect(&database.url(), NoTls).await.is_err());
        postgres.start().await;
        let rows = database.client().await.query("select event_type from notification_events", &[]).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<String>>(), ["kept"]);
    }

    #[tokio::test]
    async fn a_full_disk_takes_no_more_until_there_is_room() {
        let Some(postgres) = Postgres::on_disk_of(256).await else {
            println!("not tried: this system lets nobody mount a disk in a namespace of their own");
            return;
        };
        let client = connect(&postgres.url("postgres")).await;
        client.batch_execute("create table t (n text); insert into t values ('kept')").await.unwrap();
        postgres.fill_disk().await;
        let fill = "insert into t select repeat('x', 1000) from generate_series(1, 1000)";
        let refused = client.batch_execute(fill).await.unwrap_err();
        assert_eq!(refused.code(), Some(&SqlState::DISK_FULL), "{refused:#}");
        postgres.empty_disk().await;
        let client = connect(&postgres.url("postgres")).await;
        client.batch_execute(fill).await.unwrap();
        let count: i64 = client.query_one("select count(*) from t", &[]).await.unwrap().get(0);
        assert_eq!(count, 1001);
    }
}
