//! The daemon's command line.

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use stratavore::config::{Config, FILE};
use stratavore::daemon::Fatal;
use stratavore::{daemon, telemetry};

/// EX_CONFIG of sysexits.h: a new start won't help, so stratavored.service is not started again.
const CONFIG: u8 = 78;

/// Stratavore's daemon: launches runners as systemd scopes and keeps their truth. Started by
/// stratavored.service.
#[derive(Debug, Parser)]
#[command(name = "stratavored", version = stratavore::VERSION_TEXT)]
struct Args {
    /// Configuration file; FILE.d/*.toml is read after it
    #[arg(long, value_name = "FILE", default_value = FILE)]
    config: PathBuf,
    /// Check the configuration and exit: 0 if it is right, 1 with file, line and key if not
    #[arg(long, value_name = "FILE")]
    check_config: Option<Option<PathBuf>>,
    /// Show every value with where it came from, and exit
    #[arg(long, conflicts_with = "check_config")]
    print_config: bool,
    /// The agent's socket
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/stratavore/agent.sock"
    )]
    agent_socket: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let loaded = match &args.check_config {
        Some(Some(file)) => {
            let mut config = Config::default();
            config.read(file).map(|()| config)
        }
        _ => Config::load(&args.config),
    };
    let config = match loaded {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return match args.check_config.is_some() || args.print_config {
                true => ExitCode::FAILURE,
                false => ExitCode::from(CONFIG),
            };
        }
    };
    if args.check_config.is_some() {
        return ExitCode::SUCCESS;
    }
    if args.print_config {
        print!("{}", config.print());
        return ExitCode::SUCCESS;
    }
    telemetry::start();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "The runtime can't be started");
            return ExitCode::FAILURE;
        }
    };
    let paths = daemon::Paths {
        agent: args.agent_socket,
    };
    match runtime.block_on(daemon::run(config, paths)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "stratavored ends");
            match error {
                Fatal::Store(_) => ExitCode::from(CONFIG),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
