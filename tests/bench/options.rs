//! What the benchmark is told on the command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Measures postbell and, in the same run, the floors: hand-written loops of the same statements and requests
#[derive(Parser, Clone, Debug)]
pub(crate) struct Options {
    /// Fewer rows, shorter phases and one run of each, less than a minute
    #[arg(long, conflicts_with = "long")]
    pub(crate) quick: bool,

    /// Also the large tables and the long phases, most of an hour
    #[arg(long)]
    pub(crate) long: bool,

    /// Nothing but what can be counted, held against its limits: fails where one is passed
    #[arg(long)]
    pub(crate) counts: bool,

    /// Measure only these works; the names are those of the report's first column
    #[arg(long, value_name = "WORK", value_enum)]
    pub(crate) only: Vec<Work>,

    /// Compare with other relays, too, which are installed from the npm registry into this folder
    #[arg(long, value_name = "FOLDER")]
    pub(crate) peers: Option<PathBuf>,

    /// How often each side is measured, in turn with the other; the medians count [default: 3, with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=99))]
    runs: Option<u8>,

    /// Print the report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// Draw the report into this SVG file, too
    #[arg(long, value_name = "FILE")]
    pub(crate) chart: Option<PathBuf>,

    /// Be one of the hand-written loops; the benchmark starts itself so
    #[arg(long, hide = true)]
    pub(crate) floor: Option<Floor>,

    /// What cargo bench passes.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is measured.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Statements, round trips, WAL, dead rows and system calls of an event's life
    Counts,
    /// Waiting rows into the stream
    Drain,
    /// Commit to entry, and commit to message
    Latency,
    /// Waiting rows to the receiver, and recorded
    Path,
    /// What inserting transactions pay
    Tax,
    /// A minute without work
    Idle,
    /// Ten million rows in the table
    Large,
    /// Old rows removed beside a load
    Retention,
    /// Ten minutes of load, and then with a transaction open
    Steady,
}

/// A hand-written loop.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Floor {
    /// Claims rows and adds entries; listens where there are none.
    Relay,
    /// Reads entries, takes rows, posts, records, acknowledges.
    Consumer,
    /// The same by postbell's own statements.
    OwnStatements,
}

impl Options {
    /// Whether this is to be measured.
    pub(crate) fn wants(&self, work: Work) -> bool {
        match (self.counts, self.only.as_slice()) {
            (true, _) => work == Work::Counts,
            (false, []) => self.long || !matches!(work, Work::Large | Work::Retention | Work::Steady),
            (false, only) => only.contains(&work),
        }
    }

    /// How often each side is measured.
    pub(crate) fn runs(&self) -> u8 {
        self.runs.unwrap_or(if self.quick { 1 } else { 3 })
    }

    /// The one of three that fits the length of the run.
    pub(crate) fn sized<T>(&self, quick: T, usual: T, long: T) -> T {
        match (self.quick, self.long) {
            (true, _) => quick,
            (false, true) => long,
            (false, false) => usual,
        }
    }
}
