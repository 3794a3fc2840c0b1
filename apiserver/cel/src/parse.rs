//! Reading an expression: words, written tree, tree with macros expanded.

mod cst;
mod lexer;
mod literal;
mod macros;
mod mistakes;
mod reader;

use crate::ast::Ast;
use crate::source::{CODE_POINTS_MAX, Issue, Issues, Place, Source};
use crate::version::Version;
use cst::{DEPTH_MAX, Failure};

/// Reads an expression.
pub(crate) fn parse(source: &Source, version: Version) -> Result<Ast, Issues> {
    let nowhere = |message: String| Issue {
        place: Place::NONE,
        message,
    };
    if source.chars.len() > CODE_POINTS_MAX {
        let message = format!(
            "expression code point size exceeds limit: size: {}, limit {CODE_POINTS_MAX}",
            source.chars.len()
        );
        return Err(Issues::new(source, vec![nowhere(message)]));
    }
    let (tokens, garbage) = lexer::words(source);
    let quick = if garbage.issues.is_empty() {
        cst::read(&tokens)
    } else {
        Err(Failure::Mistake)
    };
    let too_deep = || format!("expression recursion limit exceeded: {DEPTH_MAX}");
    let (cst, mut issues) = match quick {
        Ok(cst) => (cst, Vec::new()),
        Err(Failure::TooDeep) => {
            return Err(Issues::new(source, vec![nowhere(too_deep())]));
        }
        Err(Failure::Mistake) => mistakes::read(source, &tokens, garbage)
            .map_err(|issues| Issues::new(source, issues))?,
    };
    let mut builder = reader::Builder::new(source, version);
    let root = builder.expr(&cst);
    issues.append(&mut builder.issues);
    match root {
        Err(_) => {
            issues.push(nowhere("max recursion depth exceeded".to_owned()));
            Err(Issues::new(source, issues))
        }
        Ok(_) if !issues.is_empty() => Err(Issues::new(source, issues)),
        Ok(root) => Ok(Ast {
            root,
            offsets: builder.nodes.into_offsets(),
        }),
    }
}

#[cfg(test)]
mod tests;
