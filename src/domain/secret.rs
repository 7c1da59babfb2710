//! Text that must not be seen: passwords.

use std::fmt;

/// Is not shown by `Debug`, and there is no other way to print it by mistake.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides this text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for those it is meant for.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
