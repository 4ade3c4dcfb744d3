//! Arguments → command → exit code: 0 done, 1 failed, 64 bad usage or configuration, 75 not done yet.

#[cfg(any(test, fuzzing))]
pub(crate) mod properties;

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

use crate::commands::{
    audit, cancel, consume, dead_letter, doctor, health, list, migrate, publish, relay, replay, reschedule, robots,
    run, sandbox, stats, status, template,
};
use crate::config;

/// Bad usage or configuration (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// Not done yet, and nothing is wrong (`EX_TEMPFAIL` of sysexits.h).
pub const EXIT_NOT_YET: u8 = 75;

/// A row committed in PostgreSQL rings in a DingTalk group.
///
/// Business code inserts into notification_events in its own transaction; a relay hints due rows into a Redis Stream;
/// a consumer renders each and sends it to the group's robot. Start with `postbell migrate`, then `postbell run`.
#[derive(Parser, Debug)]
#[command(name = "postbell", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Settings are options and environment variables, shown with each other; the option wins.\n\
                        Exit codes: 0 done, 1 failed, 64 bad usage or configuration, 75 not done yet (publish --wait, \
                        robots test, migrate --check).")]
pub struct Cli {
    #[command(flatten)]
    log: config::Log,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Create or update the tables and functions; safe to run from several places at once
    Migrate(migrate::Args),
    /// Move hints of due rows from PostgreSQL to the Redis Stream
    Relay(relay::Args),
    /// Take hints from the Redis Stream, render the events and send them
    Consume(consume::Args),
    /// Relay and consumer in one process
    Run(Box<run::Args>),
    /// Insert one event and print its id
    Publish(publish::Args),
    /// Find events, and follow what becomes of them
    List(list::Args),
    /// Show what became of events
    Status(status::Args),
    /// Send events again that were delivered, failed or cancelled
    Replay(replay::Args),
    /// Take events back that are not delivered yet
    Cancel(cancel::Args),
    /// Move pending events to another time
    Reschedule(reschedule::Args),
    /// Show what failed, send it again, or remove it
    #[command(subcommand)]
    DeadLetter(dead_letter::Command),
    /// Show who replayed, cancelled, paused or changed what, and when
    Audit(audit::Args),
    /// Show how things are at a glance: backlog, what waits, dead letters, rates, robots
    Stats(stats::Args),
    /// Look at everything postbell depends on, and say what is wrong and how to mend it
    Doctor(Box<doctor::Args>),
    /// Ask the postbell that runs here whether it is ready, for HEALTHCHECK and exec probes
    Health(health::Args),
    /// Show robots, add and remove them, pause, resume and test them
    Robots(robots::Args),
    /// A strict stand-in for the DingTalk robot, with a page that shows the group
    Sandbox(sandbox::Args),
    /// Check and preview templates
    #[command(subcommand)]
    Template(template::Command),
}

/// A failure of configuration rather than of the work: exit code 64.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadConfiguration(pub String);

/// What was waited for has not happened in time, and still may: exit code 75.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotYet(pub String);

/// Nobody reads the output any more: what a shell makes of a program that SIGPIPE ended.
const EXIT_BROKEN_PIPE: u8 = 141;

/// Runs the command and turns its result into an exit code.
pub fn run(cli: Cli) -> ExitCode {
    // One provider for all TLS: PostgreSQL, Redis and the robots. It fails only if one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    crate::log::init(&cli.log);
    let result = match cli.command {
        Command::Migrate(args) => migrate::run(args),
        Command::Relay(args) => relay::run(args),
        Command::Consume(args) => consume::run(args),
        Command::Run(args) => run::run(*args),
        Command::Publish(args) => publish::run(args),
        Command::List(args) => list::run(args),
        Command::Status(args) => status::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Cancel(args) => cancel::run(args),
        Command::Reschedule(args) => reschedule::run(args),
        Command::DeadLetter(command) => dead_letter::run(command),
        Command::Audit(args) => audit::run(args),
        Command::Stats(args) => stats::run(args),
        Command::Doctor(args) => doctor::run(*args),
        Command::Health(args) => health::run(args),
        Command::Robots(args) => robots::run(args),
        Command::Sandbox(args) => sandbox::run(args),
        Command::Template(command) => template::run(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has had enough, as head does: nothing to complain of.
        Err(error) if is_broken_pipe(&error) => ExitCode::from(EXIT_BROKEN_PIPE),
        Err(error) => {
            complain(&format!("postbell: {error:#}"));
            if let Some(hint) = crate::db::hint(&error) {
                complain(&hint);
            }
            ExitCode::from(exit_code(&error))
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<BadConfiguration>().is_some() {
        EXIT_USAGE
    } else if error.downcast_ref::<NotYet>().is_some() {
        EXIT_NOT_YET
    } else {
        1
    }
}

/// Says what is wrong with the arguments or the environment; also prints help and version.
pub fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    match bad_value(error).or_else(|| missing(error)) {
        Some(message) => complain(&message),
        None => {
            let _ = error.print();
        }
    }
    ExitCode::from(EXIT_USAGE)
}

/// `NOTIFICATION_MAX_RETRY (--max-retry): given "x"; allowed: …`, where the error is about a value.
fn bad_value(error: &clap::Error) -> Option<String> {
    if !matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
        return None;
    }
    let (Some(ContextValue::String(named)), Some(ContextValue::String(given))) =
        (error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue))
    else {
        return None;
    };
    let flag = named.split([' ', '=']).next()?;
    let allowed = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) => values.join(", "),
        _ => std::error::Error::source(error)?.to_string(),
    };
    let (variable, secret) = setting(flag)?;
    let mut message = String::from("postbell: ");
    match variable {
        Some(variable) => write!(message, "{variable} ({flag}): ").ok()?,
        None => write!(message, "{flag}: ").ok()?,
    }
    match (secret, given.is_empty()) {
        (_, true) => message.push_str("given an empty value; "),
        (true, false) => message.push_str("given a value that is not shown here; "),
        // Of a webhook or a connection string that was given for something else, nothing is shown either.
        (false, false) if given.contains("://") || given.contains('@') => {
            message.push_str("given a URL that is not shown here; ");
        }
        (false, false) => write!(message, "given {given:?}; ").ok()?,
    }
    write!(message, "allowed: {allowed}").ok()?;
    Some(message)
}

/// `DATABASE_URL (--database-url) is not set`, where a required option is missing.
fn missing(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::MissingRequiredArgument {
        return None;
    }
    let Some(ContextValue::Strings(flags)) = error.get(ContextKind::InvalidArg) else { return None };
    let flags = flags.iter().map(|flag| {
        let flag = flag.split([' ', '=']).next().unwrap_or_default();
        match setting(flag)? {
            (Some(variable), _) => Some(format!("{variable} ({flag})")),
            (None, _) => None,
        }
    });
    let named: Vec<String> = flags.collect::<Option<_>>()?;
    Some(format!("postbell: {} is not set; --help and .env.example say what it is", named.join(", ")))
}

/// The environment variable behind a flag, and whether its value is a secret, be it of one command only.
fn setting(flag: &str) -> Option<(Option<String>, bool)> {
    fn find(command: &clap::Command, long: &str) -> Option<(Option<String>, bool)> {
        let own = command.get_arguments().filter(|arg| arg.get_long() == Some(long));
        own.map(|arg| (arg.get_env().map(|env| env.to_string_lossy().into_owned()), arg.is_hide_env_values_set()))
            .chain(command.get_subcommands().filter_map(|sub| find(sub, long)))
            .reduce(|(variable, secret), (other, also)| (variable.or(other), secret || also))
    }
    find(&Cli::command(), flag.trim_start_matches('-'))
}

#[expect(clippy::print_stderr, reason = "the last word of a command goes to the terminal, whatever the log filter")]
fn complain(message: &str) {
    eprintln!("{message}");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// Every setting of every command: its variable and its default.
    fn settings(command: &clap::Command) -> BTreeMap<String, String> {
        let own = command.get_arguments().filter_map(|arg| {
            let default = arg.get_default_values().first().map(|value| value.to_string_lossy().into_owned());
            Some((arg.get_env()?.to_string_lossy().into_owned(), default.unwrap_or_default()))
        });
        own.chain(command.get_subcommands().flat_map(settings)).collect()
    }

    #[test]
    fn the_example_environment_has_every_setting_with_its_default_and_no_other() {
        let example = include_str!("../.env.example");
        let pairs = example.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
        let mut example: BTreeMap<String, String> =
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        assert!(example.remove("DATABASE_URL").is_some(), "it has no default, but an example");
        let mut settings = settings(&Cli::command());
        settings.remove("DATABASE_URL");
        assert_eq!(example, settings);
    }

    #[test]
    fn the_documentation_of_the_configuration_has_every_setting_with_its_default() {
        let source = include_str!("config.rs");
        for (name, default) in settings(&Cli::command()) {
            let default = if default.is_empty() { "–".to_owned() } else { format!("`{default}`") };
            assert!(source.contains(&format!("//! | `{name}` | {default} |")), "{name} with default {default}");
        }
    }

    #[test]
    fn a_bad_value_is_named_with_what_was_given_and_what_is_allowed() {
        let error =
            Cli::try_parse_from(["postbell", "consume", "--database-url", "x", "--max-retry", "many"]).unwrap_err();
        assert_eq!(
            bad_value(&error).unwrap(),
            "postbell: NOTIFICATION_MAX_RETRY (--max-retry): given \"many\"; allowed: a whole number from 0 to 100"
        );
    }

    #[test]
    fn a_missing_setting_is_named_by_its_variable() {
        let error =
            Cli::command().mut_subcommand("migrate", |migrate| migrate.mut_arg("database_url", |url| url.env(None)));
        let error = error.try_get_matches_from(["postbell", "migrate"]).unwrap_err();
        assert!(missing(&error).unwrap().starts_with("postbell: DATABASE_URL (--database-url) is not set"));
    }

    #[test]
    fn a_url_is_not_shown_where_none_is_expected() {
        for url in ["https://oapi.dingtalk.com/robot/send?access_token=hunter2", "user:hunter2@host"] {
            let error = Cli::try_parse_from(["postbell", "consume", "--database-url", "x", "--allowed-hosts", url]);
            let message = bad_value(&error.unwrap_err()).unwrap();
            assert!(message.contains("NOTIFICATION_ALLOWED_HOSTS (--allowed-hosts): given a URL"), "{message}");
            assert!(message.contains("without scheme, path or wildcard") && !message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_secret_in_the_place_of_a_reference_is_not_shown() {
        for (flag, given) in [
            ("--webhook", "https://oapi.dingtalk.com/robot/send?access_token=hunter2"),
            ("--webhook", "env:https://hunter2"),
            ("--secret", "SEChunter2"),
            ("--secret", "file:hunter2"),
            ("--pool", "a,https://h/?access_token=hunter2"),
        ] {
            let add = ["postbell", "robots", "add", "hr", "--database-url", "x", flag, given];
            let message = bad_value(&Cli::try_parse_from(add).unwrap_err()).unwrap();
            assert!(message.starts_with(&format!("postbell: {flag}: given a value that is not shown")), "{message}");
            assert!(message.contains("; allowed: ") && !message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn robots_alone_lists_them_and_its_subcommands_need_nothing_before_them() {
        let database = ["--database-url", "x"];
        for words in
            [&["robots"][..], &["robots", "--json"], &["robots", "list", "--json"], &["robots", "resume", "hr"]]
        {
            Cli::try_parse_from([&["postbell"], words, &database].concat()).unwrap();
        }
        let early = ["postbell", "robots", "--database-url", "x", "resume", "hr"];
        assert_eq!(Cli::try_parse_from(early).unwrap_err().kind(), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn a_bad_secret_is_not_shown() {
        let error =
            Cli::try_parse_from(["postbell", "relay", "--database-url", "x", "--redis-url", "http://:hunter2@h"])
                .unwrap_err();
        let message = bad_value(&error).unwrap();
        assert!(message.contains("REDIS_URL") && message.contains("rediss://"), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
}
