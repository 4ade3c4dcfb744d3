//! What is measured, one file each.

mod counts;
mod drain;
mod idle;
mod large;
mod latency;
mod path;
mod peers;
mod retention;
mod steady;
mod tax;

use std::process::ExitCode;

use clap::ValueEnum as _;

use crate::bed::Bed;
use crate::figure::Figure;
use crate::options::{Options, Work};
use crate::report;

/// Measures what is wanted and prints it.
pub(crate) fn run(options: &Options) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let figures = runtime.block_on(measure(options));
    report::print(options, &figures);
    let has_passed_a_limit = figures.iter().any(|figure| figure.missed_by().is_some());
    // Times say nothing of a change on a machine that has other things to do; counts do.
    if options.counts && has_passed_a_limit { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn measure(options: &Options) -> Vec<Figure> {
    let bed = Bed::new().await;
    let mut figures = Vec::new();
    for work in Work::value_variants().iter().copied().filter(|work| options.wants(*work)) {
        report::progress(work);
        figures.extend(match work {
            Work::Counts => counts::measure(&bed).await,
            Work::Drain => drain::measure(&bed, options).await,
            Work::Latency => latency::measure(&bed, options).await,
            Work::Path => path::measure(&bed, options).await,
            Work::Tax => tax::measure(&bed, options).await,
            Work::Idle => idle::measure(&bed, options).await,
            Work::Large => large::measure(&bed, options).await,
            Work::Retention => retention::measure(&bed, options).await,
            Work::Steady => steady::measure(&bed, options).await,
        });
    }
    figures
}
