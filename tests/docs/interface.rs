//! The page of the D-Bus interface, from the shipped introspection XML (which is what the daemon serves: tests/api).

use super::roff::Page;
use super::{source, texts};

pub fn bus() -> String {
    let mut page = Page::new(
        "org.stratavore1",
        5,
        "the D-Bus interface of Stratavore's daemon",
    );
    page.heading("SYNOPSIS");
    page.synopsis("busctl call org.stratavore1 /org/stratavore1 org.stratavore1.Manager METHOD SIGNATURE ARGUMENTS…");
    page.heading("DESCRIPTION");
    page.text(texts::BUS);
    for name in ["Manager", "Runner", "Project"] {
        let file = super::folder().join(format!("../dbus/interfaces/org.stratavore1.{name}.xml"));
        interface(&mut page, name, &std::fs::read_to_string(file).unwrap());
    }
    page.heading("ERRORS");
    page.text("The names of errors begin with org.stratavore1.Error; the message says which limit, its value and what to do.");
    for (name, about) in source::documented("src/domain/error.rs", "pub enum ErrorKind {") {
        match name.as_str() {
            "InteractiveAuthorizationRequired" => page.item(
                "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
                &about,
            ),
            name => page.item(name, &about),
        }
    }
    page.heading("POLKIT");
    page.text(texts::POLKIT);
    for (action, about) in actions() {
        page.item(&action, &about);
    }
    page.see(&[
        ("stratavorectl", 1),
        ("stratavored", 8),
        ("stratavore-events", 7),
        ("stratavore-security", 7),
        ("busctl", 1),
        ("polkit", 8),
    ])
}

/// Methods, signals and properties with their comments, in the order of the file.
fn interface(page: &mut Page, name: &str, xml: &str) {
    page.heading(&format!("org.stratavore1.{name}"));
    let mut comment = String::new();
    let mut rest = xml;
    let mut members = 0;
    while let Some(at) = rest.find('<') {
        rest = &rest[at..];
        if let Some(text) = rest.strip_prefix("<!--") {
            let (text, after) = text.split_once("-->").unwrap();
            comment = text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
            rest = after;
            continue;
        }
        let end = rest.find('>').unwrap() + 1;
        let tag = &rest[..end];
        rest = &rest[end..];
        let kind = tag[1..].split([' ', '>', '/']).next().unwrap();
        if !matches!(kind, "method" | "signal" | "property") {
            continue;
        }
        let body = match tag.ends_with("/>") {
            true => "",
            false => rest.split_once(&format!("</{kind}>")).unwrap().0,
        };
        let member = attribute(tag, "name").unwrap();
        let about = comment.trim().to_owned();
        assert!(!about.is_empty(), "{name}.{member} is not documented");
        page.item(&signature(kind, tag, body), &items(&about));
        comment.clear();
        members += 1;
    }
    assert!(members > 5, "{name}: no members");
}

/// `key t: meaning` lines of a comment stand by themselves.
fn items(about: &str) -> String {
    let mut out = String::new();
    for line in about.lines() {
        let key = line.split_once(": ").is_some_and(|(key, _)| {
            key.split(", ").all(|k| k.split(' ').count() <= 2) && !key.contains("  ")
        });
        let starts = key && line.starts_with(|c: char| c.is_ascii_lowercase());
        if starts && !out.is_empty() && !out.ends_with("\n\n") {
            out.push('\n');
        }
        out.push_str(line);
        out.push('\n');
    }
    out.trim().to_owned()
}

fn signature(kind: &str, tag: &str, body: &str) -> String {
    let name = attribute(tag, "name").unwrap();
    if kind == "property" {
        let access = attribute(tag, "access").unwrap();
        let changes = body
            .split("EmitsChangedSignal\"")
            .nth(1)
            .and_then(|rest| attribute(rest, "value"));
        let told = match changes.as_deref() {
            None | Some("true") => "",
            Some("const") => ", constant",
            Some("false") => ", changes are not signalled",
            Some(_) => ", changes are signalled without the value",
        };
        return format!(
            "{name} {} ({access}{told})",
            attribute(tag, "type").unwrap()
        );
    }
    let mut sides = [Vec::new(), Vec::new()];
    for arg in body.split("<arg ").skip(1) {
        let out = attribute(arg, "direction").is_some_and(|d| d == "out");
        sides[usize::from(out)].push(format!(
            "{} {}",
            attribute(arg, "type").unwrap(),
            attribute(arg, "name").unwrap()
        ));
    }
    let [given, returned] = sides.map(|side| side.join(", "));
    let arrow = if returned.is_empty() {
        String::new()
    } else {
        format!(" → {returned}")
    };
    let mark = if kind == "signal" { "signal " } else { "" };
    format!("{mark}{name}({given}){arrow}")
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!("{name}=\""))?;
    Some(rest.split_once('"')?.0.to_owned())
}

/// Actions with their descriptions, as the shipped policy has them.
fn actions() -> Vec<(String, String)> {
    let policy =
        std::fs::read_to_string(super::folder().join("../dbus/org.stratavore1.policy")).unwrap();
    let actions: Vec<(String, String)> = policy
        .split("<action ")
        .skip(1)
        .map(|action| {
            let about = action
                .split("<description>")
                .nth(1)
                .unwrap()
                .split('<')
                .next()
                .unwrap();
            (
                attribute(action, "id").unwrap(),
                format!("{}.", about.trim_end_matches('.')),
            )
        })
        .collect();
    let known: Vec<&str> = actions.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(known, stratavore::api::auth::ACTIONS);
    actions
}
