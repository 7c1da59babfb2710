//! The shim stops dead at each of its crash points. Whatever the point: the command was run at
//! most once, and a record is there whole or not at all.
//! `cargo test --features crash-points --test shim`

use crate::agent::{Agent, LIMIT, alone};
use std::fs;
use std::path::Path;
use std::time::Instant;
use stratavore::crash;
use stratavore::domain::exit::{Asked, Record};
use stratavore::seqpacket;
use stratavore::wire::{self, ShimNotice, ShimRequest};

/// Point; whether the command may have run (`None`: either); whether a record is there then.
const POINTS: [(&str, Option<bool>, bool); 10] = [
    ("shim.start", Some(false), false),
    ("shim.order-read", Some(false), false),
    ("shim.go-received", Some(false), false),
    ("shim.forked", None, false),
    ("shim.main-reaped", Some(true), false),
    ("shim.stopping", Some(true), false),
    ("shim.before-record", Some(true), false),
    ("shim.record-temp", Some(true), false),
    ("shim.record-renamed", Some(true), true),
    ("shim.before-exit", Some(true), true),
];

/// Plays the agent until the shim is gone, without expecting anything.
fn play(agent: &mut Agent) {
    let say = |agent: &Agent, request: &ShimRequest| {
        let _ = seqpacket::send(&agent.gate.0, &wire::encode(request).unwrap(), &[]);
    };
    loop {
        match agent.gate.hear() {
            Some(ShimNotice::State(state)) if state.gated => say(agent, &ShimRequest::Go),
            Some(ShimNotice::Started { .. }) => {
                say(agent, &ShimRequest::Stop { asked: Asked::Stop });
            }
            Some(_) => {}
            None => break,
        }
    }
    agent.gone();
}

#[test]
fn a_dead_shim_has_run_nothing_twice_and_lied_about_nothing() {
    let _alone = alone();
    let folder = Path::new(crash::FILE).parent().unwrap();
    fs::create_dir_all(folder).unwrap();
    for (point, ran, recorded) in POINTS {
        fs::write(crash::FILE, point).unwrap();
        let mut agent = Agent::bare(&[], true);
        let script = "echo x >> runs; sleep 1000 & wait";
        agent.order.command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let order = serde_json::to_vec(&agent.order).unwrap();
        agent.send_order(&order);
        play(&mut agent);
        assert!(
            !Path::new(crash::FILE).exists(),
            "{point} was never reached"
        );
        // What is left of the tree is the agent's to stop.
        let _ = fs::write(agent.scope.join("cgroup.kill"), "1");
        let start = Instant::now();
        while !agent.procs().is_empty() {
            assert!(start.elapsed() < LIMIT, "{point}");
        }
        let runs = fs::read_to_string(agent.work("runs"))
            .unwrap_or_default()
            .lines()
            .count();
        assert!(runs <= 1, "{point}");
        if let Some(ran) = ran {
            assert!(ran || runs == 0, "{point}");
        }
        let record = fs::read(agent.record_path()).ok();
        assert_eq!(record.is_some(), recorded, "{point}");
        if let Some(bytes) = record {
            let record: Record = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(
                (record.asked, record.signal),
                (Some(Asked::Stop), Some(15)),
                "{point}"
            );
        }
    }
}
