//! Options of `host` and `fleet`.

use crate::cli::live;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;

/// `host`.
#[derive(Debug, Subcommand)]
pub enum Host {
    /// List the hosts of the fleet: how they are, what runs on them, who is cordoned
    List,
    /// Let nothing new start on a host; what runs there goes on
    #[command(
        after_help = "What waits there for its turn goes on waiting. It holds through restarts and reboots, until: stratavorectl host uncordon HOST."
    )]
    Cordon(Cordon),
    /// Let a host take new runners again; ends a drain, too
    Uncordon(OneHost),
    /// Cordon a host and stop all its runners, and wait until it is empty
    #[command(
        after_help = "Each is stopped as stop does it: the stop signal, SIGKILL after its stop timeout. The host does it by itself: it goes on \
                      when you press Ctrl-C, and a host that is away does it when it is back. What waits there for its turn goes on waiting until the \
                      host is uncordoned; to cancel it, stop it. The host stays cordoned."
    )]
    Drain(Drain),
    /// Give up a host that is gone for good: you say that nothing of it runs any more
    #[command(
        after_help = "Nothing is asked: its runners, those that wait too, end as host-lost, and the slots and tokens they held are given to others. \
                      So make sure that the machine is really off: what still runs there would run beside its successors, past every quota. \
                      It is refused while the host's lease holds. A host that comes back all the same joins anew and stops what it finds of the old runners. \
                      A host that is to leave in good order: host drain, then systemctl disable --now stratavored there, then host forget."
    )]
    Forget(OneHost),
}

/// A host.
#[derive(Debug, Args)]
pub struct OneHost {
    /// Its name, its id or the beginning of its id (from 4 characters)
    #[arg(id = "which", value_name = "HOST", add = ArgValueCandidates::new(live::hosts))]
    pub host: String,
}

/// `host cordon`.
#[derive(Debug, Args)]
pub struct Cordon {
    /// Which.
    #[command(flatten)]
    pub which: OneHost,
    /// Say why; shown to everybody
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `host drain`.
#[derive(Debug, Args)]
pub struct Drain {
    /// Which.
    #[command(flatten)]
    pub which: OneHost,
    /// Give them so much time to end by themselves, as in 10min; what still runs then is stopped. Without it, all are stopped now
    #[arg(long, value_name = "TIME")]
    pub deadline: Option<String>,
    /// Say why; shown to everybody
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Return as soon as it is recorded
    #[arg(long)]
    pub no_block: bool,
}

/// `fleet`.
#[derive(Debug, Subcommand)]
pub enum Fleet {
    /// Show how the fleet as a whole stands
    Show,
    /// Set what holds for all hosts together
    Set(SetFleet),
}

/// `fleet set`.
#[derive(Debug, Args)]
pub struct SetFleet {
    /// Most live runners of all projects on all hosts; infinity = no cap
    #[arg(long, value_name = "N|infinity", required = true)]
    pub max_runners: String,
}
