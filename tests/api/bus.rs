//! A bus with a stratavored on it, for one test.

use super::fakes::{FakeDrawer, FakeHost, FakeStore};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use stratavore::api::proxy::{Dict, Given, ManagerProxy};
use stratavore::api::{self, Bus, Identity};
use stratavore::domain::Limits;
use stratavore::engine::{Engine, Settings};
use zbus::proxy::CacheProperties;
use zbus::{Connection, Variant, connection};

pub struct World {
    daemon: Child,
    pub address: String,
    pub engine: Engine,
    pub store: Arc<FakeStore>,
    pub host: Arc<FakeHost>,
    pub served: Connection,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// What every test but one wants.
pub fn myself() -> Bus {
    Bus::Session {
        uid: rustix::process::getuid().as_raw(),
    }
}

impl World {
    pub async fn new() -> Self {
        Self::on(myself()).await
    }

    pub async fn on(bus: Bus) -> Self {
        let (daemon, address) = dbus_daemon(None);
        let store = Arc::new(FakeStore::new().await);
        let (host, notices) = FakeHost::new();
        let host = Arc::new(host);
        let settings = Settings {
            host: "0123456789abcdef0123456789abcdef".to_owned(),
            host_name: "testhost".to_owned(),
            sole_host: true,
            host_max: None,
            limits: Limits::default(),
            retention: Duration::from_secs(1_000),
            fleet: crate::fakes::membership(),
        };
        let engine = Engine::start(
            settings,
            Arc::clone(&store) as _,
            Arc::clone(&host) as _,
            Arc::new(FakeDrawer::default()),
            notices,
        );
        let mut health = engine.health();
        health.wait_for(|h| h.adopted).await.expect("it adopts");
        let served = serve(&address, &engine, bus).await;
        Self {
            daemon,
            address,
            engine,
            store,
            host,
            served,
        }
    }

    /// The bus ends and is started again at the same address, and we are back on it.
    pub async fn restart_bus(&mut self) {
        self.daemon.kill().expect("it was running");
        self.daemon.wait().expect("it ends");
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Some(path) = self.address.strip_prefix("unix:path=") {
            let _ = std::fs::remove_file(path);
        }
        self.daemon = dbus_daemon(Some(&self.address)).0;
        self.served = serve(&self.address, &self.engine, myself()).await;
    }

    /// The bus stands still, or goes on.
    pub fn freeze_bus(&self, still: bool) {
        use rustix::process::{Pid, Signal, kill_process};
        let pid = Pid::from_raw(self.daemon.id().cast_signed()).expect("it runs");
        let signal = if still { Signal::STOP } else { Signal::CONT };
        kill_process(pid, signal).expect("it is ours");
    }

    pub async fn client(&self) -> Connection {
        connect(&self.address).await
    }

    pub async fn manager(&self) -> ManagerProxy<'static> {
        let client = self.client().await;
        ManagerProxy::builder(&client)
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .expect("a proxy")
    }
}

fn dbus_daemon(address: Option<&str>) -> (Child, String) {
    let mut daemon = Command::new("dbus-daemon")
        .arg(format!("--config-file={}/tests/api/bus.conf", env!("CARGO_MANIFEST_DIR")))
        .args(["--nofork", "--nopidfile", "--print-address=1"])
        .args(address.map(|a| format!("--address={a}")))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this test needs dbus-daemon: apt-get install dbus-daemon, or the package dbus of your system");
    let mut address = String::new();
    BufReader::new(daemon.stdout.take().expect("piped"))
        .read_line(&mut address)
        .expect("dbus-daemon prints its address");
    // Without its guid: another one at the same place is as good.
    let address = address.trim().split(",guid=").next().unwrap_or_default();
    (daemon, address.to_owned())
}

pub fn identity() -> Identity {
    Identity {
        version: "1.2.3".to_owned(),
        host_id: "0123456789abcdef0123456789abcdef".to_owned(),
        host_name: "testhost".to_owned(),
    }
}

async fn serve(address: &str, engine: &Engine, bus: Bus) -> Connection {
    let served = connect(address).await;
    let lookups = connect(address).await;
    api::serve_with(&served, &lookups, engine.clone(), identity(), bus)
        .await
        .expect("served");
    api::own_name(&served).await.expect("the name is free");
    served
}

pub async fn connect(address: &str) -> Connection {
    connection::Builder::address(address)
        .build()
        .await
        .expect("the bus is there")
}

pub fn none() -> Given<'static> {
    Given::new()
}

pub fn given<const N: usize>(entries: [(&'static str, Variant<'static>); N]) -> Given<'static> {
    entries.into_iter().collect()
}

pub fn text(dict: &Dict, key: &str) -> String {
    match dict.get(key).map(|v| &**v) {
        Some(Variant::Str(text)) => text.as_str().to_owned(),
        other => panic!("{key}: {other:?}"),
    }
}

/// Name and message of an error reply.
pub fn refusal<T: std::fmt::Debug>(result: zbus::Result<T>) -> (String, String) {
    match result {
        Err(zbus::Error::MethodError(name, message, _)) => {
            (name.to_string(), message.unwrap_or_default())
        }
        Err(zbus::Error::FDO(error)) => {
            use zbus::DBusError;
            let message = error.description().unwrap_or_default().to_owned();
            (error.name().to_string(), message)
        }
        other => panic!("{other:?}"),
    }
}
