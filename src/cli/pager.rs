//! A pager for what may be long, as systemctl has it: `$SYSTEMD_PAGER`, `$PAGER`, or less.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};

/// How less is to behave: chop long lines, pass colours on, end at once where one screen will do.
const LESS: &str = "FRSXMK";

/// Which pager, and how it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    /// Commands to try, in this order.
    commands: Vec<Vec<String>>,
    /// Its environment.
    env: Vec<(&'static str, String)>,
}

/// A running pager. Dropping it ends its input and waits until the person has seen enough.
#[derive(Debug)]
pub(super) struct Pager {
    child: Child,
    input: Option<ChildStdin>,
    /// Ctrl+C is the pager's affair as long as it runs.
    _interrupts: Option<tokio::signal::unix::Signal>,
}

impl Pager {
    /// Starts one; `None` where none is wanted or there.
    pub(super) fn start() -> Option<Self> {
        let plan = plan(&|name| std::env::var(name).ok(), own_session())?;
        for words in &plan.commands {
            let (program, rest) = words.split_first()?;
            let mut command = Command::new(program);
            command.args(rest).stdin(Stdio::piped());
            command.envs(plan.env.iter().map(|(name, value)| (name, value)));
            if let Ok(mut child) = command.spawn() {
                let interrupt = tokio::signal::unix::SignalKind::interrupt();
                return Some(Self {
                    input: child.stdin.take(),
                    child,
                    _interrupts: tokio::signal::unix::signal(interrupt).ok(),
                });
            }
        }
        None
    }

    pub(super) fn write(&mut self, text: &str) -> std::io::Result<()> {
        match &mut self.input {
            Some(input) => input.write_all(text.as_bytes()),
            None => Ok(()),
        }
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

/// A pager can start programs and write files. So with the rights of another than who logged in
/// (sudo) only less is taken, which knows how not to (`LESSSECURE`), unless
/// `$SYSTEMD_PAGERSECURE` says what is wanted.
fn plan(env: &dyn Fn(&str) -> Option<String>, own_session: bool) -> Option<Plan> {
    let wanted = env("SYSTEMD_PAGER").or_else(|| env("PAGER"));
    let words: Vec<String> = wanted
        .iter()
        .flat_map(|w| w.split_whitespace())
        .map(str::to_owned)
        .collect();
    if wanted.is_some() && (words.is_empty() || words == ["cat"]) {
        return None;
    }
    // What can't be understood has not been said.
    let said = env("SYSTEMD_PAGERSECURE").and_then(|text| truth(&text));
    let secure = said.unwrap_or(!own_session);
    let mut commands = Vec::new();
    if !words.is_empty() && (said.is_some() || !secure) {
        commands.push(words);
    }
    let known: &[&str] = if secure {
        &["less"]
    } else {
        &["pager", "less", "more"]
    };
    commands.extend(known.iter().map(|p| vec![(*p).to_owned()]));
    let mut given = vec![
        (
            "LESS",
            env("SYSTEMD_LESS").unwrap_or_else(|| LESS.to_owned()),
        ),
        ("LESSSECURE", if secure { "1" } else { "0" }.to_owned()),
    ];
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|n| env(n).filter(|v| !v.is_empty()));
    let utf8 = locale.is_some_and(|l| l.to_ascii_lowercase().replace('-', "").ends_with("utf8"));
    if let Some(charset) = env("SYSTEMD_LESSCHARSET").or_else(|| utf8.then(|| "utf-8".to_owned())) {
        given.push(("LESSCHARSET", charset));
    }
    Some(Plan {
        commands,
        env: given,
    })
}

/// systemd's words for yes and no.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

/// Whether we run with the rights of who logged in, as the cgroup tells it.
fn own_session() -> bool {
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    session_owner(&cgroup) == Some(rustix::process::geteuid().as_raw())
}

/// The uid of `…/user.slice/user-<uid>.slice/…`.
fn session_owner(cgroup: &str) -> Option<u32> {
    let slice = cgroup
        .split(['/', '\n'])
        .find_map(|part| part.strip_prefix("user-")?.strip_suffix(".slice"));
    slice?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(env: &[(&str, &str)], own: bool) -> Option<Plan> {
        let find = |name: &str| {
            env.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        };
        plan(&find, own)
    }

    fn first(env: &[(&str, &str)], own: bool) -> String {
        of(env, own)
            .map(|p| p.commands[0].join(" "))
            .unwrap_or_default()
    }

    #[test]
    fn pagers_as_systemctl_has_them() {
        assert_eq!(first(&[], true), "pager");
        assert_eq!(first(&[], false), "less");
        assert_eq!(first(&[("PAGER", "most -x")], true), "most -x");
        assert_eq!(
            first(&[("PAGER", "most"), ("SYSTEMD_PAGER", "lv")], true),
            "lv"
        );
        assert_eq!(of(&[("PAGER", "cat")], true), None);
        assert_eq!(of(&[("PAGER", "most"), ("SYSTEMD_PAGER", "")], true), None);
        // With another's rights none is taken that could start programs, unless that is wanted.
        assert_eq!(first(&[("PAGER", "most")], false), "less");
        assert_eq!(
            first(&[("PAGER", "most"), ("SYSTEMD_PAGERSECURE", "1")], false),
            "most"
        );
        let env = |given: &[(&str, &str)], own| of(given, own).map(|p| p.env).unwrap_or_default();
        assert!(env(&[], true).contains(&("LESS", "FRSXMK".to_owned())));
        assert!(env(&[("SYSTEMD_LESS", "R")], true).contains(&("LESS", "R".to_owned())));
        assert!(env(&[], false).contains(&("LESSSECURE", "1".to_owned())));
        assert!(
            env(&[("SYSTEMD_PAGERSECURE", "off")], false).contains(&("LESSSECURE", "0".to_owned()))
        );
        assert!(env(&[("LANG", "C.UTF-8")], true).contains(&("LESSCHARSET", "utf-8".to_owned())));
    }

    #[test]
    fn sessions_have_owners() {
        assert_eq!(
            session_owner("0::/user.slice/user-1000.slice/session-3.scope\n"),
            Some(1000)
        );
        assert_eq!(session_owner("0::/system.slice/x.service\n"), None);
    }
}
