//! What monitoring sees: `/metrics`, `/healthz`, `/readyz` and `/sd`, by the bounded server of
//! [`crate::adapters::exposition`].
//!
//! Gauges are read from the engine's own truth when they are asked for. Facts of the fleet are those
//! that the engine has read from the store a moment ago. A page never waits for store or agent.

mod budgets;
mod relay;

use super::discovery;
use crate::adapters::exposition::{self, Page, Pages, TEXT};
use crate::domain::State;
use crate::domain::kinds;
use crate::engine::{Engine, Health};
use crate::metrics::OTHER;
use crate::telemetry::Telemetry;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    HistogramVec, IntCounter, IntGauge, IntGaugeVec, Opts, Registry, TEXT_FORMAT, TextEncoder,
};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;

/// An engine that has not come round for so long is not healthy.
const WEDGED: Duration = Duration::from_secs(20);
/// Between two attempts to listen.
const AGAIN: Duration = Duration::from_secs(10);
/// What a runner that lives can be.
const LIVE: [State; 4] = [
    State::Starting,
    State::Running,
    State::Frozen,
    State::Stopping,
];

/// All there is to see of this daemon.
#[derive(Debug)]
pub struct Observed {
    host_id: String,
    host_name: String,
    /// `metrics.advertise`, or empty.
    advertise: String,
    log: Telemetry,
    /// What the daemon waits for before it has an engine.
    waits: Mutex<String>,
    /// Where we listen.
    address: OnceLock<SocketAddr>,
    parts: OnceLock<Parts>,
    /// There are other hosts, which `/sd` has to know before it may answer.
    in_fleet: bool,
}

/// What is there once the store is open.
pub struct Parts {
    /// The engine.
    pub engine: Engine,
    /// The store's connections in use, and idle.
    pub connections: Box<dyn Fn() -> (i64, i64) + Send + Sync>,
    /// How long the store took.
    pub store_times: HistogramVec,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.engine.fmt(f)
    }
}

impl Observed {
    /// A daemon that has nothing yet.
    pub fn new(
        host_id: &str,
        host_name: &str,
        advertise: &str,
        in_fleet: bool,
        log: Telemetry,
    ) -> Arc<Self> {
        Arc::new(Self {
            host_id: host_id.to_owned(),
            host_name: host_name.to_owned(),
            advertise: advertise.to_owned(),
            log,
            waits: Mutex::new("the store is not open yet".to_owned()),
            address: OnceLock::new(),
            parts: OnceLock::new(),
            in_fleet,
        })
    }

    /// Says what the start waits for.
    pub(super) fn waits_for(&self, what: String) {
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// The engine is there.
    pub fn has(&self, parts: Parts) {
        let _ = self.parts.set(parts);
    }

    /// Why nothing can be launched; empty = ready.
    fn lacking(&self) -> Vec<String> {
        match self.parts.get() {
            None => vec![
                self.waits
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone(),
            ],
            Some(parts) => parts.engine.health().borrow().lacking(),
        }
    }

    fn health(&self) -> Page {
        let silent = self.parts.get().map(|p| p.engine.since_progress());
        match silent.filter(|s| *s > WEDGED) {
            None => page(200, TEXT, "ok\n".to_owned()),
            Some(silent) => page(
                503,
                TEXT,
                format!("the engine makes no progress for {} s\n", silent.as_secs()),
            ),
        }
    }

    fn readiness(&self) -> Page {
        match self.lacking() {
            lacking if lacking.is_empty() => page(200, TEXT, "ok\n".to_owned()),
            lacking => page(503, TEXT, lacking.join("\n") + "\n"),
        }
    }

    /// Prometheus' HTTP service discovery, see [`super::discovery`].
    fn discovery(&self) -> Page {
        let peers = self.parts.get().and_then(|p| p.engine.peers_last());
        if peers.is_none() && self.in_fleet {
            let why = "the hosts of the fleet are not known yet\n".to_owned();
            return page(503, TEXT, why);
        }
        let own = discovery::Own {
            id: &self.host_id,
            name: &self.host_name,
            target: target(&self.advertise, &self.host_name, self.address.get()),
        };
        let found = discovery::targets(&own, peers.as_deref());
        page(200, "application/json", found.to_string())
    }

    fn metrics(&self) -> Page {
        match self
            .families()
            .and_then(|f| TextEncoder::new().encode_to_string(&f))
        {
            Ok(text) => page(200, TEXT_FORMAT, text),
            Err(error) => page(500, TEXT, format!("{error}\n")),
        }
    }

    fn families(&self) -> prometheus::Result<Vec<MetricFamily>> {
        let now = Registry::new();
        let build = one(
            "stratavore_build_info",
            "The release that runs.",
            &["version", "revision"],
        )?;
        let (version, revision) = revision(crate::VERSION_TEXT);
        build.with_label_values(&[version, revision]).set(1);
        now.register(Box::new(build))?;
        let up = IntGauge::new("stratavore_store_up", "Whether the store answers.")?;
        now.register(Box::new(up.clone()))?;
        let agent = IntGauge::new(
            "stratavore_agent_up",
            "Whether stratavore-agent is connected.",
        )?;
        now.register(Box::new(agent.clone()))?;
        let lost = IntCounter::new(
            "stratavore_journal_lines_dropped_total",
            "Lines of stratavored the journal did not take.",
        )?;
        lost.inc_by(self.log.lines_dropped());
        now.register(Box::new(lost))?;
        let process = prometheus::process_collector::ProcessCollector::for_self();
        now.register(Box::new(process))?;

        let Some(parts) = self.parts.get() else {
            return Ok(now.gather());
        };
        let health: Health = parts.engine.health().borrow().clone();
        up.set(i64::from(health.store.is_none()));
        agent.set(i64::from(health.agent));
        let pool = one(
            "stratavore_store_pool_connections",
            "Connections to the store that read.",
            &["state"],
        )?;
        let (used, idle) = (parts.connections)();
        pool.with_label_values(&["used"]).set(used);
        pool.with_label_values(&["idle"]).set(idle);
        now.register(Box::new(pool))?;
        for collector in relay::collectors(&parts.engine)? {
            now.register(collector)?;
        }
        for family in fleet(&parts.engine)? {
            now.register(Box::new(family))?;
        }
        // Before the agent has told what runs, nothing is known of runners: absent is true, 0 would not be.
        if health.adopted {
            for family in runners(&parts.engine)? {
                now.register(Box::new(family))?;
            }
        }
        // Not known is another thing than none.
        if let Some(known) = parts.engine.budgets_lately() {
            for collector in budgets::collectors(&known)? {
                now.register(collector)?;
            }
        }
        let mut all = now.gather();
        all.extend(parts.store_times.collect());
        all.extend(parts.engine.metrics().gather());
        Ok(all)
    }
}

impl Pages for Observed {
    fn page(&self, path: &str) -> Option<Page> {
        match path {
            "/metrics" => Some(self.metrics()),
            "/healthz" => Some(self.health()),
            "/readyz" => Some(self.readiness()),
            "/sd" => Some(self.discovery()),
            _ => None,
        }
    }
}

/// Listens, where that is wanted, and serves for ever. A passed socket comes before `listen`.
pub(super) async fn serve(
    observed: Arc<Observed>,
    passed: Option<TcpListener>,
    listen: Option<SocketAddr>,
) {
    let mut told = false;
    let listener = loop {
        let Some(address) = listen.filter(|_| passed.is_none()) else {
            break passed;
        };
        match TcpListener::bind(address).await {
            Ok(listener) => break Some(listener),
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(message_id = kinds::METRICS_NOT_SERVED.id, %address, %error, "Metrics can't be served on {address}, which is tried again");
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    };
    let Some(listener) = listener else { return };
    if let Ok(address) = listener.local_addr() {
        let _ = observed.address.set(address);
        tracing::info!(message_id = kinds::METRICS_SERVED.id, %address, "Metrics are served on http://{address}/metrics");
    }
    exposition::serve(listener, observed).await;
}

fn page(status: u16, kind: &'static str, body: String) -> Page {
    Page { status, kind, body }
}

fn one(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(name, help), labels)
}

/// Live runners by project and state, from the live map; and of the fleet quotas and queues: what
/// the store said a moment ago, and where one host is the fleet, the live map itself.
fn runners(engine: &Engine) -> prometheus::Result<Vec<IntGaugeVec>> {
    let gauge = one("stratavore_runners", "Live runners.", &["project", "state"])?;
    let limit = one(
        "stratavore_fleet_quota_limit",
        "Cap on live runners of a project that has one, over the fleet.",
        &["project"],
    )?;
    let used = one(
        "stratavore_fleet_quota_used",
        "Live runners of a project over the fleet: what its cap counts.",
        &["project"],
    )?;
    let queue = one(
        "stratavore_fleet_queue_length",
        "Runners of a project that wait for their turn, over the fleet.",
        &["project"],
    )?;
    let live = engine.live();
    let mut counts: BTreeMap<(&str, State), i64> = BTreeMap::new();
    for runner in &live {
        let key = (runner.spec.project.as_str(), runner.state());
        *counts.entry(key).or_default() += 1;
    }
    let (metrics, lately) = (engine.metrics(), engine.projects_lately());
    let known = metrics.projects();
    let label = |project| match known.contains_key(project) {
        true => project,
        false => OTHER,
    };
    let alone = engine.is_alone();
    for project in known.keys().map(String::as_str).chain([OTHER]) {
        for state in LIVE {
            gauge.with_label_values(&[project, state.as_str()]);
        }
        if alone || lately.is_some() {
            used.with_label_values(&[project]);
        }
    }
    for (project, max) in known.iter() {
        if let Some(max) = max {
            limit.with_label_values(&[project]).set(i64::from(*max));
        }
    }
    // A lane whose ending is just being written holds no slot any more.
    for ((project, state), count) in counts.into_iter().filter(|((_, s), _)| s.is_live()) {
        let project = label(project);
        gauge
            .with_label_values(&[project, state.as_str()])
            .add(count);
        if alone {
            used.with_label_values(&[project]).add(count);
        }
    }
    for project in lately.iter().flat_map(|all| all.iter()) {
        let name = label(project.name.as_str());
        queue
            .with_label_values(&[name])
            .add(i64::from(project.queued));
        if !alone {
            used.with_label_values(&[name]).add(i64::from(project.live));
        }
    }
    Ok(vec![gauge, limit, used, queue])
}

/// The own lease, and the hosts as they were read last: nothing is asked of the store here.
fn fleet(engine: &Engine) -> prometheus::Result<Vec<IntGaugeVec>> {
    let mut families = Vec::new();
    if let Some(left) = engine.lease_left() {
        let lease = one(
            "stratavore_host_lease_remaining_seconds",
            "How long this host's lease holds; 0 = it has none, and launches nothing.",
            &[],
        )?;
        let seconds = i64::try_from(left / 1_000_000).unwrap_or(i64::MAX);
        lease.with_label_values::<&str>(&[]).set(seconds);
        families.push(lease);
    }
    if let Some(left) = engine.lease_state().and_then(|state| state.stops_in) {
        let fence = one(
            "stratavore_self_fence_remaining_seconds",
            "After how long this host's runners stop by themselves unless store and agent are reached before; absent = never.",
            &[],
        )?;
        let seconds = i64::try_from(left / 1_000_000).unwrap_or(i64::MAX);
        fence.with_label_values::<&str>(&[]).set(seconds);
        families.push(fence);
    }
    if let Some(peers) = engine.peers() {
        let hosts = one(
            "stratavore_fleet_hosts",
            "Hosts that have ever joined the fleet.",
            &["state"],
        )?;
        for (standing, count) in peers.count() {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            hosts.with_label_values(&[standing.as_str()]).set(count);
        }
        families.push(hosts);
    }
    Ok(families)
}

/// Version and commit of the text for `--version`: `0.1.0 (4278df954b1c 2026-11-22)`.
fn revision(text: &str) -> (&str, &str) {
    let (version, rest) = text.split_once(" (").unwrap_or((text, ""));
    let revision = rest.trim_end_matches(')').split(' ').next();
    (version, revision.unwrap_or(""))
}

/// What the other hosts list for this one: where it is to be scraped, or nothing if it serves nothing.
pub(super) fn advertised(advertise: &str, host_name: &str, listens: Option<&SocketAddr>) -> String {
    match (advertise, listens) {
        ("", None) => String::new(),
        _ => target(advertise, host_name, listens),
    }
}

/// Where this host is to be scraped.
pub(super) fn target(advertise: &str, host_name: &str, address: Option<&SocketAddr>) -> String {
    let port = address.map_or(crate::config::METRICS_PORT, SocketAddr::port);
    match (advertise, address) {
        ("", Some(address)) if !address.ip().is_unspecified() => address.to_string(),
        ("", _) => format!("{host_name}:{port}"),
        (given, _) => match crate::config::address::has_port(given) {
            true => given.to_owned(),
            false => format!("{given}:{port}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_where_the_host_is_reached() {
        let at = |text: &str| text.parse::<SocketAddr>().ok();
        for (advertise, address, expected) in [
            ("", "127.0.0.1:9791", "127.0.0.1:9791"),
            ("", "0.0.0.0:9000", "web-1:9000"),
            ("", "[::]:9791", "web-1:9791"),
            ("", "[fd00::1]:9791", "[fd00::1]:9791"),
            (
                "web-1.example.org",
                "0.0.0.0:9000",
                "web-1.example.org:9000",
            ),
            ("proxy:443", "127.0.0.1:9791", "proxy:443"),
            ("[fd00::1]", "[::]:9791", "[fd00::1]:9791"),
            ("[fd00::1]:80", "[::]:9791", "[fd00::1]:80"),
        ] {
            assert_eq!(target(advertise, "web-1", at(address).as_ref()), expected);
            assert_eq!(
                advertised(advertise, "web-1", at(address).as_ref()),
                expected
            );
        }
        assert_eq!(advertised("", "web-1", None), "");
    }

    #[test]
    fn the_revision_is_read_from_the_version() {
        assert_eq!(
            revision("0.1.0 (4278df954b1c 2026-11-22)"),
            ("0.1.0", "4278df954b1c")
        );
        assert_eq!(revision("0.1.0"), ("0.1.0", ""));
    }
}
