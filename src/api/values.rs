//! What is in the variants of an `a{sv}`: liberal in the widths of integers, strict in the rest.

use crate::domain::limits::Value;
use crate::domain::name::shown;
use crate::domain::nearest::nearest;
use crate::domain::units::INFINITY;
use crate::domain::{Error, ErrorKind, Limits, State, Timestamp, spec};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use zbus::{OwnedVariant, Variant};

/// The options of a call, as they come off the bus.
pub type Options = HashMap<String, OwnedVariant>;

/// A page holds at most so many rows.
pub const PAGE_MAX: u32 = 1_000;

/// Whom a launch is for, before the user database was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// By number.
    Uid(u32),
    /// By name.
    Name(String),
}

/// The same call always gets the same first complaint.
pub(super) fn in_order(options: &Options) -> Vec<(&str, &Variant<'static>)> {
    let mut all: Vec<_> = options
        .iter()
        .map(|(key, value)| (key.as_str(), &**value))
        .collect();
    all.sort_by_key(|(key, _)| *key);
    all
}

/// A variant in a variant is taken for what is in it.
pub(super) fn bare<'a>(value: &'a Variant<'static>) -> &'a Variant<'static> {
    match value {
        Variant::Variant(inner) => bare(inner),
        other => other,
    }
}

/// A number of any width, or text; `None` for anything else, negative numbers included.
pub(super) fn scalar<'a>(value: &'a Variant<'static>) -> Option<Value<'a>> {
    Some(match bare(value) {
        Variant::U8(n) => Value::Number((*n).into()),
        Variant::U16(n) => Value::Number((*n).into()),
        Variant::U32(n) => Value::Number((*n).into()),
        Variant::U64(n) => Value::Number(*n),
        Variant::I16(n) => Value::Number(u64::try_from(*n).ok()?),
        Variant::I32(n) => Value::Number(u64::try_from(*n).ok()?),
        Variant::I64(n) => Value::Number(u64::try_from(*n).ok()?),
        Variant::Str(text) => Value::Text(text.as_str()),
        _ => return None,
    })
}

pub(super) fn limit(limits: &mut Limits, key: &str, value: &Variant<'static>) -> Result<(), Error> {
    let expected = match key {
        "oom-policy" => "an s (continue, stop or kill)",
        "kill-signal" => "an i from 1 to 64, or an s such as “SIGTERM”",
        "cpu-quota" => "a t (µs of CPU per second), or an s such as “150%”",
        "runtime-max" | "stop-timeout" => "a t (µs), or an s such as “1h 30min”",
        "memory-max" | "memory-high" | "memory-swap-max" => "a t (bytes), or an s such as “1G”",
        _ => "a t, or an s with a number",
    };
    let value = scalar(value).ok_or_else(|| wrong(key, value, expected))?;
    limits.set(key, value)
}

pub(super) fn text<'a>(key: &str, value: &'a Variant<'static>) -> Result<&'a str, Error> {
    match bare(value) {
        Variant::Str(text) => Ok(text.as_str()),
        _ => Err(wrong(key, value, "an s")),
    }
}

pub(super) fn texts(key: &str, value: &Variant<'static>) -> Result<Vec<String>, Error> {
    let Variant::Array(array) = bare(value) else {
        return Err(wrong(key, value, "an as"));
    };
    array
        .inner()
        .iter()
        .map(|item| match item {
            Variant::Str(text) => Ok(text.as_str().to_owned()),
            _ => Err(wrong(key, value, "an as")),
        })
        .collect()
}

/// A copy of a descriptor of the call; it is closed with what is made of it.
pub(super) fn descriptor(key: &str, value: &Variant<'static>) -> Result<OwnedFd, Error> {
    let Variant::Fd(fd) = bare(value) else {
        return Err(wrong(key, value, "an h (a descriptor)"));
    };
    fd.as_fd().try_clone_to_owned().map_err(|e| {
        let why = format!("{key}: the descriptor can't be taken: {e}. Try again later.");
        Error::new(ErrorKind::HostUnavailable, why)
    })
}

pub(super) fn labels(
    key: &str,
    value: &Variant<'static>,
) -> Result<BTreeMap<String, String>, Error> {
    let Variant::Dict(dict) = bare(value) else {
        return Err(wrong(key, value, "an a{ss}"));
    };
    let mut out = BTreeMap::new();
    for (key_of, value_of) in dict.iter() {
        let (Variant::Str(k), Variant::Str(v)) = (key_of, value_of) else {
            return Err(wrong(key, value, "an a{ss}"));
        };
        out.insert(k.as_str().to_owned(), v.as_str().to_owned());
    }
    spec::check_labels(&out)?;
    Ok(out)
}

pub(super) fn user(key: &str, value: &Variant<'static>) -> Result<User, Error> {
    const EXPECTED: &str = "an s with a user's name or number, or a u";
    match scalar(value).ok_or_else(|| wrong(key, value, EXPECTED))? {
        // The last two uids mean "none" to the kernel.
        Value::Number(n) => match u32::try_from(n) {
            Ok(uid) if uid < u32::MAX - 1 && uid != 65_535 => Ok(User::Uid(uid)),
            _ => Err(Error::invalid(format!("uid={n} is not a user."))),
        },
        Value::Text(text) => match text.parse::<u32>() {
            Ok(uid) if uid < u32::MAX - 1 && uid != 65_535 => Ok(User::Uid(uid)),
            _ if text.is_empty() || text.len() > 256 || text.contains(['/', ':', '\0']) => Err(
                Error::invalid(format!("“{}” is not the name of a user.", shown(text))),
            ),
            _ => Ok(User::Name(text.to_owned())),
        },
    }
}

pub(super) fn states(key: &str, value: &Variant<'static>) -> Result<Vec<State>, Error> {
    let words = match bare(value) {
        Variant::Str(text) => vec![text.as_str().to_owned()],
        Variant::Array(_) => texts(key, value)?,
        _ => return Err(wrong(key, value, "an s or an as")),
    };
    words
        .iter()
        .map(|word| {
            State::parse(word).ok_or_else(|| {
                Error::invalid(format!(
                    "“{}” is not a state; there are {}.",
                    shown(word),
                    State::ALL.map(State::as_str).join(", ")
                ))
            })
        })
        .collect()
}

pub(super) fn time(key: &str, value: &Variant<'static>) -> Result<Timestamp, Error> {
    match scalar(value) {
        Some(Value::Number(n)) => Ok(Timestamp(n)),
        _ => Err(wrong(key, value, "a t (µs since 1970)")),
    }
}

pub(super) fn page(key: &str, value: &Variant<'static>) -> Result<u32, Error> {
    match scalar(value) {
        Some(Value::Number(n)) if (1..=u64::from(PAGE_MAX)).contains(&n) => Ok(n as u32),
        Some(Value::Number(n)) => Err(Error::invalid(format!(
            "limit={n}: a page has 1 to {PAGE_MAX} rows; ask for the next page with “after”."
        ))),
        _ => Err(wrong(key, value, "a u")),
    }
}

/// A whole number, also as text.
pub(super) fn integer(key: &str, value: &Variant<'static>) -> Result<i32, Error> {
    let number = match bare(value) {
        Variant::I16(n) => Some(i32::from(*n)),
        Variant::I32(n) => Some(*n),
        Variant::I64(n) => i32::try_from(*n).ok(),
        Variant::Str(text) => text.as_str().trim().parse().ok(),
        _ => match scalar(value) {
            Some(Value::Number(n)) => i32::try_from(n).ok(),
            _ => None,
        },
    };
    number.ok_or_else(|| wrong(key, value, "an i (or an s such as “10”)"))
}

/// A number, also as text; infinity is the highest one.
pub(super) fn count(key: &str, value: &Variant<'static>) -> Result<u64, Error> {
    match scalar(value) {
        Some(Value::Number(n)) => Ok(n),
        Some(Value::Text("infinity")) => Ok(INFINITY),
        Some(Value::Text(text)) => text
            .trim()
            .parse()
            .map_err(|_| Error::invalid(format!("{key}: “{}” is not a number.", shown(text)))),
        None => Err(wrong(key, value, "a t (or an s such as “100”)")),
    }
}

/// A boolean.
pub(super) fn boolean(key: &str, value: &Variant<'static>) -> Result<bool, Error> {
    match bare(value) {
        Variant::Bool(yes) => Ok(*yes),
        _ => Err(wrong(key, value, "a b")),
    }
}

pub(super) fn wrong(key: &str, value: &Variant<'static>, expected: &str) -> Error {
    Error::invalid(format!(
        "{key}: {expected} is expected, not {}.",
        match bare(value) {
            Variant::I16(n) => format!("{n}"),
            Variant::I32(n) => format!("{n}"),
            Variant::I64(n) => format!("{n}"),
            other => format!(
                "a value of type {}",
                shown(&other.value_signature().to_string())
            ),
        }
    ))
}

pub(super) fn unknown(key: &str, known: &[&str]) -> Error {
    Error::invalid(match nearest(key, known.iter().copied()) {
        Some(near) => format!("There is no option “{}”; did you mean {near}?", shown(key)),
        None => format!(
            "There is no option “{}”; there are {}.",
            shown(key),
            known.join(", ")
        ),
    })
}
