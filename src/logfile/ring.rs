//! The two halves as a small state machine over whatever keeps them.

use std::io;

/// Bytes of the line that each half begins with.
pub const HEADER: usize = 64;

/// Where a half begins in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Number of its first byte.
    pub from: u64,
    /// A line begins with it.
    pub line: bool,
}

impl Header {
    /// The line: words, padded with blanks.
    pub fn bytes(self) -> [u8; HEADER] {
        let begins = if self.line { "line" } else { "rest" };
        let text = format!("#stratavore-log v=1 from={:020} begins={begins}", self.from);
        let mut out = [b' '; HEADER];
        out[..text.len()].copy_from_slice(text.as_bytes());
        out[HEADER - 1] = b'\n';
        out
    }

    /// `None`: this is no half of ours, or one cut short by a power cut.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes.get(..HEADER)?).ok()?;
        let rest = text.strip_prefix("#stratavore-log v=1 from=")?;
        let (from, begins) = rest.trim_end().split_once(" begins=")?;
        Some(Self {
            from: from.parse().ok()?,
            line: begins == "line",
        })
    }
}

/// What keeps the halves. Every step may fail, and the writer may be killed after any.
pub trait Halves {
    /// Makes the half to be, with its header; one made before for the same purpose is forgotten.
    fn create(&mut self, header: &[u8; HEADER]) -> io::Result<()>;
    /// Makes the half that is written to the older one, in whose place it comes. None is written to: nothing to do.
    fn demote(&mut self) -> io::Result<()>;
    /// Makes the half to be the one that is written to.
    fn promote(&mut self) -> io::Result<()>;
    /// Writes at this place of the half that is written to; says how many bytes it took.
    fn append(&mut self, at: u64, bytes: &[u8]) -> io::Result<usize>;
}

/// The writer's state.
#[derive(Debug)]
pub struct Ring {
    /// Bytes of output in one half.
    room: u64,
    /// Number of the first byte in the half that is written to.
    from: u64,
    /// Bytes of output in it.
    len: u64,
    /// What is written next begins a line.
    line: bool,
    /// Bytes that could not be written, and nothing after them has been; why.
    missing: Option<(u64, String)>,
    /// Bytes that could not be written, in all.
    lost: u64,
}

impl Ring {
    /// Begins the first half. `max`: of both halves, their headers included.
    pub fn begin(halves: &mut impl Halves, max: u64) -> io::Result<Self> {
        // A third header is there while another half is begun.
        let header = HEADER as u64;
        let ring = Self {
            room: (max.saturating_sub(header) / 2)
                .saturating_sub(header)
                .max(1),
            from: 0,
            len: 0,
            line: true,
            missing: None,
            lost: 0,
        };
        ring.turn(halves, 0)?;
        Ok(ring)
    }

    /// Bytes of output that could not be written, up to now.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Writes output. What can't be written is counted, and told in the log as soon as something can.
    pub fn write(&mut self, halves: &mut impl Halves, bytes: &[u8]) {
        if let Some((missing, why)) = &self.missing {
            let begin = if self.line { "" } else { "\n" };
            let note = format!(
                "{begin}-- stratavore: {missing} bytes of output are missing here: {why} --\n"
            );
            if let Err((done, error)) = self.put(halves, note.as_bytes()) {
                // Cut short it is written again, unless all of it can be read.
                if done + 1 >= note.len() {
                    self.missing = None;
                }
                return self.lose(bytes.len(), &error);
            }
            self.missing = None;
        }
        if let Err((done, error)) = self.put(halves, bytes) {
            self.lose(bytes.len() - done, &error);
        }
    }

    fn lose(&mut self, bytes: usize, error: &io::Error) {
        let bytes = bytes as u64;
        self.lost += bytes;
        match &mut self.missing {
            Some((missing, _)) => *missing += bytes,
            None => self.missing = Some((bytes, error.to_string())),
        }
    }

    /// An error comes with the number of bytes that were written before it.
    fn put(&mut self, halves: &mut impl Halves, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut done = 0;
        while let Some(rest @ [_, ..]) = bytes.get(done..) {
            if self.len >= self.room {
                let from = self.from + self.len;
                self.turn(halves, from).map_err(|e| (done, e))?;
                (self.from, self.len) = (from, 0);
            }
            let room = usize::try_from(self.room - self.len).unwrap_or(usize::MAX);
            let part = rest.get(..room).unwrap_or(rest);
            let written = halves.append(HEADER as u64 + self.len, part);
            let written = written.map_err(|e| (done, e))?.min(part.len());
            let Some(last) = part.get(..written).and_then(<[u8]>::last) else {
                return Err((done, io::ErrorKind::WriteZero.into()));
            };
            self.line = *last == b'\n';
            self.len += written as u64;
            done += written;
        }
        Ok(())
    }

    /// Another half. Killed in between, the one that was written to is there, under one name or the other; after a failure
    /// all three steps are taken again.
    fn turn(&self, halves: &mut impl Halves, from: u64) -> io::Result<()> {
        let header = Header {
            from,
            line: self.line,
        };
        halves.create(&header.bytes())?;
        halves.demote()?;
        halves.promote()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Halves in memory. From the n-th step on nothing happens any more (killed), or these steps fail.
    #[derive(Debug, Default)]
    struct Memory {
        new: Option<Vec<u8>>,
        log: Option<Vec<u8>>,
        old: Option<Vec<u8>>,
        steps: usize,
        killed_at: Option<usize>,
        fail: Vec<usize>,
        most: usize,
    }

    impl Memory {
        fn step(&mut self) -> io::Result<bool> {
            self.steps += 1;
            let all = [&self.new, &self.log, &self.old];
            let size = all.iter().map(|h| h.as_ref().map_or(0, Vec::len)).sum();
            self.most = self.most.max(size);
            if self.fail.contains(&self.steps) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(self.killed_at.is_none_or(|at| self.steps < at))
        }
    }

    impl Halves for Memory {
        fn create(&mut self, header: &[u8; HEADER]) -> io::Result<()> {
            if self.step()? {
                self.new = Some(header.to_vec());
            }
            Ok(())
        }

        fn demote(&mut self) -> io::Result<()> {
            if self.step()? && self.log.is_some() {
                self.old = self.log.take();
            }
            Ok(())
        }

        fn promote(&mut self) -> io::Result<()> {
            if self.step()? {
                self.log = self.new.take();
            }
            Ok(())
        }

        fn append(&mut self, at: u64, bytes: &[u8]) -> io::Result<usize> {
            // A disk takes as much as it likes.
            let some = bytes.len().min(1 + self.steps % 40);
            if self.step()?
                && let Some(log) = &mut self.log
            {
                assert_eq!(log.len() as u64, at);
                log.extend_from_slice(&bytes[..some]);
            }
            Ok(some)
        }
    }

    /// What a reader makes of the two, as `reading` does it.
    fn read(halves: &Memory) -> (u64, Vec<u8>) {
        let half = |h: &Option<Vec<u8>>| {
            let bytes = h.as_ref()?;
            Some((Header::parse(bytes)?, bytes[HEADER..].to_vec()))
        };
        let (old, log) = (half(&halves.old), half(&halves.log));
        let all: Vec<_> = old.into_iter().chain(log).collect();
        let Some((first, begin)) = all.first() else {
            return (0, Vec::new());
        };
        let skip = super::super::reading::skipped(*first, begin);
        let mut at = first.from;
        let mut out = Vec::new();
        for (header, bytes) in &all {
            assert_eq!(header.from, at, "one goes on where the other ends");
            at += bytes.len() as u64;
            out.extend_from_slice(bytes);
        }
        (first.from + skip as u64, out.split_off(skip))
    }

    #[test]
    fn a_header_comes_back() {
        for header in [
            Header {
                from: 0,
                line: true,
            },
            Header {
                from: u64::MAX,
                line: false,
            },
        ] {
            assert_eq!(Header::parse(&header.bytes()), Some(header));
        }
        assert_eq!(Header::parse(b"#stratavore-log v=1 from=1"), None);
        assert_eq!(Header::parse(&[0; HEADER]), None);
    }

    fn line() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![4 => 0..60usize, 1 => 0..900usize].prop_map(|n| {
            let mut line = vec![b'x'; n];
            line.push(b'\n');
            line
        })
    }

    proptest! {
        #[test]
        fn what_is_read_is_the_newest(
            lines in proptest::collection::vec(line(), 0..60),
            cuts in proptest::collection::vec(1..700usize, 1..60),
            max in 512..2_048u64,
            killed_at in proptest::option::of(1..200usize),
        ) {
            // Lines that can be told apart.
            let mut all: Vec<u8> = lines.concat();
            for (n, byte) in all.iter_mut().enumerate() {
                if *byte != b'\n' {
                    *byte = b'a' + (n % 23) as u8;
                }
            }
            let mut halves = Memory { killed_at, ..Memory::default() };
            let mut ring = Ring::begin(&mut halves, max)?;
            let (mut written, mut cut) = (0, cuts.iter().cycle());
            while written < all.len() {
                let n = (*cut.next().unwrap_or(&1)).min(all.len() - written);
                ring.write(&mut halves, &all[written..written + n]);
                written += n;
            }
            prop_assert_eq!(ring.lost(), 0);
            prop_assert!(halves.most as u64 <= max);
            let (from, got) = read(&halves);
            let end = from as usize + got.len();
            // A piece of what was written, from the beginning of a line on, up to where it was killed or to the end.
            prop_assert_eq!(&got[..], &all[from as usize..end]);
            let longest = all.split(|b| *b == b'\n').map(<[u8]>::len).max().unwrap_or(0) + 1;
            let whole = from == 0 || all[from as usize - 1] == b'\n';
            prop_assert!(whole || longest as u64 > ring.room, "begins within a line");
            if killed_at.is_none() {
                prop_assert_eq!(end, all.len());
            }
            // As much as a half, but for one line.
            let kept = got.len() + longest;
            prop_assert!(kept as u64 >= ring.room.min(end as u64), "{} of {}", got.len(), max);
        }

        #[test]
        fn what_is_missing_is_told(
            pieces in proptest::collection::vec("[a-z\n]{1,80}", 1..40),
            fail in proptest::collection::vec(4..120usize, 0..30),
        ) {
            let mut halves = Memory { fail, ..Memory::default() };
            // Nothing is turned away: all is to be seen.
            let mut ring = Ring::begin(&mut halves, 1 << 20)?;
            for piece in &pieces {
                ring.write(&mut halves, piece.as_bytes());
            }
            halves.fail.clear();
            ring.write(&mut halves, b"end");
            let (_, got) = read(&halves);
            let got = String::from_utf8_lossy(&got).into_owned();
            prop_assert!(got.ends_with("end"));
            let is_note = |l: &&str| l.starts_with("-- stratavore: ") && l.ends_with(" --");
            let told: u64 = got.lines().filter(is_note).filter_map(|l| l.split(' ').nth(2)?.parse::<u64>().ok()).sum();
            prop_assert_eq!(told, ring.lost());
            let all: usize = pieces.iter().map(String::len).sum();
            prop_assert!(got.len() as u64 >= all as u64 - ring.lost());
            if ring.lost() == 0 {
                prop_assert_eq!(got, pieces.concat() + "end");
            }
        }

        #[test]
        fn failures_while_turning_tear_nothing(
            fail in proptest::collection::vec(4..200usize, 0..60),
            count in 1..200usize,
        ) {
            let mut halves = Memory { fail, ..Memory::default() };
            let mut ring = Ring::begin(&mut halves, 600)?;
            for n in 0..count {
                ring.write(&mut halves, format!("line {n}\n").as_bytes());
            }
            prop_assert!(halves.most <= 600);
            read(&halves);
        }
    }
}
