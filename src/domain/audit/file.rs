//! A chain as a file: lines of JSON, of which the first is the [`Header`] and each other one an
//! [`Entry`], in their order. It is checked without a daemon or a store.

use super::{Checkpoint, Entry, Head};
use crate::domain::{Error, Timestamp};
use serde::{Deserialize, Serialize};

/// The longest line, in bytes: a text of an entry in which every character is escaped.
pub const LINE_MAX: usize = 6 * super::TEXT_MAX + 1_024;
/// The one kind of file there is.
const VERSION: u32 = 1;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of the format.
    #[serde(rename = "stratavore-audit")]
    version: u32,
    /// Whose chain, by the host's id.
    pub host: String,
    /// When it was written.
    pub exported_at: Timestamp,
    /// What stands for the entries before the first.
    pub checkpoint: Option<Checkpoint>,
    /// The last entry as the store's head has it.
    pub head: Option<Head>,
}

impl Header {
    /// Of a chain that is written now.
    pub fn new(
        host: String,
        exported_at: Timestamp,
        checkpoint: Option<Checkpoint>,
        head: Option<Head>,
    ) -> Self {
        Self {
            version: VERSION,
            host,
            exported_at,
            checkpoint,
            head,
        }
    }

    /// Reads the first line.
    pub fn parse(line: &str) -> Result<Self, Error> {
        let header: Self = serde_json::from_str(line).map_err(|_| {
            Error::invalid(
                "This is no exported audit: its first line is no header. Make one: stratavorectl audit export FILE",
            )
        })?;
        match header.version {
            VERSION => Ok(header),
            other => Err(Error::invalid(format!(
                "This audit was exported by a later release (format {other}, and this one knows {VERSION}); verify it with that one."
            ))),
        }
    }

    /// As a line, with its end.
    pub fn line(&self) -> String {
        line(self)
    }
}

impl Entry {
    /// Reads a line; `None`: it is no entry, or not all of one.
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }

    /// As a line, with its end.
    pub fn line(&self) -> String {
        line(self)
    }
}

fn line<T: Serialize>(value: &T) -> String {
    // Plain data can always be written.
    let mut line = serde_json::to_string(value).unwrap_or_default();
    line.push('\n');
    line
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Key, Mac, Note};
    use super::*;

    #[test]
    fn lines_read_back() {
        let key = Key::new(&(0..40).collect::<Vec<u8>>()).unwrap();
        let mut head = Head::none();
        let note = Note::begun("h", &key, None, Timestamp(5));
        let entry = head.append(&key, "h", note);
        assert_eq!(Entry::parse(&entry.line()), Some(entry.clone()));
        let line = entry.line();
        assert_eq!(Entry::parse(&line[..line.len() - 2]), None);
        let checkpoint = Checkpoint::new(&key, "h", &head);
        let header = Header::new("h".to_owned(), Timestamp(9), Some(checkpoint), Some(head));
        assert_eq!(Header::parse(&header.line()), Ok(header.clone()));
        assert_eq!(header.line().matches('\n').count(), 1);

        let later = header.line().replace("audit\":1", "audit\":2");
        assert!(
            Header::parse(&later)
                .unwrap_err()
                .message
                .contains("later release")
        );
        assert!(
            Header::parse("{}")
                .unwrap_err()
                .message
                .contains("no header")
        );
        assert_eq!(Mac::NONE.to_string().len(), 64);
    }
}
