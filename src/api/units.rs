//! The systemd unit of a caller, which the audit tells beside its user: as systemd itself has it, since this
//! daemon's sandbox shows no other user's processes.

use super::callers::{CACHE_MAX, Process};
use crate::domain::event::Unit;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use zbus::{Connection, OwnedObjectPath, proxy};

/// What it says of a process that is in none.
const NO_UNIT: &str = "org.freedesktop.systemd1.NoUnitForPID";
/// Where systemd has its units.
const UNITS: &str = "/org/freedesktop/systemd1/unit/";

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Systemd {
    #[zbus(name = "GetUnitByPID")]
    fn get_unit_by_pid(&self, pid: u32) -> zbus::Result<OwnedObjectPath>;
}

/// The units behind unique names.
#[derive(Debug)]
pub(super) struct Units {
    systemd: SystemdProxy<'static>,
    known: Mutex<HashMap<String, Option<Unit>>>,
}

impl Units {
    pub(super) async fn new(lookups: &Connection) -> zbus::Result<Self> {
        Ok(Self {
            systemd: SystemdProxy::new(lookups).await?,
            known: Mutex::default(),
        })
    }

    /// `None`: it was not looked for yet.
    pub(super) fn known(&self, unique_name: &str) -> Option<Option<Unit>> {
        self.lock().get(unique_name).cloned()
    }

    /// Asks systemd. It knows a process by its number; that it was this one's all the while shows afterwards, where
    /// the bus has given a descriptor of the process.
    pub(super) async fn find(&self, unique_name: &str, process: &Process) -> Option<Unit> {
        let answer = self.systemd.get_unit_by_pid(process.pid).await;
        let sure = process.is_surely_it();
        let found = match answer {
            // Its process is gone, and the number may be another one's.
            Ok(_) if process.handle.is_some() && !sure => None,
            Ok(path) => name(path.as_str()).map(|name| Unit { name, sure }),
            // It is in none that systemd knows, as a kernel's or a container's process.
            Err(zbus::Error::MethodError(name, ..)) if name.as_str() == NO_UNIT => None,
            // It may answer the next time.
            Err(_) => return None,
        };
        let mut known = self.lock();
        if known.len() >= CACHE_MAX {
            known.clear();
        }
        known.insert(unique_name.to_owned(), found.clone());
        found
    }

    /// A connection is gone.
    pub(super) fn gone(&self, unique_name: &str) {
        self.lock().remove(unique_name);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Option<Unit>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of the unit at this path: what is no letter or digit stands there as `_` with its number.
fn name(path: &str) -> Option<String> {
    let mut bytes = path.strip_prefix(UNITS)?.bytes();
    let mut name = Vec::new();
    while let Some(byte) = bytes.next() {
        match byte {
            b'_' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                name.push(u8::try_from(high * 16 + low).ok()?);
            }
            other => name.push(other),
        }
    }
    String::from_utf8(name).ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_units_by_their_paths() {
        let at = |end: &str| name(&format!("{UNITS}{end}"));
        assert_eq!(
            at("session_2d3_2escope").as_deref(),
            Some("session-3.scope")
        );
        assert_eq!(
            at("user_401000_2eservice").as_deref(),
            Some("user@1000.service")
        );
        for none in ["", "_", "a_2", "a_zz", "a_ff"] {
            assert_eq!(at(none), None, "{none}");
        }
        assert_eq!(name("/org/freedesktop/systemd1"), None);
    }
}
