//! What a configuration read again changes, and what of it a running daemon takes over.

use super::notify::RULES;
use super::{Config, KEYS, Key};

/// The difference to a configuration read again, by the names of the keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Taken over now.
    pub taken: Vec<&'static str>,
    /// In the files, but not in force before a restart.
    pub restart: Vec<&'static str>,
}

/// Compares `new` with what is in force: of the keys a reload takes over that is `current`, the
/// configuration read last; of the others `started`, the one the daemon was started with.
pub fn compare(started: &Config, current: &Config, new: &Config) -> Change {
    // Of a rule's address not all is shown.
    let differs = |old: &Config, key: &Key| {
        (key.show)(old, key.name) != (key.show)(new, key.name)
            || (key.name == RULES && old.notify != new.notify)
    };
    let mut change = Change::default();
    for key in KEYS {
        match key.reload {
            true if differs(current, key) => change.taken.push(key.name),
            false if differs(started, key) => change.restart.push(key.name),
            _ => {}
        }
    }
    change
}

impl Change {
    /// For the log.
    pub fn sentence(&self) -> String {
        let taken = match self.taken.is_empty() {
            true => "nothing to take over".to_owned(),
            false => format!("taken over: {}", self.taken.join(", ")),
        };
        match self.restart_note() {
            Some(note) => format!("{taken}; {note}"),
            None => taken,
        }
    }

    /// For the status, as long as it is so.
    pub fn restart_note(&self) -> Option<String> {
        match self.restart.is_empty() {
            true => None,
            false => Some(format!(
                "changed, but in force only after a restart: {}",
                self.restart.join(", ")
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::Places;
    use std::path::Path;

    fn parse(text: &str) -> Config {
        let mut config = Config::new(&Places::system());
        config
            .parse(Path::new("f.toml"), text)
            .unwrap_or_else(|e| panic!("{e}"));
        config
    }

    #[test]
    fn what_needs_a_restart_is_named_until_it_came() {
        let started = parse("[host]\nmax_runners = 3");
        let first = parse("[host]\nmax_runners = 4\n[store]\nurl = 'sqlite:///x/y'");
        let change = compare(&started, &started, &first);
        assert_eq!(
            (&change.taken[..], &change.restart[..]),
            (&["host.max_runners"][..], &["store.url"][..])
        );
        // Read once more: there is nothing to take, and the restart is still to come.
        let again = compare(&started, &first, &first);
        assert_eq!((again.taken.len(), again.restart.len()), (0, 1));
        assert!(again.sentence().contains("store.url"));
        // Taken back.
        let back = compare(&started, &first, &started);
        assert_eq!(
            (&back.taken[..], back.restart_note()),
            (&["host.max_runners"][..], None)
        );
    }

    #[test]
    fn the_same_text_changes_nothing() {
        let config = parse("[limits]\nmemory_max = '1G'\nunenforced = 'warn'");
        assert_eq!(compare(&config, &config, &config), Change::default());
    }
}
