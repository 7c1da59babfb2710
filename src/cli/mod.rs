//! `stratavorectl`: a program on the bus as any other. One file per verb.

mod agent;
pub mod args;
mod audit;
mod budget;
mod bus;
mod client;
mod completions;
mod control;
mod declared;
mod doctor;
mod events;
pub mod failure;
mod hold;
mod host;
mod journal;
mod json;
mod keyboard;
mod list;
mod live;
mod logs;
mod names;
mod notify;
mod out;
pub mod outbox;
mod pager;
mod password;
mod project;
mod queue;
mod reconcile;
pub mod remote;
mod render;
mod report;
mod run;
mod show;
mod status;
pub mod store;
mod story;
mod table;
mod text;
mod top;
mod usage;
mod wait;
mod why;

use args::{Cli, Global, Verb};
use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use client::Client;
use failure::{Failure, Result, USAGE};
use out::Out;
use remote::Remote;
use std::collections::HashMap;
use zbus::Variant;

/// The whole program; returns the exit status.
pub async fn main() -> u8 {
    completions::answer();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(mut error) => {
            let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
            let hint = hint(&error, &words.collect::<Vec<_>>());
            if hint.is_some() {
                error.remove(ContextKind::Suggested);
            }
            // --help and --version are no errors, and go to standard output.
            let _ = error.print();
            if let Some(hint) = hint {
                note(hint);
            }
            return if error.use_stderr() { USAGE } else { 0 };
        }
    };
    bus::choose(cli.global.user);
    match obey(&cli).await {
        Ok(status) => status,
        Err(failure) => {
            complain(&failure);
            failure.status
        }
    }
}

/// What the parser can't know of an argument that there is not.
fn hint(error: &clap::Error, words: &[String]) -> Option<&'static str> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let has = |word: &str| words.iter().any(|w| w == word);
    let given = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(given)) => given.as_str(),
        _ => "",
    };
    // As kill(1) has it: -9, -KILL.
    let signal =
        |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit() || c.is_ascii_uppercase());
    match given.strip_prefix('-') {
        Some(rest) if has("kill") && signal(rest) => {
            Some("The signal is given with -s, as in: stratavorectl kill -s KILL ID")
        }
        _ if has("run") && !has("--") => {
            Some("Put -- before the command, as in: stratavorectl run web -- true")
        }
        _ => None,
    }
}

async fn obey(cli: &Cli) -> Result<u8> {
    let global = &cli.global;
    if let Verb::Completions(args) = &cli.verb {
        Out::new(global).text(&completions::script(args.shell)?)?;
        return Ok(0);
    }
    // It is needed most where there is nothing to connect to.
    if let Verb::Doctor = &cli.verb {
        return doctor::doctor(global).await;
    }
    if let Verb::Store(verb) = &cli.verb {
        return store::store(global, verb).await;
    }
    check(cli)?;
    // It reads its files before it connects, each once: one may be a pipe.
    if let Verb::Audit(args) = &cli.verb {
        return audit::audit(global, args).await;
    }
    // What the file says is looked at first.
    match &cli.verb {
        Verb::Diff(args) => return declared::diff(global, args).await,
        Verb::Apply(args) => return declared::apply(global, args).await,
        _ => {}
    }
    if let Verb::Run(run) = &cli.verb
        && let Some(on) = &run.on
    {
        return run::place::run(global, run, on).await;
    }
    let client = match &cli.verb {
        Verb::Run(args) => run::connect(global, args).await?,
        _ => Client::connect(global).await?,
    };
    match &cli.verb {
        Verb::Run(args) => run::run(&client, global, args, None).await,
        Verb::List(args) => list::list(&client, global, args).await,
        Verb::Logs(args) => logs::logs(&client, global, args).await,
        Verb::Show(args) => show::show(&client, global, args).await,
        Verb::Why(args) => why::why(&client, global, args).await,
        Verb::Stop(args) => control::stop(&client, global, args).await,
        Verb::Kill(args) => control::kill(&client, global, args).await,
        Verb::Freeze(args) => control::freeze(&client, global, args).await,
        Verb::Thaw(args) => control::thaw(&client, global, args).await,
        Verb::Set(args) => control::set(&client, global, args).await,
        Verb::Wait(args) => wait::wait(&client, global, args).await,
        Verb::Events(args) => events::events(&client, global, args).await,
        Verb::Project(args) => project::project(&client, global, args).await,
        Verb::Budget(args) => budget::budget(&client, global, args).await,
        Verb::Usage(args) => report::usage(&client, global, args).await,
        Verb::Hold(args) => hold::hold(&client, global, args).await,
        Verb::Notify(args) => notify::notify(&client, global, args).await,
        Verb::Host(args) => host::host(&client, global, args).await,
        Verb::Fleet(args) => host::fleet(&client, global, args).await,
        Verb::Outbox(args) => outbox::outbox(&client, global, args).await,
        Verb::Top(args) => top::top(&client, global, args).await,
        Verb::Reconcile(args) => reconcile::reconcile(&client, global, args).await,
        // Done already.
        Verb::Completions(_) | Verb::Store(_) | Verb::Audit(_) | Verb::Diff(_) | Verb::Apply(_) => {
            Ok(0)
        }
        Verb::Status => status::status(&client, global).await,
        Verb::Doctor => doctor::doctor(global).await,
    }
}

/// Wrong usage is told as such before anything is connected to.
fn check(cli: &Cli) -> Result<()> {
    let host = cli.global.host.as_ref();
    match &cli.verb {
        Verb::Run(args) => {
            if args.pipe {
                Remote::no_descriptors(host, "run --pipe …")?;
            }
            check_project(&args.project)?;
            run::place::check(args)?;
            run::options(args, host.is_some() || args.on.is_some()).map(drop)
        }
        Verb::Logs(args) => Remote::no_descriptors(host, &format!("logs {}", args.id)),
        Verb::List(args) => list::filter(args).map(drop),
        Verb::Stop(args) => control::check(&args.which),
        Verb::Kill(args) => control::signal(args).and_then(|_| control::check(&args.which)),
        Verb::Freeze(args) | Verb::Thaw(args) => control::check(args),
        Verb::Set(args) => control::limits(args).map(drop),
        Verb::Why(args) => args.project.iter().try_for_each(|p| check_project(p)),
        Verb::Events(args) => events::check(args, host.is_some()),
        Verb::Project(args) => project::check(args),
        Verb::Budget(args) => budget::check(args),
        Verb::Usage(args) => report::check(args, host.is_some()),
        Verb::Hold(args) => hold::check(args),
        Verb::Host(args) => host::check(args),
        Verb::Fleet(args) => host::check_fleet(args),
        Verb::Outbox(args) => outbox::check(args),
        Verb::Audit(args) => audit::check(host, args),
        Verb::Top(args) => {
            args.project.iter().try_for_each(|p| check_project(p))?;
            top::check(&cli.global, args).map(drop)
        }
        _ => Ok(()),
    }
}

/// Says on standard error what went wrong.
pub(crate) fn complain(failure: &Failure) {
    note(&text::clean(&failure.message));
}

/// Says something on standard error.
fn note(text: &str) {
    eprintln!("{}", bus::advice(text));
}

/// Says of what is done what is not in force, and `whom` it is about if that is not plain.
fn warn(whom: &str, warnings: &[String]) {
    let whom = match whom {
        "" => String::new(),
        whom => format!("{whom}: "),
    };
    for warning in warnings {
        note(&text::clean(&format!("Warning: {whom}{warning}")));
    }
}

/// A limit's value can be read here already: what is no value is wrong usage.
fn check_limit(key: &str, value: &str) -> Result<()> {
    let mut limits = crate::domain::Limits::default();
    let set = limits.set(key, crate::domain::limits::Value::Text(value));
    set.map_err(|error| Failure::new(USAGE, error.message))
}

/// What no project can be called is wrong usage.
fn check_project(name: &str) -> Result<()> {
    let parsed = name.parse::<crate::domain::ProjectName>();
    parsed
        .map(drop)
        .map_err(|error| Failure::new(USAGE, error.message))
}

/// A number, or infinity; how large it may be the daemon says.
fn check_cap(flag: &str, text: &str) -> Result<()> {
    let word = text.trim();
    match word == "infinity" || word.parse::<u64>().is_ok() {
        true => Ok(()),
        false => {
            let shown = crate::domain::name::shown(text);
            let message = format!("{flag}: “{shown}” is neither a number nor infinity.");
            Err(Failure::new(USAGE, message))
        }
    }
}

/// `KEY=VALUE` words as `a{ss}`.
fn labels(words: &[String]) -> Result<Variant<'static>> {
    let mut out = HashMap::new();
    for word in words {
        let (key, value) = word.split_once('=').ok_or_else(|| {
            let shown = crate::domain::name::shown(word);
            Failure::new(
                USAGE,
                format!("--label: “{shown}” is not of the form KEY=VALUE."),
            )
        })?;
        out.insert(key.to_owned(), value.to_owned());
    }
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hinted(line: &str) -> Option<&'static str> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let error = Cli::try_parse_from(&words).unwrap_err();
        hint(&error, &words)
    }

    #[test]
    fn what_is_not_known_is_hinted_at() {
        for line in ["ctl kill -9 rr", "ctl kill -KILL rr"] {
            assert!(
                hinted(line).is_some_and(|h| h.contains("-s KILL")),
                "{line}"
            );
        }
        assert!(hinted("ctl run p sleep --long").is_some_and(|h| h.contains("Put --")));
        assert_eq!(hinted("ctl run --long p -- true"), None);
        assert_eq!(hinted("ctl list --long"), None);
    }

    #[test]
    fn kill_says_what_it_does_to_what_waits() {
        use clap::CommandFactory;
        let mut cli = Cli::command();
        let kill = cli.find_subcommand_mut("kill").unwrap();
        let help = kill.render_long_help().to_string();
        assert!(help.contains("taken out of the queue"), "{help}");
    }

    #[test]
    fn a_negative_limit_is_a_wrong_value_and_no_option() {
        let words = ["ctl", "run", "--memory-max", "-1", "p", "--", "true"];
        let Verb::Run(run) = Cli::try_parse_from(words).unwrap().verb else {
            panic!("run")
        };
        let (key, value) = run.shared.given().next().unwrap();
        let refused = check_limit(key, value).unwrap_err();
        assert!(
            refused
                .message
                .starts_with("memory-max: “-1” is not a size"),
            "{refused:?}"
        );
    }
}
