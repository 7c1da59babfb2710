//! A bounded queue before the journal: who says something never waits for journald, and what finds
//! no room is counted.
//!
//! One thread delivers. Once the journal takes lines again after some were dropped, a line says how
//! many.

use crate::domain::kinds::LINES_DROPPED;
use crate::domain::words::without_number;
use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::Level;

/// What may wait to be delivered, in bytes.
const WAITING: usize = 1 << 20;
/// What a waiting line costs beside its bytes.
const EACH: usize = 128;
/// The longest message or value; the rest is cut off.
const VALUE_MAX: usize = 4 << 10;
/// The deliverer's stack.
const STACK: usize = 128 << 10;

/// A line with its fields, as it waits.
#[derive(Debug, Clone)]
pub struct Line {
    /// How grave it is.
    pub level: Level,
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Line {
    /// A line without fields.
    pub fn new(level: Level, message: impl Into<String>) -> Self {
        Self {
            level,
            message: cut(message.into()),
            fields: Vec::new(),
        }
    }

    /// Adds a field.
    #[must_use]
    pub fn with(mut self, field: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((field, cut(value.into())));
        self
    }

    /// What a person reads.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// A field's value.
    pub fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(field, _)| *field == name);
        found.map(|(_, value)| value.as_str())
    }

    fn size(&self) -> usize {
        let fields: usize = self.fields.iter().map(|(_, value)| value.len() + 32).sum();
        EACH + self.message.len() + fields
    }
}

/// At most so long; and the kernel's word for an error is enough, its number says nothing more.
fn cut(text: String) -> String {
    let mut text = without_number(text);
    let mut end = text.len().min(VALUE_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// Whether standard error leads to the journal.
pub fn connected() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else {
        return false;
    };
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|seen| stream.to_str() == Some(&format!("{}:{}", seen.dev(), seen.ino())))
}

/// The way to the journal; clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Journal(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Line>,
    bytes: usize,
    /// One has been taken out and is not delivered yet.
    delivering: bool,
    dropped: u64,
    /// So many of them are not reported yet.
    unsaid: u64,
}

impl Journal {
    /// Starts the thread that delivers, which has the caller's capabilities. Before that, lines
    /// wait. `make` runs in that thread; what it makes may take as long as the journal does.
    pub fn start<D, M>(&self, make: M) -> std::io::Result<()>
    where
        D: FnMut(&Line),
        M: FnOnce() -> D + Send + 'static,
    {
        let shared = Arc::clone(&self.0);
        std::thread::Builder::new()
            .name("journal".to_owned())
            .stack_size(STACK)
            .spawn(move || shared.pour(make()))
            .map(drop)
    }

    /// Queues a line. Never waits for the journal; a line that finds no room is counted.
    pub fn send(&self, line: Line) {
        let mut state = self.0.lock();
        let size = line.size();
        if state.bytes + size > WAITING {
            state.dropped += 1;
            state.unsaid += 1;
            return;
        }
        state.bytes += size;
        state.queue.push_back(line);
        drop(state);
        self.0.changed.notify_all();
    }

    /// How many lines were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }

    /// Waits until all is delivered, but not longer than that.
    pub fn flush(&self, within: Duration) {
        let end = Instant::now() + within;
        let mut state = self.0.lock();
        while state.delivering || !state.queue.is_empty() {
            let Some(rest) = end.checked_duration_since(Instant::now()) else {
                return;
            };
            let waited = self.0.changed.wait_timeout(state, rest);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pour(&self, mut deliver: impl FnMut(&Line)) {
        loop {
            deliver(&self.next());
            self.lock().delivering = false;
            self.changed.notify_all();
        }
    }

    /// The next line, as soon as there is one.
    fn next(&self) -> Line {
        let mut state = self.lock();
        loop {
            // Not before there is room again, or this line would be one of many.
            if state.unsaid > 0 && state.bytes < WAITING / 2 {
                let lines = std::mem::take(&mut state.unsaid);
                state.delivering = true;
                return missing(lines);
            }
            if let Some(line) = state.queue.pop_front() {
                state.bytes -= line.size();
                state.delivering = true;
                return line;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn missing(lines: u64) -> Line {
    let message =
        format!("{lines} lines dropped: the journal did not take them and the queue was full");
    Line::new(Level::WARN, message)
        .with("message_id", LINES_DROPPED.id)
        .with("lines_dropped", lines.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    /// The time one line may take here.
    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        let line = Line::new(Level::INFO, "x".repeat(9_999))
            .with("long", "a".to_owned() + &"ü".repeat(VALUE_MAX));
        assert_eq!(line.message().len(), VALUE_MAX);
        assert_eq!(line.field("long").map(str::len), Some(VALUE_MAX - 1));
        assert_eq!(line.field("other"), None);
    }

    #[test]
    fn a_journal_that_takes_nothing_stops_nobody() -> Outcome {
        let (taken, lines) = mpsc::sync_channel::<Line>(0);
        let journal = Journal::default();
        journal.start(move || {
            move |line: &Line| {
                let _ = taken.send(line.clone());
            }
        })?;
        let begun = Instant::now();
        let long = "x".repeat(1000);
        let sent = 5_000;
        for _ in 0..sent {
            journal.send(Line::new(Level::INFO, long.as_str()));
        }
        assert!(begun.elapsed() < SOON);
        let dropped = journal.dropped();
        assert!(dropped > 3_000, "{dropped}");
        let (mut arrived, mut told) = (0, None);
        while told.is_none() || arrived < sent - dropped {
            let line = lines.recv_timeout(SOON)?;
            match line.field("lines_dropped") {
                Some(number) => told = Some(number.parse::<u64>()?),
                None => arrived += 1,
            }
        }
        let message = "each line was taken or is counted, once";
        assert_eq!(told, Some(dropped), "{message}");
        journal.flush(SOON);
        Ok(())
    }

    #[test]
    fn lines_wait_for_the_start() -> Outcome {
        let journal = Journal::default();
        journal.send(Line::new(Level::INFO, "early"));
        journal.flush(Duration::from_millis(10));
        let (taken, lines) = mpsc::channel();
        journal.start(move || {
            move |line: &Line| {
                let _ = taken.send(line.message().to_owned());
            }
        })?;
        assert_eq!(lines.recv_timeout(SOON)?, "early");
        journal.flush(SOON);
        assert_eq!(journal.dropped(), 0);
        Ok(())
    }
}
