//! `host` and `fleet`.

use super::args::{Drain, Fleet, Host};
use super::client::{Client, dict, labels_of, number, text};
use super::failure::{FAILED, Failure, NO_SUCH, Result, USAGE};
use super::out::Out;
use super::table::{Cell, Column, Style};
use super::{Global, json, render};
use crate::api::proxy::{Dict, Given};
use crate::domain::units::{INFINITY, parse_finite_span};
use std::time::Duration;
use zbus::Variant;

/// Between two looks at a host that is drained.
const LOOK: Duration = Duration::from_millis(500);

/// Does what is asked of hosts.
pub(super) async fn host(client: &Client, global: &Global, args: &Host) -> Result<u8> {
    let none = Given::new();
    match args {
        Host::List => list(client, global).await?,
        Host::Cordon(args) => {
            let given = reason(args.reason.as_deref());
            let body = (args.which.host.as_str(), &given);
            client.call::<_, ()>("CordonHost", &body).await?;
        }
        Host::Uncordon(which) => {
            let body = (which.host.as_str(), &none);
            client.call::<_, ()>("UncordonHost", &body).await?;
        }
        Host::Drain(args) => drain(client, global, args).await?,
        Host::Forget(which) => {
            let body = (which.host.as_str(), &none);
            let ended: u32 = client.call("ForgetHost", &body).await?;
            if !global.quiet {
                eprintln!(
                    "{} is forgotten. {} as host-lost; what they held is free. If the machine still runs, switch it off now.",
                    super::text::clean(&which.host),
                    match ended {
                        1 => "1 runner ended".to_owned(),
                        n => format!("{n} runners ended"),
                    }
                );
            }
        }
    }
    Ok(0)
}

/// What is wrong with it shows before anything is connected to.
pub(super) fn check(args: &Host) -> Result<()> {
    match args {
        Host::Drain(args) => deadline(args).map(drop),
        _ => Ok(()),
    }
}

/// The same of `fleet`.
pub(super) fn check_fleet(args: &Fleet) -> Result<()> {
    match args {
        Fleet::Set(set) => super::check_cap("--max-runners", &set.max_runners),
        Fleet::Show => Ok(()),
    }
}

fn deadline(args: &Drain) -> Result<u64> {
    let Some(text) = &args.deadline else {
        return Ok(0);
    };
    // Of infinity the daemon says what to do instead.
    let span = match text.as_str() {
        "infinity" => Ok(INFINITY),
        text => parse_finite_span(text),
    };
    span.map_err(|e| Failure::new(USAGE, format!("--deadline: {}", e.message)))
}

fn reason(text: Option<&str>) -> Given<'static> {
    let reason = text.map(|text| ("reason", text.to_owned().into()));
    reason.into_iter().collect()
}

/// All hosts.
async fn all(client: &Client) -> Result<Vec<Dict>> {
    let hosts = client.manager().list_hosts().await;
    hosts.map_err(|e| Failure::of_call(&e))
}

async fn drain(client: &Client, global: &Global, args: &Drain) -> Result<()> {
    let name = args.which.host.as_str();
    let mut given = reason(args.reason.as_deref());
    let deadline = deadline(args)?;
    given.insert("deadline", deadline.into());
    client.call::<_, ()>("DrainHost", &(name, &given)).await?;
    if args.no_block {
        return Ok(());
    }
    let mut told = None;
    loop {
        let host = match find(client, name).await {
            Ok(host) => host,
            // The store or the daemon may be back in a moment; the drain goes on.
            Err(failure) if failure.passes() => {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let live = number(&host, "live").unwrap_or_default();
        let shown = super::text::clean(text(&host, "name"));
        if !global.quiet && told != Some(live) {
            if told.is_none() {
                eprintln!("{}", begun(&host, &shown, deadline));
            } else if live > 0 {
                eprintln!("{shown}: {} left.", runners(live));
            }
            told = Some(live);
        }
        if live == 0 {
            if !global.quiet {
                super::note(&format!(
                    "{shown} is empty, and stays cordoned until: stratavorectl host uncordon {shown}"
                ));
            }
            return Ok(());
        }
        if text(&host, "state") != "up" {
            return Err(Failure::new(
                FAILED,
                format!(
                    "Host {shown} is {}, so nobody can stop its {}. It does so itself when it is back. If the machine is off for good: stratavorectl host forget {shown}.",
                    text(&host, "state"),
                    runners(live)
                ),
            ));
        }
        if !dict(&host, "cordon").contains_key("drain_until") {
            let message = format!("Host {shown} was taken out of its drain by somebody else.");
            return Err(Failure::new(FAILED, message));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn find(client: &Client, name: &str) -> Result<Dict> {
    let hosts = all(client).await?;
    let mut found = hosts
        .iter()
        .find(|h| text(h, "id") == name || text(h, "name") == name);
    if found.is_none() {
        found = hosts.iter().find(|h| text(h, "id").starts_with(name));
    }
    found.cloned().ok_or_else(|| {
        let name = crate::domain::name::shown(name);
        Failure::new(NO_SUCH, format!("There is no host “{name}”."))
    })
}

fn runners(n: u64) -> String {
    match n {
        1 => "1 live runner".to_owned(),
        n => format!("{n} live runners"),
    }
}

fn begun(host: &Dict, shown: &str, deadline: u64) -> String {
    let live = runners(number(host, "live").unwrap_or_default());
    let how = match deadline {
        0 => format!("{live} to stop"),
        span => format!(
            "{live}, stopped in {} unless they end before",
            render::span(span)
        ),
    };
    let waiting = match number(host, "queued").unwrap_or_default() {
        0 => String::new(),
        1 => " 1 runner waits there and goes on waiting.".to_owned(),
        n => format!(" {n} runners wait there and go on waiting."),
    };
    format!("{shown} is cordoned: {how}.{waiting}")
}

async fn list(client: &Client, global: &Global) -> Result<()> {
    let out = Out::new(global);
    let hosts = all(client).await?;
    if !hosts.is_empty() {
        out.page();
    }
    if out.is_json() {
        return out.objects(hosts.iter().map(json::host).collect());
    }
    if global.quiet {
        let names: String = hosts
            .iter()
            .map(|h| format!("{}\n", text(h, "name")))
            .collect();
        return out.text(&names);
    }
    const HEAD: [Column; 9] = [
        Column::soft("NAME", 3, 8),
        Column::stiff("STATE"),
        Column::number("LIVE"),
        Column::number("MAX"),
        Column::number("LEASE"),
        Column::soft("CORDON", 1, 8),
        Column::soft("VERSION", 1, 6),
        Column::soft("LABELS", 1, 6),
        Column::soft("ID", 1, 8),
    ];
    let rows: Vec<Vec<Cell>> = hosts.iter().map(row).collect();
    out.table(&HEAD, &rows)?;
    let s = if hosts.len() == 1 { "" } else { "s" };
    out.footer(&format!("{} host{s} listed.", hosts.len()))
}

fn row(host: &Dict) -> Vec<Cell> {
    let state = text(host, "state");
    let style = match state {
        "up" => Style::Good,
        "unreachable" => Style::Bad,
        _ => Style::Faint,
    };
    let lease = match (state, number(host, "lease_remaining")) {
        ("up", Some(INFINITY)) => "infinity".to_owned(),
        ("up", Some(left)) => render::span(left),
        _ => String::new(),
    };
    let labels = labels_of(host);
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    vec![
        Cell::new(text(host, "name")),
        match (state, host.get("ready").map(|ready| &**ready)) {
            // Its agent is away, or has just come back.
            ("up", Some(Variant::Bool(false))) => Cell::styled("not ready", Style::Notice),
            _ => Cell::styled(state, style),
        },
        Cell::new(number(host, "live").unwrap_or_default().to_string()),
        Cell::or_dash(number(host, "max_runners").map_or(String::new(), |n| n.to_string())),
        Cell::or_dash(lease),
        Cell::or_dash(cordon(host)),
        Cell::or_dash(text(host, "version")),
        Cell::or_dash(labels.join(" ")),
        Cell::new(text(host, "id")),
    ]
}

/// `draining: new disk`, `cordoned`; empty without one.
pub(super) fn cordon(host: &Dict) -> String {
    if !host.contains_key("cordon") {
        return String::new();
    }
    let cordon = dict(host, "cordon");
    let empty = number(host, "live") == Some(0);
    let how = match (cordon.contains_key("drain_until"), empty) {
        (true, true) => "drained",
        (true, false) => "draining",
        (false, _) => "cordoned",
    };
    match text(&cordon, "reason") {
        "" => how.to_owned(),
        reason => format!("{how}: {reason}"),
    }
}

/// Does what is asked of the fleet.
pub(super) async fn fleet(client: &Client, global: &Global, args: &Fleet) -> Result<u8> {
    let out = Out::new(global);
    match args {
        Fleet::Set(set) => {
            let given = Given::from([("max-runners", set.max_runners.clone().into())]);
            client.call::<_, ()>("SetFleet", &(&given,)).await?;
        }
        Fleet::Show => {
            let fleet = client.manager().describe_fleet().await;
            let fleet = fleet.map_err(|e| Failure::of_call(&e))?;
            if out.is_json() {
                out.object(&json::fleet(&fleet))?;
                return Ok(0);
            }
            let count = |of: &Dict, key: &str| number(of, key).unwrap_or_default();
            let hosts = dict(&fleet, "hosts");
            let states = ["up", "unreachable", "lost", "left"];
            let hosts: Vec<String> = states
                .iter()
                .filter(|state| **state == "up" || count(&hosts, state) > 0)
                .map(|state| format!("{} {state}", count(&hosts, state)))
                .collect();
            let max = number(&fleet, "max_runners");
            let rows = [
                ("Hosts", hosts.join(", ")),
                ("Live runners", count(&fleet, "live").to_string()),
                (
                    "At most",
                    max.map_or_else(|| "infinity".to_owned(), |n| n.to_string()),
                ),
                ("Waiting", count(&fleet, "queued").to_string()),
            ];
            out.text(&render::block(&rows, out.look.width))?;
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::wire::Str;

    #[test]
    fn what_a_cordon_is_called() {
        let text = |t: &str| Str::from(t.to_owned()).into();
        let host = |live: u32, cordon: Option<Dict>| {
            let mut host = Dict::from([("live".to_owned(), live.into())]);
            let cordon = cordon.and_then(|c| zbus::Variant::from(c).try_into_owned().ok());
            host.extend(cordon.map(|c| ("cordon".to_owned(), c)));
            host
        };
        let why = ("reason".to_owned(), text("disk"));
        let until = ("drain_until".to_owned(), 5u64.into());
        assert_eq!(cordon(&host(1, None)), "");
        let only = Dict::from([("reason".to_owned(), text(""))]);
        assert_eq!(cordon(&host(1, Some(only))), "cordoned");
        let drain = Dict::from([why, until]);
        assert_eq!(cordon(&host(1, Some(drain.clone()))), "draining: disk");
        assert_eq!(cordon(&host(0, Some(drain))), "drained: disk");
    }
}
