//! The binary: arguments, one command, an exit code.

use std::process::ExitCode;

use clap::Parser;
use postbell::cli::{self, Cli};

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => cli::run(cli),
        Err(error) => cli::refuse(&error),
    }
}
