//! The daemon's command line.

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use stratavore::config::Config;
use stratavore::daemon::{Fatal, Start};
use stratavore::domain::kinds;
use stratavore::domain::words::{GAVE_UP, without_number};
use stratavore::places::Places;
use stratavore::{daemon, journal, service, telemetry};

/// EX_CONFIG of sysexits.h: a new start won't help, so stratavored.service is not started again.
const CONFIG: u8 = 78;
/// The daemon's name in the journal.
const IDENTIFIER: &str = "stratavored";

/// Stratavore's daemon: launches runners as systemd scopes and keeps their truth. Started by
/// stratavored.service.
#[derive(Debug, Parser)]
#[command(name = "stratavored", version = stratavore::VERSION_TEXT)]
pub(crate) struct Args {
    /// Serve the calling user's own service manager, on its session bus
    #[arg(long)]
    user: bool,
    /// Configuration file instead of /etc/stratavore/stratavored.toml (with --user:
    /// $XDG_CONFIG_HOME/stratavore/stratavored.toml); FILE.d/*.toml is read after it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and exit: 0 if it is right, 1 with file, line and key if not
    #[arg(long, value_name = "FILE")]
    check_config: Option<Option<PathBuf>>,
    /// Look the store over and exit: 0 if it is sound, 1 with what is wrong. Nothing is changed
    #[arg(long, conflicts_with_all = ["check_config", "print_config"])]
    check_store: bool,
    /// Copy the embedded store FILE, with all that is in it, into the fleet's store of store.url, which must be empty,
    /// and exit; no daemon may use FILE. FILE is not changed. stratavorectl store migrate does it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["check_config", "check_store", "print_config"])]
    migrate_store: Option<PathBuf>,
    /// Show every value with where it came from, and exit
    #[arg(long, conflicts_with = "check_config")]
    print_config: bool,
    /// The agent's socket, if it is not agent.sock in /run/stratavore (with --user:
    /// $XDG_RUNTIME_DIR/stratavore)
    #[arg(long, value_name = "PATH")]
    agent_socket: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let places = match places(args.user) {
        Ok(places) => places,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    let loaded = match &args.check_config {
        Some(Some(file)) => Config::load_alone(&places, file),
        _ => Config::load(&places, args.config.as_deref()),
    };
    let loaded = match args.user {
        true => loaded.and_then(Config::check_user),
        false => loaded,
    };
    let config = match loaded {
        Ok(config) => config,
        Err(error) => {
            if args.check_config.is_some()
                || args.print_config
                || args.check_store
                || args.migrate_store.is_some()
            {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
            if journal::connected() {
                let log = telemetry::set_up();
                let _ = log.start(IDENTIFIER);
                tracing::error!(message_id = kinds::CONFIGURATION_ERROR.id, "{error}");
                log.flush();
                gave_up(&error);
            } else {
                eprintln!("{error}");
            }
            return ExitCode::from(CONFIG);
        }
    };
    if args.check_config.is_some() {
        for doubt in config.doubts() {
            eprintln!("{doubt}");
        }
        return ExitCode::SUCCESS;
    }
    if args.print_config {
        print!("{}", config.print());
        return ExitCode::SUCCESS;
    }
    if args.check_store {
        return say(daemon::check_store(&config));
    }
    if let Some(file) = &args.migrate_store {
        return say(daemon::migrate_store(&config, file));
    }
    let log = telemetry::set_up();
    if let Err(error) = log.start(IDENTIFIER) {
        eprintln!("The thread for the journal can't be started: {error}.");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(message_id = kinds::FAILED.id, %error, "The runtime can't be started");
            return ExitCode::FAILURE;
        }
    };
    let agent = args.agent_socket;
    let start = Start {
        user: args.user,
        agent: agent.unwrap_or_else(|| places.runtime.join("agent.sock")),
        config: args.config,
        places,
    };
    let code = match runtime.block_on(daemon::run(config, start, log.clone())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(message_id = kinds::FAILED.id, %error, "stratavored ends");
            match error {
                Fatal::Store(_) | Fatal::Configuration(_) => {
                    gave_up(&error);
                    ExitCode::from(CONFIG)
                }
                _ => ExitCode::FAILURE,
            }
        }
    };
    log.flush();
    code
}

/// What `systemctl status` and `stratavorectl doctor` show until it is started again.
fn gave_up(why: &dyn std::fmt::Display) {
    service::status(&without_number(format!("{GAVE_UP}{why}")));
}

fn places(user: bool) -> Result<Places, String> {
    match user {
        false => Ok(Places::system()),
        true if rustix::process::geteuid().is_root() => {
            Err("--user is for ordinary users; root has the system's stratavored.".to_owned())
        }
        true => Places::user(),
    }
}

/// Does it, prints what it answers, and ends.
fn say(work: impl Future<Output = Result<String, String>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let said = runtime
        .map_err(|e| e.to_string())
        .and_then(|r| r.block_on(work));
    match said {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{}", without_number(why));
            ExitCode::FAILURE
        }
    }
}
