//! `run`.

use super::{OwnLimits, SharedLimits};
use crate::cli::live;
use crate::cli::remote::Remote;
use clap::{Args, ValueEnum, ValueHint};
use clap_complete::engine::ArgValueCandidates;
use std::str::FromStr;

/// Where to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum On {
    /// The best host of the fleet.
    Auto,
    /// This host.
    Host(Remote),
}

impl FromStr for On {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            host => host.parse().map(Self::Host),
        }
    }
}

/// How a launch gets to another host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Via {
    #[default]
    Ssh,
    Store,
}

/// `run`.
#[derive(Debug, Args)]
#[command(override_usage = "stratavorectl run [OPTIONS] PROJECT -- COMMAND…")]
pub struct Run {
    /// The project it belongs to
    #[arg(value_name = "PROJECT", add = ArgValueCandidates::new(live::projects))]
    pub project: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<String>,
    /// A name to use instead of the id
    #[arg(long)]
    pub name: Option<String>,
    /// Run as this user (name or number) instead of yourself
    #[arg(long, value_name = "USER", add = ArgValueCandidates::new(live::users))]
    pub uid: Option<String>,
    /// Run in this directory instead of the current one
    #[arg(long, value_name = "PATH", value_hint = ValueHint::DirPath)]
    pub working_directory: Option<String>,
    /// Set an environment variable; NAME alone takes it from your own environment
    #[arg(short = 'E', long, value_name = "NAME[=VALUE]")]
    pub setenv: Vec<String>,
    /// Set variables from this file, over those of -E; its format is that of systemd's EnvironmentFile=, a “-” before
    /// the path says that it may be missing
    #[arg(long, value_name = "PATH", allow_hyphen_values = true, value_hint = ValueHint::FilePath)]
    pub env_file: Vec<String>,
    /// Give the runner a copy of this file as $CREDENTIALS_DIRECTORY/NAME
    #[arg(long, value_name = "NAME:PATH")]
    pub load_credential: Vec<String>,
    /// Attach a label
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Make a repeated launch with this id return the first one's runner
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
    /// Wait for its turn where a quota, budget, hold, cordon or its session is in the way, instead of being refused
    #[arg(long, conflicts_with = "pipe")]
    pub queue: bool,
    /// Go before others of its project that wait, from -100 to 100; 0 without it
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// Reserve so many tokens of every budget it belongs to, as in 200k or 2M (powers of 1000); without it, its project's
    /// default
    #[arg(long, value_name = "N")]
    pub tokens: Option<String>,
    /// Go on with this session, of which one runner is live at a time
    #[arg(long, value_name = "NAME")]
    pub session: Option<String>,
    /// Wait until it has ended, and exit with its status
    #[arg(long)]
    pub wait: bool,
    /// Make your standard input, output and error the runner's; wait, and exit with its status
    #[arg(short = 'P', long)]
    pub pipe: bool,
    /// Keep its output in a file of at most this size, the newest of it, instead of the journal
    #[arg(long, value_name = "SIZE", conflicts_with = "pipe")]
    pub log_file_max: Option<String>,
    /// Launch nothing: tell how every quota, budget and hold stands
    #[arg(long, conflicts_with_all = ["wait", "pipe"])]
    pub explain: bool,
    /// Run on this host of the fleet, reached as --via says; auto chooses one and says why
    #[arg(long, value_name = "[USER@]HOST|auto", conflicts_with_all = ["host", "user", "pipe"], value_hint = ValueHint::Hostname)]
    pub on: Option<On>,
    /// How that host is reached: by ssh, as with -H and with your rights there; or through the store of the fleet, where
    /// root's agent.toml of that host accepts it and your rights here count
    #[arg(long, value_enum, default_value_t, value_name = "WAY", requires = "on")]
    pub via: Via,
    /// With --on auto: only a host with this label
    #[arg(long, value_name = "KEY=VALUE", requires = "on")]
    pub host_label: Vec<String>,
    /// Its limits.
    #[command(flatten)]
    pub shared: SharedLimits,
    /// The runner's own limits.
    #[command(flatten)]
    pub own: OwnLimits,
}
