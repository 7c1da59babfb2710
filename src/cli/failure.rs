//! What can go wrong, with the sentence for the person and the status for the shell.

use super::bus::{advice, either, is_user, systemctl};
use crate::api::errors::{INTERACTIVE, PREFIX};
use crate::domain::words::without_number;
use zbus::DBusError;

/// The exit statuses of the contract.
pub const FAILED: u8 = 1;
/// Wrong usage.
pub const USAGE: u8 = 2;
/// Refused by a quota, budget, hold, cordon or a full queue.
pub const REFUSED: u8 = 3;
/// Not permitted.
pub const NOT_PERMITTED: u8 = 4;
/// No such thing.
pub const NO_SUCH: u8 = 5;
/// Something is not as it is declared.
pub const DIFFERS: u8 = 6;

/// A failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For the shell.
    pub status: u8,
    /// The error's name without prefix, where it came over the bus.
    pub name: Option<String>,
    /// For the person.
    pub message: String,
    /// The answer was lost: what was asked for may have been done.
    pub unheard: bool,
}

/// The result of a command.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure of our own.
    pub fn new(status: u8, message: impl Into<String>) -> Self {
        Self {
            status,
            name: None,
            message: without_number(message.into()),
            unheard: false,
        }
    }

    /// There is no such thing, in the words of the daemon.
    pub fn no_such(name: &str, message: String) -> Self {
        Self {
            name: Some(name.to_owned()),
            ..Self::new(NO_SUCH, message)
        }
    }

    /// Whether it has this name.
    pub fn is(&self, name: &str) -> bool {
        self.name.as_deref() == Some(name)
    }

    /// What a call came back with.
    pub fn of_call(error: &zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, message, _) => {
                let message = message.clone().unwrap_or_default();
                Self::named(name.as_str(), message)
            }
            zbus::Error::FDO(error) => {
                let name = error.name().to_string();
                let message = error.description().unwrap_or_default().to_owned();
                match name.rsplit('.').next().unwrap_or_default() {
                    "Disconnected" => Self::lost(&message),
                    "ServiceUnknown" | "NameHasNoOwner" => Self::away(&message),
                    "TimedOut" if message.contains("activate") => Self::starting(&message),
                    "NoReply" | "TimedOut" | "Timeout" => Self::unheard(&message),
                    _ if name.contains(".Spawn.") => Self::away(&message),
                    _ => Self::named(&name, message),
                }
            }
            // The bus is another matter than the daemon on it.
            zbus::Error::InputOutput(error) => Self::lost(&error.to_string()),
            other => Self::new(FAILED, format!("The call failed: {other}")),
        }
    }

    fn named(name: &str, message: String) -> Self {
        let message = advice(&without_number(message));
        let short = name.strip_prefix(PREFIX);
        let status = match short {
            Some("QuotaExceeded" | "BudgetExceeded" | "QueueFull" | "Held" | "Cordoned") => REFUSED,
            Some("NotPermitted") => NOT_PERMITTED,
            // Whoever finds it, the program or the daemon: repeating it cannot help.
            Some("InvalidArgument") => USAGE,
            Some(other) if other.starts_with("NoSuch") => NO_SUCH,
            Some(_) => FAILED,
            None if name == INTERACTIVE || name.ends_with(".AccessDenied") => NOT_PERMITTED,
            // The bus asked systemd to start us.
            None if name.starts_with("org.freedesktop.systemd1.") || name.contains(".Spawn.") => {
                return Self::away(&message);
            }
            None => FAILED,
        };
        let message = match message.is_empty() {
            true => name.to_owned(),
            false => message,
        };
        let message = match status {
            NOT_PERMITTED => format!("{message}{}", who_may(&message)),
            _ => message,
        };
        Self {
            status,
            name: Some(short.unwrap_or(name).to_owned()),
            message,
            unheard: false,
        }
    }

    /// The daemon is not there.
    pub fn away(why: &str) -> Self {
        let why = without_number(why.to_owned());
        let why = match why.trim().trim_end_matches('.') {
            "" => String::new(),
            why => format!(" ({why})"),
        };
        Self {
            status: FAILED,
            name: Some("Away".to_owned()),
            message: format!(
                "stratavored does not answer{why}. Start it with: {systemctl} start stratavored. See why it is not running with: {systemctl} status stratavored.",
                systemctl = systemctl(),
            ),
            unheard: false,
        }
    }

    /// The bus has had it started, and it is not ready: the call never came to it.
    fn starting(why: &str) -> Self {
        let why = &without_number(why.to_owned());
        Self {
            message: format!(
                "stratavored is being started and is not ready yet ({}): nothing was done. What it waits for tells: {} status stratavored.",
                why.trim().trim_end_matches('.'),
                systemctl()
            ),
            ..Self::away(why)
        }
    }

    /// The daemon was there, and is gone or hangs.
    fn unheard(why: &str) -> Self {
        let why = &without_number(why.to_owned());
        Self {
            unheard: true,
            message: format!(
                "stratavored did not answer ({}): what was asked for may have been done or not. See why with: {} status stratavored.",
                why.trim().trim_end_matches('.'),
                systemctl()
            ),
            ..Self::away(why)
        }
    }

    /// The connection to the bus is gone, and with it every subscription.
    pub fn lost(why: &str) -> Self {
        let why = without_number(why.to_owned());
        Self {
            status: FAILED,
            name: Some("Disconnected".to_owned()),
            message: format!(
                "The connection to the {} bus is lost ({}). See: {} status dbus.",
                either("system", "session"),
                why.trim().trim_end_matches('.'),
                systemctl()
            ),
            unheard: true,
        }
    }

    /// There is no bus.
    pub fn no_bus(error: &zbus::Error) -> Self {
        if is_user() && rustix::process::geteuid().is_root() {
            return Self::new(
                USAGE,
                "--user is for ordinary users; root has the system's stratavored: leave it out.",
            );
        }
        if is_user() {
            return Self::new(
                FAILED,
                format!(
                    "The session bus can't be reached: {error}. Is this a session of your own? After su or sudo it is not; “machinectl shell USER@” makes one. See: systemctl --user status dbus."
                ),
            );
        }
        Self::new(
            FAILED,
            format!(
                "The system bus can't be reached: {error}. Is this a systemd host? See: systemctl status dbus."
            ),
        )
    }

    /// Another host does not let us on its bus; ssh has said why.
    pub(super) fn no_host(host: &super::remote::Remote, error: &zbus::Error) -> Self {
        Self::new(
            FAILED,
            format!(
                "The bus of {host} can't be reached by ssh ({error}). Try: {} systemd-stdio-bridge --help. It must log in without a question (a key), and find systemd-stdio-bridge, which comes with systemd.",
                host.ssh()
            ),
        )
    }

    /// The bus has no connection left for this user.
    pub fn full_bus(error: &zbus::Error) -> Self {
        Self::new(
            FAILED,
            format!(
                "The system bus has no connection left for this user, and none became free for a minute: {error}. End programs that keep one open, or raise max_connections_per_user in /etc/dbus-1/system-local.conf (dbus-broker: see dbus-broker-launch(1))."
            ),
        )
    }

    /// Whether waiting may help: the daemon is starting again, or its store is away.
    pub fn passes(&self) -> bool {
        self.is("Away") || self.is("StoreUnavailable")
    }

    /// Whether the connection itself is gone.
    pub fn is_lost(&self) -> bool {
        self.is("Disconnected")
    }
}

/// Who may do what a polkit action stands for, by the rules that are shipped.
fn who_may(message: &str) -> &'static str {
    let action = message.rsplit_once("org.stratavore1.");
    let action = action.map_or("", |(_, action)| action);
    match action
        .split(|c: char| !(c.is_ascii_lowercase() || c == '-'))
        .next()
    {
        Some("view" | "launch") => {
            " Members of the group stratavore-users may: sudo usermod -aG stratavore-users USER."
        }
        Some("") | None => "",
        Some(_) => {
            " Root may, and members of the group stratavore-admins: sudo usermod -aG stratavore-admins USER."
        }
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
            (ErrorKind::InvalidArgument, USAGE),
            (ErrorKind::QuotaExceeded, REFUSED),
            (ErrorKind::NotPermitted, NOT_PERMITTED),
            (ErrorKind::NoSuchProject, NO_SUCH),
            (ErrorKind::NoSuchRunner, NO_SUCH),
            (ErrorKind::NoSuchBudget, NO_SUCH),
            (ErrorKind::NoSuchHold, NO_SUCH),
            (ErrorKind::NoSuchUser, NO_SUCH),
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
    fn not_permitted_says_who_may() {
        for (action, group) in [
            ("launch", "stratavore-users"),
            ("control-any", "stratavore-admins"),
            ("launch-as-other", "stratavore-admins"),
        ] {
            let said = format!(
                "You are not permitted to do this (polkit action org.stratavore1.{action})."
            );
            let failure = Failure::named("org.stratavore1.Error.NotPermitted", said);
            assert!(failure.message.contains(group), "{failure:?}");
        }
        let failure = Failure::named(
            "org.stratavore1.Error.NotPermitted",
            "agent.toml forbids it.".to_owned(),
        );
        assert_eq!(failure.message, "agent.toml forbids it.");
    }

    #[test]
    fn errors_have_words_and_no_numbers() {
        let said = "x: Is a directory (os error 21).";
        for failure in [
            Failure::new(FAILED, said),
            Failure::named("org.stratavore1.Error.Conflict", said.to_owned()),
            Failure::away(said),
            Failure::lost(said),
        ] {
            assert!(failure.message.contains("Is a directory"), "{failure:?}");
            assert!(!failure.message.contains("os error"), "{failure:?}");
        }
    }

    #[test]
    fn a_daemon_that_is_away_says_how_to_start_it() {
        let unknown = zbus::fdo::Error::ServiceUnknown("gone".to_owned());
        let failure = Failure::of_call(&zbus::Error::FDO(Box::new(unknown)));
        assert!(failure.message.contains("systemctl start"), "{failure:?}");
        assert!(failure.passes() && !failure.is_lost());
        let pipe = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let failure = Failure::of_call(&zbus::Error::from(pipe));
        assert!(!failure.message.contains("stratavored"), "{failure:?}");
        assert!(failure.is_lost() && !failure.passes());
    }

    /// The bus gave up the start it was asked for, or the daemon has the call and says nothing: only then it may be done.
    #[test]
    fn a_start_that_takes_long_is_no_call_that_is_lost() {
        let timed_out = |said: &str| {
            let error = zbus::fdo::Error::TimedOut(said.to_owned());
            Failure::of_call(&zbus::Error::FDO(Box::new(error)))
        };
        let starting = timed_out(
            "Failed to activate service 'org.stratavore1': timed out (service_start_timeout=25000ms)",
        );
        assert!(
            starting
                .message
                .contains("is being started and is not ready yet (Failed to activate")
                && starting.message.contains("nothing was done"),
            "{starting:?}"
        );
        assert!(!starting.unheard && starting.passes(), "{starting:?}");
        let unheard = timed_out("Connection timed out.");
        assert!(unheard.unheard, "{unheard:?}");
        assert!(unheard.message.contains("may have been done or not"));
    }
}
