//! Real hosts for the tests: each a systemd of its own, with its own disk, buses, journal and network.
//!
//! ```no_run
//! let mut host = Host::builder("quota").root(Root::Trixie).bus(Bus::Broker).payload(dir).boot();
//! host.sh("systemctl enable --now stratavored").ok();
//! assert_eq!(host.sh_as("alice", "id -un").ok().out(), "alice");
//! host.power_cut();
//! host.boot_again();
//! ```
//!
//! Everything a `Host`, `Network` or `Spawned` made is gone when it is dropped, after a panic as well, and what a killed
//! test run left is removed by the next one. Where something is missing a test fails with the sentence how to get it.
#![allow(dead_code)]

mod builder;
mod chaos;
mod exec;
mod fleet;
mod host;
mod invariants;
mod network;
mod postgres;
mod proxy;
mod sql;
mod tls;
mod uml;
mod wait;

#[allow(unused_imports)]
pub use self::{
    builder::{Bus, HostBuilder, Root},
    chaos::{Blow, Chaos},
    exec::{Exec, Output, Spawned},
    fleet::{DATABASE, Fleet, FleetPlan, RECOVERS, SHORT, clock},
    host::Host,
    invariants::{ONCE, Seen, Watch},
    network::{Cable, Network},
    postgres::{OWNER_PASSWORD, PASSWORD, Postgres},
    proxy::{Proxy, Way},
    sql::{Row, Sql},
    tls::{Authority, Certified},
    uml::Uml,
    wait::{wait_for, wait_until},
};

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The folder of the project.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A script of `tests/host/`.
fn script(name: &str) -> PathBuf {
    project().join("tests/host").join(name)
}

/// Where hosts keep their disks: the same folder as in `tests/host/common.sh`.
fn run_folder() -> PathBuf {
    match std::env::var_os("STRATAVORE_TEST_RUN") {
        Some(folder) => project().join(folder),
        None => project().join("target/test-hosts"),
    }
}

/// A number no other host of this process has.
fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Pid and start time of this process, as `tests/host/clean.sh` reads them to tell who is dead.
fn own_name() -> String {
    let pid = std::process::id();
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc/self/stat");
    let start = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.split(' ').nth(19))
        .expect("a start time in /proc/self/stat");
    format!("{pid} {start}\n")
}

/// Once per process: we are root, and what earlier runs left is gone.
fn prepare() {
    static READY: OnceLock<Result<(), String>> = OnceLock::new();
    let ready = READY.get_or_init(|| {
        let out = Command::new(script("clean.sh"))
            .output()
            .map_err(|e| format!("tests/host/clean.sh: {e}"))?;
        match out.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&out.stderr).trim().to_owned()),
        }
    });
    if let Err(why) = ready {
        panic!("{why}");
    }
}

/// Runs a command of this machine and panics with its words when it fails. Returns what it printed, trimmed.
pub fn machine(command: &[&str]) -> String {
    match machine_try(command) {
        Ok(out) => out,
        Err(why) => panic!("{why}"),
    }
}

fn machine_try(command: &[&str]) -> Result<String, String> {
    let out = Command::new(command[0])
        .args(&command[1..])
        .output()
        .map_err(|e| format!("{}: {e}", command[0]))?;
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned()),
        false => Err(format!(
            "{command:?}: {}, {}",
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        )),
    }
}
