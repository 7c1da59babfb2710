//! A fleet: hosts on one network, and a Postgres they share.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::invariants::{LAUNCHED, ONCE, RAN};
use super::network::{Cable, Network};
use super::postgres::{PASSWORD, Postgres};
use super::proxy::Proxy;
use super::sql::Sql;
use super::{Host, Root, project, wait_until};
use crate::fixture::{SOON, Site};

/// The fleet's database.
pub const DATABASE: &str = "fleet";

/// How a fleet is to be.
pub struct FleetPlan {
    /// Its hosts are called NAME-1, NAME-2, ….
    pub name: &'static str,
    pub hosts: usize,
    /// More lines of `stratavored.toml` on every host, after `[store]` and `[fleet]`.
    pub config: String,
    /// More lines of its section `[fleet]`, instead of [`SHORT`].
    pub timings: String,
    pub agent_config: String,
    pub root: Root,
    /// What is installed on a host, by number; those that are not there get the programs of this checkout.
    pub payloads: Vec<PathBuf>,
    /// The schema is that of a release whose last migration was this one.
    pub schema: u32,
    /// How far each host's clock (as our programs see it) is ahead, in seconds; by number, else 0.
    pub clocks: Vec<i64>,
    /// They reach Postgres by PgBouncer.
    pub pooled: bool,
    /// Each host reaches Postgres by a [`Proxy`] of its own: [`Fleet::proxies`].
    pub proxied: bool,
    /// There is a second Postgres that follows the first, and both are in `store.url`.
    pub standby: bool,
    /// Without Stratavore: plain hosts that can reach the Postgres.
    pub plain: bool,
}

/// A lease that is lost within seconds, so that tests need not wait for minutes.
pub const SHORT: &str = "lease_renew = \"1s\"\nlease_ttl = \"5s\"\nlost_after = \"15s\"\n";

impl Default for FleetPlan {
    fn default() -> Self {
        Self {
            name: "fleet",
            hosts: 3,
            config: String::new(),
            timings: SHORT.to_owned(),
            agent_config: String::new(),
            root: Root::Machine,
            payloads: Vec::new(),
            schema: u32::MAX,
            clocks: Vec::new(),
            pooled: false,
            proxied: false,
            standby: false,
            plain: false,
        }
    }
}

/// Dropped, all of it is gone.
pub struct Fleet {
    pub sites: Vec<Site>,
    cables: Vec<Cable>,
    pub postgres: Postgres,
    /// With [`FleetPlan::standby`].
    pub standby: Option<Postgres>,
    /// With [`FleetPlan::proxied`], one for each host.
    pub proxies: Vec<Proxy>,
    /// Where the hosts' cgroups are at present.
    cgroups: Arc<Mutex<Vec<PathBuf>>>,
    /// A load runs on every host.
    pub(super) loaded: bool,
    // Last: the hosts go before their network.
    pub network: Network,
}

impl Fleet {
    #[track_caller]
    pub fn boot(name: &'static str) -> Self {
        Self::with(FleetPlan {
            name,
            ..FleetPlan::default()
        })
    }

    /// Boots it, with the project `p`, and alice (not bob) in `stratavore-users` on every host.
    #[track_caller]
    pub fn with(plan: FleetPlan) -> Self {
        let network = Network::new();
        let postgres = Postgres::start(&network);
        postgres.database(DATABASE);
        if !plan.plain {
            postgres.migrate(DATABASE, ..=plan.schema);
        }
        if plan.pooled {
            postgres.start_pooler();
        }
        let standby = plan.standby.then(|| postgres.standby(&network));
        let port = if plan.pooled { 6432 } else { 5432 };
        let proxies: Vec<Proxy> = (0..if plan.proxied { plan.hosts } else { 0 })
            .map(|_| Proxy::new(network.machine_address(), (postgres.address(), port).into()))
            .collect();
        let cables: Vec<Cable> = (0..plan.hosts).map(|_| network.cable()).collect();
        let builders: Vec<_> = cables
            .iter()
            .enumerate()
            .map(|(n, cable)| {
                let mut at = match proxies.get(n) {
                    Some(proxy) => proxy.address().to_string(),
                    None => format!("{}:{port}", postgres.address()),
                };
                if let Some(standby) = &standby {
                    at += &format!(",{}:5432", standby.address());
                }
                plan.builder(n, cable, &network, &postgres, &at)
            })
            .collect();
        let sites: Vec<Site> = std::thread::scope(|scope| {
            let booting: Vec<_> = builders
                .into_iter()
                .map(|builder| {
                    scope.spawn(|| Site {
                        host: builder.boot(),
                    })
                })
                .collect();
            let booted: Vec<_> = booting.into_iter().map(|b| b.join()).collect();
            booted
                .into_iter()
                .map(|b| b.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let cgroups = sites.iter().map(|s| s.host.cgroup().to_owned()).collect();
        let fleet = Fleet {
            sites,
            cgroups: Arc::new(Mutex::new(cgroups)),
            loaded: false,
            cables,
            postgres,
            standby,
            proxies,
            network,
        };
        if !plan.plain {
            for site in &fleet.sites {
                site.wait_up();
                site.root("journalctl --update-catalog && usermod -aG stratavore-users alice")
                    .ok();
            }
            fleet.sites[0].ctl("root", "project create p").ok();
        }
        fleet
    }

    /// This host's address in the network.
    pub fn address(&self, n: usize) -> std::net::Ipv4Addr {
        self.cables[n].address
    }

    /// Asks the store as its superuser, from outside.
    pub fn sql(&self) -> Sql {
        self.postgres.sql(DATABASE)
    }

    /// Cuts a host off, silently: what it sends and is sent is lost, nobody is told.
    #[track_caller]
    pub fn cut(&self, n: usize) {
        self.cables[n].cut();
    }

    #[track_caller]
    pub fn mend(&self, n: usize) {
        self.cables[n].mend();
    }

    /// A host stops dead.
    #[track_caller]
    pub fn kill_host(&mut self, n: usize) {
        self.sites[n].host.kill_dead();
    }

    /// It boots again on its disk, with a new boot id; returns without waiting for its daemon.
    #[track_caller]
    pub fn boot_host(&mut self, n: usize) {
        self.sites[n].host.boot_again();
        self.cgroups.lock().expect("fleet")[n] = self.sites[n].host.cgroup().to_owned();
        self.start_load_of(n);
    }

    /// Where the hosts' cgroups are, by number, kept up to date. Those of a dead host are gone.
    pub(super) fn cgroups(&self) -> Arc<Mutex<Vec<PathBuf>>> {
        Arc::clone(&self.cgroups)
    }

    /// Postgres dies for good and the standby takes its place: from now on it is [`Fleet::postgres`].
    #[track_caller]
    pub fn fail_over(&mut self) {
        let standby = self.standby.take().expect("a fleet with a standby");
        self.postgres.kill9();
        standby.promote();
        self.postgres = standby;
    }

    /// The hosts that are up.
    pub fn up(&self) -> impl Iterator<Item = (usize, &Site)> {
        self.sites
            .iter()
            .enumerate()
            .filter(|(_, site)| site.host.is_up())
    }

    /// Does something on every host at once, and returns what came of it, by number.
    #[track_caller]
    pub fn each<T: Send>(&self, act: impl Fn(usize, &Site) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let acting: Vec<_> = self
                .sites
                .iter()
                .enumerate()
                .map(|(n, site)| {
                    let act = &act;
                    scope.spawn(move || act(n, site))
                })
                .collect();
            let done: Vec<_> = acting.into_iter().map(|a| a.join()).collect();
            done.into_iter()
                .map(|d| d.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        })
    }

    /// Until every daemon answers and says that its store is there.
    #[track_caller]
    pub fn wait_up(&self) {
        for (_, site) in self.up() {
            site.wait_up();
            wait_until("the store is there again", SOON, || site.store() == "ok");
        }
    }
}

impl FleetPlan {
    fn builder(
        &self,
        n: usize,
        cable: &Cable,
        network: &Network,
        postgres: &Postgres,
        at: &str,
    ) -> super::HostBuilder {
        let url = postgres.url_at(at, DATABASE);
        let name = format!("{}-{}", self.name, n + 1);
        let mut builder = Host::builder(&name)
            .root(self.root.clone())
            .cable(cable)
            .file("/etc/stratavore/store-ca.pem", postgres.authority().pem())
            .secret("/etc/stratavore/store-password", PASSWORD);
        if self.plain {
            return builder;
        }
        let payload = self.payloads.get(n).cloned();
        builder = builder
            .payload(payload.unwrap_or_else(|| project().join("target/test-payload")))
            .file(
                "/etc/stratavore/stratavored.toml",
                format!(
                    "[store]\nurl = \"{url}\"\n[fleet]\n{}\n{}",
                    self.timings, self.config
                ),
            )
            .file(
                "/etc/systemd/system/stratavored.service.d/fleet.conf",
                format!(
                    "[Service]\nLoadCredential=store-password:/etc/stratavore/store-password\n\
                     LoadCredential=store-ca:/etc/stratavore/store-ca.pem\nIPAddressAllow={}\n",
                    network.addresses()
                ),
            )
            .file(
                "/etc/tmpfiles.d/crash.conf",
                "d /run/stratavore-crash 0777 root root -\n",
            )
            .file(
                "/etc/systemd/system/stratavored.service.d/crash.conf",
                "[Service]\nReadWritePaths=-/run/stratavore-crash\n",
            )
            .program(
                ONCE,
                format!("#!/bin/sh\necho \"$STRATAVORE_RUNNER_ID\" >>{RAN}\nexec sleep \"$1\"\n"),
            )
            .file(
                "/etc/tmpfiles.d/fleet.conf",
                format!("d /srv 0777\nf {RAN} 0666\nf {LAUNCHED} 0666\n"),
            )
            .want("polkit.service")
            .want("stratavored.service");
        if !self.agent_config.is_empty() {
            builder = builder.file("/etc/stratavore/agent.toml", self.agent_config.as_str());
        }
        match self.clocks.get(n) {
            Some(ahead) if *ahead != 0 => {
                for unit in ["stratavored", "stratavore-agent"] {
                    builder = builder.file(
                        &format!("/etc/systemd/system/{unit}.service.d/clock.conf"),
                        clock(*ahead),
                    );
                }
                builder
            }
            _ => builder,
        }
    }
}

/// A drop-in that shifts the real-time clock of a service by seconds, and no other clock.
#[track_caller]
pub fn clock(ahead: i64) -> String {
    let library = std::path::Path::new("/usr/lib")
        .join(format!("{}-linux-gnu", std::env::consts::ARCH))
        .join("faketime/libfaketimeMT.so.1");
    assert!(
        library.exists(),
        "{} is missing. Get it with: tests/setup.sh test (Debian package faketime)",
        library.display()
    );
    format!(
        "[Service]\nEnvironment=LD_PRELOAD={} FAKETIME={ahead:+} FAKETIME_DONT_FAKE_MONOTONIC=1\n",
        library.display()
    )
}

/// Long enough for a daemon whose store went away to come back to it.
pub const RECOVERS: Duration = Duration::from_secs(60);
