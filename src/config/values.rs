//! Numbers as the files have them.

use toml::de::DeValue;

pub(super) fn integer(value: &DeValue<'_>) -> Result<u64, String> {
    match value {
        DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
            .map_err(|_| "give a whole number that is not negative".to_owned()),
        _ => Err("give a whole number".to_owned()),
    }
}

pub(super) fn number(value: &DeValue<'_>, least: u32, most: u32) -> Result<u32, String> {
    let number = integer(value)?;
    u32::try_from(number)
        .ok()
        .filter(|n| (least..=most).contains(n))
        .ok_or_else(|| format!("{number} is not from {least} to {most}"))
}

/// A cap of at most so many; `None` = there is none, which 0 says, too.
pub(super) fn cap(value: &DeValue<'_>, most: u32) -> Result<Option<u32>, String> {
    match value {
        DeValue::String(word) if word == "infinity" => Ok(None),
        DeValue::String(word) => {
            let word = crate::domain::name::shown(word);
            Err(format!("{word} is neither a whole number nor \"infinity\""))
        }
        _ => number(value, 0, most).map(|n| (n > 0).then_some(n)),
    }
}
