//! Accounts, as the name service knows them, and the environment a runner starts with.

use crate::domain::{ProjectName, RunnerId};
use crate::wire::{Identity, Refusal, RefusalCode};
use nix::unistd::{Uid, User, getgrouplist};
use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) name: String,
    pub(super) home: String,
    pub(super) shell: String,
    pub(super) groups: Vec<u32>,
}

impl Account {
    /// Asks the name service. It may take its time: call this where blocking is allowed.
    pub(super) fn look_up(uid: u32) -> Result<Self, Refusal> {
        let refuse = |why: String| super::policy::refusal(RefusalCode::LaunchFailed, why);
        let user = match User::from_uid(Uid::from_raw(uid)) {
            Ok(Some(user)) => user,
            Ok(None) => return Err(refuse(format!("This host knows no user with uid {uid}."))),
            Err(e) => {
                return Err(refuse(format!(
                    "The user with uid {uid} can't be looked up: {e}."
                )));
            }
        };
        let name = CString::new(user.name.clone())
            .map_err(|_| refuse(format!("The name of uid {uid} has a NUL byte.")))?;
        let groups = getgrouplist(&name, user.gid).map_err(|e| {
            refuse(format!(
                "The groups of {} can't be looked up: {e}.",
                user.name
            ))
        })?;
        Ok(Self {
            uid,
            gid: user.gid.as_raw(),
            name: user.name,
            home: text(&user.dir, "/"),
            shell: text(&user.shell, "/bin/sh"),
            groups: groups.into_iter().map(nix::unistd::Gid::as_raw).collect(),
        })
    }

    /// What the shim needs to become this user.
    pub(super) fn identity(&self) -> Identity {
        Identity {
            uid: self.uid,
            gid: self.gid,
            groups: self.groups.clone(),
        }
    }
}

/// Accounts looked up a moment ago. A look-up costs milliseconds, and often PID 1's (it is
/// asked for groups of dynamic users), which has enough to do when many runners are launched.
#[derive(Debug, Default)]
pub(super) struct Accounts(Mutex<HashMap<u32, (Instant, Stamp, Account)>>);

/// How long an account is believed. Changes of the local files count at once.
const BELIEVED: Duration = Duration::from_secs(5);
/// Accounts kept.
const KEPT: usize = 256;

type Stamp = [Option<(u64, u64, i64, i64)>; 3];

impl Accounts {
    /// The account; blocks as [`Account::look_up`] does.
    pub(super) fn find(&self, uid: u32) -> Result<Account, Refusal> {
        let stamp = stamp();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, then, account)) = known.get(&uid)
            && at.elapsed() < BELIEVED
            && *then == stamp
        {
            return Ok(account.clone());
        }
        // One name service that hangs must not stop the others.
        drop(known);
        let account = Account::look_up(uid)?;
        known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(uid, (Instant::now(), stamp, account.clone()));
        Ok(account)
    }
}

/// Changes whenever one of the local files does.
fn stamp() -> Stamp {
    ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf"].map(|path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
    })
}

/// The uid of a named account, and its group.
pub(super) fn by_name(name: &str) -> Option<(u32, u32)> {
    let user = User::from_name(name).ok().flatten()?;
    Some((user.uid.as_raw(), user.gid.as_raw()))
}

fn text(path: &Path, default: &str) -> String {
    match path.to_str() {
        Some(text) if text.starts_with('/') => text.to_owned(),
        _ => default.to_owned(),
    }
}

/// What of the host goes into every runner's environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HostEnvironment {
    /// `LANG` and `LC_*`.
    pub(super) locale: BTreeMap<String, String>,
    /// Programs are where NixOS puts them.
    pub(super) nixos: bool,
    /// With `--user`: what else the user's own manager gives its units.
    pub(super) session: BTreeMap<String, String>,
}

/// Of a user manager's environment: where programs are, and the way to manager and bus.
const SESSION: [&str; 3] = ["PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"];

impl HostEnvironment {
    /// As it is now: the agent's own locale, else that of /etc/locale.conf. `user`: under a
    /// user's own manager.
    pub(super) fn read(user: bool) -> Self {
        let own: BTreeMap<_, _> = std::env::vars_os()
            .filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)))
            .collect();
        let only = |wanted: &dyn Fn(&str) -> bool| {
            let found = own.iter().filter(|(name, _)| wanted(name));
            found.map(|(n, v)| (n.clone(), v.clone())).collect()
        };
        let session = only(&|name| user && SESSION.contains(&name));
        let mut locale: BTreeMap<_, _> = only(&is_locale);
        if locale.is_empty() {
            locale = parse_locale(&std::fs::read_to_string("/etc/locale.conf").unwrap_or_default());
        }
        let nixos = ["/etc/NIXOS", "/run/current-system"]
            .iter()
            .any(|p| Path::new(p).exists());
        Self {
            locale,
            nixos,
            session,
        }
    }

    /// What a shim needs to ask the user's manager.
    pub(super) fn of_shim(&self) -> Vec<(String, String)> {
        let session = self.session.iter().filter(|(name, _)| *name != "PATH");
        session.map(|(n, v)| (n.clone(), v.clone())).collect()
    }
}

fn is_locale(name: &str) -> bool {
    name == "LANG" || name == "LANGUAGE" || name.starts_with("LC_")
}

/// The assignments of a locale.conf(5).
fn parse_locale(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.trim().split_once('='))
        .map(|(name, value)| (name.trim(), value.trim().trim_matches(['"', '\''])))
        .filter(|(name, value)| is_locale(name) && !value.is_empty())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The whole environment of a runner: an allow-list, and the caller's `setenv` over it. The two
/// variables that name the runner are ours.
pub(super) fn environment(
    host: &HostEnvironment,
    account: &Account,
    id: RunnerId,
    project: &ProjectName,
    setenv: &[(String, String)],
) -> Vec<String> {
    let mut env = host.locale.clone();
    let mut set = |name: &str, value: &str| {
        env.insert(name.to_owned(), value.to_owned());
    };
    set("PATH", &search_path(host, account));
    set("HOME", &account.home);
    set("USER", &account.name);
    set("LOGNAME", &account.name);
    set("SHELL", &account.shell);
    for (name, value) in &host.session {
        set(name, value);
    }
    for (name, value) in setenv {
        set(name, value);
    }
    set("STRATAVORE_RUNNER_ID", &id.to_string());
    set("STRATAVORE_PROJECT", project.as_str());
    env.into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

fn search_path(host: &HostEnvironment, account: &Account) -> String {
    if !host.nixos {
        return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
    }
    let (home, user) = (&account.home, &account.name);
    [
        "/run/wrappers/bin".to_owned(),
        format!("{home}/.nix-profile/bin"),
        "/nix/profile/bin".to_owned(),
        format!("{home}/.local/state/nix/profile/bin"),
        format!("/etc/profiles/per-user/{user}/bin"),
        "/nix/var/nix/profiles/default/bin".to_owned(),
        "/run/current-system/sw/bin".to_owned(),
    ]
    .join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn account() -> Account {
        Account {
            uid: 1000,
            gid: 100,
            name: "alice".to_owned(),
            home: "/home/alice".to_owned(),
            shell: "/bin/bash".to_owned(),
            groups: vec![100, 27],
        }
    }

    fn id() -> RunnerId {
        RunnerId::from_uuid(uuid::Uuid::nil())
    }

    fn built(host: &HostEnvironment, setenv: &[(&str, &str)]) -> Option<Vec<String>> {
        let setenv: Vec<_> = setenv
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        Some(environment(
            host,
            &account(),
            id(),
            &"acme".parse().ok()?,
            &setenv,
        ))
    }

    #[test]
    fn nothing_but_the_list() {
        let host = HostEnvironment {
            locale: parse_locale("LANG=\"C.UTF-8\"\n# LC_ALL=x\nPATH=/evil\nLC_TIME=de_DE.UTF-8\n"),
            ..HostEnvironment::default()
        };
        let mut env = built(&host, &[]).unwrap_or_default();
        env.sort();
        assert_eq!(
            env,
            [
                "HOME=/home/alice",
                "LANG=C.UTF-8",
                "LC_TIME=de_DE.UTF-8",
                "LOGNAME=alice",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "SHELL=/bin/bash",
                "STRATAVORE_PROJECT=acme",
                "STRATAVORE_RUNNER_ID=00000000-0000-0000-0000-000000000000",
                "USER=alice",
            ]
        );
    }

    #[test]
    fn the_caller_may_set_anything_but_who_the_runner_is() {
        let host = HostEnvironment {
            nixos: true,
            ..HostEnvironment::default()
        };
        let env = built(
            &host,
            &[
                ("HOME", "/tmp"),
                ("KEY", "a=b"),
                ("STRATAVORE_PROJECT", "other"),
            ],
        )
        .unwrap_or_default();
        assert!(env.contains(&"HOME=/tmp".to_owned()) && env.contains(&"KEY=a=b".to_owned()));
        assert!(env.contains(&"STRATAVORE_PROJECT=acme".to_owned()));
        assert!(
            env.iter()
                .any(|e| e.starts_with("PATH=/run/wrappers/bin:/home/alice/.nix-profile/bin:"))
        );
    }

    #[test]
    fn a_users_own_manager_gives_path_and_bus() {
        let session = [
            ("PATH", "/home/alice/.local/bin:/bin"),
            ("XDG_RUNTIME_DIR", "/run/user/7"),
        ];
        let host = HostEnvironment {
            session: session.map(|(n, v)| (n.to_owned(), v.to_owned())).into(),
            ..HostEnvironment::default()
        };
        let env = built(&host, &[]).unwrap_or_default();
        for (name, value) in session {
            assert!(env.contains(&format!("{name}={value}")), "{env:?}");
        }
        assert_eq!(
            host.of_shim(),
            [("XDG_RUNTIME_DIR".to_owned(), "/run/user/7".to_owned())]
        );
    }

    proptest! {
        #[test]
        fn each_variable_once(names in proptest::collection::vec("[A-Z_]{1,5}|HOME|STRATAVORE_RUNNER_ID", 0..12)) {
            let setenv: Vec<_> = names.iter().map(|n| (n.as_str(), "v")).collect();
            let env = built(&HostEnvironment::default(), &setenv).unwrap_or_default();
            let mut seen: Vec<_> = env.iter().filter_map(|e| e.split('=').next()).collect();
            let all = seen.len();
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(seen.len(), all);
        }
    }
}
