//! Tables for people: columns below each other, within the width of the terminal.

use super::text::{clean, cut, width};

/// Columns between columns.
const GAP: usize = 2;

/// One column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Columns with a lower number give way first, down to `least`; those with the highest never do.
    pub(super) gives: u8,
    pub(super) least: usize,
    /// Numbers stand at the right.
    pub(super) right: bool,
}

impl Column {
    /// One that never gives way.
    pub(super) const fn stiff(title: &'static str) -> Self {
        Self {
            title,
            gives: u8::MAX,
            least: 1,
            right: false,
        }
    }

    /// One that gives way.
    pub(super) const fn soft(title: &'static str, gives: u8, least: usize) -> Self {
        Self {
            title,
            gives,
            least,
            right: false,
        }
    }

    /// A number.
    pub(super) const fn number(title: &'static str) -> Self {
        Self {
            title,
            gives: u8::MAX,
            least: 1,
            right: true,
        }
    }
}

/// What a text means, shown in colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Style {
    #[default]
    Plain,
    Good,
    Notice,
    Bad,
    Faint,
    Bold,
    Head,
}

impl Style {
    /// The text in its colour, if there are colours.
    pub(super) fn paint(self, text: &str, colour: bool) -> String {
        let code = match self {
            Self::Plain => return text.to_owned(),
            _ if !colour || text.is_empty() => return text.to_owned(),
            Self::Good => "0;1;32",
            Self::Notice => "0;1;33",
            Self::Bad => "0;1;31",
            Self::Faint => "0;90",
            Self::Bold => "0;1",
            Self::Head => "0;4",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// One cell. Its text is made harmless.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(super) fn new(text: impl AsRef<str>) -> Self {
        Self::styled(text, Style::Plain)
    }

    pub(super) fn styled(text: impl AsRef<str>, style: Style) -> Self {
        Self {
            text: clean(text.as_ref()),
            style,
        }
    }

    /// `-` where there is nothing.
    pub(super) fn or_dash(text: impl AsRef<str>) -> Self {
        match text.as_ref() {
            "" => Self::styled("-", Style::Faint),
            text => Self::new(text),
        }
    }
}

/// How a table is shown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Look {
    /// Columns there are; `None` = as many as it takes.
    pub(super) width: Option<usize>,
    pub(super) colour: bool,
    /// With headings.
    pub(super) legend: bool,
}

/// The table, a line for each row. No line is wider than the terminal.
pub(super) fn table(columns: &[Column], rows: &[Vec<Cell>], look: Look) -> String {
    let mut widths: Vec<usize> = columns
        .iter()
        .map(|c| if look.legend { width(c.title) } else { 1 })
        .collect();
    for row in rows {
        for (at, cell) in row.iter().enumerate().take(widths.len()) {
            widths[at] = widths[at].max(width(&cell.text));
        }
    }
    if let Some(most) = look.width {
        fit(columns, &mut widths, most);
    }
    let head: Vec<Cell> = columns
        .iter()
        .map(|c| Cell::styled(c.title, Style::Head))
        .collect();
    let mut out = String::new();
    for row in look.legend.then_some(&head).into_iter().chain(rows) {
        out.push_str(line(columns, row, &widths, look).trim_end());
        out.push('\n');
    }
    out
}

fn line(columns: &[Column], row: &[Cell], widths: &[usize], look: Look) -> String {
    let (mut out, mut used) = (String::new(), 0);
    for (at, cell) in row.iter().enumerate().take(widths.len()) {
        let left = look
            .width
            .map_or(usize::MAX, |most| most.saturating_sub(used));
        if left == 0 {
            break;
        }
        let text = match look.width {
            Some(_) => cut(&cell.text, widths[at].min(left)),
            None => cell.text.clone(),
        };
        let pad = widths[at]
            .saturating_sub(width(&text))
            .min(left - width(&text).min(left));
        let painted = cell.style.paint(&text, look.colour);
        if columns[at].right {
            out.extend([" ".repeat(pad), painted]);
        } else {
            out.push_str(&painted);
            if at + 1 < row.len() {
                out.push_str(&" ".repeat(pad));
            }
        }
        used += width(&text) + pad;
        if at + 1 < row.len() {
            let gap = look
                .width
                .map_or(GAP, |most| GAP.min(most.saturating_sub(used)));
            out.push_str(&" ".repeat(gap));
            used += gap;
        }
    }
    out
}

/// Makes columns narrower until they fit: those first that are to give way first, of those the
/// widest. Where that is not enough, lines are cut.
fn fit(columns: &[Column], widths: &mut [usize], most: usize) {
    let room = most.saturating_sub(GAP * widths.len().saturating_sub(1));
    for w in widths.iter_mut() {
        *w = (*w).min(most);
    }
    let mut turns: Vec<u8> = columns.iter().map(|c| c.gives).collect();
    turns.sort_unstable();
    turns.dedup();
    for turn in turns.into_iter().filter(|turn| *turn != u8::MAX) {
        while widths.iter().sum::<usize>() > room {
            let softest = (0..widths.len())
                .filter(|at| columns[*at].gives <= turn && widths[*at] > columns[*at].least)
                .max_by_key(|at| widths[*at]);
            match softest {
                Some(at) => widths[at] -= 1,
                None => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TWO: [Column; 2] = [Column::stiff("ID"), Column::soft("COMMAND", 1, 8)];

    fn rows(cells: &[&[&str]]) -> Vec<Vec<Cell>> {
        cells
            .iter()
            .map(|r| r.iter().map(Cell::new).collect())
            .collect()
    }

    fn look(width: Option<usize>) -> Look {
        Look {
            width,
            colour: false,
            legend: true,
        }
    }

    #[test]
    fn columns_stand_below_each_other() {
        let text = table(
            &TWO,
            &rows(&[&["ä1", "x"], &["long-one", "y z"], &["日本", "z"]]),
            look(None),
        );
        assert_eq!(
            text,
            "ID        COMMAND\nä1        x\nlong-one  y z\n日本      z\n"
        );
        let bare = Look {
            legend: false,
            ..look(None)
        };
        assert_eq!(table(&TWO, &rows(&[&["1", "x"]]), bare), "1  x\n");
        let right = [Column::number("CPU"), Column::stiff("ID")];
        assert_eq!(
            table(&right, &rows(&[&["7", "x"]]), look(None)),
            "CPU  ID\n  7  x\n"
        );
    }

    #[test]
    fn the_softest_gives_way_first() {
        let long = "x".repeat(99);
        let text = table(&TWO, &rows(&[&["0193c1d2", &long]]), look(Some(30)));
        assert_eq!(text.lines().nth(1), Some("0193c1d2  xxxxxxxxxxxxxxxxxxx…"));
        let text = table(&TWO, &rows(&[&["0193c1d2", &long]]), look(Some(12)));
        assert!(text.lines().all(|l| width(l) <= 12), "{text}");
        // Without a terminal nothing gives way.
        assert!(table(&TWO, &rows(&[&["1", &long]]), look(None)).contains(&long));
    }

    #[test]
    fn colours_take_no_room() {
        let row = vec![
            Cell::styled("1", Style::Bad),
            Cell::styled("x\x1b[2J", Style::Good),
        ];
        let text = table(
            &TWO,
            &[row],
            Look {
                colour: true,
                ..look(Some(40))
            },
        );
        assert!(
            text.contains("\x1b[0;1;31m1\x1b[0m   \x1b[0;1;32mx\u{fffd}[2J\x1b[0m"),
            "{text:?}"
        );
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_terminal(
            cells in proptest::collection::vec(proptest::collection::vec(any::<String>(), 4), 0..6),
            most in 1usize..120,
            colour: bool,
        ) {
            let columns = [Column::stiff("ID"), Column::soft("NAME", 2, 6), Column::number("CPU"), Column::soft("COMMAND", 1, 12)];
            let rows: Vec<Vec<Cell>> = cells.iter().map(|r| r.iter().map(Cell::new).collect()).collect();
            let plain = table(&columns, &rows, Look { width: Some(most), colour: false, legend: true });
            prop_assert_eq!(plain.lines().count(), rows.len() + 1);
            for line in plain.lines() {
                prop_assert!(width(line) <= most, "{} > {most}: {line:?}", width(line));
            }
            let painted = table(&columns, &rows, Look { width: Some(most), colour, legend: true });
            prop_assert_eq!(painted.lines().count(), rows.len() + 1);
        }
    }
}
