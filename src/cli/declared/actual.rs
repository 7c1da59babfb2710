//! What is there, as the bus tells it.

use super::Actual;
use crate::api::proxy::Dict;
use crate::cli::client::{Client, dict, number, text};
use crate::cli::failure::{FAILED, Failure, Result};
use crate::domain::budget::Scope;
use crate::domain::declared::{BudgetName, Terms};
use crate::domain::limits::Value;
use crate::domain::name::shown;
use crate::domain::period::Period;
use crate::domain::project::{ProjectSettings, SLICE_KEYS};
use crate::domain::{Error, ProjectName};

/// All of it. Everybody may see it.
pub(super) async fn actual(client: &Client) -> Result<Actual> {
    let manager = client.manager();
    let failed = |error: zbus::Error| Failure::of_call(&error);
    let fleet = manager.describe_fleet().await.map_err(failed)?;
    let mut out = Actual {
        fleet: cap(&fleet, "max_runners"),
        ..Actual::default()
    };
    for of in manager.list_projects().await.map_err(failed)? {
        let (name, settings) = project(&of).map_err(|e| strange("project", "name", &of, &e))?;
        let count = |key| number(&of, key).unwrap_or_default();
        match count("live").saturating_add(count("queued")) {
            0 => {}
            runners => drop(out.runners.insert(name.clone(), runners)),
        }
        out.projects.insert(name, settings);
    }
    for of in manager.list_budgets().await.map_err(failed)? {
        let (name, terms) = budget(&of).map_err(|e| strange("budget", "scope", &of, &e))?;
        out.budgets.insert(name, terms);
    }
    Ok(out)
}

/// A daemon of a later release may know what this program does not.
fn strange(what: &str, key: &str, of: &Dict, error: &Error) -> Failure {
    let name = shown(text(of, key));
    let message = format!(
        "What stratavored tells of the {what} {name} is not understood: {} Is stratavorectl older than it? See: stratavorectl status.",
        error.message
    );
    Failure::new(FAILED, message)
}

fn cap(of: &Dict, key: &str) -> Option<u32> {
    number(of, key).and_then(|n| u32::try_from(n).ok())
}

fn project(of: &Dict) -> std::result::Result<(ProjectName, ProjectSettings), Error> {
    let mut settings = ProjectSettings {
        description: text(of, "description").to_owned(),
        max_runners: cap(of, "max_runners"),
        max_queued: cap(of, "max_queued"),
        default_tokens: number(of, "default_tokens"),
        ..ProjectSettings::default()
    };
    let limits = dict(of, "limits");
    for key in SLICE_KEYS {
        if let Some(n) = number(&limits, key) {
            settings.limits.set(key, Value::Number(n))?;
        }
    }
    Ok((text(of, "name").parse()?, settings))
}

fn budget(of: &Dict) -> std::result::Result<(BudgetName, Terms), Error> {
    let scope: Scope = text(of, "scope").parse()?;
    let period: Period = text(of, "period").parse()?;
    let terms = Terms {
        limit: number(of, "limit").unwrap_or_default(),
        timezone: text(of, "timezone").to_owned(),
        on_exhausted: text(of, "on_exhausted").parse()?,
        counts: text(of, "count").parse()?,
    };
    Ok(((scope, period), terms))
}
