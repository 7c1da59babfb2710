//! The store's refusals, as sentences for people.

use super::fail::Fail;
use super::link::Link;
use crate::domain::nearest::nearest;
use crate::domain::{Error, ErrorKind, Project, ProjectName, RunnerId, project};

/// The projects there are, for [`unknown_project`]: not more than anybody would read.
pub(super) async fn project_names(on: &mut Link) -> Result<Vec<String>, Fail> {
    let rows = on
        .rows("SELECT name FROM projects ORDER BY name LIMIT 1000", vec![])
        .await?;
    rows.iter().map(|r| r.text(0).map(str::to_owned)).collect()
}

/// There is no such project; says which one may have been meant and, for `create`, how it is made.
pub(super) async fn no_such_project(on: &mut Link, name: &ProjectName, create: bool) -> Fail {
    match project_names(on).await {
        Ok(names) => Fail::Refused(unknown_project(name, &names, create)),
        Err(fail) => fail,
    }
}

pub(super) fn unknown_project(name: &ProjectName, names: &[String], create: bool) -> Error {
    let meant = nearest(name.as_str(), names.iter().map(String::as_str));
    project::unknown(name, meant, create)
}

pub(super) fn no_such_host(host: &str) -> Error {
    Error::new(
        ErrorKind::NoSuchHost,
        format!("No host {host} has ever joined. See which there are: stratavorectl host list"),
    )
}

pub(super) fn project_exists(name: &ProjectName) -> Error {
    Error::new(
        ErrorKind::AlreadyExists,
        format!(
            "Project {name} exists already. See it: stratavorectl project show {name}; change it: stratavorectl project set {name}"
        ),
    )
}

pub(super) fn project_in_use(project: &Project) -> Error {
    let name = &project.name;
    let all = project.live + project.queued;
    let (runners, them) = if all == 1 {
        ("runner", "it")
    } else {
        ("runners", "them")
    };
    let what = match (project.live, project.queued) {
        (live, 0) => format!("{live} live {runners}"),
        (0, queued) => format!("{queued} waiting {runners}"),
        (live, queued) => format!("{live} live and {queued} waiting {runners}"),
    };
    Error::new(
        ErrorKind::Conflict,
        format!(
            "Project {name} has {what}. Stop {them} first: stratavorectl stop --project {name}"
        ),
    )
}

pub(super) fn request_differs(id: &str, runner: RunnerId) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!(
            "Request id {id} was used before with other parameters, for runner {runner}. Use a new request id for a new launch."
        ),
    )
}

pub(super) fn id_taken(id: RunnerId) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("Runner {id} exists already. A new launch needs a new id."),
    )
}

pub(super) fn no_such_runner(id: RunnerId) -> Error {
    Error::new(
        ErrorKind::NoSuchRunner,
        format!(
            "Runner {id} does not exist; ended runners are kept for as long as store.retention says. List them: stratavorectl list --all"
        ),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_near_name_is_suggested() {
        let names = ["web".to_owned(), "batch-jobs".to_owned(), "x".to_owned()];
        let said = |name: &str| unknown_project(&name.parse().unwrap(), &names, true).message;
        assert!(said("batch-jbos").contains("Did you mean batch-jobs?"));
        assert!(
            !said("y").contains("mean"),
            "a one-letter name is not near another one"
        );
        assert!(!said("elsewhere").contains("mean"));
        assert!(said("elsewhere").ends_with("stratavorectl project create elsewhere"));
        let removed = unknown_project(&"web2".parse().unwrap(), &names, false).message;
        assert_eq!(removed, "Project web2 does not exist. Did you mean web?");
    }
}
