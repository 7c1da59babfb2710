//! Options of `audit`.

use crate::cli::live;
use clap::{Args, Subcommand, ValueHint};
use clap_complete::engine::ArgValueCandidates;
use std::path::PathBuf;

/// `audit`.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Look whether the audit of a host is whole: nothing changed, nothing missing
    #[command(
        after_help = "Without FILE and --key stratavored looks, with its own key and the anchors it knows. With --key you need not trust it: the audit is \
                      read from it and looked at here. With FILE no daemon is needed: that is an audit that “audit export” has written.\n\n\
                      An anchor tells how long the audit was at a time. Take it from where nobody who can write to the store can write:\n\n\
                      \x20 journalctl -o json -u stratavored >anchors\n\
                      \x20 stratavorectl audit verify --anchor anchors\n\n\
                      Exit status: 0 whole; 5 if none is kept; else 1 with what is wrong and what to do."
    )]
    Verify(Verify),
    /// Write the audit of a host to a file that “audit verify” takes
    Export(Export),
}

/// `audit verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// An exported audit; without it that of the host
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// A file with a key of it; may be given again for one that was replaced
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key: Vec<PathBuf>,
    /// A file with anchors that it must agree with, one on a line: of the journal or of events, as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub anchor: Vec<PathBuf>,
    /// Whose: the name or id of a host of the fleet; without it that of this host
    #[arg(long, value_name = "HOST", conflicts_with = "file", add = ArgValueCandidates::new(live::hosts))]
    pub of: Option<String>,
}

/// `audit export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Where to; without it to standard output. It must not be there yet
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// Whose: the name or id of a host of the fleet; without it that of this host
    #[arg(long, value_name = "HOST", add = ArgValueCandidates::new(live::hosts))]
    pub of: Option<String>,
}
