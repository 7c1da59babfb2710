//! The folder of exit records: written by shims, read and removed here.

use crate::domain::RunnerId;
use crate::domain::exit::Record;
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Uid, chownat, fchmod, fstat, mkdirat, openat, unlinkat,
};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A record is a few hundred bytes; a path in a message may have 4 KiB.
const RECORD_MAX: u64 = 24 << 10;

/// The open folder. All access goes by this descriptor, so that nobody who may rename the
/// folder can lead root elsewhere.
#[derive(Debug)]
pub(super) struct Folder(OwnedFd);

impl Folder {
    /// Opens a folder that root alone may write to; makes it where it is missing.
    pub(super) fn open(path: &Path, mode: u32, group: Option<u32>) -> io::Result<Self> {
        let say = |e: rustix::io::Errno| {
            io::Error::new(
                io::Error::from(e).kind(),
                format!("{}: {e}", path.display()),
            )
        };
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let made = match mkdirat(rustix::fs::CWD, path, Mode::from_raw_mode(mode)) {
            Ok(()) => true,
            Err(rustix::io::Errno::EXIST) => false,
            Err(e) => return Err(say(e)),
        };
        let fd = openat(rustix::fs::CWD, path, flags, Mode::empty()).map_err(say)?;
        let found = fstat(&fd).map_err(say)?;
        let me = rustix::process::geteuid().as_raw();
        if found.st_uid != me || found.st_mode & 0o022 != 0 {
            return Err(io::Error::other(format!(
                "{} must belong to uid {me} and be writable for no one else",
                path.display()
            )));
        }
        if made {
            fchmod(&fd, Mode::from_raw_mode(mode)).map_err(say)?;
            if let Some(gid) = group {
                let flags = AtFlags::EMPTY_PATH;
                chownat(&fd, "", None::<Uid>, Some(Gid::from_raw(gid)), flags).map_err(say)?;
            }
        }
        Ok(Self(fd))
    }

    /// The record of a runner; `Some(None)` = there is one that makes no sense. An error says
    /// nothing about the record: ask again.
    pub(super) fn record(&self, id: RunnerId) -> io::Result<Option<Option<Box<Record>>>> {
        use rustix::io::Errno;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = match openat(&self.0, file_name(id), flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            // A symbolic link or a socket: no record, and never one.
            Err(Errno::LOOP | Errno::NXIO) => return Ok(Some(None)),
            Err(e) => return Err(e.into()),
        };
        let bytes = match crate::seqpacket::read_bounded(&mut File::from(fd), RECORD_MAX) {
            Ok(bytes) => bytes,
            Err(e) if matches!(e.kind(), ErrorKind::InvalidData | ErrorKind::IsADirectory) => {
                return Ok(Some(None));
            }
            Err(e) => return Err(e),
        };
        let record: Option<Box<Record>> = serde_json::from_slice(&bytes).ok();
        Ok(Some(record.filter(|r| r.id == id.to_string())))
    }

    /// All runners with a record.
    pub(super) fn ids(&self) -> io::Result<Vec<RunnerId>> {
        let names = self.names()?;
        let id = |n: &String| n.strip_suffix(".json")?.parse().ok();
        Ok(names.iter().filter_map(id).collect())
    }

    /// All names in the folder.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
        }
        Ok(names)
    }

    /// Removes a runner's record, and the file that was to become it. Not there = done.
    pub(super) fn forget(&self, id: RunnerId) -> io::Result<()> {
        self.remove(&temp_name(id))?;
        self.remove(&file_name(id))
    }

    /// Runners with a file that was to become their record.
    pub(super) fn unfinished(&self) -> Vec<RunnerId> {
        let id = |n: &String| n.strip_prefix('.')?.strip_suffix(".tmp")?.parse().ok();
        self.names()
            .unwrap_or_default()
            .iter()
            .filter_map(id)
            .collect()
    }

    /// Removes such a file.
    pub(super) fn drop_unfinished(&self, id: RunnerId) {
        let _ = self.remove(&temp_name(id));
    }

    /// Removes a file. Not there = done.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.0, name, AtFlags::empty()).map_err(io::Error::from) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn file_name(id: RunnerId) -> String {
    format!("{id}.json")
}

fn temp_name(id: RunnerId) -> String {
    format!(".{id}.tmp")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn records_are_read_listed_and_removed() -> Outcome {
        let path = std::env::temp_dir().join(format!("stratavore-exits-{}", std::process::id()));
        let folder = Folder::open(&path, 0o750, None)?;
        let id = RunnerId::from_uuid(uuid::Uuid::from_u128(7));
        assert_eq!(folder.record(id)?, None);
        std::fs::write(
            path.join(file_name(id)),
            format!(r#"{{"v":1,"id":"{id}","boot_id":"b","code":3}}"#),
        )?;
        std::fs::write(path.join(".half.json"), "{")?;
        assert!(matches!(folder.record(id)?, Some(Some(r)) if r.code == Some(3)));
        assert_eq!(folder.ids()?, [id]);
        for bad in [r#"{"v":1,"id":"another","boot_id":"b"}"#, "{\"v\":1", ""] {
            std::fs::write(path.join(file_name(id)), bad)?;
            assert_eq!(folder.record(id)?, Some(None), "{bad}");
        }
        folder.forget(id)?;
        folder.forget(id)?;
        assert_eq!(folder.record(id)?, None);
        std::fs::create_dir(path.join(file_name(id)))?;
        assert_eq!(folder.record(id)?, Some(None));
        std::fs::remove_dir_all(&path)?;
        Ok(())
    }

    #[test]
    fn a_folder_others_may_write_to_is_refused() -> Outcome {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("stratavore-open-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
        assert!(Folder::open(&path, 0o750, None).is_err());
        std::fs::remove_dir_all(&path)?;
        Ok(())
    }
}
