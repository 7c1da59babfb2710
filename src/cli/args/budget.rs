//! Options of `budget` and `usage`.

use crate::cli::live;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;

/// `budget`.
#[derive(Debug, Subcommand)]
pub enum Budget {
    /// Set a budget, or change some of its settings: what it has used stays
    #[command(
        after_help = "As in: stratavorectl budget set --scope project:web --period day --limit 2M --timezone Europe/Berlin --on-exhausted freeze.\n\n\
                      A launch reserves what it may use (run --tokens, or the project's default) in every budget it belongs to, and is refused \
                      where used, reserved and its own tokens are more than the limit. A higher limit lets go on what was frozen."
    )]
    Set(SetBudget),
    /// Show a budget
    Show(BudgetTarget),
    /// List all budgets, and how they stand
    List,
    /// Remove a budget: nothing is counted any more, what it froze goes on
    Remove(BudgetTarget),
}

/// Which budget.
#[derive(Debug, Args)]
pub struct BudgetTarget {
    /// Whose tokens: fleet, project:NAME or session:NAME
    #[arg(long, value_name = "SCOPE", add = ArgValueCandidates::new(live::scopes))]
    pub scope: String,
    /// How long they have to last: hour, day, week (from Monday), month, or none (for ever)
    #[arg(long, value_name = "PERIOD", add = ArgValueCandidates::new(live::periods))]
    pub period: String,
}

/// `budget set`.
#[derive(Debug, Args)]
pub struct SetBudget {
    /// Which.
    #[command(flatten)]
    pub target: BudgetTarget,
    /// How many tokens in a period, as in 200k or 2M (powers of 1000); 0 = no launch at all
    #[arg(long, value_name = "N")]
    pub limit: Option<String>,
    /// On the clock of this time zone periods begin, as in Europe/Berlin; UTC without it
    #[arg(long, value_name = "ZONE", add = ArgValueCandidates::new(live::zones))]
    pub timezone: Option<String>,
    /// What happens to running work when it is used up: deny (it goes on), freeze (until there is room), or stop
    #[arg(long, value_name = "POLICY", add = ArgValueCandidates::new(live::on_exhausted))]
    pub on_exhausted: Option<String>,
    /// Which tokens count, with commas between them: input, output, cache-read, cache-write; all without it
    #[arg(long, value_name = "KINDS", add = ArgValueCandidates::new(live::counts))]
    pub count: Option<String>,
}

/// `usage`.
#[derive(Debug, Subcommand)]
pub enum Usage {
    /// Tell how many tokens a runner has used since it began
    #[command(
        after_help = "Numbers are totals since the runner began, not what came on top: the larger one counts, so the same report may be made \
                      twice. A runner reports for itself, by any of its processes; for another one it takes the right report-usage."
    )]
    Report(ReportUsage),
}

/// `usage report`.
#[derive(Debug, Args)]
pub struct ReportUsage {
    /// The runner, if this is not run in it: its id, a unique prefix of it (from 4 characters), or its name
    #[arg(long, value_name = "ID", add = ArgValueCandidates::new(live::all_runners))]
    pub runner: Option<String>,
    /// Counters.
    #[command(flatten)]
    pub tokens: ReportedTokens,
}

/// Counters of a report.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct ReportedTokens {
    /// What the model was given, without what came from or went into its cache
    #[arg(long, value_name = "N")]
    pub tokens_in: Option<String>,
    /// What it answered
    #[arg(long, value_name = "N")]
    pub tokens_out: Option<String>,
    /// What it was given out of its cache
    #[arg(long, value_name = "N")]
    pub tokens_cache_read: Option<String>,
    /// What it was given to keep in its cache
    #[arg(long, value_name = "N")]
    pub tokens_cache_write: Option<String>,
}
