//! Reading a log while it may be written.

use super::ring::{HEADER, Header};
use super::{log_name, old_name};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// How often the two are opened anew if the writer has begun another half in between.
const TRIES: usize = 5;
const BLOCK: usize = 64 << 10;

/// One half, open: it can be read to its end, also when it is not in the folder any more.
#[derive(Debug)]
struct Half {
    file: File,
    header: Header,
}

impl Half {
    fn open(folder: impl AsFd, name: &str) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match openat(folder, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let mut line = [0; HEADER];
        let header = match file.read_exact_at(&mut line, 0) {
            Ok(()) => Header::parse(&line),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(e) => return Err(e),
        };
        Ok(header.map(|header| Self { file, header }))
    }

    /// Number of the byte after its last one, as of now.
    fn end(&self) -> io::Result<u64> {
        let len = self.file.metadata()?.len().saturating_sub(HEADER as u64);
        Ok(self.header.from + len)
    }

    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let within = at.saturating_sub(self.header.from);
        self.file.read_at(buffer, HEADER as u64 + within)
    }
}

/// The halves that are there, in order. One may have become the older one while we looked; just then there is no other.
fn newest(folder: &OwnedFd, id: &str) -> io::Result<Vec<Half>> {
    let log = Half::open(folder, &log_name(id))?;
    let old = Half::open(folder, &old_name(id))?;
    let mut halves: Vec<Half> = [old, log].into_iter().flatten().collect();
    halves.sort_by_key(|half| half.header.from);
    halves.dedup_by_key(|half| half.header.from);
    Ok(halves)
}

/// A log being read.
#[derive(Debug)]
pub struct Reading {
    folder: OwnedFd,
    id: String,
    /// In order; what is read is in the first.
    halves: VecDeque<Half>,
    /// Number of the byte that is read next.
    at: u64,
}

impl Reading {
    /// Opens what there is, at its first line. `None`: this runner has no log.
    pub fn open(folder: impl AsFd, id: &str) -> io::Result<Option<Self>> {
        let folder = folder.as_fd().try_clone_to_owned()?;
        let mut halves = Vec::new();
        for _ in 0..TRIES {
            halves = newest(&folder, id)?;
            // One alone that is not the first: another was begun in between, or the writer was killed just then.
            if halves.len() != 1 || halves.iter().all(|h| h.header.from == 0) {
                break;
            }
        }
        if halves.is_empty() {
            return Ok(None);
        }
        let mut reading = Self {
            folder,
            id: id.to_owned(),
            halves: halves.into(),
            at: 0,
        };
        reading.seek_first_line()?;
        Ok(Some(reading))
    }

    /// To the first line of what is open.
    fn seek_first_line(&mut self) -> io::Result<()> {
        let Some(first) = self.halves.front() else {
            return Ok(());
        };
        self.at = first.header.from;
        if !first.header.line {
            let mut block = vec![0; BLOCK];
            let n = first.read(self.at, &mut block)?;
            self.at += skipped(first.header, &block[..n]) as u64;
        }
        Ok(())
    }

    /// Goes to where so many last lines begin.
    pub fn seek_last(&mut self, lines: u64) -> io::Result<()> {
        let Some(end) = self.halves.back().map(Half::end).transpose()? else {
            return Ok(());
        };
        let (first, mut upper) = (self.at, end);
        let mut wanted = lines;
        let mut block = vec![0; BLOCK];
        while upper > first && wanted > 0 {
            let half = self.halves.iter().rev().find(|h| h.header.from < upper);
            let Some(half) = half else { break };
            let lower = upper
                .saturating_sub(BLOCK as u64)
                .max(half.header.from)
                .max(first);
            let len = usize::try_from(upper - lower).unwrap_or(BLOCK).min(BLOCK);
            let n = half.read(lower, &mut block[..len])?;
            for (place, byte) in block[..n].iter().enumerate().rev() {
                let after = lower + place as u64 + 1;
                // The one at the very end ends the last line and begins none.
                if *byte == b'\n' && after < end {
                    wanted -= 1;
                    if wanted == 0 {
                        self.at = after;
                        break;
                    }
                }
            }
            upper = lower;
        }
        if lines == 0 {
            self.at = end;
        }
        while self.halves.len() > 1 && self.halves.get(1).is_some_and(|h| h.header.from <= self.at)
        {
            self.halves.pop_front();
        }
        Ok(())
    }

    /// What comes next; 0 = that was all, up to now.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(half) = self.halves.front() {
            let n = half.read(self.at, buffer)?;
            self.at += n as u64;
            if n > 0 || self.halves.len() == 1 {
                return Ok(n);
            }
            self.halves.pop_front();
            if let Some(next) = self.halves.front() {
                self.at = self.at.max(next.header.from);
            }
        }
        Ok(0)
    }

    /// After [`Self::read`] has said 0: whether the writer has begun another half meanwhile, so that there is more. With
    /// how many bytes were overwritten before they were read.
    pub fn turned(&mut self) -> io::Result<Option<u64>> {
        let Some(last) = self.halves.back().map(|h| h.header.from) else {
            return Ok(None);
        };
        let mut newer = newest(&self.folder, &self.id)?;
        newer.retain(|half| half.header.from > last);
        let Some(first) = newer.first().map(|half| half.header.from) else {
            return Ok(None);
        };
        // Nobody writes to the last one any more: its end is final.
        let end = self.halves.back().map(Half::end).transpose()?.unwrap_or(0);
        if first <= end {
            self.halves.extend(newer);
        } else if self.at >= end {
            return self.jump(newer.into());
        }
        Ok(Some(0))
    }

    /// Leaves out what is not there any more.
    fn jump(&mut self, halves: VecDeque<Half>) -> io::Result<Option<u64>> {
        let at = self.at;
        self.halves = halves;
        self.seek_first_line()?;
        Ok(Some(self.at.saturating_sub(at)))
    }
}

/// Where the first line begins in the oldest half: behind the rest of one whose beginning is gone, unless that is long.
pub(super) fn skipped(header: Header, bytes: &[u8]) -> usize {
    let mut bytes = bytes.iter().take(BLOCK);
    match header.line {
        true => 0,
        false => bytes.position(|b| *b == b'\n').map_or(0, |n| n + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Files, Ring, list, remove};
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("stratavore-log-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir(&path).expect("a folder");
            Self(path)
        }

        fn open(&self) -> OwnedFd {
            File::open(&self.0).expect("it is there").into()
        }

        fn reading(&self) -> Reading {
            Reading::open(self.open(), "r")
                .expect("readable")
                .expect("a log")
        }

        fn size(&self) -> u64 {
            let entries = std::fs::read_dir(&self.0).expect("listed");
            entries
                .map(|e| e.and_then(|e| e.metadata()).map_or(0, |m| m.len()))
                .sum()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn rest(reading: &mut Reading) -> Vec<u8> {
        let (mut out, mut some) = (Vec::new(), [0; 100]);
        loop {
            match reading.read(&mut some).expect("read") {
                0 => return out,
                n => out.extend_from_slice(&some[..n]),
            }
        }
    }

    #[test]
    fn last_lines() {
        let folder = Folder::new("last");
        let mut files = Files::new(folder.open(), "r");
        let mut ring = Ring::begin(&mut files, 4096).expect("begun");
        let all: Vec<String> = (0..600).map(|n| format!("line {n}\n")).collect();
        all.iter()
            .for_each(|line| ring.write(&mut files, line.as_bytes()));
        let whole = rest(&mut folder.reading());
        let kept = whole.iter().filter(|b| **b == b'\n').count();
        assert!(kept > 190, "{kept}");
        for n in [0, 1, 7, 150, kept, kept + 5] {
            let mut reading = folder.reading();
            reading.seek_last(n as u64).expect("found");
            assert_eq!(
                rest(&mut reading),
                all[600 - n.min(kept)..].concat().as_bytes(),
                "{n}"
            );
        }
        ring.write(&mut files, b"no end");
        let mut reading = folder.reading();
        reading.seek_last(2).expect("found");
        assert_eq!(rest(&mut reading), b"line 599\nno end");
        assert!(folder.size() <= 4096);
        assert_eq!(
            list(folder.open())
                .expect("listed")
                .into_iter()
                .collect::<Vec<_>>(),
            ["r"]
        );
        remove(folder.open(), "r").expect("removed");
        remove(folder.open(), "r").expect("not there = done");
        assert!(
            Reading::open(folder.open(), "r")
                .expect("readable")
                .is_none()
        );
        // Whoever has it open reads on.
        assert!(rest(&mut reading).is_empty());
    }

    #[test]
    fn a_line_without_end_is_not_searched_for_long() {
        let cut = Header {
            from: 7,
            line: false,
        };
        assert_eq!(skipped(cut, b"rest\nline"), 5);
        assert_eq!(skipped(cut, &vec![b'x'; 9 * BLOCK]), 0);
        let mut late = vec![b'x'; 2 * BLOCK];
        late[BLOCK + 1] = b'\n';
        assert_eq!(skipped(cut, &late), 0);
    }

    #[test]
    fn a_torn_half_is_none() {
        let folder = Folder::new("torn");
        for text in ["", "#stratavore-log v=1", &"\0".repeat(100)] {
            std::fs::write(folder.0.join("r.log"), text).expect("written");
            assert!(
                Reading::open(folder.open(), "r")
                    .expect("readable")
                    .is_none()
            );
        }
        std::os::unix::fs::symlink("/etc/passwd", folder.0.join("r.old")).expect("a link");
        assert!(Reading::open(folder.open(), "r").is_err());
    }

    proptest! {
            #![proptest_config(ProptestConfig::with_cases(64))]
            #[test]
            fn following(
                steps in proptest::collection::vec((1..400usize, any::<bool>()), 1..60),
            ) {
                let folder = Folder::new("follow");
                let mut files = Files::new(folder.open(), "r");
                let mut ring = Ring::begin(&mut files, 1024)?;
                let mut reading = folder.reading();
                let (mut all, mut got, mut missed, mut gap) = (Vec::new(), Vec::new(), 0, 0);
                let mut look = |got: &mut Vec<u8>| loop {
                    got.extend(rest(&mut reading));
                    match reading.turned().expect("looked") {
                        None => break,
                        Some(0) => {}
                        Some(n) => (missed, gap) = (missed + n, got.len()),
                    }
                };
                for (n, (size, reads)) in steps.iter().enumerate() {
                    let mut piece = vec![b'a' + (n % 26) as u8; *size];
                    piece.push(b'\n');
                    ring.write(&mut files, &piece);
                    all.extend(piece);
                    prop_assert!(folder.size() <= 1024);
                    if *reads {
                        look(&mut got);
                    }
                }
                look(&mut got);
                prop_assert_eq!(got.len() as u64 + missed, all.len() as u64);
    prop_assert!(all.ends_with(&got[gap..]));
                if missed == 0 {
                    prop_assert_eq!(got, all);
                }
            }
        }
}
