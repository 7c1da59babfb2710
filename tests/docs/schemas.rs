//! The schemas of events: what is shipped is what the code says, and they notice what differs.

#[path = "../schema/mod.rs"]
mod schema;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use stratavore::domain::cloudevent::Message;
use stratavore::domain::event::schema::{Form, files, members};
use stratavore::domain::event::{Actor, Draft, Event, EventType};
use stratavore::domain::limits::KEYS;
use stratavore::domain::project::ProjectSettings;
use stratavore::domain::{Limits, Timestamp};

/// One schema for the data of each type of event, and one of the whole message.
#[test]
fn the_shipped_schemas_are_what_the_code_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/schemas");
    let files = files();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in &files {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }
    for (name, text) in &files {
        let shipped = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(
            shipped == *text,
            "{name} of {} is not what the code says: UPDATE_GOLDEN=1 cargo test --test docs",
            folder.display()
        );
    }
    let there = std::fs::read_dir(&folder).unwrap();
    let there = there.map(|file| file.unwrap().file_name().into_string().unwrap());
    let told: BTreeSet<String> = files.into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        there.collect::<BTreeSet<_>>(),
        told,
        "in {}",
        folder.display()
    );
}

fn of(kind: EventType, data: Value) -> Value {
    let subject = format!("{}/x", kind.short().split('.').next().unwrap());
    let draft = Draft {
        kind,
        project: "p".to_owned(),
        subject,
        seq: 1,
        at: Timestamp(1),
        actor: Actor::host(),
        data,
    };
    let event = Event { position: 1, draft };
    let message = Message::new(&event, "s", "h", 1);
    serde_json::from_slice(&message.body).unwrap()
}

fn cordoned() -> Value {
    let data = json!({
        "host": "h", "name": "n", "epoch": 1, "live": 0, "reason": "", "drain_until": null,
    });
    of(EventType::HostCordoned, data)
}

#[test]
fn what_differs_is_noticed() {
    let closed = schema::of_messages(Form::Closed);
    let open = schema::of_messages(Form::Open);
    let both = |message: &Value| (closed.is_valid(message), open.is_valid(message));
    assert_eq!(both(&cordoned()), (true, true));
    // What a later release may add, consumers let through, and tests do not.
    for path in ["", "/data", "/data/actor"] {
        let mut message = cordoned();
        message.pointer_mut(path).unwrap()["more"] = json!(1);
        assert_eq!(both(&message), (false, true), "{path}");
    }
    let mut waits = json!({
        "runner": "01b3a1a0-0000-7000-8000-000000000001", "project": "p", "host": "h", "name": null,
        "uid": 0, "user": "root", "state": "queued", "old_state": null, "gate": "queue",
    });
    assert_eq!(
        both(&of(EventType::RunnerQueued, waits.clone())),
        (true, true)
    );
    waits["gate"] = json!("moon-phase");
    assert_eq!(both(&of(EventType::RunnerQueued, waits)), (false, true));
    let mut other = of(EventType::RunnerStarting, json!({}));
    other["type"] = json!("org.stratavore.runner.rested");
    other["dataschema"] = json!("urn:stratavore:event:runner.rested:1");
    assert_eq!(both(&other), (false, true));
    // What is not as told, nobody lets through.
    for (path, value) in [
        ("/data/epoch", json!("1")),
        ("/data/epoch", json!(-1)),
        ("/data/live", json!(0.5)),
        ("/data/name", Value::Null),
        ("/data/actor/uid", json!("root")),
        ("/subject", json!("runner/x")),
        ("/dataschema", json!("urn:stratavore:event:host.left:1")),
        ("/time", json!("2026-01-01")),
        ("/specversion", json!("1.1")),
    ] {
        let mut message = cordoned();
        *message.pointer_mut(path).unwrap() = value;
        assert_eq!(both(&message), (false, false), "{path}");
    }
    for member in ["drain_until", "actor", "host"] {
        let mut message = cordoned();
        message["data"].as_object_mut().unwrap().remove(member);
        assert_eq!(both(&message), (false, false), "{member}");
    }
}

/// One that is all there is, so that none is forgotten in the table.
#[test]
fn every_setting_and_limit_is_told() {
    let mut limits = json!({ "oom_policy": "kill", "kill_signal": 2 });
    for (key, _) in KEYS {
        limits[key.replace('-', "_")] = json!(u64::MAX);
    }
    // It takes no key that it does not know.
    let limits: Limits = serde_json::from_value(limits).unwrap();
    assert!(limits.memory_max.is_some() && limits.oom_policy.is_some());
    let settings = ProjectSettings {
        description: "d".to_owned(),
        max_runners: Some(1),
        max_queued: Some(1),
        default_tokens: Some(1),
        limits,
    };
    let data = json!({ "project": "p", "settings": settings });
    schema::message(&of(EventType::ProjectChanged, data));
}

#[test]
fn members_have_names_of_their_own_and_meanings() {
    for kind in EventType::ALL {
        let all = members(kind);
        for (n, member) in all.iter().enumerate() {
            assert!(all[..n].iter().all(|m| m.name != member.name), "{member:?}");
            assert!(member.about.ends_with('.'), "{member:?}");
        }
    }
}
