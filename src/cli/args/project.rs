//! `project`.

use super::SharedLimits;
use crate::cli::live;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;

/// `project`.
#[derive(Debug, Subcommand)]
pub enum Project {
    /// Make a project
    Create(Box<ProjectSettings>),
    /// Change settings of a project; infinity lifts a limit
    Set(Box<ProjectSettings>),
    /// Show a project
    Show {
        /// Its name
        #[arg(add = ArgValueCandidates::new(live::projects))]
        name: String,
    },
    /// List all projects
    List,
    /// Remove projects without live or waiting runners; their budgets and holds go with them
    Remove {
        /// Their names
        #[arg(required = true, add = ArgValueCandidates::new(live::projects))]
        name: Vec<String>,
    },
}

/// Settings of a project.
#[derive(Debug, Args)]
pub struct ProjectSettings {
    /// Its name
    #[arg(add = ArgValueCandidates::new(live::projects))]
    pub name: String,
    /// What people call it
    #[arg(long)]
    pub description: Option<String>,
    /// Most live runners at a time
    #[arg(long, value_name = "N")]
    pub max_runners: Option<String>,
    /// Most runners that wait for their turn (run --queue) at a time; 1000 without it
    #[arg(long, value_name = "N")]
    pub max_queued: Option<String>,
    /// Tokens that a launch reserves of budgets that does not say (run --tokens), as in 200k or 2M (powers of 1000)
    #[arg(long, value_name = "N")]
    pub default_tokens: Option<String>,
    /// What all its runners share.
    #[command(flatten)]
    pub limits: SharedLimits,
}
