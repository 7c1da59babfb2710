//! A host with Stratavore on it, and what must hold on it whatever happens.

use crate::support::{Bus, Host, Output, Root, project, wait_for, wait_until};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long anything that is not a test of time may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// What holds in a store at every moment, and a query for what breaks it. SQLite and Postgres take both.
pub const HISTORY: [(&str, &str); 5] = [
    (
        "a runner's events are numbered without a gap",
        "SELECT subject FROM events WHERE subject LIKE 'runner/%' GROUP BY subject HAVING COUNT(*) <> MAX(seq) OR MIN(seq) <> 1",
    ),
    (
        "a runner has exactly one ending, and it is its last event",
        "SELECT id FROM runners r WHERE state = 'ended' AND (SELECT COUNT(*) FROM events WHERE subject = 'runner/' || r.id AND type LIKE '%runner.ended') <> 1",
    ),
    (
        "a live runner has no ending",
        "SELECT id FROM runners r WHERE state <> 'ended' AND EXISTS (SELECT 1 FROM events WHERE subject = 'runner/' || r.id AND type LIKE '%runner.ended')",
    ),
    (
        "the row's number is that of its last event",
        "SELECT id FROM runners r WHERE seq <> (SELECT MAX(seq) FROM events WHERE subject = 'runner/' || r.id)",
    ),
    (
        "a project's counter is what lives",
        "SELECT name FROM projects p WHERE live <> (SELECT COUNT(*) FROM runners WHERE project = p.name AND state NOT IN ('queued', 'ended'))",
    ),
];

/// All events, as [`crate::schema::row`] takes them. Those that the frozen releases have written are as those of this one:
/// only of a denial the first one wrote less (no `reserved`), and it has to refuse nobody in these tests.
pub const EVENTS: &str =
    "SELECT position, at, type, project, subject, seq, actor, data FROM events ORDER BY position";

/// What breaks “a budget's reservations are what its live runners hold”; `json` makes JSON of a column.
pub fn reservations(json: impl Fn(&str) -> String) -> (&'static str, String) {
    let (counts, tokens) = (json("b.counts"), json("r.tokens"));
    let counted = ["input", "output", "cache_read", "cache_write"].map(|kind| {
        format!(
            "CASE WHEN coalesce(CAST({counts} ->> '{kind}' AS TEXT), 'true') IN ('true', '1')
                  THEN CAST(coalesce({tokens} ->> '{kind}', '0') AS BIGINT) ELSE 0 END"
        )
    });
    let counted = counted.join(" + ");
    let query = format!(
        "SELECT scope, period, reserved, held FROM (
            SELECT b.scope, b.period, b.reserved, coalesce((
                SELECT sum(CASE WHEN r.reserved > ({counted}) THEN r.reserved - ({counted}) ELSE 0 END) FROM runners r
                 WHERE r.state NOT IN ('queued', 'ended')
                   AND b.scope IN ('fleet', 'project:' || r.project, 'session:' || coalesce(r.session, ''))), 0) AS held
              FROM budgets b) AS q WHERE reserved <> held"
    );
    ("a budget's reservations are what live runners hold", query)
}

pub struct Site {
    pub host: Host,
}

/// How a site is to be.
pub struct Plan {
    pub name: &'static str,
    pub root: Root,
    pub bus: Bus,
    pub disk_mb: u32,
    pub config: &'static str,
    pub agent_config: &'static str,
    /// What is installed; `None` = the programs of this checkout.
    pub payload: Option<PathBuf>,
    /// A folder of this machine and where it is to be seen.
    pub bind: Option<(PathBuf, &'static str)>,
    /// A cgroup controller it lacks.
    pub without: Option<&'static str>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            name: "site",
            root: Root::Machine,
            bus: Bus::Daemon,
            disk_mb: 512,
            config: "",
            agent_config: "",
            payload: None,
            bind: None,
            without: None,
        }
    }
}

impl Site {
    pub fn boot(name: &'static str) -> Self {
        Self::with(Plan {
            name,
            ..Plan::default()
        })
    }

    /// Boots a host, with the project `p` and with alice (not bob) in `stratavore-users`.
    pub fn with(plan: Plan) -> Self {
        let mut builder = Host::builder(plan.name)
            .root(plan.root)
            .bus(plan.bus)
            .disk_mb(plan.disk_mb)
            .payload(
                plan.payload
                    .unwrap_or_else(|| project().join("target/test-payload")),
            )
            .file(
                "/etc/tmpfiles.d/crash.conf",
                "d /run/stratavore-crash 0777 root root -\n",
            )
            .file(
                "/etc/systemd/system/stratavored.service.d/crash.conf",
                "[Service]\nReadWritePaths=-/run/stratavore-crash\n",
            )
            .want("polkit.service")
            .want("stratavored.service");
        for (path, text) in [
            ("/etc/stratavore/stratavored.toml", plan.config),
            ("/etc/stratavore/agent.toml", plan.agent_config),
        ] {
            if !text.is_empty() {
                builder = builder.file(path, text);
            }
        }
        if let Some(controller) = plan.without {
            builder = builder.without(controller);
        }
        if let Some((from, to)) = plan.bind {
            builder = builder.bind(from, to);
        }
        let host = builder.boot();
        let site = Self { host };
        site.wait_up();
        // As README has it.
        site.root("journalctl --update-catalog && usermod -aG stratavore-users alice")
            .ok();
        site.ctl("root", "project create p").ok();
        site
    }

    /// Until the daemon answers.
    pub fn wait_up(&self) {
        // Up is who has taken over what was there.
        wait_for("stratavored is up", SOON, || {
            let out = self
                .host
                .sh("systemctl is-active stratavored && stratavorectl status -o json");
            if out.success() && !out.out().contains("degraded") {
                Ok(())
            } else {
                Err(format!("{out}\n{}", self.log()))
            }
        });
    }

    /// The daemon may not have noticed yet that its agent is another one; it refuses orders until they have met. This has
    /// them meet, and launches nothing, unless the programs are the first release's: they meet by a launch alone.
    #[track_caller]
    pub fn wait_met(&self) {
        wait_for("daemon and agent have met", SOON, || {
            let mut out = self.ctl("root", "reconcile --dry-run");
            if out.err().contains("unrecognized subcommand") {
                out = self.ctl("alice", "run p -- true");
            }
            let store = self.store();
            match out.success() && !["degraded", "down"].contains(&store.as_str()) {
                true => Ok(()),
                false => Err(format!("the store is {store}; {out}\n{}", self.log())),
            }
        });
    }

    /// The agent reads its configuration again; systemd only sends it a signal, this waits until it has.
    #[track_caller]
    pub fn reload_agent(&self) {
        let id = stratavore::domain::kinds::CONFIGURATION_READ.id;
        let ask = format!("-b -o cat -u stratavore-agent MESSAGE_ID={id}");
        let read = || self.journal(&ask).lines().count();
        let before = read();
        self.root("systemctl reload stratavore-agent").ok();
        wait_until("the agent has read its configuration", SOON, || {
            read() > before
        });
    }

    /// `ok`, `degraded` or `down`, as the daemon says; empty if it does not answer.
    pub fn store(&self) -> String {
        let asked =
            "busctl get-property org.stratavore1 /org/stratavore1 org.stratavore1.Manager Store";
        let out = self.root(asked).out();
        out.trim_start_matches("s ").trim_matches('"').to_owned()
    }

    /// What the fleet calls this host.
    pub fn host_id(&self) -> String {
        let asked =
            "busctl get-property org.stratavore1 /org/stratavore1 org.stratavore1.Manager HostId";
        let out = self.root(asked).ok().out();
        out.trim_start_matches("s ").trim_matches('"').to_owned()
    }

    /// What the services said lately.
    pub fn log(&self) -> String {
        self.host.sh("journalctl --no-pager -n 60 -o short-monotonic -u stratavored -u stratavore-agent -u 'stratavore-*.scope' -t systemd").out()
    }

    /// What journalctl finds with these arguments, of all that was said before now: journald takes in what is in its sockets
    /// when it comes to it.
    #[track_caller]
    pub fn journal(&self, arguments: &str) -> String {
        let ask = format!("journalctl --sync && journalctl --no-pager -q {arguments}");
        self.root(&ask).out()
    }

    /// The next of our programs that comes to this point dies there, once. The file is there as a whole or not at all.
    #[track_caller]
    pub fn crash_at(&self, point: impl std::fmt::Display) {
        let set = format!(
            "cd /run/stratavore-crash && printf %s {point} > new && chmod 666 new && mv new at"
        );
        self.root(&set).ok();
    }

    pub fn root(&self, script: &str) -> Output {
        self.host.sh(script)
    }

    pub fn sh_as(&self, user: &str, script: &str) -> Output {
        if user == "root" {
            self.host.sh(script)
        } else {
            self.host.sh_as(user, script)
        }
    }

    pub fn ctl(&self, user: &str, arguments: &str) -> Output {
        self.sh_as(
            user,
            &format!("stratavorectl --no-ask-password {arguments}"),
        )
    }

    /// Launches for alice in the project `p` and returns the id.
    #[track_caller]
    pub fn run(&self, flags_and_command: &str) -> String {
        self.ctl("alice", &format!("run {}", with_project(flags_and_command)))
            .ok()
            .out()
    }

    /// Everything about a runner.
    #[track_caller]
    pub fn show(&self, id: &str) -> Value {
        let out = self.ctl("root", &format!("show -o json {id}")).ok();
        serde_json::from_str(&out.out()).unwrap_or_else(|e| panic!("{e}: {out}"))
    }

    /// A runner after its end.
    #[track_caller]
    pub fn ended(&self, id: &str) -> Value {
        wait_for(&format!("runner {id} ends"), SOON, || {
            let shown = self.show(id);
            if shown["state"] == "ended" {
                Ok(shown)
            } else {
                Err(format!("{shown}\n{}", self.log()))
            }
        })
    }

    /// The cause of its end.
    #[track_caller]
    pub fn cause(&self, id: &str) -> String {
        self.ended(id)["exit"]["cause"]
            .as_str()
            .unwrap_or("none")
            .to_owned()
    }

    /// Rows of the store, read by SQLite itself as the daemon's user.
    #[track_caller]
    pub fn sql(&self, query: &str) -> Vec<BTreeMap<String, Value>> {
        let out = self
            .host
            .command([
                "sqlite3",
                "-json",
                "-cmd",
                ".timeout 5000",
                "/var/lib/stratavore/stratavore.db",
                query,
            ])
            .user("stratavore")
            .run()
            .ok();
        if out.out().is_empty() {
            Vec::new()
        } else {
            serde_json::from_str(&out.out()).unwrap_or_else(|e| panic!("{e}: {out}"))
        }
    }

    /// A file of the host, as text; empty if it is not there.
    pub fn file(&self, path: &str) -> String {
        std::fs::read_to_string(self.host.path(path)).unwrap_or_default()
    }

    #[track_caller]
    pub fn wait_file(&self, path: &str) {
        wait_for(&format!("{path} appears"), SOON, || {
            if self.host.path(path).exists() {
                Ok(())
            } else {
                Err(self.log())
            }
        });
    }

    /// Ids whose scope has processes, read from the kernel.
    pub fn scopes(&self) -> BTreeSet<String> {
        populated(&self.host.path("/sys/fs/cgroup"))
            .into_keys()
            .collect()
    }

    fn names(&self, folder: &str) -> BTreeSet<String> {
        std::fs::read_dir(self.host.path(folder))
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// What must hold when nothing is under way: the store, the kernel, systemd and the disk tell the same story, each
    /// life is whole, and nothing is left over.
    #[track_caller]
    pub fn check(&self) {
        wait_for(
            "rows, scopes, units, sockets and records agree",
            SOON,
            || {
                let live =
                    self.sql("SELECT id FROM runners WHERE state NOT IN ('queued', 'ended')");
                let rows = live.iter().map(|r| r["id"].as_str().unwrap().to_owned());
                self.agrees(&rows.collect())
            },
        );
        let (reserved, query) = reservations(str::to_owned);
        // The first release's store has no budgets.
        let budgets = "SELECT name FROM sqlite_master WHERE name = 'budgets'";
        let reserved = (!self.sql(budgets).is_empty()).then_some((reserved, query.as_str()));
        let all = HISTORY.into_iter().chain(reserved);
        for (what, query) in all {
            let broken = self.sql(query);
            assert!(
                broken.is_empty(),
                "not so: {what}: {broken:?}\n{}",
                self.log()
            );
        }
        self.sql(EVENTS).iter().for_each(crate::schema::row);
    }

    /// Whether kernel, systemd and disk tell of these live runners and of no others.
    pub fn agrees(&self, rows: &BTreeSet<String>) -> Result<(), String> {
        let units: BTreeSet<String> = self
            .root("systemctl list-units --all --plain --no-legend 'stratavore-*.scope' | cut -d' ' -f1")
            .ok()
            .out()
            .lines()
            .filter_map(id_of)
            .collect();
        let sockets: BTreeSet<String> = self
            .names("/run/stratavore/shims")
            .iter()
            .filter_map(|n| n.strip_suffix(".sock").map(str::to_owned))
            .collect();
        let mut credentials = self.names("/run/credentials/stratavore");
        credentials.retain(|id| !rows.contains(id));
        let records: BTreeSet<String> = self
            .names("/var/lib/stratavore/exits")
            .iter()
            .filter(|n| !rows.iter().any(|id| n.contains(id.as_str())))
            .cloned()
            .collect();
        let shims = self
            .root("pgrep -u root -xc stratavore-shim || true")
            .out()
            .parse()
            .unwrap_or(usize::MAX);
        let scopes = self.scopes();
        let story = [
            ("rows and scopes", *rows == scopes),
            ("rows and units", *rows == units),
            ("rows and sockets", *rows == sockets),
            ("rows and shims", shims == rows.len()),
            ("no record left over", records.is_empty()),
            ("no credential left over", credentials.is_empty()),
        ];
        let wrong = story.iter().filter(|(_, holds)| !holds);
        let wrong: Vec<&str> = wrong.map(|(what, _)| *what).collect();
        if wrong.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{wrong:?}: rows {rows:?} scopes {scopes:?} units {units:?} sockets {sockets:?} shims {shims} records {records:?}\n{}",
            self.log()
        ))
    }

    /// Stops whatever lives, and checks that it is gone without a trace.
    #[track_caller]
    pub fn clear(&self) {
        if !self.scopes().is_empty() {
            self.ctl("root", "stop --all").ok();
        }
        wait_until("all scopes are gone", SOON, || self.scopes().is_empty());
        self.check();
    }

    pub fn main_pid(&self, unit: &str) -> u32 {
        self.root(&format!("systemctl show -p MainPID --value {unit}"))
            .out()
            .parse()
            .unwrap_or(0)
    }

    /// Kills a service dead and waits until it is back.
    #[track_caller]
    pub fn kill9(&self, units: &str) {
        let old: Vec<u32> = units.split(' ').map(|u| self.main_pid(u)).collect();
        assert!(
            old.iter().all(|p| *p != 0),
            "{units} do not run: {}",
            self.log()
        );
        self.root(&format!(
            "kill -9 {}",
            old.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
        ))
        .ok();
        wait_until("the killed are started again", SOON, || {
            units
                .split(' ')
                .zip(&old)
                .all(|(u, old)| ![0, *old].contains(&self.main_pid(u)))
        });
        self.wait_up();
        if units.contains("stratavore-agent") {
            self.wait_met();
        }
    }
}

fn with_project(flags_and_command: &str) -> String {
    match flags_and_command.split_once("-- ") {
        Some((flags, command)) => format!("{flags} p -- {command}"),
        None => panic!("write FLAGS -- COMMAND"),
    }
}

/// Runners whose scope has processes, with their projects' slices, below the root of a host's cgroups.
pub fn populated(cgroups: &Path) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    for project in entries(&cgroups.join("stratavore.slice")) {
        for scope in entries(&project.path()) {
            let name = scope.file_name().to_string_lossy().into_owned();
            let events =
                std::fs::read_to_string(scope.path().join("cgroup.events")).unwrap_or_default();
            if let (Some(id), true) = (id_of(&name), events.contains("populated 1")) {
                let slice = project.file_name().to_string_lossy().into_owned();
                out.insert(id, slice);
            }
        }
    }
    out
}

fn id_of(unit: &str) -> Option<String> {
    Some(
        unit.trim()
            .strip_prefix("stratavore-")?
            .strip_suffix(".scope")?
            .to_owned(),
    )
}
