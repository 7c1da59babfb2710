//! The steps of `apply`, one call each. After each round what is there is read again: what somebody else has changed meanwhile is
//! another difference, and what failed and is the same one has failed.

use super::actual::actual;
use super::{Declared, Deed, Field, Object, Step, json_of, nothing_to_do, said};
use crate::api::proxy::Given;
use crate::cli::args::Format;
use crate::cli::client::Client;
use crate::cli::failure::{FAILED, Failure, Result};
use crate::cli::out::Out;
use crate::cli::text::clean;
use crate::cli::{Global, complain};
use crate::crash;
use crate::domain::declared::Value;
use crate::domain::project::SLICE_KEYS;
use crate::domain::units::INFINITY;
use serde_json::json;
use std::path::Path;
use zbus::{OwnedObjectPath, Variant};

/// Somebody who changes the same things all the time is not waited for.
const ROUNDS: usize = 5;

/// Takes them all, and tells which.
pub(super) async fn all(
    client: &Client,
    global: &Global,
    file: &Path,
    declared: &Declared,
) -> Result<u8> {
    let mut told = Told::new(global);
    let done = rounds(client, declared, &mut told).await;
    let count = told.count;
    told.finish()?;
    match done {
        Ok(0) if count == 0 && !global.quiet => {
            eprintln!("{}", nothing_to_do(file));
            Ok(0)
        }
        Err(failure) if count > 0 => {
            let message = format!(
                "{} {count} step{} done before, and stay{}. Apply again, and it goes on from there.",
                failure.message,
                if count == 1 { " was" } else { "s were" },
                if count == 1 { "s" } else { "" },
            );
            Err(Failure { message, ..failure })
        }
        other => other,
    }
}

async fn rounds(client: &Client, declared: &Declared, told: &mut Told<'_>) -> Result<u8> {
    let mut failed: Vec<(Step, Failure)> = Vec::new();
    let done = taken(client, declared, told, &mut failed).await;
    // Whatever came to an end, what was refused before is told.
    for (step, failure) in &failed {
        told.failed(step, &failure.message)?;
    }
    let left = done?;
    for step in &left {
        let message = "somebody else changes it, again and again. Find out who: stratavorectl events; then apply again.";
        told.failed(step, message)?;
    }
    let first = failed.first().map(|(_, failure)| failure.status);
    Ok(first.unwrap_or(if left.is_empty() { 0 } else { FAILED }))
}

/// The same difference, however many runners keep a project from being removed.
fn is_same(one: &Step, other: &Step) -> bool {
    let keeps = |step: &Step| matches!(step.deed, Deed::Remove { runners: 1.. });
    one == other || (one.object == other.object && keeps(one) && keeps(other))
}

/// Takes them, and collects those that were refused; what is left is another difference each time.
async fn taken(
    client: &Client,
    declared: &Declared,
    told: &mut Told<'_>,
    failed: &mut Vec<(Step, Failure)>,
) -> Result<Vec<Step>> {
    let mut left = Vec::new();
    for round in 0..=ROUNDS {
        left = declared.steps(&actual(client).await?);
        // What is another difference now is another matter, and what is none is done, by whomever.
        failed.retain(|(step, _)| left.iter().any(|other| is_same(step, other)));
        left.retain(|step| !failed.iter().any(|(known, _)| is_same(known, step)));
        if left.is_empty() || round == ROUNDS {
            break;
        }
        for step in &left {
            match take(client, step).await {
                Ok(()) => {
                    told.done(step)?;
                    crash::point("apply.taken");
                }
                // Nobody is there to be asked for the others.
                Err(failure) if failure.unheard || failure.passes() => return Err(failure),
                Err(failure) => failed.push((step.clone(), failure)),
            }
        }
    }
    Ok(left)
}

async fn take(client: &Client, step: &Step) -> Result<()> {
    let fields = step.deed.fields();
    let keys: Vec<String> = fields.iter().map(|field| field.key.option()).collect();
    let values = fields.iter().map(|field| given(&field.declared));
    let given: Given<'_> = keys.iter().map(String::as_str).zip(values).collect();
    let none = Given::new();
    match (&step.object, &step.deed) {
        (Object::Fleet, _) => client.call("SetFleet", &(&given,)).await,
        (Object::Project(name), Deed::Create(_)) => {
            let body = (name.as_str(), &given);
            let _path: OwnedObjectPath = client.call("CreateProject", &body).await?;
            warn(client, name.as_str(), &keys).await;
            Ok(())
        }
        (Object::Project(name), Deed::Change(_)) => {
            let body = (name.as_str(), &given);
            client.call::<_, ()>("SetProject", &body).await?;
            warn(client, name.as_str(), &keys).await;
            Ok(())
        }
        (Object::Project(name), Deed::Remove { runners: 0 }) => {
            client.call("RemoveProject", &(name.as_str(), &none)).await
        }
        // It would be refused, and the refusal written down each time.
        (Object::Project(name), Deed::Remove { runners }) => Err(Failure::new(
            FAILED,
            format!(
                "it is not declared, and stays, as {} of it live or wait. Stop them, stratavorectl stop --project {name}, or wait for them; then apply again.",
                match runners {
                    1 => "1 runner".to_owned(),
                    n => format!("{n} runners"),
                }
            ),
        )),
        (Object::Budget(scope, period), Deed::Remove { .. }) => {
            let body = (scope.to_string(), period.as_str(), &none);
            client.call("RemoveBudget", &body).await
        }
        (Object::Budget(scope, period), _) => {
            let body = (scope.to_string(), period.as_str(), &given, &none);
            client.call("SetBudget", &body).await
        }
    }
}

async fn warn(client: &Client, name: &str, keys: &[String]) {
    if keys.iter().any(|key| SLICE_KEYS.contains(&key.as_str())) {
        crate::cli::project::warn(client, name).await;
    }
}

fn given(value: &Value) -> Variant<'static> {
    match value {
        Value::Nothing | Value::Number(INFINITY) => "infinity".into(),
        Value::Number(n) => (*n).into(),
        Value::Text(text) => text.clone().into(),
    }
}

/// What was done, told as it is done: whoever is cut off has seen how far it came.
struct Told<'a> {
    global: &'a Global,
    out: Out,
    count: usize,
    lines: Vec<serde_json::Value>,
}

impl<'a> Told<'a> {
    fn new(global: &'a Global) -> Self {
        Self {
            global,
            out: Out::new(global),
            count: 0,
            lines: Vec::new(),
        }
    }

    fn done(&mut self, step: &Step) -> Result<()> {
        self.count += 1;
        if self.out.is_json() {
            return self.json(step, None);
        }
        match self.global.quiet {
            true => Ok(()),
            false => self.out.line(&clean(&line(step))),
        }
    }

    fn failed(&mut self, step: &Step, message: &str) -> Result<()> {
        let text = format!("{}: {message}", step.object);
        complain(&Failure::new(FAILED, text));
        match self.out.is_json() {
            true => self.json(step, Some(message)),
            false => Ok(()),
        }
    }

    fn json(&mut self, step: &Step, failure: Option<&str>) -> Result<()> {
        let mut value = json_of(&step.object, Some(&step.deed));
        value["result"] = json!(if failure.is_none() { "done" } else { "failed" });
        value["message"] = json!(failure);
        match self.global.output {
            Format::Jsonl => self.out.object(&value),
            _ => {
                self.lines.push(value);
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<()> {
        match self.global.output {
            Format::Json => self.out.objects(self.lines),
            _ => Ok(()),
        }
    }
}

/// `created project web: max_runners=4`, `changed fleet: max_runners infinity → 500`
fn line(step: &Step) -> String {
    let changed = |field: &Field| {
        let of = |value| match field.key.shown(value).as_str() {
            "" => "-".to_owned(),
            text => text.to_owned(),
        };
        let (from, to) = (of(&field.actual), of(&field.declared));
        format!("{} {from} → {to}", field.key.name)
    };
    let (verb, fields) = match &step.deed {
        Deed::Create(fields) => ("created", said(fields)),
        Deed::Change(fields) => {
            let all: Vec<String> = fields.iter().map(changed).collect();
            ("changed", all.join(", "))
        }
        Deed::Remove { .. } => ("removed", String::new()),
    };
    match fields.as_str() {
        "" => format!("{verb} {}", step.object),
        fields => format!("{verb} {}: {fields}", step.object),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api::options;
    use crate::api::values::Options;
    use crate::domain::declared::{Actual, parse};
    use crate::domain::project::ProjectSettings;

    /// What is given for a step, as the daemon reads it.
    fn heard(step: &Step) -> crate::domain::project::ProjectChange {
        let fields = step.deed.fields().iter();
        let options: Options = fields
            .map(|f| (f.key.option(), given(&f.declared).try_into_owned().unwrap()))
            .collect();
        options::project(&options).unwrap()
    }

    #[test]
    fn the_daemon_takes_what_is_given() {
        let file = "[projects.web]\ndescription = \"x\"\nmax_runners = 4\nmax_queued = 7\ndefault_tokens = \"2k\"\nmemory_max = \"1G\"
                    memory_high = \"900M\"\nmemory_swap_max = 0\ncpu_quota = \"150%\"\ncpu_weight = 50\nio_weight = 60\ntasks_max = 70\n";
        let full = parse(file).unwrap();
        let made = &full.steps(&Actual::default())[0];
        let settings = ProjectSettings::default().with(&heard(made));
        let (name, declared) = full.projects.first_key_value().unwrap();
        assert_eq!(settings, *declared);
        // And lifts all of it again.
        let actual = Actual {
            projects: [(name.clone(), settings.clone())].into(),
            ..Actual::default()
        };
        let bare = parse("[projects.web]").unwrap();
        let lifted = &bare.steps(&actual)[0];
        assert_eq!(lifted.deed.fields().len(), 11);
        let settings = settings.with(&heard(lifted));
        let actual = Actual {
            projects: [(name.clone(), settings)].into(),
            ..Actual::default()
        };
        assert_eq!(bare.steps(&actual), []);
    }

    #[test]
    fn lines() {
        let file = "[fleet]\nmax_runners = 5\n[projects.web]\ndescription = \"The web\"\nmax_runners = 4\n[projects.x]\n";
        let file = parse(file).unwrap();
        let lines: Vec<String> = file.steps(&Actual::default()).iter().map(line).collect();
        assert_eq!(
            lines,
            [
                "changed fleet: max_runners infinity → 5",
                "created project web: description=“The web” max_runners=4",
                "created project x"
            ]
        );
    }
}
