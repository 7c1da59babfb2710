//! The two files on disk.

use super::ring::{HEADER, Halves};
use super::{log_name, new_name, old_name};
use crate::crash;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, fstatvfs, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// Of the disk this part is left to others (the store is on it), but no more than [`KEEP_MOST`] bytes.
const KEEP_PART: u64 = 20;
const KEEP_MOST: u64 = 1 << 30;

/// The files of one runner, for its shim.
#[derive(Debug)]
pub struct Files {
    folder: OwnedFd,
    id: String,
    new: Option<File>,
    log: Option<File>,
}

impl Files {
    /// In this folder, which nobody else may write to.
    pub fn new(folder: OwnedFd, id: &str) -> Self {
        Self {
            folder,
            id: id.to_owned(),
            new: None,
            log: None,
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.folder, from, &self.folder, to)?)
    }
}

impl Halves for Files {
    fn create(&mut self, header: &[u8; HEADER]) -> io::Result<()> {
        let name = new_name(&self.id);
        self.new = None;
        // Once there are two, another half takes no more than what goes.
        if statat(&self.folder, old_name(&self.id), AtFlags::SYMLINK_NOFOLLOW).is_err() {
            room(&self.folder)?;
        }
        unlink(&self.folder, &name)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&self.folder, &name, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all_at(header, 0)?;
        self.new = Some(file);
        crash::point("shim.log-created");
        Ok(())
    }

    fn demote(&mut self) -> io::Result<()> {
        self.log = None;
        match self.rename(&log_name(&self.id), &old_name(&self.id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => {
                crash::point("shim.log-demoted");
                Ok(())
            }
        }
    }

    fn promote(&mut self) -> io::Result<()> {
        self.rename(&new_name(&self.id), &log_name(&self.id))?;
        self.log = self.new.take();
        crash::point("shim.log-promoted");
        Ok(())
    }

    fn append(&mut self, at: u64, bytes: &[u8]) -> io::Result<usize> {
        // Once there are two, another half takes no more than what goes.
        if statat(&self.folder, old_name(&self.id), AtFlags::SYMLINK_NOFOLLOW).is_err() {
            room(&self.folder)?;
        }
        match &self.log {
            Some(log) => log.write_at(bytes, at),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// An error if the disk is as full as a log may make it.
fn room(folder: &OwnedFd) -> io::Result<()> {
    let disk = fstatvfs(folder)?;
    let keep = (disk.f_blocks / KEEP_PART).min(KEEP_MOST / disk.f_frsize.max(1));
    // Some file systems know no size.
    if disk.f_blocks > 0 && disk.f_bavail < keep {
        return Err(Errno::NOSPC.into());
    }
    Ok(())
}

fn unlink(folder: impl AsFd, name: &str) -> io::Result<()> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::NOENT) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes all of a runner's log. Not there = done.
pub fn remove(folder: impl AsFd, id: &str) -> io::Result<()> {
    let names = [new_name(id), old_name(id), log_name(id)];
    names.iter().try_for_each(|name| unlink(&folder, name))
}

/// The ids whose names are in the folder.
pub fn list(folder: impl AsFd) -> io::Result<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        let new = name.strip_prefix('.').and_then(|n| n.strip_suffix(".new"));
        let id = new
            .or_else(|| name.strip_suffix(".log"))
            .or_else(|| name.strip_suffix(".old"));
        ids.extend(id.map(str::to_owned));
    }
    Ok(ids)
}
