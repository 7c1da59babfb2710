//! `top`: what runners use just now, again and again.

use super::args::{Format, Order, Top};
use super::client::{Client, dict, number, text, texts};
use super::failure::{FAILED, Failure, Result, USAGE};
use super::keyboard::{Keyboard, Wake};
use super::list::{digits, state_style};
use super::names::Names;
use super::out::Out;
use super::table::{Cell, Column, Look, Style, table};
use super::text::{clean, command, cut};
use super::{Global, bus, json, render};
use crate::api::proxy::{Dict, Given};
use crate::domain::units::{self, INFINITY};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What a live runner uses is known anew every half second.
const DELAY_MIN: Duration = Duration::from_secs(1);
/// Below a frame on a terminal.
const KEYS: &str = "By c CPU, m memory, t tasks, i IO. The space bar looks at once, q quits.";
/// From so many columns on, there are columns for how much was read and written.
const WIDE: usize = 110;

/// A runner and what it has used since the look before.
#[derive(Debug)]
struct Row {
    runner: Dict,
    /// Of one CPU; `None` = not known yet.
    percent: Option<u64>,
    memory: Option<u64>,
    tasks: Option<u64>,
    /// Bytes read and written per second.
    io: Option<u64>,
}

/// What the look before has shown: CPU and bytes.
#[derive(Debug, Default)]
struct Before(HashMap<String, (Instant, u64, Option<u64>)>);

impl Before {
    /// The rows of a look.
    fn rows(&mut self, runners: Vec<Dict>, at: Instant) -> Vec<Row> {
        let mut now = HashMap::new();
        let row = |runner: Dict| {
            let usage = dict(&runner, "usage");
            let cpu = number(&usage, "cpu_usec");
            let bytes = match (
                number(&usage, "io_read_bytes"),
                number(&usage, "io_write_bytes"),
            ) {
                (None, None) => None,
                (read, written) => Some(read.unwrap_or_default() + written.unwrap_or_default()),
            };
            let id = text(&runner, "id").to_owned();
            let (mut percent, mut io) = (None, None);
            if let (Some(cpu), Some((since, old, old_bytes))) = (cpu, self.0.get(&id)) {
                let passed = at.duration_since(*since).as_micros().max(1);
                let rate = |more: u64, factor: u128| {
                    u64::try_from(u128::from(more) * factor / passed).ok()
                };
                percent = rate(cpu.saturating_sub(*old), 100);
                io = bytes
                    .zip(*old_bytes)
                    .and_then(|(b, old)| rate(b.saturating_sub(old), 1_000_000));
            }
            if let Some(cpu) = cpu {
                now.insert(id, (at, cpu, bytes));
            }
            Row {
                percent,
                memory: number(&usage, "memory_bytes").or(number(&usage, "memory_peak_bytes")),
                tasks: number(&usage, "tasks").or(number(&usage, "tasks_peak")),
                io,
                runner,
            }
        };
        let rows = runners.into_iter().map(row).collect();
        self.0 = now;
        rows
    }
}

/// The busiest first; of equals the newest.
fn sort(rows: &mut [Row], order: Order) {
    let key = |row: &Row| match order {
        Order::Cpu => row.percent,
        Order::Memory => row.memory,
        Order::Tasks => row.tasks,
        Order::Io => row.io,
    };
    rows.sort_by(|a, b| {
        let equal = || text(&b.runner, "id").cmp(text(&a.runner, "id"));
        key(b).cmp(&key(a)).then_with(equal)
    });
}

/// Shows what runners use.
pub(super) async fn top(client: &Client, global: &Global, args: &Top) -> Result<u8> {
    let out = Out::new(global);
    let delay = check(global, args)?;
    let terminal = !args.batch && !out.is_json() && out.can_redraw();
    // As systemd-cgtop has it: for ever on a terminal, once elsewhere.
    let mut left = args.iterations.or((!terminal && !args.batch).then_some(1));
    let mut keyboard = Keyboard::new(terminal)?;
    let (mut order, mut before) = (args.order, Before::default());
    let mut told: Option<String> = None;
    // A daemon that does not answer keeps nobody here.
    let (mut rows, mut note) = tokio::select! {
        biased;
        () = keyboard.quit() => return Ok(0),
        found = look(client, args, &mut before) => found?,
    };
    if rows.is_empty() && note.is_none() {
        client.why_nothing(args.project.as_deref(), &[]).await?;
    }
    // What has been used meanwhile is known after two looks.
    let mut wake = keyboard.wait(DELAY_MIN.min(delay)).await;
    loop {
        match wake {
            Wake::Quit => return Ok(0),
            Wake::Key('q') => return Ok(0),
            Wake::Key('c') => order = Order::Cpu,
            Wake::Key('m') => order = Order::Memory,
            Wake::Key('t') => order = Order::Tasks,
            Wake::Key('i') => order = Order::Io,
            Wake::Key(' ') | Wake::Time => {
                (rows, note) = tokio::select! {
                    biased;
                    () = keyboard.quit() => return Ok(0),
                    found = look(client, args, &mut before) => found?,
                };
                left = left.map(|n| n.saturating_sub(1));
            }
            Wake::Key(_) | Wake::Size => {}
        }
        sort(&mut rows, order);
        if terminal {
            // The terminal may have another size by now.
            let out = Out::new(global);
            let height = out.height().saturating_sub(1);
            let frame = frame(&rows, order, note.as_deref(), out.look, height);
            let keys = cut(KEYS, out.look.width.unwrap_or(usize::MAX));
            let keys = out.paint(Style::Faint, &keys);
            out.text(&screen(&format!("{frame}{keys}\n")))?;
        } else {
            match &note {
                // Nothing is known, which is not that nothing lives. It is said once, however often is looked.
                Some(why) if told.as_ref() != Some(why) => super::note(&clean(why)),
                Some(_) => {}
                None => print(&out, global, &rows, order, left != Some(0))?,
            }
            told.clone_from(&note);
        }
        if left == Some(0) {
            return Ok(if note.is_some() { FAILED } else { 0 });
        }
        wake = keyboard.wait(delay).await;
    }
}

/// The time between two looks.
pub(super) fn check(global: &Global, args: &Top) -> Result<Duration> {
    let many = args.iterations.map_or(args.batch, |n| n != 1);
    if global.output == Format::Json && many {
        return Err(Failure::new(
            USAGE,
            "-o json is one document, and this would be several; use -o jsonl, one object a line.",
        ));
    }
    delay(&args.delay)
}

fn delay(text: &str) -> Result<Duration> {
    let span = units::parse_finite_span(text)
        .map_err(|e| Failure::new(USAGE, format!("--delay: {}", e.message)))?;
    let delay = Duration::from_micros(span);
    match delay >= DELAY_MIN {
        true => Ok(delay),
        false => Err(Failure::new(
            USAGE,
            format!("--delay={}: at least 1s is allowed.", clean(text)),
        )),
    }
}

/// One look at the live runners. While the daemon is away nothing is known, and why is said.
async fn look(
    client: &Client,
    args: &Top,
    before: &mut Before,
) -> Result<(Vec<Row>, Option<String>)> {
    let mut filter = Given::from([("usage", true.into())]);
    if let Some(project) = &args.project {
        filter.insert("project", project.clone().into());
    }
    if let Some(host) = &args.on {
        filter.insert("host", host.clone().into());
    }
    match client.runners(filter, None).await {
        Ok(mut runners) => {
            let at = Instant::now();
            Names::of(client).await.put(&mut runners);
            Ok((before.rows(runners, at), None))
        }
        Err(failure) if failure.passes() => Ok((Vec::new(), Some(failure.message))),
        Err(failure) if failure.is_lost() => {
            client.reconnect().await?;
            Ok((Vec::new(), Some(failure.message)))
        }
        Err(failure) => Err(failure),
    }
}

fn print(out: &Out, global: &Global, rows: &[Row], order: Order, more: bool) -> Result<()> {
    if out.is_json() {
        let value = |row: &Row| {
            let mut value = json::runner(&row.runner);
            value["cpu_percent"] = row.percent.into();
            value["memory_bytes"] = row.memory.into();
            value["tasks"] = row.tasks.into();
            value["io_bytes_per_second"] = row.io.into();
            value
        };
        return out.objects(rows.iter().map(value).collect());
    }
    if global.quiet {
        return out.text(
            &rows
                .iter()
                .map(|r| format!("{}\n", text(&r.runner, "id")))
                .collect::<String>(),
        );
    }
    let blank = if more { "\n" } else { "" };
    out.text(&format!(
        "{}{blank}",
        frame(rows, order, None, out.look, usize::MAX)
    ))
}

/// What is seen at a time: at most so many lines.
fn frame(rows: &[Row], order: Order, note: Option<&str>, look: Look, height: usize) -> String {
    let wide = look.width.is_none_or(|w| w >= WIDE);
    let shown = &rows[..rows.len().min(height.saturating_sub(2))];
    let runners: Vec<&Dict> = shown.iter().map(|r| &r.runner).collect();
    let digits = digits(&runners);
    let title = |order_of: Order, title: &'static str, marked: &'static str| {
        if order == order_of { marked } else { title }
    };
    let mut head = vec![
        Column::stiff("ID"),
        Column::soft("NAME", 2, 6),
        Column::soft("PROJECT", 2, 6),
        Column::soft("USER", 2, 6),
        Column::stiff("STATE"),
        Column::number(title(Order::Cpu, "CPU", "CPU↓")),
        Column::number(title(Order::Memory, "MEMORY", "MEMORY↓")),
        Column::number("OF"),
        Column::number(title(Order::Tasks, "TASKS", "TASKS↓")),
    ];
    let hosts = runners.iter().any(|r| r.contains_key("host_name"));
    if hosts {
        head.insert(4, Column::soft("HOST", 2, 6));
    }
    if wide || order == Order::Io {
        head.push(Column::number(title(Order::Io, "IO/S", "IO/S↓")));
    }
    head.push(Column::soft("COMMAND", 1, 8));
    let cells: Vec<Vec<Cell>> = shown
        .iter()
        .map(|row| cells(row, digits, hosts, wide || order == Order::Io))
        .collect();
    let mut out = String::new();
    if look.legend {
        let line = cut(&summary(rows, note), look.width.unwrap_or(usize::MAX));
        out = format!("{line}\n");
    }
    out + &table(&head, &cells, look)
}

/// `12:00:00, 3 live runners: CPU 120%, memory 1.5G.`
fn summary(rows: &[Row], note: Option<&str>) -> String {
    if let Some(note) = note {
        return bus::advice(&clean(note));
    }
    let s = if rows.len() == 1 { "" } else { "s" };
    let cpu: u64 = rows.iter().filter_map(|r| r.percent).sum();
    let known = rows.iter().filter_map(|r| r.memory);
    let memory = match known.clone().count() {
        0 => String::new(),
        _ => format!(
            ", memory {}",
            units::show_size(known.fold(0, u64::saturating_add))
        ),
    };
    format!(
        "{}, {} live runner{s}: CPU {cpu}%{memory}.",
        render::clock(),
        rows.len()
    )
}

fn cells(row: &Row, digits: usize, hosts: bool, io: bool) -> Vec<Cell> {
    let of = |key| text(&row.runner, key);
    let size = |n: Option<u64>| n.map(units::show_size).unwrap_or_default();
    let percent = match row.percent {
        Some(n @ 100..) => Cell::styled(format!("{n}%"), Style::Notice),
        Some(n) => Cell::new(format!("{n}%")),
        None => Cell::or_dash(""),
    };
    let max = number(&dict(&row.runner, "limits"), "memory-max").filter(|n| *n != INFINITY);
    let memory = match (row.memory, max) {
        (Some(used), Some(max)) if used >= max / 10 * 9 => {
            Cell::styled(units::show_size(used), Style::Bad)
        }
        (used, _) => Cell::or_dash(size(used)),
    };
    let id: String = of("id").chars().take(digits).collect();
    let mut cells = vec![
        Cell::new(id),
        Cell::or_dash(of("name")),
        Cell::new(of("project")),
        Cell::new(of("user")),
        Cell::styled(of("state"), state_style(of("state"))),
        percent,
        memory,
        Cell::or_dash(size(max)),
        Cell::or_dash(row.tasks.map(|n| n.to_string()).unwrap_or_default()),
    ];
    if hosts {
        cells.insert(4, Cell::or_dash(of("host_name")));
    }
    if io {
        cells.push(Cell::or_dash(size(row.io)));
    }
    cells.push(match texts(&row.runner, "command") {
        Some(words) => Cell::new(command(&words)),
        None => Cell::styled("(not yours)", Style::Faint),
    });
    cells
}

/// A frame over the one before, without flicker.
fn screen(frame: &str) -> String {
    let lines: Vec<String> = frame.lines().map(|line| format!("{line}\x1b[K")).collect();
    format!("\x1b[H{}\x1b[J", lines.join("\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::wire::Str;
    use zbus::{OwnedVariant, Variant};

    fn runner(id: &str, cpu: u64, memory: u64) -> Dict {
        let s = |t: &str| -> OwnedVariant { Str::from(t.to_owned()).into() };
        let usage = Dict::from([
            ("cpu_usec".to_owned(), cpu.into()),
            ("memory_bytes".to_owned(), memory.into()),
            ("io_read_bytes".to_owned(), (cpu * 2).into()),
        ]);
        let mut of = Dict::from([("id".to_owned(), s(id)), ("state".to_owned(), s("running"))]);
        if let Ok(usage) = Variant::from(usage).try_into_owned() {
            of.insert("usage".to_owned(), usage);
        }
        of
    }

    fn ids(rows: &[Row]) -> Vec<&str> {
        rows.iter().map(|r| text(&r.runner, "id")).collect()
    }

    #[test]
    fn rates_are_between_two_looks() {
        let (mut before, begun) = (Before::default(), Instant::now());
        let rows = before.rows(vec![runner("a", 1_000_000, 5)], begun);
        assert_eq!((rows[0].percent, rows[0].memory), (None, Some(5)));
        let later = begun + Duration::from_secs(2);
        let mut rows = before.rows(vec![runner("a", 2_000_000, 5), runner("b", 9, 7)], later);
        assert_eq!(rows[0].percent, Some(50));
        assert_eq!(rows[0].io, Some(1_000_000));
        assert_eq!(rows[1].percent, None);
        sort(&mut rows, Order::Cpu);
        assert_eq!(ids(&rows), ["a", "b"]);
        sort(&mut rows, Order::Memory);
        assert_eq!(ids(&rows), ["b", "a"]);
        // Who has gone is forgotten.
        before.rows(vec![], later);
        assert!(before.0.is_empty());
    }

    #[test]
    fn frames_fit_the_screen() {
        let many: Vec<Dict> = (0..50)
            .map(|n| runner(&format!("0193c1d2-{n:028}"), n, n))
            .collect();
        let rows = Before::default().rows(many, Instant::now());
        for (width, height) in [(20, 3), (80, 24), (200, 60)] {
            let look = Look {
                width: Some(width),
                colour: false,
                legend: true,
            };
            let frame = frame(&rows, Order::Cpu, None, look, height);
            assert!(frame.lines().count() <= height, "{frame}");
            assert!(
                frame.lines().all(|l| super::super::text::width(l) <= width),
                "{frame}"
            );
        }
        assert!(screen("a\nb\n").ends_with("b\x1b[K\x1b[J"));
    }

    #[test]
    fn delays_are_bounded() {
        assert_eq!(delay("3").ok(), Some(Duration::from_secs(3)));
        assert_eq!(delay("1500ms").ok(), Some(Duration::from_millis(1500)));
        assert!(delay("100ms").is_err() && delay("infinity").is_err() && delay("x").is_err());
    }
}
