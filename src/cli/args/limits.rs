//! Limits as options of commands.

use crate::cli::live;
use clap::Args;
use clap_complete::engine::ArgValueCandidates;

/// Limits that runners and projects have.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Limits")]
pub struct SharedLimits {
    /// Memory it may never exceed, as in 1G
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    pub memory_max: Option<String>,
    /// Memory above which it is slowed down
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    pub memory_high: Option<String>,
    /// Swap it may use
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    pub memory_swap_max: Option<String>,
    /// CPU time, as in 150% (of one CPU)
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true)]
    pub cpu_quota: Option<String>,
    /// Share of CPU time among equals, 1 to 10000
    #[arg(long, value_name = "WEIGHT", allow_negative_numbers = true)]
    pub cpu_weight: Option<String>,
    /// Share of IO among equals, 1 to 10000
    #[arg(long, value_name = "WEIGHT", allow_negative_numbers = true)]
    pub io_weight: Option<String>,
    /// Processes and threads
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub tasks_max: Option<String>,
}

/// Limits that only runners have.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Limits")]
pub struct OwnLimits {
    /// Time after which it is stopped, as in 1h 30min
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    pub runtime_max: Option<String>,
    /// Time between the stop signal and SIGKILL; 10s if neither this nor the configuration says one
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    pub stop_timeout: Option<String>,
    /// The stop signal, usually SIGTERM
    #[arg(long, value_name = "SIGNAL", allow_negative_numbers = true, add = ArgValueCandidates::new(live::signals))]
    pub kill_signal: Option<String>,
    /// What an OOM kill does to the rest of it: continue (usually), stop or kill
    #[arg(long, value_name = "POLICY", allow_negative_numbers = true, add = ArgValueCandidates::new(live::oom_policies))]
    pub oom_policy: Option<String>,
}

impl SharedLimits {
    /// Keys and values that were given.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("memory-max", &self.memory_max),
            ("memory-high", &self.memory_high),
            ("memory-swap-max", &self.memory_swap_max),
            ("cpu-quota", &self.cpu_quota),
            ("cpu-weight", &self.cpu_weight),
            ("io-weight", &self.io_weight),
            ("tasks-max", &self.tasks_max),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.as_deref()?)))
    }
}

impl OwnLimits {
    /// Keys and values that were given.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("runtime-max", &self.runtime_max),
            ("stop-timeout", &self.stop_timeout),
            ("kill-signal", &self.kill_signal),
            ("oom-policy", &self.oom_policy),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.as_deref()?)))
    }
}
