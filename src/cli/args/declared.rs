//! Options of `diff` and `apply`.

use clap::{Args, ValueHint};
use std::path::PathBuf;

/// `diff`.
#[derive(Debug, Args)]
#[command(
    after_help = "The file is described in declared.toml(5). What is not declared is no difference, unless the file says mutable = false.\n\n\
                  Exit status: 0 nothing differs, 6 something does; else as always. To make it so: stratavorectl apply."
)]
pub struct Diff {
    /// The file, if it is not /etc/stratavore/declared.toml (with --user: ~/.config/stratavore/declared.toml)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// List what is there and not declared, too
    #[arg(long)]
    pub all: bool,
}

/// `apply`.
#[derive(Debug, Args)]
#[command(
    after_help = "It asks for each change as you would by “project”, “fleet” and “budget”, with your rights, and tells what it did. What is so \
                  already is not touched, so a second time there is nothing to do; and what was cut off is gone on with by doing it again. What \
                  somebody else changes meanwhile is looked at anew.\n\n\
                  What is not declared is left alone. With mutable = false in the file it is removed; a project with runners stays until they \
                  have ended, and is named. stratavore-apply.service does this at boot, where there is a file."
)]
pub struct Apply {
    /// The file, if it is not /etc/stratavore/declared.toml (with --user: ~/.config/stratavore/declared.toml)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// Change nothing, only show what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Only tell whether the file is right; works without daemon and bus
    #[arg(long, conflicts_with = "dry_run")]
    pub check: bool,
}
