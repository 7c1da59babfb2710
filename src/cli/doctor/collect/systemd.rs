//! What systemd's own tools and our programs tell.

use super::super::facts::{Caller, Clock, Journal, Programs, Systemd, Told, Unit};
use super::super::judge::OURS;
use super::{ANSWER, Mute, ask, output, systemctl};
use crate::cli::bus::is_user;
use crate::domain::kinds;
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// A large store is read at about 200 MB/s.
const STORE: Duration = Duration::from_secs(60);
const OTHERS: [&str; 4] = [
    "-.slice",
    "polkit.service",
    "systemd-oomd.service",
    "dbus.service",
];
const PROPERTIES: &str = "LoadState,LoadError,ActiveState,SubState,UnitFileState,NeedDaemonReload,DropInPaths,Result,\
    ExecMainStatus,MainPID,ExecStart,NRestarts,StatusText,WantedBy,RequiredBy,ManagedOOMSwap,ManagedOOMMemoryPressure,MemorySwapMax,Id";

pub(super) async fn systemd() -> Systemd {
    // sd_booted(3)
    let booted = Path::new("/run/systemd/system").is_dir();
    let show = |property| async move {
        output("systemctl", &["show", "--value", "-p", property])
            .await
            .filter(|v| !v.is_empty())
    };
    let container = match booted {
        true => output("systemd-detect-virt", &["--container"]).await,
        false => None,
    };
    let installed = output("systemctl", &["--version"]).await;
    Systemd {
        booted,
        installed: installed
            .and_then(|text| Some(text.lines().next()?.strip_prefix("systemd ")?.to_owned())),
        running: if booted { show("Version").await } else { None },
        container: container.unwrap_or_default(),
    }
}

/// The part of the cgroup tree that a user's systemd has; the system's has all.
pub(super) async fn below(user: bool) -> String {
    match user {
        true => systemctl(&["show", "--value", "-p", "ControlGroup"])
            .await
            .unwrap_or_default(),
        false => String::new(),
    }
}

/// Our units and those that matter to us.
pub(super) async fn units() -> Option<BTreeMap<String, Unit>> {
    let mut arguments = vec!["show", "--no-pager", "-p", PROPERTIES, "--"];
    let names: Vec<&str> = OURS.into_iter().chain(OTHERS).collect();
    arguments.extend(&names);
    let text = systemctl(&arguments).await?;
    let units = text.split("\n\n").map(unit);
    Some(names.into_iter().map(str::to_owned).zip(units).collect())
}

fn unit(text: &str) -> Unit {
    let line = |line: &str| {
        line.split_once('=')
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
    };
    Unit(text.lines().filter_map(line).collect())
}

/// Whether what runs is what is installed, and what our programs say of configuration and store.
pub(super) async fn programs(
    caller: &Caller,
    units: Option<&BTreeMap<String, Unit>>,
    daemon: Option<(u32, u32)>,
) -> Programs {
    let unit = |name: &str| units.and_then(|u| u.get(name));
    let stratavored = program(unit("stratavored.service"), "stratavored");
    let agent = program(
        unit("stratavore-agent.service"),
        "../libexec/stratavore/stratavore-agent",
    );
    let (root, user) = (caller.is_root(), is_user());
    let sees = root || user;
    let mut programs = Programs {
        running: sees.then(|| {
            [
                ("stratavored.service", "stratavored", &stratavored),
                ("stratavore-agent.service", "stratavore-agent", &agent),
            ]
            .into_iter()
            .filter_map(|(service, name, path)| {
                Some((name, replaced(unit(service), path.as_deref())?))
            })
            .collect()
        }),
        shims: sees.then(shims),
        ..Programs::default()
    };
    let whose = if user { Some("--user") } else { None };
    if let Some(path) = &stratavored {
        let check = |what| {
            let mut command = Command::new(path);
            command
                .args(whose)
                .args(config_of(unit("stratavored.service")))
                .arg(what);
            command
        };
        programs.config = Some(told(&mut check("--check-config"), ANSWER).await);
        let mut store = check("--check-store");
        let wanted = match credentials(user) {
            Some(folder) => {
                store.env("CREDENTIALS_DIRECTORY", folder);
                Vec::new()
            }
            None => store_credentials().await,
        };
        match daemon {
            _ if sees && !wanted.is_empty() => {
                let names = wanted.iter().map(|c| c.name.clone()).collect();
                programs.store = Some(Told::Lacks(names, with(&wanted, user, store.as_std())));
            }
            _ if user => programs.store = Some(told(&mut store, STORE).await),
            // Not as root: what SQLite makes beside the file must be the daemon's.
            Some((uid, gid)) if root => {
                programs.store = Some(told(store.uid(uid).gid(gid), STORE).await)
            }
            _ => {}
        }
    }
    if let (Some(path), false) = (&agent, user) {
        let mut check = Command::new(path);
        let file = config_of(unit("stratavore-agent.service"));
        check.args(file).arg("--check-config");
        programs.agent_config = Some(told(&mut check, ANSWER).await);
    }
    programs
}

/// Where the daemon's credentials are while it runs: the check reaches the store with what the daemon has.
fn credentials(user: bool) -> Option<PathBuf> {
    let run = match user {
        true => PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?),
        false => PathBuf::from("/run"),
    };
    let folder = run.join("credentials/stratavored.service");
    folder.is_dir().then_some(folder)
}

/// A credential that a unit asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    /// The setting by which it does.
    by: String,
    name: String,
    value: String,
}

/// Those that the daemon's unit asks for to reach its store.
async fn store_credentials() -> Vec<Wanted> {
    let files = systemctl(&["cat", "--no-pager", "stratavored.service"]).await;
    let all = wanted(&files.unwrap_or_default());
    let of_store = |c: &Wanted| c.name.starts_with("store-");
    all.into_iter().filter(of_store).collect()
}

/// What the files of a unit say, in their order: an empty setting takes back what was said before.
fn wanted(files: &str) -> Vec<Wanted> {
    let mut all: Vec<Wanted> = Vec::new();
    for line in files.replace("\\\n", " ").lines() {
        let Some((by, value)) = line.split_once('=') else {
            continue;
        };
        let (by, value) = (by.trim(), value.trim());
        let kinds = [
            "LoadCredential",
            "LoadCredentialEncrypted",
            "SetCredential",
            "SetCredentialEncrypted",
        ];
        if !kinds.contains(&by) {
            continue;
        }
        match value.split(':').next() {
            None | Some("") => all.retain(|c| c.by[..3] != by[..3]),
            Some(name) => {
                all.retain(|c| c.name != name);
                all.push(Wanted {
                    by: by.to_owned(),
                    name: name.to_owned(),
                    value: value.to_owned(),
                });
            }
        }
    }
    all
}

/// The command that runs `check` with these credentials; `None` = what is in one of them would have to be in it.
fn with(wanted: &[Wanted], user: bool, check: &std::process::Command) -> Option<Vec<String>> {
    let mut words = vec!["systemd-run".to_owned()];
    match user {
        true => words.extend(["--user", "--pipe", "--wait"].map(str::to_owned)),
        false => words.extend(["--pipe", "--wait", "-p", "User=stratavore"].map(str::to_owned)),
    }
    for Wanted { by, value, .. } in wanted {
        if !by.starts_with("Load") {
            return None;
        }
        words.extend(["-p".to_owned(), format!("{by}={value}")]);
    }
    let program = [check.get_program()].into_iter().chain(check.get_args());
    words.extend(program.map(|word| word.to_string_lossy().into_owned()));
    Some(words)
}

/// The program a unit starts, else the one that was installed with this one.
fn program(unit: Option<&Unit>, beside: &str) -> Option<PathBuf> {
    let started = unit.and_then(|u| {
        let path = u.get("ExecStart").split_once("path=")?.1;
        Some(PathBuf::from(path.split(" ;").next()?))
    });
    let installed = || {
        let own = std::fs::read_link("/proc/self/exe").ok()?;
        Some(own.parent()?.join(beside))
    };
    started.or_else(installed).filter(|p| p.exists())
}

/// `--config FILE`, where the unit's own command line (a drop-in may have changed it) has it.
fn config_of(unit: Option<&Unit>) -> Vec<String> {
    let command = unit.map_or("", |u| u.get("ExecStart"));
    let words = command.split_once("argv[]=").map_or("", |(_, rest)| rest);
    let mut words = words.split(" ;").next().unwrap_or("").split_whitespace();
    while let Some(word) = words.next() {
        if word == "--config" || word.starts_with("--config=") {
            let value = if word == "--config" {
                words.next()
            } else {
                None
            };
            return [word].into_iter().chain(value).map(str::to_owned).collect();
        }
    }
    Vec::new()
}

/// Whether a service runs another file than this one; `None` = it does not run.
fn replaced(unit: Option<&Unit>, path: Option<&Path>) -> Option<bool> {
    let pid = unit.map_or("", |u| u.get("MainPID"));
    let running = std::fs::read_link(format!("/proc/{pid}/exe"));
    match (running, path.map(std::fs::canonicalize)) {
        // A file that is gone is called “… (deleted)”.
        (Ok(running), Some(Ok(installed))) => Some(running != installed),
        _ => None,
    }
}

/// Live shims, and those whose file is gone or replaced.
fn shims() -> (usize, usize) {
    let (mut all, mut old) = (0, 0);
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = entry.path();
        if std::fs::read_to_string(path.join("comm"))
            .is_ok_and(|c| c.trim_end() == "stratavore-shim")
            && let Ok(file) = std::fs::read_link(path.join("exe"))
        {
            all += 1;
            old += usize::from(!file.exists());
        }
    }
    (all, old)
}

async fn told(command: &mut Command, limit: Duration) -> Told {
    match ask(command, limit).await {
        Ok(said) => match said.status {
            Some(0) => Told::Fine(said.out, said.err),
            // clap's: it does not know the flag.
            Some(2) => {
                Told::Unable("the program installed is of a release that can't check it".to_owned())
            }
            Some(_) => Told::Wrong(if said.err.is_empty() {
                said.out
            } else {
                said.err
            }),
            None => Told::Unable("the program that checks it was killed".to_owned()),
        },
        Err(Mute::TooLong) => Told::TooLong,
        Err(Mute::Unable(why)) => Told::Unable(why),
    }
}

pub(super) async fn journal() -> Journal {
    let text = output("systemd-analyze", &["cat-config", "systemd/journald.conf"]).await;
    Journal {
        settings: text.map(|text| settings(&text)),
        persistent_folder: Path::new("/var/log/journal").is_dir(),
        catalog: catalog().await,
    }
}

async fn catalog() -> Option<bool> {
    let mut dump = Command::new("journalctl");
    dump.args(["--no-pager", "--dump-catalog", kinds::READY.id]);
    let said = ask(&mut dump, ANSWER).await.ok()?;
    Some(said.out.contains("Stratavore"))
}

/// `Key=value` lines; the last counts, an empty one is the default again.
fn settings(text: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let line = line.trim();
        let (key, value) = line.split_once('=')?;
        (!line.starts_with(['#', ';'])).then(|| (key.trim().to_owned(), value.trim().to_owned()))
    };
    text.lines().filter_map(line).collect()
}

pub(super) async fn clock(units: Option<&BTreeMap<String, Unit>>) -> Clock {
    let text = output(
        "timedatectl",
        &["show", "-p", "NTPSynchronized", "-p", "NTP"],
    )
    .await
    .unwrap_or_default();
    let said = settings(&text);
    let yes = |key: &str| said.get(key).map(|v| v == "yes");
    Clock {
        synchronised: yes("NTPSynchronized"),
        service: yes("NTP"),
        jumped: match units.is_some() {
            true => jumped().await,
            false => None,
        },
    }
}

/// How far the clock has moved more than time has passed, since the daemon was started.
async fn jumped() -> Option<i64> {
    let properties = "ExecMainStartTimestamp,ExecMainStartTimestampMonotonic";
    let text = systemctl(&[
        "show",
        "--timestamp=unix",
        "-p",
        properties,
        "stratavored.service",
    ])
    .await?;
    let said = settings(&text);
    let real: i64 = said
        .get("ExecMainStartTimestamp")?
        .strip_prefix('@')?
        .parse()
        .ok()?;
    let steady: i64 = said.get("ExecMainStartTimestampMonotonic")?.parse().ok()?;
    let now = |clock| clock_gettime(clock).tv_sec;
    let passed = now(ClockId::Monotonic) - steady / 1_000_000;
    let jumped = now(ClockId::Realtime) - real - passed;
    // The steady clock stands still while the host is suspended.
    let suspended = now(ClockId::Boottime) - now(ClockId::Monotonic);
    Some(if jumped > 0 {
        (jumped - suspended).max(0)
    } else {
        jumped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tools_print() {
        let unit = unit(
            "Id=a.service\nExecStart={ path=/usr/bin/sh ; argv[]=/usr/bin/sh -c x=1 }\nResult=",
        );
        assert_eq!(program(Some(&unit), "x"), Some("/usr/bin/sh".into()));
        assert!(unit.is("Result", "") && unit.is("Id", "a.service"));
        assert_eq!(config_of(Some(&unit)), Vec::<String>::new());
        for (given, config) in [
            (
                "--config /x.toml --check-config",
                vec!["--config", "/x.toml"],
            ),
            ("--config=/x.toml", vec!["--config=/x.toml"]),
        ] {
            let line =
                format!("{{ path=/d ; argv[]=/d --user {given} ; ignore_errors=no ; pid=0 }}");
            let unit = Unit([("ExecStart".to_owned(), line)].into());
            assert_eq!(config_of(Some(&unit)), config);
        }
        let files = "# /usr/lib/a.service\n[Service]\nLoadCredential=store-password:/old\nSetCredential=amqp-password:a:b\n\
            # /etc/a.service.d/b.conf\n[Service]\n #LoadCredential=store-key:/x\nLoadCredential=\n\
            LoadCredential = store-password:/a b\nLoadCredentialEncrypted=store-ca\n";
        let all = wanted(files);
        let told: Vec<_> = all.iter().map(|c| (&c.by[..], &c.value[..])).collect();
        assert_eq!(
            told,
            [
                ("SetCredential", "amqp-password:a:b"),
                ("LoadCredential", "store-password:/a b"),
                ("LoadCredentialEncrypted", "store-ca")
            ]
        );
        let mut check = std::process::Command::new("/d");
        check.args(["--config=/x.toml", "--check-store"]);
        let words = with(&all[1..], false, &check).unwrap_or_default();
        assert_eq!(
            crate::cli::text::command(&words),
            "systemd-run --pipe --wait -p User=stratavore -p 'LoadCredential=store-password:/a b' \
             -p LoadCredentialEncrypted=store-ca /d --config=/x.toml --check-store"
        );
        // Nobody gets to see what is in one.
        assert_eq!(with(&all, false, &check), None);
        let settings = settings(
            "# /etc/x.conf\n[Journal]\n#Storage=none\nStorage=auto\n Storage = volatile\n;A=b\n",
        );
        assert_eq!(settings.len(), 1);
        assert_eq!(settings["Storage"], "volatile");
    }
}
