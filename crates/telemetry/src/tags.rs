//! Events and bytes per tag, for as many tags as the operator pays for.
//!
//! A table of our own, because a series of the exporter costs 350 bytes and five times the increment, and
//! because a cap needs an "other" row. A tag keeps its row until the process ends: giving rows away to newer
//! tags would make the number of series that Prometheus sees unbounded after all.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::metric::Entry;
use crate::names;

/// The tag under which everything beyond the cap is counted.
pub const OTHER_TAG: &str = "__other__";

/// Rows of a table unless the operator says otherwise.
pub const TAGS_MAX_DEFAULT: usize = 1000;

/// Where a table counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Taken in by an edge.
    In,
    /// Confirmed by a store.
    Stored,
}

impl Direction {
    fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Stored => "stored",
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    events: AtomicU64,
    bytes: AtomicU64,
}

/// The row of one tag (or the "other" row). Cheap to clone and to count with; keep it beside the tag's route.
#[derive(Debug, Clone)]
pub struct TagCounter(Arc<Counts>);

impl TagCounter {
    /// Counts `events` events of `bytes` bytes together.
    pub fn add(&self, events: u64, bytes: u64) {
        self.0.events.fetch_add(events, Ordering::Relaxed);
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Events and bytes per tag, up to a number of tags. Clones are handles to the same table.
#[derive(Debug, Clone)]
pub struct TagTable(Arc<Table>);

#[derive(Debug)]
struct Table {
    direction: Direction,
    tags_max: usize,
    rows: Mutex<HashMap<Arc<str>, TagCounter>>,
    other: TagCounter,
    overflows: AtomicU64,
}

impl TagTable {
    /// An empty table of up to `tags_max` tags; further ones share the row [`OTHER_TAG`].
    #[must_use]
    pub fn new(direction: Direction, tags_max: usize) -> Self {
        Self(Arc::new(Table {
            direction,
            tags_max,
            rows: Mutex::default(),
            other: TagCounter(Arc::default()),
            overflows: AtomicU64::new(0),
        }))
    }

    /// The row of `tag`, or the "other" row when the table is full. Takes a lock: call it once per tag and keep
    /// the handle.
    #[must_use]
    pub fn counter(&self, tag: &str) -> TagCounter {
        let mut rows = self.0.rows.lock();
        if let Some(row) = rows.get(tag) {
            return row.clone();
        }
        if tag == OTHER_TAG {
            return self.0.other.clone();
        }
        if rows.len() >= self.0.tags_max {
            self.0.overflows.fetch_add(1, Ordering::Relaxed);
            return self.0.other.clone();
        }
        rows.entry(tag.into()).or_insert_with(|| TagCounter(Arc::default())).clone()
    }

    /// The rows, by tag, "other" last.
    fn rows(&self) -> Vec<(Arc<str>, TagCounter)> {
        let mut rows: Vec<_> =
            self.0.rows.lock().iter().map(|(tag, row)| (tag.clone(), row.clone())).collect();
        rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        rows.push((OTHER_TAG.into(), self.0.other.clone()));
        rows
    }
}

/// Writes the per-tag families of all `tables` in the exposition format.
pub(crate) fn render(tables: &[TagTable], out: &mut String) {
    if tables.is_empty() {
        return;
    }
    let rows: Vec<_> = tables.iter().map(|table| (table.0.direction.as_str(), table.rows())).collect();
    let mut family = |entry: &Entry, count: fn(&Counts) -> &AtomicU64| {
        write_head(entry, out);
        for (direction, rows) in &rows {
            for (tag, row) in rows {
                write_sample(entry, &[tag, direction], count(&row.0).load(Ordering::Relaxed), out);
            }
        }
    };
    family(names::TAG_EVENTS_TOTAL.entry(), |counts| &counts.events);
    family(names::TAG_BYTES_TOTAL.entry(), |counts| &counts.bytes);
    let entry = names::TAG_OVERFLOW_TOTAL.entry();
    write_head(entry, out);
    for table in tables {
        let overflows = table.0.overflows.load(Ordering::Relaxed);
        write_sample(entry, &[table.0.direction.as_str()], overflows, out);
    }
}

/// Writes the two comment lines of a family.
pub(crate) fn write_head(entry: &Entry, out: &mut String) {
    // Help texts are ours, of one line, and without backslashes: nothing to escape. A String takes all.
    let _ = writeln!(out, "# HELP {0} {1}\n# TYPE {0} {2}", entry.name, entry.help, entry.kind.as_str());
}

/// Writes one sample.
pub(crate) fn write_sample(entry: &Entry, values: &[&str], value: u64, out: &mut String) {
    out.push_str(entry.name);
    for (position, (label, text)) in entry.labels.iter().zip(values).enumerate() {
        out.push(if position == 0 { '{' } else { ',' });
        out.push_str(label);
        out.push_str("=\"");
        escape(text, out);
        out.push('"');
    }
    if !values.is_empty() {
        out.push('}');
    }
    let _ = writeln!(out, " {value}");
}

/// Label values may hold any text; these three characters need a backslash (Prometheus text format 0.0.4).
fn escape(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(table: &TagTable) -> String {
        let mut out = String::new();
        render(std::slice::from_ref(table), &mut out);
        out
    }

    #[test]
    fn tags_are_counted_apart_up_to_the_cap() {
        let table = TagTable::new(Direction::In, 2);
        let first = table.counter("app.web");
        first.add(3, 300);
        table.counter("app.db").add(1, 10);
        table.counter("late").add(5, 50);
        table.counter("later").add(1, 1);
        // Known tags keep their row, however full the table is.
        table.counter("app.web").add(1, 100);
        first.add(1, 1);
        let text = text(&table);
        for line in [
            r#"weir_tag_events_total{tag="app.web",direction="in"} 5"#,
            r#"weir_tag_bytes_total{tag="app.web",direction="in"} 401"#,
            r#"weir_tag_events_total{tag="app.db",direction="in"} 1"#,
            r#"weir_tag_events_total{tag="__other__",direction="in"} 6"#,
            r#"weir_tag_bytes_total{tag="__other__",direction="in"} 51"#,
            r#"weir_tag_overflow_total{direction="in"} 2"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("late"), "{text}");
    }

    #[test]
    fn a_tag_named_like_the_other_row_makes_no_second_one() {
        let table = TagTable::new(Direction::Stored, 5);
        table.counter(OTHER_TAG).add(2, 2);
        assert_eq!(text(&table).matches(r#"weir_tag_events_total{tag="__other__""#).count(), 1);
        assert!(text(&table).contains(r#"weir_tag_events_total{tag="__other__",direction="stored"} 2"#));
    }

    #[test]
    fn hostile_tags_cannot_forge_lines() {
        let table = TagTable::new(Direction::In, 5);
        table.counter("a\"} 1\nforged{b=\"\\").add(1, 1);
        let text = text(&table);
        assert!(text.contains(r#"{tag="a\"} 1\nforged{b=\"\\",direction="in"} 1"#), "{text}");
        assert!(text.lines().all(|line| !line.starts_with("forged")));
    }

    proptest! {
        #[test]
        fn escaping_can_be_undone(tag in any::<String>()) {
            let mut escaped = String::new();
            escape(&tag, &mut escaped);
            prop_assert!(!escaped.contains('\n'));
            let (mut back, mut characters) = (String::new(), escaped.chars());
            while let Some(character) = characters.next() {
                prop_assert_ne!(character, '"', "a bare quote ends the value");
                back.push(match character {
                    '\\' => match characters.next() {
                        Some('n') => '\n',
                        Some(escaped @ ('\\' | '"')) => escaped,
                        other => return Err(TestCaseError::fail(format!("unknown escape {other:?}"))),
                    },
                    plain => plain,
                });
            }
            prop_assert_eq!(back, tag);
        }
    }
}
