//! Launches through the store, between real hosts: only what root of the target's host allows, once or never.

use crate::crash::points;
use crate::fixture::{SOON, Site};
use crate::support::{Fleet, FleetPlan, Output, Row, wait_for, wait_until};
use std::time::{Duration, Instant};

/// A host that is gone is told of within this time.
const BOUND: Duration = Duration::from_secs(30);

/// What happens to a host, how it is done and how undone.
type Way<'a> = (&'a str, &'a dyn Fn(), &'a dyn Fn());

fn fleet(name: &'static str) -> Fleet {
    Fleet::with(FleetPlan {
        name,
        ..FleetPlan::default()
    })
}

/// What root of that host writes.
fn accept(site: &Site, text: &str) {
    site.host.write("/etc/stratavore/agent.toml", text);
    site.root("stratavore-agent --check-config 2>/dev/null || /usr/libexec/stratavore/stratavore-agent --check-config").ok();
    site.reload_agent();
}

fn from(hosts: &str, users: &str) -> String {
    format!("accept_placed_launches = true\nfrom_hosts = [{hosts}]\nas_users = [{users}]\n")
}

#[test]
fn only_what_root_there_accepts() {
    let fleet = fleet("f-place");
    let [a, b, c] = &fleet.sites[..] else {
        panic!("three hosts")
    };
    let place = |site: &Site, user: &str, rest: &str| {
        site.ctl(user, &format!("run --via store --on f-place-2 {rest}"))
    };
    // By default nothing is, and the answer says what root there has to write.
    let refused = place(a, "alice", "p -- true").code(4);
    for word in [
        "accept_placed_launches = true",
        "from_hosts",
        "as_users",
        "/etc/stratavore/agent.toml",
    ] {
        assert!(refused.err().contains(word), "{word}: {refused}");
    }
    accept(b, "accept_placed_launches = true\nas_users = [\"alice\"]\n");
    let refused = place(a, "alice", "p -- true").code(4);
    assert!(refused.err().contains("from_hosts is empty"), "{refused}");
    accept(b, &from("\"f-place-3\"", "\"alice\""));
    let refused = place(a, "alice", "p -- true").code(4);
    assert!(refused.err().contains("from f-place-1"), "{refused}");
    accept(b, &from(&format!("\"{}\"", a.host_id()), "\"bob\""));
    let refused = place(a, "alice", "p -- true").code(4);
    assert!(refused.err().contains("as_users"), "{refused}");

    // Allowed: it runs there as the user of that name, whatever the number is.
    b.root("usermod -u 2345 alice; chown -R alice /home/alice; systemctl restart stratavore-agent stratavored").ok();
    b.wait_up();
    b.wait_met();
    accept(b, &from("\"f-place-1\"", "\"alice\", \"root\""));
    let work = "sh -c 'id -u > /srv/who; pwd >> /srv/who; echo $KEY >> /srv/who; exec sleep 1000'";
    let id = place(a, "alice", &format!("-E KEY=s3cret-word p -- {work}"))
        .ok()
        .out();
    assert!(b.scopes().contains(&id) && a.scopes().is_empty());
    wait_until("it has begun", SOON, || {
        b.file("/srv/who").lines().count() == 3
    });
    assert_eq!(b.file("/srv/who"), "2345\n/home/alice\ns3cret-word\n");
    // Where it comes from is told on both hosts, and in its events.
    for site in [a, b] {
        let shown = site.show(&id);
        assert_eq!(shown["placed"]["name"], "f-place-1");
        assert_eq!(
            (&shown["placed"]["user"], &shown["placed"]["uid"]),
            (&"alice".into(), &2001.into())
        );
        let why = site.ctl("root", &format!("why {id}")).ok().out();
        assert!(
            why.contains("alice (2001) on f-place-1, through the store"),
            "{why}"
        );
    }
    let shown = a.ctl("alice", &format!("show -n0 {id}")).ok().out();
    assert!(
        shown.contains("Placed by") && shown.contains("KEY"),
        "its placer sees its command: {shown}"
    );
    // The environment is in no row any more, and was never told.
    for site in [a, b] {
        assert!(
            !site
                .root("journalctl -o verbose")
                .out()
                .contains("s3cret-word")
        );
    }
    for table in ["orders", "runners", "events"] {
        let text = format!(
            "SELECT count(*) FROM {table} AS t WHERE CAST(t.* AS TEXT) LIKE '%s3cret-word%'"
        );
        assert_eq!(fleet.sql().number(&text), 0, "{table}");
    }
    // Whoever has placed it may stop it.
    a.ctl("alice", &format!("stop {id}")).ok();
    assert_eq!(a.cause(&id), "stopped");

    // Nobody else: by polkit here, or by agent.toml there.
    place(a, "bob", "p -- true").code(4);
    place(a, "alice", "--uid bob p -- true").code(4);
    let refused = place(a, "root", "--uid bob p -- true").code(4);
    assert!(refused.err().contains("runs as bob"), "{refused}");
    let refused = place(a, "root", "p -- true").code(4);
    assert!(refused.err().contains("allow_root"), "{refused}");
    let refused = place(a, "root", "--uid nobody-here p -- true").code(4);
    assert!(refused.err().contains("runs as nobody-here"), "{refused}");
    let refused = place(c, "alice", "p -- true").code(4);
    assert!(refused.err().contains("from f-place-3"), "{refused}");
    // Root here may place for a user there.
    place(a, "root", "--wait --uid alice p -- sh -c 'exit 7'").code(7);
    // None of those that were refused has a row.
    let rows = fleet.sql().number("SELECT count(*) FROM runners");
    assert_eq!(rows, 2);

    // As with a launch of one's own: its status, its directory, its quota, its place in the queue.
    place(a, "alice", "--wait p -- /no/such/program").code(127);
    place(
        a,
        "alice",
        "--wait --working-directory /tmp p -- sh -c 'test $PWD = /tmp'",
    )
    .ok();
    place(a, "alice", "--working-directory /no/where p -- true").code(1);
    a.ctl("root", "project set p --max-runners 1").ok();
    let here = a.run("-- sleep 1000");
    let refused = place(a, "alice", "p -- true").code(3);
    assert!(refused.err().contains("1 of 1 live runners"), "{refused}");
    place(a, "alice", "--explain p -- true").code(3);
    let queued = place(
        a,
        "alice",
        "--queue -E KEY=later p -- sh -c 'echo $KEY > /srv/later; exec sleep 1000'",
    )
    .ok();
    assert!(queued.err().contains("Queued as"), "{queued}");
    a.ctl("alice", &format!("stop {here}")).ok();
    wait_until("its turn has come", SOON, || {
        b.file("/srv/later") == "later\n"
    });
    let refused = a.ctl("alice", "run p -- true").code(3);
    assert!(
        refused.err().contains("1 of 1"),
        "one quota for both: {refused}"
    );
    // What root no longer accepts when its turn comes does not run.
    let late = place(a, "alice", "--queue p -- sh -c 'echo no > /srv/never'")
        .ok()
        .out();
    accept(b, "");
    a.ctl("alice", &format!("stop {}", queued.out())).ok();
    wait_until("it is over", SOON, || a.show(&late)["state"] == "ended");
    assert_eq!(a.cause(&late), "launch-failed");
    assert_eq!(b.file("/srv/never"), "");
    a.ctl("root", "project set p --max-runners infinity").ok();

    // What the store does not carry is said to need ssh.
    for (flags, code) in [
        ("--pipe", 2),
        ("--env-file /etc/hostname", 2),
        ("--load-credential a:/etc/hostname", 2),
    ] {
        let refused = place(a, "alice", &format!("{flags} p -- true")).code(code);
        assert!(
            refused.err().contains("ssh") || refused.err().contains("--pipe"),
            "{refused}"
        );
    }
    let by_bus = "busctl call org.stratavore1 /org/stratavore1 org.stratavore1.Manager Launch 'sasa{sv}' p 1 true 2 on s f-place-2 env-file as 1 /etc/hostname";
    let refused = a.sh_as("alice", by_bus);
    assert!(
        refused.err().contains("do not go through the store"),
        "{refused}"
    );
    let large = r#"$(head -c 100000 /dev/zero | tr '\0' x)"#;
    let refused = place(
        a,
        "alice",
        &format!("-E A={large} -E B={large} p -- echo {large}"),
    )
    .code(2);
    assert!(
        refused.err().contains("through the store at most 262144"),
        "{refused}"
    );
    a.ctl("alice", "run --via store --on no-such-host p -- true")
        .code(5);
    a.ctl("alice", "run --via store p -- true").code(2);

    // The best one of those that take it.
    accept(c, &from("\"f-place-1\"", "\"alice\""));
    a.ctl("root", "host cordon f-place-1").ok();
    let out = a
        .ctl("alice", "run --via store --on auto p -- sleep 1000")
        .ok();
    assert!(c.scopes().contains(&out.out()), "{out}");
    fleet.clear();
}

#[test]
fn a_host_that_is_away_never_comes_to_it_late() {
    let fleet = fleet("f-gone");
    let [a, b, _] = &fleet.sites[..] else {
        panic!("three hosts")
    };
    accept(b, &from("\"f-gone-1\"", "\"alice\""));
    let run = "run --via store --on f-gone-2 p -- sh -c 'echo $STRATAVORE_RUNNER_ID >> /srv/ran; exec sleep 1000'";
    a.ctl("alice", run).ok();
    wait_until("its command has written its line", SOON, || {
        b.file("/srv/ran").lines().count() == 1
    });
    // Its daemon hangs, is cut off, or is dead: asked while that is not known yet, and when it is.
    let ways: [Way<'_>; 3] = [
        (
            "its daemon stands still",
            &|| drop(b.root("systemctl kill -s STOP stratavored").ok()),
            &|| drop(b.root("systemctl kill -s CONT stratavored").ok()),
        ),
        ("it is cut off", &|| fleet.cut(1), &|| fleet.mend(1)),
        (
            "its daemon is stopped",
            &|| drop(b.root("systemctl stop stratavored").ok()),
            &|| drop(b.root("systemctl start stratavored").ok()),
        ),
    ];
    for (what, away, back) in ways {
        away();
        let began = Instant::now();
        let refused = a.ctl("alice", run).code(1);
        assert!(began.elapsed() < BOUND, "{what}: {refused}");
        assert!(
            refused.err().contains("nothing") || refused.err().contains("not carried out"),
            "{what}: {refused}"
        );
        wait_until("its lease has run out", SOON, || {
            a.ctl("alice", run)
                .err()
                .contains("f-gone-2 is unreachable")
        });
        back();
        b.wait_up();
        wait_until("it is up again", SOON, || {
            let out = a.ctl("alice", "host list").ok().out();
            !out.contains("unreachable")
        });
        // Whatever was asked of it meanwhile is not carried out now.
        let ok = a.ctl("alice", run).ok().out();
        wait_until("its command has written its line", SOON, || {
            b.file("/srv/ran").contains(&ok)
        });
        a.ctl("alice", &format!("stop {ok}")).ok();
        let ran = b.file("/srv/ran");
        let rows = fleet.sql().number("SELECT count(*) FROM runners");
        assert_eq!(rows, ran.lines().count() as i64, "{what}: {ran}");
    }
    assert_eq!(b.file("/srv/ran").lines().count(), 4);
    fleet.clear();
}

/// Wherever the daemon of the asker is killed, who asks again with the same request id gets the one runner that there is.
#[test]
fn the_asker_is_killed_at_each_point() {
    let fleet = fleet("f-asker");
    let [a, b, _] = &fleet.sites[..] else {
        panic!("three hosts")
    };
    accept(b, &from("\"f-asker-1\"", "\"alice\""));
    for point in points("placing") {
        let round = Round::new(&fleet, a, &point, "f-asker-2");
        assert_eq!(round.told.code, 1, "{point}: {}", round.told);
        assert!(
            round.told.err().contains("may have been done or not"),
            "{point}: {}",
            round.told
        );
        let again = a.ctl("alice", &round.command).ok();
        let rows = round.rows();
        assert_eq!(rows.len(), 1, "{point}: {rows:?}");
        let id = rows[0]["id"].as_str().unwrap();
        assert_eq!(again.out(), id, "{point}");
        assert_eq!(round.times(b, id), 1, "{point}: {}", b.log());
    }
    fleet.clear();
}

/// Wherever the agent of the target is killed on its way to a launch, it has run once or not at all, and so say its
/// row and the answer.
#[test]
fn the_targets_agent_is_killed_at_each_point() {
    const LATER: [&str; 6] = [
        "adopting",
        "stop-received",
        "stop-sent",
        "ended-seen",
        "forget",
        "record-removed",
    ];
    let fleet = fleet("f-agent");
    let [_, b, _] = &fleet.sites[..] else {
        panic!("three hosts")
    };
    accept(b, &from("\"f-agent-1\"", "\"alice\""));
    for point in points("agent") {
        if LATER.iter().any(|later| point.ends_with(later)) {
            continue;
        }
        let round = Round::new(&fleet, b, &point, "f-agent-2");
        let rows = round.rows();
        assert_eq!(rows.len(), 1, "{point}: {}", round.told);
        let id = rows[0]["id"].as_str().unwrap();
        let failed = rows[0]["exit"].as_str().unwrap().contains("launch-failed");
        assert_eq!(
            round.times(b, id),
            usize::from(!failed),
            "{point}: {rows:?}\n{}",
            b.log()
        );
        match round.told.code {
            0 => assert!(!failed && round.told.out() == id, "{point}: {}", round.told),
            _ => assert!(
                failed && round.told.err().contains(id),
                "{point}: {}",
                round.told
            ),
        }
    }
    fleet.clear();
}

/// One placed launch with one program killed at one point; all is over when it is made.
struct Round<'a> {
    fleet: &'a Fleet,
    point: &'a str,
    command: String,
    told: Output,
}

impl<'a> Round<'a> {
    /// The first host asks; `killed` is where the point is reached.
    fn new(fleet: &'a Fleet, killed: &Site, point: &'a str, target: &str) -> Self {
        killed.crash_at(point);
        let command = format!(
            "run --via store --on {target} --request-id {point} --label round={point} p -- sh -c 'echo $STRATAVORE_RUNNER_ID >> /srv/ran'"
        );
        let told = fleet.sites[0].ctl("alice", &command);
        let round = Self {
            fleet,
            point,
            command,
            told,
        };
        wait_for(&format!("{point} is reached"), SOON, || {
            match killed.host.path("/run/stratavore-crash/at").exists() {
                true => Err(format!("{}\n{}", round.told, killed.log())),
                false => Ok(()),
            }
        });
        killed.wait_up();
        wait_for(&format!("{point}: all is over"), SOON, || {
            match round.rows().iter().all(|row| row["state"] == "ended") {
                true => Ok(()),
                false => Err(killed.log()),
            }
        });
        fleet.wait_up();
        round
    }

    fn rows(&self) -> Vec<Row> {
        self.fleet.sql().rows(&format!(
            "SELECT id, state, exit FROM runners r WHERE EXISTS (SELECT 1 FROM labels l WHERE l.runner = r.id AND l.value = '{}')",
            self.point
        ))
    }

    /// How often this one's command ran.
    fn times(&self, on: &Site, id: &str) -> usize {
        on.file("/srv/ran")
            .lines()
            .filter(|line| *line == id)
            .count()
    }
}

/// Wherever the daemon of the target is killed, there is one run or none, its row says which, and so is the asker told.
#[test]
fn the_target_is_killed_at_each_point() {
    const BEFORE: [&str; 2] = ["fleet.order-taken", "daemon.before-t1"];
    const FAILS: [&str; 3] = ["daemon.after-t1", "daemon.prepared", "daemon.after-t2"];
    const RUNS: [&str; 2] = ["daemon.after-go", "fleet.order-done"];
    let known = points("fleet");
    assert!(
        known
            .iter()
            .all(|p| BEFORE.contains(&p.as_str()) || RUNS.contains(&p.as_str())),
        "{known:?}"
    );
    let fleet = fleet("f-crash");
    let b = &fleet.sites[1];
    accept(b, &from("\"f-crash-1\"", "\"alice\""));
    for (point, runs, code) in BEFORE
        .map(|p| (p, None, 1))
        .into_iter()
        .chain(FAILS.map(|p| (p, Some(0), 1)))
        .chain(RUNS.map(|p| (p, Some(1), 0)))
    {
        let round = Round::new(&fleet, b, point, "f-crash-2");
        let (told, rows) = (&round.told, round.rows());
        assert_eq!(told.code, code, "{point}: {told}\n{}", b.log());
        assert_eq!(rows.len(), usize::from(runs.is_some()), "{point}: {rows:?}");
        for row in rows {
            let id = row["id"].as_str().unwrap();
            assert_eq!(
                Some(round.times(b, id)),
                runs,
                "{point}: {row:?}\n{}",
                b.log()
            );
            let failed = row["exit"].as_str().unwrap().contains("launch-failed");
            assert_eq!(failed, runs == Some(0), "{point}: {row:?}");
            match code {
                0 => assert_eq!(told.out(), id, "{point}"),
                _ => assert!(told.err().contains(id), "{point}: {told}"),
            }
        }
        if BEFORE.contains(&point) {
            assert!(
                told.err().contains("nothing runs and nothing will"),
                "{point}: {told}"
            );
        }
    }
    fleet.clear();
}
