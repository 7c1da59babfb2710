//! What we answer when we say no: a name programs can match on and a sentence
//! for the person who reads it (what was refused, which limit, its value, what
//! to do).

use std::fmt;

/// The error names of the D-Bus interface, `org.stratavore1.Error.<Name>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No runner has this id, prefix or name.
    NoSuchRunner,
    /// No project has this name.
    NoSuchProject,
    /// The object to be created is already there.
    AlreadyExists,
    /// Several live runners answer to this name or prefix.
    AmbiguousName,
    /// The request itself is wrong; repeating it cannot help.
    InvalidArgument,
    /// No host of the fleet has this id or name.
    NoSuchHost,
    /// No session has this name.
    NoSuchSession,
    /// There is no budget of this scope and period.
    NoSuchBudget,
    /// There is no hold of this scope.
    NoSuchHold,
    /// This host has no user with this name or uid.
    NoSuchUser,
    /// A cap on live runners is reached.
    QuotaExceeded,
    /// A token budget does not have so many tokens left.
    BudgetExceeded,
    /// As many runners wait as may wait.
    QueueFull,
    /// A hold is in force.
    Held,
    /// The host takes no new runners.
    Cordoned,
    /// More was asked for than root's `agent.toml` allows.
    LimitsExceeded,
    /// The caller may not do this.
    NotPermitted,
    /// The same request id was used with other parameters, or the object is in use.
    Conflict,
    /// The store does not answer; nothing was changed.
    StoreUnavailable,
    /// The kernel of this host does not hold the limit.
    LimitUnenforceable,
    /// The agent of this host does not answer.
    HostUnavailable,
    /// The command could not be started.
    LaunchFailed,
    /// The runner's state does not allow this.
    WrongState,
    /// polkit could ask the user, if the caller let it.
    InteractiveAuthorizationRequired,
}

impl ErrorKind {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::NoSuchRunner,
        Self::NoSuchProject,
        Self::NoSuchHost,
        Self::NoSuchSession,
        Self::NoSuchBudget,
        Self::NoSuchHold,
        Self::NoSuchUser,
        Self::AlreadyExists,
        Self::AmbiguousName,
        Self::InvalidArgument,
        Self::QuotaExceeded,
        Self::BudgetExceeded,
        Self::QueueFull,
        Self::Held,
        Self::Cordoned,
        Self::LimitsExceeded,
        Self::NotPermitted,
        Self::Conflict,
        Self::StoreUnavailable,
        Self::LimitUnenforceable,
        Self::HostUnavailable,
        Self::LaunchFailed,
        Self::WrongState,
        Self::InteractiveAuthorizationRequired,
    ];

    /// The member name below `org.stratavore1.Error`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoSuchRunner => "NoSuchRunner",
            Self::NoSuchProject => "NoSuchProject",
            Self::NoSuchHost => "NoSuchHost",
            Self::NoSuchSession => "NoSuchSession",
            Self::NoSuchBudget => "NoSuchBudget",
            Self::NoSuchHold => "NoSuchHold",
            Self::NoSuchUser => "NoSuchUser",
            Self::AlreadyExists => "AlreadyExists",
            Self::AmbiguousName => "AmbiguousName",
            Self::InvalidArgument => "InvalidArgument",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::BudgetExceeded => "BudgetExceeded",
            Self::QueueFull => "QueueFull",
            Self::Held => "Held",
            Self::Cordoned => "Cordoned",
            Self::LimitsExceeded => "LimitsExceeded",
            Self::NotPermitted => "NotPermitted",
            Self::Conflict => "Conflict",
            Self::StoreUnavailable => "StoreUnavailable",
            Self::LimitUnenforceable => "LimitUnenforceable",
            Self::HostUnavailable => "HostUnavailable",
            Self::LaunchFailed => "LaunchFailed",
            Self::WrongState => "WrongState",
            Self::InteractiveAuthorizationRequired => "InteractiveAuthorizationRequired",
        }
    }

    /// The kind named `text`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name() == text)
    }
}

/// A refusal with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Which of the named errors.
    pub kind: ErrorKind,
    /// One or two sentences for a person.
    pub message: String,
}

impl Error {
    /// An error of `kind` with its sentence.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// Short for [`ErrorKind::InvalidArgument`], the most frequent one.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
