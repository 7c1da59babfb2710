//! `diff` and `apply`: what a file declares beside what is there.

mod actual;
mod take;

use super::args::{Apply, Diff};
use super::client::Client;
use super::failure::{DIFFERS, FAILED, Failure, Result, USAGE};
use super::out::Out;
use super::table::{Cell, Column, Style};
use super::text::command;
use super::{Global, bus};
use crate::domain::declared::{
    self, Actual, BYTES_MAX, Declared, Deed, Field, Key, Object, Step, too_long,
};
use crate::domain::units::INFINITY;
use crate::places::Places;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Its name below the configuration.
const FILE: &str = "declared.toml";

/// Tells how they differ.
pub(super) async fn diff(global: &Global, args: &Diff) -> Result<u8> {
    let (file, declared) = read(args.file.as_deref())?;
    let client = Client::connect(global).await?;
    let actual = actual::actual(&client).await?;
    let steps = declared.steps(&actual);
    // With mutable = false they differ, and are there already.
    let others = match args.all && declared.mutable {
        true => declared.others(&actual),
        false => Vec::new(),
    };
    let out = Out::new(global);
    show(&out, global, &steps, &others)?;
    let status = if steps.is_empty() { 0 } else { DIFFERS };
    if global.quiet || out.is_json() {
        return Ok(status);
    }
    match steps.len() {
        0 => {
            out.leave();
            eprintln!("All is as {} declares it.", file.display());
        }
        n => out.footer(&format!(
            "{} from {}. To make it so: {}",
            match n {
                1 => "1 object differs".to_owned(),
                n => format!("{n} objects differ"),
            },
            file.display(),
            to_apply(args.file.as_deref())
        ))?,
    }
    Ok(status)
}

/// The command that makes it so, of this file.
fn to_apply(file: Option<&Path>) -> String {
    let mut words = vec!["stratavorectl".to_owned(), "apply".to_owned()];
    if let Some(file) = file {
        words.extend(["--file".to_owned(), file.display().to_string()]);
    }
    command(&words)
}

/// Makes it so.
pub(super) async fn apply(global: &Global, args: &Apply) -> Result<u8> {
    let (file, declared) = read(args.file.as_deref())?;
    if args.check {
        if !global.quiet {
            eprintln!("{} is right: {}.", file.display(), counted(&declared));
        }
        return Ok(0);
    }
    let client = Client::connect(global).await?;
    if !args.dry_run {
        return take::all(&client, global, &file, &declared).await;
    }
    let steps = declared.steps(&actual::actual(&client).await?);
    let out = Out::new(global);
    show(&out, global, &steps, &[])?;
    if !global.quiet && !out.is_json() {
        match steps.len() {
            0 => eprintln!("{}", nothing_to_do(&file)),
            n => out.footer(&format!(
                "{n} step{} to do; nothing was changed. Leave --dry-run out to take them.",
                if n == 1 { "" } else { "s" }
            ))?,
        }
    }
    Ok(0)
}

fn nothing_to_do(file: &Path) -> String {
    format!(
        "All is as {} declares it; there is nothing to do.",
        file.display()
    )
}

fn counted(declared: &Declared) -> String {
    let of = |n: usize, what: &str| match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    };
    let fleet = if declared.fleet.is_some() {
        ", the fleet's quota"
    } else {
        ""
    };
    format!(
        "{}, {}{fleet}; {}",
        of(declared.projects.len(), "project"),
        of(declared.budgets.len(), "budget"),
        match declared.mutable {
            true => "what is not declared is left alone",
            false => "what is not declared is removed",
        }
    )
}

/// The file and what it declares, before anything is asked of anybody.
fn read(file: Option<&Path>) -> Result<(PathBuf, Declared)> {
    let failed = |why: String| Failure::new(FAILED, why);
    let file = match (file, bus::is_user()) {
        (Some(file), _) => file.to_owned(),
        (None, false) => Places::system().config.join(FILE),
        (None, true) => Places::user().map_err(failed)?.config.join(FILE),
    };
    let shown = file.display();
    let text = text(&file).map_err(|error| {
        failed(match error.kind() {
            ErrorKind::NotFound => format!(
                "There is no {shown}. Write down there what is to be, see declared.toml(5), or name another file with --file."
            ),
            ErrorKind::InvalidData => format!("{shown} is no text in UTF-8."),
            _ => format!("{shown} can't be read: {error}."),
        })
    })?;
    let parsed = match text.len() > BYTES_MAX {
        true => Err(too_long()),
        false => declared::parse(&text),
    };
    match parsed {
        Ok(declared) => Ok((file, declared)),
        Err(wrong) => Err(Failure::new(USAGE, format!("{shown}:{wrong}"))),
    }
}

/// No more of it than there may be, and a byte.
fn text(file: &Path) -> std::io::Result<String> {
    let most = u64::try_from(BYTES_MAX).unwrap_or(u64::MAX);
    let mut text = Vec::new();
    let mut bounded = File::open(file)?.take(most.saturating_add(1));
    bounded.read_to_end(&mut text)?;
    if text.len() > BYTES_MAX {
        // Its last letter may be cut in two.
        return Ok(String::from_utf8_lossy(&text).into_owned());
    }
    String::from_utf8(text).map_err(|error| std::io::Error::new(ErrorKind::InvalidData, error))
}

fn show(out: &Out, global: &Global, steps: &[Step], others: &[Object]) -> Result<()> {
    const HEAD: [Column; 4] = [
        Column::soft("OBJECT", 3, 12),
        Column::soft("FIELD", 2, 6),
        Column::soft("DECLARED", 1, 8),
        Column::soft("ACTUAL", 1, 8),
    ];
    if out.is_json() {
        let steps = steps
            .iter()
            .map(|step| json_of(&step.object, Some(&step.deed)));
        let others = others.iter().map(|object| json_of(object, None));
        return out.objects(steps.chain(others).collect());
    }
    if steps.is_empty() && others.is_empty() {
        return Ok(());
    }
    out.page();
    if global.quiet {
        let objects = steps.iter().map(|step| &step.object).chain(others);
        let names: String = objects.map(|object| format!("{object}\n")).collect();
        return out.text(&names);
    }
    let mut rows: Vec<Vec<Cell>> = steps.iter().flat_map(rows).collect();
    rows.extend(others.iter().map(|object| {
        row(
            object,
            "",
            Cell::styled("not declared", Style::Faint),
            "there",
        )
    }));
    out.table(&HEAD, &rows)
}

fn row(object: &Object, field: &str, declared: Cell, actual: &str) -> Vec<Cell> {
    let object = Cell::new(object.to_string());
    vec![
        object,
        Cell::or_dash(field),
        declared,
        Cell::or_dash(actual),
    ]
}

fn rows(step: &Step) -> Vec<Vec<Cell>> {
    let object = &step.object;
    match &step.deed {
        Deed::Create(fields) => {
            let declared = match said(fields).as_str() {
                "" => Cell::new("there"),
                said => Cell::new(said),
            };
            vec![row(object, "", declared, "not there")]
        }
        Deed::Change(fields) => fields
            .iter()
            .map(|field| {
                let declared = Cell::or_dash(field.key.shown(&field.declared));
                let actual = field.key.shown(&field.actual);
                row(object, field.key.name, declared, &actual)
            })
            .collect(),
        Deed::Remove { runners } => {
            let actual = match runners {
                0 => "there".to_owned(),
                1 => "there, with 1 runner".to_owned(),
                n => format!("there, with {n} runners"),
            };
            vec![row(object, "", Cell::new("not there"), &actual)]
        }
    }
}

/// `max_runners=4 memory_max=16G`
fn said(fields: &[Field]) -> String {
    let said = |field: &Field| {
        let value = field.key.shown(&field.declared);
        match value.contains(char::is_whitespace) {
            true => format!("{}=“{value}”", field.key.name),
            false => format!("{}={value}", field.key.name),
        }
    };
    fields.iter().map(said).collect::<Vec<_>>().join(" ")
}

/// A difference; without a deed it is none, as the object may be there.
fn json_of(object: &Object, deed: Option<&Deed>) -> Value {
    let (name, period) = match object {
        Object::Fleet => (Value::Null, Value::Null),
        Object::Project(name) => (json!(name.as_str()), Value::Null),
        Object::Budget(scope, period) => (json!(scope.to_string()), json!(period.as_str())),
    };
    let is_new = matches!(deed, Some(Deed::Create(_)));
    let fields = deed.map(Deed::fields).unwrap_or_default();
    let field = |field: &Field| {
        json!({
            "field": field.key.name,
            "declared": value_of(field.key, &field.declared),
            "actual": if is_new { Value::Null } else { value_of(field.key, &field.actual) },
        })
    };
    json!({
        "kind": object.kind(),
        "name": name,
        "period": period,
        "step": deed.map(Deed::as_str),
        "fields": fields.iter().map(field).collect::<Vec<_>>(),
    })
}

fn value_of(key: &Key, value: &declared::Value) -> Value {
    match value {
        declared::Value::Nothing => Value::Null,
        declared::Value::Number(INFINITY) => json!("infinity"),
        declared::Value::Number(n) => json!(n),
        // As the file has it.
        declared::Value::Text(text) if key.name == "count" => text.split(',').collect(),
        declared::Value::Text(text) => json!(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_names_the_file_that_was_looked_at() {
        assert_eq!(to_apply(None), "stratavorectl apply");
        let named = to_apply(Some(Path::new("/srv/a file.toml")));
        assert_eq!(named, "stratavorectl apply --file '/srv/a file.toml'");
    }
}
