//! What a run is told on the command line.

use std::time::Duration;

use clap::Parser;
use libtest_mimic::{Arguments, Conclusion, Trial};

/// How long faults come where nobody says.
const SHORT: Duration = Duration::from_secs(25);

/// The schedule that `cargo test` runs: always the same, so that a failure is one of the change under test and not of the
/// day, and this one for the variety of its first faults.
const TESTED_SEED: u64 = 1093;

/// Injects faults into running relays, consumers and their servers, and counts what became of every event.
#[derive(Parser, Debug)]
pub(crate) struct Options {
    /// How long faults come, in seconds; the servers' start and the last events' way to the robot are added
    ///
    /// Without it this is a test binary as cargo test expects it, with a short run among its tests.
    #[arg(long, value_name = "N")]
    pub(crate) seconds: Option<u64>,

    /// What all that is random is made from; without it another one every time
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,

    /// Print the report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// What cargo test passes to test binaries.
    #[command(flatten)]
    tests: Arguments,

    /// Further filters
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    /// How long faults come.
    pub(crate) lasts: Duration,
    /// Where everything random comes from.
    pub(crate) seed: u64,
}

impl Options {
    /// The run that was asked for by itself.
    pub(crate) fn order(&self) -> Order {
        Order {
            lasts: self.seconds.map_or(SHORT, Duration::from_secs),
            seed: self.seed.unwrap_or_else(|| fastrand::u64(..1_000_000)),
        }
    }

    /// Runs those of these tests that are asked for.
    pub(crate) fn run(&self, mut tests: Vec<Trial>) -> Conclusion {
        let asked: Vec<&String> = self.tests.filter.iter().chain(&self.filters).collect();
        let is_asked = |name: &str| {
            let is_it = |filter: &&String| if self.tests.exact { name == *filter } else { name.contains(*filter) };
            asked.is_empty() || asked.iter().any(is_it)
        };
        tests.retain(|test| is_asked(test.name()));
        libtest_mimic::run(&Arguments { filter: None, ..self.tests.clone() }, tests)
    }

    /// The run among tests.
    pub(crate) fn tested_order(&self) -> Order {
        Order { lasts: SHORT, seed: self.seed.unwrap_or(TESTED_SEED) }
    }
}
