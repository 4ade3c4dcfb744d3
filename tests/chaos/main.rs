//! Fault runs: real servers, several relays and consumers, business transactions, faults by a seeded schedule, and at the
//! end a count of every event.
//!
//! `ops/chaos` runs it for as long as one likes. `cargo test` runs it for a short time, and tests its judge: a count that
//! cannot fail proves nothing.
//!
//! The files in the order of a run: `options`, `cluster` (what runs), `writers` (business), `schedule` (which fault
//! comes when), `faults` (how it is done), `recovery` (how long until delivery flows again), `ledger` (what writers and
//! robot saw), `judge` (what that proves), `report`.

#[cfg(test)]
mod cluster;
#[cfg(test)]
mod faults;
#[cfg(test)]
#[expect(dead_code, unused_imports, reason = "tests/it uses the rest of it")]
#[path = "../it/harness/mod.rs"]
mod harness;
#[cfg(test)]
mod judge;
#[cfg(test)]
mod ledger;
#[cfg(test)]
mod options;
#[cfg(test)]
mod progress;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod report;
#[cfg(test)]
mod run;
#[cfg(test)]
mod schedule;
#[cfg(test)]
mod writers;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let options = options::Options::parse();
    match options.seconds {
        Some(_) => run::by_itself(&options),
        None => run::among_tests(&options),
    }
}
