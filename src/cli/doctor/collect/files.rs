//! What the file system and the user database tell.

use super::super::facts::{
    Accounts, Caller, Cgroup, Disk, Folder, Found, Hierarchy, Installed, Modes, Records, Socket,
};
use nix::unistd::{Gid, Group, User, getgrouplist};
use rustix::fs::{StatVfsMountFlags, stat, statfs, statvfs};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

const CGROUP: &str = "/sys/fs/cgroup";
const CGROUP2_MAGIC: i64 = 0x6367_7270;
const TMPFS_MAGIC: i64 = 0x0102_1994;

fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

pub(super) fn caller() -> Caller {
    let uid = rustix::process::geteuid();
    let user = User::from_uid(uid.as_raw().into()).ok().flatten();
    let Some(user) = user else {
        return Caller {
            uid: uid.as_raw(),
            name: format!("uid {}", uid.as_raw()),
            groups: Vec::new(),
        };
    };
    let groups = CString::new(user.name.clone())
        .ok()
        .and_then(|name| getgrouplist(&name, user.gid).ok());
    let name_of = |gid: Gid| Some(Group::from_gid(gid).ok()??.name);
    Caller {
        uid: uid.as_raw(),
        groups: groups
            .unwrap_or_default()
            .into_iter()
            .filter_map(name_of)
            .collect(),
        name: user.name,
    }
}

pub(super) fn accounts() -> Accounts {
    let user = User::from_name("stratavore").ok().flatten();
    let absent = |name: &&str| Group::from_name(name).ok().flatten().is_none();
    Accounts {
        daemon: user.map(|u| (u.uid.as_raw(), u.gid.as_raw())),
        missing_groups: ["stratavore-users", "stratavore-admins"]
            .into_iter()
            .filter(absent)
            .collect(),
    }
}

pub(super) fn kernel() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

pub(super) fn machine_id() -> bool {
    let id = text("/etc/machine-id");
    let id = id.trim();
    id.len() == 32 && id.chars().all(|c| c.is_ascii_hexdigit()) && id.chars().any(|c| c != '0')
}

/// What has installed us, of a system whose root is there.
pub(super) fn came_by(root: &Path) -> Installed {
    match () {
        () if root.join("etc/NIXOS").exists() => Installed::NixOs,
        () if root.join("var/lib/dpkg/info/stratavore.list").exists() => Installed::Debian,
        () => Installed::Make,
    }
}

/// `below` is the part of the tree that the systemd we are about has.
pub(super) fn cgroup(below: &str) -> Cgroup {
    let magic = |path: &str| statfs(path).ok().map(|s| s.f_type);
    let hybrid = format!("{CGROUP}/unified");
    let (hierarchy, root) = match (magic(CGROUP), magic(&hybrid)) {
        (Some(CGROUP2_MAGIC), _) => (Hierarchy::Unified, CGROUP.to_owned()),
        (_, Some(CGROUP2_MAGIC)) => (Hierarchy::Hybrid, hybrid),
        (Some(TMPFS_MAGIC), _) => (Hierarchy::Legacy, CGROUP.to_owned()),
        _ => (Hierarchy::None, CGROUP.to_owned()),
    };
    let root = format!("{root}{below}");
    let words = |text: String| text.split_whitespace().map(str::to_owned).collect();
    let slice = std::fs::read_to_string(format!("{root}/stratavore.slice/cgroup.controllers")).ok();
    Cgroup {
        hierarchy,
        root: words(text(&format!("{root}/cgroup.controllers"))),
        slice: slice.map(words),
        kernel: kernel_controllers(&text("/proc/cgroups")),
    }
}

/// name, hierarchy (0 = v2 or none), cgroups, enabled.
fn kernel_controllers(text: &str) -> BTreeMap<String, (bool, bool)> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let name = match words.next()? {
            name if name.starts_with('#') => return None,
            // io's name in v1.
            "blkio" => "io",
            name => name,
        };
        let (hierarchy, enabled) = (words.next()?, words.nth(1)?);
        Some((name.to_owned(), (hierarchy != "0", enabled == "1")))
    };
    text.lines().filter_map(line).collect()
}

fn modes(meta: &Metadata) -> Found {
    Found::Modes(Modes {
        uid: meta.uid(),
        gid: meta.gid(),
        mode: meta.mode() & 0o7777,
    })
}

fn look(path: impl AsRef<Path>, right: impl Fn(&Metadata) -> bool) -> Found {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if right(&meta) => modes(&meta),
        Ok(_) => Found::WrongKind,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Found::Hidden,
        Err(_) => Found::Missing,
    }
}

/// Those of stratavore.conf for systemd-tmpfiles.
pub(super) fn folders() -> Vec<Folder> {
    [
        ("/run/stratavore", false, false, 0o755),
        ("/run/stratavore/shims", false, false, 0o700),
        ("/var/lib/stratavore", true, true, 0o750),
        ("/var/lib/stratavore/exits", false, true, 0o750),
        ("/var/lib/stratavore/logs", false, false, 0o700),
    ]
    .map(|(path, daemons, group, mode)| Folder {
        path,
        found: look(path, Metadata::is_dir),
        daemons,
        group,
        mode,
    })
    .into()
}

pub(super) fn socket(path: &Path, may_connect: bool) -> Socket {
    let found = look(path, |m| m.file_type().is_socket());
    let connect = match (may_connect, &found) {
        (true, Found::Modes(_)) => Some(connect(path).map_err(|e| e.to_string())),
        _ => None,
    };
    Socket {
        path: path.to_owned(),
        found,
        connect,
    }
}

/// Connects and says nothing: a greeting would be taken for the daemon's.
fn connect(path: &Path) -> std::io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok(rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?)
}

/// Records whose ending is not in the store; those of live runners have another name.
pub(super) fn records(exits: &Path) -> Option<Records> {
    let mut records = Records::default();
    for entry in std::fs::read_dir(exits).ok()?.flatten() {
        if entry.path().extension().is_none_or(|e| e != "json") {
            continue;
        }
        let age = entry
            .metadata()
            .ok()
            .and_then(|m| m.modified().ok()?.elapsed().ok());
        records.count += 1;
        records.oldest = records.oldest.max(age.map_or(0, |a| a.as_secs()));
    }
    Some(records)
}

/// One for each file system that has something of ours.
pub(super) fn disks(folders: &[&Path]) -> Vec<Disk> {
    let mut seen = Vec::new();
    let mut out: Vec<Disk> = Vec::new();
    for path in folders {
        let (Ok(about), Ok(room)) = (stat(*path), statvfs(*path)) else {
            continue;
        };
        if let Some(at) = seen.iter().position(|device| *device == about.st_dev) {
            out[at].paths.push(path.display().to_string());
            continue;
        }
        seen.push(about.st_dev);
        out.push(Disk {
            paths: vec![path.display().to_string()],
            bytes: room.f_blocks * room.f_frsize,
            bytes_free: room.f_bavail * room.f_frsize,
            inodes: room.f_files,
            inodes_free: room.f_favail,
            read_only: room.f_flag.contains(StatVfsMountFlags::RDONLY),
        });
    }
    out
}

/// Bytes of all swap together.
pub(super) fn swap() -> u64 {
    let kib = |line: &str| line.split_whitespace().nth(2)?.parse::<u64>().ok();
    text("/proc/swaps")
        .lines()
        .skip(1)
        .filter_map(kib)
        .sum::<u64>()
        << 10
}

/// Files of this name in the bus's or polkit's folders; `None` = a folder can't be read.
pub(super) fn installed(folders: &[&str], name: &str) -> Option<Vec<std::path::PathBuf>> {
    let mut out = Vec::new();
    let mut hidden = false;
    for folder in folders {
        let path = Path::new(folder).join(name);
        match std::fs::metadata(&path) {
            Ok(_) => out.push(path),
            Err(error) => hidden |= error.kind() == ErrorKind::PermissionDenied,
        }
    }
    (!hidden || !out.is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_installed_us() {
        let root = std::env::temp_dir().join(format!("doctor-{}", uuid::Uuid::now_v7()));
        let put = |file: &str| {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        assert_eq!(came_by(&root), Installed::Make);
        put("var/lib/dpkg/info/stratavore-tools.list");
        assert_eq!(came_by(&root), Installed::Make);
        put("var/lib/dpkg/info/stratavore.list");
        assert_eq!(came_by(&root), Installed::Debian);
        put("etc/NIXOS");
        assert_eq!(came_by(&root), Installed::NixOs);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn controllers_of_the_kernel() {
        let text = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t3\t1\t1\nblkio\t0\t2\t1\nmemory\t0\t1\t0\n\nbad\n";
        let map = kernel_controllers(text);
        assert_eq!(map["cpu"], (true, true));
        assert_eq!(map["io"], (false, true));
        assert_eq!(map["memory"], (false, false));
        assert_eq!(map.len(), 3);
    }
}
