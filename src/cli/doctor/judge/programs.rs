//! Our own programs and files: accounts, folders, the agent's socket, configuration, store, records.

use super::super::Finding;
use super::super::facts::{Accounts, Facts, Folder, Found, Modes, Told};
use super::and;
use crate::cli::text::command;

/// Seconds after which an ending that is not in the store is late.
const LATE: u64 = 60;
/// Owner, group and permission bits of the socket.
const SOCKET_MODE: u32 = 0o660;

/// Whether what runs is what is installed, and what our programs say of configuration and store.
pub(super) fn programs(facts: &Facts) -> Vec<Finding> {
    let programs = &facts.programs;
    let mut out = vec![match &programs.running {
        None => Finding::unseen(
            "programs",
            "whether daemon and agent run the programs installed now",
        ),
        Some(running) => replaced(running),
    }];
    if let Some((all, old)) = programs.shims
        && old > 0
    {
        out.push(Finding::note(
            "shims",
            format!("{old} of {all} live runners have a shim of an earlier installation; they go on with it to their end."),
        ));
    }
    out.push(config(programs.config.as_ref()));
    if !facts.user {
        out.extend(agent_config(programs.agent_config.as_ref()));
    }
    out.push(match &programs.store {
        None => Finding::unseen("store", "the store, which is the daemon's and root's"),
        Some(Told::Fine(text, _)) => Finding::ok("store", text.clone()),
        Some(Told::TooLong) => Finding::note(
            "store",
            "The store is so large that it was not read to its end in time.",
        )
        .mend(match facts.user {
            true => "stratavored --check-store",
            false => "setpriv --reuid=stratavore --regid=stratavore --init-groups stratavored --check-store",
        }),
        Some(Told::Wrong(why)) => {
            Finding::problem("store", why.clone()).mend("journalctl -u stratavored -n 50")
        }
        Some(Told::Unable(why)) => Finding::note("store", format!("Not looked at: {why}.")),
        Some(Told::Lacks(names, check)) => without(names, check.as_deref()),
    });
    out
}

/// The store, whose credentials are not there.
fn without(names: &[String], check: Option<&[String]>) -> Finding {
    let (are, they) = match names {
        [_] => ("the daemon's credential", "is"),
        _ => ("the daemon's credentials", "are"),
    };
    let why = format!(
        "Not looked at, whether the store can be reached and is sound: {are} {} {they} there only while stratavored runs.",
        and(names)
    );
    match check {
        Some(words) => Finding::note("store", format!("{why} Start it, or look without it:"))
            .mend(command(words)),
        None => Finding::note("store", why).mend("systemctl start stratavored"),
    }
}

fn replaced(running: &[(&str, bool)]) -> Finding {
    const CHECK: &str = "programs";
    let names = |old: bool| -> Vec<&str> {
        let those = running.iter().filter(|(_, replaced)| *replaced == old);
        those.map(|(name, _)| *name).collect()
    };
    let (old, new) = (names(true), names(false));
    match (&old[..], &new[..]) {
        ([], []) => Finding::note(CHECK, "Neither daemon nor agent runs."),
        ([], [one]) => Finding::ok(CHECK, format!("{one} runs the program installed now.")),
        ([], _) => Finding::ok(CHECK, "Daemon and agent run the programs installed now."),
        _ => {
            let verb = match old.len() {
                1 => "runs a program that was",
                _ => "run programs that were",
            };
            Finding::warning(
                CHECK,
                format!(
                    "{} still {verb} replaced since. Runners go on over a restart.",
                    and(&old)
                ),
            )
            .mend(format!("systemctl restart {}", old.join(" ")))
        }
    }
}

fn config(told: Option<&Told>) -> Finding {
    const CHECK: &str = "stratavored.toml";
    // Changes nothing before a person has set the file right.
    const SET_RIGHT: &str = "stratavored --check-config && systemctl restart stratavored";
    match told {
        Some(Told::Fine(_, doubts)) if !doubts.is_empty() => {
            let doubts: Vec<&str> = doubts.lines().collect();
            let doubts = format!("{} When that is set right:", doubts.join(" "));
            Finding::warning(CHECK, doubts).mend(SET_RIGHT)
        }
        Some(Told::Fine(..)) => Finding::ok(CHECK, "The daemon's configuration is right."),
        Some(Told::Wrong(why)) => Finding::problem(
            CHECK,
            format!("{} The daemon will not start with it.", ended(why)),
        )
        .mend(SET_RIGHT),
        Some(Told::TooLong) => Finding::note(CHECK, "stratavored did not check it in time."),
        Some(Told::Unable(why)) => Finding::note(CHECK, format!("Not looked at: {why}.")),
        Some(Told::Lacks(..)) | None => Finding::note(
            CHECK,
            "Not looked at: there is no stratavored on this host.",
        ),
    }
}

fn agent_config(told: Option<&Told>) -> Vec<Finding> {
    const CHECK: &str = "agent.toml";
    // Changes nothing before a person has set the file right.
    const RELOAD: &str = "systemctl reload-or-restart stratavore-agent";
    match told {
        Some(Told::Fine(text, _)) => {
            let (warnings, said): (Vec<&str>, Vec<&str>) =
                text.lines().partition(|l| l.starts_with("warning: "));
            match warnings.is_empty() {
                true => vec![Finding::ok(CHECK, said.join(" "))],
                false => {
                    let warning = |line: &&str| {
                        let line = line.trim_start_matches("warning: ");
                        Finding::warning(CHECK, format!("{line} When that is set right:"))
                            .mend(RELOAD)
                    };
                    warnings.iter().map(warning).collect()
                }
            }
        }
        Some(Told::Wrong(why)) => {
            vec![
                Finding::problem(
                    CHECK,
                    format!(
                        "{} The agent will not start with it. When it is set right:",
                        ended(why)
                    ),
                )
                .mend(RELOAD),
            ]
        }
        Some(Told::TooLong) => vec![Finding::note(CHECK, "The agent did not check it in time.")],
        Some(Told::Unable(why)) => vec![Finding::note(CHECK, format!("Not looked at: {why}."))],
        Some(Told::Lacks(..)) | None => vec![Finding::note(
            CHECK,
            "Not looked at: there is no stratavore-agent on this host.",
        )],
    }
}

/// Accounts, folders, socket, records.
pub(super) fn files(facts: &Facts) -> Vec<Finding> {
    let Accounts {
        daemon,
        missing_groups,
    } = &facts.accounts;
    let mut out = Vec::new();
    let mut missing: Vec<String> = missing_groups
        .iter()
        .map(|g| format!("the group {g}"))
        .collect();
    if daemon.is_none() {
        missing.insert(0, "the user stratavore".to_owned());
    }
    out.push(match missing.is_empty() {
        true => Finding::ok(
            "accounts",
            "The user stratavore and the groups stratavore-users and stratavore-admins are there.",
        ),
        false => Finding::problem(
            "accounts",
            format!("There is no {}.", and(&missing).replace("the ", "")),
        )
        .mend("systemd-sysusers"),
    });
    let Some(daemon) = *daemon else {
        return out;
    };
    let mut wrong: Vec<Finding> = Vec::new();
    let mut hidden = Vec::new();
    for folder in &facts.folders {
        match folder_wrong(folder, daemon) {
            Some(finding) => wrong.push(finding),
            None if folder.found == Found::Hidden => hidden.push(folder.path),
            None => {}
        }
    }
    if wrong.is_empty() {
        wrong.push(match hidden.is_empty() {
            true => Finding::ok(
                "folders",
                "All folders are there, with the right owners and modes.",
            ),
            false => Finding::unseen("folders", &and(&hidden)),
        });
    }
    out.extend(wrong);
    out.push(socket(facts, Some((0, daemon.1))));
    out.push(records(facts));
    out
}

/// The same of a user's own Stratavore, and whether it outlives the session.
pub(super) fn users_files(facts: &Facts) -> Vec<Finding> {
    let name = &facts.caller.name;
    let lingers = match facts.lingers {
        Some(true) => Finding::ok(
            "linger",
            format!("{name} lingers: runners go on after the last logout."),
        ),
        Some(false) => Finding::warning(
            "linger",
            format!("{name} does not linger: all runners are stopped at the last logout."),
        )
        .mend(format!("loginctl enable-linger {name}")),
        None => Finding::note(
            "linger",
            "Not looked at: logind does not tell whether the user lingers.",
        ),
    };
    match &facts.no_session {
        None => vec![lingers, socket(facts, None), records(facts)],
        Some(why) => vec![
            lingers,
            Finding::problem(
                "session",
                format!("Socket, store and records of this user are not looked at: {why}"),
            ),
        ],
    }
}

fn folder_wrong(folder: &Folder, daemon: (u32, u32)) -> Option<Finding> {
    let path = folder.path;
    let wanted = Modes {
        uid: if folder.daemons { daemon.0 } else { 0 },
        gid: if folder.group { daemon.1 } else { 0 },
        mode: folder.mode,
    };
    let user = if folder.daemons { "stratavore" } else { "root" };
    let group = if folder.group { "stratavore" } else { "root" };
    let create = "systemd-tmpfiles --create stratavore.conf";
    match &folder.found {
        Found::Hidden => None,
        Found::Modes(modes) if *modes == wanted => None,
        Found::Modes(modes) => Some(
            Finding::problem(
                "folders",
                format!(
                    "{path} has uid {}, gid {}, mode {:o} and must have {user}, {group}, {:o}.",
                    modes.uid, modes.gid, modes.mode, folder.mode
                ),
            )
            .mend(format!(
                "chown {user}:{group} {path} && chmod {:o} {path}",
                folder.mode
            )),
        ),
        Found::Missing => {
            Some(Finding::problem("folders", format!("{path} is missing.")).mend(create))
        }
        Found::WrongKind => Some(
            Finding::problem("folders", format!("{path} is no folder: move it away.")).mend(create),
        ),
    }
}

fn socket(facts: &Facts, owners: Option<(u32, u32)>) -> Finding {
    const CHECK: &str = "agent socket";
    let restart = "systemctl restart stratavore-agent.socket";
    let path = facts.socket.path.display();
    match &facts.socket.found {
        Found::Missing => {
            return Finding::problem(
                CHECK,
                format!("{path} is missing: nobody can reach the agent."),
            )
            .mend(restart);
        }
        Found::WrongKind => {
            return Finding::problem(CHECK, format!("{path} is no socket.")).mend(restart);
        }
        Found::Hidden => return Finding::unseen(CHECK, &path.to_string()),
        Found::Modes(modes) => {
            let wanted = |(uid, gid)| Modes {
                uid,
                gid,
                mode: SOCKET_MODE,
            };
            if owners.is_some_and(|owners| *modes != wanted(owners)) {
                return Finding::problem(
                    CHECK,
                    format!("{path} has uid {}, gid {}, mode {:o} and must have root, stratavore, {SOCKET_MODE:o}: the daemon can't connect, or others can.", modes.uid, modes.gid, modes.mode),
                )
                .mend(format!("chown root:stratavore {path} && chmod {SOCKET_MODE:o} {path}"));
            }
        }
    }
    match &facts.socket.connect {
        Some(Ok(())) => Finding::ok(CHECK, "The agent's socket takes connections."),
        Some(Err(why)) => Finding::problem(
            CHECK,
            format!(
                "Nobody listens behind {path}: {}.",
                why.trim_end_matches('.')
            ),
        )
        .mend(restart),
        None => Finding::ok(
            CHECK,
            "The agent's socket is there, for the daemon and root alone.",
        ),
    }
}

fn records(facts: &Facts) -> Finding {
    const CHECK: &str = "exit records";
    match facts.records {
        None => Finding::unseen(CHECK, "the endings that wait to be written into the store"),
        Some(records) if records.count > 0 && records.oldest > LATE => {
            let many = if records.count == 1 {
                "1 ending waits".to_owned()
            } else {
                format!("{} endings wait", records.count)
            };
            Finding::warning(CHECK, format!("{many} in {} to be written into the store, the oldest for {} s. Nothing is lost; daemon and store have to work, or the store knows nothing of the runner.", facts.state.join("exits").display(), records.oldest))
                .mend("systemctl restart stratavored")
        }
        Some(_) => Finding::ok(CHECK, "Every ending is in the store."),
    }
}

/// A mistake as a sentence: those of files end without a full stop.
fn ended(why: &str) -> String {
    match why.trim_end() {
        why if why.ends_with(['.', '?', '!']) => why.to_owned(),
        why => format!("{why}."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_and_what_follows_are_two_sentences() {
        for (why, said) in [
            ("a: b", "a: b."),
            ("a.\n", "a."),
            ("did you mean b?", "did you mean b?"),
        ] {
            assert_eq!(ended(why), said);
        }
    }
}
