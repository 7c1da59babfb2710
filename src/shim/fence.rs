//! The self-fence: a timer, and the file that says whether it is meant.

use crate::boottime;
use crate::wire::{self, Term};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// Reads of a file that is being written at that very moment.
const READS: usize = 100;

/// What the time has come for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The stop begins: the deadline was set so many µs ago, and nothing later was.
    Stop { away: u64 },
    /// Whoever is left is killed.
    Gone,
}

/// By when the runner is to stop, as far as is known here.
#[derive(Debug, Default)]
pub(super) struct Fence {
    held: Option<(File, OwnedFd)>,
    last: Term,
    /// It has passed: nothing that is said later changes that.
    missed: bool,
}

impl Fence {
    /// From now on by this file. What holds here is not forgotten for a later one: the file is
    /// looked at when its time has come.
    pub(super) fn arm(&mut self, file: OwnedFd) -> io::Result<()> {
        let file = File::from(file);
        let told = read(&file).ok_or(io::ErrorKind::InvalidData)?.now;
        if self.missed {
            return Ok(());
        }
        let timer = boottime::timer()?;
        let sooner = self.last == Term::OFF || (1..self.last.stop_at).contains(&told.stop_at);
        let last = if sooner { told } else { self.last };
        boottime::set(&timer, last.stop_at)?;
        self.held = Some((file, timer));
        self.last = last;
        Ok(())
    }

    /// Readable when it is time to ask [`Self::due`].
    pub(super) fn timer(&self) -> Option<BorrowedFd<'_>> {
        self.held.as_ref().map(|(_, timer)| timer.as_fd())
    }

    /// µs on CLOCK_BOOTTIME; 0 = never.
    pub(super) fn deadline(&self) -> u64 {
        self.last.stop_at
    }

    /// The timer has run out: what for, if nothing later stands in the file. Each is told once.
    pub(super) fn due(&mut self) -> Option<Due> {
        let (file, timer) = self.held.as_ref()?;
        let now = boottime::now();
        if self.missed {
            let left = self.last.gone_by > now;
            let again = if left { self.last.gone_by } else { 0 };
            let set = boottime::set(timer, again);
            return (!left || set.is_err()).then_some(Due::Gone);
        }
        // What can't be read was not renewed.
        self.last = read(file).map_or(self.last, |file| file.after(self.last.stop_at));
        if !self.last.has_passed(now) && boottime::set(timer, self.last.stop_at).is_ok() {
            return None;
        }
        self.missed = true;
        // At once, if it can't be set for later.
        let _ = boottime::set(timer, self.last.gone_by.max(1));
        let away = now.saturating_sub(self.last.set_at);
        Some(Due::Stop { away })
    }
}

fn read(file: &File) -> Option<wire::Fence> {
    (0..READS).find_map(|_| {
        let mut bytes = [0; wire::Fence::SIZE];
        let n = file.read_at(&mut bytes, 0).ok()?;
        wire::Fence::from_bytes(bytes.get(..n)?)
    })
}
