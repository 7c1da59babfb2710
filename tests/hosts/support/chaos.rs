//! What can go wrong in a fleet, in seeded random order; and a load that goes on meanwhile.

use std::time::Duration;

use super::Fleet;
use super::invariants::{LAUNCHED, ONCE};

/// Something that happens to a fleet, and is over again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL to a daemon. systemd starts it again.
    Daemon,
    /// SIGKILL to an agent. systemd starts it again.
    Agent,
    /// SIGKILL to the shim of some runner, if one lives.
    Shim,
    /// A host stops dead and boots again.
    Host,
    /// SIGKILL to Postgres, which is started again.
    Postgres,
    /// Postgres' host loses power and boots again.
    Power,
    /// A host is cut off for a while.
    Cut,
}

impl Blow {
    pub const ALL: [Blow; 7] = [
        Blow::Daemon,
        Blow::Agent,
        Blow::Shim,
        Blow::Host,
        Blow::Postgres,
        Blow::Power,
        Blow::Cut,
    ];
}

/// Strikes a fleet. The same seed gives the same blows at the same hosts after the same pauses.
pub struct Chaos {
    state: u64,
    kinds: Vec<Blow>,
    /// What is still to come before the kinds are shuffled anew: each gets its turn.
    bag: Vec<Blow>,
    struck: Vec<String>,
    seed: u64,
}

impl Chaos {
    /// The seed is `STRATAVORE_TEST_SEED`, else a new one; it is printed.
    #[track_caller]
    pub fn new(kinds: &[Blow]) -> Self {
        let seed = match std::env::var("STRATAVORE_TEST_SEED") {
            Ok(text) => text.parse().expect("STRATAVORE_TEST_SEED is a number"),
            Err(_) => std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(1, |t| t.as_micros() as u64 % 1_000_000),
        };
        eprintln!("chaos: STRATAVORE_TEST_SEED={seed} repeats it");
        Chaos {
            state: seed,
            kinds: kinds.to_vec(),
            bag: Vec::new(),
            struck: Vec::new(),
            seed,
        }
    }

    /// A number below `below`.
    pub fn random(&mut self, below: usize) -> usize {
        // splitmix64
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below as u64) as usize
    }

    fn milliseconds(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.random((to - from) as usize) as u64)
    }

    /// One blow, and its repair: afterwards all hosts are up and connected and Postgres runs, though daemons may not
    /// have noticed yet.
    #[track_caller]
    pub fn strike(&mut self, fleet: &mut Fleet) -> Blow {
        if self.bag.is_empty() {
            self.bag = self.kinds.clone();
            for n in (1..self.bag.len()).rev() {
                let other = self.random(n + 1);
                self.bag.swap(n, other);
            }
        }
        let blow = self.bag.pop().expect("a kind of blow");
        let pause = self.milliseconds(0, 700);
        std::thread::sleep(pause);
        let n = self.random(fleet.sites.len());
        let lasts = self.milliseconds(100, 2_500);
        self.note(format!(
            "{blow:?} at host {} for {lasts:?} after {pause:?}",
            n + 1
        ));
        match blow {
            Blow::Daemon => kill(fleet, n, "stratavored"),
            Blow::Agent => kill(fleet, n, "stratavore-agent"),
            Blow::Shim => {
                let pick = self.random(1000);
                fleet.sites[n].root(&format!(
                    "mapfile -t p < <(pgrep -u root -x stratavore-shim); [ ${{#p[@]}} = 0 ] || kill -9 ${{p[{pick} % ${{#p[@]}}]}}; true"
                ));
            }
            Blow::Host => {
                fleet.kill_host(n);
                std::thread::sleep(lasts / 2);
                fleet.boot_host(n);
            }
            Blow::Postgres => {
                fleet.postgres.kill9();
                std::thread::sleep(lasts);
                fleet.postgres.start_again();
            }
            Blow::Power => {
                fleet.postgres.power_cut();
                fleet.postgres.power_on();
            }
            Blow::Cut => {
                fleet.cut(n);
                std::thread::sleep(lasts);
                fleet.mend(n);
            }
        }
        blow
    }

    fn note(&mut self, what: String) {
        eprintln!("chaos: round {}: {what}", self.struck.len() + 1);
        self.struck.push(what);
    }

    /// Everything that was done so far, with the seed.
    pub fn story(&self) -> String {
        format!("seed {}:\n{}", self.seed, self.struck.join("\n"))
    }
}

/// SIGKILL to the main process; it may be away already.
fn kill(fleet: &Fleet, n: usize, unit: &str) {
    fleet.sites[n].root(&format!(
        "systemctl kill -s KILL --kill-whom=main {unit}; true"
    ));
}

/// Launches one runner after the other as alice, with several callers, until it is stopped.
const LOAD: &str = r#"#!/bin/bash
one() {
    while :; do
        # Not all of the same length, some report what they use (also more than they reserved), and some are stopped, not waited for.
        id=$(timeout 90 stratavorectl --no-ask-password run FLAGS -- ONCE 0.$((RANDOM % 10)) 2>>/srv/load.err)
        code=$?
        echo "$code" >>/srv/load.codes
        if [ $code = 0 ]; then echo "$id" >>LAUNCHED; else sleep 0.$((RANDOM % 3)); fi
        [ $((RANDOM % 3)) != 0 ] || timeout 90 stratavorectl --no-ask-password usage report --runner "$id" --tokens-in $((RANDOM % 200)) 2>/dev/null
        [ $((RANDOM % 8)) != 0 ] || timeout 90 stratavorectl --no-ask-password stop --no-block "$id" 2>/dev/null
    done
}
for _ in {1..CALLERS}; do one & done
wait
"#;

impl Fleet {
    /// Starts to launch on every host, with so many callers on each: `flags` are those of `stratavorectl run`, with the
    /// project. It goes on after a host has booted again.
    #[track_caller]
    pub fn start_load(&mut self, callers: usize, flags: &str) {
        let script = LOAD
            .replace("FLAGS", flags)
            .replace("ONCE", ONCE)
            .replace("LAUNCHED", LAUNCHED)
            .replace("CALLERS", &callers.to_string());
        for (_, site) in self.up() {
            site.host.write("/usr/local/bin/load", &script);
            site.root("chmod 755 /usr/local/bin/load").ok();
        }
        self.loaded = true;
        for n in 0..self.sites.len() {
            self.start_load_of(n);
        }
    }

    #[track_caller]
    pub(super) fn start_load_of(&self, n: usize) {
        if self.loaded {
            self.sites[n]
                .root("systemd-run -q --unit=load -p User=alice -p KillMode=control-group /usr/local/bin/load")
                .ok();
        }
    }

    /// Launches no more. What was launched goes on. Returns how often each exit status was seen.
    #[track_caller]
    pub fn stop_load(&mut self) -> std::collections::BTreeMap<i32, usize> {
        self.loaded = false;
        let mut codes = std::collections::BTreeMap::new();
        for (_, site) in self.up() {
            site.root("systemctl stop load").ok();
            for code in site.file("/srv/load.codes").lines() {
                *codes.entry(code.parse().unwrap_or(-1)).or_insert(0) += 1;
            }
        }
        codes
    }

    /// What launching complained about, on all hosts: how often, and what.
    pub fn complaints(&self) -> String {
        let of = |site: &crate::fixture::Site| {
            site.root("sort /srv/load.err | uniq -c | sort -rn | head -n 20")
                .out()
        };
        self.up().map(|(_, site)| of(site) + "\n").collect()
    }
}
