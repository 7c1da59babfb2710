//! What comes with the programs: licences, duplicates, sources, the oldest compiler, and the bill of materials. The rules
//! stand in `deny.toml`, where cargo-deny reads them, too; here they are kept without it.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// A table of a TOML file, by the names that lead there.
fn table(file: &str, path: &[&str]) -> toml::Value {
    let text = fs::read_to_string(file).unwrap();
    let mut at: toml::Value = toml::from_str::<toml::Table>(&text).unwrap().into();
    for name in path {
        at = at
            .get(name)
            .unwrap_or_else(|| panic!("{file} has no {name}"))
            .clone();
    }
    at
}

fn words(value: &toml::Value) -> Vec<String> {
    let list = value.as_array().unwrap().iter();
    list.map(|v| v.as_str().unwrap().to_owned()).collect()
}

fn targets() -> Vec<String> {
    words(&table("deny.toml", &["graph", "targets"]))
}

/// What is built for a target, tests included.
fn crates(target: &str) -> Vec<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let told = Command::new(cargo)
        .args(["metadata", "--locked", "--all-features"])
        .args(["--format-version=1", "--filter-platform", target])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&told.stderr);
    assert!(told.status.success(), "{error}");
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    let built = told["resolve"]["nodes"].as_array().unwrap().iter();
    let built: BTreeSet<&str> = built.map(|n| n["id"].as_str().unwrap()).collect();
    let all = told["packages"].as_array().unwrap().iter();
    all.filter(|p| built.contains(p["id"].as_str().unwrap()))
        .cloned()
        .collect()
}

fn named(package: &Value) -> String {
    let text = |key: &str| package[key].as_str().unwrap().to_owned();
    format!("{}@{}", text("name"), text("version"))
}

/// Whether an SPDX expression can be met with these licences: OR, AND, WITH and brackets; `/` is how old manifests say OR.
fn met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any(&words, &mut at, allowed);
    assert_eq!(
        at,
        words.len(),
        "the licence “{expression}” is not understood"
    );
    met
}

fn any(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = all(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all(words, at, allowed);
    }
    met
}

fn all(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let word = words.get(*at).expect("a licence ends too early");
    *at += 1;
    if *word == "(" {
        let met = any(words, at, allowed);
        assert_eq!(words.get(*at), Some(&")"), "a bracket is open");
        *at += 1;
        return met;
    }
    match words.get(*at) == Some(&"WITH") {
        true => {
            *at += 2;
            allowed.contains(&format!("{word} WITH {}", words[*at - 1]))
        }
        false => allowed.contains(*word),
    }
}

#[test]
fn licences_are_read_as_spdx_means_them() {
    let allowed = BTreeSet::from(["MIT".to_owned(), "ISC".to_owned()]);
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("GPL-3.0-only OR MIT", true),
        ("GPL-3.0-only AND MIT", false),
        ("Apache-2.0/MIT", true),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", false),
        ("(MIT OR Apache-2.0) AND ISC", true),
        ("MIT OR Apache-2.0 AND Unicode-3.0", true),
        ("ISC WITH LLVM-exception", false),
        ("ISC WITH LLVM-exception OR MIT", true),
    ] {
        assert_eq!(met(expression, &allowed), expected, "{expression}");
    }
}

#[test]
fn every_licence_is_one_that_deny_toml_allows() {
    let allowed: BTreeSet<String> = words(&table("deny.toml", &["licenses", "allow"]))
        .into_iter()
        .collect();
    let mut needed = BTreeSet::new();
    let mut broken = BTreeSet::new();
    for package in targets().iter().flat_map(|target| crates(target)) {
        let licence = package["license"].as_str().unwrap_or("none");
        if !met(licence, &allowed) {
            broken.insert(format!("{}: {licence}", named(&package)));
        }
        for without in &allowed {
            let mut rest = allowed.clone();
            rest.remove(without);
            if !met(licence, &rest) {
                needed.insert(without.clone());
            }
        }
    }
    assert!(
        broken.is_empty(),
        "deny.toml allows none of: {broken:#?}; look for another crate, or allow the licence there with the reason"
    );
    assert_eq!(needed, allowed, "deny.toml allows what nobody needs");
}

#[test]
fn every_duplicate_has_its_reason_in_deny_toml() {
    let bans = table("deny.toml", &["bans"]);
    let listed = |key: &str| -> BTreeMap<String, String> {
        let list = bans[key].as_array().unwrap().iter();
        list.map(|e| (e["crate"].as_str().unwrap(), e["reason"].as_str().unwrap()))
            .map(|(name, reason)| (name.to_owned(), reason.to_owned()))
            .collect()
    };
    let (skip, banned) = (listed("skip"), listed("deny"));
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for target in targets() {
        for package in crates(&target) {
            let name = package["name"].as_str().unwrap();
            assert!(
                !banned.contains_key(name),
                "{name} is not to come in: {}",
                banned[name]
            );
            versions
                .entry(name.to_owned())
                .or_default()
                .insert(named(&package));
        }
    }
    for (name, all) in &versions {
        let unexplained = all.iter().filter(|v| !skip.contains_key(*v)).count();
        assert!(
            unexplained == 1,
            "{name} is there as {all:?}: one stays, for each other one `skip` of deny.toml says who needs it"
        );
    }
    for old in skip.keys() {
        let (name, _) = old.split_once('@').unwrap();
        let all = versions.get(name).cloned().unwrap_or_default();
        assert!(
            all.len() > 1 && all.contains(old),
            "{old} is no duplicate any more: remove it from deny.toml"
        );
    }
}

#[test]
fn everything_comes_from_the_registry_with_its_checksum() {
    let sources = table("deny.toml", &["sources"]);
    let registry = format!("registry+{}", words(&sources["allow-registry"])[0]);
    assert_eq!(registry, REGISTRY);
    assert!(words(&sources["allow-git"]).is_empty());
    let ours = ["stratavore", "stratavore-bench"];
    for package in table("Cargo.lock", &["package"]).as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let source = package.get("source").and_then(toml::Value::as_str);
        if ours.contains(&name) {
            assert_eq!(source, None, "{name}");
            continue;
        }
        assert_eq!(source, Some(REGISTRY), "{name}");
        let sum = package["checksum"].as_str().unwrap();
        assert_eq!(sum.len(), 64, "{name}");
    }
    // No dependency is open to any version, or is taken from anywhere else.
    for file in ["Cargo.toml", "benches/Cargo.toml"] {
        for section in ["dependencies", "dev-dependencies"] {
            let whole: toml::Table = toml::from_str(&fs::read_to_string(file).unwrap()).unwrap();
            let Some(dependencies) = whole.get(section).and_then(toml::Value::as_table) else {
                continue;
            };
            for (name, asked) in dependencies
                .iter()
                .filter(|(name, _)| *name != "stratavore")
            {
                let version = asked.get("version").unwrap_or(asked).as_str();
                assert!(
                    version.is_some_and(|v| v != "*"),
                    "{file}: {name} has no version"
                );
                for key in ["git", "path", "registry"] {
                    assert!(asked.get(key).is_none(), "{file}: {name} has {key}");
                }
            }
        }
    }
}

/// Cargo.toml's `rust-version` is at least what every crate asks for, and is what README says and setup demands.
#[test]
fn the_oldest_compiler_is_what_it_is_said_to_be() {
    let version = table("Cargo.toml", &["package", "rust-version"]);
    let version = version.as_str().unwrap();
    let number = |text: &str| -> Vec<u32> { text.split('.').map(|n| n.parse().unwrap()).collect() };
    for package in targets().iter().flat_map(|target| crates(target)) {
        if let Some(asked) = package["rust_version"].as_str() {
            let (asked, ours) = (number(asked), number(version));
            assert!(
                asked[..2] <= ours[..2],
                "{} needs {asked:?}",
                named(&package)
            );
        }
    }
    let readme = fs::read_to_string("README.md").unwrap();
    let said: Vec<&str> = readme
        .split("Rust ")
        .skip(1)
        .filter_map(|rest| {
            rest.split_once(" or later")
                .map(|(v, _)| v)
                .filter(|v| v.len() < 8)
        })
        .collect();
    assert!(
        said.len() >= 2 && said.iter().all(|v| *v == version),
        "README says {said:?}"
    );
}

/// The checks' own rule: an advisory that concerns us fails, one whose mended version we have does not, and where the
/// database can't be reached that is said.
#[test]
fn advisories_are_looked_up_or_it_is_said_that_they_were_not() {
    let folder = std::env::temp_dir().join(format!("stratavore-advisories-{}", std::process::id()));
    let crates = folder.join("crates/serde");
    fs::create_dir_all(&crates).unwrap();
    let run = |patched: &str| {
        let text = format!(
            "```toml\n[advisory]\nid = \"RUSTSEC-2099-0001\"\npackage = \"serde\"\n[versions]\npatched = [{patched}]\n```\n\n# A made-up hole\n"
        );
        fs::write(crates.join("RUSTSEC-2099-0001.md"), text).unwrap();
        let done = Command::new(".ci/advisories").arg(&folder).output();
        let done = done.expect("python3 is missing: apt-get install python3");
        (
            done.status.code().unwrap(),
            String::from_utf8_lossy(&done.stdout).into_owned(),
        )
    };
    for fails in [
        "",
        "\">= 999.0.0\"",
        "\"^0.9\", \">= 1.0.0, < 1.0.1\"",
        "\"= 1.0.0\"",
        "\"~1.999\"",
    ] {
        let (code, said) = run(fails);
        assert!(
            code == 1 && said.contains("RUSTSEC-2099-0001") && said.contains("A made-up hole"),
            "{fails}: {code} {said}"
        );
    }
    for fine in ["\">= 1.0.0\"", "\"^1.0\"", "\"~1\"", "\"< 0.1\", \"1\""] {
        let (code, said) = run(fine);
        assert!(
            code == 0 && said.contains("1 about crates of ours"),
            "{fine}: {code} {said}"
        );
    }
    fs::remove_dir_all(&folder).unwrap();
    // As where there is no network.
    let away = folder.with_extension("away");
    fs::create_dir_all(away.join(".ci")).unwrap();
    fs::copy(".ci/advisories", away.join(".ci/advisories")).unwrap();
    let done = Command::new(away.join(".ci/advisories"))
        .env("https_proxy", "http://127.0.0.1:1")
        .env("HTTPS_PROXY", "http://127.0.0.1:1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success() && said.contains("NOT looked up") && said.lines().count() == 1,
        "{done:?}"
    );
    fs::remove_dir_all(&away).unwrap();
}

/// Every crate of the programs with its licence and checksum, each part of the graph known, twice the same bytes.
#[test]
fn the_bill_of_materials_is_whole() {
    let made = || {
        let done = Command::new(".ci/sbom")
            .env("SOURCE_DATE_EPOCH", "86400")
            .output();
        let done = done.expect("python3 is missing: apt-get install python3");
        assert!(done.status.success(), "{done:?}");
        done.stdout
    };
    let text = made();
    assert_eq!(text, made(), "another one each time");
    let bom: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        (&bom["bomFormat"], &bom["specVersion"]),
        (&"CycloneDX".into(), &"1.5".into())
    );
    assert_eq!(bom["metadata"]["timestamp"], "1970-01-02T00:00:00Z");
    let serial = bom["serialNumber"].as_str().unwrap();
    assert!(
        uuid::Uuid::try_parse(serial.strip_prefix("urn:uuid:").unwrap()).is_ok(),
        "{serial}"
    );
    let version = fs::read_to_string("VERSION").unwrap();
    assert_eq!(bom["metadata"]["component"]["version"], version.trim());
    let components = bom["components"].as_array().unwrap();
    let mut refs = BTreeSet::from([bom["metadata"]["component"]["bom-ref"].as_str().unwrap()]);
    for part in components {
        let name = part["bom-ref"].as_str().unwrap();
        assert!(refs.insert(name), "{name} is there twice");
        assert_eq!(part["purl"], name);
        assert!(
            part["licenses"][0]["expression"]
                .as_str()
                .is_some_and(|l| !l.is_empty() && !l.contains('/')),
            "{part}"
        );
        let sum = part["hashes"][0]["content"].as_str().map_or(0, str::len);
        assert_eq!(sum == 64, name.starts_with("pkg:cargo/"), "{part}");
    }
    let graph = bom["dependencies"].as_array().unwrap();
    for edge in graph {
        for end in edge["dependsOn"]
            .as_array()
            .unwrap()
            .iter()
            .chain([&edge["ref"]])
        {
            assert!(
                refs.contains(end.as_str().unwrap()),
                "{end} is no component"
            );
        }
    }
    assert_eq!(graph.len(), refs.len(), "each has its edges");
    let scope = |name: &str| {
        let part = components.iter().find(|c| c["name"] == name);
        part.map(|c| c["scope"].as_str().unwrap())
    };
    for name in ["tokio", "sqlx-sqlite", "zbus", "lapin", "sqlite"] {
        assert_eq!(scope(name), Some("required"), "{name}");
    }
    for name in ["cc", "serde_derive"] {
        assert_eq!(scope(name), Some("excluded"), "{name}");
    }
    assert_eq!(scope("proptest"), None, "only tests use it");
}
