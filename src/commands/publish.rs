//! `postbell publish`: inserts one event, for scripts and for trying things out.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::{block_on, connect, explain, outcome};
use crate::cli::BadConfiguration;
use crate::config;

/// Arguments of `postbell publish`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Example:\n  postbell publish resume.parsed --payload '{\"candidate\": \"李雷\"}' --key resume-42\n\n\
                        Exit codes with --wait: 0 delivered, 1 failed or cancelled (standard error says why), 75 not \
                        complete in time; the event is then sent all the same.\n\n\
                        In a service, insert in the transaction that makes the event true instead:\n  \
                        insert into notification_events (event_type, payload) values ('resume.parsed', '{...}');"
)]
pub struct Args {
    /// Event type, such as resume.parsed; it names the template, too
    event_type: String,

    /// Template variables: a JSON object, @FILE to read it from a file, or - for standard input
    #[arg(long, value_name = "JSON", default_value = "{}")]
    payload: String,

    /// Idempotency key: a second event with the same key, channel and target is not inserted
    #[arg(long, value_name = "KEY")]
    key: Option<String>,

    /// Named robot, or a webhook URL whose host is allowed
    #[arg(long, default_value = "default")]
    target: String,

    /// Kind of robot
    #[arg(long, default_value = "dingtalk")]
    channel: String,

    /// Template, where it is not named after the event type
    #[arg(long, value_name = "ID")]
    template: Option<String>,

    /// When to send: a time such as 2026-12-24T09:00:00+08:00, or a duration from now such as 30m
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<Timestamp>,

    /// Send options: a JSON object such as {"at_mobiles": ["13800000000"]}
    #[arg(long, value_name = "JSON", default_value = "{}")]
    options: String,

    /// Trace id, carried into the queue and the logs
    #[arg(long, value_name = "ID")]
    trace_id: Option<String>,

    /// Retries after the first send, instead of the consumer's default
    #[arg(long, value_name = "RETRIES", value_parser = clap::value_parser!(i32).range(0..=100))]
    max_retry: Option<i32>,

    /// Wait until the event is delivered, at most this many seconds (60 if not given)
    #[arg(
        long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "60",
        value_parser = clap::value_parser!(u32).range(1..=86_400)
    )]
    wait: Option<u32>,

    #[command(flatten)]
    database: config::Database,
}

/// Inserts the event, prints its id, and waits for it where asked to.
pub fn run(args: Args) -> anyhow::Result<()> {
    let payload = object("--payload", &read(&args.payload)?)?;
    let options = object("--options", &args.options)?;
    block_on(async {
        let client = connect(&args.database).await?;
        let published = client
            .query_one(
                "select notification_publish($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                &[
                    &args.event_type,
                    &payload,
                    &args.key,
                    &args.target,
                    &args.at,
                    &args.template,
                    &options,
                    &args.trace_id,
                    &args.channel,
                    &args.max_retry,
                ],
            )
            .await
            .map_err(|error| explain("the event", error))?;
        let id: Uuid = published.get(0);
        // Flushed with the line: whoever reads it may act on it while we wait.
        writeln!(std::io::stdout().lock(), "{id}")?;
        let Some(seconds) = args.wait else { return Ok(()) };
        let most = Duration::from_secs(seconds.into());
        outcome::wait(&client, id, most, |_| false).await?.end(most)
    })
}

fn read(given: &str) -> anyhow::Result<String> {
    if given == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("reading the payload from standard input")?;
        return Ok(text);
    }
    match given.strip_prefix('@') {
        Some(path) => Ok(std::fs::read_to_string(path)
            .map_err(|error| BadConfiguration(format!("--payload: cannot read {path}: {error}")))?),
        None => Ok(given.to_owned()),
    }
}

fn object(option: &str, text: &str) -> Result<Value, BadConfiguration> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(BadConfiguration(format!("{option}: allowed: a JSON object such as {{\"name\": \"value\"}}"))),
        Err(error) => Err(BadConfiguration(format!("{option}: not JSON: {error}; allowed: a JSON object"))),
    }
}

pub(super) fn parse_time(text: &str) -> Result<Timestamp, String> {
    let allowed = "a time with an offset such as 2026-12-24T09:00:00+08:00, or a duration from now such as 30m";
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let span: jiff::SignedDuration = text.parse().map_err(|_| allowed.to_owned())?;
    Timestamp::now().checked_add(span).map_err(|_| allowed.to_owned())
}
