//! Reading a text with mistakes.

use super::cst::Cst;
use super::lexer::Token;
use crate::source::{Issue, Source};

/// What can be read of it, and what is wrong; or only what is wrong when reading had to stop.
pub(super) fn read(
    source: &Source,
    tokens: &[Token],
    lexical: Vec<Issue>,
) -> Result<(Cst, Vec<Issue>), Vec<Issue>> {
    let mut issues = lexical;
    if issues.is_empty() {
        issues.push(Issue {
            place: source.place(tokens[0].start),
            message: "Syntax error: unexpected".to_owned(),
        });
    }
    Err(issues)
}
