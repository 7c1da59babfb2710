//! The bus, our name on it, and polkit.

use super::super::Finding;
use super::super::facts::{Audit, Bus, Call, Daemon, Facts};
use super::{and, missing};
use crate::api::auth::ACTIONS;
use crate::domain::units::show_span;

/// Every command that waits holds a connection, and so does every other program of the user.
const CONNECTIONS_MIN: u64 = 128;
/// stratavored waits for so many replies at a time: look-ups, polkit, passwords asked for.
const REPLIES_MIN: u64 = 64;

/// Whether our name can be had and called.
pub(super) fn bus(facts: &Facts) -> Vec<Finding> {
    let bus = &facts.bus;
    let whose = if facts.user { "session" } else { "system" };
    if let Some(why) = &bus.unreachable {
        return vec![
            Finding::problem(
                "bus",
                format!(
                    "The {whose} bus can't be reached: {}.",
                    why.trim_end_matches('.')
                ),
            )
            .mend("systemctl start dbus.socket dbus.service"),
        ];
    }
    let kind = if bus.broker {
        "dbus-broker"
    } else {
        "dbus-daemon"
    };
    let mut out = vec![Finding::ok(
        "bus",
        format!("The {whose} bus ({kind}) answers."),
    )];
    if !facts.user {
        out.push(policy(facts));
    }
    if !bus.activatable {
        out.push(
            Finding::warning("bus activation", "A call while stratavored is down does not start it: org.stratavore1.service is not installed, or the bus has not looked since.")
                .mend("systemctl reload dbus"),
        );
    }
    out.push(daemon(facts));
    out.extend(notifications(facts));
    out.extend(broker(facts));
    out.extend(audit(facts));
    if !facts.user {
        out.extend(limits(bus));
    }
    out
}

fn policy(facts: &Facts) -> Finding {
    const CHECK: &str = "bus policy";
    let bus = &facts.bus;
    let there = missing(facts, "org.stratavore1.conf", "/usr/share/dbus-1/system.d");
    let reload = "systemctl reload dbus";
    if let Call::Denied(why) = &bus.call {
        let message = match bus.policies.is_empty() {
            true => format!("The bus lets no call to org.stratavore1 through: {there}."),
            false => format!(
                "The bus lets no call to org.stratavore1 through, though its policy is installed: it has not been read ({}).",
                why.trim_end_matches('.')
            ),
        };
        return Finding::problem(CHECK, message).mend(reload);
    }
    if let Some(Err(why)) = &bus.may_own {
        return Finding::problem(
            CHECK,
            format!(
                "Nobody may be org.stratavore1 on the bus, so stratavored can't start ({}).",
                why.trim_end_matches('.')
            ),
        )
        .mend(reload);
    }
    if bus.policies.is_empty() {
        return Finding::problem(
            CHECK,
            format!(
                "{there}: after the next start of the bus nobody may be or call org.stratavore1."
            ),
        )
        .mend(reload);
    }
    match (&bus.call, &bus.may_own) {
        (Call::Answered, _) | (_, Some(Ok(()))) => {
            Finding::ok(CHECK, "org.stratavore1 may be owned and called.")
        }
        _ => Finding::note(
            CHECK,
            "The policy is installed; whether it is in force shows only when stratavored runs, or to root.",
        ),
    }
}

/// The broker, where one is configured.
fn broker(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "broker";
    let outbox = &facts.bus.daemon.as_ref()?.outbox;
    let waiting = match outbox.pending {
        0 => "no event waits".to_owned(),
        1 => format!("1 event waits, for {}", show_span(outbox.age)),
        n => format!("{n} events wait, the oldest for {}", show_span(outbox.age)),
    };
    let why = outbox.why.trim_end_matches('.');
    Some(match outbox.broker.as_str() {
        "" | "unconfigured" => return None,
        _ if outbox.blocked => Finding::warning(
            CHECK,
            format!("The broker takes no events for now ({why}); {waiting}."),
        )
        .mend("rabbitmq-diagnostics alarms"),
        "down" => Finding::warning(
            CHECK,
            format!("The broker is not reached ({why}); {waiting}. Nothing is lost."),
        )
        .mend("journalctl -u stratavored -n 50"),
        _ if outbox.refused > 0 => Finding::warning(
            CHECK,
            format!("The broker refuses events: a queue that is bound for them is full; {waiting}. Read it empty, or raise its limit."),
        )
        .mend("rabbitmqctl list_queues name messages"),
        _ if outbox.parked > 0 => Finding::warning(
            CHECK,
            format!(
                "{} of this host's events are parked: no queue is bound for them at the broker's exchange. Bind one, then try them again.",
                outbox.parked
            ),
        )
        .mend("stratavorectl outbox retry"),
        _ => Finding::ok(CHECK, format!("The broker takes events; {waiting}.")),
    })
}

/// This host's audit, where one can be kept.
fn audit(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "audit";
    let user = if facts.user { "--user " } else { "" };
    let verify = format!("stratavorectl {user}audit verify");
    Some(match &facts.bus.daemon.as_ref()?.audit {
        Audit::Untold => return None,
        Audit::Unconfigured => Finding::ok(
            CHECK,
            "No audit is kept, as there is no key. stratavored(8) tells how to have one.",
        ),
        Audit::Kept => Finding::ok(
            CHECK,
            "An audit is kept; whether it is whole, root may ask.",
        ),
        Audit::Long => Finding::note(
            CHECK,
            format!(
                "An audit is kept; looking at all of it takes longer than this. To wait for it: {verify}"
            ),
        ),
        Audit::Seen { verdict, .. } if verdict == "whole" => {
            Finding::ok(CHECK, "The audit is kept, and whole.")
        }
        Audit::Seen { message, .. } => Finding::problem(
            CHECK,
            format!(
                "The audit does not verify: it {}. Export it before anything is changed.",
                message.trim_end_matches('.')
            ),
        )
        .mend(verify),
        Audit::Failed(why) => Finding::warning(
            CHECK,
            format!(
                "The audit can't be looked at: {}.",
                why.trim_end_matches('.')
            ),
        )
        .mend(verify),
    })
}

fn daemon(facts: &Facts) -> Finding {
    const CHECK: &str = "daemon";
    match (&facts.bus.daemon, &facts.bus.call) {
        (Some(daemon), _) if daemon.version != facts.version => {
            Finding::warning(CHECK, format!("stratavored {} runs, and this is stratavorectl {}. Runners go on over a restart.", daemon.version, facts.version))
                .mend("systemctl restart stratavored")
        }
        (Some(daemon), _) if daemon.store == "down" => {
            Finding::problem(CHECK, "stratavored answers, but its store does not: nothing can be launched. What runs goes on.").mend("journalctl -u stratavored -n 50")
        }
        (Some(Daemon { agent_away: Some(away), .. }), _) => {
            Finding::problem(CHECK, format!("stratavored answers, but {away}: nothing can be launched, and nothing stopped before it is back. What runs goes on.")).mend("systemctl status stratavore-agent")
        }
        (Some(daemon), _) if daemon.store != "ok" => {
            let why = match &daemon.not_ready[..] {
                [] => "not everything is taken over yet".to_owned(),
                some => some.join("; "),
            };
            Finding::warning(CHECK, format!("stratavored answers, but nothing can be launched for now: {}.", why.trim_end_matches('.'))).mend("journalctl -u stratavored -n 50")
        }
        (Some(daemon), _) => Finding::ok(CHECK, format!("stratavored {} answers; live runners: {}.", daemon.version, daemon.live)),
        (None, Call::Nobody) => Finding::problem(CHECK, "stratavored is not on the bus.").mend("systemctl start stratavored"),
        (None, Call::Silent) => Finding::problem(CHECK, "stratavored is on the bus and does not answer. Runners go on over a restart.").mend("systemctl restart stratavored"),
        (None, Call::Denied(_)) => Finding::note(CHECK, "Whether stratavored answers can't be seen while the bus lets no call through."),
        (None, Call::Failed(why)) => Finding::problem(CHECK, format!("stratavored does not answer properly: {}.", why.trim_end_matches('.'))).mend("systemctl restart stratavored"),
        (None, _) => Finding::problem(CHECK, "stratavored does not tell its state.").mend("systemctl restart stratavored"),
    }
}

/// Where there are none, nothing is said.
fn notifications(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "notifications";
    let user = if facts.user { "--user " } else { "" };
    match facts.bus.daemon.as_ref()?.notifications.as_str() {
        "ok" => Some(Finding::ok(
            CHECK,
            "No notification rule has failed at its last try.",
        )),
        "failing" => Some(
            Finding::warning(
                CHECK,
                "A webhook does not take the messages of a notification rule; all else works.",
            )
            .mend(format!("stratavorectl {user}notify list")),
        ),
        _ => None,
    }
}

fn limits(bus: &Bus) -> Vec<Finding> {
    if bus.broker {
        return vec![Finding::ok(
            "bus limits",
            "dbus-broker bounds each user's share of memory, not connections.",
        )];
    }
    let set = |(name, least, usual): (&'static str, u64, u64)| {
        (
            name,
            least,
            usual,
            bus.limits.get(name).copied().unwrap_or(usual),
        )
    };
    let limits = [
        ("max_connections_per_user", CONNECTIONS_MIN, 256),
        ("max_replies_per_connection", REPLIES_MIN, 128),
    ]
    .map(set);
    let low: Vec<Finding> = limits
        .iter()
        .filter(|(_, least, _, limit)| limit < least)
        .map(|(name, _, usual, limit)| {
            let effect = match *name {
                "max_connections_per_user" => {
                    "one user can have no more commands waiting at a time, other programs included"
                }
                _ => "calls fail when stratavored has more questions open at once",
            };
            Finding::warning(
                "bus limits",
                format!("dbus-daemon's {name} is {limit}: {effect}. Its default is {usual}."),
            )
            .mend(raise(name, *usual))
        })
        .collect();
    match low.is_empty() {
        true => {
            let [connections, replies] = limits.map(|(.., limit)| limit);
            vec![Finding::ok(
                "bus limits",
                format!(
                    "dbus-daemon allows {connections} connections a user and {replies} open replies a connection."
                ),
            )]
        }
        false => low,
    }
}

/// The last word is /etc/dbus-1/system-local.conf's.
fn raise(name: &str, value: u64) -> String {
    format!(
        "f=/etc/dbus-1/system-local.conf; [ -s $f ] || printf '<busconfig>\\n</busconfig>\\n' >$f; sed -i 's|<limit name=\"{name}\">[^<]*</limit>||g; s|</busconfig>|<limit name=\"{name}\">{value}</limit>\\n&|' $f; systemctl reload dbus"
    )
}

/// polkit, and what the caller may do.
pub(super) fn polkit(facts: &Facts) -> Vec<Finding> {
    if facts.bus.unreachable.is_some() {
        return Vec::new();
    }
    let caller = &facts.caller;
    let Some(polkit) = &facts.polkit else {
        let unit = facts.units.as_ref().and_then(|u| u.get("polkit.service"));
        let only = "only root launches, and owners control what is theirs";
        return vec![match unit.map(|u| u.get("LoadState")) {
            Some("loaded") => {
                Finding::warning("polkit", format!("polkit does not answer: {only}."))
                    .mend("systemctl restart polkit")
            }
            Some("masked") => Finding::warning("polkit", format!("polkit is masked: {only}."))
                .mend("systemctl unmask polkit && systemctl start polkit"),
            _ => Finding::warning(
                "polkit",
                format!(
                    "polkit is not installed: {only}. Install the package polkitd (Debian) or polkit (Fedora), or set security.polkit.enable (NixOS)."
                ),
            ),
        }];
    };
    let mut out = Vec::new();
    let policy = missing(
        facts,
        "org.stratavore1.policy",
        "/usr/share/polkit-1/actions",
    );
    let rules = missing(facts, "50-stratavore.rules", "/usr/share/polkit-1/rules.d");
    let unknown: Vec<&str> = ACTIONS
        .into_iter()
        .filter(|a| !polkit.actions.iter().any(|known| known == a))
        .collect();
    out.push(match unknown.is_empty() {
        true => Finding::ok("polkit", "polkit answers and knows our actions."),
        false => Finding::problem(
            "polkit",
            format!("polkit does not know {}: {policy}, is of another release, or polkit has not looked since.", and(&unknown)),
        )
        .mend("systemctl restart polkit"),
    });
    out.push(match polkit.rules {
        Some(true) => Finding::ok(
            "polkit rules",
            "The rules for stratavore-users and stratavore-admins are installed.",
        ),
        Some(false) => Finding::warning(
            "polkit rules",
            format!("{rules}: members of stratavore-users get no right from it."),
        )
        .mend("systemctl restart polkit"),
        None => Finding::unseen(
            "polkit rules",
            "the folder of polkit's rules, which is polkit's and root's",
        ),
    });
    if caller.is_root() {
        return out;
    }
    let verbs: Vec<&str> = polkit
        .granted
        .iter()
        .map(|a| a.rsplit('.').next().unwrap_or(a))
        .collect();
    let member = caller
        .groups
        .iter()
        .any(|g| matches!(g.as_str(), "stratavore-users" | "stratavore-admins"));
    out.push(match (member, polkit.granted.iter().any(|a| a == "org.stratavore1.launch")) {
        (_, true) => Finding::ok("rights", format!("{} may {} without a password.", caller.name, and(&verbs))),
        (true, false) => Finding::problem("rights", format!("{} is in a group of Stratavore, and polkit still lets it not launch: its rules are not in force.", caller.name))
            .mend("systemctl restart polkit"),
        (false, false) => Finding::note("rights", format!("{} may not launch without an administrator's password, as it is in neither stratavore-users nor stratavore-admins.", caller.name))
            .mend(format!("sudo usermod -aG stratavore-users {}", caller.name)),
    });
    out
}
