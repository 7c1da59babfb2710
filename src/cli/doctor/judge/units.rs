//! Our units: there, as on disk, up, and up again after a boot.

use super::super::Finding;
use super::super::facts::{Facts, Unit};
use super::{and, install};
use crate::domain::words::GAVE_UP;

/// Started anew so often since it was last started by hand: something is wrong with it.
const RESTARTS: u32 = 3;
/// EX_CONFIG: stratavored gives up for good.
const CONFIG: &str = "78";

/// Our units by name.
pub(in super::super) const OURS: [&str; 4] = [
    "stratavore-agent.socket",
    "stratavore-agent.service",
    "stratavored.service",
    "stratavore.slice",
];

/// One finding for each unit, and one for each that was changed by a drop-in.
pub(super) fn units(facts: &Facts) -> Vec<Finding> {
    if !facts.systemd.booted {
        return vec![Finding::note("units", "Not looked at without systemd.")];
    }
    let Some(units) = &facts.units else {
        let finding = Finding::problem(
            "units",
            "systemd does not answer systemctl: see its log on the console.",
        );
        // Without the bus only root reaches it.
        return vec![match (facts.caller.is_root(), &facts.bus.unreachable) {
            (false, Some(_)) => Finding::unseen(
                "units",
                "the units, which without the bus only root can ask systemd for",
            ),
            _ => finding.mend("systemctl daemon-reexec"),
        }];
    };
    let socket = units
        .get(OURS[0])
        .is_some_and(|u| u.is("ActiveState", "active"));
    let mut out = Vec::new();
    for name in OURS {
        let unit = units.get(name).cloned().unwrap_or_default();
        out.push(one(name, &unit, socket, install(facts)));
        let drop_ins: Vec<&str> = unit
            .get("DropInPaths")
            .split_whitespace()
            .filter(|p| p.contains(name))
            .collect();
        if !drop_ins.is_empty() {
            out.push(
                Finding::note(
                    format!("drop-ins {name}"),
                    format!("{name} is changed by {}.", and(&drop_ins)),
                )
                .mend(format!("systemctl cat {name}")),
            );
        }
    }
    out
}

fn one(name: &str, unit: &Unit, socket: bool, install: &str) -> Finding {
    match unit.get("LoadState") {
        "loaded" => {}
        "masked" => {
            return Finding::problem(name, format!("{name} is masked: it can't be started."))
                .mend(format!("systemctl unmask {name} && systemctl start {name}"));
        }
        "not-found" | "" => {
            return Finding::problem(name, format!("systemd knows no {name}: it is not installed ({install}), or systemd has not looked since."))
                .mend(format!("systemctl daemon-reload && systemctl start {name}"));
        }
        state => {
            return Finding::problem(
                name,
                format!(
                    "systemd can't load {name} ({state}): {}.",
                    unit.get("LoadError")
                ),
            )
            .mend(format!("systemd-analyze verify {name}"));
        }
    }
    if unit.is("NeedDaemonReload", "yes") {
        return Finding::warning(
            name,
            format!("{name} was changed on disk, and systemd has not read it since."),
        )
        .mend(format!(
            "systemctl daemon-reload && systemctl try-restart {}",
            restartable(name)
        ));
    }
    if let Some(finding) = down(name, unit, socket) {
        return finding;
    }
    let comes_up = !unit.is("UnitFileState", "disabled")
        || !unit.get("WantedBy").is_empty()
        || !unit.get("RequiredBy").is_empty();
    // The agent is started by its socket, the slice by what is in it.
    if !comes_up && matches!(name, "stratavored.service" | "stratavore-agent.socket") {
        return Finding::warning(
            name,
            format!("{name} is up, but does not come up when the host boots."),
        )
        .mend(format!("systemctl enable {name}"));
    }
    let restarts: u32 = unit.get("NRestarts").parse().unwrap_or(0);
    if restarts >= RESTARTS {
        return Finding::warning(
            name,
            format!("{name} is up, after systemd had to start it anew {restarts} times."),
        )
        .mend(format!("journalctl -u {name} -n 50"));
    }
    let state = match unit.get("StatusText") {
        "" => unit.get("ActiveState").to_owned(),
        text => format!("{}: {text}", unit.get("ActiveState")),
    };
    Finding::ok(name, format!("{}.", state.trim_end_matches('.')))
}

/// What is to be started anew after its unit was changed: a slice with runners in it is not.
fn restartable(name: &str) -> &str {
    match name {
        "stratavore.slice" => "stratavored.service",
        // It takes the agent with it.
        other => other,
    }
}

fn down(name: &str, unit: &Unit, socket: bool) -> Option<Finding> {
    let why = |start: &str| match unit.get("StatusText") {
        "" => start.to_owned(),
        text => format!("{start} ({})", text.trim_end_matches('.')),
    };
    Some(match unit.get("ActiveState") {
        "active" | "reloading" => return None,
        "activating" if unit.is("SubState", "auto-restart") => {
            Finding::problem(name, format!("{name} ends again and again ({}); its journal says why.", result(unit)))
                .mend(format!("journalctl -u {name} -n 50"))
        }
        "activating" => Finding::warning(name, format!("{}.", why(&format!("{name} is still starting"))))
            .mend(format!("journalctl -u {name} -n 50")),
        "failed" if unit.is("ExecMainStatus", CONFIG) => Finding::problem(
            name,
            format!(
                "{name} gave up: {}. When that is mended it has to be started by hand.",
                match unit.get("StatusText").strip_prefix(GAVE_UP) {
                    Some(why) => why.trim_end_matches('.'),
                    None => "its configuration is wrong, a credential does not fit it, or its store is of a later version",
                }
            ),
        )
        .mend(format!("systemctl start {name}")),
        "failed" => Finding::problem(name, format!("{name} has failed ({}).", result(unit)))
            .mend(format!("systemctl reset-failed {name}; systemctl restart {name}")),
        // Up when somebody needs it.
        _ if name == "stratavore-agent.service" && socket => return None,
        _ if name == "stratavore.slice" => return None,
        state => Finding::problem(name, format!("{name} is not running ({state}).")).mend(format!("systemctl start {name}")),
    })
}

fn result(unit: &Unit) -> String {
    match (unit.get("Result"), unit.get("ExecMainStatus")) {
        ("exit-code", status) => format!("exit status {status}"),
        ("", _) => "no reason known".to_owned(),
        (result, _) => result.to_owned(),
    }
}
