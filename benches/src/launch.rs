//! Launches beside what systemd alone takes for a scope, and calls beside an empty one.

use crate::table::{Goal, Table};
use crate::{Res, Size, median};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use std::collections::{BTreeMap, HashMap};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use stratavore::api::proxy::{Given, ManagerProxy};
use tokio::process::Command;
use tokio::sync::oneshot;
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedObjectPath, Variant, proxy};

/// The project of everything launched here, and its runners' user.
pub(crate) const PROJECT: &str = "bench";
pub(crate) const USER: &str = "alice";
pub(crate) const CALLERS: usize = 8;

pub(crate) async fn measure(size: Size, table: &mut Table) -> Res<()> {
    let bare = Arc::new(Bare::connect().await?);
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        callers.push(connect().await?);
    }
    let one = &callers[0];
    create_project(one).await?;

    // Once for whatever is done at first use.
    rate(Duration::from_millis(300), &callers).await?;
    ended(one).await?;
    let (mut rounds, mut shares) = (Vec::new(), [Cpu::default(), Cpu::default()]);
    for _ in 0..size.rounds {
        // Without our services, which would hear of every scope.
        services("stop").await?;
        let before = Cpu::now();
        let (ceiling, scopes) = bare.rate(size.turn).await?;
        shares[0].add(&before, scopes);
        services("start").await?;
        let before = Cpu::now();
        let (ours, launches) = rate(size.turn, &callers).await?;
        ended(one).await?;
        shares[1].add(&before, launches);
        rounds.push((ours, ceiling));
    }
    let what = format!("launches, {CALLERS} callers; a bare loop of scopes");
    table.beside(what, "1/s", &rounds, Goal::AtLeast(0.8));
    table.note(format!(
        "CPU of a bare scope and its end: {}",
        shares[0].each()
    ));
    table.note(format!("CPU of a launch and its end: {}", shares[1].each()));

    let (mut calls, mut programs) = (Vec::new(), Vec::new());
    for _ in 0..size.rounds {
        services("stop").await?;
        let ceiling = program(size.singles, &["systemd-run", "-q", "--scope", "true"]).await?;
        services("start").await?;
        let mut took = Vec::new();
        for _ in 0..size.singles {
            let begun = Instant::now();
            launch(one, &["true"]).await?;
            took.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        let command = ["stratavorectl", "run", "--uid", USER, PROJECT, "--", "true"];
        let ours = program(size.singles, &command).await?;
        calls.push((median(&mut took), ceiling));
        programs.push((ours, ceiling));
        ended(one).await?;
    }
    table.beside(
        "Launch, p50; systemd-run --scope true",
        "ms",
        &calls,
        Goal::AtMost(1.0),
    );
    table.beside(
        "stratavorectl run true, p50; systemd-run --scope true",
        "ms",
        &programs,
        Goal::None,
    );

    let (id, _) = launch(one, &["sleep", "infinity"]).await?;
    let peer = zbus::fdo::PeerProxy::builder(one.inner().connection());
    let peer = peer.destination("org.stratavore1").path("/org/stratavore1");
    let peer = peer.cache_properties(CacheProperties::No).build().await?;
    let mut rounds = Vec::new();
    for _ in 0..size.rounds {
        let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
        for _ in 0..size.calls {
            let begun = Instant::now();
            peer.ping().await?;
            ceiling.push(begun.elapsed().as_secs_f64() * 1e6);
            let begun = Instant::now();
            one.describe(&id).await?;
            ours.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        rounds.push((median(&mut ours), median(&mut ceiling)));
    }
    table.between_ours(
        "Describe, p50; Ping of the same daemon",
        "µs",
        &rounds,
        Goal::AtMost(1.5),
    );
    one.stop(&id, &Given::new()).await?;
    ended(one).await
}

/// A client with a connection of its own.
pub(crate) async fn connect() -> Res<ManagerProxy<'static>> {
    let connection = Connection::system().await?;
    let manager = ManagerProxy::builder(&connection).cache_properties(CacheProperties::No);
    Ok(manager.build().await?)
}

pub(crate) async fn launch(
    on: &ManagerProxy<'_>,
    command: &[&str],
) -> zbus::Result<(String, OwnedObjectPath)> {
    let options = Given::from([("uid", Variant::from(USER))]);
    on.launch(PROJECT, command, &options).await
}

/// Waits until nothing is live.
pub(crate) async fn ended(on: &ManagerProxy<'_>) -> Res<()> {
    for _ in 0..6_000 {
        if on.live_runners().await? == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err("runners do not end within 60 s".into())
}

/// What part of the system has used how much CPU, in µs.
#[derive(Default)]
struct Cpu {
    used: BTreeMap<&'static str, u64>,
    launches: u64,
}

impl Cpu {
    fn now() -> Self {
        let parts = [
            ("systemd", "init.scope"),
            ("bus", "system.slice/dbus.service"),
            ("journald", "system.slice/systemd-journald.service"),
            ("stratavored", "system.slice/stratavored.service"),
            ("agent", "system.slice/stratavore-agent.service"),
            ("shims and commands", "stratavore.slice"),
            ("all", ""),
        ];
        let used = parts.map(|(name, cgroup)| {
            let text = std::fs::read_to_string(format!("/sys/fs/cgroup/{cgroup}/cpu.stat"));
            let usec = text
                .ok()
                .and_then(|t| t.lines().next()?.split(' ').nth(1)?.parse().ok());
            (name, usec.unwrap_or(0))
        });
        Self {
            used: used.into(),
            launches: 0,
        }
    }

    fn add(&mut self, before: &Self, launches: u64) {
        for (name, usec) in Self::now().used {
            *self.used.entry(name).or_default() += usec.saturating_sub(before.used[name]);
        }
        self.launches += launches;
    }

    fn each(&self) -> String {
        let each = self
            .used
            .iter()
            .map(|(name, usec)| format!("{name} {} µs", usec / self.launches.max(1)));
        each.collect::<Vec<_>>().join(", ")
    }
}

/// Makes the project, unless an earlier part has.
pub(crate) async fn create_project(on: &ManagerProxy<'_>) -> Res<()> {
    match on.create_project(PROJECT, &Given::new()).await {
        Err(zbus::Error::MethodError(name, ..)) if name.ends_with(".AlreadyExists") => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

/// Launches per second of all these callers, each with one under way, and how many there were.
pub(crate) async fn rate(turn: Duration, callers: &[ManagerProxy<'static>]) -> Res<(f64, u64)> {
    let begun = Instant::now();
    let each = callers.iter().map(|caller| async move {
        let mut done = 0;
        while begun.elapsed() < turn {
            launch(caller, &["true"]).await?;
            done += 1;
        }
        zbus::Result::Ok(done)
    });
    let done: u64 = try_join_all(each).await?.iter().sum();
    Ok((done as f64 / begun.elapsed().as_secs_f64(), done))
}

pub(crate) async fn services(verb: &str) -> Res<()> {
    let units = [
        "stratavored.service",
        "stratavore-agent.service",
        "stratavore-agent.socket",
    ];
    // More often than a start limit allows (StartLimitBurst=); who is not there has none.
    let _ = systemctl("reset-failed", units).await;
    systemctl(verb, units).await
}

async fn systemctl(verb: &str, units: [&str; 3]) -> Res<()> {
    let status = Command::new("systemctl")
        .arg(verb)
        .args(units)
        .status()
        .await?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("systemctl {verb}: {status}").into()),
    }
}

/// The median of a program's time from start to end, in ms.
pub(crate) async fn program(times: usize, command: &[&str]) -> Res<f64> {
    let mut took = Vec::new();
    for _ in 0..times {
        let mut program = Command::new(command[0]);
        let begun = Instant::now();
        let done = program
            .args(&command[1..])
            .stdin(Stdio::null())
            .output()
            .await?;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
        if !done.status.success() {
            return Err(format!("{command:?}: {}", String::from_utf8_lossy(&done.stderr)).into());
        }
    }
    Ok(median(&mut took))
}

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Systemd {
    fn subscribe(&self) -> zbus::Result<()>;
    #[allow(clippy::type_complexity)]
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        aux: &[(&str, Vec<(&str, Variant<'_>)>)],
    ) -> zbus::Result<OwnedObjectPath>;
    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

/// The least a launch into a scope can be: spawn a process, have systemd make a scope of it, wait
/// until the job is done. No limits, no record, no store; the process waits for the end of its input.
struct Bare {
    systemd: SystemdProxy<'static>,
    waiting: Arc<Mutex<HashMap<String, oneshot::Sender<String>>>>,
    number: AtomicU64,
}

impl Bare {
    async fn connect() -> Res<Self> {
        let connection = Connection::system().await?;
        let systemd = SystemdProxy::new(&connection).await?;
        let waiting: Arc<Mutex<HashMap<String, oneshot::Sender<String>>>> = Arc::default();
        let mut removed = systemd.receive_job_removed().await?;
        systemd.subscribe().await?;
        let told = waiting.clone();
        tokio::spawn(async move {
            while let Some(signal) = removed.next().await {
                if let Ok(args) = signal.args()
                    && let Some(waiter) = told
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .remove(args.unit().as_str())
                {
                    let _ = waiter.send(args.result().clone());
                }
            }
        });
        Ok(Self {
            systemd,
            waiting,
            number: AtomicU64::new(0),
        })
    }

    /// The same with bare scopes.
    async fn rate(&self, turn: Duration) -> Res<(f64, u64)> {
        let begun = Instant::now();
        let each = (0..CALLERS).map(|_| async move {
            let (mut done, mut children) = (0, Vec::new());
            while begun.elapsed() < turn {
                let mut child = self.scope().await?;
                done += 1;
                children.push(tokio::spawn(async move { child.wait().await }));
            }
            Res::Ok((done, children))
        });
        let all = try_join_all(each).await?;
        let took = begun.elapsed().as_secs_f64();
        let done: u64 = all.iter().map(|(done, _)| done).sum();
        for child in all.into_iter().flat_map(|(_, children)| children) {
            child.await??;
        }
        Ok((done as f64 / took, done))
    }

    async fn scope(&self) -> Res<tokio::process::Child> {
        let unit = format!("bare-{}.scope", self.number.fetch_add(1, Ordering::Relaxed));
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let pid = child.id().ok_or("the process has no pid")?;
        let (told, result) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(unit.clone(), told);
        let properties = [
            ("PIDs", Variant::from(vec![pid])),
            ("CollectMode", Variant::from("inactive-or-failed")),
        ];
        self.systemd
            .start_transient_unit(&unit, "fail", &properties, &[])
            .await?;
        match result.await?.as_str() {
            "done" => {}
            other => return Err(format!("{unit}: {other}").into()),
        }
        drop(child.stdin.take());
        Ok(child)
    }
}
