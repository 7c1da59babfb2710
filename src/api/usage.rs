//! What runners use of a model, as they report it. A runner may report for itself: whose process
//! the caller is, the bus and the kernel say. Whoever else reports needs a right of its own.

use super::auth::Verb;
use super::budgets::tokens;
use super::core::{Call, Core};
use super::errors::Result;
use super::options;
use super::values::{Options, in_order, unknown};
use crate::domain::budget::Tokens;
use crate::domain::{Error, ErrorKind, RunnerId};
use crate::engine::Noted;
use serde_json::json;
use std::result::Result as Parsed;

/// The counters of a report, as [`crate::domain::budget::Counts`] has them.
const COUNTERS: [&str; 4] = ["cache-read", "cache-write", "input", "output"];

impl Core {
    pub(super) async fn report_usage(
        &self,
        call: Call<'_>,
        runner: &str,
        usage: &Options,
        options: &Options,
    ) -> Result<RunnerId> {
        options::none(options)?;
        let tokens = parse(usage)?;
        // Root is an operator wherever it calls from.
        let own = match call.uid == 0 && !runner.is_empty() {
            true => None,
            false => self.runner_of(&call).await?,
        };
        let mut by_another = None;
        let id = match (own, runner) {
            (Some(own), "") => own,
            (None, "") => return Err(nobody().into()),
            (_, named) => {
                let runner = self.engine().resolve(named).await?;
                if own != Some(runner.id) {
                    if let Err(error) = refuse_another(own, runner.id) {
                        let owner = self.owner_here(&runner).await;
                        let verb = Verb::Report { owner };
                        self.note_refused(&call, verb, &self.details(&runner, owner), &error)
                            .await;
                        return Err(error.into());
                    }
                    let owner = self.owner_here(&runner).await;
                    self.authorise(&call, Verb::Report { owner }, self.details(&runner, owner))
                        .await?;
                    by_another = Some((runner.spec.project.to_string(), self.actor(&call).await));
                }
                runner.id
            }
        };
        self.engine().report(id, tokens).await?;
        if let Some((project, actor)) = by_another {
            let noted = Noted {
                project,
                subject: format!("runner/{id}"),
                result: "ok".to_owned(),
                data: json!({ "runner": id.to_string(), "tokens": tokens }),
            };
            self.engine().note("act.report-usage", noted, actor);
        }
        Ok(id)
    }

    /// The live runner that the caller is a process of. A bus that gives nothing but a number for the
    /// process leaves it open whether that has become another one's since: then the caller's user has
    /// to be the runner's, which the bus knows from the connection itself.
    async fn runner_of(&self, call: &Call<'_>) -> Result<Option<RunnerId>> {
        let process = self.process(call).await?;
        let Some(id) = self.engine().runner_of(process.pid).await? else {
            return Ok(None);
        };
        let runner = self.engine().live_runner(id);
        let same_user = runner.is_some_and(|runner| runner.spec.uid == call.uid);
        Ok((same_user || process.is_surely_it()).then_some(id))
    }
}

fn nobody() -> Error {
    Error::new(
        ErrorKind::NoSuchRunner,
        "The caller is no process of a live runner of this host; say for which runner it reports: --runner ID.",
    )
}

/// What runs in one runner does not speak for another, whatever its user may do elsewhere.
fn refuse_another(own: Option<RunnerId>, asked: RunnerId) -> Parsed<(), Error> {
    own.map_or(Ok(()), |own| {
        Err(Error::new(
            ErrorKind::NotPermitted,
            format!("The caller is a process of runner {own}, which may report for itself only, not for {asked}."),
        ))
    })
}

/// Totals since the runner began, of at least one kind.
fn parse(usage: &Options) -> Parsed<Tokens, Error> {
    if usage.is_empty() {
        return Err(Error::invalid(format!(
            "A report has at least one counter of {}.",
            COUNTERS.join(", ")
        )));
    }
    let mut out = Tokens::default();
    for (key, value) in in_order(usage) {
        match key {
            "input" => out.input = tokens(key, value)?,
            "output" => out.output = tokens(key, value)?,
            "cache-read" => out.cache_read = tokens(key, value)?,
            "cache-write" => out.cache_write = tokens(key, value)?,
            _ => return Err(unknown(key, &COUNTERS)),
        }
    }
    out.check()?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api::convert::own;
    use zbus::Variant;

    fn parsed<const N: usize>(entries: [(&str, Variant<'static>); N]) -> Parsed<Tokens, Error> {
        parse(&Options::from(
            entries.map(|(key, value)| (key.to_owned(), own(value))),
        ))
    }

    #[test]
    fn reports() {
        let all = parsed([
            ("input", 7u32.into()),
            ("output", "2k".into()),
            ("cache-read", 0u64.into()),
            ("cache-write", 9i32.into()),
        ]);
        let expected = Tokens {
            input: 7,
            output: 2_000,
            cache_read: 0,
            cache_write: 9,
        };
        assert_eq!(all, Ok(expected));
        for (entry, part) in [
            (("input", Variant::from(-1i32)), "-1"),
            (("input", u64::MAX.into()), "1000000000000"),
            (("output", (i64::MAX as u64).into()), "1000000000000"),
            (("inputs", 1u32.into()), "did you mean input"),
            (("input", "many".into()), "“many”"),
        ] {
            let said = parsed([entry]).unwrap_err().message;
            assert!(said.contains(part), "{said}");
        }
        assert!(parsed([]).unwrap_err().message.contains("cache-read"));
    }
}
