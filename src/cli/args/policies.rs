//! Options of `hold`.

use crate::cli::live;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;

/// `hold`.
#[derive(Debug, Subcommand)]
pub enum Hold {
    /// Launch nothing of these from now on; what runs goes on, or is frozen
    #[command(
        after_help = "As in: stratavorectl hold set --label key=shared --until +30min --freeze --reason 'rate limit'.\n\n\
                      All that it froze goes on by itself when it ends; what somebody else froze stays frozen. A hold that is set again takes \
                      the place of the one before."
    )]
    Set(SetHold),
    /// List the holds in force
    List,
    /// End a hold now
    Release(HoldTarget),
}

/// Whom a hold is about.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct HoldTarget {
    /// The runners of this project
    #[arg(long, add = ArgValueCandidates::new(live::projects))]
    pub project: Option<String>,
    /// The runners with this label
    #[arg(long, value_name = "KEY=VALUE", add = ArgValueCandidates::new(live::labels))]
    pub label: Option<String>,
    /// All runners
    #[arg(long)]
    pub fleet: bool,
}

/// `hold set`.
#[derive(Debug, Args)]
pub struct SetHold {
    /// Whom.
    #[command(flatten)]
    pub target: HoldTarget,
    /// End it by itself at this time, as in 2026-11-22 10:00, 18:30, or +30min; without it, when it is released
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Freeze what runs, too
    #[arg(long)]
    pub freeze: bool,
    /// Say why; shown to everybody
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}
