//! Every `stratavorectl` command that we tell somebody to type is one that it takes.

use clap::{Parser, error::ErrorKind};
use stratavore::cli::args::Cli;

/// The words of a shell's line up to what ends the command.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if "|&;#>".contains(c) && (c != '#' || word.is_none()) => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    // It stands for what one has to think of.
    words.retain(|w| w != "…");
    words
}

/// All commands for `stratavorectl` in a line, behind whatever stands before.
fn commands(line: &str) -> Vec<Vec<String>> {
    line.match_indices("stratavorectl ")
        .map(|(at, _)| words(&line[at..]))
        .collect()
}

/// The lines of a page's examples, as a reader sees them.
fn examples(page: &str) -> Vec<String> {
    let blocks = page.split("\n.nf\n").skip(1);
    let lines = blocks.flat_map(|rest| rest.split("\n.fi").next().unwrap_or_default().lines());
    let seen = |line: &str| {
        let line = line.trim_start_matches("\\&");
        line.replace("\\-", "-").replace("\\e", "\\")
    };
    lines.map(seen).collect()
}

/// `part`: words in a sentence may name a command without all it wants.
fn wrong(command: &[String], part: bool) -> Option<String> {
    let kind = Cli::try_parse_from(command).err()?;
    let fine = match kind.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
        ErrorKind::MissingRequiredArgument | ErrorKind::MissingSubcommand => part,
        _ => false,
    };
    (!fine).then(|| format!("{}\n{kind}", command.join(" ")))
}

#[test]
fn commands_in_what_people_read_are_commands() {
    let readme = include_str!("../../README.md");
    let catalog = stratavore::domain::kinds::catalog();
    let blocks = readme.split("```").skip(1).step_by(2).flat_map(str::lines);
    let pages: Vec<String> = super::pages()
        .iter()
        .flat_map(|(_, page)| examples(page))
        .collect();
    let of_pages = pages.iter().filter(|line| line.contains("stratavorectl "));
    assert!(of_pages.count() > 8, "{pages:?}");
    let whole: Vec<_> = blocks
        .chain(catalog.lines().filter(|l| l.starts_with("    ")))
        .chain(pages.iter().map(String::as_str))
        // The drawing at README's beginning.
        .filter(|l| !l.contains('─'))
        .flat_map(commands)
        .collect();
    let prose = readme.split("```").step_by(2);
    let ticked: Vec<_> = prose
        .flat_map(|text| text.split('`').skip(1).step_by(2))
        .map(|span| span.replace('\n', " "))
        .flat_map(|span| commands(&span))
        .collect();
    assert!(whole.len() > 20 && ticked.len() > 5, "{whole:?} {ticked:?}");
    let of = |all: &[Vec<String>], part| -> Vec<String> {
        all.iter().filter_map(|c| wrong(c, part)).collect()
    };
    let bad = [of(&whole, false), of(&ticked, true)].concat();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn a_wrong_command_is_seen() {
    for line in [
        "stratavorectl events --all | grep x",
        "sudo stratavorectl shows x",
        "stratavorectl show",
    ] {
        assert!(wrong(&commands(line)[0], false).is_some(), "{line}");
    }
}
