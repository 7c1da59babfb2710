//! The JSON of the contract, from what the bus brought.

use super::client::{dict, text};
use crate::api::proxy::Dict;
use crate::domain::limits::KEYS;
use crate::domain::signal;
use crate::domain::units::INFINITY;
use serde_json::{Map, Value, json};
use zbus::Variant;

/// A point in time as RFC 3339 in UTC; `null` for none.
pub(super) fn time(usec: Option<u64>) -> Value {
    let at = usec
        .filter(|t| *t != 0)
        .and_then(|t| i64::try_from(t).ok())
        .and_then(|t| jiff::Timestamp::from_microsecond(t).ok());
    at.map_or(Value::Null, |at| json!(format!("{at:.6}")))
}

/// A value as it is.
pub(super) fn plain(value: &Variant<'_>) -> Value {
    match value {
        Variant::U8(n) => json!(n),
        Variant::Bool(b) => json!(b),
        Variant::I16(n) => json!(n),
        Variant::U16(n) => json!(n),
        Variant::I32(n) => json!(n),
        Variant::U32(n) => json!(n),
        Variant::I64(n) => json!(n),
        Variant::U64(n) => json!(n),
        Variant::F64(n) => json!(n),
        Variant::Str(text) => json!(text.as_str()),
        Variant::ObjectPath(path) => json!(path.as_str()),
        Variant::Variant(inner) => plain(inner),
        Variant::Array(items) => items.inner().iter().map(plain).collect(),
        Variant::Dict(dict) => {
            let mut map = Map::new();
            for (key, value) in dict.iter() {
                if let Variant::Str(key) = key {
                    map.insert(key.as_str().to_owned(), plain(value));
                }
            }
            Value::Object(map)
        }
        _ => Value::Null,
    }
}

fn get(of: &Dict, key: &str) -> Value {
    of.get(key).map_or(Value::Null, |v| plain(v))
}

fn signal_name(of: &Dict, key: &str) -> Value {
    match of.get(key).map(|v| &**v) {
        Some(Variant::I32(number)) => json!(signal::name(*number)),
        _ => Value::Null,
    }
}

/// Limits: every key is there; `null` = nothing said, `"infinity"` = said to be without limit.
pub(super) fn limits(of: &Dict) -> Value {
    let mut map = Map::new();
    for (key, _) in KEYS {
        let value = match super::client::number(of, key) {
            Some(INFINITY) => json!("infinity"),
            Some(number) => json!(number),
            None => Value::Null,
        };
        map.insert(key.replace('-', "_"), value);
    }
    map.insert("oom_policy".to_owned(), get(of, "oom-policy"));
    map.insert("kill_signal".to_owned(), signal_name(of, "kill-signal"));
    Value::Object(map)
}

const USAGE: [&str; 8] = [
    "cpu_usec",
    "memory_peak_bytes",
    "io_read_bytes",
    "io_write_bytes",
    "tasks_peak",
    "oom_kills",
    "tokens_in",
    "tokens_out",
];

/// A runner as in `list`: exactly the keys of the contract.
pub(super) fn runner(of: &Dict) -> Value {
    let mut map = Map::new();
    for key in [
        "id", "name", "project", "host", "user", "state", "command", "unit", "labels", "session",
        "priority",
    ] {
        map.insert(key.to_owned(), get(of, key));
    }
    for key in ["created_at", "started_at", "ended_at"] {
        map.insert(key.to_owned(), time(super::client::number(of, key)));
    }
    map.insert("limits".to_owned(), limits(&dict(of, "limits")));
    let exit = match of.contains_key("exit") {
        true => {
            let exit = dict(of, "exit");
            json!({
                "cause": get(&exit, "cause"),
                "code": get(&exit, "code"),
                "signal": signal_name(&exit, "signal"),
                "message": get(&exit, "message"),
            })
        }
        false => Value::Null,
    };
    map.insert("exit".to_owned(), exit);
    let usage = match of.contains_key("usage") {
        true => {
            let usage = dict(of, "usage");
            let all = USAGE.map(|key| (key.to_owned(), get(&usage, key)));
            Value::Object(all.into_iter().collect())
        }
        false => Value::Null,
    };
    map.insert("usage".to_owned(), usage);
    Value::Object(map)
}

/// A runner as in `show`: some more.
pub(super) fn shown(of: &Dict) -> Value {
    let mut value = runner(of);
    for key in [
        "uid",
        "working_directory",
        "tokens",
        "log_file_max",
        "invocation_id",
        "token_usage",
        "frozen_by",
        "placed",
    ] {
        value[key] = get(of, key);
    }
    value["warnings"] = warnings(of);
    value
}

/// What is not held; none where all is.
fn warnings(of: &Dict) -> Value {
    match get(of, "warnings") {
        Value::Null => json!([]),
        some => some,
    }
}

/// A budget.
pub(super) fn budget(of: &Dict) -> Value {
    let count = |key| super::client::number(of, key).unwrap_or_default();
    let taken = count("used").saturating_add(count("reserved"));
    json!({
        "scope": text(of, "scope"),
        "period": text(of, "period"),
        "limit": get(of, "limit"),
        "used": get(of, "used"),
        "reserved": get(of, "reserved"),
        "left": count("limit").saturating_sub(taken),
        "overrun": get(of, "overrun"),
        "timezone": text(of, "timezone"),
        "on_exhausted": text(of, "on_exhausted"),
        "count": text(of, "count").split(',').collect::<Vec<_>>(),
        "told": get(of, "told"),
        "period_start": time(super::client::number(of, "period_start")),
        "period_end": time(super::client::number(of, "period_end")),
        "created_at": time(super::client::number(of, "created_at")),
    })
}

/// A hold.
pub(super) fn hold(of: &Dict) -> Value {
    json!({
        "scope": get(of, "scope"),
        "until": time(super::client::number(of, "until")),
        "freeze": get(of, "freeze"),
        "reason": get(of, "reason"),
        "set_at": time(super::client::number(of, "set_at")),
        "actor": actor(of),
    })
}

/// A notification rule.
pub(super) fn notification(of: &Dict) -> Value {
    let number = |key| super::client::number(of, key);
    json!({
        "name": text(of, "name"),
        "to": get(of, "to"),
        "format": text(of, "format"),
        "signed": get(of, "signed"),
        "types": get(of, "types"),
        "projects": get(of, "projects"),
        "causes": get(of, "causes"),
        "percent": number("percent"),
        "repeat_usec": number("repeat"),
        "per_hour": number("per_hour"),
        "state": text(of, "state"),
        "sent": number("sent"),
        "failed": number("failed"),
        "dropped": number("dropped"),
        "waiting": number("waiting"),
        "last_sent": time(number("last_sent")),
        "last_failure": time(number("last_failure")),
        "last_failure_message": get(of, "last_failure_message"),
    })
}

/// A host. Its lease is for ever (`"infinity"`) where it is the only one.
pub(super) fn host(of: &Dict) -> Value {
    let number = |key| super::client::number(of, key);
    let cordon = match of.contains_key("cordon") {
        true => {
            let cordon = dict(of, "cordon");
            json!({
                "reason": get(&cordon, "reason"),
                "actor": actor(&cordon),
                "at": time(super::client::number(&cordon, "at")),
                "drain_until": time(super::client::number(&cordon, "drain_until")),
            })
        }
        false => Value::Null,
    };
    json!({
        "id": get(of, "id"),
        "name": get(of, "name"),
        "local": get(of, "local"),
        "state": get(of, "state"),
        "ready": get(of, "ready"),
        "live": get(of, "live"),
        "queued": get(of, "queued"),
        "max_runners": get(of, "max_runners"),
        "cordon": cordon,
        "lease_remaining_usec": match number("lease_remaining") {
            Some(INFINITY) => json!("infinity"),
            left => json!(left),
        },
        "version": get(of, "version"),
        "labels": get(of, "labels"),
        "advertise": get(of, "advertise"),
        "boot_id": get(of, "boot_id"),
        "epoch": get(of, "epoch"),
        "joined_at": time(number("joined_at")),
        "renewed_at": time(number("renewed_at")),
        "fenced_after_usec": get(of, "fenced_after"),
        "cpus": get(of, "cpus"),
        "memory_total_bytes": get(of, "memory_total"),
        "memory_promised_bytes": get(of, "memory_promised"),
    })
}

/// This host's place in its fleet; `null` where there is none.
pub(super) fn lease(of: &Dict) -> Value {
    if of.is_empty() {
        return Value::Null;
    }
    json!({
        "epoch": get(of, "epoch"),
        "joined_at": time(super::client::number(of, "joined_at")),
        "remaining_usec": get(of, "remaining"),
        "self_fence": get(of, "self_fence"),
        "self_fence_note": get(of, "self_fence_note"),
        "stops_in_usec": get(of, "stops_in"),
    })
}

/// The fleet.
pub(super) fn fleet(of: &Dict) -> Value {
    json!({
        "max_runners": get(of, "max_runners"),
        "live": get(of, "live"),
        "queued": get(of, "queued"),
        "hosts": get(of, "hosts"),
    })
}

/// Who: all keys are there.
fn actor(of: &Dict) -> Value {
    let actor = dict(of, "actor");
    json!({"uid": get(&actor, "uid"), "user": get(&actor, "user"), "host": get(&actor, "host")})
}

/// A project.
pub(super) fn project(of: &Dict) -> Value {
    json!({
        "name": text(of, "name"),
        "description": text(of, "description"),
        "max_runners": get(of, "max_runners"),
        "max_queued": get(of, "max_queued"),
        "default_tokens": get(of, "default_tokens"),
        "live": get(of, "live"),
        "queued": get(of, "queued"),
        "limits": limits(&dict(of, "limits")),
        "warnings": warnings(of),
        "slice": text(of, "slice"),
        "created_at": time(super::client::number(of, "created_at")),
    })
}

/// An event.
pub(super) fn event(of: &Dict) -> Value {
    json!({
        "seq": get(of, "seq"),
        "type": text(of, "type"),
        "project": text(of, "project"),
        "subject": text(of, "subject"),
        "runnerseq": get(of, "runnerseq"),
        "time": time(super::client::number(of, "time")),
        "actor": actor(of),
        "data": get(of, "data"),
    })
}

/// A step of a reconciliation.
pub(super) fn step(of: &Dict) -> Value {
    json!({
        "runner": text(of, "runner"),
        "step": text(of, "step"),
        "message": text(of, "message"),
        "cause": get(&dict(of, "exit"), "cause"),
    })
}

/// One gate of a launch.
pub(super) fn gate(of: &Dict) -> Value {
    json!({
        "name": text(of, "name"),
        "subject": text(of, "subject"),
        "limit": get(of, "limit"),
        "used": get(of, "used"),
        "reserved": get(of, "reserved"),
        "requested": get(of, "requested"),
        "open": get(of, "open"),
        "note": get(of, "note"),
        "message": get(of, "message"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::OwnedVariant;

    fn owned(value: impl Into<Variant<'static>>) -> OwnedVariant {
        value
            .into()
            .try_into_owned()
            .unwrap_or_else(|_| false.into())
    }

    #[test]
    fn the_keys_are_those_of_the_contract() {
        let value = runner(&Dict::new());
        let keys: Vec<&str> = value
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, _)| k.as_str())
            .collect();
        let mut want = vec![
            "id",
            "name",
            "project",
            "host",
            "user",
            "state",
            "command",
            "unit",
            "labels",
            "session",
            "priority",
            "created_at",
            "started_at",
            "ended_at",
            "limits",
            "exit",
            "usage",
        ];
        want.sort_unstable();
        let mut keys = keys;
        keys.sort_unstable();
        assert_eq!(keys, want);
        assert_eq!(value["exit"], Value::Null);
        assert_eq!(value["limits"]["memory_max"], Value::Null);
    }

    #[test]
    fn values_are_as_written_there() {
        let limits = Dict::from([
            ("memory-max".to_owned(), owned(INFINITY)),
            ("tasks-max".to_owned(), owned(5u64)),
            ("kill-signal".to_owned(), owned(9i32)),
        ]);
        let exit = Dict::from([
            ("cause".to_owned(), owned("signal")),
            ("signal".to_owned(), owned(9i32)),
        ]);
        let value = runner(&Dict::from([
            ("id".to_owned(), owned("x")),
            ("limits".to_owned(), owned(limits)),
            ("exit".to_owned(), owned(exit)),
            ("created_at".to_owned(), owned(1_700_000_000_123_456u64)),
        ]));
        assert_eq!(value["limits"]["memory_max"], "infinity");
        assert_eq!(value["limits"]["tasks_max"], 5);
        assert_eq!(value["limits"]["kill_signal"], "SIGKILL");
        assert_eq!(value["exit"]["signal"], "SIGKILL");
        assert_eq!(value["exit"]["code"], Value::Null);
        assert_eq!(value["created_at"], "2023-11-14T22:13:20.123456Z");
    }
}
