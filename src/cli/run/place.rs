//! `run --on`: on a host of the fleet that is named, or on the best one; by ssh, or through the store.

use super::super::args::{On, Run, Via};
use super::super::client::{Client, text};
use super::super::failure::{Failure, REFUSED, Result, USAGE};
use super::super::remote::Remote;
use super::super::text::clean;
use super::super::{Global, labels};
use super::{connect, eprintln_unless};
use crate::api::errors::INTERACTIVE;
use crate::api::proxy::{Dict, Given};
use std::collections::BTreeSet;
use zbus::Variant;

/// So many hosts are tried before the last one's word counts.
const TRIES: usize = 3;
/// What a host says that another one may not, and only before anything has run.
const ELSEWHERE: [&str; 3] = ["Cordoned", "QuotaExceeded", "LimitUnenforceable"];
/// And what is said of a launch through the store.
const NOT_PERMITTED: [&str; 2] = ["NotPermitted", INTERACTIVE];

/// What is wrong with it shows before anything is connected to.
pub(in crate::cli) fn check(args: &Run) -> Result<()> {
    if !args.host_label.is_empty() && args.on != Some(On::Auto) {
        let message = "--host-label chooses among hosts; use it with --on auto.";
        return Err(Failure::new(USAGE, message));
    }
    if args.via == Via::Store {
        if !args.env_file.is_empty() || !args.load_credential.is_empty() {
            let message = "--env-file and --load-credential do not go through the store; leave out --via, and it goes by ssh.";
            return Err(Failure::new(USAGE, message));
        }
        if let Some(On::Host(host)) = &args.on {
            host.plain()?;
        }
    }
    labels(&args.host_label).map(drop)
}

/// Launches there.
pub(in crate::cli) async fn run(global: &Global, args: &Run, on: &On) -> Result<u8> {
    match on {
        On::Host(host) if args.via == Via::Store => {
            super::run(
                &connect(global, args).await?,
                global,
                args,
                Some(host.plain()?),
            )
            .await
        }
        On::Host(host) => {
            let there = match is_here(global, host).await {
                true => global.clone(),
                false => at(global, host.clone()),
            };
            super::run(&connect(&there, args).await?, &there, args, None).await
        }
        On::Auto => auto(global, args).await,
    }
}

/// Whether that is the name of the host that we are on.
async fn is_here(global: &Global, host: &Remote) -> bool {
    match Client::connect(global).await {
        Ok(here) => here
            .manager()
            .host_name()
            .await
            .is_ok_and(|name| host.is(&name)),
        Err(_) => false,
    }
}

fn at(global: &Global, host: Remote) -> Global {
    Global {
        host: Some(host),
        ..global.clone()
    }
}

async fn auto(global: &Global, args: &Run) -> Result<u8> {
    let here = connect(global, args).await?;
    let own = here.manager().host_id().await;
    let own = own.map_err(|error| Failure::of_call(&error))?;
    let (mut tried, mut refused) = (BTreeSet::new(), None);
    let mut global = global.clone();
    while tried.len() < TRIES {
        // Asked anew for each try: others launch meanwhile.
        let (place, why) = match best(&here, args, &tried).await {
            Ok(best) => best,
            Err(none) => return Err(refused.unwrap_or(none)),
        };
        eprintln_unless(
            global.quiet,
            &format!("On {}: {}.", clean(&place.name), clean(&why)),
        );
        match there(&global, args, &own, &place).await {
            Ok(done) => return done,
            Err(failure) => {
                // Who gave no password is not asked for it once for each host.
                global.no_ask_password |= failure.message.starts_with("No password was given");
                eprintln_unless(
                    global.quiet,
                    &format!("Not there: {}", clean(&failure.message)),
                );
                // That nobody was asked again says less than the refusal before.
                if refused.is_none() || !failure.is(INTERACTIVE) {
                    refused = Some(failure);
                }
            }
        }
        tried.insert(place.id);
    }
    Err(refused.unwrap_or_else(|| Failure::new(REFUSED, "No host of the fleet takes it.")))
}

/// Launches on a host that was chosen: `Err` = another host may take it, and nothing has run here.
async fn there(global: &Global, args: &Run, own: &str, place: &Place) -> Result<Result<u8>> {
    if args.via == Via::Store {
        let client = connect(global, args).await?;
        let on = Some(place.id.as_str()).filter(|id| *id != own);
        return match super::run(&client, global, args, on).await {
            // Its root may not accept it, or a rule of this host's polkit be about that host.
            Err(failure) if elsewhere(&failure) || NOT_PERMITTED.iter().any(|n| failure.is(n)) => {
                Err(failure)
            }
            done => Ok(done),
        };
    }
    let there = match place.id == own {
        true => global.clone(),
        false => match place.name.parse() {
            Ok(host) => at(global, host),
            Err(why) => {
                let message = format!(
                    "Host {} can't be reached by its name: {why}",
                    clean(&place.name)
                );
                return Err(Failure::new(USAGE, message));
            }
        },
    };
    let client = connect(&there, args).await?;
    match super::run(&client, &there, args, None).await {
        Err(failure) if elsewhere(&failure) => Err(failure),
        done => Ok(done),
    }
}

fn elsewhere(failure: &Failure) -> bool {
    ELSEWHERE.iter().any(|name| failure.is(name))
}

/// A host that was chosen.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    id: String,
    name: String,
}

/// The best of those that were not tried, and what speaks for it.
async fn best(here: &Client, args: &Run, tried: &BTreeSet<String>) -> Result<(Place, String)> {
    let mut options = Given::new();
    if !args.host_label.is_empty() {
        options.insert("label", labels(&args.host_label)?);
    }
    if let Some((_, size)) = args.shared.given().find(|(key, _)| *key == "memory-max") {
        options.insert("memory-max", Variant::from(size.to_owned()));
    }
    let places: Vec<Dict> = here.call("RankHosts", &(&options,)).await?;
    choose(&places, tried)
}

fn choose(places: &[Dict], tried: &BTreeSet<String>) -> Result<(Place, String)> {
    let fits = |place: &Dict| matches!(place.get("fits").map(|v| &**v), Some(Variant::Bool(true)));
    let fresh = |place: &&Dict| !tried.contains(text(place, "host"));
    if let Some(best) = places.iter().filter(fresh).find(|p| fits(p)) {
        let place = Place {
            id: text(best, "host").to_owned(),
            name: text(best, "name").to_owned(),
        };
        return Ok((place, text(best, "why").to_owned()));
    }
    let mut why: Vec<String> = places
        .iter()
        .filter(|p| !fits(p))
        .map(|p| format!("{}: {}", text(p, "name"), text(p, "why")))
        .collect();
    why.sort();
    let message = match why.len() {
        0 => "No host of the fleet takes it.".to_owned(),
        _ => format!(
            "No host of the fleet takes it. {}. See: stratavorectl host list.",
            why.join("; ")
        ),
    };
    Err(Failure::new(REFUSED, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn dict(host: &str, fits: bool, why: &str) -> Dict {
        let text = |t: &str| Variant::from(t.to_owned());
        let fits = Variant::Bool(fits);
        [
            ("host", text(host)),
            ("name", text(host)),
            ("fits", fits),
            ("why", text(why)),
        ]
        .into_iter()
        .filter_map(|(k, v)| Some((k.to_owned(), v.try_into_owned().ok()?)))
        .collect()
    }

    #[test]
    fn the_first_that_fits_and_was_not_tried() {
        let places = [
            dict("b", true, "idle"),
            dict("a", true, "busy"),
            dict("c", false, "it is cordoned"),
        ];
        let tried = |names: &[&str]| {
            names
                .iter()
                .map(|n| (*n).to_owned())
                .collect::<BTreeSet<_>>()
        };
        let name = |t: &[&str]| choose(&places, &tried(t)).map(|(p, why)| (p.name, why));
        assert_eq!(name(&[]), Ok(("b".to_owned(), "idle".to_owned())));
        assert_eq!(name(&["b"]), Ok(("a".to_owned(), "busy".to_owned())));
        let none = name(&["a", "b"]).unwrap_err();
        assert_eq!(none.status, REFUSED);
        assert!(
            none.message.contains("c: it is cordoned."),
            "{}",
            none.message
        );
    }

    #[test]
    fn what_does_not_go_together_is_said() {
        let parse = |words: &str| {
            let words = format!("stratavorectl run p {words} -- true");
            super::super::super::args::Cli::try_parse_from(words.split(' ')).is_ok()
        };
        assert!(parse("--on auto --host-label a=b") && parse("--on alice@web1:22"));
        assert!(!parse("--on -x") && !parse("--on auto --pipe") && !parse("-H web1 --on auto"));
        assert!(!parse("--host-label a=b") && !parse("--via store"));
        assert!(parse("--on web1 --via store") && !parse("--on web1 --via store --pipe"));
        let check = |words: &str| {
            let words = format!("stratavorectl run p {words} -- true");
            match super::super::super::args::Cli::try_parse_from(words.split(' '))
                .unwrap()
                .verb
            {
                super::super::super::args::Verb::Run(args) => check(&args),
                _ => unreachable!(),
            }
        };
        assert!(check("--on web1 --via store").is_ok() && check("--on auto --via store").is_ok());
        for by_ssh in ["--on me@web1", "--on web1:22"] {
            assert!(check(by_ssh).is_ok() && check(&format!("{by_ssh} --via store")).is_err());
        }
        assert!(check("--on web1 --via store --env-file /e").is_err());
        assert!(check("--on web1 --via store --load-credential a:/e").is_err());
    }
}
