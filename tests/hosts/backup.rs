//! A copy of the store that is put back, as README has it: what the copy does not know is left alone.

use crate::fixture::{SOON, Site};
use crate::support::{DATABASE, Fleet, FleetPlan, project, wait_until};

/// The block of README's part that has this word in it, as it is to be typed.
pub fn block(heading: &str, word: &str) -> String {
    let readme = std::fs::read_to_string(project().join("README.md")).unwrap();
    let part = readme.split(&format!("\n## {heading}\n")).nth(1).unwrap();
    let part = part.split("\n## ").next().unwrap();
    let mut blocks = part.split("```").skip(1).step_by(2);
    let found = blocks.find(|block| block.contains(word));
    found.unwrap_or_else(|| panic!("no {word}")).to_owned()
}

/// Whether `reconcile --dry-run` calls this one a stranger.
fn stranger(site: &Site, id: &str) -> bool {
    let told = site.ctl("root", "reconcile --dry-run -o json").ok().out();
    let all: serde_json::Value = serde_json::from_str(&told).unwrap();
    let of = |todo: &serde_json::Value| todo.to_string();
    let all = all.as_array().unwrap().iter().map(of);
    all.filter(|todo| todo.contains(id))
        .any(|todo| todo.contains("stranger"))
}

#[test]
fn an_embedded_store_is_put_back() {
    let site = Site::boot("backup");
    let known = site.run("-- sleep 1000");
    let ends = site.run("-- sleep 1000");
    site.root("sqlite3 /var/lib/stratavore/stratavore.db '.backup /root/stratavore.db'")
        .ok();
    let later = site.run("-- sleep 1000");
    site.ctl("alice", &format!("stop {ends}")).ok();
    // Whoever calls between two of the lines does not start the daemon.
    let typed = block("Operations", "RefuseManualStart").replace("sudo ", "");
    let mut down = false;
    for line in typed.lines().map(str::trim).filter(|l| !l.is_empty()) {
        site.root(line).ok();
        down = (down || line.ends_with("stop stratavored")) && !line.ends_with("start stratavored");
        if down && !line.starts_with("rm /run/systemd") {
            site.ctl("alice", "list").code(1);
            let state = site.root("systemctl is-active stratavored").out();
            assert_eq!(state.trim(), "inactive", "{line}");
        }
    }
    site.wait_up();
    assert_eq!(site.show(&known)["state"], "running");
    assert_eq!(site.cause(&ends), "supervisor-lost");
    assert!(stranger(&site, &later));
    assert!(site.scopes().contains(&later));
    site.root(&format!("systemctl stop stratavore-{later}.scope"))
        .ok();
    wait_until("it has ended", SOON, || !site.scopes().contains(&later));
    site.ctl("alice", &format!("stop {known}")).ok();
}

#[test]
fn a_fleets_store_is_put_back() {
    let fleet = Fleet::with(FleetPlan {
        name: "f-back",
        hosts: 2,
        ..FleetPlan::default()
    });
    let [a, b] = &fleet.sites[..] else {
        panic!("two")
    };
    let known = [a.run("-- sleep 1000"), b.run("-- sleep 1000")];
    let ends = b.run("-- sleep 1000");
    fleet
        .postgres
        .client(&format!("pg_dump -Fc {DATABASE} >stratavore.dump"));
    let later = b.run("-- sleep 1000");
    b.ctl("alice", &format!("stop {ends}")).ok();
    // Here the owner of the schema is not the role of the daemons, and the database has another name.
    let typed = block("A fleet", "pg_restore")
        .replace("-O stratavore", "-O stratavore_owner")
        .replace("DATABASE stratavore", &format!("DATABASE {DATABASE}"))
        .replace("TO stratavore", &format!("TO {DATABASE}"));
    fleet.postgres.client(&typed);
    fleet.each(|_, site| {
        site.root("systemctl restart stratavored").ok();
        site.wait_up();
    });
    for (site, id) in fleet.sites.iter().zip(&known) {
        assert_eq!(site.show(id)["state"], "running");
    }
    assert_eq!(b.cause(&ends), "supervisor-lost");
    assert!(stranger(b, &later) && b.scopes().contains(&later));
    b.root(&format!("systemctl stop stratavore-{later}.scope"))
        .ok();
    // Nobody takes what a stranger leaves.
    let record = format!("/var/lib/stratavore/exits/{later}.json");
    wait_until("its ending is written down", SOON, || {
        b.host.path(&record).exists()
    });
    b.root(&format!("rm {record}")).ok();
    let again = a.run("-- true");
    assert_eq!(a.cause(&again), "success");
    fleet.clear();
}
