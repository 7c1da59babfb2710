//! `run`.

use super::args::Run;
use super::client::{Client, texts};
use super::failure::{FAILED, Failure, REFUSED, Result, USAGE};
use super::render::Out;
use super::wait::{Endings, status, told};
use super::{Global, json, labels};
use crate::api::proxy::{Dict, Given};
use std::collections::BTreeSet;
use zbus::{OwnedObjectPath, Variant};

/// What `run --wait` exits with when the command was never run: as env(1) and timeout(1) do.
const NOT_RUN: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Launches.
pub(super) async fn run(client: &Client, global: &Global, args: &Run) -> Result<u8> {
    match launch(client, global, args).await {
        Err(mut failure) if args.wait => {
            let name = failure.name.clone().unwrap_or_default();
            failure.status = if failure.is("LaunchFailed") {
                exec_status(&failure.message)
            } else {
                NOT_RUN
            };
            if !name.is_empty() {
                failure.message = format!("{name}: {}", failure.message);
            }
            Err(failure)
        }
        other => other,
    }
}

/// 126 or 127, as shells have it, from the sentence about a failed exec.
fn exec_status(message: &str) -> u8 {
    let has = |part: &str| message.contains(part);
    if has("working directory") || has("user ") {
        NOT_RUN
    } else if has("not found in PATH") || has("(errno 2)") {
        NOT_FOUND
    } else if has("(errno 13)") || has("(errno 8)") || has("(errno 20)") || has("(errno 21)") {
        NOT_EXECUTABLE
    } else {
        NOT_RUN
    }
}

async fn launch(client: &Client, global: &Global, args: &Run) -> Result<u8> {
    let out = Out::new(global.output);
    let options = options(args)?;
    let command: Vec<&str> = args.command.iter().map(String::as_str).collect();
    if args.explain {
        return explain(client, &out, args, &command, &options).await;
    }
    let mut endings = match args.wait {
        true => Some(Endings::subscribe(client).await?),
        false => None,
    };
    let body = (args.project.as_str(), &command[..], &options);
    let launched: Result<(String, OwnedObjectPath)> = client.call("Launch", &body).await;
    let (id, _) = match launched {
        Ok(launched) => launched,
        Err(failure) => return Err(client.suggest(failure, &args.project).await),
    };
    if args.wait {
        eprintln_unless(global.quiet, &format!("Running as {id}."));
    } else if out.is_json() {
        out.object(&json::shown(&client.describe(&id).await?))?;
    } else {
        out.line(&id)?;
    }
    if args.shared.given().chain(args.own.given()).next().is_some() {
        warn(client, &id).await;
    }
    let Some(endings) = &mut endings else {
        return Ok(0);
    };
    let mut code = NOT_RUN;
    let wait = endings.of(client, BTreeSet::from([id.clone()]), |described| {
        code = status(described);
        if out.is_json() {
            out.object(&json::shown(described))?;
        } else if code != 0 {
            eprintln_unless(global.quiet, &told(described));
        }
        Ok(())
    });
    tokio::select! {
        done = wait => done?,
        _ = tokio::signal::ctrl_c() => {
            eprintln_unless(
                global.quiet,
                &format!("Runner {id} goes on. Stop it with: stratavorectl stop {id}"),
            );
            return Ok(130);
        }
    }
    Ok(code)
}

/// What the host does not hold although it was asked for.
async fn warn(client: &Client, id: &str) {
    if let Ok(described) = client.describe(id).await {
        for warning in texts(&described, "warnings").unwrap_or_default() {
            eprintln!("Warning: {}", super::render::clean(&warning));
        }
    }
}

fn eprintln_unless(quiet: bool, text: &str) {
    if !quiet {
        eprintln!("{text}");
    }
}

fn options(args: &Run) -> Result<Given<'static>> {
    let mut options = Given::new();
    let mut put = |key, value: &Option<String>| {
        if let Some(value) = value {
            options.insert(key, Variant::from(value.clone()));
        }
    };
    put("name", &args.name);
    put("uid", &args.uid);
    put("request-id", &args.request_id);
    let directory = match &args.working_directory {
        Some(given) => absolute(given)?,
        None => here()?,
    };
    put("working-directory", &Some(directory));
    for (key, value) in args.shared.given().chain(args.own.given()) {
        options.insert(key, value.to_owned().into());
    }
    if !args.setenv.is_empty() {
        let entries = args.setenv.iter().map(|e| setenv(e));
        let entries: Vec<String> = entries.collect::<Result<_>>()?;
        options.insert("setenv", entries.into());
    }
    if !args.label.is_empty() {
        options.insert("label", labels(&args.label)?);
    }
    Ok(options)
}

fn here() -> Result<String> {
    let dir = std::env::current_dir()
        .map_err(|e| Failure::new(FAILED, format!("The current directory is not known: {e}")))?;
    dir.into_os_string().into_string().map_err(|_| {
        Failure::new(
            FAILED,
            "The current directory's name is not UTF-8; name another with --working-directory=.",
        )
    })
}

/// `~` is the shell's affair; a relative path is meant from here.
fn absolute(path: &str) -> Result<String> {
    match path.starts_with('/') {
        true => Ok(path.to_owned()),
        false => Ok(format!("{}/{path}", here()?.trim_end_matches('/'))),
    }
}

/// `NAME` alone takes the value from here, as systemd-run does it.
fn setenv(entry: &str) -> Result<String> {
    if entry.contains('=') {
        return Ok(entry.to_owned());
    }
    let name = crate::domain::name::shown(entry);
    match std::env::var(entry) {
        Ok(value) => Ok(format!("{entry}={value}")),
        Err(std::env::VarError::NotPresent) => Err(Failure::new(
            USAGE,
            format!("The environment has no variable {name}; give a value with -E {name}=VALUE."),
        )),
        Err(_) => Err(Failure::new(
            USAGE,
            format!("The value of the variable {name} is not UTF-8."),
        )),
    }
}

async fn explain(
    client: &Client,
    out: &Out,
    args: &Run,
    command: &[&str],
    options: &Given<'_>,
) -> Result<u8> {
    let body = (args.project.as_str(), command, options);
    let explained: Result<(bool, Vec<Dict>)> = client.call("Explain", &body).await;
    let (admitted, gates) = match explained {
        Ok(explained) => explained,
        Err(failure) => return Err(client.suggest(failure, &args.project).await),
    };
    let gates: Vec<_> = gates.iter().map(json::gate).collect();
    if out.is_json() {
        out.object(&serde_json::json!({"admitted": admitted, "gates": gates}))?;
    } else {
        let word = |value: &serde_json::Value| match value {
            serde_json::Value::Null => "-".to_owned(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let rows: Vec<Vec<String>> = gates
            .iter()
            .map(|gate| {
                let open = if gate["open"] == true { "yes" } else { "no" };
                vec![
                    word(&gate["name"]),
                    word(&gate["subject"]),
                    word(&gate["used"]),
                    word(&gate["limit"]),
                    open.to_owned(),
                ]
            })
            .collect();
        out.table(&["GATE", "OF", "USED", "LIMIT", "OPEN"], &rows)?;
    }
    Ok(if admitted { 0 } else { REFUSED })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_of_shells() {
        assert_eq!(exec_status("x: not found in PATH=/bin (runner 1)"), 127);
        assert_eq!(exec_status("/x: No such file or directory (errno 2)"), 127);
        assert_eq!(
            exec_status("/x: Permission denied (errno 13): is it executable?"),
            126
        );
        assert_eq!(exec_status("/x: Exec format error (errno 8)"), 126);
        assert_eq!(
            exec_status("working directory /n: No such file or directory (errno 2)"),
            125
        );
    }

    #[test]
    fn relative_directories_are_meant_from_here() {
        assert_eq!(absolute("/srv").ok().as_deref(), Some("/srv"));
        assert!(absolute("x").is_ok_and(|p| p.starts_with('/') && p.ends_with("/x")));
        assert!(setenv("NO_SUCH_VARIABLE_HERE").is_err());
        assert_eq!(setenv("A=b=c").ok().as_deref(), Some("A=b=c"));
    }
}
