//! The exit record on disk. Its blocks are reserved before the gate can open, so that a full
//! disk cannot swallow an ending.

use crate::crash;
use crate::domain::exit::Record;
use rustix::fs::Gid;
use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, fallocate, fchmod, fchown, fstat, fsync,
    ftruncate, openat, renameat, statat, unlinkat,
};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// Reserved for one record: more than any record takes.
const ROOM: u64 = 16 << 10;

/// The place for one record: `<id>.json` in the folder, and the file that will become it.
#[derive(Debug)]
pub(super) struct Place {
    dir: OwnedFd,
    file: File,
    temp: String,
    name: String,
}

impl Place {
    /// Makes the temporary file, mode 0640, with the folder's group, and its room on the disk.
    pub(super) fn reserve(dir: OwnedFd, id: &str) -> io::Result<Self> {
        let temp = format!(".{id}.tmp");
        let file = create(&dir, &temp)?;
        Ok(Self {
            dir,
            file,
            temp,
            name: format!("{id}.json"),
        })
    }

    /// Puts the record in its place, durably.
    pub(super) fn write(&self, record: &Record) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(record)?;
        bytes.push(b'\n');
        self.file.write_all_at(&bytes, 0)?;
        ftruncate(&self.file, bytes.len() as u64)?;
        crash::point("shim.record-temp");
        fsync(&self.file)?;
        renameat(&self.dir, &self.temp, &self.dir, &self.name)?;
        crash::point("shim.record-renamed");
        Ok(fsync(&self.dir)?)
    }

    /// After a failure: done if the record is there by now, else all over again with a new
    /// file (after a failed fsync the old one's pages are not to be trusted).
    pub(super) fn write_again(&mut self, record: &Record) -> io::Result<()> {
        let there = statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        if there.is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile) {
            return Ok(fsync(&self.dir)?);
        }
        self.file = create(&self.dir, &self.temp)?;
        self.write(record)
    }

    /// Nothing will be written after all.
    pub(super) fn give_up(self) {
        let _ = unlinkat(&self.dir, &self.temp, AtFlags::empty());
    }
}

fn create(dir: &OwnedFd, temp: &str) -> io::Result<File> {
    // Ids are never used twice: what is in the way is ours, of a launch that was cut short.
    let _ = unlinkat(dir, temp, AtFlags::empty());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(dir, temp, flags, Mode::RUSR | Mode::WUSR)?);
    let made = furnish(dir, &file);
    if made.is_err() {
        let _ = unlinkat(dir, temp, AtFlags::empty());
    }
    made.map(|()| file)
}

fn furnish(dir: &OwnedFd, file: &File) -> io::Result<()> {
    let group = Gid::from_raw(fstat(dir)?.st_gid);
    if fstat(file)?.st_gid != group.as_raw() {
        // Only root may; in `--user` mode the folder is the user's own anyway.
        let _ = fchown(file, None, Some(group));
    }
    fchmod(file, Mode::RUSR | Mode::WUSR | Mode::RGRP)?;
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, ROOM) {
        Ok(()) => Ok(()),
        // A file system that can't reserve: write the room, and write over it later.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            file.write_all_at(&[b' '; ROOM as usize], 0)?;
            Ok(fsync(file)?)
        }
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn record() -> Record {
        let text = r#"{"v":1,"id":"a","boot_id":"b","code":3}"#;
        serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn a_record_appears_whole_and_leaves_nothing_else() -> Outcome {
        let path = std::env::temp_dir().join(format!("record-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        let names = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(&path)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            Ok(names)
        };
        let open = || File::open(&path).map(OwnedFd::from);
        Place::reserve(open()?, "a")?.give_up();
        assert!(names()?.is_empty());
        let mut place = Place::reserve(open()?, "a")?;
        assert_eq!(names()?, [".a.tmp"]);
        // The reserved file is taken away: the first try fails, the second makes a new one.
        std::fs::remove_file(path.join(".a.tmp"))?;
        assert!(place.write(&record()).is_err());
        place.write_again(&record())?;
        assert_eq!(names()?, ["a.json"]);
        let back: Record = serde_json::from_slice(&std::fs::read(path.join("a.json"))?)?;
        assert_eq!(back, record());
        place.write_again(&record())?;
        Ok(std::fs::remove_dir_all(&path)?)
    }
}
