//! What is read can be written and read again.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::ast::{Expr, ExprKind, Literal, op};

/// Writes a tree with all its parentheses. Macros are expanded in a tree, so it must have none.
fn write(out: &mut String, expr: &Expr) {
    match &expr.kind {
        ExprKind::Nothing | ExprKind::Comprehension(_) => unreachable!("not in these expressions"),
        ExprKind::Literal(literal) => match literal {
            Literal::Null => out.push_str("null"),
            Literal::Bool(b) => write!(out, "{b}").expect("texts can be written to"),
            Literal::Int(i) => write!(out, "({i})").expect("texts can be written to"),
            Literal::Uint(u) => write!(out, "{u}u").expect("texts can be written to"),
            Literal::Double(d) => write!(out, "({d:e})").expect("texts can be written to"),
            Literal::String(s) => {
                out.push('"');
                for c in s.chars() {
                    write!(out, "\\U{:08x}", u32::from(c)).expect("texts can be written to");
                }
                out.push('"');
            }
            Literal::Bytes(bytes) => {
                out.push_str("b\"");
                for b in bytes.iter() {
                    write!(out, "\\x{b:02x}").expect("texts can be written to");
                }
                out.push('"');
            }
        },
        ExprKind::Ident(name) => out.push_str(name),
        ExprKind::Select { operand, field, .. } => {
            write(out, operand);
            write!(out, ".{field}").expect("texts can be written to");
        }
        ExprKind::Call {
            function,
            target,
            args,
        } => write_call(out, function, target.as_deref(), args),
        ExprKind::List {
            elements,
            optionals,
        } => {
            out.push('[');
            for (i, element) in elements.iter().enumerate() {
                out.push_str(if optionals.contains(&i) { "?" } else { "" });
                write(out, element);
                out.push(',');
            }
            out.push(']');
        }
        ExprKind::Map(entries) => {
            out.push('{');
            for entry in entries {
                out.push_str(if entry.optional { "?" } else { "" });
                write(out, &entry.key);
                out.push(':');
                write(out, &entry.value);
                out.push(',');
            }
            out.push('}');
        }
        ExprKind::Struct { name, fields } => {
            write!(out, "{name}{{").expect("texts can be written to");
            for field in fields {
                out.push_str(if field.optional { "?" } else { "" });
                write!(out, "{}:", field.name).expect("texts can be written to");
                write(out, &field.value);
                out.push(',');
            }
            out.push('}');
        }
    }
}

fn write_list(out: &mut String, parts: &[Expr], separator: &str) {
    out.push('(');
    for (i, part) in parts.iter().enumerate() {
        out.push_str(if i > 0 { separator } else { "" });
        write(out, part);
    }
    out.push(')');
}

fn write_call(out: &mut String, function: &str, target: Option<&Expr>, args: &[Expr]) {
    match (function, args) {
        (op::CONDITIONAL, [condition, yes, no]) => {
            out.push('(');
            write(out, condition);
            out.push('?');
            write(out, yes);
            out.push(':');
            write(out, no);
            out.push(')');
        }
        (op::NOT | op::NEGATE, [operand]) => {
            out.push('(');
            out.push_str(&function[..1]);
            write_list(out, std::slice::from_ref(operand), "");
            out.push(')');
        }
        (op::INDEX | op::OPT_INDEX, [operand, key]) => {
            write(out, operand);
            out.push_str(if function == op::INDEX { "[" } else { "[?" });
            write(out, key);
            out.push(']');
        }
        (op::OPT_SELECT, [operand, field]) => {
            write(out, operand);
            if let ExprKind::Literal(Literal::String(name)) = &field.kind {
                write!(out, ".?{name}").expect("texts can be written to");
            }
        }
        ("@in", args) => write_list(out, args, " in "),
        (operator, args) if operator.starts_with('_') => {
            write_list(out, args, operator.trim_matches('_'));
        }
        (name, args) => {
            if let Some(target) = target {
                write(out, target);
                out.push('.');
            }
            out.push_str(name);
            write_list(out, args, ",");
        }
    }
}

fn tree(text: &str) -> Expr {
    let source = Source::new(text);
    match parse(&source, Version::new(1, 36)) {
        Ok(ast) => ast.root,
        Err(issues) => panic!("{text}: {issues}"),
    }
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|i| i.to_string()),
        any::<u64>().prop_map(|u| format!("{u}u")),
        (-1e300..1e300).prop_map(|d| format!("{d:e}")),
        "[^\\p{C}'\\\\]{0,8}".prop_map(|s| format!("'{s}'")),
        "[a-z]{0,4}".prop_map(|s| format!("b'{s}'")),
        "r'[a-z\\\\]{0,4}'",
        "(xy|[a-e]|_[a-z])(\\.[f-h])?",
    ];
    leaf.prop_recursive(4, 40, 4, |inner| {
        let binary = prop::sample::select(vec![
            "+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "in", "&&", "||",
        ]);
        let one = inner.clone();
        let some = prop::collection::vec(inner.clone(), 0..4);
        prop_oneof![
            (one.clone(), binary, one.clone()).prop_map(|(a, o, b)| format!("{a} {o} {b}")),
            (one.clone(), one.clone(), one.clone())
                .prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            one.clone().prop_map(|a| format!("!({a})")),
            one.clone().prop_map(|a| format!("-({a})")),
            one.clone().prop_map(|a| format!("({a}).f")),
            one.clone().prop_map(|a| format!("({a}).?g")),
            (one.clone(), one.clone()).prop_map(|(a, b)| format!("({a})[{b}]")),
            (one.clone(), one.clone()).prop_map(|(a, b)| format!("({a})[?{b}]")),
            some.clone().prop_map(|s| format!("f({})", s.join(", "))),
            (one.clone(), some.clone()).prop_map(|(a, s)| format!("({a}).g({})", s.join(", "))),
            some.clone().prop_map(|s| format!("[{}]", s.join(", "))),
            (one.clone(), one.clone()).prop_map(|(a, b)| format!("{{{a}: {b}, ?'x': {b}}}")),
            one.prop_map(|a| format!("A.b{{x: {a}, ?y: {a}}}")),
        ]
    })
}

/// A tree without the numbers of its nodes.
fn shape(expr: &Expr) -> String {
    let mut out = String::new();
    write(&mut out, expr);
    out
}

proptest! {
    #[test]
    fn what_was_read_is_read_again_alike(text in expression()) {
        let written = shape(&tree(&text));
        let again = shape(&tree(&written));
        prop_assert_eq!(written, again);
    }
}

#[test]
fn precedence_is_kept() {
    for (text, written) in [
        ("1 + 2 * 3 - 4", "(((1)+((2)*(3)))-(4))"),
        (
            "a || b && c == d ? e : f ? g : h",
            "((a||(b&&(c==d)))?e:(f?g:h))",
        ),
        ("!a.b[c] in -d", "((!(a.b[c])) in (-(d)))"),
        ("-1 - -1", "((-1)-(-1))"),
        ("a.?b[?c].d(e)", "a.?b[?c].d(e)"),
    ] {
        assert_eq!(shape(&tree(text)), written, "{text}");
    }
}
