//! `project`.

use super::args::{Project, ProjectSettings};
use super::client::{Client, dict, number, text, texts};
use super::failure::{Failure, Result, USAGE};
use super::out::Out;
use super::render;
use super::table::{Cell, Column};
use super::text::clean;
use super::{Global, bus, json};
use crate::api::proxy::{Dict, Given};
use crate::domain::admission::QUEUED_MAX;
use crate::domain::project::absent;
use zbus::OwnedObjectPath;

/// Does what is asked of projects.
pub(super) async fn project(client: &Client, global: &Global, args: &Project) -> Result<u8> {
    let out = Out::new(global);
    match args {
        Project::Create(settings) => {
            let body = (settings.name.as_str(), &given(settings));
            let _path: OwnedObjectPath = client.call("CreateProject", &body).await?;
            warn_of(client, settings).await;
        }
        Project::Set(settings) => {
            let body = (settings.name.as_str(), &given(settings));
            if let Err(failure) = client.call::<_, ()>("SetProject", &body).await {
                return Err(client.suggest(failure, &settings.name).await);
            }
            warn_of(client, settings).await;
        }
        Project::Remove { name } => {
            let mut status = 0;
            for name in name {
                let body = (name.as_str(), &Given::new());
                if let Err(failure) = client.call::<_, ()>("RemoveProject", &body).await {
                    let failure = client.suggest(failure, name).await;
                    super::complain(&failure);
                    status = if status == 0 { failure.status } else { status };
                }
            }
            return Ok(status);
        }
        Project::Show { name } => show(client, &out, name).await?,
        Project::List => list(client, global, &out).await?,
    }
    Ok(0)
}

/// What is wrong with it shows before anything is connected to.
pub(super) fn check(args: &Project) -> Result<()> {
    match args {
        Project::Create(settings) => check_settings(settings),
        Project::Set(settings) => {
            check_settings(settings)?;
            match given(settings).is_empty() {
                true => Err(Failure::new(
                    USAGE,
                    "No setting is given, such as --max-runners=10 or --memory-max=infinity.",
                )),
                false => Ok(()),
            }
        }
        Project::Show { name } => super::check_project(name),
        Project::Remove { name } => name.iter().try_for_each(|name| super::check_project(name)),
        Project::List => Ok(()),
    }
}

fn check_settings(settings: &ProjectSettings) -> Result<()> {
    super::check_project(&settings.name)?;
    for (key, number) in numbers(settings) {
        super::check_cap(&format!("--{key}"), number)?;
    }
    tokens(settings)?;
    let mut limits = settings.limits.given();
    limits.try_for_each(|(key, value)| super::check_limit(key, value))
}

fn numbers(settings: &ProjectSettings) -> impl Iterator<Item = (&'static str, &String)> {
    [
        ("max-runners", &settings.max_runners),
        ("max-queued", &settings.max_queued),
    ]
    .into_iter()
    .filter_map(|(key, number)| Some((key, number.as_ref()?)))
}

/// What a launch reserves that does not say; “infinity” = nothing, as for any setting that is lifted.
fn tokens(settings: &ProjectSettings) -> Result<Option<String>> {
    match settings.default_tokens.as_deref().map(str::trim) {
        None => Ok(None),
        Some("infinity") => Ok(Some("infinity".to_owned())),
        Some(text) => super::budget::count("--default-tokens", text).map(|n| Some(n.to_string())),
    }
}

fn given(settings: &ProjectSettings) -> Given<'static> {
    let mut out = Given::new();
    if let Ok(Some(tokens)) = tokens(settings) {
        out.insert("default-tokens", tokens.into());
    }
    if let Some(text) = &settings.description {
        out.insert("description", text.clone().into());
    }
    for (key, number) in numbers(settings) {
        out.insert(key, number.clone().into());
    }
    for (key, value) in settings.limits.given() {
        out.insert(key, value.to_owned().into());
    }
    out
}

async fn all(client: &Client) -> Result<Vec<Dict>> {
    let projects = client.manager().list_projects().await;
    projects.map_err(|e| Failure::of_call(&e))
}

async fn warn_of(client: &Client, settings: &ProjectSettings) {
    if settings.limits.given().next().is_some() {
        warn(client, &settings.name).await;
    }
}

/// Says what this host does not hold of a project's limits; the replies of what sets them tell nothing.
pub(super) async fn warn(client: &Client, name: &str) {
    let projects = all(client).await.unwrap_or_default();
    if let Some(project) = projects.iter().find(|p| text(p, "name") == name) {
        let warnings = texts(project, "warnings").unwrap_or_default();
        super::warn(&format!("project {name}"), &warnings);
    }
}

async fn show(client: &Client, out: &Out, name: &str) -> Result<()> {
    let projects = all(client).await?;
    let Some(project) = projects.iter().find(|p| text(p, "name") == name) else {
        let failure = Failure::no_such("NoSuchProject", absent(name));
        return Err(client.suggest(failure, name).await);
    };
    if out.is_json() {
        return out.object(&json::project(project));
    }
    let limits = dict(project, "limits");
    let said: Vec<String> = super::usage::said(&limits);
    let slice = text(project, "slice");
    let entries = [
        ("Project", text(project, "name").to_owned()),
        ("Description", clean(text(project, "description"))),
        (
            "Live",
            number(project, "live").unwrap_or_default().to_string(),
        ),
        ("Max runners", max(project)),
        (
            "Queued",
            number(project, "queued").unwrap_or_default().to_string(),
        ),
        (
            "Max queued",
            number(project, "max_queued")
                .unwrap_or(QUEUED_MAX.into())
                .to_string(),
        ),
        (
            "Default tokens",
            number(project, "default_tokens").map_or(String::new(), |n| n.to_string()),
        ),
        ("Limits", said.join(" ")),
        (
            "Warnings",
            clean(&texts(project, "warnings").unwrap_or_default().join(" ")),
        ),
        ("Slice", slice.to_owned()),
        (
            "Created",
            render::time(number(project, "created_at").unwrap_or_default()),
        ),
        (
            "Output",
            format!(
                "journalctl '{}={slice}'",
                bus::either("_SYSTEMD_SLICE", "_SYSTEMD_USER_SLICE")
            ),
        ),
    ];
    out.page();
    out.text(&render::block(&entries, out.look.width))
}

async fn list(client: &Client, global: &Global, out: &Out) -> Result<()> {
    let projects = all(client).await?;
    if !projects.is_empty() {
        out.page();
    }
    if out.is_json() {
        return out.objects(projects.iter().map(json::project).collect());
    }
    if global.quiet {
        let names: String = projects
            .iter()
            .map(|p| format!("{}\n", text(p, "name")))
            .collect();
        return out.text(&names);
    }
    if projects.is_empty() {
        super::note("There is no project yet. Make one with: stratavorectl project create NAME");
        return Ok(());
    }
    let rows: Vec<Vec<Cell>> = projects
        .iter()
        .map(|project| {
            vec![
                Cell::new(text(project, "name")),
                Cell::new(number(project, "live").unwrap_or_default().to_string()),
                Cell::new(max(project)),
                Cell::new(text(project, "description")),
            ]
        })
        .collect();
    const HEAD: [Column; 4] = [
        Column::soft("NAME", 2, 8),
        Column::number("LIVE"),
        Column::number("MAX"),
        Column::soft("DESCRIPTION", 1, 12),
    ];
    out.table(&HEAD, &rows)?;
    let s = if projects.len() == 1 { "" } else { "s" };
    out.footer(&format!("{} project{s} listed.", projects.len()))
}

fn max(project: &Dict) -> String {
    number(project, "max_runners").map_or_else(|| "infinity".to_owned(), |n| n.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Verb};
    use clap::Parser;
    use zbus::Variant;

    #[test]
    fn tokens_have_the_units_of_budgets() {
        let parsed = |tokens: &str| {
            let words = ["stratavorectl", "project", "set", "web", "--default-tokens"];
            match Cli::try_parse_from(words.into_iter().chain([tokens]))
                .ok()?
                .verb
            {
                Verb::Project(Project::Set(settings)) => {
                    check_settings(&settings).ok()?;
                    given(&settings).remove("default-tokens")
                }
                _ => None,
            }
        };
        assert_eq!(parsed("2M"), Some(Variant::from("2000000".to_owned())));
        assert_eq!(
            parsed("infinity"),
            Some(Variant::from("infinity".to_owned()))
        );
        assert_eq!((parsed("2X"), parsed("0.5")), (None, None));
    }
}
