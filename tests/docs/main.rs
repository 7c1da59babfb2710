//! The manual pages: made from the command lines, the keys, the interfaces and the events in the code, so that none can be
//! forgotten. `UPDATE_GOLDEN=1 cargo test --test docs` writes systemd/man anew.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod commands;
mod files;
mod interface;
mod program;
mod roff;
mod schemas;
mod security;
mod snippets;
mod source;
#[allow(dead_code)]
#[path = "../../src/bin/stratavored.rs"]
mod stratavored;
mod texts;

use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/man")
}

/// Name and text of every page.
fn pages() -> Vec<(&'static str, String)> {
    vec![
        ("stratavorectl.1", program::stratavorectl()),
        ("stratavored.8", program::stratavored()),
        ("stratavore-agent.8", program::agent()),
        ("stratavored.toml.5", files::stratavored_toml()),
        ("agent.toml.5", files::agent_toml()),
        ("declared.toml.5", files::declared_toml()),
        ("org.stratavore1.5", interface::bus()),
        ("stratavore-events.7", files::events()),
        ("stratavore-security.7", security::page()),
    ]
}

#[test]
fn the_shipped_pages_tell_what_is_there() {
    for (name, text) in pages() {
        let file = folder().join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(folder()).unwrap();
            std::fs::write(&file, &text).unwrap();
        }
        let shipped = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            shipped == text,
            "{} is not what the code says: UPDATE_GOLDEN=1 cargo test --test docs",
            file.display()
        );
    }
}

/// `man` shows every page without a complaint, and cross references lead somewhere.
#[test]
fn the_pages_can_be_read() {
    let pages = pages();
    for (name, text) in &pages {
        let file = std::env::temp_dir().join(format!("{}-{name}", std::process::id()));
        std::fs::write(&file, text).unwrap();
        let shown = Command::new("man")
            .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-P", "cat"])
            .arg(&file)
            .env("LC_ALL", "C.UTF-8")
            .env("MANWIDTH", "80")
            .output()
            .expect("man is missing: apt-get install man-db");
        std::fs::remove_file(&file).unwrap();
        let complaints = String::from_utf8_lossy(&shown.stderr);
        assert!(
            shown.status.success() && complaints.is_empty(),
            "{name}: {complaints}"
        );
        // Bold is a letter over itself.
        let bold = String::from_utf8_lossy(&shown.stdout);
        let plain: String = bold
            .split('\u{8}')
            .map(|part| part.strip_suffix(|_: char| true).unwrap_or(""))
            .collect();
        assert!(
            plain.contains("NAME") && plain.contains("SEE ALSO"),
            "{name}: {plain}"
        );
        for (page, section) in references(text) {
            let ours = pages
                .iter()
                .any(|(name, _)| *name == format!("{page}.{section}"));
            assert!(
                ours || !(page.contains("stratavore")
                    || ["agent.toml", "declared.toml"].contains(&page.as_str())),
                "{name} refers to {page}({section})"
            );
        }
    }
}

/// `.BR page (section)` lines.
fn references(text: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let (page, section) = line.strip_prefix(".BR ")?.split_once(" (")?;
        let section = section.split(')').next()?;
        Some((page.replace("\\-", "-"), section.to_owned()))
    };
    text.lines().filter_map(line).collect()
}
