//! Credentials and environment files. Root makes the folder and its empty files; the child, as
//! the runner's user and nobody else, opens what is to be in them, so no path leads to more than
//! that user may read; it writes into descriptors that are closed at its exec. The user can read
//! the files and change nothing: they stay root's, with an ACL entry.

use super::child::{clip, failed};
use crate::crash;
use crate::domain::env_file;
use crate::domain::exit::LaunchError;
use crate::domain::inputs::{CREDENTIALS_BYTES, DIRECTORY, FILE_BYTES, Inputs};
use crate::domain::spec::{ENV_ENTRIES_MAX, Setenv};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, XattrFlags, chmodat, fchmod, fsetxattr, fstat, mkdirat,
    openat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Names that are ours: neither setenv nor a file changes them.
const OURS: [&str; 2] = ["STRATAVORE_RUNNER_ID", "STRATAVORE_PROJECT"];

/// The folder of one runner's credentials; it is gone when this is dropped.
#[derive(Debug)]
pub(super) struct Vault {
    base: OwnedFd,
    id: String,
    names: Vec<String>,
}

impl Vault {
    /// Makes folder and files, and returns the files to be written to.
    pub(super) fn make(
        base: OwnedFd,
        id: &str,
        inputs: &Inputs,
        reader: Option<u32>,
    ) -> Result<(Self, Vec<File>), LaunchError> {
        let wrong = |(name, errno): (Option<String>, Errno)| {
            let why = match errno {
                Errno::NOTSUP => "its file system has no access control lists (is the kernel without CONFIG_TMPFS_POSIX_ACL?)".to_owned(),
                errno => text(errno),
            };
            let what = match name {
                None => format!("the folder of credentials of runner {id} can't be made: {why}"),
                Some(name) => format!("credential {name} can't be made: {why}"),
            };
            failed("credentials", errno, &what)
        };
        let names = inputs.credentials.iter().map(|c| c.name.clone());
        let vault = Self {
            base,
            id: id.to_owned(),
            names: names.collect(),
        };
        let files = vault.fill(reader).map_err(wrong)?;
        crash::point("shim.credentials-made");
        Ok((vault, files))
    }

    /// An error names the credential, or nothing if it is about the folder.
    fn fill(&self, reader: Option<u32>) -> Result<Vec<File>, (Option<String>, Errno)> {
        let folder = |errno| (None, errno);
        mkdirat(&self.base, &self.id, Mode::RWXU).map_err(folder)?;
        let dir = self.open().map_err(folder)?;
        let mut files = Vec::new();
        for name in &self.names {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let wrong = |errno| (Some(name.clone()), errno);
            let file = openat(&dir, name, flags, Mode::RUSR).map_err(wrong)?;
            show(file.as_fd(), reader, 4).map_err(wrong)?;
            files.push(File::from(file));
        }
        fchmod(&dir, Mode::RUSR | Mode::XUSR).map_err(folder)?;
        show(dir.as_fd(), reader, 5).map_err(folder)?;
        Ok(files)
    }

    fn open(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.base, &self.id, flags, Mode::empty())
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        if let Ok(dir) = self.open() {
            let _ = fchmod(&dir, Mode::RWXU);
            for name in &self.names {
                let _ = make_empty(dir.as_fd(), name);
                let _ = unlinkat(&dir, name, AtFlags::empty());
            }
        }
        let _ = unlinkat(&self.base, &self.id, AtFlags::REMOVEDIR);
    }
}

/// Whoever has it open has nothing then, and holds no memory.
fn make_empty(dir: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    chmodat(dir, name, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    openat(dir, name, flags | OFlags::CLOEXEC, Mode::empty()).map(drop)
}

/// An ACL: the owner and this user have `permissions`, nobody else any.
fn show(fd: BorrowedFd<'_>, reader: Option<u32>, permissions: u16) -> Result<(), Errno> {
    let Some(uid) = reader.filter(|uid| *uid != 0) else {
        return Ok(());
    };
    // The kernel's posix_acl_xattr: version, then tag, permissions and id of each entry.
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (0x01u16, permissions, u32::MAX),
        (0x02, permissions, uid),
        (0x04, 0, u32::MAX),
        (0x10, permissions, u32::MAX),
        (0x20, 0, u32::MAX),
    ] {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    fsetxattr(fd, "system.posix_acl_access", &acl, XattrFlags::empty())
}

/// As the runner's user: fills the credentials and returns the environment with what its files say,
/// and the file that set PATH, if one did.
pub(super) fn take(
    inputs: &Inputs,
    files: &mut [File],
    env: &[CString],
) -> Result<(Vec<CString>, Option<String>), LaunchError> {
    let mut left = CREDENTIALS_BYTES;
    for (credential, file) in inputs.credentials.iter().zip(files) {
        let name = format!("credential {}", credential.name);
        let wrong = |errno, why: &str| failed("credentials", errno, &format!("{name}: {why}"));
        let bytes = read(&credential.path, left).map_err(|e| match e {
            Unread::Not(errno, why) => wrong(errno, &why),
            Unread::Large => wrong(
                Errno::FBIG,
                &format!(
                    "{} is too large: all credentials of a runner together may have {CREDENTIALS_BYTES} bytes",
                    clip(&credential.path)
                ),
            ),
        })?;
        left -= bytes.len();
        file.write_all(&bytes).map_err(|e| {
            let errno = Errno::from_io_error(&e).unwrap_or(Errno::IO);
            let what = match errno {
                Errno::NOSPC | Errno::DQUOT | Errno::NOMEM => "there is no room for it",
                _ => "it can't be written",
            };
            wrong(errno, &format!("{what}: {}", text(errno)))
        })?;
    }
    let mut env = env.to_vec();
    let mut variables = 0;
    let mut path_by = None;
    for given in &inputs.environment_files {
        let path = clip(&given.path);
        let wrong = |errno, why: &str| {
            failed(
                "environment-file",
                errno,
                &format!("environment file: {why}"),
            )
        };
        let bytes = match read(&given.path, FILE_BYTES) {
            Err(Unread::Not(Errno::NOENT | Errno::NOTDIR, _)) if given.optional => continue,
            Err(Unread::Not(errno, why)) => return Err(wrong(errno, &why)),
            Err(Unread::Large) => {
                let why = format!("{path} is too large: it may have {FILE_BYTES} bytes");
                return Err(wrong(Errno::FBIG, &why));
            }
            Ok(bytes) => bytes,
        };
        let found = env_file::parse(&bytes)
            .map_err(|why| wrong(Errno::INVAL, &format!("{path}: {why}")))?;
        variables += found.len();
        if variables > ENV_ENTRIES_MAX {
            let why = format!(
                "{path} is too long: at most {ENV_ENTRIES_MAX} variables may come from files"
            );
            return Err(wrong(Errno::FBIG, &why));
        }
        for Setenv { name, value } in found {
            let begin = format!("{name}=");
            let ours = OURS.contains(&name.as_str())
                || (name == DIRECTORY && !inputs.credentials.is_empty());
            if !ours {
                env.retain(|entry| !entry.as_bytes().starts_with(begin.as_bytes()));
                env.extend(CString::new(begin + &value));
                if name == "PATH" {
                    path_by = Some(path.clone());
                }
            }
        }
    }
    Ok((env, path_by))
}

/// Why a file was not read.
enum Unread {
    /// It can't be, in a sentence about its path.
    Not(Errno, String),
    /// It has more than was allowed.
    Large,
}

/// All of a regular file: it is opened once, and nothing else is waited for or read from.
fn read(path: &str, most: usize) -> Result<Vec<u8>, Unread> {
    let no = |errno: Errno| {
        let uid = geteuid().as_raw();
        let why = format!("{} can't be read as uid {uid}: {}", clip(path), text(errno));
        Unread::Not(errno, why)
    };
    let none = || {
        Unread::Not(
            Errno::INVAL,
            format!("{} is not a regular file", clip(path)),
        )
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let fd = match openat(CWD, path, flags, Mode::empty()) {
        // A socket, or a device without a driver.
        Err(Errno::NXIO | Errno::NODEV) => return Err(none()),
        opened => opened.map_err(no)?,
    };
    if FileType::from_raw_mode(fstat(&fd).map_err(no)?.st_mode) != FileType::RegularFile {
        return Err(none());
    }
    let mut bytes = Vec::new();
    File::from(fd)
        .take(most as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| no(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
    match bytes.len() <= most {
        true => Ok(bytes),
        false => Err(Unread::Large),
    }
}

/// The kernel's words without its number: with it, a file named like the command would pass for
/// the command.
fn text(errno: Errno) -> String {
    let known = std::io::Error::from(errno).to_string();
    match known.rsplit_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => known,
    }
}
