//! What the tests of a fleet stand on: hosts on a network, cuts, a Postgres that dies, a proxy that is slow.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::fixture::{SOON, Site};
use crate::support::{Blow, Chaos, Fleet, FleetPlan, PASSWORD, Watch, Way, clock, wait_until};

/// A query from inside a host, over the network, by TLS that is checked. `at` is ADDRESS:PORT.
fn psql(fleet: &Fleet, n: usize, at: &str, query: &str) -> crate::support::Output {
    let url = fleet.postgres.url_at(at, "fleet");
    fleet.sites[n]
        .host
        .command([
            "psql",
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            &format!("{url}&sslrootcert=/etc/stratavore/store-ca.pem&connect_timeout=5"),
            "-c",
            query,
        ])
        .env("PGPASSWORD", PASSWORD)
        .run()
}

fn plain(name: &'static str, pooled: bool) -> Fleet {
    Fleet::with(FleetPlan {
        name,
        plain: true,
        pooled,
        ..FleetPlan::default()
    })
}

/// Whether anybody answers there: a closed port does, with a refusal.
fn reaches(fleet: &Fleet, n: usize, address: std::net::Ipv4Addr) -> bool {
    let out = fleet.sites[n].root(&format!("timeout 2 bash -c '</dev/tcp/{address}/9'"));
    assert!([1, 124].contains(&out.code), "{out}");
    out.code == 1
}

fn direct(fleet: &Fleet) -> String {
    format!("{}:5432", fleet.postgres.address())
}

#[test]
fn three_hosts_and_a_postgres_on_one_network() {
    let mut fleet = plain("h-net", true);
    let ids: std::collections::BTreeSet<_> = fleet
        .each(|_, s| s.host.read("/etc/machine-id"))
        .into_iter()
        .collect();
    assert_eq!(ids.len(), 3, "each has its own machine-id");
    let fleet_at = direct(&fleet);
    for n in 0..3 {
        let other = fleet.address((n + 1) % 3);
        assert!(reaches(&fleet, n, other));
        assert_eq!(
            psql(&fleet, n, &fleet_at, "SELECT current_user").ok().out(),
            "stratavore"
        );
    }
    // As somebody who may use but not change the schema.
    psql(&fleet, 0, &fleet_at, "CREATE TABLE x ()").code(1);
    let mut sql = fleet.sql();
    sql.run("SET ROLE stratavore_owner;\nCREATE TABLE numbers (n BIGINT PRIMARY KEY);\nRESET ROLE");
    psql(&fleet, 0, &fleet_at, "INSERT INTO numbers VALUES (1)").ok();
    let pooler = format!("{}:6432", fleet.postgres.address());
    psql(&fleet, 1, &pooler, "INSERT INTO numbers VALUES (2)").ok();
    assert_eq!(sql.number("SELECT count(*) FROM numbers"), 2);

    // A client certificate, when asked for.
    fleet.postgres.want_certificates(true);
    let refused = psql(&fleet, 0, &fleet_at, "SELECT 1").code(2);
    assert!(refused.err().contains("client certificate"), "{refused}");
    fleet.postgres.want_certificates(false);

    // Cut: nothing comes through, and nobody is told. Mended: what was under way goes on.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| psql(&fleet, 2, &fleet_at, "SELECT pg_sleep(6)"));
        wait_until("the query is under way", SOON, || {
            let asked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'";
            fleet.sql().number(asked) == 1
        });
        fleet.cut(2);
        let server = fleet.postgres.address();
        assert!(!reaches(&fleet, 2, server) && reaches(&fleet, 1, server));
        fleet.mend(2);
        assert!(reaches(&fleet, 2, server));
        waiting.join().unwrap().ok();
    });

    // A host that stops dead and boots again is where it was.
    let boot = fleet.sites[2].host.boot_id();
    fleet.kill_host(2);
    assert_eq!(fleet.up().count(), 2);
    fleet.boot_host(2);
    assert_ne!(boot, fleet.sites[2].host.boot_id());
    psql(&fleet, 2, &fleet_at, "SELECT 1").ok();
}

#[test]
fn a_postgres_that_dies_keeps_what_it_confirmed() {
    let mut fleet = plain("h-pg", false);
    let at = direct(&fleet);
    fleet
        .sql()
        .run("SET ROLE stratavore_owner;\nCREATE TABLE numbers (n BIGINT PRIMARY KEY)");
    let mut next = 0;
    let mut put = |fleet: &Fleet| {
        next += 1;
        psql(
            fleet,
            0,
            &at,
            &format!("INSERT INTO numbers VALUES ({next})"),
        )
        .ok();
        next
    };
    let holds =
        |fleet: &Fleet, n: i64| assert_eq!(fleet.sql().number("SELECT count(*) FROM numbers"), n);
    let n = put(&fleet);
    fleet.postgres.restart();
    holds(&fleet, n);

    let n = put(&fleet);
    fleet.postgres.kill9();
    psql(&fleet, 0, &at, "SELECT 1").code(2);
    fleet.postgres.start_again();
    holds(&fleet, n);

    let n = put(&fleet);
    fleet.postgres.power_cut();
    fleet.postgres.power_on();
    holds(&fleet, n);

    fleet.postgres.read_only(true);
    let refused = psql(&fleet, 0, &at, "INSERT INTO numbers VALUES (-1)").code(1);
    assert!(refused.err().contains("read-only"), "{refused}");
    fleet.postgres.read_only(false);
    put(&fleet);

    fleet.postgres.fill_disk(true);
    let big = "INSERT INTO numbers SELECT generate_series(1000, 900000)";
    let refused = psql(&fleet, 0, &at, big);
    assert!(!refused.success(), "{refused}");
    fleet.postgres.fill_disk(false);
    fleet.postgres.start_again();
    let n = put(&fleet);
    holds(&fleet, n);

    fleet.postgres.hang(true);
    let begun = Instant::now();
    psql(&fleet, 0, &at, "SELECT 1").code(2);
    assert!(
        begun.elapsed() >= Duration::from_secs(5),
        "it does not answer"
    );
    fleet.postgres.hang(false);
    put(&fleet);
    fleet.postgres.end_sessions();
    put(&fleet);
}

#[test]
fn a_standby_takes_over() {
    let fleet = Fleet::with(FleetPlan {
        name: "h-ha",
        plain: true,
        standby: true,
        ..FleetPlan::default()
    });
    let standby = fleet.standby.as_ref().unwrap();
    fleet
        .sql()
        .run("SET ROLE stratavore_owner;\nCREATE TABLE numbers (n BIGINT PRIMARY KEY)");
    let second = format!("{}:5432", standby.address());
    psql(&fleet, 0, &direct(&fleet), "INSERT INTO numbers VALUES (1)").ok();
    wait_until("it has followed", SOON, || {
        psql(&fleet, 0, &second, "SELECT count(*) FROM numbers").out() == "1"
    });
    let refused = psql(&fleet, 0, &second, "INSERT INTO numbers VALUES (2)").code(1);
    assert!(refused.err().contains("read-only"), "{refused}");
    fleet.postgres.kill9();
    standby.promote();
    psql(&fleet, 0, &second, "INSERT INTO numbers VALUES (2)").ok();
}

#[test]
fn a_link_that_is_slow_or_breaks_in_a_commit() {
    let fleet = Fleet::with(FleetPlan {
        name: "h-slow",
        plain: true,
        proxied: true,
        ..FleetPlan::default()
    });
    let proxy = &fleet.proxies[0];
    let at = proxy.address().to_string();
    psql(&fleet, 0, &at, "SELECT 1").ok();
    let usual = proxy.passed(Way::ToServer);
    assert!(usual > 100 && proxy.passed(Way::ToClient) > 100);

    proxy.delay(Duration::from_millis(50));
    assert!(psql(&fleet, 0, &at, "SELECT 1").ok().took > Duration::from_millis(200));
    proxy.delay(Duration::ZERO);

    std::thread::scope(|scope| {
        proxy.pause(Way::ToClient);
        let waiting = scope.spawn(|| {
            fleet.sites[0]
                .host
                .command([
                    "psql",
                    "-XAtq",
                    "-d",
                    &format!(
                        "{}&sslrootcert=/etc/stratavore/store-ca.pem",
                        fleet.postgres.url_at(&at, "fleet")
                    ),
                    "-c",
                    "SELECT 1",
                ])
                .env("PGPASSWORD", PASSWORD)
                .run()
        });
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished());
        proxy.resume();
        waiting.join().unwrap().ok();
    });

    proxy.cut_after(Way::ToServer, usual / 2);
    let cut = psql(&fleet, 0, &at, "SELECT 1");
    assert!(!cut.success(), "{cut}");
    psql(&fleet, 0, &at, "SELECT 1").ok();
    proxy.refuse(true);
    psql(&fleet, 0, &at, "SELECT 1").code(2);
    proxy.refuse(false);
    psql(&fleet, 0, &at, "SELECT 1").ok();

    let mut link = TcpStream::connect(proxy.address()).unwrap();
    link.write_all(b"x").unwrap();
    proxy.cut();
    let mut rest = Vec::new();
    link.set_read_timeout(Some(SOON)).unwrap();
    drop(std::io::Read::read_to_end(&mut link, &mut rest));
    assert!(rest.is_empty());
}

/// The clock of our services alone is shifted, through their sandboxes; leases and timeouts are on another clock.
#[test]
fn a_clock_an_hour_ahead() {
    let site = Site::boot("h-clock");
    for unit in ["stratavored", "stratavore-agent"] {
        site.root(&format!("mkdir -p /etc/systemd/system/{unit}.service.d"))
            .ok();
        site.host.write(
            &format!("/etc/systemd/system/{unit}.service.d/clock.conf"),
            clock(3600),
        );
    }
    site.root("systemctl daemon-reload && systemctl restart stratavore-agent stratavored")
        .ok();
    site.wait_met();
    let id = site.run("--runtime-max=1s -- sleep 1000");
    let ended = site.ended(&id);
    assert_eq!(ended["exit"]["cause"], "timeout");
    let ahead = "SELECT created_at / 1000000 - strftime('%s', 'now') AS ahead FROM runners WHERE exit LIKE '%timeout%'";
    let ahead = site.sql(ahead)[0]["ahead"].as_i64().unwrap();
    assert!((3500..3700).contains(&ahead), "{ahead} s ahead");
    site.check();
}

/// The watch sees what it is there to see: one scope too many, a counter that is wrong.
#[test]
fn a_watch_notices() {
    let fleet = plain("h-watch", false);
    fleet.sql().run(
        "CREATE TABLE projects (name TEXT, live BIGINT);\nCREATE TABLE hosts (host TEXT, live BIGINT);\n\
         CREATE TABLE runners (id TEXT, project TEXT, host TEXT, state TEXT);\nINSERT INTO projects VALUES ('a-b', 0)",
    );
    let scope = |n: usize, name: &str| {
        let run = format!(
            "systemd-run -q --scope --slice='stratavore-a\\x2db.slice' --unit=stratavore-{name} sleep 1000"
        );
        fleet.sites[n].host.spawn(["bash", "-c", &run])
    };
    let watch = Watch::start(&fleet, &[("a-b", 2), ("*", 5)]);
    let _two = (scope(0, "x"), scope(1, "y"));
    wait_until("two are seen", SOON, || {
        let seen = watch.so_far();
        seen.most.get("a-b") == Some(&2) && seen.answers > 4
    });
    assert!(watch.so_far().violations.is_empty(), "{:?}", watch.so_far());
    let _third = scope(2, "z");
    wait_until("the third is one too many", SOON, || {
        !watch.so_far().violations.is_empty()
    });
    let said = watch.so_far().violations[0].clone();
    assert!(said.contains("3 runners of a-b live, 2 may"), "{said}");
    fleet.sql().run("UPDATE projects SET live = 1");
    wait_until("the counter is wrong", SOON, || {
        let seen = watch.so_far();
        seen.violations.iter().any(|v| v.contains("counter"))
    });
    fleet.postgres.kill9();
    wait_until("the store is silent", SOON, || watch.so_far().silences > 0);
}

/// Every kind of blow comes, each is repaired, and the seed decides.
#[test]
fn chaos_is_over_when_it_is_over() {
    let mut fleet = plain("h-chaos", false);
    let mut chaos = Chaos::new(&Blow::ALL);
    let at = direct(&fleet);
    let mut seen = Vec::new();
    for _ in Blow::ALL {
        seen.push(chaos.strike(&mut fleet));
        for n in 0..3 {
            psql(&fleet, n, &at, "SELECT 1").ok();
        }
    }
    assert!(
        Blow::ALL.iter().all(|b| seen.contains(b)),
        "{}",
        chaos.story()
    );
}
