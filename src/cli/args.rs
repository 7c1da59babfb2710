//! The command line. What is written here is what `--help` says.

mod audit;
mod budget;
mod declared;
mod hosts;
mod limits;
mod notify;
mod number;
mod policies;
mod project;
mod run;

pub use audit::{Audit, Export, Verify};
pub use budget::{Budget, BudgetTarget, ReportUsage, SetBudget, Usage};
pub use declared::{Apply, Diff};
pub use hosts::{Cordon, Drain, Fleet, Host, OneHost, SetFleet};
pub use limits::{OwnLimits, SharedLimits};
pub use notify::{Notify, OneRule, SomeRules};
pub use policies::{Hold, HoldTarget, SetHold};
pub use project::{Project, ProjectSettings};
pub use run::{On, Run, Via};

use super::live;
use super::remote::Remote;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::engine::ArgValueCandidates;

/// Where options stand that every command has.
const GENERAL: &str = "General options";

/// Launch, see and control the runners of this host.
#[derive(Debug, Parser)]
#[command(
    name = "stratavorectl",
    version = crate::VERSION_TEXT,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "The first steps: stratavorectl project create web; stratavorectl run web -- sleep 60; stratavorectl list. \
                  Each command explains itself: stratavorectl run --help.\n\n\
                  Exit status: 0 done, 1 failed, 2 usage, 3 refused by a quota, budget, hold, cordon or a full queue, \
                  4 not permitted, 5 no such thing, 6 not as declared (diff). \
                  “run --wait” and “run --pipe” exit with the command's own status, 128+n for a signal; 125 if it could not be launched or \
                  nobody knows its status, 126 not executable, 127 not found."
)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Talk to your own stratavored, of your session and its systemd
    #[arg(long, global = true, help_heading = GENERAL, conflicts_with = "system")]
    pub user: bool,
    /// Talk to the system's stratavored (the default)
    #[arg(long, global = true, help_heading = GENERAL)]
    pub system: bool,
    /// Act on another host, by ssh; its port may follow after a colon
    #[arg(short = 'H', long, global = true, help_heading = GENERAL, value_name = "[USER@]HOST", conflicts_with = "user", value_hint = ValueHint::Hostname)]
    pub host: Option<Remote>,
    /// How to print
    #[arg(short, long, global = true, help_heading = GENERAL, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// Say less: list prints ids alone, other commands leave out notes on how things went
    #[arg(short, long, global = true, help_heading = GENERAL)]
    pub quiet: bool,
    /// Print without a pager
    #[arg(long, global = true, help_heading = GENERAL)]
    pub no_pager: bool,
    /// Print neither the headings of tables nor the lines below them
    #[arg(long, global = true, help_heading = GENERAL)]
    pub no_legend: bool,
    /// Shorten nothing to the width of the terminal
    #[arg(short = 'l', long, global = true, help_heading = GENERAL)]
    pub full: bool,
    /// Never ask for a password
    #[arg(long, global = true, help_heading = GENERAL)]
    pub no_ask_password: bool,
}

/// Output formats: for people, one JSON document, one JSON object a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
    Jsonl,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Launch a command as a runner of a project, and print its id
    Run(Box<Run>),
    /// List live runners, newest first
    List(List),
    /// Show everything about one runner: limits, usage, what happened, how it ended, its last output
    Show(Show),
    /// Tell why a runner is as it is, or whether and why a project admits no launch
    Why(Why),
    /// Stop runners with all their processes, and wait until they have ended
    Stop(Stop),
    /// Send a signal to every process of runners; what is queued is taken out of the queue, whatever the signal
    Kill(Kill),
    /// Freeze runners: all their processes stand still
    Freeze(Many),
    /// Thaw frozen runners
    Thaw(Many),
    /// Change limits of live runners, as in: set ID memory-max=2G cpu-quota=infinity
    Set(Set),
    /// Print the output of a runner, live or ended
    Logs(Logs),
    /// Wait until runners have ended, and tell how
    Wait(Wait),
    /// List events, oldest first
    Events(Events),
    /// Create, change, show and remove projects
    #[command(subcommand)]
    Project(Project),
    /// Cap the tokens that runners of a project, a session or the fleet use in a period
    #[command(subcommand)]
    Budget(Budget),
    /// Tell what runners use of a model, which their budgets are charged
    #[command(subcommand)]
    Usage(Usage),
    /// Hold a project, a label or the whole fleet: launch nothing, freeze what runs, until a time
    #[command(subcommand)]
    Hold(Hold),
    /// See the hosts of the fleet, keep new runners from one, empty one, give one up
    #[command(subcommand)]
    Host(Host),
    /// See and set what holds for all hosts together
    #[command(subcommand)]
    Fleet(Fleet),
    /// Tell how projects, the fleet's quota and budgets differ from what a file declares
    Diff(Diff),
    /// Make projects, the fleet's quota and budgets what a file declares
    Apply(Apply),
    /// See whether what was done is written down whole, and export it
    #[command(subcommand)]
    Audit(Audit),
    /// See and try the rules that tell webhooks what happens on this host
    #[command(subcommand)]
    Notify(Notify),
    /// See the events that are still to be published to the broker, and try parked ones again
    #[command(subcommand)]
    Outbox(super::outbox::Outbox),
    /// Move to a fleet's store
    #[command(subcommand)]
    Store(super::store::Store),
    /// Show what live runners use just now, the busiest first, again and again
    Top(Top),
    /// Compare what the store says with what runs, and set right what differs
    Reconcile(Reconcile),
    /// Show how stratavored is: its version, its store, how many runners live
    Status,
    /// Check this host, and say how to mend what is wrong; works without daemon, bus and systemd
    #[command(
        after_help = "One line for each check: ok, note, warning or problem. Exit status: 0 if there is no warning and no problem, else 1. \
                            With -q only warnings and problems. Root sees more than other users; what was not seen is said. \
                            It looks at the host it runs on, so -H is refused: ssh HOST stratavorectl doctor."
    )]
    Doctor,
    /// Print what a shell loads to complete our words; “make install” has put it in place already
    Completions(Completions),
}

/// `top`.
#[derive(Debug, Args)]
pub struct Top {
    /// Sort by this; on a terminal the keys c, m, t and i choose another
    #[arg(long, value_enum, default_value_t, value_name = "ORDER")]
    pub order: Order,
    /// Time between two looks
    #[arg(short, long, value_name = "TIME", default_value = "3s")]
    pub delay: String,
    /// End after so many looks; without it, go on until q is pressed, or look once if not on a terminal
    #[arg(short = 'n', long, value_name = "N", value_parser = number::from::<u32>(1))]
    pub iterations: Option<u32>,
    /// Print below each other instead of over each other, and listen to no key
    #[arg(short, long)]
    pub batch: bool,
    /// Only of this project
    #[arg(long, add = ArgValueCandidates::new(live::projects))]
    pub project: Option<String>,
    /// Only on this host: its name, its id or the beginning of its id (from 4 characters). What a runner of another host uses is known there: -H HOST top
    #[arg(long, value_name = "HOST", add = ArgValueCandidates::new(live::hosts))]
    pub on: Option<String>,
}

/// What `top` sorts by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Order {
    #[default]
    Cpu,
    Memory,
    Tasks,
    Io,
}

/// `reconcile`.
#[derive(Debug, Args)]
#[command(after_help = "stratavored does the same at its start and every minute; nobody has to.")]
pub struct Reconcile {
    /// Change nothing, only show what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// `completions`.
#[derive(Debug, Args)]
#[command(
    after_help = "To have them in this shell alone: source <(stratavorectl completions bash)"
)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

/// Shells that can complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
        }
    }
}

/// `list`.
#[derive(Debug, Args)]
pub struct List {
    /// Only of this project
    #[arg(long, add = ArgValueCandidates::new(live::projects))]
    pub project: Option<String>,
    /// Only in this state: queued, starting, running, frozen, stopping or ended
    #[arg(long, add = ArgValueCandidates::new(live::states))]
    pub state: Vec<String>,
    /// Only on this host: its name, its id or the beginning of its id (from 4 characters)
    #[arg(long, value_name = "HOST", add = ArgValueCandidates::new(live::hosts))]
    pub on: Option<String>,
    /// Only with this label
    #[arg(long, value_name = "KEY=VALUE", add = ArgValueCandidates::new(live::labels))]
    pub label: Vec<String>,
    /// Also those that have ended
    #[arg(long)]
    pub all: bool,
    /// Only made at or after this time, as in 2026-11-22 10:00, yesterday, or -2h
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Only made before this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// At most so many; 1000 without it where ended ones are listed
    #[arg(long, value_name = "N", value_parser = number::from::<u32>(1))]
    pub limit: Option<u32>,
}

/// `show`.
#[derive(Debug, Args)]
pub struct Show {
    /// The id, a unique prefix of it (from 4 characters), or the name
    #[arg(value_name = "ID", add = ArgValueCandidates::new(live::all_runners))]
    pub id: String,
    /// How many of the last lines of its output are shown, of those that you may read
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = number::from::<u32>(0))]
    pub lines: u32,
}

/// `why`.
#[derive(Debug, Args)]
pub struct Why {
    /// The id, a unique prefix of it (from 4 characters), or the name of a runner; or the name of a project
    #[arg(value_name = "ID|PROJECT",
        required_unless_present = "project",
        conflicts_with = "project", add = ArgValueCandidates::new(live::runners_and_projects))]
    pub what: Option<String>,
    /// This project, even if a runner is called so, too
    #[arg(long, add = ArgValueCandidates::new(live::projects))]
    pub project: Option<String>,
}

/// `logs`.
#[derive(Debug, Args)]
#[command(
    after_help = "Of a runner with --log-file-max it comes from its file, complete to its size. Else it comes from the journal: what a \
                  runner prints faster than journald allows (by default 10,000 lines in 30 s, more while the disk has room) is not there; journald says how many lines it dropped, see journalctl -u systemd-journald."
)]
pub struct Logs {
    /// Go on printing until it has ended; begins with the last 10 lines
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "N", value_parser = number::from::<u64>(0))]
    pub lines: Option<u64>,
    /// The id, a unique prefix of it (from 4 characters), or the name
    #[arg(value_name = "ID", add = ArgValueCandidates::new(live::all_runners))]
    pub id: String,
}

/// Some runners.
#[derive(Debug, Clone, Args)]
pub struct Many {
    /// Ids, unique prefixes of them (from 4 characters), or names
    #[arg(value_name = "ID", add = ArgValueCandidates::new(live::runners))]
    pub ids: Vec<String>,
    /// Choose.
    #[command(flatten)]
    pub choice: Choice,
}

/// Live runners by what they have in common.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Instead of ids")]
pub struct Choice {
    /// All live runners of this project
    #[arg(long, add = ArgValueCandidates::new(live::projects))]
    pub project: Option<String>,
    /// All live runners with this label
    #[arg(long, value_name = "KEY=VALUE", add = ArgValueCandidates::new(live::labels))]
    pub label: Vec<String>,
    /// All live runners
    #[arg(long)]
    pub all: bool,
}

/// `stop`.
#[derive(Debug, Args)]
#[command(
    after_help = "A runner that waits for its turn leaves the queue: nothing of it runs, and its cause is “cancelled”. What \
                  is given instead of ids means those that wait, too."
)]
pub struct Stop {
    /// Return as soon as the stop is recorded
    #[arg(long)]
    pub no_block: bool,
    /// Which.
    #[command(flatten)]
    pub which: Many,
}

/// `kill`.
#[derive(Debug, Args)]
pub struct Kill {
    /// The signal, by name or number
    #[arg(short, long, default_value = "SIGTERM", add = ArgValueCandidates::new(live::signals))]
    pub signal: String,
    /// Which.
    #[command(flatten)]
    pub which: Many,
}

/// `set`.
#[derive(Debug, Args)]
#[command(override_usage = "stratavorectl set [OPTIONS] ID… KEY=VALUE…")]
pub struct Set {
    /// Ids, prefixes or names of runners, and limits such as memory-max=2G
    #[arg(value_name = "ID|KEY=VALUE", required = true, add = ArgValueCandidates::new(live::runners_and_limits))]
    pub words: Vec<String>,
    /// Choose.
    #[command(flatten)]
    pub choice: Choice,
}

/// `wait`.
#[derive(Debug, Args)]
pub struct Wait {
    /// Ids, unique prefixes of them (from 4 characters), or names
    #[arg(value_name = "ID", required = true, add = ArgValueCandidates::new(live::runners))]
    pub ids: Vec<String>,
}

/// `events`.
#[derive(Debug, Args)]
pub struct Events {
    /// Go on printing events as they happen
    #[arg(short, long)]
    pub follow: bool,
    /// Only those after this position; 0 = all. Following begins at the last ten without it
    #[arg(long, value_name = "SEQ", value_parser = number::from::<u64>(0))]
    pub after: Option<u64>,
    /// Only the last so many, at most 1000
    #[arg(short = 'n', long, value_name = "N", value_parser = number::from::<u32>(0))]
    pub lines: Option<u32>,
    /// Only those of this project
    #[arg(long, add = ArgValueCandidates::new(live::projects))]
    pub project: Option<String>,
    /// Only those of this runner: its id, a unique prefix of it (from 4 characters), or its name
    #[arg(long, value_name = "ID", add = ArgValueCandidates::new(live::all_runners))]
    pub runner: Option<String>,
    /// Only those of this type, such as runner.ended
    #[arg(long, value_name = "TYPE", add = ArgValueCandidates::new(live::event_types))]
    pub r#type: Option<String>,
}
