//! The runner's output where it goes into a log file: a pipe from the runner to the shim, which writes what comes.
//!
//! A runner that writes faster than the disk waits for its pipe, as for any reader; the shim takes some at a time and
//! looks after everything else in between. What the disk does not take is thrown away and counted: a full disk stops no
//! runner.

use crate::logfile::{Files, Ring};
use rustix::fs::{Gid, Uid, fchown};
use rustix::io::{Errno, ioctl_fionbio, ioctl_fionread, read};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Read at once; half of an ordinary pipe.
const BLOCK: usize = 32 << 10;
/// Reads before the shim looks after something else.
const BURST: usize = 8;
/// And how long they may take.
const BURST_TIME: Duration = Duration::from_millis(10);

/// The log of one runner and the pipe that fills it.
#[derive(Debug)]
pub(super) struct Output {
    files: Files,
    ring: Ring,
    /// Whose the pipe is to be.
    owner: Option<(u32, u32)>,
    pipe: Option<OwnedFd>,
    told: bool,
}

impl Output {
    /// Begins the log in this folder, with at most so many bytes.
    pub(super) fn new(
        folder: OwnedFd,
        id: &str,
        max: u64,
        owner: Option<(u32, u32)>,
    ) -> io::Result<Self> {
        let mut files = Files::new(folder, id);
        let ring = Ring::begin(&mut files, max)?;
        Ok(Self {
            files,
            ring,
            owner,
            pipe: None,
            told: false,
        })
    }

    /// The end of the pipe for the runner, which belongs to it: else it could not open its own /dev/stdout.
    pub(super) fn stream(&mut self) -> Result<OwnedFd, Errno> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        ioctl_fionbio(&ours, true)?;
        if let Some((uid, gid)) = self.owner {
            fchown(&theirs, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        self.pipe = Some(ours);
        Ok(theirs)
    }

    /// To be polled.
    pub(super) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Writes some of what is in the pipe; where that takes its time, no more than a block.
    pub(super) fn take(&mut self) {
        let begun = Instant::now();
        for _ in 0..BURST {
            if self.take_block(BLOCK) == 0 || begun.elapsed() > BURST_TIME {
                return;
            }
        }
    }

    /// The runner is gone: writes what is in the pipe now, and reads no more. Whoever else was given its end by the runner
    /// writes to nobody.
    pub(super) fn take_rest(&mut self) {
        let rest = self.pipe.as_ref().and_then(|p| ioctl_fionread(p).ok());
        let mut rest = usize::try_from(rest.unwrap_or(0)).unwrap_or(usize::MAX);
        while rest > 0 {
            match self.take_block(rest.min(BLOCK)) {
                0 => break,
                n => rest -= n,
            }
        }
        self.pipe = None;
    }

    fn take_block(&mut self, most: usize) -> usize {
        let Some(pipe) = &self.pipe else {
            return 0;
        };
        let mut block = [0; BLOCK];
        match read(pipe, &mut block[..most]) {
            Ok(0) => self.pipe = None,
            Ok(n) => {
                self.ring
                    .write(&mut self.files, block.get(..n).unwrap_or(&[]));
                return n;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.pipe = None,
        }
        0
    }

    /// Bytes that the disk did not take.
    pub(super) fn lost(&self) -> u64 {
        self.ring.lost()
    }

    /// Whether that has begun since it was asked last.
    pub(super) fn begins_to_lose(&mut self) -> bool {
        let begins = self.lost() > 0 && !self.told;
        self.told |= begins;
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logfile::Reading;
    use std::fs::File;
    use std::io::Write;

    #[test]
    fn what_is_in_the_pipe_when_the_runner_is_gone() {
        let folder = std::env::temp_dir().join(format!("stratavore-output-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let open = || OwnedFd::from(File::open(&folder).expect("it is there"));
        let mut output = Output::new(open(), "r", 1 << 20, None).expect("begun");
        let mut theirs = File::from(output.stream().expect("a pipe"));
        let text = vec![b'x'; 60_000];
        theirs.write_all(&text).expect("room");
        // Somebody holds it open and goes on.
        output.take_rest();
        assert!(output.pipe().is_none());
        assert!(theirs.write_all(b"more").is_err());
        let mut reading = Reading::open(open(), "r")
            .expect("readable")
            .expect("there");
        let mut got = Vec::new();
        let mut block = [0; 4096];
        while let Ok(n @ 1..) = reading.read(&mut block) {
            got.extend_from_slice(&block[..n]);
        }
        assert!(got == text && output.lost() == 0);
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
