//! The rules of the source, each failing in its own words.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A folder or file of `src` and what of ours it may use.
const LAYERS: &[(&str, &[&str], &str)] = &[
    (
        "domain",
        &["domain"],
        "domain is pure: it uses nothing of ours",
    ),
    ("crash", &[], "crash points use nothing of ours"),
    ("wire", &["domain"], "the messages know only the domain"),
    (
        "seqpacket",
        &["wire"],
        "the transport knows only the bounds of the messages",
    ),
    ("ports", &["domain"], "the seam knows only the domain"),
    (
        "engine",
        &["engine", "ports", "domain", "crash", "metrics"],
        "the engine reaches the world through ports alone",
    ),
    (
        "adapters",
        &[
            "adapters",
            "ports",
            "domain",
            "wire",
            "seqpacket",
            "boottime",
            "crash",
        ],
        "an adapter implements ports and decides nothing",
    ),
    (
        "agent",
        &[
            "agent",
            "domain",
            "wire",
            "seqpacket",
            "logfile",
            "boottime",
            "crash",
            "telemetry",
            "bus",
            "places",
            "service",
            "VERSION",
            "VERSION_TEXT",
        ],
        "the agent is small: no engine, no store, no API",
    ),
    (
        "shim",
        &[
            "shim",
            "domain",
            "wire",
            "seqpacket",
            "logfile",
            "boottime",
            "crash",
        ],
        "the shim is tiny: no runtime, no bus",
    ),
    (
        "api",
        &[
            "api",
            "bus",
            "engine",
            "ports",
            "domain",
            "crash",
            "VERSION",
            "VERSION_TEXT",
        ],
        "the API asks the engine",
    ),
    (
        "cli",
        &[
            "cli",
            "api",
            "bus",
            "crash",
            "domain",
            "places",
            "VERSION",
            "VERSION_TEXT",
        ],
        "the control tool speaks D-Bus as everybody else does",
    ),
    (
        "config",
        &["domain", "places", "wire"],
        "the configuration is a leaf",
    ),
    ("boottime", &[], "the clock is a leaf"),
    ("bus", &[], "the user's bus is a leaf"),
    ("logfile", &["crash"], "the log files are a leaf"),
    ("places", &[], "where things are is a leaf"),
    ("service", &[], "sd_notify is a leaf"),
    ("journal", &["domain"], "the way to the journal is a leaf"),
    ("metrics", &["domain"], "the counters are a leaf"),
    ("telemetry", &["journal"], "what is said is a leaf"),
];

/// Crates a layer must not touch.
const BANNED: [(&str, &[&str]); 5] = [
    (
        "domain",
        &[
            "tokio",
            "sqlx",
            "zbus",
            "lapin",
            "tracing",
            "rustix",
            "libsystemd",
        ],
    ),
    (
        "shim",
        &[
            "tokio",
            "sqlx",
            "zbus",
            "lapin",
            "tracing",
            "clap",
            "async_trait",
        ],
    ),
    ("agent", &["sqlx", "lapin"]),
    ("engine", &["sqlx", "zbus", "lapin", "libsystemd", "rustix"]),
    ("cli", &["sqlx", "lapin"]),
];

fn sources(below: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(below).expect("src is there") {
        let path = entry.expect("src can be read").path();
        if path.is_dir() {
            out.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    out.sort();
    out
}

fn layer(path: &Path) -> String {
    let first = path
        .strip_prefix("src")
        .unwrap()
        .components()
        .next()
        .unwrap();
    first
        .as_os_str()
        .to_string_lossy()
        .trim_end_matches(".rs")
        .to_owned()
}

/// The code of a file without comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a source can be read");
    text.lines()
        .filter(|l| !l.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Every `crate::X` of a file, those of its test module too.
fn uses(code: &str) -> Vec<String> {
    let mut out: Vec<String> = code
        .split("crate::")
        .skip(1)
        .filter(|rest| !rest.starts_with('{'))
        .map(|rest| {
            rest.chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        })
        .collect();
    out.sort();
    out.dedup();
    out
}

#[test]
fn imports_run_one_way() {
    let mut broken = Vec::new();
    for path in sources(Path::new("src")) {
        let layer = layer(&path);
        let code = code(&path);
        if let Some((_, allowed, rule)) = LAYERS.iter().find(|(l, ..)| *l == layer) {
            for used in uses(&code) {
                if !allowed.contains(&used.as_str()) {
                    broken.push(format!(
                        "{}: uses crate::{used}, but {rule}",
                        path.display()
                    ));
                }
            }
        }
        for (_, banned) in BANNED.iter().filter(|(l, _)| *l == layer) {
            for name in *banned {
                if code.contains(&format!("{name}::")) {
                    broken.push(format!(
                        "{}: uses {name}, which {layer} must not",
                        path.display()
                    ));
                }
            }
        }
        if code.contains("crate::{") {
            broken.push(format!(
                "{}: write one `use crate::…` a line, so that this test can read them",
                path.display()
            ));
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn unsafe_lives_in_one_small_module_of_the_shim() {
    for path in sources(Path::new("src")) {
        let code = code(&path);
        let here =
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl");
        assert!(
            !here || path.ends_with("shim/sys.rs"),
            "{}: unsafe is allowed in src/shim/sys.rs alone",
            path.display()
        );
    }
}

/// How many times `unsafe` is written there. One more wants a reason, and README says the number.
#[test]
fn unsafe_is_counted() {
    let here = code(Path::new("src/shim/sys.rs"));
    let count = here.matches("unsafe ").count();
    let readme = fs::read_to_string("README.md").unwrap();
    let said = format!("`unsafe` is written {count} times, all in `src/shim/sys.rs`");
    assert!(readme.contains(&said), "README is to say: {said}");
}

#[test]
fn files_hold_one_thing() {
    for path in sources(Path::new("src")) {
        let text = fs::read_to_string(&path).unwrap();
        let tests = text.find("\n#[cfg(test)]").unwrap_or(text.len());
        let lines = text[..tests].lines().count();
        assert!(
            lines <= 450,
            "{}: {lines} lines before its tests; a file that wants to grow past 400 holds two things",
            path.display()
        );
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for path in sources(Path::new("src")) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("//!"),
            "{}: begin with a //! that says what the file is for",
            path.display()
        );
    }
}

/// Every line of ours says what kind of happening it is, and each kind is said by somebody. The
/// agent's `log` takes a kind by its type.
#[test]
fn every_line_for_the_journal_has_its_kind() {
    let all: String = sources(Path::new("src"))
        .iter()
        .filter(|p| !p.ends_with("kinds.rs"))
        .map(|p| code(p))
        .collect();
    for level in ["info", "warn", "error"] {
        for line in all.split(&format!("tracing::{level}!(")).skip(1) {
            assert!(
                line.trim_start().starts_with("message_id = "),
                "begin with message_id = kinds::X.id; see src/domain/kinds.rs: {}",
                line.chars().take(120).collect::<String>()
            );
        }
    }
    let endings = stratavore::domain::Cause::ALL.map(stratavore::domain::kinds::Kind::ended);
    for kind in stratavore::domain::kinds::ALL {
        let said = all.contains(&format!("kinds::{}", kind.name)) || endings.contains(kind);
        assert!(said || kind.name == "LINES_DROPPED", "nobody says {kind:?}");
    }
}

#[test]
fn the_catalog_is_the_sources() {
    let path = "systemd/stratavore.catalog";
    let catalog = stratavore::domain::kinds::catalog();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, &catalog).unwrap();
    }
    assert_eq!(
        fs::read_to_string(path).unwrap_or_default(),
        catalog,
        "{path} is old: UPDATE_GOLDEN=1 cargo test --test rules"
    );
}

/// `make uninstall` takes away what `make install` puts there, and nothing else.
#[test]
fn what_is_installed_can_be_uninstalled() {
    let folder = std::env::temp_dir().join(format!("stratavore-install-{}", std::process::id()));
    let (built, root) = (folder.join("built"), folder.join("root"));
    fs::create_dir_all(&built).unwrap();
    for program in [
        "stratavored",
        "stratavorectl",
        "stratavore-agent",
        "stratavore-shim",
    ] {
        fs::write(built.join(program), "").unwrap();
    }
    let make = |target: &str| {
        let done = std::process::Command::new("make")
            .args(["--silent", target, "PREFIX=/opt/x"])
            .arg(format!("BUILT={}", built.display()))
            .arg(format!("DESTDIR={}", root.display()))
            .output()
            .expect("make is missing: apt-get install make");
        assert!(done.status.success(), "{done:?}");
    };
    let files = || -> BTreeSet<String> {
        let found = std::process::Command::new("find")
            .args([root.as_os_str(), "-type".as_ref(), "f".as_ref()])
            .output();
        let text = String::from_utf8(found.unwrap().stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    };
    make("install");
    assert!(files().len() > 25, "{:?}", files());
    for file in files() {
        let text = fs::read_to_string(&file).unwrap();
        let elsewhere = text.contains("/usr/bin/stratavore") || text.contains("/usr/libexec/");
        assert!(!elsewhere, "{file} names programs below /usr");
    }
    let other = root.join("opt/x/bin/other");
    fs::write(&other, "").unwrap();
    make("uninstall");
    assert_eq!(files(), BTreeSet::from([other.display().to_string()]));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn one_version_everywhere() {
    let version = fs::read_to_string("VERSION").unwrap();
    let version = version.trim();
    let cargo = fs::read_to_string("Cargo.toml").unwrap();
    assert!(
        cargo.contains(&format!("\nversion = \"{version}\"\n")),
        "Cargo.toml and VERSION differ: VERSION is the source, change Cargo.toml"
    );
    let changelog = fs::read_to_string("CHANGELOG.md").unwrap();
    assert!(
        changelog.contains(&format!("## {version}")),
        "CHANGELOG.md has no section for {version}"
    );
}

/// What is wrong with a policy of the bus, by what the bus' own manual and distributions' checks ask for: a rule that does
/// not name the service is one about everybody's messages.
fn policy_faults(policy: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut rest = policy.to_owned();
    while let Some((before, comment)) = rest.split_once("<!--") {
        let after = comment.split_once("-->").map_or("", |(_, after)| after);
        rest = format!("{before}{after}");
    }
    let mut whose = String::new();
    for element in rest.split('<').skip(1) {
        let element = element.split('>').next().unwrap_or_default();
        let mut parts = element.trim_end_matches('/').splitn(2, char::is_whitespace);
        let (tag, rest) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let attributes: Vec<(String, String)> = rest
            .split('"')
            .collect::<Vec<_>>()
            .chunks_exact(2)
            .map(|pair| {
                (
                    pair[0].trim().trim_end_matches('=').to_owned(),
                    pair[1].to_owned(),
                )
            })
            .collect();
        match tag {
            "?xml" | "!DOCTYPE" | "busconfig" | "/busconfig" | "/policy" => {}
            "policy" => {
                whose = attributes.iter().map(|(k, v)| format!("{k}={v}")).collect();
                if !["user=root", "user=stratavore", "context=default"].contains(&whose.as_str()) {
                    faults.push(format!("a policy for {whose}"));
                }
            }
            "allow" => {
                let said: Vec<String> =
                    attributes.iter().map(|(k, v)| format!("{k}={v}")).collect();
                let said = said.join(" ");
                let right = match whose.as_str() {
                    "context=default" => [
                        "send_destination=org.stratavore1",
                        "receive_sender=org.stratavore1",
                    ]
                    .as_slice(),
                    _ => ["own=org.stratavore1"].as_slice(),
                };
                if !right.contains(&said.as_str()) {
                    faults.push(format!("allow {said} for {whose}"));
                }
            }
            other => faults.push(format!("<{other}>")),
        }
    }
    faults
}

#[test]
fn the_policy_of_the_bus_is_about_its_service_alone() {
    let policy = std::fs::read_to_string("systemd/dbus/org.stratavore1.conf").unwrap();
    assert_eq!(policy_faults(&policy), Vec::<String>::new());
    for wrong in [
        "<policy context=\"default\"><allow own=\"org.stratavore1\"/></policy>",
        "<policy context=\"default\"><allow send_interface=\"org.stratavore1.Manager\"/></policy>",
        "<policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/></policy>",
        "<policy context=\"default\"><deny send_destination=\"org.freedesktop.systemd1\"/></policy>",
        "<policy context=\"mandatory\"></policy>",
        "<policy at_console=\"true\"></policy>",
        "<policy user=\"root\"><allow own_prefix=\"org\"/></policy>",
        "<include>x</include>",
    ] {
        assert_ne!(policy_faults(wrong), Vec::<String>::new(), "{wrong}");
    }
}
