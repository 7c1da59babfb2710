//! Whether events are what the table in the code says (`stratavore::domain::event::schema`), by the schemas made of it:
//! nothing lacks, and nothing is there that is not told of. Whoever adds a member to an event adds it to the table.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, unreachable_pub)]

use jsonschema::{Registry, Validator};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use stratavore::domain::Timestamp;
use stratavore::domain::cloudevent::{Message, schema_id};
use stratavore::domain::event::schema::{self, Form};
use stratavore::domain::event::{Draft, Event, EventType};

/// Of whole messages as this release writes them.
static MESSAGE: LazyLock<Validator> = LazyLock::new(|| of_messages(Form::Closed));
/// Of data as the bus shows it.
static SHOWN: LazyLock<BTreeMap<&str, Validator>> = LazyLock::new(|| {
    let of = |kind: EventType| {
        let schema = schema::data(kind, Form::Shown);
        (kind.short(), jsonschema::draft202012::new(&schema).unwrap())
    };
    EventType::ALL.map(of).into()
});

/// What checks a whole message, with the schemas of all data.
pub fn of_messages(form: Form) -> Validator {
    let mut registry = Registry::new();
    for kind in EventType::ALL {
        let schema = schema::data(kind, form);
        registry = registry.add(schema_id(kind.short()), schema).unwrap();
    }
    let registry = registry.prepare().unwrap();
    jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .with_registry(&registry)
        .build(&schema::envelope(form))
        .unwrap()
}

fn complaints(validator: &Validator, value: &Value) -> Vec<String> {
    let all = validator.iter_errors(value);
    all.map(|e| format!("{}: {e}", e.instance_path())).collect()
}

#[track_caller]
fn valid(validator: &Validator, value: &Value) {
    let wrong = complaints(validator, value);
    assert!(
        wrong.is_empty(),
        "not what src/domain/event/schema/table.rs says: {wrong:#?}\nin {value:#}"
    );
}

/// A message as a consumer gets it.
#[track_caller]
pub fn message(body: &Value) {
    valid(&MESSAGE, body);
}

/// An event as a store has it.
#[track_caller]
pub fn event(event: &Event) {
    let message = Message::new(event, "store", "host", 1);
    self::message(&serde_json::from_slice(&message.body).unwrap());
}

/// A row of the table `events`, its columns by name; `actor` and `data` are texts.
#[track_caller]
pub fn row(row: &BTreeMap<String, Value>) {
    let text = |column: &str| row[column].as_str().unwrap();
    let number = |column: &str| row[column].as_u64().unwrap();
    let draft = Draft {
        kind: EventType::parse(text("type")).unwrap(),
        project: text("project").to_owned(),
        subject: text("subject").to_owned(),
        seq: number("seq"),
        at: Timestamp(number("at")),
        actor: serde_json::from_str(text("actor")).unwrap(),
        data: serde_json::from_str(text("data")).unwrap(),
    };
    let position = number("position");
    event(&Event { position, draft });
}

/// What `stratavorectl events -o jsonl` says.
#[track_caller]
pub fn lines(text: &str) -> Vec<Value> {
    let all = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let all: Vec<Value> = all.collect();
    all.iter().for_each(shown);
    all
}

/// A line of `stratavorectl events -o jsonl`, or an element of `-o json`.
#[track_caller]
pub fn shown(line: &Value) {
    let members: Vec<&String> = line.as_object().unwrap().keys().collect();
    let told = [
        "actor",
        "data",
        "project",
        "runnerseq",
        "seq",
        "subject",
        "time",
        "type",
    ];
    assert_eq!(members, told, "{line:#}");
    let short = line["type"]
        .as_str()
        .unwrap()
        .strip_prefix("org.stratavore.");
    valid(&SHOWN[short.unwrap()], &line["data"]);
    // The rest is as in a message, but for the numbers of the store.
    let mut actor = line["actor"].clone();
    if actor["host"].is_null() {
        actor.as_object_mut().unwrap().remove("host");
    }
    let of = &schema::data(EventType::HoldReleased, Form::Closed)["properties"]["actor"];
    let validator = jsonschema::draft202012::new(of).unwrap();
    valid(&validator, &actor);
    assert!(
        line["seq"].as_u64() > Some(0) && line["runnerseq"].as_u64() > Some(0),
        "{line:#}"
    );
    assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line:#}");
}
