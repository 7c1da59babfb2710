//! `run --explain`: how every gate of a launch stands.

use super::super::args::Run;
use super::super::client::Client;
use super::super::failure::{REFUSED, Result};
use super::super::json;
use super::super::out::Out;
use super::super::table::{Cell, Column, Style};
use super::super::text::clean;
use crate::api::proxy::{Dict, Given};

pub(super) async fn explain(
    client: &Client,
    out: &Out,
    args: &Run,
    command: &[&str],
    options: &Given<'_>,
) -> Result<u8> {
    let body = (args.project.as_str(), command, options);
    let explained: Result<(bool, Vec<Dict>)> = client.call("Explain", &body).await;
    let (admitted, gates) = match explained {
        Ok(explained) => explained,
        Err(failure) => return Err(client.suggest(failure, &args.project).await),
    };
    let gates: Vec<_> = gates.iter().map(json::gate).collect();
    if out.is_json() {
        out.object(&serde_json::json!({"admitted": admitted, "gates": gates}))?;
    } else {
        let word = |value: &serde_json::Value| match value {
            serde_json::Value::Null => "-".to_owned(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let rows: Vec<Vec<Cell>> = gates
            .iter()
            .map(|gate| {
                let (open, style) = match gate["open"] == true {
                    true => ("yes", Style::Good),
                    false => ("no", Style::Bad),
                };
                vec![
                    Cell::new(word(&gate["name"])),
                    Cell::new(word(&gate["subject"])),
                    Cell::new(word(&gate["used"])),
                    Cell::new(word(&gate["reserved"])),
                    Cell::new(word(&gate["requested"])),
                    Cell::new(word(&gate["limit"])),
                    Cell::styled(open, style),
                ]
            })
            .collect();
        const HEAD: [Column; 7] = [
            Column::stiff("GATE"),
            Column::soft("OF", 1, 8),
            Column::number("USED"),
            Column::number("RESERVED"),
            Column::number("ASKED"),
            Column::number("LIMIT"),
            Column::stiff("OPEN"),
        ];
        out.table(&HEAD, &rows)?;
        if out.look.legend {
            for message in gates.iter().filter_map(|g| g["message"].as_str()) {
                out.text(&format!("\n{}\n", clean(message)))?;
            }
        }
    }
    Ok(if admitted { 0 } else { REFUSED })
}
