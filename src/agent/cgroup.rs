//! The cgroup tree and /proc, read directly: they are the truth, systemd only tells of it.

use crate::domain::cgroup::{keyed, usage};
use crate::domain::{ProjectName, RunnerId, Usage};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// All slices of ours are below this one.
pub(super) const SLICE: &str = "stratavore.slice";
/// The name of a shim's process; the kernel keeps 15 bytes.
const SHIM_COMM: &str = "stratavore-shim";

/// Where cgroup2 is mounted, and where in it our manager's units are.
#[derive(Debug, Clone)]
pub(super) struct Cgroups {
    mount: PathBuf,
    base: String,
}

impl Cgroups {
    /// `base` is the manager's own `ControlGroup`.
    pub(super) fn find(base: &str) -> io::Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let mount = mount_point(&mounts)
            .ok_or_else(|| io::Error::other("cgroup v2 is not mounted; Stratavore needs it"))?;
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self { mount, base })
    }

    /// The mount point.
    pub(super) fn mount(&self) -> String {
        self.mount.to_string_lossy().into_owned()
    }

    /// A project's slice, below the mount point.
    pub(super) fn slice(&self, project: &ProjectName) -> String {
        format!("{}/{SLICE}/{}", self.base, project.slice())
    }

    /// A runner's scope, below the mount point.
    pub(super) fn scope(&self, project: &ProjectName, id: RunnerId) -> String {
        format!("{}/{}", self.slice(project), id.unit())
    }

    fn path(&self, cgroup: &str) -> PathBuf {
        self.mount.join(cgroup.trim_start_matches('/'))
    }

    /// A file's text; `None` = no such file (no such controller, or the cgroup is gone).
    pub(super) fn read(&self, cgroup: &str, file: &str) -> Option<String> {
        std::fs::read_to_string(self.path(cgroup).join(file)).ok()
    }

    /// Whether the kernel kills all of it when it kills one for lack of memory (but what has an
    /// `oom_score_adj` of -1000). Not there = no memory controller: that is found out elsewhere.
    pub(super) fn kill_as_one(&self, cgroup: &str, yes: bool) {
        let _ = std::fs::write(
            self.path(cgroup).join("memory.oom.group"),
            if yes { "1" } else { "0" },
        );
    }

    /// What [`Self::kill_as_one`] has set.
    pub(super) fn kills_as_one(&self, cgroup: &str) -> bool {
        self.read(cgroup, "memory.oom.group")
            .is_some_and(|text| text.trim() == "1")
    }

    /// The controllers the whole tree may use.
    pub(super) fn controllers(&self) -> String {
        self.read(&self.base, "cgroup.controllers")
            .unwrap_or_default()
    }

    fn event(&self, cgroup: &str, key: &str) -> bool {
        self.read(cgroup, "cgroup.events")
            .is_some_and(|text| keyed(&text, key) == Some(1))
    }

    /// Whether it has a living process. Where that can't be read but for its being gone, it has:
    /// to end what lives is worse than to ask again.
    pub(super) fn populated(&self, cgroup: &str) -> bool {
        match std::fs::read_to_string(self.path(cgroup).join("cgroup.events")) {
            Ok(text) => keyed(&text, "populated") == Some(1),
            Err(e) => !is_gone(&e),
        }
    }

    /// Whether all its processes are frozen, by itself or by a slice above.
    pub(super) fn frozen(&self, cgroup: &str) -> bool {
        self.event(cgroup, "frozen")
    }

    /// Whether somebody asked to freeze this very cgroup; it may not have come to it yet.
    pub(super) fn freezing(&self, cgroup: &str) -> bool {
        self.read(cgroup, "cgroup.freeze")
            .is_some_and(|text| text.trim() == "1")
    }

    /// Freezes or thaws it, behind systemd's back. It takes its time.
    pub(super) fn freeze(&self, cgroup: &str, yes: bool) -> io::Result<()> {
        let path = self.path(cgroup).join("cgroup.freeze");
        std::fs::write(path, if yes { "1" } else { "0" })
    }

    /// Tells one making of a cgroup from the next; `None` = there is none.
    pub(super) fn generation(&self, cgroup: &str) -> Option<u64> {
        std::fs::metadata(self.path(cgroup)).ok().map(|m| m.ino())
    }

    /// Its processes.
    pub(super) fn processes(&self, cgroup: &str) -> Vec<u32> {
        let text = self.read(cgroup, "cgroup.procs").unwrap_or_default();
        text.lines()
            .filter_map(|l| l.parse().ok())
            .filter(|pid| *pid != 0)
            .collect()
    }

    /// Kills everything in it, at once and whatever it forks. Not there = nothing to kill.
    pub(super) fn kill(&self, cgroup: &str) -> io::Result<()> {
        match std::fs::write(self.path(cgroup).join("cgroup.kill"), "1") {
            Ok(()) => Ok(()),
            Err(_) if !self.populated(cgroup) => Ok(()),
            // Linux before 5.14.
            Err(e)
                if e.kind() == ErrorKind::NotFound || e.kind() == ErrorKind::PermissionDenied =>
            {
                self.signal(cgroup, Signal::KILL, None)
            }
            Err(e) => Err(e),
        }
    }

    /// Signals every process but `spare`.
    pub(super) fn signal(
        &self,
        cgroup: &str,
        signal: Signal,
        spare: Option<u32>,
    ) -> io::Result<()> {
        let mut failed = None;
        for pid in self.processes(cgroup) {
            let Some(target) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
                continue;
            };
            if Some(pid) == spare {
                continue;
            }
            let Ok(pidfd) = pidfd_open(target, PidfdFlags::empty()) else {
                continue;
            };
            // Open now, it names one process for ever: look again whether that one is ours.
            if !in_cgroup(pid, cgroup) {
                continue;
            }
            if let Err(e) = pidfd_send_signal(&pidfd, signal)
                && e != rustix::io::Errno::SRCH
            {
                failed = Some(e);
            }
        }
        failed.map_or(Ok(()), |e| Err(e.into()))
    }

    /// The shim's pid: of the processes of the agent's own user that bear its name, the oldest,
    /// as everything else in the scope descends from it.
    pub(super) fn shim(&self, cgroup: &str) -> Option<u32> {
        let me = rustix::process::geteuid().as_raw();
        let mut shims: Vec<_> = self
            .processes(cgroup)
            .into_iter()
            .filter_map(|pid| {
                let stat = stat(pid)?;
                // Not the owner of its folder in /proc, which is root's as it is not dumpable.
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
                (real_uid(&status) == Some(me) && stat.0 == SHIM_COMM).then_some((stat.1, pid))
            })
            .collect();
        shims.sort_unstable();
        shims.first().map(|(_, pid)| *pid)
    }

    /// All scopes of ours, wherever below `stratavore.slice` they are.
    pub(super) fn scan(&self) -> io::Result<BTreeMap<RunnerId, String>> {
        let mut found = BTreeMap::new();
        let root = format!("{}/{SLICE}", self.base);
        for slice in self.children(&root)? {
            let below = format!("{root}/{slice}");
            if let Some(id) = RunnerId::from_unit(&slice) {
                found.insert(id, below);
                continue;
            }
            for name in self.children(&below)? {
                if let Some(id) = RunnerId::from_unit(&name) {
                    found.insert(id, format!("{below}/{name}"));
                }
            }
        }
        Ok(found)
    }

    fn children(&self, cgroup: &str) -> io::Result<Vec<String>> {
        let list = || {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(self.path(cgroup))? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    names.extend(entry.file_name().into_string().ok());
                }
            }
            Ok(names)
        };
        list().or_else(|e| if is_gone(&e) { Ok(Vec::new()) } else { Err(e) })
    }

    /// What it has used up to now.
    pub(super) fn usage(&self, cgroup: &str) -> Usage {
        usage(|file| self.read(cgroup, file))
    }
}

/// There is no such cgroup, or not any more.
fn is_gone(error: &io::Error) -> bool {
    let nodev = rustix::io::Errno::NODEV.raw_os_error();
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(nodev)
}

/// The first number of the line `Uid:` in a `/proc/<pid>/status`.
fn real_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|l| l.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The mount point of cgroup2; /sys/fs/cgroup where there are several.
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    let all: Vec<_> = mountinfo
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let point = before.split(' ').nth(4)?;
            after.starts_with("cgroup2 ").then(|| PathBuf::from(point))
        })
        .collect();
    let usual = |p: &&PathBuf| *p == Path::new("/sys/fs/cgroup");
    all.iter().find(usual).or(all.first()).cloned()
}

/// Whether a process is in this cgroup, by the kernel's word.
pub(super) fn in_cgroup(pid: u32, cgroup: &str) -> bool {
    cgroup_of(pid).is_some_and(|own| own == cgroup)
}

/// The cgroup of a process; `None` = there is no such process.
pub(super) fn cgroup_of(pid: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let own = text.lines().find_map(|l| l.strip_prefix("0::"))?;
    Some(own.to_owned())
}

/// Name and start time (clock ticks since boot) of a process.
pub(super) fn stat(pid: u32) -> Option<(String, u64)> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<(String, u64)> {
    // The name may hold anything, a “)” too.
    let (head, tail) = text.rsplit_once(") ")?;
    let (_, name) = head.split_once(" (")?;
    let start = tail.split(' ').nth(19)?.parse().ok()?;
    Some((name.to_owned(), start))
}

/// Whether this kernel can count swap at all; without, a limit on it is always held.
pub(super) fn has_swap() -> bool {
    Path::new("/proc/swaps").exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_usual_mount_point_is_preferred() {
        let hybrid =
            "30 23 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let both = format!("{hybrid}31 23 0:26 / /sys/fs/cgroup rw - cgroup2 none rw\n");
        assert_eq!(mount_point(&both), Some("/sys/fs/cgroup".into()));
        assert_eq!(
            mount_point("31 23 0:26 / /sys/fs/cgroup rw - cgroup none rw\n"),
            None
        );
    }

    #[test]
    fn a_process_may_be_called_anything() {
        let numbers: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let text = format!("17 (a) S (b) ) S {}", numbers.join(" "));
        assert_eq!(parse_stat(&text), Some(("a) S (b) ".to_owned(), 22)));
        assert!(stat(std::process::id()).is_some());
        assert_eq!(real_uid("Name:\tx\nUid:\t7\t8\t9\t9\n"), Some(7));
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(text in "\\PC{0,40}") {
            let _ = parse_stat(&text);
            let _ = mount_point(&text);
        }
    }
}
