//! The benchmark: postbell's own binary, measured from outside, and in the same run the floors: what hand-written loops of
//! the same statements and requests reach on the same servers. Run it with `ops/bench`.
//!
//! The files in the order of a run: `options`, `bed` (servers, rows, processes), `floor` and `receiver` (what postbell is
//! held against, and who answers it), `usage` (CPU and memory of a process), `works` (what is measured), `figure`
//! (a measurement and its goal), `report` and
//! `chart`.

#[cfg(test)]
mod bed;
#[cfg(test)]
mod chart;
#[cfg(test)]
mod figure;
#[cfg(test)]
mod floor;
#[cfg(test)]
#[expect(dead_code, unused_imports, reason = "tests/it uses the rest of it")]
#[path = "../it/harness/mod.rs"]
mod harness;
#[cfg(test)]
mod options;
#[cfg(test)]
mod receiver;
#[cfg(test)]
mod report;
#[cfg(test)]
mod usage;
#[cfg(test)]
mod works;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let options = options::Options::parse();
    match options.floor {
        Some(floor) => floor::run(floor),
        None => works::run(&options),
    }
}
