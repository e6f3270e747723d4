//! Words for a terminal: tables, amounts, colours. Made to be read in 80 columns.

use std::fmt::Write as _;

/// Colours, where the reader is a person at a terminal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Palette {
    pub(crate) colours: bool,
}

impl Palette {
    pub(crate) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(crate) fn note(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub(crate) fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Rows under each other, the first of them the head, each column as wide as it must be; words to the left, numbers to
/// the right.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut out = String::new();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let numbers: [bool; N] = std::array::from_fn(|column| {
        rows.get(1).is_some_and(|row| row[column].starts_with(|c: char| c.is_ascii_digit()))
    });
    for row in rows {
        let cells = row.iter().zip(widths).zip(numbers).map(|((cell, width), number)| {
            if number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    out
}

pub(crate) fn size(bytes: f64) -> String {
    let mut value = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

pub(crate) fn age(seconds: f64) -> String {
    match seconds as u64 {
        0..=119 => format!("{seconds:.0} s"),
        120..=7199 => format!("{:.0} min", seconds / 60.0),
        7200..=172_799 => format!("{:.0} h", seconds / 3600.0),
        _ => format!("{:.0} d", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_straight_columns() {
        let rows = [["A", "N"], ["long", "5"], ["b", "1000"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "A        N\nlong     5\nb     1000\n");
    }

    #[test]
    fn amounts_are_short() {
        assert_eq!([0.0, 1023.0, 1536.0, 5e12].map(size), ["0 B", "1023 B", "1.5 KiB", "4.5 TiB"]);
        assert_eq!([1.0, 600.0, 7200.0, 864_000.0].map(age), ["1 s", "10 min", "2 h", "10 d"]);
    }
}
