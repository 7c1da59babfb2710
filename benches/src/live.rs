//! What live runners cost that do nothing: memory, CPU, and the time of a restart.

use crate::launch::{connect, create_project, launch, program};
use crate::table::Table;
use crate::{Res, Size, median};
use futures_util::future::try_join_all;
use std::fs;
use std::time::Instant;
use tokio::process::Command;

const PROGRAMS: [(&str, &str); 4] = [
    ("stratavored", "/usr/bin/stratavored"),
    (
        "stratavore-agent",
        "/usr/libexec/stratavore/stratavore-agent",
    ),
    ("stratavore-shim", "/usr/libexec/stratavore/stratavore-shim"),
    ("stratavorectl", "/usr/bin/stratavorectl"),
];

pub(crate) async fn measure(size: Size, table: &mut Table) -> Res<()> {
    for (name, path) in PROGRAMS {
        let bytes = fs::metadata(path)?.len();
        table.absolute(
            format!("size of {name}"),
            "MiB",
            bytes as f64 / 1_048_576.0,
            0.0,
        );
    }
    let version = program(size.singles, &["stratavorectl", "--version"]).await?;
    table.absolute("stratavorectl --version, p50", "ms", version, 0.0);

    restart(size, table, 0, "stratavore-agent").await?;
    restart(size, table, 0, "stratavored").await?;
    let manager = connect().await?;
    create_project(&manager).await?;
    let mut live = 0;
    for &wanted in size.live {
        let each = (0..CALLERS).map(|caller| async move {
            let manager = connect().await?;
            for _ in (live + caller..wanted).step_by(CALLERS) {
                launch(&manager, &["sleep", "infinity"]).await?;
            }
            Res::Ok(())
        });
        try_join_all(each).await?;
        live = wanted;
        memory(table, live)?;
    }

    let before = used()?;
    let begun = Instant::now();
    tokio::time::sleep(size.idle).await;
    let share = (used()? - before) / begun.elapsed().as_secs_f64() * 100.0;
    table.absolute(
        format!("CPU of all of ours, {live} idle runners"),
        "% of a core",
        share,
        1.0,
    );

    restart(size, table, live, "stratavored").await?;
    restart(size, table, live, "stratavore-agent").await?;
    memory(table, live)
}

/// Launches at a time.
const CALLERS: usize = 8;

/// From the order to restart until it is ready, its stop included.
async fn restart(size: Size, table: &mut Table, live: usize, unit: &str) -> Res<()> {
    let mut took = Vec::new();
    for _ in 0..size.rounds {
        let begun = Instant::now();
        let status = Command::new("systemctl")
            .args(["restart", unit])
            .status()
            .await?;
        took.push(begun.elapsed().as_secs_f64());
        if !status.success() {
            return Err(format!("systemctl restart {unit}: {status}").into());
        }
    }
    table.absolute(
        format!("restart of {unit} to ready, {live} live"),
        "s",
        median(&mut took),
        1.0,
    );
    Ok(())
}

/// Memory that is each program's own: written to and in no file.
fn memory(table: &mut Table, live: usize) -> Res<()> {
    for (name, _) in &PROGRAMS[..3] {
        let mut all: Vec<f64> = pids(name)?.iter().filter_map(|pid| private(*pid)).collect();
        let most = if *name == "stratavore-shim" {
            0.5
        } else {
            30.0
        };
        if all.is_empty() && (live > 0 || *name != "stratavore-shim") {
            return Err(format!("{name} does not run, or its memory can't be read").into());
        }
        if !all.is_empty() {
            table.absolute(
                format!("memory of {name}, {live} live"),
                "MB",
                median(&mut all),
                most,
            );
        }
    }
    Ok(())
}

/// The processes of a program.
fn pids(name: &str) -> Res<Vec<u32>> {
    // The kernel keeps 15 bytes of a name.
    let name = &name[..name.len().min(15)];
    let all =
        fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let named = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    Ok(all.filter(named).collect())
}

/// Private and dirty, in MB.
fn private(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("Private_Dirty:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

/// Seconds of CPU used by daemon, agent and all shims up to now.
fn used() -> Res<f64> {
    let mut seconds = 0.0;
    for unit in ["stratavored", "stratavore-agent"] {
        let text = fs::read_to_string(format!(
            "/sys/fs/cgroup/system.slice/{unit}.service/cpu.stat"
        ))?;
        let usec = text
            .lines()
            .find_map(|l| l.strip_prefix("usage_usec "))
            .ok_or("no usage_usec")?;
        seconds += usec.parse::<f64>()? / 1e6;
    }
    // Theirs have the commands in them, too.
    for pid in pids("stratavore-shim")? {
        let text = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
        seconds += text.split(' ').next().unwrap_or_default().parse::<f64>()? / 1e9;
    }
    Ok(seconds)
}
