//! The daemon's own log: the journal with fields where there is one, else standard error.
//!
//! Who logs never waits for the journal ([`crate::journal`]). Each line says by `message_id` what
//! kind of happening it is; fields go to the journal as `STRATAVORE_<FIELD>=`, and `why` and
//! `error` also stand in the line itself.

use crate::journal::{self, Entry, Journal};
use std::fmt::Debug;
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

const IDENTIFIER: &str = "stratavored";
/// How long the last lines may take.
const LAST_LINES: Duration = Duration::from_secs(1);

/// What is to be kept until the program ends: dropped, it sees the last lines off.
#[derive(Debug, Clone, Default)]
pub struct Telemetry(Option<Journal>);

impl Telemetry {
    /// Lines the journal did not take in time and that are lost.
    pub fn lines_dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, Journal::dropped)
    }

    /// Sees the last lines off, within a second.
    pub fn flush(&self) {
        if let Some(journal) = &self.0 {
            journal.flush(LAST_LINES);
        }
    }
}

/// Starts logging. `RUST_LOG` sets the level.
pub fn start() -> Telemetry {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn,zbus=warn"));
    let registry = tracing_subscriber::registry().with(filter);
    let journal = journal::connected()
        .then(|| Journal::new(journal::SOCKET, IDENTIFIER))
        .filter(|journal| journal.start().is_ok());
    let plain = journal
        .is_none()
        .then(|| fmt::layer().with_writer(std::io::stderr).with_target(false));
    registry
        .with(journal.clone().map(ToJournal))
        .with(plain)
        .init();
    Telemetry(journal)
}

/// Turns events into lines of the journal.
struct ToJournal(Journal);

impl<S: Subscriber> Layer<S> for ToJournal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut seen = Seen::default();
        event.record(&mut seen);
        self.0.send(entry(event.metadata(), seen));
    }
}

fn entry(metadata: &tracing::Metadata<'_>, seen: Seen) -> Entry {
    let priority = match *metadata.level() {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    };
    let mut entry = Entry::new(priority, IDENTIFIER, &(seen.message + &seen.why));
    for (name, value) in &seen.fields {
        entry.field(name, value);
    }
    entry.field("TARGET", metadata.target());
    entry
}

/// The fields of an event.
#[derive(Debug, Default)]
struct Seen {
    message: String,
    why: String,
    fields: Vec<(String, String)>,
}

impl Seen {
    fn take(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => return self.message = value,
            "message_id" => return self.fields.push(("MESSAGE_ID".to_owned(), value)),
            "why" | "error" => self.why = format!(": {value}"),
            _ => {}
        }
        self.fields
            .push((format!("STRATAVORE_{}", field.name()), value));
    }
}

impl Visit for Seen {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.take(field, format!("{value:?}"));
    }
}
