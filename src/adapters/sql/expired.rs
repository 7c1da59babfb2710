//! Who asked for an order, as its row tells; and orders that expire, in the audit: each once, by the host that
//! finds it out.

use super::fail::Fail;
use super::link::{Link, Row, Value};
use crate::domain::Timestamp;
use crate::domain::audit::{Act, Note};
use crate::domain::event::{Actor, Unit};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// What [`note`] reads, behind RETURNING.
pub(super) const COLUMNS: &str = "id, target, runner, verb, actor, asked_by";

/// With the unit, which the audit of the host that is asked tells as well. An earlier release leaves it out.
#[derive(Serialize, Deserialize)]
struct Asker {
    #[serde(flatten)]
    actor: Actor,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<Unit>,
}

/// Who asks, for the row.
pub(super) fn asker(actor: &Actor) -> Result<Value, Fail> {
    Value::json(&Asker {
        actor: actor.clone(),
        unit: actor.unit.clone(),
    })
}

/// Who has asked, by the row.
pub(super) fn asked(row: &Row, column: usize) -> Result<Actor, Fail> {
    let Asker { actor, unit } = row.json(column, "who asks for an order")?;
    Ok(Actor { unit, ..actor })
}

/// These expired. What can't be read of one is left out: it stops no work.
pub(super) fn note(
    on: &mut Link,
    rows: &[Row],
    why: &'static str,
    at: Timestamp,
) -> Result<(), Fail> {
    for row in rows {
        let (order, target, runner) = (row.text(0)?, row.text(1)?, row.text(2)?);
        let (verb, from) = (row.text(3)?, row.text(5)?);
        // What was to be launched is nobody's business here.
        let verb = match serde_json::from_str(verb) {
            Ok(serde_json::Value::Object(verb)) if verb.contains_key("launch") => json!("launch"),
            Ok(verb) => verb,
            Err(_) => json!(null),
        };
        let actor = asked(row, 4).unwrap_or_else(|_| Actor::host());
        on.note(|| {
            Note::of_act(&Act {
                at,
                kind: "order.expired",
                project: String::new(),
                subject: format!("runner/{runner}"),
                actor,
                result: "expired".to_owned(),
                data: json!({ "order": order, "verb": verb, "from": from, "to": target, "why": why }),
            })
        });
    }
    Ok(())
}
