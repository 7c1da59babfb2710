//! What the `data` of each type of event holds: one table, of which the JSON schemas that are shipped, the catalogue in the
//! manual and the schemas of the tests are made.

mod table;

use super::EventType;
use crate::domain::cloudevent::{DATA_CONTENT_TYPE, TYPE_PREFIX, schema_id};
use serde_json::{Value, json};
pub use table::{actor, members};

/// The draft of JSON Schema that these are of.
pub const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";
/// The id of the schema of the whole message.
pub const ENVELOPE_ID: &str = "urn:stratavore:cloudevent:1";

/// A member of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Its name.
    pub name: &'static str,
    /// What it may be.
    pub of: Of,
    /// What it means.
    pub about: &'static str,
    /// Whether it is there.
    pub presence: Presence,
}

/// Whether a member is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Always, and never null.
    Always,
    /// Always, and it may be null. What shows events on the bus leaves it out then.
    OrNull,
    /// It may be absent, and is never null.
    Sometimes,
}

/// What a value may be.
#[derive(Debug, Clone, PartialEq)]
pub enum Of {
    /// Any text.
    Text,
    /// A text that matches this.
    Like(&'static str),
    /// This text alone.
    Exactly(&'static str),
    /// A runner's id.
    Id,
    /// So many hexadecimal digits.
    Hex(usize),
    /// One of these words; a later release may have more.
    Words(Vec<&'static str>),
    /// True or false.
    Flag,
    /// A whole number that is not negative.
    Number(Unit),
    /// Any number of these.
    List(Box<Of>),
    /// An object with these members.
    Object(Vec<Member>),
}

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things that the member's meaning names.
    Count,
    /// Bytes.
    Bytes,
    /// Microseconds.
    Span,
    /// Microseconds since 1970-01-01 UTC.
    Time,
    /// Microseconds of CPU time per second.
    PerSecond,
    /// Tokens.
    Tokens,
    /// Hundredths.
    Percent,
}

impl Unit {
    /// For people; empty where there is none.
    pub fn shown(self) -> &'static str {
        match self {
            Self::Count => "",
            Self::Bytes => "bytes",
            Self::Span => "µs",
            Self::Time => "µs since 1970",
            Self::PerSecond => "µs per s",
            Self::Tokens => "tokens",
            Self::Percent => "%",
        }
    }
}

/// How strict a schema is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is shipped. Members and words that a later release adds are let through, as a consumer must let them
    /// through: what is there keeps its meaning, and is never taken away.
    Open,
    /// What this release writes, and nothing else: whoever adds a member has to tell of it in the table.
    Closed,
    /// [`Form::Closed`], as the bus and `events -o json` show it: what is null is left out.
    Shown,
}

impl Member {
    fn new(name: &'static str, of: Of, about: &'static str, presence: Presence) -> Self {
        Self {
            name,
            of,
            about,
            presence,
        }
    }
}

fn always(name: &'static str, of: Of, about: &'static str) -> Member {
    Member::new(name, of, about, Presence::Always)
}

fn or_null(name: &'static str, of: Of, about: &'static str) -> Member {
    Member::new(name, of, about, Presence::OrNull)
}

fn sometimes(name: &'static str, of: Of, about: &'static str) -> Member {
    Member::new(name, of, about, Presence::Sometimes)
}

/// The schema of the data of events of this type; its id is what they name as `dataschema`.
pub fn data(kind: EventType, form: Form) -> Value {
    let mut all = members(kind);
    if form != Form::Shown {
        all.push(actor());
    }
    let mut schema = object(&all, form);
    schema["$schema"] = json!(DRAFT);
    schema["$id"] = json!(schema_id(kind.short()));
    schema["title"] = json!(format!("Data of {TYPE_PREFIX}{}", kind.short()));
    schema["description"] = json!(kind.about());
    schema
}

/// The members of the message, without its data.
pub fn attributes() -> Vec<Member> {
    vec![
        always("specversion", Of::Exactly("1.0"), "Of CloudEvents."),
        always(
            "id",
            Of::Text,
            "The event's id, which is the message_id as well: the same each time that it is delivered.",
        ),
        always(
            "source",
            Of::Like("^/hosts/."),
            "The host that has written it: /hosts/ID.",
        ),
        always(
            "type",
            Of::Like("^org\\.stratavore\\.[a-z]+\\.[a-z]+$"),
            "What has happened.",
        ),
        always(
            "subject",
            Of::Like("^[a-z]+/."),
            "What it is about: runner/ID, project/NAME, host/ID and so on.",
        ),
        always(
            "time",
            Of::Like("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]+)?Z$"),
            "When it happened: RFC 3339, in UTC.",
        ),
        always(
            "datacontenttype",
            Of::Exactly(DATA_CONTENT_TYPE),
            "Of the data.",
        ),
        always(
            "dataschema",
            Of::Like("^urn:stratavore:event:"),
            "The id of the schema of the data.",
        ),
        always(
            "runnerseq",
            Of::Number(Unit::Count),
            "1, 2, 3 and so on for each subject: whoever keeps the last one sees each event once, and notices a gap.",
        ),
        always(
            "hostepoch",
            Of::Number(Unit::Count),
            "The epoch of the host that has written it.",
        ),
        always(
            "storeid",
            Of::Text,
            "The store that it was written in: another one counts anew.",
        ),
    ]
}

/// The schema of the whole message: a CloudEvent 1.0 in structured JSON, its data by the schemas of [`data`].
pub fn envelope(form: Form) -> Value {
    let mut all = attributes();
    all.push(always(
        "data",
        Of::Object(Vec::new()),
        "The particulars, by the schema that dataschema names.",
    ));
    let mut schema = object(&all, form);
    // What is in it is said below.
    schema["properties"]["data"] = json!({
        "type": "object",
        "description": all.last().map(|data| data.about),
    });
    let by_type = EventType::ALL.map(|kind| {
        let id = schema_id(kind.short());
        let of = kind.short().split('.').next().unwrap_or_default();
        json!({
            "if": { "properties": { "type": { "const": format!("{TYPE_PREFIX}{}", kind.short()) } } },
            "then": { "properties": {
                "subject": { "pattern": format!("^{of}/.") },
                "dataschema": { "const": id },
                "data": { "$ref": id },
            } },
        })
    });
    schema["allOf"] = json!(by_type);
    if form != Form::Open {
        let types = EventType::ALL.map(|kind| format!("{TYPE_PREFIX}{}", kind.short()));
        schema["properties"]["type"]["enum"] = json!(types);
    }
    schema["$schema"] = json!(DRAFT);
    schema["$id"] = json!(ENVELOPE_ID);
    schema["title"] = json!("An event of Stratavore");
    schema["description"] = json!("A CloudEvent 1.0 in structured JSON.");
    schema
}

/// File name and text of every schema that is shipped.
pub fn files() -> Vec<(String, String)> {
    let data = EventType::ALL.map(|kind| (kind.short(), data(kind, Form::Open)));
    let all = data
        .into_iter()
        .chain([("cloudevent", envelope(Form::Open))]);
    all.map(|(name, schema)| (format!("{name}.json"), format!("{schema:#}\n")))
        .collect()
}

fn object(members: &[Member], form: Form) -> Value {
    let required: Vec<&str> = members
        .iter()
        .filter(|m| match m.presence {
            Presence::Always => true,
            Presence::OrNull => form != Form::Shown,
            Presence::Sometimes => false,
        })
        .map(|m| m.name)
        .collect();
    let properties: serde_json::Map<_, _> = members
        .iter()
        .map(|m| (m.name.to_owned(), property(m, form)))
        .collect();
    let mut schema = json!({ "type": "object", "required": required, "properties": properties });
    if form != Form::Open {
        schema["additionalProperties"] = json!(false);
    }
    schema
}

fn property(member: &Member, form: Form) -> Value {
    let mut schema = value(&member.of, form);
    if member.presence == Presence::OrNull && form != Form::Shown {
        schema["type"] = json!([schema["type"], "null"]);
        if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut) {
            words.push(Value::Null);
        }
    }
    schema["description"] = json!(member.meaning());
    schema
}

fn value(of: &Of, form: Form) -> Value {
    match of {
        Of::Text => json!({ "type": "string" }),
        Of::Like(pattern) => json!({ "type": "string", "pattern": pattern }),
        Of::Exactly(text) => json!({ "type": "string", "const": text }),
        Of::Id => json!({
            "type": "string",
            "pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        }),
        Of::Hex(digits) => {
            json!({ "type": "string", "pattern": format!("^[0-9a-f]{{{digits}}}$") })
        }
        Of::Words(words) => match form {
            Form::Open => json!({ "type": "string", "examples": words }),
            Form::Closed | Form::Shown => json!({ "type": "string", "enum": words }),
        },
        Of::Flag => json!({ "type": "boolean" }),
        Of::Number(Unit::Percent) => json!({ "type": "integer", "minimum": 0, "maximum": 100 }),
        Of::Number(_) => json!({ "type": "integer", "minimum": 0 }),
        Of::List(of) => json!({ "type": "array", "items": value(of, form) }),
        Of::Object(members) => object(members, form),
    }
}

impl Member {
    /// What it means, with its unit and its words.
    pub fn meaning(&self) -> String {
        let more = match &self.of {
            Of::Number(unit) if !unit.shown().is_empty() => format!(" In {}.", unit.shown()),
            Of::Words(words) => format!(" One of {}.", words.join(", ")),
            _ => String::new(),
        };
        format!("{}{more}", self.about)
    }
}
