//! `usage report`: what a runner has used of a model, told by itself or by an operator.

use super::Global;
use super::args::{ReportUsage, Usage};
use super::budget::count;
use super::client::Client;
use super::failure::{Failure, Result, USAGE};
use super::out::Out;
use crate::api::proxy::Given;

/// How a runner knows itself.
const OWN: &str = "STRATAVORE_RUNNER_ID";

/// Does what is asked of usage.
pub(super) async fn usage(client: &Client, global: &Global, args: &Usage) -> Result<u8> {
    let Usage::Report(report) = args;
    let (runner, tokens) = given(report)?;
    let sent = client
        .call::<_, String>("ReportUsage", &(runner.as_str(), &tokens, &Given::new()))
        .await;
    let id = match sent {
        Ok(id) => id,
        Err(failure) => return Err(client.suggest_runner(failure, &runner).await),
    };
    let out = Out::new(global);
    if out.is_json() {
        out.object(&serde_json::json!({ "runner": id }))?;
    }
    Ok(0)
}

/// What is wrong with it shows before anything is connected to.
pub(super) fn check(args: &Usage, far: bool) -> Result<()> {
    let Usage::Report(report) = args;
    if far && report.runner.is_none() {
        let message = "Who reports to another host is in no runner of it; say which: --runner ID.";
        return Err(Failure::new(USAGE, message));
    }
    given(report).map(drop)
}

/// Whose, and how much. Without a runner it is the one this is run in; the daemon finds out by itself, too.
fn given(report: &ReportUsage) -> Result<(String, Given<'static>)> {
    let own = || std::env::var(OWN).unwrap_or_default();
    let runner = report.runner.clone().unwrap_or_else(own);
    let tokens = &report.tokens;
    let counters = [
        ("input", "--tokens-in", &tokens.tokens_in),
        ("output", "--tokens-out", &tokens.tokens_out),
        (
            "cache-read",
            "--tokens-cache-read",
            &tokens.tokens_cache_read,
        ),
        (
            "cache-write",
            "--tokens-cache-write",
            &tokens.tokens_cache_write,
        ),
    ];
    let mut out = Given::new();
    for (key, flag, text) in counters {
        if let Some(text) = text {
            out.insert(key, count(flag, text)?.into());
        }
    }
    Ok((runner, out))
}
