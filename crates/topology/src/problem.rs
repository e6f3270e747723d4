//! What is wrong with a file, and where; how it prints.

use std::fmt;
use std::ops::Range;

/// Whether a file with this problem can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken, though it hardly means what its author wanted.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing that is wrong in one place of one file.
///
/// It prints as `file:line:column: error: message`, the source line with a mark under the column, and the
/// hint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// The file as the caller named it.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Whether the file is refused for it.
    pub severity: Severity,
    /// The text of the line.
    pub source_line: String,
}

impl Problem {
    /// Places a problem at `span`, in bytes of `text`. A span past the end means the end.
    pub(crate) fn at(
        file: &str,
        text: &str,
        span: Range<usize>,
        severity: Severity,
        message: String,
    ) -> Self {
        let (mut line, mut rest, mut left) = (1, text, span.start.min(text.len()));
        while let Some(end) = rest.find('\n').filter(|end| *end < left) {
            (line, rest, left) = (line + 1, &rest[end + 1..], left - end - 1);
        }
        let source_line = rest.lines().next().unwrap_or_default();
        Self {
            file: file.to_owned(),
            line,
            column: 1 + rest.char_indices().take_while(|(at, _)| *at < left).count(),
            message,
            hint: None,
            severity,
            source_line: source_line.to_owned(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, message, severity, source_line, .. } = self;
        writeln!(f, "{file}:{line}:{column}: {severity}: {message}")?;
        writeln!(f, "   | {source_line}")?;
        // Tabs stay tabs, so that the mark stands under its character whatever a tab is worth.
        let indent = source_line.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' });
        write!(f, "   | {}^", indent.collect::<String>())?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\n  hint: {hint}"))
    }
}

/// A hint that offers the known word nearest to `wrong`, or else all of them; none when there is no word.
pub(crate) fn did_you_mean<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    let nearest = known.iter().map(|word| (distance(wrong, word), word)).min_by_key(|(far, _)| *far);
    match nearest {
        Some((far, word)) if far <= 1 + word.chars().count() / 4 => Some(format!("did you mean {word:?}?")),
        Some(_) => Some(format!("known here: {}", known.join(", "))),
        None => None,
    }
}

/// Insertions, removals and changes of one character that turn `a` into `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_prints_its_place() {
        let text = "a = 1\n\tné = true\n";
        let at = text.find("true").unwrap();
        let mut problem = Problem::at("x.toml", text, at..at + 4, Severity::Error, "no".into());
        problem.hint = Some("yes".into());
        assert_eq!(
            problem.to_string(),
            "x.toml:2:7: error: no\n   | \tné = true\n   | \t     ^\n  hint: yes"
        );
    }

    #[test]
    fn the_place_is_right_at_every_edge() {
        let place = |text: &str, at: usize| {
            let problem = Problem::at("", text, at..at, Severity::Warning, String::new());
            (problem.line, problem.column, problem.source_line)
        };
        assert_eq!(place("", 0), (1, 1, String::new()));
        assert_eq!(place("ab\ncd\n", 2), (1, 3, "ab".into()));
        assert_eq!(place("ab\ncd\n", 3), (2, 1, "cd".into()));
        assert_eq!(place("ab\r\ncd", 5), (2, 2, "cd".into()));
        assert_eq!(place("ab\ncd\n", 99), (3, 1, String::new()));
    }

    #[test]
    fn near_words_are_offered() {
        assert_eq!(did_you_mean("qouta", ["quota", "id"]).as_deref(), Some("did you mean \"quota\"?"));
        assert_eq!(did_you_mean("zebra", ["quota", "id"]).as_deref(), Some("known here: quota, id"));
        assert_eq!(did_you_mean("x", []), None);
    }
}
