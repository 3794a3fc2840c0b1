//! What is checked of an expression after its types: literals of times and patterns, formats.

use crate::ast::{Expr, ExprKind, Literal};
use crate::checker::Checked;
use crate::env::{children, walk};
use crate::library::formatting::{Clause, Part, next_part};
use crate::library::regex;
use crate::source::{Issue, Issues, Place, Source};
use crate::time::{Timestamp, parse_duration};
use crate::types::Type;
use crate::version::Version;

/// Checks a tree.
pub(crate) fn validate(checked: &Checked, source: &Source, version: Version) -> Result<(), Issues> {
    let mut issues = Vec::new();
    let mut wrong = |expr: &Expr, message: String| {
        let place = checked
            .offsets
            .get(&expr.id)
            .map_or(Place::NONE, |o| source.place(*o));
        issues.push(Issue { place, message });
    };
    homogeneous(checked, &checked.root, version, &mut wrong);
    if version >= Version::new(1, 29) {
        for function in ["duration", "timestamp", "matches"] {
            walk(&checked.root, &mut |expr| {
                literal(expr, function, &mut wrong)
            });
        }
        walk(&checked.root, &mut |expr| format(checked, expr, &mut wrong));
    }
    if issues.is_empty() {
        Ok(())
    } else {
        Err(Issues::new(source, issues))
    }
}

/// Lists and maps that are written out hold values of one type, except in the values of a format.
fn homogeneous(
    checked: &Checked,
    expr: &Expr,
    version: Version,
    wrong: &mut dyn FnMut(&Expr, String),
) {
    let mut differ = |first: &Type, expr: &Expr, t: &Type| {
        if first == t {
            return false;
        }
        wrong(expr, format!("expected type '{first}' but found '{t}'"));
        true
    };
    let unwrapped = |expr: &Expr, optional: bool| {
        let t = checked.type_of(expr);
        let inner = t.unwrap_optional().filter(|_| optional);
        inner.unwrap_or(t).clone()
    };
    match &expr.kind {
        ExprKind::Call { function, .. }
            if &**function == "format" && version >= Version::new(1, 29) =>
        {
            return;
        }
        ExprKind::List {
            elements,
            optionals,
        } => {
            let mut first: Option<Type> = None;
            for (i, element) in elements.iter().enumerate() {
                let t = unwrapped(element, optionals.contains(&i));
                match &first {
                    None => first = Some(t),
                    Some(first) if differ(first, element, &t) => break,
                    Some(_) => {}
                }
            }
        }
        ExprKind::Map(entries) => {
            let mut first: Option<(Type, Type)> = None;
            for entry in entries {
                let key = unwrapped(&entry.key, false);
                let value = unwrapped(&entry.value, entry.optional);
                match &first {
                    None => first = Some((key, value)),
                    Some((first_key, first_value)) => {
                        differ(first_key, &entry.key, &key);
                        differ(first_value, &entry.value, &value);
                    }
                }
            }
        }
        _ => {}
    }
    children(expr, &mut |child| {
        homogeneous(checked, child, version, wrong)
    });
}

/// A literal that a function can't take.
fn literal(expr: &Expr, function: &str, wrong: &mut dyn FnMut(&Expr, String)) {
    let ExprKind::Call {
        function: called,
        args,
        target: _,
    } = &expr.kind
    else {
        return;
    };
    let Some(arg) = args.first().filter(|_| **called == *function) else {
        return;
    };
    let ExprKind::Literal(literal) = &arg.kind else {
        return;
    };
    let is_right = match (function, literal) {
        ("duration", Literal::String(text)) => parse_duration(text).is_some(),
        ("duration", Literal::Int(_) | Literal::Null) | ("timestamp", Literal::Null) => false,
        ("timestamp", Literal::String(text)) => Timestamp::parse(text)
            .is_some_and(|t| Timestamp::of_seconds(t.unix_seconds()).is_some()),
        ("timestamp", Literal::Int(i)) => Timestamp::of_seconds(*i).is_some(),
        ("matches", Literal::String(pattern)) => regex::compile(pattern).is_ok(),
        _ => true,
    };
    if !is_right {
        wrong(arg, format!("invalid {function} argument"));
    }
}

/// A format that stands in the text together with its values.
fn format(checked: &Checked, expr: &Expr, wrong: &mut dyn FnMut(&Expr, String)) {
    let ExprKind::Call {
        function,
        target: Some(target),
        args,
    } = &expr.kind
    else {
        return;
    };
    let (ExprKind::Literal(Literal::String(format)), [arg]) = (&target.kind, args.as_slice())
    else {
        return;
    };
    let ExprKind::List { elements, .. } = &arg.kind else {
        return;
    };
    if &**function != "format" {
        return;
    }
    let mut rest: &str = format;
    let mut n_args = 0;
    while let Some(part) = next_part(rest) {
        let is_clause = rest.starts_with('%') && !rest.starts_with("%%");
        let is_end = rest.len() == 1;
        if is_clause && !is_end && n_args >= elements.len() {
            wrong(expr, format!("index {n_args} out of range"));
            return;
        }
        match part {
            Err(e) => {
                wrong(expr, e);
                return;
            }
            Ok((Part::Text(_), after)) => rest = after,
            Ok((Part::Clause(clause), after)) => {
                rest = after;
                let Some(element) = elements.get(n_args) else {
                    return;
                };
                n_args += 1;
                if let Err((at, name)) = fits(checked, clause, element) {
                    let why = clause.mismatch(&name);
                    wrong(at, format!("error during formatting: {why}"));
                    return;
                }
            }
        }
    }
    if elements.len() > n_args {
        let n = elements.len();
        wrong(
            expr,
            format!("too many arguments supplied to string.format (expected {n_args}, got {n})"),
        );
    }
}

/// Whether a value fits a place, else which part of it doesn't.
fn fits<'e>(checked: &Checked, clause: Clause, expr: &'e Expr) -> Result<(), (&'e Expr, String)> {
    let t = checked.type_of(expr);
    let fits_type = *t == Type::Dyn
        || match clause {
            Clause::String => matches!(
                t,
                Type::List(_)
                    | Type::Map(_)
                    | Type::Int
                    | Type::Uint
                    | Type::Double
                    | Type::Bool
                    | Type::String
                    | Type::Timestamp
                    | Type::Bytes
                    | Type::Duration
                    | Type::Type(_)
                    | Type::Null
            ),
            Clause::Decimal | Clause::Octal => matches!(t, Type::Int | Type::Uint),
            Clause::Fixed(_) | Clause::Scientific(_) => matches!(t, Type::Double | Type::String),
            Clause::Binary => matches!(t, Type::Int | Type::Uint | Type::Bool),
            Clause::Hex { .. } => {
                matches!(t, Type::Int | Type::Uint | Type::String | Type::Bytes)
            }
        };
    if !fits_type {
        return Err((expr, t.name().to_owned()));
    }
    if clause == Clause::String {
        match &expr.kind {
            ExprKind::List { elements, .. } => {
                for element in elements {
                    fits(checked, clause, element)?;
                }
            }
            ExprKind::Map(entries) => {
                for entry in entries {
                    fits(checked, clause, &entry.key)?;
                    fits(checked, clause, &entry.value)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}
