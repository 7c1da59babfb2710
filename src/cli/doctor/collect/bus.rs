//! What the bus tells, and polkit by it.

use super::super::facts::{Audit, Bus, Call, Caller, Daemon, Outbox, Polkit};
use super::{ANSWER, files, systemctl};
use crate::api::auth::ACTIONS;
use crate::api::proxy::{Given, ManagerProxy};
use crate::cli::agent::Away;
use crate::cli::bus::{connect, is_user};
use crate::cli::client::{number, text};
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zbus::fdo::{DBusProxy, RequestNameFlags};
use zbus::proxy::{CacheProperties, MethodFlags};
use zbus::{Connection, Variant};
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

const NAME: &str = "org.stratavore1";
/// A bus or daemon that needs longer does not answer.
const REPLY: Duration = Duration::from_secs(5);

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = zbus::Result<T>>,
) -> Result<T, String> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("no reply".to_owned()),
    }
}

/// The bus and polkit, each as far as it answers.
pub(super) async fn bus(caller: &Caller, daemon_runs: bool) -> (Bus, Option<Polkit>) {
    let mut bus = Bus {
        policies: files::installed(
            &[
                "/usr/share/dbus-1/system.d",
                "/etc/dbus-1/system.d",
                // NixOS: by way of services.dbus.packages, of which the system's path is one.
                "/run/current-system/sw/share/dbus-1/system.d",
            ],
            "org.stratavore1.conf",
        )
        .unwrap_or_default(),
        limits: configured(),
        broker: systemctl(&["show", "--value", "-p", "Id", "dbus.service"])
            .await
            .is_some_and(|id| id == "dbus-broker.service"),
        ..Bus::default()
    };
    let connection = match within(ANSWER, connect()).await {
        Ok(connection) => connection,
        Err(why) => {
            bus.unreachable = Some(why);
            return (bus, None);
        }
    };
    let Ok(driver) = within(REPLY, DBusProxy::new(&connection)).await else {
        bus.unreachable = Some("it does not answer".to_owned());
        return (bus, None);
    };
    let owns = async |name: &str| {
        let Ok(name) = name.to_owned().try_into() else {
            return false;
        };
        tokio::time::timeout(REPLY, driver.name_has_owner(name))
            .await
            .is_ok_and(|owned| owned.unwrap_or(false))
    };
    bus.owned = owns(NAME).await;
    if let Ok(Ok(names)) = tokio::time::timeout(REPLY, driver.list_activatable_names()).await {
        bus.activatable = names.iter().any(|n| n.as_str() == NAME);
    }
    bus.call = call(&connection).await;
    if bus.call == Call::Answered {
        bus.daemon = within(REPLY, daemon(&connection)).await.ok();
    }
    if let Some(daemon) = &mut bus.daemon {
        // A call that may wait for others of this user: the rest is known without it.
        let told = within(REPLY, outbox(&connection)).await;
        daemon.outbox = told.unwrap_or_default();
    }
    // As root nobody is in the way of: the name is free, and the daemon is not about to take it.
    if caller.is_root() && !bus.owned && !daemon_runs {
        bus.may_own = Some(own(&connection).await);
    }
    let polkit = match is_user() {
        true => None,
        false => polkit(&connection).await,
    };
    // Who may not look is not refused, which would be written down.
    let granted = |p: &Polkit| p.granted.iter().any(|a| a == "org.stratavore1.read-audit");
    let may = is_user() || caller.is_root() || polkit.as_ref().is_some_and(granted);
    if let Some(daemon) = &mut bus.daemon
        && daemon.audit == Audit::Kept
        && may
    {
        daemon.audit = audit(&connection).await;
    }
    (bus, polkit)
}

/// A call that starts nothing.
async fn call(connection: &Connection) -> Call {
    let proxy = zbus::proxy::Builder::<zbus::Proxy<'_>>::new(connection)
        .destination(NAME)
        .path("/org/stratavore1")
        .interface("org.freedesktop.DBus.Peer")
        .cache_properties(CacheProperties::No)
        .build();
    let proxy = match proxy.await {
        Ok(proxy) => proxy,
        Err(error) => return Call::Failed(error.to_string()),
    };
    let ping = proxy.call_with_flags::<_, _, ()>("Ping", MethodFlags::NO_AUTO_START, &());
    match tokio::time::timeout(REPLY, ping).await {
        Ok(Ok(_)) => Call::Answered,
        Ok(Err(error)) => refused(&error),
        Err(_) => Call::Silent,
    }
}

fn refused(error: &zbus::Error) -> Call {
    let (name, message) = match error {
        zbus::Error::MethodError(name, message, _) => {
            (name.to_string(), message.clone().unwrap_or_default())
        }
        zbus::Error::FDO(error) => (
            zbus::DBusError::name(&**error).to_string(),
            zbus::DBusError::description(&**error)
                .unwrap_or_default()
                .to_owned(),
        ),
        other => return Call::Failed(other.to_string()),
    };
    match name.rsplit('.').next().unwrap_or_default() {
        "AccessDenied" => Call::Denied(message),
        "ServiceUnknown" | "NameHasNoOwner" => Call::Nobody,
        "NoReply" | "Timeout" | "TimedOut" => Call::Silent,
        _ => Call::Failed(format!("{name}: {message}")),
    }
}

async fn daemon(connection: &Connection) -> zbus::Result<Daemon> {
    let manager = ManagerProxy::builder(connection)
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    Ok(Daemon {
        version: manager.version().await?,
        store: manager.store().await?,
        agent_away: Away::told(&manager.agent().await.unwrap_or_default()).map(Away::said),
        not_ready: manager.not_ready().await.unwrap_or_default(),
        live: manager.live_runners().await?,
        // An earlier stratavored does not tell it.
        notifications: manager.notifications().await.unwrap_or_default(),
        outbox: Outbox::default(),
        audit: match manager.audit().await.unwrap_or_default().as_str() {
            "ok" => Audit::Kept,
            "unconfigured" => Audit::Unconfigured,
            _ => Audit::Untold,
        },
    })
}

/// Looks at the whole of this host's audit.
async fn audit(connection: &Connection) -> Audit {
    let told = async {
        let manager = ManagerProxy::builder(connection)
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        manager.verify_audit("", &Given::new()).await
    };
    match tokio::time::timeout(ANSWER, told).await {
        Err(_) => Audit::Long,
        Ok(Err(error)) => Audit::Failed(error.to_string()),
        Ok(Ok(report)) => Audit::Seen {
            verdict: text(&report, "verdict").to_owned(),
            message: text(&report, "message").to_owned(),
        },
    }
}

/// An older daemon tells nothing of it.
async fn outbox(connection: &Connection) -> zbus::Result<Outbox> {
    let manager = ManagerProxy::builder(connection)
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    let told = manager.describe_outbox(&Given::new()).await?;
    let count = |key: &str| number(&told, key).unwrap_or_default();
    Ok(Outbox {
        broker: text(&told, "broker").to_owned(),
        why: text(&told, "why").to_owned(),
        blocked: matches!(told.get("blocked").map(|v| &**v), Some(Variant::Bool(true))),
        pending: count("pending"),
        parked: count("parked"),
        refused: count("refused"),
        age: number(&told, "oldest").map_or(0, age),
    })
}

/// How long ago this moment was, in µs since 1970.
fn age(moment: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
    now.saturating_sub(moment)
}

/// Takes the name and gives it back.
async fn own(connection: &Connection) -> Result<(), String> {
    let took = within(
        REPLY,
        connection.request_name_with_flags(NAME, RequestNameFlags::DO_NOT_QUEUE),
    )
    .await;
    match took {
        Ok(_) => {
            let _ = within(REPLY, connection.release_name(NAME)).await;
            Ok(())
        }
        // Somebody was faster, so it can be had.
        Err(why) if why.contains("taken") => Ok(()),
        Err(why) => Err(why),
    }
}

async fn polkit(connection: &Connection) -> Option<Polkit> {
    let authority = AuthorityProxy::builder(connection)
        .cache_properties(CacheProperties::No)
        .build();
    let authority = within(REPLY, authority).await.ok()?;
    let known = within(ANSWER, authority.enumerate_actions("")).await.ok()?;
    let rules = [
        "/usr/share/polkit-1/rules.d",
        "/etc/polkit-1/rules.d",
        "/usr/local/share/polkit-1/rules.d",
        "/run/current-system/sw/share/polkit-1/rules.d",
    ];
    let mut polkit = Polkit {
        actions: known
            .into_iter()
            .map(|a| a.action_id)
            .filter(|id| id.starts_with(NAME))
            .collect(),
        rules: files::installed(&rules, "50-stratavore.rules").map(|found| !found.is_empty()),
        granted: Vec::new(),
    };
    let subject = Subject::new_for_pid(std::process::id(), None, None).ok()?;
    for action in ACTIONS
        .into_iter()
        .filter(|a| polkit.actions.iter().any(|known| known == a))
    {
        let details = HashMap::new();
        let asked = authority.check_authorization(
            &subject,
            action,
            &details,
            CheckAuthorizationFlags::empty(),
            "",
        );
        if within(ANSWER, asked)
            .await
            .is_ok_and(|answer| answer.is_authorized)
        {
            polkit.granted.push(action.to_owned());
        }
    }
    Some(polkit)
}

/// The limits that dbus-daemon is told to have, in the order in which it reads its files.
fn configured() -> BTreeMap<String, u64> {
    let mut files: Vec<PathBuf> = Vec::new();
    for (main, folder) in [
        (
            "/usr/share/dbus-1/system.conf",
            "/usr/share/dbus-1/system.d",
        ),
        ("/etc/dbus-1/system.conf", "/etc/dbus-1/system.d"),
    ] {
        files.push(main.into());
        let mut drop_ins: Vec<PathBuf> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .collect();
        drop_ins.sort();
        files.extend(drop_ins);
    }
    files.push("/etc/dbus-1/system-local.conf".into());
    let texts = files.iter().filter_map(|f| std::fs::read_to_string(f).ok());
    texts.flat_map(|text| limits(&text)).collect()
}

/// `<limit name="…">…</limit>` outside of comments.
fn limits(text: &str) -> Vec<(String, u64)> {
    let mut bare = String::new();
    let mut rest = text;
    while let Some((before, comment)) = rest.split_once("<!--") {
        bare.push_str(before);
        rest = comment.split_once("-->").map_or("", |(_, after)| after);
    }
    bare.push_str(rest);
    let limit = |element: &str| {
        let (_, named) = element.split_once("name=")?;
        let quote = named.chars().next()?;
        let (name, after) = named.get(1..)?.split_once(quote)?;
        let value = after.split_once('>')?.1.split('<').next()?.trim();
        Some((name.to_owned(), value.parse().ok()?))
    };
    bare.split("<limit").skip(1).filter_map(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_outside_of_comments() {
        let text = "<busconfig><!-- <limit name=\"a\">1</limit> --><limit name=\"b\">20</limit>\n<limit name='c'> 3 </limit><!-- <limit";
        assert_eq!(limits(text), [("b".to_owned(), 20), ("c".to_owned(), 3)]);
    }

    proptest! {
        #[test]
        fn no_configuration_makes_it_panic(text in "(<limit|name=|\"|'|>|<|é|<!--|-->|[0-9]| ){0,20}") {
            let _ = limits(&text);
        }
    }
}
