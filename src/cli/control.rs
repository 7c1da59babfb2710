//! `stop`, `kill`, `freeze`, `thaw`, `set`: the same for one runner and for many.

use super::agent::Away;
use super::args::{Choice, Format, Kill, Many, Set, Stop};
use super::client::{Client, text, texts};
use super::failure::{Failure, Result, USAGE};
use super::out::Out;
use super::wait::{Endings, told};
use super::{Global, json, labels};
use crate::api::proxy::{Dict, Given};
use crate::domain::State;
use futures_util::StreamExt;
use std::collections::BTreeSet;
use zbus::Variant;

/// Calls under way at a time.
const AT_ONCE: usize = 32;

/// What is done to each.
#[derive(Debug, Clone)]
enum Deed {
    Stop,
    Kill(i32),
    Freeze,
    Thaw,
    Set(Vec<(String, String)>),
}

/// `stop`. What has ended already is stopped, as for systemctl.
pub(super) async fn stop(client: &Client, global: &Global, args: &Stop) -> Result<u8> {
    let mut endings = match args.no_block {
        true => None,
        false => Some(Endings::subscribe(client).await?),
    };
    let given = chosen(client, global, &args.which.ids, &args.which.choice, true).await?;
    let (ids, over, unknown) = match by_choice(&args.which.choice) {
        true => (given, Vec::new(), 0),
        // By id from here on: a name may mean another one by the time this one has ended.
        false => live_ids(client, &given).await?,
    };
    let (status, failed) = each(client, &ids, &Deed::Stop, true).await?;
    if !global.quiet
        && let Some(away) = Away::of(client).await
        && is_here(client, &ids, &failed).await
    {
        super::note(&away.stop(endings.is_some()));
    }
    let mut all = Vec::new();
    if let Some(endings) = &mut endings {
        let out = Out::new(global);
        let waited = ids.into_iter().filter(|id| !failed.contains(id));
        let mut tell = |described: &Dict| match global.output {
            Format::Json => {
                all.push(json::shown(described));
                Ok(())
            }
            Format::Jsonl => out.object(&json::shown(described)),
            Format::Table if global.quiet => Ok(()),
            Format::Table => {
                super::note(&told(described));
                Ok(())
            }
        };
        if out.is_json() {
            over.iter().try_for_each(&mut tell)?;
        }
        endings.of(client, waited.collect(), tell).await?;
        if global.output == Format::Json {
            match (args.which.ids.len(), all.first()) {
                (1, Some(one)) => out.object(one)?,
                _ => out.objects(all)?,
            }
        }
    }
    Ok(if unknown == 0 { status } else { unknown })
}

/// Whether one of them that was asked to stop is of this host, whose agent is away, and lives on.
async fn is_here(client: &Client, ids: &[String], failed: &BTreeSet<String>) -> bool {
    let Ok(host) = client.manager().host_id().await else {
        return false;
    };
    for id in ids.iter().filter(|id| !failed.contains(*id)) {
        let described = client.describe(id).await.unwrap_or_default();
        if text(&described, "host") == host && text(&described, "state") == "stopping" {
            return true;
        }
    }
    false
}

/// The ids of those that live still, and what is known of those that have ended. What can't be found out is said and gives the
/// status.
async fn live_ids(client: &Client, given: &[String]) -> Result<(Vec<String>, Vec<Dict>, u8)> {
    let (mut ids, mut over, mut status) = (Vec::new(), Vec::<Dict>::new(), 0);
    for text_of in given {
        match client.describe(text_of).await {
            Ok(described) => {
                let id = text(&described, "id").to_owned();
                let ended = text(&described, "state") == "ended";
                if ended && over.iter().all(|known| text(known, "id") != id) {
                    over.push(described);
                } else if !ended && !ids.contains(&id) {
                    ids.push(id);
                }
            }
            Err(failure) if failure.is("Away") || failure.is_lost() => return Err(failure),
            Err(failure) => {
                super::complain(&failure);
                status = if status == 0 { failure.status } else { status };
            }
        }
    }
    Ok((ids, over, status))
}

/// The signal meant.
pub(super) fn signal(args: &Kill) -> Result<i32> {
    crate::domain::signal::parse(&args.signal).map_err(|e| Failure::new(USAGE, e.message))
}

/// `kill`.
pub(super) async fn kill(client: &Client, global: &Global, args: &Kill) -> Result<u8> {
    let number = signal(args)?;
    many(client, global, &args.which, &Deed::Kill(number)).await
}

/// `freeze`.
pub(super) async fn freeze(client: &Client, global: &Global, args: &Many) -> Result<u8> {
    many(client, global, args, &Deed::Freeze).await
}

/// `thaw`.
pub(super) async fn thaw(client: &Client, global: &Global, args: &Many) -> Result<u8> {
    many(client, global, args, &Deed::Thaw).await
}

/// The limits and the runners that `set` is given.
pub(super) fn limits(args: &Set) -> Result<(Vec<(String, String)>, Many)> {
    let (limits, ids): (Vec<&String>, Vec<&String>) =
        args.words.iter().partition(|word| word.contains('='));
    if limits.is_empty() {
        return Err(Failure::new(
            USAGE,
            "No limit is given; give at least one, as in: stratavorectl set ID memory-max=2G.",
        ));
    }
    // The names of a limit in JSON and in the configuration are as good as those of an option.
    let limits: Vec<(String, String)> = limits
        .iter()
        .filter_map(|word| word.split_once('='))
        .map(|(key, value)| (key.replace('_', "-"), value.to_owned()))
        .collect();
    for (key, value) in &limits {
        super::check_limit(key, value)?;
    }
    let which = Many {
        ids: ids.into_iter().cloned().collect(),
        choice: args.choice.clone(),
    };
    check(&which)?;
    Ok((limits, which))
}

/// `set`.
pub(super) async fn set(client: &Client, global: &Global, args: &Set) -> Result<u8> {
    let (limits, which) = limits(args)?;
    many(client, global, &which, &Deed::Set(limits)).await
}

/// Whether it is said which runners are meant.
pub(super) fn check(which: &Many) -> Result<()> {
    let by_choice = by_choice(&which.choice);
    if by_choice != which.ids.is_empty() {
        return Err(Failure::new(
            USAGE,
            "Give either runners (ids or names), or --project, --label or --all.",
        ));
    }
    let project = which.choice.project.as_deref();
    project.map_or(Ok(()), super::check_project)?;
    labels(&which.choice.label).map(drop)
}

async fn many(client: &Client, global: &Global, args: &Many, deed: &Deed) -> Result<u8> {
    let ids = chosen(client, global, &args.ids, &args.choice, false).await?;
    Ok(each(client, &ids, deed, by_choice(&args.choice)).await?.0)
}

/// The runners meant; by what they are, those that wait are meant only by who says so.
async fn chosen(
    client: &Client,
    global: &Global,
    ids: &[String],
    choice: &Choice,
    queued: bool,
) -> Result<Vec<String>> {
    if !by_choice(choice) {
        return Ok(ids.to_vec());
    }
    let mut filter = Given::new();
    if queued {
        let states = State::ALL.into_iter().filter(|s| *s != State::Ended);
        let states: Vec<&str> = states.map(State::as_str).collect();
        filter.insert("state", states.into());
    }
    if let Some(project) = &choice.project {
        filter.insert("project", project.clone().into());
    }
    if !choice.label.is_empty() {
        filter.insert("label", labels(&choice.label)?);
    }
    let runners = client.runners(filter, None).await?;
    if runners.is_empty() {
        let note = client
            .why_nothing(choice.project.as_deref(), &choice.label)
            .await?;
        if !global.quiet {
            super::note(note.as_deref().unwrap_or("No live runner fits."));
        }
    }
    Ok(runners.iter().map(|r| text(r, "id").to_owned()).collect())
}

/// Whether runners are chosen by what they are.
fn by_choice(choice: &Choice) -> bool {
    choice.all || choice.project.is_some() || !choice.label.is_empty()
}

/// Does it to each, says what went wrong, and returns the first failure's status and whom it
/// concerned. Where it may have ended meanwhile, having ended is no failure.
async fn each(
    client: &Client,
    ids: &[String],
    deed: &Deed,
    may_have_ended: bool,
) -> Result<(u8, BTreeSet<String>)> {
    let calls = ids
        .iter()
        .map(|id| async move { (id, one(client, id, deed).await) });
    let mut results = futures_util::stream::iter(calls).buffered(AT_ONCE);
    let (mut status, mut failed) = (0, BTreeSet::new());
    while let Some((id, result)) = results.next().await {
        let failure = match result {
            Ok(warnings) => {
                super::warn(id, &warnings);
                continue;
            }
            Err(failure) => failure,
        };
        if failure.is("Away") || failure.is_lost() {
            return Err(failure);
        }
        failed.insert(id.clone());
        if may_have_ended && failure.is("WrongState") {
            let described = client.describe(id).await?;
            if text(&described, "state") == "ended" {
                continue;
            }
        }
        let failure = client.suggest_runner(failure, id).await;
        super::complain(&failure);
        if status == 0 {
            status = failure.status;
        }
    }
    Ok((status, failed))
}

/// Does it. Returns what of it is not in force.
async fn one(client: &Client, id: &str, deed: &Deed) -> Result<Vec<String>> {
    let none = Given::new();
    match deed {
        Deed::Stop => client.call::<_, ()>("Stop", &(id, &none)).await?,
        Deed::Kill(number) => client.call::<_, ()>("Kill", &(id, *number, &none)).await?,
        Deed::Freeze => client.call::<_, ()>("Freeze", &(id, &none)).await?,
        Deed::Thaw => client.call::<_, ()>("Thaw", &(id, &none)).await?,
        Deed::Set(limits) => {
            let limits: Given<'_> = limits
                .iter()
                .map(|(key, value)| (key.as_str(), Variant::from(value.as_str())))
                .collect();
            client
                .call::<_, ()>("SetLimits", &(id, &limits, &none))
                .await?;
            // The reply tells nothing; what was set is set, whether or not this can be read.
            if let Ok(described) = client.describe(id).await {
                return Ok(texts(&described, "warnings").unwrap_or_default());
            }
        }
    }
    Ok(Vec::new())
}
