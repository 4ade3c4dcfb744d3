//! Connections to PostgreSQL: how they are made, and what every one of them sets for itself.

mod tls;

use std::fmt;
use std::time::Duration;

use anyhow::Context as _;
use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime};
use secrecy::ExposeSecret as _;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;

use crate::cli::BadConfiguration;
use crate::config;

pub use tls::Tls;

/// How long connecting may take, DNS and TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest run of one statement on the server. Dropping a query's future does not stop it there; this does.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(15);

/// Longest wait for a statement here: the server may not answer at all, though its host acknowledges every packet.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(18);

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
            // It repeats the name of an option, which a password with a space in it may have become.
            let cause = if cause.starts_with("unknown option") { "an unknown option" } else { &cause };
            refuse(format!(
                "not a connection string ({cause}); allowed: postgres://user:password@host:port/database?sslmode=…, or key=value pairs"
            ))
        })?;
        // The end of a password, which would be shown as a host.
        if config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(name) if name.contains('@'))) {
            return Err(refuse("the host has an @; write an @ of the password as %40".to_owned()));
        }
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
        let hosts = self.config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let hosts: Vec<String> = hosts.collect();
        let ports: Vec<String> = self.config.get_ports().iter().map(ToString::to_string).collect();
        format!("{} port {}", hosts.join(","), if ports.is_empty() { "5432".to_owned() } else { ports.join(",") })
    }

    /// A pool whose every connection has set what postbell relies on.
    pub fn pool(&self, size: usize) -> anyhow::Result<Pool> {
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
            .post_create(Hook::async_fn(|client, _| {
                Box::pin(async move {
                    let settings = session();
                    match tokio::time::timeout(CONNECT_TIMEOUT, client.batch_execute(&settings)).await {
                        Ok(set) => set.map_err(HookError::Backend),
                        Err(_) => Err(HookError::message("PostgreSQL does not answer")),
                    }
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

/// A connection of the pool. The error is the server's or the network's own, without the pool's words around it.
pub async fn client(pool: &Pool) -> anyhow::Result<Object> {
    pool.get().await.map_err(|error| match error {
        PoolError::Backend(cause) => anyhow::Error::new(cause),
        other => anyhow::Error::new(other).context("connecting to PostgreSQL"),
    })
}

/// What a session sets, whatever the database's or the role's defaults are. It is the same in all: what was decided before a
/// send, and its outcome, must survive a crash, and behind a pooler one process's setting may be another's. The claim alone
/// does not wait for the disk, and says so itself.
pub fn session() -> String {
    format!(
        "set search_path = public, pg_temp; \
         set synchronous_commit = on; \
         set default_transaction_isolation = 'read committed'; \
         set default_transaction_read_only = off; \
         set statement_timeout = {statement_ms}; \
         set lock_timeout = 0; \
         set idle_in_transaction_session_timeout = {statement_ms}; \
         set jit = off; \
         set timezone = 'UTC'; \
         do $$ begin \
             if current_setting('server_version_num')::int >= 140000 then set idle_session_timeout = 0; end if; \
         end $$; \
         set client_min_messages = warning",
        statement_ms = STATEMENT_TIMEOUT.as_millis()
    )
}

/// A statement that failed, in the server's words but for their detail: that repeats the whole row, payload and token
/// included.
#[derive(thiserror::Error)]
pub struct Failed(tokio_postgres::Error);

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_db_error() {
            Some(said) => write!(f, "{}: {}", said.severity(), said.message()),
            None => match std::error::Error::source(&self.0) {
                Some(cause) => write!(f, "{}: {cause}", self.0),
                None => write!(f, "{}", self.0),
            },
        }
    }
}

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The SQLSTATE in a chain of causes; none means that the server was not reached.
fn code(error: &anyhow::Error) -> Option<&SqlState> {
    of_server(error)?.code()
}

/// The server's error in a chain of causes.
fn of_server(error: &anyhow::Error) -> Option<&tokio_postgres::Error> {
    error.chain().find_map(|cause| match cause.downcast_ref::<Failed>() {
        Some(Failed(error)) => Some(error),
        None => cause.downcast_ref::<tokio_postgres::Error>(),
    })
}

/// What a failed statement means for trying it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was broken off for the sake of another, or of its own time limit: try again at once.
    Conflict,
    /// The server is away, starting, read-only, or misses something: the same statement may succeed later.
    Wait,
    /// The values themselves are refused: no later try can succeed.
    Refused,
}

/// Judges a failure by its SQLSTATE.
pub fn verdict(error: &anyhow::Error) -> Verdict {
    match code(error).map(SqlState::code) {
        Some("40P01" | "40001") => Verdict::Conflict,
        // data exception, integrity constraint violation, program limit exceeded
        Some(code) if ["22", "23", "54"].contains(&&code[..2]) => Verdict::Refused,
        _ => Verdict::Wait,
    }
}

/// Whether the server refuses this client for good, rather than being away: a password, a database, a right.
pub fn refuses_for_good(error: &anyhow::Error) -> bool {
    // invalid authorization, invalid catalog name, syntax or access rule
    code(error).is_some_and(|code| ["28", "3D", "42"].contains(&&code.code()[..2]))
}

/// Whether a pooler in transaction mode seems to be between: it sends a statement to a session that has not prepared it, or
/// has prepared another under its name.
pub fn is_pooled(error: &anyhow::Error) -> bool {
    // invalid_sql_statement_name, duplicate_prepared_statement
    code(error).is_some_and(|code| ["26000", "42P05"].contains(&code.code()))
}

/// What to do about a failure that newcomers meet.
pub fn hint(error: &anyhow::Error) -> Option<String> {
    let refusal = of_server(error)?.as_db_error()?;
    if is_pooled(error) {
        return Some(
            "postbell: this looks like a pooler in transaction mode; connect directly, or in session mode".to_owned(),
        );
    }
    match refusal.code().code() {
        // undefined function, undefined table
        "42883" | "42P01" => Some("postbell: has postbell migrate been run on this database?".to_owned()),
        "42501" => Some(format!(
            "postbell: an owner gives a role what it needs with: select notification_grant('role', '{}')",
            grant_for(refusal.message())
        )),
        _ => None,
    }
}

/// The kind of role that may use what a refusal names; in every language it names it.
fn grant_for(refusal: &str) -> &'static str {
    let names = |names: &[&str]| names.iter().any(|name| refusal.contains(name));
    let read = [
        "notification_status",
        "notification_robot_status",
        "notification_stats",
        "notification_find",
        "notification_attempts",
        "notification_audit",
        "notification_alerts",
    ];
    let done = [
        "notification_channels",
        "notification_robot_pause",
        "notification_robot_resume",
        "notification_replay",
        "notification_cancel",
        "notification_reschedule",
        "notification_purge",
    ];
    if names(&read) {
        "reader"
    } else if names(&done) {
        "operator"
    } else if names(&[
        "postbell_schema_history",
        "notification_robots",
        "notification_lanes",
        "notification_stalled",
        "notification_paused",
    ]) {
        "relay"
    } else {
        "writer"
    }
}

/// Whether the connection leads to a server that cannot do the work: a standby, or a primary that was demoted.
pub fn is_read_only(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = config::Database { database_url: url.into() };
        Database::new(&config).err().unwrap().to_string()
    }

    #[test]
    fn a_connection_string_that_is_refused_shows_nothing_of_its_password() {
        for (url, says) in [
            ("postgres://user:half@SECRET@host/db", "%40"),
            ("postgres://user:SECRET/db", "port"),
            ("postgres://user@host/db?SECRET=1", "an unknown option"),
            ("host=h password=half SECRET=rest", "an unknown option"),
            ("postgres://user:SECRET", "port"),
            ("SECRET", "not a connection string"),
        ] {
            let error = refused(url);
            assert!(error.starts_with("DATABASE_URL (--database-url): ") && error.contains(says), "{error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
    }

    #[test]
    fn who_lacks_a_right_is_told_the_grant_that_gives_it() {
        for (refusal, kind) in [
            ("permission denied for function notification_publish", "writer"),
            ("permission denied for table notification_events", "writer"),
            ("permission denied for schema public", "writer"),
            ("permission denied for view notification_status", "reader"),
            ("permission denied for view notification_robot_status", "reader"),
            ("permission denied for table notification_attempts", "reader"),
            ("permission denied for function notification_find", "reader"),
            ("permission denied for table notification_channels", "operator"),
            ("permission denied for function notification_replay", "operator"),
            ("permission denied for table postbell_schema_history", "relay"),
            ("permission denied for table notification_robots", "relay"),
            ("keine Berechtigung für Funktion notification_robot_pause", "operator"),
        ] {
            assert_eq!(grant_for(refusal), kind, "{refusal}");
        }
    }
}
