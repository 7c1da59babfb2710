//! `logs`.

use super::Global;
use super::args::{Format, Logs};
use super::client::Client;
use super::failure::{FAILED, Failure, Result};
use super::text::clean;
use crate::api::proxy::Given;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::fd::OwnedFd;

/// Prints what comes through the pipe until its end.
pub(super) async fn logs(client: &Client, global: &Global, args: &Logs) -> Result<u8> {
    let output = match global.output {
        Format::Table => "short",
        Format::Json | Format::Jsonl => "json",
    };
    let mut options = Given::from([("output", output.into())]);
    if args.follow {
        options.insert("follow", true.into());
    }
    if let Some(lines) = args.lines {
        options.insert("lines", lines.into());
    }
    let log: zbus::OwnedFd = client.call("Logs", &(args.id.as_str(), &options)).await?;
    let printed = tokio::task::spawn_blocking(move || print(OwnedFd::from(log)));
    match printed.await {
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
        Ok(done) => done?,
        Err(e) => return Err(Failure::new(FAILED, e.to_string())),
    }
    if args.follow
        && let Ok(described) = client.describe(&args.id).await
        && super::client::text(&described, "state") != "ended"
    {
        return Err(Failure::new(
            FAILED,
            "The log broke off although the runner goes on: stratavore-agent was stopped or restarted. Try again.",
        ));
    }
    Ok(0)
}

fn print(log: OwnedFd) -> std::io::Result<()> {
    let mut log = File::from(log);
    let mut out = std::io::stdout().lock();
    if !out.is_terminal() {
        std::io::copy(&mut log, &mut out)?;
        return out.flush();
    }
    // The output of others shall not write to this terminal what it likes.
    let mut log = BufReader::new(log);
    let mut line = Vec::new();
    while log.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line).replace('\t', "    ");
        let shown = text
            .split_inclusive('\n')
            .map(|l| match l.strip_suffix('\n') {
                Some(l) => clean(l) + "\n",
                None => clean(l),
            });
        out.write_all(shown.collect::<String>().as_bytes())?;
        out.flush()?;
        line.clear();
    }
    Ok(())
}
