//! What of a runner's output somebody wants to read, and how.

use serde::{Deserialize, Serialize};

/// The most lines that can be asked for by number; without a number there is no limit.
pub const LINES_MAX: u64 = 1_000_000_000;
/// With how many lines following begins where nobody says.
pub const LINES_FOLLOWED: u64 = 10;

/// One reading.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsRequest {
    /// Begin with so many last lines; `None` = with all, or with [`LINES_FOLLOWED`] to follow.
    #[serde(default)]
    pub lines: Option<u64>,
    /// Go on with what comes, until the runner has ended and all is read.
    #[serde(default)]
    pub follow: bool,
    /// How lines look.
    #[serde(default)]
    pub output: LogOutput,
}

/// How lines look, in journalctl's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogOutput {
    /// Time, host, program, message.
    #[default]
    Short,
    /// The same with ISO 8601 times.
    ShortIso,
    /// The message alone.
    Cat,
    /// The journal's entry as a JSON object a line.
    Json,
}

impl LogOutput {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Short, Self::ShortIso, Self::Cat, Self::Json];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::ShortIso => "short-iso",
            Self::Cat => "cat",
            Self::Json => "json",
        }
    }

    /// The one of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|o| o.as_str() == text)
    }
}
