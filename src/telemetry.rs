//! What the daemon and the agent say: to the journal with fields where there is one, else on
//! standard error.
//!
//! Who logs never waits for the journal ([`crate::journal`]). Each line says by `message_id` what
//! kind of happening it is; fields go to the journal as `STRATAVORE_<FIELD>=`, and `why` and
//! `error` also stand in the line itself. A field nobody has listed here stands in the line only,
//! so no library can write a field that means something to systemd.

use crate::journal::{self, Journal, Line};
use std::fmt::Debug;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber, dispatcher};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::{LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

/// Where journald takes lines.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Between two attempts while there is no journald.
const AGAIN: Duration = Duration::from_millis(250);
/// How long the last lines may take.
const LAST_LINES: Duration = Duration::from_secs(1);
/// The target of the events that are lines for the journal, which no other event has.
const TARGET: &str = "stratavore";

/// Says which fields the journal gets, under which names.
macro_rules! fields {
    ($($name:ident as $to:ident),+ $(,)?) => {
        fn known(name: &str) -> Option<&'static str> {
            match name {
                $(stringify!($name) => Some(stringify!($name)),)+
                _ => None,
            }
        }

        /// Gives a line to the dispatcher in force.
        fn dispatch(line: &Line) {
            macro_rules! at {
                ($level:ident) => {
                    tracing::event!(
                        target: TARGET,
                        Level::$level,
                        $($to = line.field(stringify!($name)),)+
                        "{}",
                        line.message()
                    )
                };
            }
            match line.level {
                Level::ERROR => at!(ERROR),
                Level::WARN => at!(WARN),
                Level::INFO => at!(INFO),
                _ => at!(DEBUG),
            }
        }
    };
}

fields! {
    message_id as message_id,
    // Believed of uid 0, and for a user's own units of that user: the line is also that unit's.
    unit as object_systemd_unit,
    user_unit as object_systemd_user_unit,
    runner as stratavore_runner,
    project as stratavore_project,
    cause as stratavore_cause,
    audit_host as stratavore_audit_host,
    audit_n as stratavore_audit_n,
    audit_mac as stratavore_audit_mac,
    notify_rule as stratavore_notify_rule,
    uid as stratavore_uid,
    user as stratavore_user,
    by as stratavore_by,
    from as stratavore_from,
    signal as stratavore_signal,
    address as stratavore_address,
    error as stratavore_error,
    why as stratavore_why,
    version as stratavore_version,
    live as stratavore_live,
    lines_dropped as stratavore_lines_dropped,
}

/// The way what is said takes; clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Telemetry(Option<Journal>);

impl Telemetry {
    /// From here on lines leave for the journal, by a thread with the caller's capabilities.
    pub fn start(&self, identifier: &'static str) -> std::io::Result<()> {
        match &self.0 {
            Some(journal) => journal.start(move || deliver(identifier)),
            None => Ok(()),
        }
    }

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

/// Takes what is said from here on. `RUST_LOG` sets the level.
pub fn set_up() -> Telemetry {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn,zbus=warn"));
    let journal = journal::connected().then(Journal::default);
    let plain = journal
        .is_none()
        .then(|| fmt::layer().with_writer(std::io::stderr).with_target(false));
    tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(is_discreet))
        .with(journal.clone().map(ToQueue))
        .with(plain)
        .init();
    Telemetry(journal)
}

/// What lapin says has the broker's password in it, and whole messages: it is not heard whatever is asked for.
fn is_discreet(said: &Metadata<'_>) -> bool {
    let whose = said.target().split("::").next().unwrap_or_default();
    !whose.starts_with("lapin") && !whose.starts_with("amq_protocol")
}

/// What brings lines to journald, however long that takes.
fn deliver(identifier: &'static str) -> impl FnMut(&Line) {
    let mut way = None;
    move |line| {
        // What is sent while no journald listens would be lost: it is being restarted, say.
        while !listens() {
            std::thread::sleep(AGAIN);
        }
        if way.is_none() {
            way = to_journald(identifier).ok();
        }
        if let Some(way) = &way {
            dispatcher::with_default(way, || dispatch(line));
        }
    }
}

/// Whether somebody listens where journald should.
fn listens() -> bool {
    let tried = UnixDatagram::unbound().and_then(|socket| socket.connect(SOCKET));
    !tried.is_err_and(|e| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused))
}

fn to_journald(identifier: &str) -> std::io::Result<Dispatch> {
    let layer = tracing_journald::layer()?
        .with_field_prefix(None)
        .with_syslog_identifier(identifier.to_owned())
        .with_priority_mappings(PriorityMappings {
            info: Priority::Informational,
            debug: Priority::Debug,
            ..PriorityMappings::new()
        });
    // Nothing else is wanted here: this must not make anybody say more than `RUST_LOG` asks for.
    let only = Targets::new().with_target(TARGET, LevelFilter::DEBUG);
    Ok(tracing_subscriber::registry().with(only).with(layer).into())
}

/// Turns events into lines of the queue.
struct ToQueue(Journal);

impl<S: Subscriber> Layer<S> for ToQueue {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut seen = Seen::default();
        event.record(&mut seen);
        self.0.send(seen.line(*event.metadata().level()));
    }
}

/// The fields of an event.
#[derive(Debug, Default)]
struct Seen {
    message: String,
    why: String,
    others: String,
    fields: Vec<(&'static str, String)>,
}

impl Seen {
    fn take(&mut self, field: &Field, value: String) {
        let name = field.name();
        if name == "message" {
            self.message = value;
            return;
        }
        match known(name) {
            Some(name) => {
                if matches!(name, "why" | "error") {
                    self.why = format!(": {value}");
                }
                self.fields.push((name, value));
            }
            None => self.others += &format!(" {name}={value}"),
        }
    }

    fn line(self, level: Level) -> Line {
        let line = Line::new(level, self.message + &self.why + &self.others);
        let fields = self.fields.into_iter();
        fields.fold(line, |line, (name, value)| line.with(name, value))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Keeps the fields of the events it sees.
    #[derive(Default, Clone)]
    struct Kept(Arc<Mutex<Vec<String>>>);

    impl Visit for Kept {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            if let Ok(mut all) = self.0.lock() {
                all.push(format!("{}={value:?}", field.name()));
            }
        }
    }

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            event.record(&mut self.clone());
        }
    }

    /// What a line comes to for the journal.
    fn sent(line: &Line) -> Vec<String> {
        let kept = Kept::default();
        let way: Dispatch = tracing_subscriber::registry().with(kept.clone()).into();
        dispatcher::with_default(&way, || dispatch(line));
        kept.0.lock().map(|all| all.clone()).unwrap_or_default()
    }

    #[test]
    fn only_what_is_listed_becomes_a_field() -> Result<(), Box<dyn std::error::Error>> {
        let (taken, lines) = std::sync::mpsc::channel();
        let journal = Journal::default();
        journal.start(move || {
            move |line: &Line| {
                let _ = taken.send(line.clone());
            }
        })?;
        let stack: Dispatch = tracing_subscriber::registry().with(ToQueue(journal)).into();
        dispatcher::with_default(&stack, || {
            tracing::error!(message_id = "ab", runner = %7, error = "full", priority = 0, "No");
        });
        let line = lines.recv_timeout(Duration::from_secs(10))?;
        let expected = [
            "message=No: full priority=0",
            "message_id=\"ab\"",
            "stratavore_runner=\"7\"",
            "stratavore_error=\"full\"",
        ];
        let sent = sent(&line);
        assert_eq!(line.level, Level::ERROR);
        assert_eq!(sent.len(), expected.len(), "{sent:?}");
        for one in expected {
            assert!(sent.iter().any(|field| field == one), "{one} in {sent:?}");
        }
        Ok(())
    }
}
