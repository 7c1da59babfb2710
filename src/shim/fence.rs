//! The self-fence: a timer, and the file that says whether it is meant.

use crate::boottime;
use crate::wire;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// Reads of a file that is being written at that very moment.
const READS: usize = 100;

/// By when the runner is to stop, as far as is known here.
#[derive(Debug, Default)]
pub(super) struct Fence {
    held: Option<(File, OwnedFd)>,
    last: wire::Fence,
}

impl Fence {
    /// From now on by this file.
    pub(super) fn arm(&mut self, file: OwnedFd) -> io::Result<()> {
        let file = File::from(file);
        let last = read(&file).ok_or(io::ErrorKind::InvalidData)?;
        let timer = boottime::timer()?;
        boottime::set(&timer, last.deadline)?;
        self.held = Some((file, timer));
        self.last = last;
        Ok(())
    }

    /// Readable when it is time to ask [`Self::passed`].
    pub(super) fn timer(&self) -> Option<BorrowedFd<'_>> {
        self.held.as_ref().map(|(_, timer)| timer.as_fd())
    }

    /// µs on CLOCK_BOOTTIME; 0 = never.
    pub(super) fn deadline(&self) -> u64 {
        self.last.deadline
    }

    /// The timer has run out: if nothing later stands in the file, how long ago the deadline was
    /// and how long ago it had been set, in µs. Told once.
    pub(super) fn passed(&mut self) -> Option<(u64, u64)> {
        let (file, timer) = self.held.as_ref()?;
        // What can't be read was not renewed.
        self.last = read(file).unwrap_or(self.last);
        let now = boottime::now();
        let wire::Fence { deadline, set_at } = self.last;
        if deadline > now && boottime::set(timer, deadline).is_ok() {
            return None;
        }
        let _ = boottime::set(timer, 0);
        (deadline > 0).then(|| (now.saturating_sub(deadline), now.saturating_sub(set_at)))
    }
}

fn read(file: &File) -> Option<wire::Fence> {
    (0..READS).find_map(|_| {
        let mut bytes = [0; wire::Fence::SIZE];
        let n = file.read_at(&mut bytes, 0).ok()?;
        wire::Fence::from_bytes(bytes.get(..n)?)
    })
}
