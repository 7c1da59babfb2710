//! The D-Bus interface: `org.stratavore1` at `/org/stratavore1`.
//!
//! | file | what |
//! |---|---|
//! | `manager`, `runner`, `project` | the interfaces: argument names, documentation, nothing else |
//! | `core`, `lists`, `audit`, `budgets`, `holds`, `hosts`, `outbox`, `output`, `places`, `projects`, `usage` | what their methods do: parse, authorise, ask the engine |
//! | `options`, `values` | `a{sv}` arguments, pure |
//! | `auth`, `polkit`, `callers`, `units`, `users` | who may do what, and who it is |
//! | `convert`, `errors` | domain values and errors as they travel |
//! | `signals`, `tree` | the one task that emits signals and keeps the objects |
//! | `proxy` | the client's side, generated |
//!
//! Nothing in here waits with a lock held, and nothing in a property getter waits for anything
//! but a look-up of the caller's uid: the object server holds a lock of its own meanwhile.

mod audit;
pub mod auth;
mod budgets;
mod callers;
mod convert;
mod core;
mod elsewhere;
pub mod errors;
mod holds;
mod hosts;
mod lists;
mod manager;
mod notify;
pub mod options;
mod outbox;
mod output;
mod places;
mod polkit;
mod project;
mod projects;
pub mod proxy;
mod runner;
mod signals;
mod tree;
mod units;
mod usage;
mod users;
pub mod values;

pub use callers::{CALLS_MAX, USER_AT_WORK_MAX, USER_CALLS_MAX};
pub use values::PAGE_MAX;

use crate::engine::Engine;
use std::time::Duration;
use zbus::Connection;
use zbus::fdo::{RequestNameFlags, RequestNameReply};

/// Our name on the bus.
pub const SERVICE: &str = "org.stratavore1";
/// Our root object.
pub const PATH: &str = "/org/stratavore1";
/// The object of this host's stratavored.
pub const MANAGER: &str = "org.stratavore1.Manager";
/// The interface of a live runner.
pub const RUNNER: &str = "org.stratavore1.Runner";
/// The interface of a project.
pub const PROJECT: &str = "org.stratavore1.Project";

/// A bus that takes longer for a round trip is stuck.
const HEARTBEAT_MAX: Duration = Duration::from_secs(10);

/// Which bus we are on; it decides who authorises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// The system's: uids from the bus, polkit decides.
    System,
    /// A user's own: its one user may do everything, as itself.
    Session {
        /// That user.
        uid: u32,
    },
}

/// Who we are.
#[derive(Debug, Clone)]
pub struct Identity {
    /// For `Version`.
    pub version: String,
    /// For `HostId`.
    pub host_id: String,
    /// For `HostName`.
    pub host_name: String,
}

/// Puts all objects on a connection. Ask for the name after that ([`own_name`]), so that
/// nobody meets a half of us.
pub async fn serve(
    connection: &Connection,
    engine: Engine,
    identity: Identity,
    bus: Bus,
) -> zbus::Result<()> {
    let lookups = match bus {
        Bus::System => Connection::system().await?,
        Bus::Session { .. } => crate::bus::user().build().await?,
    };
    serve_with(connection, &lookups, engine, identity, bus).await
}

/// The same with a given second connection to the same bus, for questions to the bus and to
/// polkit; it serves nothing.
pub async fn serve_with(
    connection: &Connection,
    lookups: &Connection,
    engine: Engine,
    identity: Identity,
    bus: Bus,
) -> zbus::Result<()> {
    let core = core::Core::new(lookups, engine, identity, bus).await?;
    tree::plant(connection, &core).await?;
    signals::start(connection, lookups, core).await
}

/// Asks for `org.stratavore1`; an error if somebody has it already.
pub async fn own_name(connection: &Connection) -> zbus::Result<()> {
    let flags = RequestNameFlags::DO_NOT_QUEUE;
    match connection.request_name_with_flags(SERVICE, flags).await? {
        RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner => Ok(()),
        RequestNameReply::InQueue | RequestNameReply::Exists => Err(zbus::Error::NameTaken),
    }
}

/// A call to ourselves, over the bus and through our own dispatcher: what the watchdog wants to
/// see done.
pub async fn heartbeat(connection: &Connection) -> zbus::Result<()> {
    let Some(me) = connection.unique_name() else {
        return Err(zbus::Error::Unsupported);
    };
    let call = connection.call_method(
        Some(me.as_str()),
        PATH,
        Some("org.freedesktop.DBus.Peer"),
        "Ping",
        &(),
    );
    match tokio::time::timeout(HEARTBEAT_MAX, call).await {
        Ok(answer) => answer.map(drop),
        Err(_) => Err(zbus::Error::Failure(
            "the bus did not answer in time".to_owned(),
        )),
    }
}
