//! `reconcile`: what the store says and what runs on the host, compared, and set right.

use super::Global;
use super::args::Reconcile;
use super::client::{Client, dict, text};
use super::failure::Result;
use super::json;
use super::out::Out;
use super::table::{Cell, Column};
use crate::api::proxy::{Dict, Given};

const HEAD: [Column; 3] = [
    Column::stiff("RUNNER"),
    Column::stiff("STEP"),
    Column::soft("WHY", 1, 20),
];

/// Compares, and unless it is a dry run, sets right.
pub(super) async fn reconcile(client: &Client, global: &Global, args: &Reconcile) -> Result<u8> {
    let out = Out::new(global);
    let options = Given::from([("dry-run", args.dry_run.into())]);
    let steps: Vec<Dict> = client.call("Reconcile", &(options,)).await?;
    if out.is_json() {
        out.objects(steps.iter().map(json::step).collect())?;
        return Ok(0);
    }
    if steps.is_empty() {
        if !global.quiet {
            eprintln!("Rows and runners agree; there is nothing to do.");
        }
        return Ok(0);
    }
    let row = |step: &Dict| {
        let ending = dict(step, "exit");
        let why = match text(&ending, "message") {
            "" => text(step, "message").to_owned(),
            told => format!("{} {told}", text(step, "message")),
        };
        vec![
            Cell::new(text(step, "runner")),
            Cell::new(text(step, "step")),
            Cell::new(why),
        ]
    };
    out.table(&HEAD, &steps.iter().map(row).collect::<Vec<_>>())?;
    let strangers = steps
        .iter()
        .filter(|s| text(s, "step") == "stranger")
        .count();
    let taken = steps.len() - strangers;
    let s = if taken == 1 { "" } else { "s" };
    let mut footer = match (taken, args.dry_run) {
        (0, _) => "Nothing to do".to_owned(),
        (_, true) => {
            format!("{taken} step{s} to do; nothing was changed. Leave --dry-run out to take them")
        }
        (_, false) => format!("{taken} step{s} under way"),
    };
    if strangers > 0 {
        footer.push_str(&format!("; {strangers} left alone"));
    }
    out.footer(&format!("{footer}."))?;
    Ok(0)
}
