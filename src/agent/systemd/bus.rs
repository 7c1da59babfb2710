//! systemd's interface on the bus, and its errors.

use zbus::{DBusError, OwnedObjectPath, Variant, proxy};

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
pub(super) trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    #[allow(clippy::type_complexity)]
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        aux: &[(&str, Vec<(&str, Variant<'_>)>)],
    ) -> zbus::Result<OwnedObjectPath>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn freeze_unit(&self, name: &str) -> zbus::Result<()>;
    fn thaw_unit(&self, name: &str) -> zbus::Result<()>;
    fn set_unit_properties(
        &self,
        name: &str,
        runtime: bool,
        properties: &[(&str, Variant<'_>)],
    ) -> zbus::Result<()>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn list_units_by_patterns(
        &self,
        states: &[&str],
        patterns: &[&str],
    ) -> zbus::Result<Vec<Listed>>;
    #[zbus(property)]
    fn control_group(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn default_tasks_max(&self) -> zbus::Result<u64>;
    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
    #[zbus(signal)]
    fn reloading(&self, active: bool) -> zbus::Result<()>;
}

/// Name, description, load state, active state, sub state, followed unit, path, and the job's
/// id, type and path.
pub(super) type Listed = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);

/// Why systemd did not do it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(in crate::agent) struct Fault {
    pub(super) name: String,
    message: String,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            name: String::new(),
            message: message.into(),
        }
    }

    /// It knows no such unit, or has it no longer loaded.
    pub(in crate::agent) fn is_no_such_unit(&self) -> bool {
        self.name == "org.freedesktop.systemd1.NoSuchUnit"
    }

    /// The name is taken.
    pub(in crate::agent) fn is_unit_exists(&self) -> bool {
        self.name == "org.freedesktop.systemd1.UnitExists"
    }

    /// It does not know this property of a new unit.
    pub(super) fn is_unknown_property(&self, property: &str) -> bool {
        self.name.starts_with("org.freedesktop.DBus.Error.") && self.message.contains(property)
    }
}

impl From<zbus::Error> for Fault {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, message, _) => Self {
                message: message.unwrap_or_else(|| name.to_string()),
                name: name.to_string(),
            },
            zbus::Error::FDO(error) => Self {
                name: DBusError::name(&*error).to_string(),
                message: error.description().unwrap_or_default().to_owned(),
            },
            other => Self::new(format!("no answer from systemd: {other}")),
        }
    }
}

impl From<zbus::fdo::Error> for Fault {
    fn from(error: zbus::fdo::Error) -> Self {
        zbus::Error::from(error).into()
    }
}
