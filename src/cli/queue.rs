//! What a runner waits for, in sentences.

use super::client::{dicts, number, text};
use super::text::clean;
use crate::api::proxy::Dict;
use crate::domain::admission::QUEUE_DOES;

/// The gates that are shut, but that of the queue itself.
fn shut(of: &Dict) -> Vec<Dict> {
    let mut gates = dicts(of, "gates");
    gates.retain(|gate| !text(gate, "message").is_empty() && text(gate, "name") != "queue");
    gates
}

/// How many come before it; `None` = nobody knows.
fn before(of: &Dict) -> Option<u64> {
    let gates = dicts(of, "gates");
    if gates.is_empty() {
        return None;
    }
    let queue = gates.iter().find(|gate| text(gate, "name") == "queue");
    Some(queue.and_then(|q| number(q, "used")).unwrap_or_default())
}

/// It waits already: what would make it wait is no advice.
fn advice(message: &str) -> String {
    message.replace(QUEUE_DOES, "")
}

/// What is in its way first; `None` for one that does not wait.
pub(super) fn first(of: &Dict) -> Option<String> {
    if text(of, "state") != "queued" {
        return None;
    }
    Some(match (shut(of).first(), before(of)) {
        (Some(gate), _) => {
            let message = advice(&clean(text(gate, "message")));
            format!("{}: {message}", text(gate, "name"))
        }
        (None, Some(0)) => "Nothing is in its way now; its turn comes at once.".to_owned(),
        (None, Some(n)) => format!("{n} that wait come before it."),
        (None, None) => "What it waits for can't be told now.".to_owned(),
    })
}

/// All that decides about it, with its numbers and its place.
pub(super) fn reasons(of: &Dict) -> Vec<String> {
    let mut out: Vec<String> = dicts(of, "gates")
        .iter()
        .filter(|gate| text(gate, "name") != "queue")
        .map(|gate| advice(&super::why::gate(gate)))
        .collect();
    let priority = match of.get("priority").map(|value| &**value) {
        Some(zbus::Variant::I32(n)) => *n,
        _ => 0,
    };
    match before(of) {
        Some(0) => out.push(format!(
            "It is the next one of those that wait (its priority is {priority})."
        )),
        Some(n) => out.push(format!(
            "{n} that wait come before it: of its project those of a higher priority than {priority}, then the older ones; of others by turns."
        )),
        None => out.push("What it waits for can't be told now; try again later.".to_owned()),
    }
    out.push(format!(
        "It starts by itself. To take it out of the queue: stratavorectl stop {}.",
        text(of, "id")
    ));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_not_told_to_queue() {
        let said =
            format!("p has 4 of 4 live runners. Wait until one ends{QUEUE_DOES}, or raise it.");
        assert_eq!(
            advice(&said),
            "p has 4 of 4 live runners. Wait until one ends, or raise it."
        );
    }
}
