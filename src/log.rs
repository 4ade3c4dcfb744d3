//! Structured logs on standard error.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::config::{Log, LogFormat};

/// Starts logging for the whole process.
pub fn init(config: &Log) {
    let filter = EnvFilter::new(&config.log);
    let logs = fmt::Subscriber::builder().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second call (tests run several commands in one process) keeps the first subscriber.
    let _ = match config.log_format {
        LogFormat::Text => tracing::subscriber::set_global_default(logs.with_ansi(false).finish()),
        LogFormat::Json => tracing::subscriber::set_global_default(logs.json().flatten_event(true).finish()),
    };
}
