//! Looking. Every look has its limit, and none needs another to have worked.

mod bus;
mod files;
mod systemd;

use super::facts::{Facts, Socket};
use crate::cli::bus::{is_user, lingers};
use crate::places::Places;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// How long a program or the bus may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Everything that can be seen.
pub(super) async fn collect() -> Facts {
    let caller = files::caller();
    let systemd = systemd::systemd().await;
    let units = match systemd.booted {
        true => systemd::units().await,
        false => None,
    };
    let daemon_runs = units
        .as_ref()
        .and_then(|u| u.get("stratavored.service"))
        // One that is starting is about to take its name.
        .is_some_and(|u| !u.is("ActiveState", "inactive") && !u.is("ActiveState", "failed"));
    let accounts = files::accounts();
    let user = is_user();
    // Without a session nothing of the user's can be looked at, and the system's are another matter.
    let places = match user {
        true => Places::user(),
        false => Ok(Places::system()),
    };
    let place = |of: fn(&Places) -> PathBuf| places.as_ref().ok().map(of);
    let (state, runtime) = (place(|p| p.state.clone()), place(|p| p.runtime.clone()));
    let (bus, polkit) = bus::bus(&caller, daemon_runs).await;
    let programs = systemd::programs(&caller, units.as_ref(), accounts.daemon).await;
    let clock = systemd::clock(units.as_ref()).await;
    Facts {
        version: crate::VERSION.to_owned(),
        kernel: files::kernel(),
        machine_id: files::machine_id(),
        cgroup: files::cgroup(&systemd::below(user).await),
        folders: files::folders(),
        socket: match &runtime {
            Some(runtime) => files::socket(&runtime.join("agent.sock"), user || caller.is_root()),
            None => Socket::default(),
        },
        records: state
            .as_ref()
            .and_then(|state| files::records(&state.join("exits"))),
        disks: {
            let journal = PathBuf::from("/var/log/journal");
            let folders: Vec<PathBuf> = state
                .iter()
                .cloned()
                .chain([journal])
                .chain(runtime)
                .collect();
            files::disks(&folders.iter().map(PathBuf::as_path).collect::<Vec<_>>())
        },
        no_session: places.err(),
        lingers: if user { lingers().await } else { None },
        state: state.unwrap_or_default(),
        installed: files::came_by(Path::new("/")),
        user,
        journal: systemd::journal().await,
        swap: files::swap(),
        caller,
        systemd,
        bus,
        polkit,
        units,
        accounts,
        programs,
        clock,
    }
}

/// What a program printed.
struct Said {
    status: Option<i32>,
    out: String,
    err: String,
}

/// Why a program said nothing.
enum Mute {
    TooLong,
    Unable(String),
}

/// Runs a program to its end, within the limit.
async fn ask(command: &mut Command, limit: Duration) -> Result<Said, Mute> {
    command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .env("LC_ALL", "C")
        .env("SYSTEMD_PAGER", "");
    let output = match tokio::time::timeout(limit, command.output()).await {
        Ok(output) => output.map_err(|e| Mute::Unable(e.to_string()))?,
        Err(_) => return Err(Mute::TooLong),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok(Said {
        status: output.status.code(),
        out: text(&output.stdout),
        err: text(&output.stderr),
    })
}

/// What systemctl printed about the systemd we are about.
async fn systemctl(arguments: &[&str]) -> Option<String> {
    let user: &[&str] = if is_user() { &["--user"] } else { &[] };
    output("systemctl", &[user, arguments].concat()).await
}

/// What a program printed, if it ended well.
async fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let said = ask(Command::new(program).args(arguments), ANSWER)
        .await
        .ok()?;
    (said.status == Some(0)).then_some(said.out)
}
