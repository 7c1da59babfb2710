//! Events of a real host at a real RabbitMQ: the daemon is killed at each step of the drain, and afterwards a consumer
//! has seen what is in the database, in order per subject.

#[path = "../broker/consumer.rs"]
#[allow(dead_code)]
mod consumer;
#[path = "../broker/rabbit.rs"]
#[allow(dead_code)]
mod rabbit;

use crate::crash::points;
use crate::fixture::{Plan, SOON, Site};
use crate::support::{wait_for, wait_until};
use rabbit::Rabbit;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

const EXCHANGE: &str = "stratavore.events";

/// One direction of a connection.
fn pour(mut from: impl Read, mut to: impl Write, done: impl FnOnce()) {
    let _ = std::io::copy(&mut from, &mut to);
    done();
}

/// Brings who calls at this socket to the broker: the host has a network of its own.
fn usher(socket: &Path, port: u16) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for caller in listener.incoming().flatten() {
            let Ok(broker) = TcpStream::connect(("127.0.0.1", port)) else {
                continue;
            };
            let ends = |caller: &UnixStream, broker: &TcpStream| {
                let (caller, broker) = (caller.try_clone().unwrap(), broker.try_clone().unwrap());
                move || {
                    let _ = caller.shutdown(std::net::Shutdown::Both);
                    let _ = broker.shutdown(std::net::Shutdown::Both);
                }
            };
            let (to, from) = (broker.try_clone().unwrap(), caller.try_clone().unwrap());
            let done = ends(&caller, &broker);
            std::thread::spawn(move || pour(from, to, done));
            let done = ends(&caller, &broker);
            std::thread::spawn(move || pour(broker, caller, done));
        }
    });
}

/// A host whose events go to this broker, and the last position before they did.
fn site(name: &'static str, rabbit: &Rabbit) -> (Site, u64) {
    let folder = std::env::temp_dir().join(format!("stratavore-usher-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir(&folder).unwrap();
    usher(&folder.join("socket"), rabbit.port);
    let site = Site::with(Plan {
        name,
        bind: Some((folder, "/run/rabbit")),
        ..Plan::default()
    });
    site.root("systemctl stop stratavored").ok();
    let before = site.sql("SELECT max(position) AS n FROM events")[0]["n"].as_u64();
    let units = format!(
        "cat >/etc/systemd/system/rabbit.socket <<'END'\n[Socket]\nListenStream=127.0.0.1:5672\nEND\n\
         cat >/etc/systemd/system/rabbit.service <<'END'\n[Service]\nExecStart=/lib/systemd/systemd-socket-proxyd /run/rabbit/socket\nEND\n\
         cat >/etc/systemd/system/stratavored.service.d/amqp.conf <<'END'\n[Service]\nLoadCredential=amqp-password:/etc/stratavore/amqp\nEND\n\
         mkdir -p /etc/stratavore; (umask 077; printf %s {} >/etc/stratavore/amqp)\n\
         printf '[events]\\namqp_urls = [\"amqp://relay@127.0.0.1\"]\\n' >>/etc/stratavore/stratavored.toml\n\
         systemctl daemon-reload; systemctl start rabbit.socket stratavored",
        rabbit.password
    );
    site.root(&units).ok();
    site.wait_up();
    (site, before.unwrap())
}

fn drained(site: &Site) {
    wait_for("everything is published", SOON * 2, || {
        let rows = site.sql("SELECT count(*) AS n FROM outbox");
        match rows[0]["n"].as_u64() {
            Some(0) => Ok(()),
            left => Err(format!("{left:?} left\n{}", site.log())),
        }
    });
}

/// A consumer that keeps the last number of each subject has seen all events behind this position, and at most so
/// many twice.
fn seen(site: &Site, rabbit: &Rabbit, queue: &str, after: u64, twice_at_most: usize) {
    let mut expected: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    let sql = format!("SELECT subject, seq FROM events WHERE position > {after}");
    let rows = site.sql(&sql);
    for row in &rows {
        let subject = row["subject"].as_str().unwrap().to_owned();
        let seq = row["seq"].as_u64().unwrap();
        expected.entry(subject).or_default().insert(seq);
    }
    let mut log = consumer::Log::default();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let channel = consumer::channel(rabbit).await;
        log.read(&channel, queue, rows.len()).await;
    });
    let mut got: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    let mut twice = 0;
    for event in &log.all {
        let subject = event["subject"].as_str().unwrap();
        let seq = event["runnerseq"].as_u64().unwrap();
        let numbers = got.entry(subject.to_owned()).or_default();
        match numbers.last().copied() {
            Some(last) if seq <= last => twice += 1,
            Some(last) => assert_eq!(seq, last + 1, "a gap in {subject}"),
            None => {}
        }
        numbers.insert(seq);
    }
    assert_eq!(got, expected);
    assert!(twice <= twice_at_most, "{twice} came twice");
}

fn queue(rabbit: &Rabbit, name: &str) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let channel = consumer::channel(rabbit).await;
        consumer::bind(&channel, EXCHANGE, name, &["#"]).await;
    });
}

/// A few lives, at once and one after the other. Whatever fails here may fail.
fn work(site: &Site) {
    let script = "for n in 1 2 3 4 5 6; do timeout 60 stratavorectl run p -- true & done; wait; \
                  timeout 60 stratavorectl run p -- true; true";
    site.sh_as("alice", script);
}

#[test]
fn the_daemon_is_killed_at_each_step_of_the_drain() {
    let rabbit = Rabbit::new("", "");
    queue(&rabbit, "all");
    let (site, before) = site("relay-crash", &rabbit);
    let points = points("relay");
    assert!(points.len() >= 4, "{points:?}");
    for point in &points {
        site.crash_at(point);
        work(&site);
        wait_until(&format!("{point} is reached"), SOON, || {
            !site.host.path("/run/stratavore-crash/at").exists()
        });
        site.wait_up();
        work(&site);
    }
    drained(&site);
    site.check();
    seen(&site, &rabbit, "all", before, points.len() * 500);
    rabbit.kill();
}

fn pending(site: &Site) -> u64 {
    let rows = site.sql("SELECT count(*) AS n FROM outbox WHERE parked IS NULL");
    rows[0]["n"].as_u64().unwrap()
}

/// What `outbox show` says of the broker.
fn broker(site: &Site) -> String {
    let shown = site.ctl("root", "outbox show -o json").ok().out();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    shown["broker"].as_str().unwrap().to_owned()
}

/// For as long as it likes: launches go on, what runs outlives our restarts, stops are quick, and all arrives afterwards,
/// also what was left while no broker was configured.
#[test]
fn a_broker_that_is_away() {
    let rabbit = Rabbit::new("", "");
    queue(&rabbit, "all");
    let (site, before) = site("relay-away", &rabbit);
    work(&site);
    drained(&site);
    rabbit.stop();
    wait_until("that is seen", SOON, || broker(&site) == "down");
    let lives = site.run("-- sleep infinity");
    for _ in 0..4 {
        work(&site);
    }
    let kept = wait_for("all of it waits", SOON, || match pending(&site) {
        kept if kept >= 4 * 7 * 3 => Ok(kept),
        kept => Err(format!("{kept} wait")),
    });
    let restarted = site.root("systemctl restart stratavored").ok();
    assert!(restarted.took < SOON, "{restarted}");
    site.wait_up();
    work(&site);
    assert!(site.scopes().contains(&lives));
    assert!(pending(&site) > kept);

    // No broker at all: what waits is nobody's, and what happens is not published.
    let file = "/etc/stratavore/stratavored.toml";
    site.root(&format!(
        "sed -i 's/^amqp_urls/#&/' {file} && systemctl restart stratavored"
    ))
    .ok();
    site.wait_up();
    wait_until("they are left", SOON, || {
        site.sql("SELECT count(*) AS n FROM outbox WHERE host <> ''")[0]["n"] == 0
    });
    let left = pending(&site);
    assert!(left > kept, "{left} are left of {kept}");
    assert_eq!(broker(&site), "unconfigured");

    // It is back, and so is its name in the configuration.
    site.root(&format!(
        "sed -i 's/^#amqp_urls/amqp_urls/' {file} && systemctl restart stratavored"
    ))
    .ok();
    site.wait_up();
    assert!(pending(&site) >= left);
    rabbit.start();
    drained(&site);
    site.ctl("alice", &format!("stop {lives}")).ok();
    drained(&site);
    site.check();
    seen(&site, &rabbit, "all", before, 500);
    rabbit.kill();
}
