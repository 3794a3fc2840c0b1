//! The text of an expression, places in it, and what is wrong there.

use std::fmt;

/// The most code points of an expression.
pub const CODE_POINTS_MAX: usize = 100_000;
/// The most issues that are told; the rest is only counted.
const ISSUES_MAX: usize = 100;
/// The longest line that is shown beside an issue.
const SNIPPET_BYTES_MAX: usize = 16_384;

/// A place: a line from one, a column from zero; both -1 for no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub line: i32,
    pub column: i32,
}

impl Place {
    pub(crate) const NONE: Self = Self {
        line: -1,
        column: -1,
    };
}

/// An expression's text by code points.
#[derive(Debug)]
pub(crate) struct Source {
    pub chars: Vec<char>,
    /// Where each line after the first begins.
    line_starts: Vec<usize>,
}

impl Source {
    pub(crate) fn new(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let line_starts = chars
            .iter()
            .enumerate()
            .filter(|(_, c)| **c == '\n')
            .map(|(i, _)| i + 1)
            .collect();
        Self { chars, line_starts }
    }

    pub(crate) fn place(&self, offset: usize) -> Place {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = if line == 0 {
            0
        } else {
            self.line_starts[line - 1]
        };
        Place {
            line: i32::try_from(line + 1).unwrap_or(i32::MAX),
            column: i32::try_from(offset - start).unwrap_or(i32::MAX),
        }
    }

    pub(crate) fn text(&self, start: usize, end: usize) -> String {
        self.chars[start.min(self.chars.len())..end.min(self.chars.len())]
            .iter()
            .collect()
    }

    fn snippet(&self, line: i32) -> Option<String> {
        let line = usize::try_from(line).ok()?.checked_sub(1)?;
        if self.chars.is_empty() || line > self.line_starts.len() {
            return None;
        }
        let start = if line == 0 {
            0
        } else {
            self.line_starts[line - 1]
        };
        let end = self
            .line_starts
            .get(line)
            .map_or(self.chars.len(), |next| next - 1);
        Some(self.text(start, end))
    }
}

/// One thing that is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    pub(crate) place: Place,
    /// What is wrong, without the place.
    pub message: String,
}

/// What is wrong with an expression. Shown as kube-apiserver shows it: one `ERROR: <input>:line:column: …` after the
/// other, each with the line and a caret below the column.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Issues {
    issues: Vec<Issue>,
    shown: String,
}

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Issues {
    pub(crate) fn new(source: &Source, mut issues: Vec<Issue>) -> Self {
        let n = issues.len();
        issues.truncate(ISSUES_MAX);
        issues.sort_by_key(|issue| issue.place);
        let mut shown: Vec<String> = issues.iter().map(|i| show(source, i)).collect();
        if n > ISSUES_MAX {
            shown.push(format!("{} more errors were truncated", n - ISSUES_MAX));
        }
        Self {
            issues,
            shown: shown.join("\n"),
        }
    }

    /// Each issue, in the order of the text.
    pub fn iter(&self) -> impl Iterator<Item = &Issue> {
        self.issues.iter()
    }
}

fn show(source: &Source, issue: &Issue) -> String {
    let Place { line, column } = issue.place;
    let mut out = format!("ERROR: <input>:{line}:{}: {}", column + 1, issue.message);
    let Some(snippet) = source
        .snippet(line)
        .filter(|s| s.len() <= SNIPPET_BYTES_MAX)
    else {
        return out;
    };
    let snippet = snippet.replace('\t', " ");
    out.push_str("\n | ");
    out.push_str(&snippet);
    out.push_str("\n | ");
    let mut rest = snippet.chars();
    for _ in 0..column {
        match rest.next() {
            Some(c) if c.len_utf8() > 1 => out.push('\u{ff0e}'),
            Some(_) => out.push('.'),
            None => break,
        }
    }
    out.push(match rest.next() {
        Some(c) if c.len_utf8() > 1 => '\u{ff3e}',
        _ => '^',
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issues_show_line_and_caret() {
        let source = Source::new("a\n\té + b");
        let issues = Issues::new(
            &source,
            vec![Issue {
                place: source.place(5),
                message: "no".to_owned(),
            }],
        );
        assert_eq!(
            issues.to_string(),
            "ERROR: <input>:2:4: no\n |  é + b\n | .\u{ff0e}.^"
        );
    }
}
