//! `run`.

mod explain;
pub(super) mod place;

use super::args::Run;
use super::client::{Client, number, texts};
use super::failure::{FAILED, Failure, Result, USAGE};
use super::out::Out;
use super::wait::{Endings, status, told};
use super::{Global, json, labels, queue};
use crate::api::options::STREAMS;
use crate::api::proxy::Given;
use crate::domain::budget::check_tokens;
use crate::domain::inputs::{self, Credential};
use crate::domain::name::check_session_name;
use crate::domain::spec::{check_log_file_max, check_priority};
use crate::domain::units;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use zbus::{OwnedObjectPath, Variant};

/// What `run --wait` and `run --pipe` exit with, as env(1) and timeout(1) do: 126 and 127 where the command was not run;
/// 125 where it was not launched, nobody knows its status, or the answer was lost.
const NOT_RUN: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

impl Run {
    /// Whether it stays until the runner has ended.
    pub(super) fn waits(&self) -> bool {
        self.wait || self.pipe
    }
}

/// Connects to launch.
pub(super) async fn connect(global: &Global, args: &Run) -> Result<Client> {
    Client::connect(global).await.map_err(|mut failure| {
        if args.waits() {
            failure.status = NOT_RUN;
        }
        failure
    })
}

/// Launches; `on` = on this other host, through the store.
pub(super) async fn run(
    client: &Client,
    global: &Global,
    args: &Run,
    on: Option<&str>,
) -> Result<u8> {
    match launch(client, global, args, on).await {
        Err(mut failure) if args.waits() => {
            let name = failure.name.clone().unwrap_or_default();
            failure.status = if failure.is("LaunchFailed") {
                exec_status(
                    &failure.message,
                    args.command.first().map_or("", String::as_str),
                    &directory(args).unwrap_or_default(),
                )
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

/// 126 or 127, as shells have it, from the sentence about a failed launch of this command in
/// this directory: its beginning and its end are fixed, what is between them is the user's.
fn exec_status(message: &str, command: &str, directory: &str) -> u8 {
    let message = match message.rsplit_once(" (runner ") {
        Some((head, id)) if id.len() == 37 && id.ends_with(')') => head,
        _ => message,
    };
    let (name, slash) = (clip(command), command.contains('/'));
    if !slash && message.starts_with(&format!("{name}: not found in PATH")) {
        return NOT_FOUND;
    }
    let message = HINTS
        .iter()
        .find_map(|hint| message.strip_suffix(hint))
        .unwrap_or(message);
    // `<file>: <text> (errno <n>)`, and the kernel's texts have neither a colon nor a bracket.
    let Some((file, errno)) = message
        .strip_suffix(')')
        .and_then(|rest| rest.rsplit_once(" (errno "))
        .and_then(|(rest, n)| Some((rest.rsplit_once(": ")?.0, n.parse::<i32>().ok()?)))
    else {
        return NOT_RUN;
    };
    let exec = match slash {
        true => file == name,
        false => file.ends_with(&format!("/{command}")) || file.ends_with('…'),
    };
    if !exec || file == format!("working directory {}", clip(directory)) {
        return NOT_RUN;
    }
    match Errno::from_raw_os_error(errno) {
        Errno::NOENT => NOT_FOUND,
        Errno::ACCESS | Errno::NOEXEC | Errno::NOTDIR | Errno::ISDIR | Errno::PERM => {
            NOT_EXECUTABLE
        }
        _ => NOT_RUN,
    }
}

/// What the shim may say after the kernel's text.
const HINTS: [&str; 5] = [
    ": the interpreter that it names is missing",
    ": it is a directory",
    ": is it executable?",
    ": a script needs a first line such as “#!/bin/sh”",
    ": the command and its environment are too large",
];

/// Long words as the shim shortens them.
fn clip(text: &str) -> String {
    match text.char_indices().nth(300) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Who was cut off before the answer is told that it may have been launched.
fn unheard(mut failure: Failure, args: &Run) -> Failure {
    if failure.unheard {
        failure.message.push_str(match args.request_id {
            Some(_) => " The same command with this --request-id launches it if it was not.",
            None => " Whether it was launched: stratavorectl list. With --request-id it could be repeated without launching twice.",
        });
    }
    failure
}

async fn launch(client: &Client, global: &Global, args: &Run, on: Option<&str>) -> Result<u8> {
    let out = Out::new(global);
    let mut options = options(args, global.host.is_some() || args.on.is_some())?;
    if let Some(host) = on {
        options.insert("on", Variant::from(host.to_owned()));
    }
    let command: Vec<&str> = args.command.iter().map(String::as_str).collect();
    if args.explain {
        return explain::explain(client, &out, args, &command, &options).await;
    }
    if args.pipe && out.is_json() {
        return Err(Failure::new(
            USAGE,
            "With --pipe standard output is the command's; leave out -o, and see “stratavorectl show”.",
        ));
    }
    let mut endings = match args.waits() {
        true => Some(Endings::subscribe(client).await?),
        false => None,
    };
    let body = (args.project.as_str(), &command[..], &options);
    let asked_at = jiff::Timestamp::now().as_microsecond();
    let launched: Result<(String, OwnedObjectPath)> = client.call("Launch", &body).await;
    let (id, _) = match launched {
        Ok(launched) => launched,
        Err(failure) => {
            let failure = client.suggest(failure, &args.project).await;
            return Err(unheard(failure, args));
        }
    };
    let waiting = match args.queue {
        true => client.describe(&id).await.ok(),
        false => None,
    };
    let waiting = waiting.as_ref().and_then(queue::first);
    if let Some(what) = &waiting {
        let said = format!("Queued as {id}. It waits for {what} See: stratavorectl why {id}.");
        eprintln_unless(global.quiet, &said);
    }
    if args.waits() {
        if waiting.is_none() {
            eprintln_unless(global.quiet, &format!("Running as {id}."));
        }
    } else if out.is_json() {
        out.object(&json::shown(&client.describe(&id).await?))?;
    } else {
        out.line(&id)?;
    }
    if args.shared.given().chain(args.own.given()).next().is_some() {
        warn(client, &id).await;
    }
    if args.pipe && args.request_id.is_some() {
        repeated(client, &id, asked_at).await;
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
    // Left alone, one that has this terminal would read what is typed next, and write over it.
    let mut stops = args.pipe && on_terminal();
    {
        tokio::pin!(wait);
        loop {
            tokio::select! {
                done = &mut wait => break done?,
                _ = tokio::signal::ctrl_c() => {}
            }
            if !std::mem::take(&mut stops) {
                eprintln_unless(
                    global.quiet,
                    &format!("Runner {id} goes on. Stop it with: stratavorectl stop {id}"),
                );
                return Ok(130);
            }
            eprintln_unless(
                global.quiet,
                &format!("Stopping {id}. Ctrl-C again leaves it to itself."),
            );
            let none = Given::new();
            let stopped: Result<()> = client.call("Stop", &(&id, &none)).await;
            if let Err(failure) = stopped {
                super::complain(&failure);
            }
        }
    }
    Ok(code)
}

/// Whether somebody sits at what the command gets as its streams.
fn on_terminal() -> bool {
    use std::io::IsTerminal;
    std::io::stdin().is_terminal()
        || std::io::stdout().is_terminal()
        || std::io::stderr().is_terminal()
}

/// What the host does not hold although it was asked for.
async fn warn(client: &Client, id: &str) {
    if let Ok(described) = client.describe(id).await {
        super::warn("", &texts(&described, "warnings").unwrap_or_default());
    }
}

/// A runner older than the request has its streams from an earlier one.
async fn repeated(client: &Client, id: &str, asked_at: i64) {
    if let Ok(described) = client.describe(id).await
        && let Some(created) = number(&described, "created_at")
        && i64::try_from(created).is_ok_and(|created| created < asked_at)
    {
        eprintln!(
            "Warning: {id} was launched before with this request id; its streams are those of that launch."
        );
    }
}

fn eprintln_unless(quiet: bool, text: &str) {
    if !quiet {
        super::note(text);
    }
}

pub(super) fn options(args: &Run, elsewhere: bool) -> Result<Given<'static>> {
    let mut options = Given::new();
    let mut put = |key, value: &Option<String>| {
        if let Some(value) = value {
            options.insert(key, Variant::from(value.clone()));
        }
    };
    put("name", &args.name);
    put("uid", &args.uid);
    put("request-id", &args.request_id);
    // The folder here is none there.
    if args.working_directory.is_some() || !elsewhere {
        put("working-directory", &Some(directory(args)?));
    }
    for (key, value) in args.shared.given().chain(args.own.given()) {
        super::check_limit(key, value)?;
        options.insert(key, value.to_owned().into());
    }
    if let Some(size) = &args.log_file_max {
        let bytes = units::parse_finite_size(size)
            .map_err(|e| Failure::new(USAGE, format!("--log-file-max: {}", e.message)))?;
        check_log_file_max(bytes).map_err(|e| Failure::new(USAGE, e.message))?;
        options.insert("log-file-max", bytes.into());
    }
    if args.queue {
        options.insert("queue", true.into());
    }
    let usage = |e: crate::domain::Error| Failure::new(USAGE, e.message);
    if let Some(priority) = args.priority {
        check_priority(priority).map_err(usage)?;
        options.insert("priority", priority.into());
    }
    if let Some(tokens) = &args.tokens {
        let tokens = super::budget::count("--tokens", tokens)?;
        check_tokens(tokens).map_err(usage)?;
        options.insert("tokens", tokens.into());
    }
    if let Some(session) = &args.session {
        check_session_name(session).map_err(usage)?;
        options.insert("session", session.clone().into());
    }
    if !args.setenv.is_empty() {
        let entries = args.setenv.iter().map(|e| setenv(e));
        let entries: Vec<String> = entries.collect::<Result<_>>()?;
        options.insert("setenv", entries.into());
    }
    if !args.env_file.is_empty() {
        let files = args.env_file.iter().map(|given| {
            let file = inputs::parse_environment_file(given);
            let dash = if file.optional { "-" } else { "" };
            Ok(format!("{dash}{}", there(&file.path, elsewhere)?))
        });
        options.insert("env-file", files.collect::<Result<Vec<_>>>()?.into());
    }
    if !args.load_credential.is_empty() {
        let all = args.load_credential.iter().map(|given| {
            let Credential { name, path } =
                inputs::parse_credential(given).map_err(|e| Failure::new(USAGE, e.message))?;
            Ok(format!("{name}:{}", there(&path, elsewhere)?))
        });
        options.insert("load-credential", all.collect::<Result<Vec<_>>>()?.into());
    }
    if !args.label.is_empty() {
        options.insert("label", labels(&args.label)?);
    }
    if args.pipe {
        let ours = [
            std::io::stdin().as_fd().try_clone_to_owned()?,
            std::io::stdout().as_fd().try_clone_to_owned()?,
            std::io::stderr().as_fd().try_clone_to_owned()?,
        ];
        for (key, fd) in STREAMS.into_iter().zip(ours) {
            options.insert(key, Variant::from(zbus::Fd::from(fd)));
        }
    }
    Ok(options)
}

/// The directory that the command is run in.
fn directory(args: &Run) -> Result<String> {
    match &args.working_directory {
        Some(given) => absolute(given),
        None => here(),
    }
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

/// A file of the host that runs the command; a relative path is meant from here only if that is
/// this one.
fn there(path: &str, elsewhere: bool) -> Result<String> {
    match path {
        "" => Err(Failure::new(USAGE, "A path is empty; name a file.")),
        path if elsewhere && !path.starts_with('/') => Err(Failure::new(
            USAGE,
            format!(
                "With -H and --on the file is read on the other host; “{}” is not an absolute path.",
                crate::domain::name::shown(path)
            ),
        )),
        // Such as a shell's <(…): they mean something else to whoever reads the file.
        path if OF_THE_READER.iter().any(|of| path.starts_with(of)) => Err(Failure::new(
            USAGE,
            format!(
                "“{}” is another file for each process, and not yours for the runner; name a file.",
                crate::domain::name::shown(path)
            ),
        )),
        path => absolute(path),
    }
}

/// Paths that depend on who opens them.
const OF_THE_READER: [&str; 4] = ["/dev/fd/", "/dev/std", "/proc/self/", "/proc/thread-self/"];

/// `NAME` alone takes the value from here, as systemd-run does it.
fn setenv(entry: &str) -> Result<String> {
    if entry.contains('=') {
        return Ok(entry.to_owned());
    }
    if entry.is_empty() {
        let message = "-E: the name of the variable is missing; give NAME=VALUE, or NAME for the value it has here.";
        return Err(Failure::new(USAGE, message));
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

#[cfg(test)]
mod tests;
