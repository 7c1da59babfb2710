//! What can go wrong, with the sentence for the person and the status for the shell.

use crate::api::errors::{INTERACTIVE, PREFIX};
use zbus::DBusError;

/// The exit statuses of the contract.
pub const FAILED: u8 = 1;
/// Wrong usage.
pub const USAGE: u8 = 2;
/// Refused by a quota.
pub const REFUSED: u8 = 3;
/// Not permitted.
pub const NOT_PERMITTED: u8 = 4;
/// No such thing.
pub const NO_SUCH: u8 = 5;

/// A failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For the shell.
    pub status: u8,
    /// The error's name without prefix, where it came over the bus.
    pub name: Option<String>,
    /// For the person.
    pub message: String,
}

/// The result of a command.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure of our own.
    pub fn new(status: u8, message: impl Into<String>) -> Self {
        Self {
            status,
            name: None,
            message: message.into(),
        }
    }

    /// Whether it has this name.
    pub fn is(&self, name: &str) -> bool {
        self.name.as_deref() == Some(name)
    }

    /// What a call came back with. `user` = it went over the session bus.
    pub fn of_call(error: &zbus::Error, user: bool) -> Self {
        match error {
            zbus::Error::MethodError(name, message, _) => {
                let message = message.clone().unwrap_or_default();
                Self::named(name.as_str(), message)
            }
            zbus::Error::FDO(error) => {
                let name = error.name().to_string();
                let message = error.description().unwrap_or_default().to_owned();
                let away = match name.rsplit('.').next().unwrap_or_default() {
                    "ServiceUnknown" | "NameHasNoOwner" | "NoReply" | "Disconnected"
                    | "TimedOut" | "Timeout" => true,
                    _ => name.contains(".Spawn."),
                };
                match away {
                    true => Self::away(user, &message),
                    false => Self::named(&name, message),
                }
            }
            zbus::Error::InputOutput(error) => Self::away(user, &error.to_string()),
            other => Self::new(FAILED, format!("The call failed: {other}")),
        }
    }

    fn named(name: &str, message: String) -> Self {
        let short = name.strip_prefix(PREFIX);
        let status = match short {
            Some("QuotaExceeded" | "BudgetExceeded" | "QueueFull" | "Held" | "Cordoned") => REFUSED,
            Some("NotPermitted") => NOT_PERMITTED,
            Some(other) if other.starts_with("NoSuch") => NO_SUCH,
            Some(_) => FAILED,
            None if name == INTERACTIVE || name.ends_with(".AccessDenied") => NOT_PERMITTED,
            // The bus asked systemd to start us.
            None if name.starts_with("org.freedesktop.systemd1.") || name.contains(".Spawn.") => {
                return Self::away(false, &message);
            }
            None => FAILED,
        };
        let message = match message.is_empty() {
            true => name.to_owned(),
            false => message,
        };
        Self {
            status,
            name: Some(short.unwrap_or(name).to_owned()),
            message,
        }
    }

    /// The daemon is not there.
    pub fn away(user: bool, why: &str) -> Self {
        let flag = if user { "--user " } else { "" };
        let why = match why.trim().trim_end_matches('.') {
            "" => String::new(),
            why => format!(" ({why})"),
        };
        Self {
            status: FAILED,
            name: Some("Away".to_owned()),
            message: format!(
                "stratavored does not answer{why}. Start it with: systemctl {flag}start stratavored. See why it is not running with: systemctl {flag}status stratavored."
            ),
        }
    }

    /// There is no bus.
    pub fn no_bus(user: bool, error: &zbus::Error) -> Self {
        let (which, hint) = match user {
            true => (
                "session",
                "Is there a session? $DBUS_SESSION_BUS_ADDRESS and $XDG_RUNTIME_DIR tell where its bus is.",
            ),
            false => (
                "system",
                "Is this a systemd host? See: systemctl status dbus.",
            ),
        };
        Self::new(
            FAILED,
            format!("The {which} bus can't be reached: {error}. {hint}"),
        )
    }
}

impl From<crate::domain::Error> for Failure {
    fn from(error: crate::domain::Error) -> Self {
        Self::named(&format!("{PREFIX}{}", error.kind.name()), error.message)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(FAILED, format!("Can't write: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Error, ErrorKind};

    #[test]
    fn statuses_of_the_contract() {
        for (kind, status) in [
            (ErrorKind::InvalidArgument, FAILED),
            (ErrorKind::QuotaExceeded, REFUSED),
            (ErrorKind::NotPermitted, NOT_PERMITTED),
            (ErrorKind::NoSuchProject, NO_SUCH),
            (ErrorKind::NoSuchRunner, NO_SUCH),
            (ErrorKind::AmbiguousName, FAILED),
        ] {
            assert_eq!(Failure::from(Error::new(kind, "m")).status, status);
        }
        assert_eq!(
            Failure::named(INTERACTIVE, String::new()).status,
            NOT_PERMITTED
        );
    }

    #[test]
    fn a_daemon_that_is_away_says_how_to_start_it() {
        let unknown = zbus::fdo::Error::ServiceUnknown("gone".to_owned());
        let failure = Failure::of_call(&zbus::Error::FDO(Box::new(unknown)), true);
        assert!(
            failure.message.contains("systemctl --user start"),
            "{failure:?}"
        );
    }
}
