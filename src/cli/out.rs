//! Standard output: a terminal with its width, colours and pager, or a file.

use super::args::{Format, Global};
use super::bus;
use super::failure::Result;
use super::pager::{Pager, truth};
use super::table::{self, Cell, Column, Look, Style};
use serde_json::Value;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

/// Standard output.
#[derive(Debug)]
pub(super) struct Out {
    format: Format,
    terminal: bool,
    dumb: bool,
    no_pager: bool,
    pub(super) look: Look,
    pager: Mutex<Option<Pager>>,
}

impl Out {
    pub(super) fn new(global: &Global) -> Self {
        let env = |name: &str| std::env::var(name).ok();
        let stdout = std::io::stdout();
        let terminal = stdout.is_terminal();
        let size = rustix::termios::tcgetwinsize(&stdout)
            .ok()
            .map(|size| usize::from(size.ws_col));
        let look = Look {
            width: if global.full {
                None
            } else {
                columns(&env, terminal, size)
            },
            colour: colour(&env, terminal),
            legend: !global.no_legend,
        };
        Self {
            format: global.output,
            terminal,
            dumb: dumb(&env),
            no_pager: global.no_pager,
            look,
            pager: Mutex::default(),
        }
    }

    pub(super) fn is_json(&self) -> bool {
        self.format != Format::Table
    }

    /// Whether what was printed can be printed over.
    pub(super) fn can_redraw(&self) -> bool {
        self.terminal && !self.dumb
    }

    /// Lines of the terminal.
    pub(super) fn height(&self) -> usize {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        size.map(|size| usize::from(size.ws_row))
            .filter(|n| *n > 0)
            .unwrap_or(24)
    }

    /// From here on through a pager, if somebody sees it; they are done before this is dropped.
    pub(super) fn page(&self) {
        if self.terminal && !self.dumb && !self.no_pager {
            *self.lock() = Pager::start();
        }
    }

    /// Waits until the pager has been left; for what comes after it on standard error.
    pub(super) fn leave(&self) {
        drop(self.lock().take());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Pager>> {
        self.pager.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Text that has its line ends already.
    pub(super) fn text(&self, text: &str) -> Result<()> {
        let written = match &mut *self.lock() {
            Some(pager) => pager.write(text),
            None => {
                let mut stdout = std::io::stdout().lock();
                stdout
                    .write_all(text.as_bytes())
                    .and_then(|()| stdout.flush())
            }
        };
        match written {
            // Nobody reads any more: that is no failure, and no reason to go on.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                self.leave();
                std::process::exit(0)
            }
            other => Ok(other?),
        }
    }

    /// One line.
    pub(super) fn line(&self, text: &str) -> Result<()> {
        self.text(&format!("{text}\n"))
    }

    /// A text in its colour.
    pub(super) fn paint(&self, style: Style, text: &str) -> String {
        style.paint(text, self.look.colour)
    }

    /// One object.
    pub(super) fn object(&self, value: &Value) -> Result<()> {
        match self.format {
            Format::Jsonl => self.line(&value.to_string()),
            _ => self.line(&format!("{value:#}")),
        }
    }

    /// A list: an array, or a line each.
    pub(super) fn objects(&self, values: Vec<Value>) -> Result<()> {
        match self.format {
            Format::Jsonl => {
                let lines: String = values.iter().map(|v| format!("{v}\n")).collect();
                self.text(&lines)
            }
            _ => self.line(&format!("{:#}", Value::Array(values))),
        }
    }

    /// Rows under headings.
    pub(super) fn table(&self, columns: &[Column], rows: &[Vec<Cell>]) -> Result<()> {
        self.text(&table::table(columns, rows, self.look))
    }

    /// What stands below a table.
    pub(super) fn footer(&self, text: &str) -> Result<()> {
        match self.look.legend {
            true => self.text(&format!("\n{}\n", bus::advice(text))),
            false => Ok(()),
        }
    }
}

type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A terminal that can do nothing but print.
fn dumb(env: Env<'_>) -> bool {
    env("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

/// Whether there are colours, as systemd decides it.
fn colour(env: Env<'_>, terminal: bool) -> bool {
    let said = env("SYSTEMD_COLORS").and_then(|text| match text.as_str() {
        "16" | "256" | "24bit" => Some(true),
        other => truth(other),
    });
    said.unwrap_or_else(|| terminal && !dumb(env) && env("NO_COLOR").is_none())
}

/// How wide tables may be: only a terminal bounds them, or `$SYSTEMD_COLUMNS`.
fn columns(env: Env<'_>, terminal: bool, size: Option<usize>) -> Option<usize> {
    let of = |name: &str| env(name)?.trim().parse::<usize>().ok().filter(|n| *n > 0);
    if let Some(columns) = of("SYSTEMD_COLUMNS") {
        return Some(columns);
    }
    match terminal {
        true => of("COLUMNS").or(size.filter(|n| *n > 0)).or(Some(80)),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |name| {
            pairs
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        }
    }

    #[test]
    fn colours_as_systemd_decides_them() {
        assert!(colour(&env(&[("TERM", "xterm")]), true));
        assert!(!colour(&env(&[("TERM", "xterm")]), false));
        assert!(!colour(&env(&[("TERM", "dumb")]), true));
        assert!(!colour(&env(&[]), true));
        assert!(!colour(&env(&[("TERM", "xterm"), ("NO_COLOR", "1")]), true));
        assert!(colour(
            &env(&[("SYSTEMD_COLORS", "1"), ("NO_COLOR", "1")]),
            false
        ));
        assert!(colour(&env(&[("SYSTEMD_COLORS", "256")]), false));
        assert!(!colour(
            &env(&[("SYSTEMD_COLORS", "no"), ("TERM", "xterm")]),
            true
        ));
        assert!(colour(
            &env(&[("SYSTEMD_COLORS", "what"), ("TERM", "xterm")]),
            true
        ));
    }

    #[test]
    fn terminals_have_a_width() {
        assert_eq!(columns(&env(&[]), true, Some(123)), Some(123));
        assert_eq!(
            columns(&env(&[("COLUMNS", "60")]), true, Some(123)),
            Some(60)
        );
        assert_eq!(columns(&env(&[("COLUMNS", "x")]), true, None), Some(80));
        assert_eq!(columns(&env(&[("COLUMNS", "60")]), false, None), None);
        assert_eq!(
            columns(&env(&[("SYSTEMD_COLUMNS", "60")]), false, None),
            Some(60)
        );
    }
}
