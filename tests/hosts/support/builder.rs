//! What a test host is to be.

use std::path::{Path, PathBuf};

use super::host::Host;
use super::network::Cable;

/// What a host boots from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// This machine's own root.
    Machine,
    /// Debian 13: systemd 257.
    Trixie,
    /// Debian sid: the newest systemd.
    Sid,
    Folder(PathBuf),
}

impl Root {
    pub(super) fn name(&self) -> String {
        match self {
            Root::Machine => "machine".into(),
            Root::Trixie => "trixie".into(),
            Root::Sid => "sid".into(),
            Root::Folder(folder) => folder.display().to_string(),
        }
    }
}

/// Which program is the message bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    Daemon,
    Broker,
}

impl Bus {
    pub(super) fn name(self) -> &'static str {
        match self {
            Bus::Daemon => "dbus-daemon",
            Bus::Broker => "dbus-broker",
        }
    }
}

/// What a host is to be; [`HostBuilder::boot`] makes it.
#[must_use]
pub struct HostBuilder {
    pub(super) name: String,
    pub(super) root: Root,
    pub(super) bus: Bus,
    pub(super) disk_mb: u32,
    pub(super) payload: Option<PathBuf>,
    pub(super) files: Vec<(String, Vec<u8>, u32)>,
    pub(super) wants: Vec<String>,
    pub(super) binds: Vec<String>,
    pub(super) without: Option<&'static str>,
    pub(super) cable: Option<Cable>,
}

impl HostBuilder {
    /// Default: the machine's own, or what `STRATAVORE_TEST_ROOT` names.
    pub fn root(mut self, root: Root) -> Self {
        self.root = root;
        self
    }

    /// Default: dbus-daemon, or what `STRATAVORE_TEST_BUS` names.
    pub fn bus(mut self, bus: Bus) -> Self {
        self.bus = bus;
        self
    }

    /// Size of its disk. A small one is soon full.
    pub fn disk_mb(mut self, size: u32) -> Self {
        self.disk_mb = size;
        self
    }

    /// Laid over its root at each boot: the folder `make install DESTDIR=…` filled.
    pub fn payload(mut self, folder: impl Into<PathBuf>) -> Self {
        self.payload = Some(folder.into());
        self
    }

    /// A file on its disk, written before every boot.
    pub fn file(mut self, path: &str, contents: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.into(), contents.into(), 0o644));
        self
    }

    /// A file that only its root can read.
    pub fn secret(mut self, path: &str, contents: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.into(), contents.into(), 0o600));
        self
    }

    /// A program or script on its disk.
    pub fn program(mut self, path: &str, contents: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.into(), contents.into(), 0o755));
        self
    }

    /// A unit file; [`HostBuilder::want`] starts it.
    pub fn unit(self, name: &str, contents: &str) -> Self {
        self.file(&format!("/etc/systemd/system/{name}"), contents)
    }

    /// Starts this unit with the host, as part of its boot.
    pub fn want(mut self, unit: &str) -> Self {
        self.wants.push(unit.into());
        self
    }

    /// Shows a file or folder of this machine inside. Sockets work through it.
    pub fn bind(mut self, from: impl AsRef<Path>, to: &str) -> Self {
        self.binds.push(format!("{}:{to}", from.as_ref().display()));
        self
    }

    /// It lacks this cgroup controller, whatever this machine has.
    pub fn without(mut self, controller: &'static str) -> Self {
        self.without = Some(controller);
        self
    }

    /// Its place in a network, from before its systemd starts.
    pub fn cable(mut self, cable: &Cable) -> Self {
        self.cable = Some(cable.clone());
        self
    }

    /// Boots it, and returns when systemd says that it is running.
    #[track_caller]
    pub fn boot(self) -> Host {
        let mut host = Host::new(self);
        host.boot_again();
        host
    }
}

impl Host {
    /// `name` (a-z, 0-9, -) becomes its host name. Two hosts may have the same.
    pub fn builder(name: &str) -> HostBuilder {
        let root = match std::env::var("STRATAVORE_TEST_ROOT").as_deref() {
            Ok("trixie") => Root::Trixie,
            Ok("sid") => Root::Sid,
            Ok("machine" | "") | Err(_) => Root::Machine,
            Ok(folder) => Root::Folder(folder.into()),
        };
        let bus = match std::env::var("STRATAVORE_TEST_BUS").as_deref() {
            Ok("dbus-broker") => Bus::Broker,
            _ => Bus::Daemon,
        };
        HostBuilder {
            name: name.into(),
            root,
            bus,
            disk_mb: 512,
            payload: None,
            files: Vec::new(),
            wants: Vec::new(),
            binds: Vec::new(),
            without: None,
            cable: None,
        }
    }
}
