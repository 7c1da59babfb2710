//! What a caller gets when the answer is no: `org.stratavore1.Error.<Name>` with a sentence.

use crate::domain::words::without_number;
use crate::domain::{Error, ErrorKind};
use zbus::message::{Header, Message};
use zbus::names::ErrorName;

/// The prefix of our error names.
pub const PREFIX: &str = "org.stratavore1.Error.";
/// What D-Bus programs know when polkit could ask the user, if the caller let it.
pub const INTERACTIVE: &str = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired";

/// The result of every method.
pub type Result<T> = std::result::Result<T, ApiError>;

/// A domain error as it travels on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError(pub Error);

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let message = without_number(error.message);
        Self(Error { message, ..error })
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The error's name on the bus.
pub fn name_of(kind: ErrorKind) -> String {
    match kind {
        ErrorKind::InteractiveAuthorizationRequired => INTERACTIVE.to_owned(),
        other => format!("{PREFIX}{}", other.name()),
    }
}

impl zbus::DBusError for ApiError {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        Message::error(call, self.name()).build(&(self.0.message.as_str(),))
    }

    fn name(&self) -> ErrorName<'_> {
        // The names are letters and dots; should one ever not be, "failed" is true as well.
        ErrorName::try_from(name_of(self.0.kind)).unwrap_or_else(|_| {
            ErrorName::from_static_str_unchecked("org.freedesktop.DBus.Error.Failed")
        })
    }

    fn description(&self) -> Option<&str> {
        Some(&self.0.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::DBusError;

    #[test]
    fn sentences_have_no_numbers_of_errors() {
        let said = "/x: Is a directory (os error 21).";
        let error = ApiError::from(Error::new(ErrorKind::Conflict, said));
        assert_eq!(error.description(), Some("/x: Is a directory."));
    }

    #[test]
    fn names_are_those_of_the_contract() {
        let of = |kind| ApiError(Error::new(kind, "m")).name().to_string();
        assert_eq!(
            of(ErrorKind::NoSuchRunner),
            "org.stratavore1.Error.NoSuchRunner"
        );
        assert_eq!(of(ErrorKind::InteractiveAuthorizationRequired), INTERACTIVE);
    }
}
