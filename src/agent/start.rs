//! From the command line to the loop.

use super::cgroup::Cgroups;
use super::config::{self, Config};
use super::credentials::Credentials;
use super::exits::Folder;
use super::fence::Fence;
use super::hub::Agent;
use super::logs::Readers;
use super::slices::Slices;
use super::socket::listener;
use super::systemd::Systemd;
use super::user::{self, HostEnvironment};
use super::{log, serve};
use crate::domain::kinds::{self, Kind};
use crate::places::Places;
use crate::telemetry::{self, Telemetry};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use sd_notify::NotifyState;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

/// The account of the daemon.
const DAEMON: &str = "stratavore";
/// Threads for what may block: name service and spawning.
const BLOCKING: usize = 8;
/// How many of them may hang in the name service.
const LOOK_UPS: usize = 6;
/// EX_CONFIG of sysexits.h: a new start won't help.
const CONFIG: u8 = 78;
/// How long a start that has failed waits before it ends: the daemon knocks at the socket, systemd answers with the next
/// start, and the journal is not to be flooded.
const PAUSE: Duration = Duration::from_secs(5);
/// Launches being prepared at a time.
const LAUNCHES: usize = 128;

/// The host's one hand on systemd: launches, stops and watches the runners that stratavored
/// asks for, within the bounds of root's agent.toml.
#[derive(Debug, clap::Parser)]
#[command(name = "stratavore-agent", version)]
pub struct Args {
    /// Serve the user's own service manager, without any privilege: every runner is the user's, and
    /// there is no agent.toml.
    #[arg(long)]
    user: bool,
    /// Root's bounds instead of /etc/stratavore/agent.toml, which need not be there.
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    config: Option<PathBuf>,
    /// Check root's bounds and exit: 0 with who may run, 1 with file, line and key of what is wrong.
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    check_config: Option<Option<PathBuf>>,
    /// Listen here, where not socket-activated.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The shim, instead of the one beside this program.
    #[arg(long, value_name = "PATH")]
    shim: Option<PathBuf>,
    /// The folder of exit records.
    #[arg(long, value_name = "DIR")]
    exits: Option<PathBuf>,
    /// The folder of the shims' sockets.
    #[arg(long, value_name = "DIR")]
    shims: Option<PathBuf>,
    /// The folder of log files.
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// The user who may connect beside root, instead of the account “stratavore”; repeatable.
    #[arg(long, value_name = "UID")]
    allow_uid: Vec<u32>,
}

/// What is ready before the loop is.
struct Prepared {
    listener: OwnedFd,
    allowed: BTreeSet<u32>,
    exits: Folder,
    sockets: Folder,
    logs: Folder,
    config: Config,
    config_file: Option<PathBuf>,
    user: Option<u32>,
    shim: PathBuf,
    nofile: (u64, u64),
    boot_id: String,
    readers: Readers,
    credentials: Result<Credentials, String>,
}

/// Runs the agent.
pub fn main(args: Args) -> ExitCode {
    if let Some(file) = &args.check_config {
        return check_config(file.as_deref().or(args.config.as_deref()));
    }
    log::set_up(args.user);
    let said = telemetry::set_up();
    // Half a launch in memory is worth nothing: the next agent adopts what there really is.
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        told(info);
        std::process::exit(101);
    }));
    let prepared = prepare(args);
    // Only now: its thread keeps the capabilities there are.
    if let Err(error) = said.start(log::IDENTIFIER) {
        eprintln!("The thread for the journal can't be started: {error}.");
        return ExitCode::FAILURE;
    }
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err((kind, why)) => return refuse_to_start(&said, kind, &why),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING)
        .thread_keep_alive(Duration::from_secs(2))
        .build();
    match runtime {
        Ok(runtime) => match runtime.block_on(run(prepared)) {
            Ok(()) => {
                said.flush();
                ExitCode::SUCCESS
            }
            Err(why) => give_up(&said, kinds::FAILED, &why),
        },
        Err(e) => give_up(&said, kinds::FAILED, &e.to_string()),
    }
}

/// Says what the bounds come to, and warns of what is surely not meant.
fn check_config(file: Option<&Path>) -> ExitCode {
    match config::load(file) {
        Ok(config) => {
            let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            let file = file.unwrap_or(Path::new(config::PATH));
            let known = |name: &str| user::by_name(name).is_some();
            let told = super::policy::told(&config, file, &passwd, known);
            for line in told
                .into_iter()
                .chain(super::placed::told(&config, file, known))
            {
                println!("{line}");
            }
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn give_up(said: &Telemetry, kind: Kind, why: &str) -> ExitCode {
    log::error(kind, why);
    said.flush();
    ExitCode::FAILURE
}

/// As [`give_up`], with the reason in `systemctl status`, and after a while.
fn refuse_to_start(said: &Telemetry, kind: Kind, why: &str) -> ExitCode {
    let code = give_up(said, kind, why);
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        let _ = sd_notify::notify(&[NotifyState::Status(why)]);
        std::thread::sleep(PAUSE);
    }
    match kind == kinds::CONFIGURATION_ERROR {
        true => ExitCode::from(CONFIG),
        false => code,
    }
}

fn prepare(args: Args) -> Result<Prepared, (Kind, String)> {
    let config = match args.user {
        true => Config::default(),
        false => {
            config::load(args.config.as_deref()).map_err(|why| (kinds::CONFIGURATION_ERROR, why))?
        }
    };
    find(args, config).map_err(|why| (kinds::FAILED, why))
}

fn find(args: Args, config: Config) -> Result<Prepared, String> {
    let uid = rustix::process::geteuid().as_raw();
    if !args.user && uid != 0 {
        return Err("The agent of the system needs root; with --user it serves the user's own service manager.".to_owned());
    }
    if args.user && uid == 0 {
        return Err("--user is for ordinary users; root has the system's agent.".to_owned());
    }
    let daemon = match args.user {
        true => None,
        false => user::by_name(DAEMON),
    };
    let mut allowed = BTreeSet::from([uid]);
    match (&args.allow_uid[..], daemon) {
        ([], Some((daemon, _))) => allowed.extend([daemon]),
        ([], None) if !args.user => {
            log::warning(
                kinds::SETUP_LACKING,
                format_args!(
                    "There is no user “{DAEMON}” (systemd-sysusers makes it): root alone may connect."
                ),
            );
        }
        (uids, _) => allowed.extend(uids),
    }
    let places = match args.user {
        true => Places::user()?,
        false => Places::system(),
    };
    if args.user {
        let made = places
            .make_state()
            .and_then(|()| std::fs::create_dir_all(&places.runtime));
        made.map_err(|e| {
            format!(
                "{} or {} can't be made: {e}.",
                places.state.display(),
                places.runtime.display()
            )
        })?;
    }
    let group = daemon.map(|(_, gid)| gid);
    let folder = |given: Option<PathBuf>, usual: PathBuf, mode, group| {
        Folder::open(&given.unwrap_or(usual), mode, group).map_err(|e| format!("{e}."))
    };
    let exits = folder(args.exits, places.state.join("exits"), 0o750, group)?;
    let sockets = folder(args.shims, places.runtime.join("shims"), 0o700, None)?;
    let credentials = Credentials::open(&places.credentials(), !args.user);
    if let Err(why) = &credentials {
        let refused = "Launches with load-credential are refused";
        log::warning(kinds::SETUP_LACKING, format_args!("{why} {refused}."));
    }
    let logs = folder(args.logs, places.state.join("logs"), 0o700, None)?;
    // Only for cursors of journalctl; nobody else has business there.
    let cursors = places.runtime.join("readers");
    let readers =
        Readers::new(cursors.clone()).map_err(|e| format!("{}: {e}.", cursors.display()))?;
    let listener = listener(args.socket.as_deref())?;
    let shim = match args.shim {
        Some(path) => path,
        None => std::env::current_exe()
            .map_err(|e| e.to_string())?
            .with_file_name("stratavore-shim"),
    };
    if !shim.exists() {
        return Err(format!(
            "There is no shim at {}; “make install” puts it beside the agent.",
            shim.display()
        ));
    }
    let boot_id =
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(|e| e.to_string())?;
    let prepared = Prepared {
        listener,
        allowed,
        exits,
        sockets,
        logs,
        config,
        config_file: args.config,
        user: args.user.then_some(uid),
        shim,
        nofile: raise_open_files(),
        boot_id: boot_id.trim().replace('-', ""),
        readers,
        credentials,
    };
    if uid == 0 {
        // Environments of runners pass through its memory; no core dump shows them. With --user the uid's other
        // processes could look at it all the same, and the shims, which set this for themselves, are its runners' parents.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
        drop_capabilities().map_err(|e| format!("Capabilities can't be given up: {e}."))?;
    }
    Ok(prepared)
}

/// Raises the soft limit of open files (two for each runner) and returns the limits as they
/// were: runners get those.
fn raise_open_files() -> (u64, u64) {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    if setrlimit(Resource::Nofile, raised).is_err() {
        log::warning(
            kinds::SETUP_LACKING,
            "The limit of open files can't be raised; some 400 runners will be the most.",
        );
    }
    (
        before.current.unwrap_or(u64::MAX),
        before.maximum.unwrap_or(u64::MAX),
    )
}

/// Gives up what root may do and the agent need not. The bounding set stays: shims are exec'd
/// as root and get everything back from it, which they need to become other users.
fn drop_capabilities() -> rustix::io::Result<()> {
    let needed =
        // To signal the processes of a frozen runner, which are other users'.
        CapabilitySet::KILL
        // To see in which cgroup a process is where /proc is mounted with hidepid=.
        | CapabilitySet::SYS_PTRACE;
    let now = rustix::thread::capabilities(None)?;
    let sets = CapabilitySets {
        effective: now.permitted & needed,
        permitted: now.permitted & needed,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets)
}

async fn run(prepared: Prepared) -> Result<(), String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    let mut hangup = signal(SignalKind::hangup()).map_err(|e| e.to_string())?;
    let bus = |e| format!("systemd can't be reached over D-Bus: {e}.");
    let systemd = Systemd::connect(prepared.user.is_some())
        .await
        .map_err(bus)?;
    let base = systemd.control_group().await.map_err(bus)?;
    let cgroups = Cgroups::find(&base).map_err(|e| format!("{e}."))?;
    let machine_controllers = cgroups.read("", "cgroup.controllers").unwrap_or_default();
    let fence = Fence::open(prepared.sockets.as_fd())
        .map_err(|e| format!("The file of the fence can't be opened: {e}."))?;
    let agent = Arc::new(Agent {
        systemd,
        cgroups,
        exits: Arc::new(prepared.exits),
        sockets: Arc::new(prepared.sockets),
        logs: Arc::new(prepared.logs),
        config: RwLock::new(Arc::new(prepared.config)),
        accounts: Default::default(),
        environment: HostEnvironment::read(prepared.user.is_some()),
        boot_id: prepared.boot_id,
        user: prepared.user,
        shim: prepared.shim,
        nofile: prepared.nofile,
        machine_controllers,
        slices: Slices::default(),
        launching: Semaphore::new(LAUNCHES),
        look_ups: Arc::new(Semaphore::new(LOOK_UPS)),
        runners: Default::default(),
        connections: Default::default(),
        readers: prepared.readers,
        credentials: prepared.credentials,
        fence,
        failed_units: Default::default(),
    });
    let unknown = |e| format!("What is there can't be found out: {e}.");
    agent.adopt().await.map_err(unknown)?;
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    log::info(
        kinds::READY,
        format_args!("Ready ({})", crate::VERSION_TEXT),
    );
    let reloads = async {
        while hangup.recv().await.is_some() {
            reload(&agent, prepared.config_file.as_deref());
        }
    };
    let serving = serve::serve(agent.clone(), prepared.listener, prepared.allowed);
    tokio::select! {
        done = serving => done.map_err(|e| e.to_string()),
        () = agent.systemd.closed() => Err("The connection to the bus is gone; the next agent goes on.".to_owned()),
        () = agent.watch_fence() => Ok(()),
        () = watchdog() => Ok(()),
        () = reloads => Ok(()),
        _ = terminate.recv() => stopping(),
        _ = interrupt.recv() => stopping(),
    }
}

fn stopping() -> Result<(), String> {
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    log::info(kinds::STOPPING, "Stopping; runners go on");
    Ok(())
}

/// Reads root's bounds again. A mistake in them leaves those in force that are. With `--user` there
/// are none.
fn reload(agent: &Agent, file: Option<&Path>) {
    if agent.user.is_some() {
        return;
    }
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    let _ = sd_notify::notify(&states);
    let status = match config::load(file) {
        Ok(config) => {
            agent.set_config(config);
            log::info(
                kinds::CONFIGURATION_READ,
                "Root's bounds were read again; they hold for launches from now on",
            );
            String::new()
        }
        Err(why) => {
            log::error(
                kinds::CONFIGURATION_ERROR,
                format_args!("Root's bounds are as they were: {why}"),
            );
            format!("Not taken over: {why}")
        }
    };
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// Tells systemd that the loop, which has one thread, still turns.
async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    let mut tick = tokio::time::interval(limit / 3);
    loop {
        tick.tick().await;
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
    }
}
