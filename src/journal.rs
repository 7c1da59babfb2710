//! The journal's native protocol, behind a bounded queue: who says something never waits for
//! journald, and what finds no room is counted.
//!
//! One thread sends. Once the journal takes lines again after some were dropped, a line says how
//! many.

use crate::domain::kinds::{Kind, LINES_DROPPED};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where journald takes lines.
pub const SOCKET: &str = "/run/systemd/journal/socket";
/// What may wait to be sent, in bytes.
const WAITING: usize = 1 << 20;
/// What a waiting line costs beside its bytes.
const EACH: usize = 64;
/// The longest value of a field; the rest is cut off. A line is to fit into one datagram.
const VALUE_MAX: usize = 4 << 10;
/// Between two attempts while there is no journald.
const AGAIN: Duration = Duration::from_millis(250);
/// The sender's stack.
const STACK: usize = 128 << 10;

/// A line with its fields, as it travels.
#[derive(Debug, Clone)]
pub struct Entry(Vec<u8>);

impl Entry {
    /// A line of this syslog priority (3 error, 4 warning, 6 info, 7 debug).
    pub fn new(priority: u8, identifier: &str, message: &str) -> Self {
        let mut entry = Self(Vec::with_capacity(256));
        entry.field("PRIORITY", &priority.to_string());
        entry.field("SYSLOG_IDENTIFIER", identifier);
        entry.field("MESSAGE", message);
        entry
    }

    /// Says what kind of happening it is.
    #[must_use]
    pub fn kind(mut self, kind: Kind) -> Self {
        self.field("MESSAGE_ID", kind.id);
        self
    }

    /// Adds a field. A name journald would not take (systemd.journal-fields(7)) is made one.
    pub fn field(&mut self, name: &str, value: &str) {
        let name: String = name
            .trim_start_matches('_')
            .chars()
            .map(|c| match c.to_ascii_uppercase() {
                c if c.is_ascii_uppercase() || c.is_ascii_digit() => c,
                _ => '_',
            })
            .take(64)
            .collect();
        let mut end = value.len().min(VALUE_MAX);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let value = &value[..end];
        self.0.extend(name.as_bytes());
        if value.contains('\n') {
            self.0.push(b'\n');
            self.0.extend((value.len() as u64).to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend(value.as_bytes());
        self.0.push(b'\n');
    }
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
#[derive(Debug, Clone)]
pub struct Journal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    place: PathBuf,
    identifier: &'static str,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Entry>,
    bytes: usize,
    /// One has been taken out and is not sent yet.
    sending: bool,
    dropped: u64,
    /// So many of them are not reported yet.
    unsaid: u64,
}

impl Journal {
    /// A queue, which nothing leaves before [`Self::start`].
    pub fn new(place: impl Into<PathBuf>, identifier: &'static str) -> Self {
        Self(Arc::new(Shared {
            place: place.into(),
            identifier,
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// Starts the thread that sends. It has the caller's capabilities.
    pub fn start(&self) -> std::io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        let shared = Arc::clone(&self.0);
        std::thread::Builder::new()
            .name("journal".to_owned())
            .stack_size(STACK)
            .spawn(move || shared.pour(&socket))
            .map(drop)
    }

    /// Queues a line. Never waits for the journal; a line that finds no room is counted.
    pub fn send(&self, entry: Entry) {
        let mut state = self.0.lock();
        let size = entry.0.len() + EACH;
        if state.bytes + size > WAITING {
            state.dropped += 1;
            state.unsaid += 1;
            return;
        }
        state.bytes += size;
        state.queue.push_back(entry);
        drop(state);
        self.0.changed.notify_all();
    }

    /// How many lines were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }

    /// Waits until all is sent, but not longer than that.
    pub fn flush(&self, within: Duration) {
        let end = Instant::now() + within;
        let mut state = self.0.lock();
        while state.sending || !state.queue.is_empty() {
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

    fn pour(&self, socket: &UnixDatagram) {
        loop {
            let entry = self.next();
            let sent = deliver(socket, &self.place, &entry.0);
            let mut state = self.lock();
            state.sending = false;
            if !sent {
                state.dropped += 1;
                state.unsaid += 1;
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// The next line, as soon as there is one.
    fn next(&self) -> Entry {
        let mut state = self.lock();
        loop {
            // Not before there is room again, or this line would be one of many.
            if state.unsaid > 0 && state.bytes < WAITING / 2 {
                let lines = std::mem::take(&mut state.unsaid);
                state.sending = true;
                return missing(self.identifier, lines);
            }
            if let Some(entry) = state.queue.pop_front() {
                state.bytes -= entry.0.len() + EACH;
                state.sending = true;
                return entry;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn missing(identifier: &str, lines: u64) -> Entry {
    let message =
        format!("{lines} lines dropped: the journal did not take them and the queue was full");
    let mut entry = Entry::new(4, identifier, &message).kind(LINES_DROPPED);
    entry.field("STRATAVORE_LINES_DROPPED", &lines.to_string());
    entry
}

/// Sends one line, however long journald takes; `false` = it will never take this one.
fn deliver(socket: &UnixDatagram, place: &Path, bytes: &[u8]) -> bool {
    loop {
        match socket.send_to(bytes, place).map_err(|e| e.kind()) {
            Ok(_) => return true,
            Err(ErrorKind::Interrupted) => {}
            // journald is being restarted, or the machine is short of memory.
            Err(
                ErrorKind::NotFound
                | ErrorKind::ConnectionRefused
                | ErrorKind::ConnectionReset
                | ErrorKind::WouldBlock
                | ErrorKind::OutOfMemory,
            ) => std::thread::sleep(AGAIN),
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::kinds::READY;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    /// A stand-in for journald that takes lines when it is asked to.
    fn stand_in(name: &str) -> std::io::Result<(UnixDatagram, PathBuf)> {
        let place = std::env::temp_dir().join(format!("stratavore-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&place);
        let socket = UnixDatagram::bind(&place)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok((socket, place))
    }

    fn take(socket: &UnixDatagram) -> std::io::Result<String> {
        let mut buffer = vec![0; 64 << 10];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    #[test]
    fn fields_travel_as_the_journal_wants_them() {
        let mut entry = Entry::new(6, "x", "two\nlines").kind(READY);
        entry.field("__STRATAVORE_a.b-ü", "v");
        entry.field("LONG", &"ü".repeat(VALUE_MAX));
        let text = String::from_utf8_lossy(&entry.0).into_owned();
        assert!(
            text.starts_with("PRIORITY=6\nSYSLOG_IDENTIFIER=x\nMESSAGE\n\t\0\0\0\0\0\0\0two\nlines\nMESSAGE_ID=7b68"),
            "{text}"
        );
        assert!(text.contains("\nSTRATAVORE_A_B__=v\n"), "{text}");
        assert!(entry.0.len() < VALUE_MAX + 256);
    }

    #[test]
    fn a_journal_that_takes_nothing_stops_nobody() -> Outcome {
        let (socket, place) = stand_in("stopped")?;
        let journal = Journal::new(&place, "test");
        journal.start()?;
        let begun = Instant::now();
        let long = "x".repeat(1000);
        let sent = 5_000;
        for _ in 0..sent {
            journal.send(Entry::new(6, "test", &long).kind(READY));
        }
        assert!(begun.elapsed() < Duration::from_secs(2));
        let dropped = journal.dropped();
        assert!(dropped > 3_000, "{dropped}");
        let (mut taken, mut told) = (0, None);
        while told.is_none() || taken < sent - dropped {
            let line = take(&socket)?;
            match line.split_once("STRATAVORE_LINES_DROPPED=") {
                Some((_, number)) => told = Some(number.trim().parse::<u64>()?),
                None => taken += 1,
            }
        }
        assert_eq!(
            told,
            Some(dropped),
            "each line was taken or is counted, once"
        );
        journal.flush(Duration::from_secs(5));
        std::fs::remove_file(place)?;
        Ok(())
    }

    #[test]
    fn lines_wait_for_a_journal_that_is_restarted() -> Outcome {
        let (socket, place) = stand_in("restarted")?;
        drop(socket);
        std::fs::remove_file(&place)?;
        let journal = Journal::new(&place, "test");
        journal.send(Entry::new(6, "test", "early"));
        journal.start()?;
        journal.flush(Duration::from_millis(10));
        let (socket, _) = stand_in("restarted")?;
        assert!(take(&socket)?.contains("MESSAGE=early\n"));
        journal.flush(Duration::from_secs(5));
        assert_eq!(journal.dropped(), 0);
        std::fs::remove_file(place)?;
        Ok(())
    }
}
