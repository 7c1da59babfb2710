//! The host's one hand on systemd.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    stratavore::agent::main(stratavore::agent::Args::parse())
}
