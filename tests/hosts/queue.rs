//! Launches that wait, on real hosts: their order, how soon their turn comes, and that none is lost.

use crate::crash::points;
use crate::fixture::{SOON, Site};
use crate::load::within;
use crate::support::{Fleet, FleetPlan, wait_for, wait_until};
use std::time::{Duration, Instant};

/// A freed slot starts the next one within this time, on a machine that is not busy; the fleet's is asked for news twice a
/// second.
const TURN: Duration = Duration::from_secs(1);
const TURN_OF_FLEET: Duration = Duration::from_millis(1_500);
/// Names of files in the daemon's folder.
const KEPT: &str = "/var/lib/stratavore/queue";

/// Launches one that waits, and returns its id.
#[track_caller]
fn queue(site: &Site, flags_and_command: &str) -> String {
    let out = site
        .ctl("alice", &format!("run --queue {flags_and_command}"))
        .ok();
    assert!(out.err().contains("Queued as"), "{out}");
    out.out()
}

fn kept(site: &Site) -> usize {
    let list = site.root(&format!("ls -A {KEPT} 2>/dev/null | wc -l")).ok();
    list.out().parse().unwrap()
}

#[track_caller]
fn runs_within(site: &Site, id: &str, since: Instant, most: Duration) -> Duration {
    let mut took = Duration::ZERO;
    wait_for(&format!("{id} has its turn"), SOON, || {
        match site.scopes().contains(id) {
            true => {
                took = since.elapsed();
                Ok(())
            }
            false => Err(site.log()),
        }
    });
    let most = within(most);
    assert!(took <= most, "its turn came after {took:?} of {most:?}");
    took
}

#[test]
fn they_wait_in_order_and_say_why() {
    let site = Site::boot("queue");
    site.ctl("root", "project set p --max-runners 1 --max-queued 3")
        .ok();
    site.root("install -d -m 777 /srv; echo top > /srv/key; chmod 644 /srv/key")
        .ok();
    let first = site.run("-- sleep 1000");
    // What may wait is refused where it can't, in words.
    let refused = site.ctl("alice", "run p -- true").code(3).err();
    assert!(refused.contains("--queue"), "{refused}");
    site.ctl("alice", "run --queue --pipe p -- true").code(2);
    site.ctl("alice", "run --queue --priority 101 p -- true")
        .code(2);
    let slow = queue(&site, "--name slow p -- sleep 1000");
    let work = "sh -c 'echo $KEY $(cat $CREDENTIALS_DIRECTORY/c) > /srv/got; exec sleep 1000'";
    let urgent = queue(
        &site,
        &format!("--priority 5 -E KEY=secret --load-credential c:/srv/key p -- {work}"),
    );
    let last = queue(&site, "--name last p -- sleep 1000");
    let full = site.ctl("alice", "run --queue p -- true").code(3).err();
    assert!(full.contains("--max-queued"), "{full}");
    assert_eq!(kept(&site), 3);
    let mode = site
        .root(&format!("stat -c %a:%U {KEPT} {KEPT}/*"))
        .ok()
        .out();
    assert!(
        mode.lines()
            .all(|l| l == "700:stratavore" || l == "600:stratavore"),
        "{mode}"
    );
    assert!(
        !site
            .root("grep -rla secret /var/lib/stratavore/stratavore.db*")
            .out()
            .contains("db")
    );

    // Everybody can see who waits, where they stand and for what.
    let list = site.ctl("alice", "list --state queued").ok().out();
    assert!(
        list.contains("slow") && list.contains("3 runners listed"),
        "{list}"
    );
    assert!(!site.ctl("alice", "list").ok().out().contains("slow"));
    let why = site.ctl("alice", "why last").ok().out();
    assert!(
        why.contains("project-runners is shut: Project p has 1 of 1 live runners")
            && why.contains("2 that wait come before it"),
        "{why}"
    );
    assert!(
        site.ctl("bob", "show slow")
            .ok()
            .out()
            .contains("Waits for")
    );
    let explained = site.ctl("alice", "run --explain p -- true").code(3).out();
    for gate in ["project-runners", "host-runners", "queue ", "queue-length"] {
        assert!(explained.contains(gate), "{gate}: {explained}");
    }
    let status = site.ctl("alice", "status -o json").ok().out();
    assert!(status.contains("\"queued_runners\": 3"), "{status}");
    // Another user's place is theirs.
    site.ctl("bob", "stop last").code(4);

    // They go on waiting whatever is started again.
    for restart in [
        "systemctl restart stratavored",
        "systemctl restart stratavore-agent",
        "systemctl kill -s KILL stratavored",
    ] {
        site.root(restart).ok();
        site.wait_up();
    }
    assert_eq!(kept(&site), 3);

    let began = Instant::now();
    site.root(&format!("systemctl stop stratavore-{first}.scope"))
        .ok();
    let took = runs_within(&site, &urgent, began, TURN);
    println!("a freed slot was taken after {took:?}, the stop included");
    wait_until("it has what it was given", SOON, || {
        site.file("/srv/got") == "secret top\n"
    });
    // Out of the queue: nothing of it runs, and it says who wanted that.
    let cancelled = site.ctl("alice", "stop slow").ok();
    assert!(cancelled.err().contains("cancelled"), "{cancelled}");
    assert_eq!(site.cause(&slow), "cancelled");
    let why = site.ctl("alice", &format!("why {slow}")).ok().out();
    assert!(why.contains("taken out of the queue by alice"), "{why}");

    // With --wait it is waited for from the queue to the end.
    let waited = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            site.ctl(
                "alice",
                "run --queue --wait --name waited p -- sh -c 'exit 7'",
            )
        });
        wait_until("it waits", SOON, || kept(&site) == 2);
        site.ctl("alice", &format!("stop {urgent}")).ok();
        wait_until("last runs", SOON, || site.scopes().contains(&last));
        site.ctl("alice", "stop last").ok();
        waiting.join().unwrap()
    });
    waited.code(7);
    // stop --all means those that wait, too.
    site.run("-- sleep 1000");
    queue(&site, "p -- sleep 1000");
    site.ctl("alice", "stop --project p").ok();
    let none = site.sql("SELECT id FROM runners WHERE state <> 'ended'");
    assert!(none.is_empty(), "{none:?}");
    wait_until("nothing is kept", SOON, || kept(&site) == 0);
    site.check();
}

#[test]
fn they_outlive_a_reboot_and_what_wakes_them() {
    let mut site = Site::boot("queueon");
    site.ctl("root", "hold set --fleet").ok();
    let a = queue(
        &site,
        "-E KEY=kept p -- sh -c 'echo $KEY > /home/alice/got; exec sleep 1000'",
    );
    let b = queue(&site, "--session talk p -- sleep 1000");
    let c = queue(&site, "--session talk p -- sleep 1000");
    site.host.kill_dead();
    site.host.boot_again();
    site.wait_up();
    assert_eq!(kept(&site), 3);
    let began = Instant::now();
    site.ctl("root", "hold release --fleet").ok();
    runs_within(&site, &a, began, TURN);
    runs_within(&site, &b, began, TURN);
    wait_until("it has what it was given", SOON, || {
        site.root("cat /home/alice/got").out() == "kept"
    });
    // One at a time of a session.
    assert_eq!(site.show(&c)["state"], "queued");
    assert_eq!(site.show(&c)["session"], "talk");
    let began = Instant::now();
    site.root(&format!("systemctl stop stratavore-{b}.scope"))
        .ok();
    runs_within(&site, &c, began, TURN);
    site.clear();
    wait_until("nothing is kept", SOON, || kept(&site) == 0);
}

/// Wherever the daemon is killed, what waits runs once, or its row says that nothing of it ran.
#[test]
fn the_daemon_is_killed_at_each_point_of_a_turn() {
    const EARLY: [&str; 2] = ["queue.kept", "queue.row-written"];
    const LATE: [&str; 5] = [
        "queue.turn-given",
        "queue.before-prepare",
        "daemon.prepared",
        "daemon.after-t2",
        "daemon.after-go",
    ];
    let all: Vec<&str> = EARLY.into_iter().chain(LATE).collect();
    let known = points("queue");
    assert!(known.iter().all(|p| all.contains(&p.as_str())), "{known:?}");
    let site = Site::boot("crash-q");
    site.root("install -d -m 777 /srv; touch /srv/ran; chmod 666 /srv/ran")
        .ok();
    site.ctl("root", "project set p --max-runners 1").ok();
    for point in all {
        let arm = || site.crash_at(point);
        let first = site.run("-- sleep 1000");
        if EARLY.contains(&point) {
            arm();
        }
        let run = format!(
            "timeout 20 stratavorectl run --queue --label round={point} -E KEY=x p -- sh -c 'echo $STRATAVORE_RUNNER_ID >> /srv/ran'"
        );
        site.sh_as("alice", &run);
        site.wait_up();
        if LATE.contains(&point) {
            arm();
        }
        site.root(&format!("systemctl stop stratavore-{first}.scope"))
            .ok();
        wait_for(&format!("{point} is reached"), SOON, || {
            match site.host.path("/run/stratavore-crash/at").exists() {
                true => Err(site.log()),
                false => Ok(()),
            }
        });
        site.wait_up();
        wait_for(&format!("{point}: all is over"), SOON, || {
            let open = site.sql("SELECT id, state FROM runners WHERE state <> 'ended'");
            match open.is_empty() {
                true => Ok(()),
                false => Err(format!("{open:?}\n{}", site.log())),
            }
        });
        let ran = site.file("/srv/ran");
        let rows = site.sql(&format!("SELECT id, json_extract(exit, '$.cause') AS cause FROM runners r WHERE EXISTS (SELECT 1 FROM labels l WHERE l.runner = r.id AND l.value = '{point}')"));
        assert_eq!(
            rows.len(),
            usize::from(point != "queue.kept"),
            "{point}: {rows:?}"
        );
        for row in rows {
            let id = row["id"].as_str().unwrap();
            let times = ran.lines().filter(|l| *l == id).count();
            // Between T2 and the gate its row says that it may have run: it is not tried again.
            let want = match point {
                "daemon.after-t2" => ("launch-failed", 0),
                _ => ("success", 1),
            };
            assert_eq!(
                (row["cause"].as_str().unwrap(), times),
                want,
                "{point}\n{}",
                site.log()
            );
        }
        wait_until(&format!("{point}: nothing is kept"), SOON, || {
            kept(&site) == 0
        });
        site.check();
    }
}

#[test]
fn a_slot_that_is_freed_on_one_host_is_taken_on_another() {
    let fleet = Fleet::with(FleetPlan {
        name: "f-queue",
        ..FleetPlan::default()
    });
    let [a, b, c] = &fleet.sites[..] else {
        panic!("three hosts")
    };
    a.ctl("root", "project set p --max-runners 1").ok();
    a.ctl("root", "project create q --max-runners 1").ok();
    // Which host has the slot, which one waits longest: the right one has its turn, soon.
    let mut holder = (a, a.run("-- sleep 1000"));
    let first = queue(b, "p -- sleep 1000");
    let second = queue(c, "p -- sleep 1000");
    let third = queue(a, "p -- sleep 1000");
    let urgent = queue(c, "--priority 9 p -- sleep 1000");
    let mut took = Vec::new();
    for (site, id) in [(c, &urgent), (b, &first), (c, &second), (a, &third)] {
        let began = Instant::now();
        let (at, ends) = holder;
        at.root(&format!("systemctl kill -s KILL stratavore-{ends}.scope"))
            .ok();
        took.push(runs_within(site, id, began, TURN_OF_FLEET));
        let live: usize = fleet.sites.iter().map(|s| s.scopes().len()).sum();
        assert_eq!(live, 1, "one slot");
        holder = (site, id.clone());
    }
    println!("a slot freed on another host was taken after {took:?}");
    // Cancelled from another host, at once, and even while its own host is away.
    let here = queue(b, "p -- sleep 1000");
    a.ctl("alice", &format!("stop {here}")).ok();
    assert_eq!(a.cause(&here), "cancelled");
    wait_until("its own host has noticed", SOON, || kept(b) == 0);
    let away = queue(b, "p -- sleep 1000");
    fleet.cut(1);
    a.ctl("alice", &format!("stop {away}")).ok();
    assert_eq!(a.cause(&away), "cancelled");
    fleet.mend(1);
    wait_until("its own host has noticed", Duration::from_secs(60), || {
        kept(b) == 0
    });
    holder.0.ctl("alice", "stop --project p").ok();
    fleet.clear();
}

/// What an operator does on one host wakes those that wait on another.
#[test]
fn an_uncordoned_host_and_a_raised_budget_wake_them() {
    let fleet = Fleet::with(FleetPlan {
        name: "f-wake",
        hosts: 2,
        ..FleetPlan::default()
    });
    let (a, b) = (&fleet.sites[0], &fleet.sites[1]);
    a.ctl("root", "host cordon f-wake-2").ok();
    // Before it is seen there, the launch would not wait.
    wait_until("the cordon is seen", SOON, || {
        b.ctl("alice", "run --explain p -- true").code == 3
    });
    let id = queue(b, "p -- sleep 1000");
    let why = b.ctl("alice", &format!("why {id}")).ok().out();
    assert!(why.contains("cordon"), "{why}");
    let began = Instant::now();
    a.ctl("root", "host uncordon f-wake-2").ok();
    let uncordoned = runs_within(b, &id, began, TURN_OF_FLEET);

    a.ctl(
        "root",
        "budget set --scope project:p --period day --limit 100",
    )
    .ok();
    a.ctl("alice", "run --tokens 100 p -- sleep 1000").ok();
    let id = queue(b, "--tokens 50 p -- sleep 1000");
    let why = b.ctl("alice", &format!("why {id}")).ok().out();
    assert!(why.contains("budget"), "{why}");
    let began = Instant::now();
    a.ctl(
        "root",
        "budget set --scope project:p --period day --limit 150",
    )
    .ok();
    let raised = runs_within(b, &id, began, TURN_OF_FLEET);
    println!("woken after {uncordoned:?} and {raised:?}");
    fleet.clear();
}

/// Those that wait on a host whose agent is away, or that is lost, hold up nobody; they wait for it to come back.
#[test]
fn who_waits_where_nothing_starts_holds_up_nobody() {
    let mut fleet = Fleet::with(FleetPlan {
        name: "f-gone",
        timings: "lease_renew = \"1s\"\nlease_ttl = \"3s\"\nlost_after = \"12s\"\nstop_on_disconnect_after = \"4s\"\n".to_owned(),
        config: "[limits]\nstop_timeout = \"1s\"\n".to_owned(),
        ..FleetPlan::default()
    });
    let [a, b, c] = &fleet.sites[..] else {
        panic!("three hosts")
    };
    a.ctl("root", "project set p --max-runners 1").ok();
    let first = a.run("-- sleep 1000");
    let dull = queue(b, "p -- sleep 1000");
    let lost = queue(c, "p -- sleep 1000");
    let last = queue(a, "p -- sleep 1000");
    let states = |site: &Site, name: &str| {
        let hosts = site.ctl("root", "host list -o json").ok().out();
        let hosts: Vec<serde_json::Value> = serde_json::from_str(&hosts).unwrap();
        let host = hosts.into_iter().find(|h| h["name"] == name).unwrap();
        (
            host["state"].as_str().unwrap().to_owned(),
            host["ready"].as_bool(),
        )
    };
    b.root("systemctl mask --runtime -q stratavore-agent.service stratavore-agent.socket; systemctl kill -s KILL stratavore-agent; systemctl stop stratavore-agent.socket stratavore-agent; true").ok();
    wait_until("everybody knows that it has no agent", SOON, || {
        states(a, "f-gone-2") == ("up".to_owned(), Some(false))
    });
    fleet.kill_host(2);
    let [a, b, _] = &fleet.sites[..] else {
        panic!("three hosts")
    };
    wait_until("it is lost", Duration::from_secs(60), || {
        states(a, "f-gone-3").0 == "lost"
    });
    let began = Instant::now();
    a.ctl("alice", &format!("stop {first}")).ok();
    runs_within(a, &last, began, Duration::from_secs(3));
    // Their places are their own as soon as they can start.
    b.root("systemctl unmask --runtime -q stratavore-agent.service stratavore-agent.socket; systemctl reset-failed; systemctl start stratavore-agent.socket stratavore-agent").ok();
    wait_until("it has its agent", SOON, || {
        states(a, "f-gone-2") == ("up".to_owned(), Some(true))
    });
    a.ctl("alice", &format!("stop {last}")).ok();
    runs_within(b, &dull, Instant::now(), SOON);
    assert_eq!(b.show(&lost)["state"], "queued");
    fleet.boot_host(2);
    let c = &fleet.sites[2];
    c.wait_up();
    wait_until("it is back", SOON, || states(c, "f-gone-3").0 == "up");
    fleet.sites[1].ctl("alice", &format!("stop {dull}")).ok();
    runs_within(c, &lost, Instant::now(), SOON);
    fleet.clear();
}
