//! The one connection to systemd: units, their jobs and properties.

mod bus;
mod jobs;

pub(super) use bus::Fault;

use super::log;
use super::properties::{Properties, Property};
use crate::domain::kinds;
use bus::ManagerProxy;
use futures_util::StreamExt;
use jobs::{Waiter, Waiters, tell};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use zbus::fdo::PropertiesProxy;
use zbus::proxy::CacheProperties;
use zbus::{Connection, Fd, OwnedObjectPath, OwnedVariant, Variant};

/// Scopes being made at a time: systemd is one thread, more only queue up in it.
const STARTS: usize = 12;
/// Calls without an answer yet at a time: dbus-daemon allows 128 per connection.
const CALLS: usize = 96;
/// How long systemd may take for one call. A busy host has shown several seconds.
const CALL: Duration = Duration::from_secs(45);
/// How long a job may take.
const JOB: Duration = Duration::from_secs(60);
/// How often to look ourselves while a job's signal is awaited: it may have got lost when
/// systemd was re-executed.
const LOOK: Duration = Duration::from_secs(2);

/// systemd, system or user manager.
#[derive(Debug)]
pub(super) struct Systemd {
    connection: Connection,
    manager: ManagerProxy<'static>,
    waiters: Waiters,
    starts: Semaphore,
    calls: Semaphore,
    pidfds: AtomicBool,
    /// Whether scopes have an OOM policy here.
    pub(super) knows_oom_policy: bool,
}

impl Systemd {
    /// Connects and subscribes, before anything is asked for.
    pub(super) async fn connect(user: bool) -> Result<Self, Fault> {
        let builder = match user {
            true => crate::bus::user(),
            false => zbus::connection::Builder::system(),
        };
        let connection = builder.method_timeout(CALL).build().await?;
        let manager = ManagerProxy::builder(&connection)
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        let waiters = Waiters::default();
        let mut removed = manager.receive_job_removed().await?;
        let told = waiters.clone();
        tokio::spawn(async move {
            while let Some(signal) = removed.next().await {
                if let Ok(args) = signal.args() {
                    tell(&told, args.unit(), args.job(), args.result());
                }
            }
        });
        // A systemd that was re-executed may have forgotten who listens; to say it twice is an
        // error that means nothing.
        let mut reloading = manager.receive_reloading().await?;
        let again = manager.clone();
        tokio::spawn(async move {
            while let Some(signal) = reloading.next().await {
                if signal.args().is_ok_and(|a| !*a.active()) {
                    log::info(kinds::SYSTEMD, "systemd has reloaded.");
                    let _ = again.subscribe().await;
                }
            }
        });
        let mut owners = manager.inner().receive_owner_changed().await?;
        let again = manager.clone();
        tokio::spawn(async move {
            while let Some(owner) = owners.next().await {
                if owner.is_some() {
                    let _ = again.subscribe().await;
                }
            }
        });
        manager.subscribe().await?;
        let mut systemd = Self {
            connection,
            manager,
            waiters,
            starts: Semaphore::new(STARTS),
            calls: Semaphore::new(CALLS),
            pidfds: AtomicBool::new(true),
            knows_oom_policy: false,
        };
        systemd.knows_oom_policy = systemd
            .property::<String>("init.scope", SCOPE, "OOMPolicy")
            .await
            .is_ok();
        Ok(systemd)
    }

    /// Returns when the bus is gone. There is nothing to mend: the next agent adopts all.
    pub(super) async fn closed(&self) {
        self.connection.closed().await;
    }

    async fn call<T>(&self, call: impl Future<Output = zbus::Result<T>>) -> Result<T, Fault> {
        let _permit = self.calls.acquire().await;
        call.await.map_err(Fault::from)
    }

    /// Runs a job of a unit to its end.
    async fn job(
        &self,
        unit: &str,
        call: impl Future<Output = zbus::Result<OwnedObjectPath>>,
        most: Duration,
    ) -> Result<(), Fault> {
        let mut waiter = Waiter::new(&self.waiters, unit);
        let job = self.call(call).await?;
        let ended = async {
            loop {
                match tokio::time::timeout(LOOK, waiter.results.recv()).await {
                    Ok(Some((path, result))) if path == job => return result,
                    Ok(_) => {}
                    // Whoever waits looks at the outcome itself; here only the job's end counts.
                    Err(_) if !self.exists(&job).await => return "done".to_owned(),
                    Err(_) => {}
                }
            }
        };
        match tokio::time::timeout(most, ended).await {
            Ok(result) if result == "done" => Ok(()),
            Ok(result) => Err(Fault::new(format!(
                "systemd's job for {unit} ended with “{result}”"
            ))),
            Err(_) => Err(Fault::new(format!(
                "systemd's job for {unit} did not end within {} s",
                most.as_secs()
            ))),
        }
    }

    async fn exists(&self, object: &OwnedObjectPath) -> bool {
        let call = self.get(object, "org.freedesktop.systemd1.Job", "JobType");
        !matches!(call.await, Err(f) if f.name.ends_with(".UnknownObject") || f.name.ends_with(".UnknownMethod"))
    }

    /// Makes a scope with one process in it, which is named by the pidfd where this systemd
    /// knows them, else by its pid (it is ours and not reaped, so the pid is its own).
    pub(super) async fn start_scope(
        &self,
        unit: &str,
        properties: &Properties,
        pid: u32,
        pidfd: BorrowedFd<'_>,
    ) -> Result<(), Fault> {
        let _permit = self.starts.acquire().await;
        if self.pidfds.load(Ordering::Relaxed) {
            let process = ("PIDFDs", Variant::from(vec![Fd::from(pidfd)]));
            match self.start_transient(unit, properties, Some(process)).await {
                Err(fault) if fault.is_unknown_property("PIDFDs") => {
                    self.pidfds.store(false, Ordering::Relaxed)
                }
                other => return other,
            }
        }
        let process = ("PIDs", Variant::from(vec![pid]));
        self.start_transient(unit, properties, Some(process)).await
    }

    /// Makes a slice.
    pub(super) async fn start_slice(
        &self,
        unit: &str,
        properties: &Properties,
    ) -> Result<(), Fault> {
        self.start_transient(unit, properties, None).await
    }

    async fn start_transient(
        &self,
        unit: &str,
        properties: &Properties,
        process: Option<(&str, Variant<'_>)>,
    ) -> Result<(), Fault> {
        let mut all = variants(properties);
        all.extend(process);
        self.job(
            unit,
            self.manager.start_transient_unit(unit, "fail", &all, &[]),
            JOB,
        )
        .await
    }

    /// Starts a loaded unit.
    pub(super) async fn start(&self, unit: &str) -> Result<(), Fault> {
        self.job(unit, self.manager.start_unit(unit, "fail"), JOB)
            .await
    }

    /// Stops a unit; one that is not loaded is stopped.
    pub(super) async fn stop(&self, unit: &str) -> Result<(), Fault> {
        self.stop_within(unit, JOB).await
    }

    /// The same for a unit that may take so long to end.
    pub(super) async fn stop_within(&self, unit: &str, most: Duration) -> Result<(), Fault> {
        match self
            .job(unit, self.manager.stop_unit(unit, "replace"), most)
            .await
        {
            Err(fault) if fault.is_no_such_unit() => Ok(()),
            other => other,
        }
    }

    /// Freezes a unit; returns when it is frozen.
    pub(super) async fn freeze(&self, unit: &str) -> Result<(), Fault> {
        self.call(self.manager.freeze_unit(unit)).await
    }

    /// Thaws a unit; returns when it is.
    pub(super) async fn thaw(&self, unit: &str) -> Result<(), Fault> {
        self.call(self.manager.thaw_unit(unit)).await
    }

    /// Changes properties until the next boot.
    pub(super) async fn set(&self, unit: &str, properties: &Properties) -> Result<(), Fault> {
        let all = variants(properties);
        self.call(self.manager.set_unit_properties(unit, true, &all))
            .await
    }

    /// Lets go of a failed unit. One that has not failed is fine.
    pub(super) async fn reset_failed(&self, unit: &str) -> Result<(), Fault> {
        match self.call(self.manager.reset_failed_unit(unit)).await {
            Err(fault) if fault.is_no_such_unit() => Ok(()),
            other => other,
        }
    }

    /// Names and active states of the loaded units that match.
    pub(super) async fn list(&self, pattern: &str) -> Result<Vec<(String, String)>, Fault> {
        let patterns = [pattern];
        let all = self
            .call(self.manager.list_units_by_patterns(&[], &patterns))
            .await?;
        Ok(all.into_iter().map(|u| (u.0, u.3)).collect())
    }

    /// The manager's own cgroup, below which its slices are.
    pub(super) async fn control_group(&self) -> Result<String, Fault> {
        self.call(self.manager.control_group()).await
    }

    /// Tasks of a unit without a limit of its own.
    pub(super) async fn default_tasks_max(&self) -> Result<u64, Fault> {
        self.call(self.manager.default_tasks_max()).await
    }

    /// One property of a unit.
    pub(super) async fn property<T: TryFrom<OwnedVariant>>(
        &self,
        unit: &str,
        interface: &str,
        name: &str,
    ) -> Result<T, Fault> {
        let path = OwnedObjectPath::try_from(unit_path(unit))?;
        let value = self.get(&path, interface, name).await?;
        T::try_from(value)
            .map_err(|_| Fault::new(format!("{name} of {unit} has another type than expected")))
    }

    async fn get(
        &self,
        path: &OwnedObjectPath,
        interface: &str,
        name: &str,
    ) -> Result<OwnedVariant, Fault> {
        let _permit = self.calls.acquire().await;
        let builder = PropertiesProxy::builder(&self.connection)
            .destination("org.freedesktop.systemd1")
            .path(path);
        let proxy = builder
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        let interface = zbus::names::InterfaceName::try_from(interface)?;
        Ok(proxy.get(interface, name).await?)
    }

    /// Numbers among a unit's properties, as they can be given back to [`Self::set`].
    pub(super) async fn numbers(
        &self,
        unit: &str,
        interface: &str,
        names: &[&'static str],
    ) -> Result<Properties, Fault> {
        let mut all = Properties::new();
        for name in names {
            all.push((
                name,
                Property::U64(self.property(unit, interface, name).await?),
            ));
        }
        Ok(all)
    }
}

/// The interface of scopes.
pub(super) const SCOPE: &str = "org.freedesktop.systemd1.Scope";
/// The interface of slices.
pub(super) const SLICE: &str = "org.freedesktop.systemd1.Slice";
/// The interface of all units.
pub(super) const UNIT: &str = "org.freedesktop.systemd1.Unit";

fn variants(properties: &Properties) -> Vec<(&str, Variant<'_>)> {
    let value = |property: &Property| match property {
        Property::U64(n) => Variant::from(*n),
        Property::I32(n) => Variant::from(*n),
        Property::Text(text) => Variant::from(text.clone()),
    };
    properties
        .iter()
        .map(|(name, p)| (*name, value(p)))
        .collect()
}

/// A unit's object path.
fn unit_path(unit: &str) -> String {
    let mut path = "/org/freedesktop/systemd1/unit/".to_owned();
    for (at, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_paths_as_systemd_makes_them() {
        assert_eq!(
            unit_path("init.scope"),
            "/org/freedesktop/systemd1/unit/init_2escope"
        );
        assert_eq!(
            unit_path("a-b@1.slice"),
            "/org/freedesktop/systemd1/unit/a_2db_401_2eslice"
        );
    }
}
