//! What `doctor` saw. `None` = it could not be seen, by this user or at all.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Everything.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) caller: Caller,
    /// It is about the caller's own Stratavore, of its own systemd and session bus.
    pub(super) user: bool,
    /// Whether that goes on after the last logout.
    pub(super) lingers: Option<bool>,
    /// The folder of the store.
    pub(super) state: PathBuf,
    /// How it came here.
    pub(super) installed: Installed,
    /// This program's version.
    pub(super) version: String,
    /// `uname -r`.
    pub(super) kernel: String,
    /// /etc/machine-id has an id.
    pub(super) machine_id: bool,
    pub(super) systemd: Systemd,
    pub(super) cgroup: Cgroup,
    pub(super) bus: Bus,
    /// `None` = polkit does not answer.
    pub(super) polkit: Option<Polkit>,
    /// Units by the name asked for; `None` = systemd does not answer.
    pub(super) units: Option<BTreeMap<String, Unit>>,
    pub(super) accounts: Accounts,
    pub(super) folders: Vec<Folder>,
    pub(super) socket: Socket,
    /// With `--user`: why there is no folder of the user's to look into.
    pub(super) no_session: Option<String>,
    pub(super) programs: Programs,
    pub(super) records: Option<Records>,
    pub(super) disks: Vec<Disk>,
    pub(super) journal: Journal,
    pub(super) clock: Clock,
    /// Bytes of swap.
    pub(super) swap: u64,
}

/// What has put our files where they are, and can put back what is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Installed {
    /// `make install`, or nobody knows.
    #[default]
    Make,
    /// The Debian package.
    Debian,
    /// The module of NixOS.
    NixOs,
}

/// Who runs `doctor`.
#[derive(Debug, Clone, Default)]
pub(super) struct Caller {
    pub(super) uid: u32,
    pub(super) name: String,
    /// Names of its groups, by the user database.
    pub(super) groups: Vec<String>,
}

impl Caller {
    pub(super) fn is_root(&self) -> bool {
        self.uid == 0
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Systemd {
    /// PID 1 is systemd.
    pub(super) booted: bool,
    /// `252 (252.38-1)`, of the programs on disk.
    pub(super) installed: Option<String>,
    /// `252.38-1`, of PID 1.
    pub(super) running: Option<String>,
    /// Which kind of container this is; empty = none.
    pub(super) container: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Hierarchy {
    #[default]
    Unified,
    /// v1 with systemd's own v2 tree beside it.
    Hybrid,
    Legacy,
    None,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Cgroup {
    pub(super) hierarchy: Hierarchy,
    /// Controllers at the root of the v2 tree, or of the user's part of it.
    pub(super) root: Vec<String>,
    /// Controllers stratavore.slice has; `None` = the slice is not there (yet).
    pub(super) slice: Option<Vec<String>>,
    /// Lines of /proc/cgroups: name → (in a v1 hierarchy, enabled).
    pub(super) kernel: BTreeMap<String, (bool, bool)>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Bus {
    /// Why it can't be reached.
    pub(super) unreachable: Option<String>,
    pub(super) broker: bool,
    /// Somebody is org.stratavore1.
    pub(super) owned: bool,
    /// A call to it would start the daemon.
    pub(super) activatable: bool,
    pub(super) call: Call,
    /// Whether root may own the name; tried only where nobody does and the daemon does not run.
    pub(super) may_own: Option<Result<(), String>>,
    /// Policy files for our name.
    pub(super) policies: Vec<PathBuf>,
    /// `<limit name=…>` of dbus-daemon's configuration.
    pub(super) limits: BTreeMap<String, u64>,
    pub(super) daemon: Option<Daemon>,
}

/// What a call to org.stratavore1 came back with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Call {
    #[default]
    NotTried,
    Answered,
    /// The bus does not let it through.
    Denied(String),
    /// Nobody is there.
    Nobody,
    Silent,
    Failed(String),
}

/// What the daemon says of itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Daemon {
    pub(super) version: String,
    /// ok, degraded or down.
    pub(super) store: String,
    /// Its agent is away: the sentence that says so.
    pub(super) agent_away: Option<String>,
    /// What keeps it from launching.
    pub(super) not_ready: Vec<String>,
    pub(super) live: u32,
    /// ok, failing, unconfigured; empty = it does not tell.
    pub(super) notifications: String,
    /// What it says of its broker.
    pub(super) outbox: Outbox,
    pub(super) audit: Audit,
}

/// What it says of its audit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Audit {
    /// An earlier release keeps none.
    #[default]
    Untold,
    /// There is no key.
    Unconfigured,
    /// It is kept; whether it is whole was not asked, as the caller may not.
    Kept,
    /// It is kept; there was no answer in time.
    Long,
    /// It was looked at: the verdict, in a word and in a sentence.
    Seen { verdict: String, message: String },
    /// It could not be looked at.
    Failed(String),
}

/// What waits for the broker.
#[derive(Debug, Clone, Default)]
pub(super) struct Outbox {
    /// ok, down or unconfigured; empty = it was not told.
    pub(super) broker: String,
    /// What is wrong with it.
    pub(super) why: String,
    pub(super) blocked: bool,
    pub(super) pending: u64,
    pub(super) parked: u64,
    pub(super) refused: u64,
    /// How long ago the oldest that waits has happened, in µs.
    pub(super) age: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Polkit {
    /// Ours, as it knows them.
    pub(super) actions: Vec<String>,
    /// The shipped rules are there; `None` = their folder can't be read.
    pub(super) rules: Option<bool>,
    /// What the caller may do without a password.
    pub(super) granted: Vec<String>,
}

/// Properties of a unit, as `systemctl show` tells them.
#[derive(Debug, Clone, Default)]
pub(super) struct Unit(pub(super) BTreeMap<String, String>);

impl Unit {
    pub(super) fn get(&self, property: &str) -> &str {
        self.0.get(property).map_or("", String::as_str)
    }

    pub(super) fn is(&self, property: &str, value: &str) -> bool {
        self.get(property) == value
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Accounts {
    /// uid and gid of the user stratavore.
    pub(super) daemon: Option<(u32, u32)>,
    /// Of stratavore-users and stratavore-admins, those that are missing.
    pub(super) missing_groups: Vec<&'static str>,
}

/// Owner, group and mode of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Modes {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The permission bits.
    pub(super) mode: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Modes(Modes),
    /// It is something else than it should be.
    WrongKind,
    Missing,
    /// This user can't see it.
    Hidden,
}

#[derive(Debug, Clone)]
pub(super) struct Folder {
    pub(super) path: &'static str,
    pub(super) found: Found,
    /// It is the daemon's, not root's.
    pub(super) daemons: bool,
    /// Its group is stratavore, not root.
    pub(super) group: bool,
    pub(super) mode: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Socket {
    pub(super) path: PathBuf,
    pub(super) found: Found,
    /// Only as the user it belongs to.
    pub(super) connect: Option<Result<(), String>>,
}

impl Default for Socket {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            found: Found::Missing,
            connect: None,
        }
    }
}

/// What a program of ours said when asked to check something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// Exit status 0, with standard output, and what it doubts on standard error.
    Fine(String, String),
    /// Another, with standard error.
    Wrong(String),
    /// It was not through in time.
    TooLong,
    /// It can't be run, or does not know what was asked.
    Unable(String),
    /// It was not asked: these credentials of the daemon's unit are there only while that runs. And the command that
    /// asks it with them, if there is one.
    Lacks(Vec<String>, Option<Vec<String>>),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Programs {
    /// Daemon and agent, as far as they run, and whether the program that runs was replaced since.
    pub(super) running: Option<Vec<(&'static str, bool)>>,
    /// Live shims, and how many of them run a program that was replaced since.
    pub(super) shims: Option<(usize, usize)>,
    pub(super) config: Option<Told>,
    pub(super) agent_config: Option<Told>,
    pub(super) store: Option<Told>,
}

/// Endings on disk that are not in the store yet.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Records {
    pub(super) count: usize,
    /// Seconds since the oldest was written.
    pub(super) oldest: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    /// What of ours is on it; never empty.
    pub(super) paths: Vec<String>,
    pub(super) bytes: u64,
    pub(super) bytes_free: u64,
    pub(super) inodes: u64,
    pub(super) inodes_free: u64,
    pub(super) read_only: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Journal {
    /// journald.conf with its drop-ins; `None` = it can't be read.
    pub(super) settings: Option<BTreeMap<String, String>>,
    /// /var/log/journal is there.
    pub(super) persistent_folder: bool,
    /// `journalctl -x` knows our lines; `None` = it can't be asked.
    pub(super) catalog: Option<bool>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    pub(super) synchronised: Option<bool>,
    /// A service that does it is enabled.
    pub(super) service: Option<bool>,
    /// By how many seconds it was set since the daemon started; negative = back.
    pub(super) jumped: Option<i64>,
}
