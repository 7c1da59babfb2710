//! `store migrate`: from the embedded store to the fleet's. stratavored does the work, as its own
//! user and with its credentials: it is started once for this by systemd-run.

use super::failure::{FAILED, Failure, NOT_PERMITTED, Result, USAGE};
use super::out::Out;
use super::{Global, bus};
use crate::places::Places;
use clap::{Args, Subcommand, ValueHint};
use std::path::PathBuf;
use std::process::Stdio;
use tokio::process::Command;
use zbus::proxy;

const UNIT: &str = "stratavored.service";

/// `store`.
#[derive(Debug, Subcommand)]
pub enum Store {
    /// Copy this host's embedded store, with all that is in it, into the fleet's, which must be empty
    #[command(
        after_help = "As root, on the first host of a new fleet; the others only join. Runners go on meanwhile, and the daemon takes them over \
                      out of the new store:\n\n\
                      \x20 mkdir -p /run/systemd/system/stratavored.service.d\n\
                      \x20 printf '[Unit]\\nRefuseManualStart=yes\\n' >/run/systemd/system/stratavored.service.d/down.conf\n\
                      \x20 systemctl daemon-reload && systemctl stop stratavored\n\
                      \x20 $EDITOR /etc/stratavore/stratavored.toml      # store.url = \"postgres://…\"\n\
                      \x20 systemctl edit stratavored                    # LoadCredential=store-password:…\n\
                      \x20 stratavorectl store migrate\n\
                      \x20 rm /run/systemd/system/stratavored.service.d/down.conf\n\
                      \x20 systemctl daemon-reload && systemctl start stratavored\n\n\
                      Stopped alone it would not stay so: any call on the bus starts it, such as somebody's stratavorectl list. Masked, its unit \
                      would hide its credentials. The next boot starts it all the same.\n\n\
                      It is one transaction: all that was written is compared with what was read before it counts. If it is cut off, nothing has \
                      happened: do it again. The embedded store is not changed. Projects, runners with their events, request ids, budgets and holds \
                      are copied, events with their positions."
    )]
    Migrate(Migrate),
}

/// `store migrate`.
#[derive(Debug, Args)]
pub struct Migrate {
    /// The embedded store, if it is not the usual one
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub from: Option<PathBuf>,
}

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Systemd {
    fn load_unit(&self, name: &str) -> zbus::Result<zbus::OwnedObjectPath>;
}

#[proxy(
    interface = "org.freedesktop.systemd1.Unit",
    default_service = "org.freedesktop.systemd1"
)]
trait Unit {
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn load_state(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn can_start(&self) -> zbus::Result<bool>;
}

#[proxy(
    interface = "org.freedesktop.systemd1.Service",
    default_service = "org.freedesktop.systemd1"
)]
trait Service {
    #[zbus(property(emits_changed_signal = "false"))]
    fn load_credential(&self) -> zbus::Result<Vec<(String, String)>>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn load_credential_encrypted(&self) -> zbus::Result<Vec<(String, String)>>;
}

/// Carries it out.
pub(super) async fn store(global: &Global, verb: &Store) -> Result<u8> {
    let Store::Migrate(args) = verb;
    if let Some(host) = &global.host {
        let message = format!(
            "store migrate reads a file of the host it runs on; use: {} stratavorectl store migrate",
            host.ssh()
        );
        return Err(Failure::new(USAGE, message));
    }
    let failed = |why: String| Failure::new(FAILED, why);
    if !global.user && !rustix::process::geteuid().is_root() {
        return Err(Failure::new(
            NOT_PERMITTED,
            "store migrate is for root: the store and its password belong to stratavored. Use sudo.",
        ));
    }
    let places = match global.user {
        true => Places::user().map_err(failed)?,
        false => Places::system(),
    };
    let from = args.from.clone();
    let from = from.unwrap_or_else(|| places.state.join("stratavore.db"));
    let down = Down::new(&places);
    let credentials = stopped(&down).await?;
    let own = std::env::current_exe().map_err(|e| failed(e.to_string()))?;
    let mut command = Command::new("systemd-run");
    command.args(["--quiet", "--pipe", "--wait", "--collect"]);
    match global.user {
        true => command.arg("--user"),
        false => command.args(["-p", "User=stratavore", "-p", "Group=stratavore"]),
    };
    for property in credentials {
        command.args(["-p", &property]);
    }
    command.arg(own.with_file_name("stratavored"));
    if global.user {
        command.arg("--user");
    }
    command.arg("--migrate-store").arg(from);
    let status = command.stdin(Stdio::null()).status().await;
    match status {
        Ok(status) if status.success() => {
            Out::new(global).line(&format!("Start the daemon: {}.", down.lift()))?;
            Ok(0)
        }
        Ok(status) if status.code() == Some(i32::from(FAILED)) => Ok(FAILED),
        Ok(_) => Err(failed(
            "It was cut off before it was done. Nothing has happened in either store, or all of it: do it again, and it says which.".to_owned(),
        )),
        Err(error) => Err(failed(format!("systemd-run can't be run: {error}."))),
    }
}

/// How the daemon is kept down: a drop-in by which no call on the bus starts it any more, until the next boot.
#[derive(Debug)]
struct Down {
    folder: String,
    systemctl: &'static str,
}

impl Down {
    fn new(places: &Places) -> Self {
        let runtime = match bus::is_user() {
            // $XDG_RUNTIME_DIR, in which ours is.
            true => places.runtime.parent().map(|p| p.join("systemd/user")),
            false => None,
        };
        let units = runtime.unwrap_or_else(|| PathBuf::from("/run/systemd/system"));
        Self {
            folder: units.join(format!("{UNIT}.d")).display().to_string(),
            systemctl: bus::systemctl(),
        }
    }

    /// The commands that stop it so.
    fn set(&self) -> String {
        let Self { folder, systemctl } = self;
        format!(
            "mkdir -p {folder} && printf '[Unit]\\nRefuseManualStart=yes\\n' >{folder}/down.conf && {systemctl} daemon-reload && {systemctl} stop stratavored"
        )
    }

    /// Those that start it again.
    fn lift(&self) -> String {
        let Self { folder, systemctl } = self;
        format!(
            "rm {folder}/down.conf && {systemctl} daemon-reload && {systemctl} start stratavored"
        )
    }
}

/// What the daemon gets of systemd, as properties for systemd-run, once it is stopped and stays so.
async fn stopped(down: &Down) -> Result<Vec<String>> {
    let asked = async {
        let connection = bus::connect().await?;
        let unit = SystemdProxy::new(&connection).await?;
        let path = unit.load_unit(UNIT).await?;
        let unit = UnitProxy::new(&connection, path.clone()).await?;
        let service = ServiceProxy::new(&connection, path).await?;
        let state = unit.active_state().await?;
        let (loaded, starts) = (unit.load_state().await?, unit.can_start().await?);
        let plain = service.load_credential().await?;
        let encrypted = service.load_credential_encrypted().await;
        zbus::Result::Ok((state, loaded, starts, plain, encrypted.unwrap_or_default()))
    };
    let asked = asked.await;
    let (state, loaded, starts, plain, encrypted) = asked.map_err(|e| {
        let message = format!("systemd does not tell how {UNIT} is: {e}.");
        Failure::new(FAILED, message)
    })?;
    if loaded == "masked" {
        let message = format!(
            "{UNIT} is masked, and so its credentials can't be seen. Unmask it and keep it down otherwise: {0} unmask stratavored; {0} unmask --runtime stratavored; {1}. Then do this again.",
            down.systemctl,
            down.set()
        );
        return Err(Failure::new(FAILED, message));
    }
    let why = match state.as_str() {
        "inactive" | "failed" if !starts => None,
        "inactive" | "failed" => Some("stratavored would be started by any call on the bus"),
        "active" => Some("stratavored is active"),
        _ => Some("stratavored is on its way up or down"),
    };
    if let Some(why) = why {
        let message = format!(
            "{why}, and nobody may use the store meanwhile. Stop it so that it stays down, runners go on: {}. Then do this again.",
            down.set()
        );
        return Err(Failure::new(FAILED, message));
    }
    let property =
        |key: &'static str| move |(id, from): (String, String)| format!("{key}={id}:{from}");
    let plain = plain.into_iter().map(property("LoadCredential"));
    let encrypted = encrypted.into_iter();
    Ok(plain
        .chain(encrypted.map(property("LoadCredentialEncrypted")))
        .collect())
}
