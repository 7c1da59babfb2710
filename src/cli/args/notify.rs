//! Options of `notify`.

use crate::cli::live;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;

/// `notify`.
#[derive(Debug, Subcommand)]
pub enum Notify {
    /// List the notification rules of this host, and how they fare
    List,
    /// Show everything about one rule: what it tells, to whom, what arrived last, what failed last and why
    Show(OneRule),
    /// Post a test message by a rule now, or by each of them, and tell whether it arrived
    #[command(
        after_help = "One try, at most 10 s. Exit status: 0 if all arrived, else 1 with the reason."
    )]
    Test(SomeRules),
}

/// One rule.
#[derive(Debug, Args)]
pub struct OneRule {
    /// The rule: NAME of its section [notify.rules.NAME]
    #[arg(value_name = "RULE", add = ArgValueCandidates::new(live::notify_rules))]
    pub rule: String,
}

/// One rule or all.
#[derive(Debug, Args)]
pub struct SomeRules {
    /// The rule; without it all, one after the other
    #[arg(value_name = "RULE", add = ArgValueCandidates::new(live::notify_rules))]
    pub rule: Option<String>,
}
