//! What must hold in a fleet whatever happens, read from outside: from the cgroups of all hosts and from SQL.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::sql::Sql;
use super::{Fleet, wait_for};
use crate::fixture::{EVENTS, HISTORY, SOON, populated};

/// How often a [`Watch`] looks.
const EVERY: Duration = Duration::from_millis(100);

/// What holds in the fleet's store at every moment, and a query for what breaks it.
const COUNTERS: [(&str, &str); 2] = [
    (
        "a project's counter is what lives",
        "SELECT p.name, p.live, count(r.id) AS counted FROM projects p
           LEFT JOIN runners r ON r.project = p.name AND r.state NOT IN ('queued', 'ended')
          GROUP BY p.name, p.live HAVING p.live <> count(r.id)",
    ),
    (
        "a host's counter is what lives",
        "SELECT h.host, h.live, count(r.id) AS counted FROM hosts h
           LEFT JOIN runners r ON r.host = h.host AND r.state NOT IN ('queued', 'ended')
          GROUP BY h.host, h.live HAVING h.live <> count(r.id)",
    ),
];

/// As [`COUNTERS`], of budgets. What they count is told in JSON.
fn reservations() -> (&'static str, String) {
    crate::fixture::reservations(|column| format!("CAST({column} AS JSON)"))
}

/// Looks every 100 ms, from its start to its end, and remembers what was wrong.
pub struct Watch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<()>>,
}

/// What a [`Watch`] has seen.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// How often the cgroups were read.
    pub looks: usize,
    /// How often the store answered, and how often it did not.
    pub answers: usize,
    pub silences: usize,
    /// The most runners that lived at one moment, by project.
    pub most: BTreeMap<String, usize>,
    pub violations: Vec<String>,
}

impl Watch {
    /// Never more live runners than `caps` says, by project; `*` is the whole fleet. And the store's counters are true.
    pub fn start(fleet: &Fleet, caps: &[(&str, usize)]) -> Self {
        Self::start_with(fleet, caps, &[])
    }

    /// And these queries find nothing, at no moment.
    pub fn start_with(
        fleet: &Fleet,
        caps: &[(&str, usize)],
        also: &'static [(&'static str, &'static str)],
    ) -> Self {
        let caps: BTreeMap<String, usize> = caps
            .iter()
            .map(|(p, cap)| ((*p).to_owned(), *cap))
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let looking = {
            let (stop, seen, roots) = (Arc::clone(&stop), Arc::clone(&seen), fleet.cgroups());
            std::thread::spawn(move || every(&stop, || look(&roots, &caps, &seen)))
        };
        let asking = {
            let (stop, seen, mut sql) = (Arc::clone(&stop), Arc::clone(&seen), fleet.sql());
            std::thread::spawn(move || every(&stop, || ask(&mut sql, also, &seen)))
        };
        Watch {
            stop,
            seen,
            threads: vec![looking, asking],
        }
    }

    pub fn so_far(&self) -> Seen {
        self.seen.lock().expect("watch").clone()
    }

    /// Panics if anything was wrong at any time.
    #[track_caller]
    pub fn end(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("the watch");
        }
        let seen = self.so_far();
        assert!(seen.looks > 0, "nobody has looked");
        assert!(
            seen.violations.is_empty(),
            "what must always hold did not:\n{}",
            seen.violations.join("\n")
        );
        seen
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn every(stop: &AtomicBool, mut act: impl FnMut()) {
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        act();
        next = (next + EVERY).max(Instant::now());
        std::thread::sleep(next - Instant::now());
    }
}

/// Scopes that live at one and the same moment: the hosts are read one after the other, and only what is there in two
/// readings in a row has lived from the end of the first to the beginning of the second.
fn look(roots: &Mutex<Vec<PathBuf>>, caps: &BTreeMap<String, usize>, seen: &Mutex<Seen>) {
    let roots = roots.lock().expect("watch").clone();
    let read = || -> BTreeMap<String, (String, PathBuf)> {
        let all = roots.iter().flat_map(|root| {
            populated(root)
                .into_iter()
                .map(move |(id, slice)| (id, (slice, root.clone())))
        });
        all.collect()
    };
    let first = read();
    let mut live = read();
    live.retain(|id, _| first.contains_key(id));
    let count = |live: &BTreeMap<String, (String, PathBuf)>| {
        let mut counts = BTreeMap::from([("*".to_owned(), live.len())]);
        for (slice, _) in live.values() {
            *counts.entry(project_of(slice)).or_insert(0) += 1;
        }
        counts
    };
    let over = |counts: &BTreeMap<String, usize>| -> Vec<String> {
        let over = caps
            .iter()
            .filter(|(p, cap)| counts.get(*p).is_some_and(|n| n > cap));
        over.map(|(p, cap)| format!("{} runners of {p} live, {cap} may", counts[p]))
            .collect()
    };
    if !over(&count(&live)).is_empty() {
        // A shim that has told of its runner's end is not the runner.
        live.retain(|id, (slice, root)| works(&root.join("stratavore.slice").join(slice), id));
    }
    let counts = count(&live);
    let mut seen = seen.lock().expect("watch");
    seen.looks += 1;
    for why in over(&counts) {
        let ids: Vec<&String> = live.keys().collect();
        seen.violations.push(format!("{why}: {ids:?}"));
    }
    for (project, count) in counts {
        let most = seen.most.entry(project).or_insert(0);
        *most = count.max(*most);
    }
}

/// Whether a scope has a process besides its shim.
fn works(slice: &std::path::Path, id: &str) -> bool {
    let scope = slice.join(format!("stratavore-{id}.scope"));
    let pids = std::fs::read_to_string(scope.join("cgroup.procs")).unwrap_or_default();
    pids.lines().any(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|name| name.trim() != "stratavore-shim")
    })
}

/// `stratavore-a\x2db.slice` is that of the project `a-b`.
fn project_of(slice: &str) -> String {
    let name = slice.trim_start_matches("stratavore-");
    name.trim_end_matches(".slice").replace("\\x2d", "-")
}

fn ask(sql: &mut Sql, also: &[(&'static str, &'static str)], seen: &Mutex<Seen>) {
    let mut found = COUNTERS
        .map(|(what, query)| (what, sql.try_rows(query)))
        .to_vec();
    let (what, query) = reservations();
    found.push((what, sql.try_rows(&query)));
    for (what, query) in also {
        found.push((what, sql.try_rows(query)));
    }
    let mut seen = seen.lock().expect("watch");
    for (what, rows) in found {
        match rows {
            Ok(rows) => {
                seen.answers += 1;
                if !rows.is_empty() {
                    seen.violations.push(format!("not so: {what}: {rows:?}"));
                }
            }
            Err(_) => seen.silences += 1,
        }
    }
}

impl Fleet {
    /// What must hold when nothing is under way: the store, and kernel, systemd and disk of every host that is up, tell
    /// the same story; each life is whole; nothing ran twice; nothing is left over.
    #[track_caller]
    pub fn check(&self) {
        let mut sql = self.sql();
        for (n, site) in self.up() {
            let host = site.host_id();
            let live = format!(
                "SELECT id FROM runners WHERE state NOT IN ('queued', 'ended') AND host = '{host}'"
            );
            wait_for(
                &format!(
                    "host {}: rows, scopes, units, sockets and records agree",
                    n + 1
                ),
                SOON,
                || {
                    let rows = sql.try_rows(&live)?;
                    let rows = rows
                        .iter()
                        .filter_map(|r| r["id"].as_str().map(str::to_owned));
                    site.agrees(&rows.collect())
                },
            );
        }
        let (reserved, query) = reservations();
        let all = HISTORY.iter().chain(&COUNTERS).copied();
        for (what, query) in all.chain([(reserved, query.as_str())]) {
            let broken = sql.rows(query);
            assert!(
                broken.is_empty(),
                "not so: {what}: {broken:?}\n{}",
                self.logs()
            );
        }
        sql.rows(EVENTS).iter().for_each(crate::schema::row);
        self.check_runs();
    }

    /// Runners that said so ([`ONCE`]) ran once, and their endings agree with it.
    #[track_caller]
    fn check_runs(&self) {
        let mut ran: BTreeMap<String, usize> = BTreeMap::new();
        for (_, site) in self.up() {
            for id in site.file(RAN).lines() {
                *ran.entry(id.to_owned()).or_insert(0) += 1;
            }
        }
        let twice: Vec<_> = ran.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "ran more than once: {twice:?}");
        if ran.is_empty() {
            return;
        }
        let all_up = self.up().count() == self.sites.len();
        let mut known = BTreeSet::new();
        for row in self.sql().rows("SELECT id, state, spec, exit FROM runners") {
            let text = |key: &str| row[key].as_str().unwrap_or("").to_owned();
            let exit: serde_json::Value = serde_json::from_str(&text("exit")).unwrap_or_default();
            let cause = exit["cause"].as_str().unwrap_or("");
            let ours = text("spec").contains(ONCE);
            let times = ran.get(&text("id")).copied().unwrap_or(0);
            match cause {
                "launch-failed" | "cancelled" => assert_eq!(times, 0, "{row:?}"),
                "success" | "exit-code" if ours && all_up => assert_eq!(times, 1, "{row:?}"),
                _ => {}
            }
            known.insert(text("id"));
        }
        let unknown: Vec<_> = ran.keys().filter(|id| !known.contains(*id)).collect();
        assert!(
            unknown.is_empty(),
            "ran, and the store knows nothing of it: {unknown:?}"
        );
        // Whoever was told an id can rely on it.
        for (_, site) in self.up() {
            for id in site.file(LAUNCHED).lines() {
                assert!(
                    known.contains(id),
                    "{id} was launched, and the store has lost it"
                );
            }
        }
    }

    /// Stops whatever lives, and checks that it is gone without a trace.
    #[track_caller]
    pub fn clear(&self) {
        let mut live = BTreeSet::new();
        for (_, site) in self.up() {
            live.extend(site.scopes());
            if !site.scopes().is_empty() {
                site.ctl("root", "stop --all");
            }
        }
        wait_for("all scopes are gone", SOON, || {
            let left: Vec<_> = self.up().flat_map(|(_, site)| site.scopes()).collect();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}\n{}", self.logs()))
            }
        });
        self.check();
        let rows = self
            .sql()
            .rows("SELECT id, host, state FROM runners WHERE state <> 'ended'");
        assert!(rows.is_empty(), "left over: {rows:?}\n{}", self.logs());
    }

    /// What the services of every host said lately.
    pub fn logs(&self) -> String {
        let logs = self
            .up()
            .map(|(n, site)| format!("--- host {}:\n{}\n", n + 1, site.log()));
        logs.collect()
    }
}

/// A program of every host of a fleet: `once 0.5` notes that its runner runs, and runs half a second.
pub const ONCE: &str = "/usr/local/bin/once";
/// Where it notes it.
pub const RAN: &str = "/srv/ran";
/// The ids that were told to those who launched, where the load of a fleet notes them.
pub const LAUNCHED: &str = "/srv/launched";
