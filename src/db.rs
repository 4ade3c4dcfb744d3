//! Connections to PostgreSQL: how they are made, and what every one of them sets for itself.

mod tls;

use std::time::Duration;

use anyhow::Context as _;
use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use secrecy::ExposeSecret as _;
use tokio_postgres::error::SqlState;

use crate::cli::BadConfiguration;
use crate::config;

pub use tls::Tls;

/// How long connecting may take, DNS and TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest run of one statement. Dropping a query's future does not stop it on the server; this does.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(15);

/// Whether a commit waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It does: what was decided before a send, and its outcome, must survive a crash.
    Durable,
    /// It does not: losing the end of the relay's work repeats a hint, which the take skips.
    Relaxed,
}

/// A database that can be connected to: the parsed `DATABASE_URL`.
#[derive(Clone)]
pub struct Database {
    config: tokio_postgres::Config,
    tls: Tls,
}

impl Database {
    /// Reads the connection string; errors name the variable and never repeat the value.
    pub fn new(config: &config::Database) -> Result<Self, BadConfiguration> {
        let refuse = |allowed: String| BadConfiguration(format!("DATABASE_URL (--database-url): {allowed}"));
        let (plain, tls) = tls::split_off(config.database_url.expose_secret()).map_err(refuse)?;
        let mut config: tokio_postgres::Config = plain.parse().map_err(|error: tokio_postgres::Error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            refuse(format!(
                "not a connection string ({cause}); allowed: postgres://user:password@host:port/database?sslmode=…, or key=value pairs"
            ))
        })?;
        config.ssl_mode(tls.mode());
        if config.get_application_name().is_none() {
            config.application_name("postbell");
        }
        // A peer that is gone must be noticed in seconds, not in the kernel's two hours.
        config
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(20));
        Ok(Self { config, tls })
    }

    /// Where it is, for people: host and database, no credentials.
    pub fn place(&self) -> String {
        let hosts: Vec<String> = self.config.get_hosts().iter().map(|host| format!("{host:?}")).collect();
        let ports: Vec<String> = self.config.get_ports().iter().map(ToString::to_string).collect();
        format!("{} port {}", hosts.join(","), if ports.is_empty() { "5432".to_owned() } else { ports.join(",") })
    }

    /// A pool whose every connection has set what postbell relies on.
    pub fn pool(&self, size: usize, durability: Durability) -> anyhow::Result<Pool> {
        let manager = Manager::from_config(
            self.config.clone(),
            self.tls.connector(),
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        Pool::builder(manager)
            .max_size(size)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(STATEMENT_TIMEOUT))
            .create_timeout(Some(CONNECT_TIMEOUT))
            .post_create(Hook::async_fn(move |client, _| {
                Box::pin(async move {
                    client.batch_execute(&session(durability)).await.map_err(HookError::Backend)?;
                    Ok(())
                })
            }))
            .build()
            .context("building the connection pool")
    }

    /// A connection of its own, for listening; the second part must be driven by the caller.
    pub async fn connect(
        &self,
    ) -> Result<
        (
            tokio_postgres::Client,
            tokio_postgres::Connection<
                tokio_postgres::Socket,
                <tokio_postgres_rustls::MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<
                    tokio_postgres::Socket,
                >>::Stream,
            >,
        ),
        tokio_postgres::Error,
    > {
        self.config.connect(self.tls.connector()).await
    }
}

/// What a session sets, whatever the database's or the role's defaults are.
pub fn session(durability: Durability) -> String {
    let synchronous_commit = match durability {
        Durability::Durable => "on",
        Durability::Relaxed => "off",
    };
    format!(
        "set search_path = public, pg_temp; \
         set synchronous_commit = {synchronous_commit}; \
         set default_transaction_isolation = 'read committed'; \
         set default_transaction_read_only = off; \
         set statement_timeout = {statement_ms}; \
         set lock_timeout = 0; \
         set idle_in_transaction_session_timeout = {statement_ms}; \
         set jit = off; \
         set timezone = 'UTC'; \
         set client_min_messages = warning",
        statement_ms = STATEMENT_TIMEOUT.as_millis()
    )
}

/// Errors that another try may not meet, because a deadlock or a conflict had to be broken.
pub fn is_conflict(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::T_R_DEADLOCK_DETECTED | &SqlState::T_R_SERIALIZATION_FAILURE))
}

/// Whether waiting can help: the server is away, starting, or out of connections, rather than refusing for good.
pub fn is_unavailable(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        None => true,
        Some(code) => {
            let class = &code.code()[..2];
            // 08 connection, 53 resources, 57 operator intervention (shutdown, starting up), 58 system error
            ["08", "53", "57", "58"].contains(&class)
        }
    }
}
