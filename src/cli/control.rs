//! `stop`, `kill`, `freeze`, `thaw`, `set`: the same for one runner and for many.

use super::args::{Choice, Kill, Many, Set, Stop};
use super::client::{Client, text};
use super::failure::{Failure, Result, USAGE};
use super::wait::{Endings, told};
use super::{Global, labels};
use crate::api::proxy::Given;
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

/// `stop`.
pub(super) async fn stop(client: &Client, global: &Global, args: &Stop) -> Result<u8> {
    let mut endings = match args.no_block {
        true => None,
        false => Some(Endings::subscribe(client).await?),
    };
    let ids = chosen(client, global, &args.which.ids, &args.which.choice).await?;
    let mut stopping = BTreeSet::new();
    if endings.is_some() {
        // By id: a name may mean another one by the time this one has ended.
        for id in &ids {
            if let Ok(described) = client.describe(id).await {
                stopping.insert((id.clone(), text(&described, "id").to_owned()));
            }
        }
    }
    let (status, failed) = each(client, &ids, &args.which.choice, &Deed::Stop).await?;
    if let Some(endings) = &mut endings {
        let waited: BTreeSet<String> = stopping
            .into_iter()
            .filter(|(given, _)| !failed.contains(given))
            .map(|(_, id)| id)
            .collect();
        let one = ids.len() == 1;
        endings
            .of(client, waited, |described| {
                if one && !global.quiet {
                    eprintln!("{}", told(described));
                }
                Ok(())
            })
            .await?;
    }
    Ok(status)
}

/// `kill`.
pub(super) async fn kill(client: &Client, global: &Global, args: &Kill) -> Result<u8> {
    let number =
        crate::domain::signal::parse(&args.signal).map_err(|e| Failure::new(USAGE, e.message))?;
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

/// `set`.
pub(super) async fn set(client: &Client, global: &Global, args: &Set) -> Result<u8> {
    let (limits, ids): (Vec<&String>, Vec<&String>) =
        args.words.iter().partition(|word| word.contains('='));
    if limits.is_empty() {
        return Err(Failure::new(
            USAGE,
            "No limit is given; give at least one, as in: stratavorectl set ID memory-max=2G.",
        ));
    }
    // The names of a limit in JSON and in the configuration are as good as those of an option.
    let limits = limits
        .iter()
        .filter_map(|word| word.split_once('='))
        .map(|(key, value)| (key.replace('_', "-"), value.to_owned()))
        .collect();
    let which = Many {
        ids: ids.into_iter().cloned().collect(),
        choice: args.choice.clone(),
    };
    many(client, global, &which, &Deed::Set(limits)).await
}

async fn many(client: &Client, global: &Global, args: &Many, deed: &Deed) -> Result<u8> {
    let ids = chosen(client, global, &args.ids, &args.choice).await?;
    Ok(each(client, &ids, &args.choice, deed).await?.0)
}

/// The runners meant.
async fn chosen(
    client: &Client,
    global: &Global,
    ids: &[String],
    choice: &Choice,
) -> Result<Vec<String>> {
    let by_choice = choice.all || choice.project.is_some() || !choice.label.is_empty();
    if by_choice != ids.is_empty() {
        return Err(Failure::new(
            USAGE,
            "Give either runners (ids or names), or --project, --label or --all.",
        ));
    }
    if !by_choice {
        return Ok(ids.to_vec());
    }
    let mut filter = Given::new();
    if let Some(project) = &choice.project {
        filter.insert("project", project.clone().into());
    }
    if !choice.label.is_empty() {
        filter.insert("label", labels(&choice.label)?);
    }
    let runners = client.runners(filter, None).await?;
    if runners.is_empty() && !global.quiet {
        eprintln!("No live runner fits.");
    }
    Ok(runners.iter().map(|r| text(r, "id").to_owned()).collect())
}

/// Does it to each, says what went wrong, and returns the first failure's status and whom it
/// concerned. A runner chosen by what it is that has ended meanwhile is no failure.
async fn each(
    client: &Client,
    ids: &[String],
    choice: &Choice,
    deed: &Deed,
) -> Result<(u8, BTreeSet<String>)> {
    let chosen = choice.all || choice.project.is_some() || !choice.label.is_empty();
    let calls = ids
        .iter()
        .map(|id| async move { (id, one(client, id, deed).await) });
    let mut results = futures_util::stream::iter(calls).buffered(AT_ONCE);
    let (mut status, mut failed) = (0, BTreeSet::new());
    while let Some((id, result)) = results.next().await {
        let Err(failure) = result else { continue };
        if failure.is("Away") {
            return Err(failure);
        }
        // Stopped is stopped, as with systemctl; and who is chosen by what it is may end meanwhile.
        let over = failure.is("WrongState") && failure.message.contains("ended");
        if over && (chosen || matches!(deed, Deed::Stop)) {
            continue;
        }
        failed.insert(id.clone());
        super::complain(&failure);
        if status == 0 {
            status = failure.status;
        }
    }
    Ok((status, failed))
}

async fn one(client: &Client, id: &str, deed: &Deed) -> Result<()> {
    let none = Given::new();
    match deed {
        Deed::Stop => client.call("Stop", &(id, &none)).await,
        Deed::Kill(number) => client.call("Kill", &(id, *number, &none)).await,
        Deed::Freeze => client.call("Freeze", &(id, &none)).await,
        Deed::Thaw => client.call("Thaw", &(id, &none)).await,
        Deed::Set(limits) => {
            let limits: Given<'_> = limits
                .iter()
                .map(|(key, value)| (key.as_str(), Variant::from(value.as_str())))
                .collect();
            client.call("SetLimits", &(id, &limits, &none)).await
        }
    }
}
