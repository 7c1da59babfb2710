//! Root's `agent.toml`: what bounds the agent, whatever the daemon asks for.

use crate::domain::Limits;
use crate::domain::limits::{KEYS, Value};
use crate::domain::nearest::nearest;
use crate::domain::spec::check_log_file_max;
use crate::domain::units::parse_finite_size;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use toml::Spanned;

/// Where it is, unless `--config` says otherwise.
pub(super) const PATH: &str = "/etc/stratavore/agent.toml";
const SIZE_MAX: u64 = 1 << 20;

/// The bounds. The default is what an absent file means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Config {
    /// Whether anything may run as root; false by default, whatever `allowed_users` says.
    pub(super) allow_root: bool,
    /// The accounts runners may be, by name or number. Empty, the default, = every account with a uid from 1000 to
    /// 60000.
    pub(super) allowed_users: Vec<UserRef>,
    /// Whether launches are taken that were asked for on other hosts of the fleet and come through the store (run --on
    /// HOST --via store); false by default. They are: from the hosts of from_hosts, as the users of as_users, who must
    /// be allowed to run at all, within all that bounds launches of this host.
    pub(super) accept_placed_launches: bool,
    /// The hosts, by id or name (host list -o json tells both), from which they are taken. Empty, the default, = none.
    /// A name is what that host calls itself, and whoever may write into the store as a host may claim an id, too.
    pub(super) from_hosts: Vec<String>,
    /// The accounts of this host that they may run as, by name or number. Empty, the default, = none.
    pub(super) as_users: Vec<UserRef>,
    /// No runner gets more than this.
    pub(super) ceilings: Limits,
    /// Bytes of the largest log file; 1G by default, 0 = none at all. Nobody gets a log file without asking for it.
    pub(super) log_file_max: Option<u64>,
}

/// An account as root names it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum UserRef {
    /// By number.
    Uid(u32),
    /// By name.
    Name(String),
}

/// The ceiling that is no limit of a scope.
const LOG_FILE: &str = "log-file-max";

/// The keys of [`Raw`].
const NAMES: [&str; 6] = [
    "allow_root",
    "allowed_users",
    "accept_placed_launches",
    "from_hosts",
    "as_users",
    "ceilings",
];
/// The longest name of a host or a user.
const WORD_MAX: usize = 255;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    allow_root: bool,
    #[serde(default)]
    allowed_users: Vec<UserRef>,
    #[serde(default)]
    accept_placed_launches: bool,
    #[serde(default)]
    from_hosts: Vec<Spanned<String>>,
    #[serde(default)]
    as_users: Vec<Spanned<UserRef>>,
    #[serde(default)]
    ceilings: BTreeMap<Spanned<String>, Spanned<toml::Value>>,
}

/// Parses the file's text. The error is `LINE: KEY: …`, as for the daemon's file.
pub(super) fn parse(text: &str) -> Result<Config, String> {
    let raw: Raw = toml::from_str(text).map_err(|e| {
        let at = e.span().map_or(0, |s| s.start);
        let (line, key) = place(text, at);
        let near = match e.message().starts_with("unknown field") {
            true => nearest(key.trim_matches(['[', ']']), NAMES.into_iter()),
            false => None,
        };
        let unknown = e.message().starts_with("unknown field");
        match (near, expected(&key)) {
            (Some(near), _) => format!("{line}: unknown key {key}; did you mean {near}?"),
            (None, _) if unknown => {
                format!("{line}: unknown key {key}; there are {}.", NAMES.join(", "))
            }
            // The parser's own words for a type are those of a programmer.
            (None, Some(expected)) if of_type(e.message()) => {
                format!("{line}: {key}: {expected}")
            }
            (None, _) if e.message() == "duplicate key" => {
                format!("{line}: the key {key} is there twice")
            }
            (None, _) => format!("{line}: {key}: {}", e.message()),
        }
    })?;
    for host in &raw.from_hosts {
        check_word(
            "from_hosts",
            host.get_ref(),
            place(text, host.span().start).0,
        )?;
    }
    for user in &raw.as_users {
        if let UserRef::Name(name) = user.get_ref() {
            check_word("as_users", name, place(text, user.span().start).0)?;
        }
    }
    let mut ceilings = Limits::default();
    let mut log_file_max = None;
    for (key, value) in &raw.ceilings {
        let (line, _) = place(text, key.span().start);
        let refuse = |why: String| format!("{line}: ceilings.{}: {why}", key.get_ref());
        let name = KEYS
            .iter()
            .map(|(name, _)| *name)
            .chain([LOG_FILE])
            .find(|name| name.replace('-', "_") == *key.get_ref())
            .ok_or_else(|| {
                let all = KEYS.iter().map(|(name, _)| *name).chain([LOG_FILE]);
                let known: Vec<String> = all.map(|name| name.replace('-', "_")).collect();
                refuse(
                    match nearest(key.get_ref(), known.iter().map(String::as_str)) {
                        Some(near) => format!("there is no such ceiling; did you mean {near}?"),
                        None => {
                            format!("there is no such ceiling; there are {}.", known.join(", "))
                        }
                    },
                )
            })?;
        let value = match value.get_ref() {
            toml::Value::Integer(n) => u64::try_from(*n)
                .map(Value::Number)
                .map_err(|_| refuse(format!("{n} is below 0.")))?,
            toml::Value::String(text) => Value::Text(text),
            _ => {
                return Err(refuse(
                    "give a number, or a text such as \"4G\" or \"200%\".".to_owned(),
                ));
            }
        };
        if name == LOG_FILE {
            let max = match value {
                Value::Number(n) => Ok(n),
                Value::Text(text) => parse_finite_size(text),
            };
            // 0 = none at all.
            let max = max.and_then(|n| match n {
                0 => Ok(0),
                n => check_log_file_max(n).map(|()| n),
            });
            log_file_max = Some(max.map_err(|e| refuse(e.message))?);
            continue;
        }
        ceilings.set(name, value).map_err(|e| refuse(e.message))?;
    }
    Ok(Config {
        allow_root: raw.allow_root,
        allowed_users: raw.allowed_users,
        accept_placed_launches: raw.accept_placed_launches,
        from_hosts: raw
            .from_hosts
            .into_iter()
            .map(Spanned::into_inner)
            .collect(),
        as_users: raw.as_users.into_iter().map(Spanned::into_inner).collect(),
        ceilings,
        log_file_max,
    })
}

/// Whether the parser says that a value is of another type.
fn of_type(message: &str) -> bool {
    ["invalid type", "invalid value", "data did not match"]
        .iter()
        .any(|begin| message.starts_with(begin))
}

/// What is to be given for a key of [`Raw`].
fn expected(key: &str) -> Option<&'static str> {
    Some(match key.trim_matches(['[', ']']) {
        "allow_root" | "accept_placed_launches" => "give true or false",
        "from_hosts" => "give a list of texts in quotes, as in [\"web-1\", \"web-2\"]",
        "allowed_users" | "as_users" => "give a list of names and uids, as in [\"alice\", 1001]",
        "ceilings" => "give a section, as in [ceilings]",
        _ => return None,
    })
}

/// A name of a host or a user: there are no patterns, so that nobody takes “*” for one.
fn check_word(key: &str, word: &str, line: usize) -> Result<(), String> {
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !"*?[]".contains(c);
    match !word.is_empty() && word.len() <= WORD_MAX && word.chars().all(plain) {
        true => Ok(()),
        false => Err(format!(
            "{line}: {key}: “{}” is no name: each one is written out, without blanks and patterns.",
            crate::domain::name::shown(word)
        )),
    }
}

/// The line number and the key on that line, for a byte offset.
fn place(text: &str, at: usize) -> (usize, String) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count();
    let shown = text.lines().nth(line).unwrap_or_default();
    let key = shown.split(['=', '#']).next().unwrap_or_default().trim();
    (
        line + 1,
        if key.is_empty() {
            "syntax".to_owned()
        } else {
            key.to_owned()
        },
    )
}

fn is_absent(error: std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
}

/// Reads the file that was named, which must be there, else the usual one, which may be absent. It must be root's and
/// writable for nobody else.
pub(super) fn load(named: Option<&Path>) -> Result<Config, String> {
    read(named.unwrap_or(Path::new(PATH)), named.is_none())
}

fn read(path: &Path, may_be_absent: bool) -> Result<Config, String> {
    let shown = path.display();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        // A link that leads nowhere was meant to bound us.
        Err(e)
            if may_be_absent
                && e == Errno::NOENT
                && std::fs::symlink_metadata(path).is_err_and(is_absent) =>
        {
            return Ok(Config::default());
        }
        Err(e) => return Err(format!("{shown} can't be read: {e}.")),
    };
    let meta = file.metadata().map_err(|e| format!("{shown}: {e}"))?;
    if !meta.is_file() {
        return Err(format!("{shown} is not a regular file."));
    }
    let me = rustix::process::geteuid().as_raw();
    if (meta.uid() != 0 && meta.uid() != me) || meta.mode() & 0o022 != 0 {
        return Err(format!(
            "{shown} must belong to root and be writable for root alone: chown root {shown}; chmod 0644 {shown}"
        ));
    }
    let bytes =
        crate::seqpacket::read_bounded(&mut file, SIZE_MAX).map_err(|e| format!("{shown}: {e}"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown} is no text in UTF-8."))?;
    parse(&text).map_err(|e| format!("{shown}:{e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_link_that_leads_nowhere_is_no_absent_file() {
        let folder = std::env::temp_dir().join(format!("stratavore-bounds-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("agent.toml");
        assert!(read(&path, true).is_ok(), "absent: the defaults");
        assert!(load(Some(&path)).unwrap_err().contains("can't be read"));
        std::os::unix::fs::symlink(folder.join("elsewhere"), &path).unwrap();
        assert!(read(&path, true).unwrap_err().contains("can't be read"));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_full_file() {
        let text = "allow_root = true\nallowed_users = [\"alice\", 1001]\n[ceilings]\nmemory_max = \"4G\"\ntasks_max = 100\nlog_file_max = \"64M\"\ncpu_quota = \"200%\"\n";
        let config = parse(text);
        assert!(
            matches!(&config, Ok(c) if c.allow_root
                && c.allowed_users == [UserRef::Name("alice".to_owned()), UserRef::Uid(1001)]
                && c.ceilings.memory_max == Some(4 << 30)
                && c.ceilings.tasks_max == Some(100)
                && c.log_file_max == Some(64 << 20)
                && c.ceilings.cpu_quota == Some(2_000_000)),
            "{config:?}"
        );
        assert_eq!(parse(""), Ok(Config::default()));
        let placed = parse(
            "accept_placed_launches = true\nfrom_hosts = [\"web1\"]\nas_users = [\"alice\", 7]",
        );
        assert!(
            matches!(&placed, Ok(c) if c.accept_placed_launches && c.from_hosts == ["web1"]
                && c.as_users == [UserRef::Name("alice".to_owned()), UserRef::Uid(7)]),
            "{placed:?}"
        );
        let none = parse("[ceilings]\nlog_file_max = 0\n");
        assert_eq!(none.map(|c| c.log_file_max), Ok(Some(0)));
    }

    #[test]
    fn errors_name_line_and_key() {
        for (text, line, key) in [
            ("\nallow_rot = true\n", "2: ", "allow_rot"),
            ("allow_root = \"yes\"\n", "1: ", "allow_root"),
            ("[ceilings]\n\nmemory-max = 1\n", "3: ", "memory-max"),
            ("[ceilings]\nmemory_max = \"lots\"\n", "2: ", "memory_max"),
            ("[ceilings]\ntasks_max = -1\n", "2: ", "tasks_max"),
            ("[ceilings]\nlog_file_max = 100\n", "2: ", "log_file_max"),
            ("[ceilings]\noom_policy = \"kill\"\n", "2: ", "oom_policy"),
            (
                "accept_placed_launches = \"yes\"\n",
                "1: ",
                "accept_placed_launches",
            ),
            ("\nfrom_hosts = [\"web1\", \"*\"]\n", "2: ", "from_hosts"),
            ("from_hosts = [1]\n", "1: ", "from_hosts"),
            ("as_users = [\n\"alice\",\n\"\"]\n", "3: ", "as_users"),
            ("as_users = [-1]\n", "1: ", "as_users"),
        ] {
            let error = parse(text).err().unwrap_or_default();
            assert!(
                error.starts_with(line) && error.contains(key),
                "{text:?}: {error}"
            );
        }
        for (text, meant) in [
            ("allow_rot = true", "did you mean allow_root?"),
            ("from_host = []", "did you mean from_hosts?"),
            ("[celings]", "did you mean ceilings?"),
            ("[ceilings]\ntask_max = 1", "did you mean tasks_max?"),
        ] {
            let error = parse(text).err().unwrap_or_default();
            assert!(error.contains(meant), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}|([a-z_]{1,12} = [\"0-9a-zé]{0,6}\n){0,4}") {
            let _ = parse(&text);
        }
    }

    #[test]
    fn mistakes_are_told_as_of_the_daemons_file() {
        for (text, said) in [
            (
                "foo = 1",
                "1: unknown key foo; there are allow_root, allowed_users, accept_placed_launches, from_hosts, as_users, ceilings.",
            ),
            (
                "\nallow_root = \"yes\"",
                "2: allow_root: give true or false",
            ),
            ("from_hosts = [1]", "1: from_hosts: give a list of texts"),
            ("as_users = \"alice\"", "1: as_users: give a list of names"),
            (
                "allowed_users = [true]",
                "1: allowed_users: give a list of names",
            ),
            ("ceilings = 3", "1: ceilings: give a section"),
            (
                "allow_root = true\nallow_root = true",
                "2: the key allow_root is there twice",
            ),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.starts_with(said), "{text}: {refused}");
        }
    }
}
