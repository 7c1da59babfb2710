//! From the embedded store to the fleet's, on a host whose runners go on meanwhile.

use crate::fixture::{SOON, Site};
use crate::support::{Fleet, FleetPlan, OWNER_PASSWORD, PASSWORD, wait_until};
use serde_json::Value;

const TOML: &str = "/etc/stratavore/stratavored.toml";
const DATABASE: &str = "second";

/// What `events` tells, without the events of hosts: a host that joins is one.
fn events(site: &Site) -> Vec<Value> {
    let out = site.ctl("root", "events -o jsonl --after 0").ok().out();
    let all = crate::schema::lines(&out).into_iter();
    all.filter(|e| !e["subject"].as_str().unwrap().starts_with("host/"))
        .collect()
}

/// What stands between these words: commands to type.
#[track_caller]
fn between(text: &str, before: &str, after: &str) -> String {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("{text}"));
    let (commands, _) = rest.split_once(after).unwrap_or_else(|| panic!("{text}"));
    commands.to_owned()
}

#[test]
fn an_embedded_store_becomes_the_fleets_under_live_runners() {
    let fleet = Fleet::with(FleetPlan {
        name: "f-move",
        hosts: 2,
        ..FleetPlan::default()
    });
    let [site, second] = &fleet.sites[..] else {
        panic!("two")
    };
    // It was alone until now.
    site.root(&format!("systemctl stop stratavored && mv {TOML} /etc/stratavore/fleet.toml && systemctl start stratavored"))
        .ok();
    site.wait_up();
    site.ctl("root", "project create p --max-runners 4").ok();
    let ended = site.run("-- sh -c 'exit 3'");
    assert_eq!(site.cause(&ended), "exit-code");
    let live = [
        site.run("--name one --request-id r1 -- sleep 1000"),
        site.run("--label key=shared -- sleep 1000"),
        site.run("-- sleep 1000"),
    ];
    site.ctl("alice", &format!("freeze {}", live[2])).ok();
    site.ctl("root", "hold set --label key=other --reason kept")
        .ok();
    let before = events(site);

    fleet.postgres.database(DATABASE);
    fleet.postgres.migrate(DATABASE, ..);
    let url = fleet.postgres.url(DATABASE);
    let configure = |site: &Site, role: &str, password: &str| {
        let url = url.replace("stratavore@", &format!("{role}@"));
        site.host.write(
            TOML,
            format!(
                "[store]\nurl = \"{url}\"\n[fleet]\n{}",
                crate::support::SHORT
            ),
        );
        site.root(&format!(
            "printf %s '{password}' >/etc/stratavore/store-password"
        ))
        .ok();
    };
    let migrate = || site.ctl("root", "store migrate");
    let running = migrate().code(1).err();
    assert!(running.contains("stratavored is active"), "{running}");
    site.ctl("alice", "store migrate").code(4);
    // Stopped alone, whoever calls next starts it: that is refused, and what is told keeps it down.
    site.root("systemctl stop stratavored").ok();
    let starts = migrate().code(1).err();
    assert!(starts.contains("any call on the bus"), "{starts}");
    site.ctl("alice", "list").ok();
    site.root("systemctl is-active stratavored && systemctl mask --runtime --now stratavored")
        .ok();
    let masked = migrate().code(1).err();
    assert!(masked.contains("credentials"), "{masked}");
    let keep = between(&masked, "otherwise: ", ". Then do this again.");
    site.root(&keep).ok();
    let down = |site: &Site| {
        let out = site.ctl("alice", "list").code(1);
        assert!(out.err().contains("manual start"), "{out}");
        let state = site.root("systemctl is-active stratavored").out();
        assert_eq!(state.trim(), "inactive");
    };
    down(site);
    let embedded = migrate().code(1).err();
    assert!(embedded.contains("store.url"), "{embedded}");
    // The role that daemons use does not own the schema.
    configure(site, "stratavore", PASSWORD);
    let not_owner = migrate().code(1).err();
    assert!(not_owner.contains("stratavore_owner"), "{not_owner}");
    configure(site, "stratavore_owner", OWNER_PASSWORD);

    // Killed before it counts, nothing has happened; killed after, all has.
    let mut sql = fleet.postgres.sql(DATABASE);
    for (point, rows) in [("migrate.copied", 0), ("migrate.committed", 4)] {
        site.crash_at(point);
        let cut_off = migrate().code(1).err();
        assert!(cut_off.contains("do it again"), "{cut_off}");
        assert!(!site.host.path("/run/stratavore-crash/at").exists());
        wait_until("the session is over", SOON, || {
            sql.number("SELECT count(*) FROM pg_stat_activity WHERE datname = 'second' AND usename = 'stratavore_owner'") == 0
        });
        assert_eq!(sql.number("SELECT count(*) FROM runners"), rows, "{point}");
    }
    let again = format!("{}\n", migrate().ok().out());
    assert!(again.contains("before; nothing was changed"), "{again}");
    // Another store does not come on top.
    let other = "cp /var/lib/stratavore/stratavore.db /var/lib/stratavore/other.db && chown stratavore: /var/lib/stratavore/other.db && sqlite3 /var/lib/stratavore/other.db \"UPDATE meta SET value = 'other' WHERE key = 'store-id'\"";
    site.root(other).ok();
    let taken = site
        .ctl("root", "store migrate --from /var/lib/stratavore/other.db")
        .code(1);
    assert!(taken.err().contains("not empty"), "{taken}");
    assert_eq!(site.scopes().len(), 3, "they live on");
    down(site);

    configure(site, "stratavore", PASSWORD);
    site.root(&between(&again, "Start the daemon: ", ".\n"))
        .ok();
    site.wait_up();
    for (id, state) in live.iter().zip(["running", "running", "frozen"]) {
        assert_eq!(site.show(id)["state"], state);
    }
    assert_eq!(site.show("one")["id"], live[0].as_str());
    assert_eq!(site.show(&ended)["exit"]["code"], 3);
    assert_eq!(events(site)[..before.len()], before[..]);
    let holds = site.ctl("alice", "hold list").ok().out();
    assert!(holds.contains("kept"), "{holds}");
    // A repeated launch is still that one.
    assert_eq!(
        site.run("--name one --request-id r1 -- sleep 1000"),
        live[0]
    );

    // The second host only joins; quotas go on, and it reaches what runs on the first.
    configure(second, "stratavore", PASSWORD);
    second.root("systemctl restart stratavored").ok();
    second.wait_up();
    second.run("-- sleep 1000");
    second.ctl("alice", "run p -- true").code(3);
    second.ctl("alice", &format!("stop {}", live[1])).ok();
    assert_eq!(site.cause(&live[1]), "stopped");
    let hosts = second.ctl("alice", "host list").ok().out();
    assert!(
        hosts.contains("f-move-1") && hosts.contains("f-move-2"),
        "{hosts}"
    );
    for site in &fleet.sites {
        site.ctl("root", "stop --all").ok();
        assert_eq!(site.scopes().len(), 0);
    }
}
