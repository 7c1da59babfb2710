//! What monitoring sees: metrics that promtool and a real Prometheus take, and the truth about readiness.

use crate::fixture::{Plan, SOON, Site};
use crate::support::{wait_for, wait_until};

/// Status and body of a page.
fn page(site: &Site, path: &str) -> (u16, String) {
    let out = site.root(&format!(
        "python3 - <<'END'\nimport urllib.request, urllib.error\ntry:\n    a = urllib.request.urlopen('http://127.0.0.1:{path}', timeout=10)\nexcept urllib.error.HTTPError as e:\n    a = e\nprint(a.status)\nprint(a.read().decode(), end='')\nEND"
    ));
    let text = out.out();
    let (status, body) = text.split_once('\n').unwrap_or((&text, ""));
    (status.parse().unwrap_or(0), body.to_owned())
}

/// The value of a series; `None` = it is not there.
fn value(site: &Site, series: &str) -> Option<f64> {
    let (status, text) = page(site, "9791/metrics");
    assert_eq!(status, 200, "{text}");
    let line = text
        .lines()
        .find(|l| l.strip_prefix(series).is_some_and(|r| r.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[track_caller]
fn becomes(site: &Site, series: &str, wanted: f64) {
    wait_for(&format!("{series} {wanted}"), SOON, || {
        match value(site, series) {
            Some(seen) if seen == wanted => Ok(()),
            other => Err(format!("{other:?}\n{}", page(site, "9791/metrics").1)),
        }
    });
}

fn store(site: &Site) -> String {
    site.root("busctl get-property org.stratavore1 /org/stratavore1 org.stratavore1.Manager Store")
        .out()
}

#[test]
fn counters_begin_at_zero_and_tell_the_truth_after_restarts() {
    let site = Site::boot("counts");
    for series in [
        "stratavore_runner_launches_total{project=\"p\",result=\"launched\"}",
        "stratavore_runner_exits_total{cause=\"oom-kill\",project=\"p\"}",
        "stratavore_oom_kills_total{project=\"p\"}",
        "stratavore_admissions_denied_total{gate=\"project-runners\"}",
        "stratavore_reconciliations_total{result=\"failed\"}",
        "stratavore_runners{project=\"p\",state=\"running\"}",
        "stratavore_launch_duration_seconds_count",
        "stratavore_store_duration_seconds_count{operation=\"set_project\"}",
        "stratavore_journal_lines_dropped_total",
    ] {
        assert_eq!(value(&site, series), Some(0.0), "{series}");
    }
    assert_eq!(value(&site, "stratavore_store_up"), Some(1.0));
    assert_eq!(
        value(&site, "stratavore_broker_up"),
        None,
        "there is no broker to be up"
    );

    site.ctl("root", "project set p --max-runners 2").ok();
    let long = site.run("-- sleep 1000");
    let ends = site.run("-- sh -c 'while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 3'");
    site.ctl("alice", "run p -- true").code(3);
    becomes(
        &site,
        "stratavore_runners{project=\"p\",state=\"running\"}",
        2.0,
    );
    becomes(&site, "stratavore_fleet_quota_limit{project=\"p\"}", 2.0);
    becomes(&site, "stratavore_fleet_quota_used{project=\"p\"}", 2.0);
    becomes(
        &site,
        "stratavore_runner_launches_total{project=\"p\",result=\"launched\"}",
        2.0,
    );
    becomes(
        &site,
        "stratavore_runner_launches_total{project=\"p\",result=\"denied\"}",
        1.0,
    );
    becomes(
        &site,
        "stratavore_admissions_denied_total{gate=\"project-runners\"}",
        1.0,
    );
    site.ctl("alice", &format!("freeze {long}")).ok();
    becomes(
        &site,
        "stratavore_runners{project=\"p\",state=\"frozen\"}",
        1.0,
    );

    // An ending while the daemon is down is counted once; what lives is known from the truth.
    site.root("systemctl stop stratavored && touch /tmp/end")
        .ok();
    wait_until("the runner has ended", SOON, || {
        !site.scopes().contains(&ends)
    });
    site.root("systemctl start stratavored").ok();
    site.wait_up();
    becomes(
        &site,
        "stratavore_runner_exits_total{cause=\"exit-code\",project=\"p\"}",
        1.0,
    );
    becomes(
        &site,
        "stratavore_runners{project=\"p\",state=\"frozen\"}",
        1.0,
    );
    becomes(
        &site,
        "stratavore_runners{project=\"p\",state=\"running\"}",
        0.0,
    );
    site.ctl("alice", &format!("stop {long}")).ok();
    becomes(
        &site,
        "stratavore_runner_exits_total{cause=\"stopped\",project=\"p\"}",
        1.0,
    );
    becomes(
        &site,
        "stratavore_runners{project=\"p\",state=\"stopping\"}",
        0.0,
    );
    site.ctl("alice", "run p -- /no/such/program").code(1);
    becomes(
        &site,
        "stratavore_runner_launches_total{project=\"p\",result=\"failed\"}",
        1.0,
    );
    site.ctl("root", "project remove p").ok();
    assert_eq!(
        value(&site, "stratavore_runners{project=\"p\",state=\"running\"}"),
        None
    );
    site.check();
}

#[test]
fn readiness_agrees_with_the_bus_and_says_why() {
    let site = Site::with(Plan {
        name: "ready",
        disk_mb: 200,
        ..Plan::default()
    });
    assert_eq!(page(&site, "9791/readyz"), (200, "ok".to_owned()));
    assert_eq!(page(&site, "9791/healthz"), (200, "ok".to_owned()));
    assert_eq!(store(&site), "s \"ok\"");
    let broker = site.root(
        "busctl get-property org.stratavore1 /org/stratavore1 org.stratavore1.Manager Broker",
    );
    assert_eq!(broker.out(), "s \"unconfigured\"");

    site.root("systemctl stop stratavore-agent.socket stratavore-agent.service")
        .ok();
    wait_until("not ready without the agent", SOON, || {
        page(&site, "9791/readyz").0 == 503
    });
    assert!(page(&site, "9791/readyz").1.contains("agent"));
    assert_eq!(store(&site), "s \"degraded\"");
    assert_eq!(value(&site, "stratavore_agent_up"), Some(0.0));
    assert_eq!(page(&site, "9791/healthz").0, 200);
    site.root("systemctl start stratavore-agent.socket").ok();
    wait_until("ready again", SOON, || page(&site, "9791/readyz").0 == 200);
    assert_eq!(store(&site), "s \"ok\"");

    site.root("dd if=/dev/zero of=/var/lib/filler bs=64k 2>/dev/null; dd if=/dev/zero of=/var/lib/filler2 bs=1 2>/dev/null; true");
    wait_for("not ready with a full disk", SOON, || {
        site.ctl("alice", "run p -- true");
        match page(&site, "9791/readyz") {
            (503, why) if why.contains("store") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(store(&site), "s \"down\"");
    assert_eq!(value(&site, "stratavore_store_up"), Some(0.0));
    site.root("rm /var/lib/filler /var/lib/filler2").ok();
    wait_until("ready once more", SOON, || {
        page(&site, "9791/readyz").0 == 200
    });
    assert_eq!(store(&site), "s \"ok\"");
}

#[test]
fn promtool_and_a_real_prometheus_take_it() {
    let site = Site::with(Plan {
        name: "prom",
        config: "[metrics]\nadvertise = \"localhost\"\n",
        ..Plan::default()
    });
    site.root("command -v prometheus promtool >/dev/null").ok();
    let long = site.run("-- sleep 1000");
    let (_, text) = page(&site, "9791/metrics");
    site.host.write("/tmp/metrics", text + "\n");
    let lint = site.root("promtool check metrics < /tmp/metrics").ok();
    assert_eq!(lint.out() + &lint.err(), "");
    let (_, found) = page(&site, "9791/sd");
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found[0]["targets"][0], "localhost:9791", "{found}");

    site.host.write("/tmp/prometheus.yml", "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n- job_name: stratavore\n  http_sd_configs: [{url: 'http://127.0.0.1:9791/sd', refresh_interval: 1s}]\n  relabel_configs: [{source_labels: [__meta_stratavore_host_name], target_label: host}]\n");
    site.root("promtool check config /tmp/prometheus.yml && systemd-run -q --unit prom prometheus --config.file /tmp/prometheus.yml --storage.tsdb.path /tmp/tsdb --web.listen-address 127.0.0.1:9090").ok();
    let ask = |query: &str| page(&site, &format!("9090/api/v1/query?query={query}")).1;
    let wanted = format!("\"host\":\"{}\"", site.root("hostname").out());
    wait_for("Prometheus has scraped the host it found", SOON, || {
        let seen = ask("stratavore_runners%7Bproject=%22p%22,state=%22running%22%7D");
        let parsed: serde_json::Value = serde_json::from_str(&seen).unwrap_or_default();
        match parsed["data"]["result"][0]["value"][1].as_str() {
            Some("1") if seen.contains(&wanted) => Ok(()),
            _ => Err(format!(
                "{seen} {}",
                site.root("systemctl status prom").out()
            )),
        }
    });
    site.ctl("alice", &format!("stop {long}")).ok();
    site.check();
}

/// Another port, none at all, a port that is taken, and a socket that systemd holds.
#[test]
fn where_it_listens() {
    let site = Site::with(Plan {
        name: "listen",
        config: "[metrics]\nlisten = \"[::1]:9800\"\n",
        ..Plan::default()
    });
    let sockets = || site.root("ss -Hltn").out();
    assert!(
        sockets().contains("[::1]:9800") && !sockets().contains("9791"),
        "{}",
        sockets()
    );
    let config = |text: &str| {
        site.host.write("/etc/stratavore/stratavored.toml", text);
        site.root("systemctl restart stratavored").ok();
        site.wait_up();
    };
    config("[metrics]\nlisten = \"\"\n");
    assert!(!sockets().contains("9800"), "{}", sockets());

    site.root("systemd-run -q --unit taken python3 -m http.server --bind 127.0.0.1 9791")
        .ok();
    wait_until("the port is taken", SOON, || sockets().contains("9791"));
    config("");
    wait_until("it says so", SOON, || {
        site.root("journalctl -q MESSAGE_ID=7066e459dfea49c4a108a91b3ac02e9e")
            .out()
            .contains("9791")
    });
    site.root("systemctl stop taken").ok();
    wait_until("it takes the port", SOON, || {
        page(&site, "9791/readyz").0 == 200
    });

    site.root("systemctl stop stratavored; printf '[Socket]\\nListenStream=127.0.0.1:9999\\nService=stratavored.service\\n' > /etc/systemd/system/metrics.socket; systemctl daemon-reload; systemctl start metrics.socket stratavored").ok();
    site.wait_up();
    wait_until("the passed socket serves", SOON, || {
        page(&site, "9999/readyz").0 == 200
    });
    site.check();
}

#[test]
fn budgets_and_tokens_are_counted() {
    let site = Site::boot("m-budget");
    let of = |what: &str| {
        format!(
            "stratavore_fleet_budget_{what}_tokens{{name=\"p\",period=\"day\",scope=\"project\"}}"
        )
    };
    let id = site.run("-- sleep 1000");
    becomes(&site, "stratavore_fleet_budgets_left_out", 0.0);
    assert_eq!(value(&site, &of("limit")), None);
    let tokens = "stratavore_tokens_total{direction=\"in\",project=\"p\"}";
    assert_eq!(value(&site, tokens), Some(0.0));
    site.ctl(
        "root",
        "budget set --scope project:p --period day --limit 5k",
    )
    .ok();
    becomes(&site, &of("limit"), 5_000.0);
    becomes(&site, &of("used"), 0.0);
    site.ctl(
        "root",
        &format!("usage report --runner {id} --tokens-in 700 --tokens-out 7"),
    )
    .ok();
    becomes(&site, &of("used"), 707.0);
    assert_eq!(value(&site, &of("reserved")), Some(0.0));
    assert_eq!(value(&site, tokens), Some(700.0));
    site.ctl("root", "budget remove --scope project:p --period day")
        .ok();
    wait_until("its series are gone", SOON, || {
        value(&site, &of("limit")).is_none()
    });
}
