//! The credentials of runners: one folder for each runner that has some, made, filled and removed
//! by its shim. What a shim could not remove is removed here.

use super::exits::Folder;
use super::log;
use crate::domain::RunnerId;
use crate::domain::kinds;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, chmodat, fchmod, fstatfs, openat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::geteuid;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Users go through to their own; nobody but root lists it.
const SYSTEM_MODE: u32 = 0o711;
const USER_MODE: u32 = 0o700;
/// File systems in memory, as statfs(2) names them.
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;
/// Of the file system, the first that the kernel knows: never written to swap (Linux 6.4), or else
/// as other memory. How much a runner may have is bounded by its shim.
const OPTIONS: [&CStr; 2] = [c"mode=0711,size=25%,noswap", c"mode=0711,size=25%"];

/// The folder of all of them.
#[derive(Debug)]
pub(super) struct Credentials {
    path: PathBuf,
    folder: Folder,
}

impl Credentials {
    /// Opens it, makes it where it is missing. The system's is a file system of its own, in
    /// memory, that an agent mounts once for each boot. The error is a sentence.
    pub(super) fn open(path: &Path, system: bool) -> Result<Self, String> {
        let folder = Self::folder(path, system).map_err(|e| {
            format!(
                "The folder of credentials {} can't be used: {e}. See to it and restart stratavore-agent.",
                path.display()
            )
        })?;
        let path = path.to_owned();
        Ok(Self { path, folder })
    }

    fn folder(path: &Path, system: bool) -> io::Result<Folder> {
        let above = path.parent().unwrap_or(path);
        let (above_mode, mode) = match system {
            true => (0o755, SYSTEM_MODE),
            false => (USER_MODE, USER_MODE),
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(above_mode)
            .create(above)?;
        let mut folder = Folder::open(path, mode, None)?;
        // A mount over what an earlier agent could not mount would hide the credentials there.
        if system && !is_mounted(path)? && is_empty(&folder)? {
            match mount_tmpfs(path) {
                Ok(()) => folder = Folder::open(path, mode, None)?,
                // In a container. Then it is as private as the rest of /run, and may be swapped.
                Err(e) => log::warning(
                    kinds::SETUP_LACKING,
                    format_args!(
                        "No file system can be mounted at {}: {e}. Credentials of runners are in /run's instead.",
                        path.display()
                    ),
                ),
            }
        }
        match fstatfs(&folder)?.f_type as u64 & 0xffff_ffff {
            TMPFS | RAMFS => Ok(folder),
            _ => Err(io::Error::other(
                "credentials are kept in memory alone, and it is on neither a tmpfs nor a ramfs",
            )),
        }
    }

    /// Where a runner finds its own.
    pub(super) fn of(&self, id: RunnerId) -> String {
        self.path.join(id.to_string()).display().to_string()
    }

    /// All runners that have some.
    pub(super) fn ids(&self) -> io::Result<Vec<RunnerId>> {
        let names = self.folder.names()?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Removes those of a runner whose shim is gone. Not there = done.
    pub(super) fn remove(&self, id: RunnerId) {
        match self.try_remove(&id.to_string()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // A runner of ours may have made folders in it; one of root's agent can't.
            Err(_) if !geteuid().is_root() && std::fs::remove_dir_all(self.of(id)).is_ok() => {}
            Err(e) => log::warning(
                kinds::SETUP_LACKING,
                format_args!("The credentials of runner {id} can't be removed: {e}."),
            ),
        }
    }

    fn try_remove(&self, name: &str) -> rustix::io::Result<()> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let dir = openat(&self.folder, name, flags, Mode::empty())?;
        fchmod(&dir, Mode::RWXU)?;
        let mut first = Ok(());
        for entry in rustix::fs::Dir::read_from(&dir)? {
            let entry = entry?;
            if ![c".", c".."].contains(&entry.file_name()) {
                // What resists keeps none of the others.
                let removed = remove_file(dir.as_fd(), entry.file_name());
                first = first.and(removed);
            }
        }
        first.and(unlinkat(&self.folder, name, AtFlags::REMOVEDIR))
    }
}

/// Emptied before: whoever has it open has nothing then, and holds no memory.
fn remove_file(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let is_file = |found: Stat| FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
    if statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(is_file) {
        let _ = chmodat(dir, name, Mode::RUSR | Mode::WUSR, AtFlags::empty());
        let _ = openat(dir, name, flags | OFlags::CLOEXEC, Mode::empty());
    }
    unlinkat(dir, name, AtFlags::empty())
}

impl AsFd for Credentials {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

/// Whether something is mounted there already, by an earlier agent.
fn is_mounted(path: &Path) -> io::Result<bool> {
    let here = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    let above = statat(CWD, path.join(".."), AtFlags::empty())?;
    Ok(here.st_dev != above.st_dev)
}

fn is_empty(folder: &Folder) -> io::Result<bool> {
    let names = folder.names()?;
    Ok(names.iter().all(|name| matches!(&name[..], "." | "..")))
}

fn mount_tmpfs(path: &Path) -> rustix::io::Result<()> {
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    let mut tried = Err(Errno::INVAL);
    for options in OPTIONS {
        // Only an option that the kernel does not know is worth another try.
        if tried == Err(Errno::INVAL) {
            tried = mount("stratavore-credentials", path, "tmpfs", flags, options);
        }
    }
    tried
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_a_shim_left_is_removed() -> io::Result<()> {
        let base = format!("/dev/shm/stratavore-cred-{}", std::process::id());
        let base = PathBuf::from(base);
        let path = base.join("credentials/stratavore");
        let open = || Credentials::open(&path, false).map_err(io::Error::other);
        let credentials = open()?;
        let id = RunnerId::from_uuid(uuid::Uuid::from_u128(9));
        let own = PathBuf::from(credentials.of(id));
        credentials.remove(id);
        fs::create_dir(&own)?;
        fs::write(own.join("key"), "secret")?;
        fs::set_permissions(own.join("key"), Permissions::from_mode(0o400))?;
        fs::create_dir_all(own.join("made/by"))?;
        fs::write(own.join("made/by/the runner"), "")?;
        fs::set_permissions(&own, Permissions::from_mode(0o500))?;
        let held = fs::File::open(own.join("key"))?;
        fs::write(path.join("no id"), "")?;
        assert_eq!(credentials.ids()?, [id]);
        credentials.remove(id);
        let as_root = geteuid().is_root();
        assert!(own.exists() == as_root && credentials.ids()?.is_empty() != as_root);
        assert_eq!(held.metadata()?.len(), 0, "who has it open has nothing");
        // Nobody else may look in, and it can be opened again.
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o700);
        open()?;
        fs::remove_dir_all(&base)
    }
}
