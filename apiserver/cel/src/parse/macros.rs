//! Calls that stand for more: `has`, `all`, `map`, `optMap` and the like, expanded while reading.

use std::sync::Arc;

use super::reader::Nodes;
use crate::ast::{ACCUMULATOR, Comprehension, Expr, ExprKind, FORMER_ACCUMULATOR, Id, Literal, op};
use crate::version::Version;

/// A mistake in a macro's arguments: the node it is told at, and the text.
pub(super) type Mistake = (Id, String);

type Expand = fn(&mut Maker<'_>, Option<Expr>, Vec<Expr>) -> Result<Expr, Mistake>;

/// The macro that a call by this name, with this number of arguments, is.
pub(super) fn find(version: Version, name: &str, is_member: bool, n_args: usize) -> Option<Expand> {
    let two_variables = version >= Version::new(1, 32);
    let optionals = version >= Version::new(1, 28);
    Some(match (name, is_member, n_args) {
        ("has", false, 1) => has,
        ("all", true, 2) => |m, t, a| quantifier(m, t, a, Quantifier::All),
        ("exists", true, 2) => |m, t, a| quantifier(m, t, a, Quantifier::Exists),
        ("exists_one", true, 2) => |m, t, a| quantifier(m, t, a, Quantifier::ExistsOne),
        ("map", true, 2 | 3) => map,
        ("filter", true, 2) => filter,
        ("optMap", true, 2) if optionals => |m, t, a| opt_map(m, t, a, false),
        ("optFlatMap", true, 2) if optionals => |m, t, a| opt_map(m, t, a, true),
        ("all", true, 3) if two_variables => |m, t, a| quantifier(m, t, a, Quantifier::All),
        ("exists", true, 3) if two_variables => |m, t, a| quantifier(m, t, a, Quantifier::Exists),
        ("existsOne" | "exists_one", true, 3) if two_variables => {
            |m, t, a| quantifier(m, t, a, Quantifier::ExistsOne)
        }
        ("transformList", true, 3 | 4) if two_variables => transform_list,
        ("transformMap", true, 3 | 4) if two_variables => |m, t, a| transform_map(m, t, a, false),
        ("transformMapEntry", true, 3 | 4) if two_variables => {
            |m, t, a| transform_map(m, t, a, true)
        }
        ("sortBy", true, 2) if version >= Version::new(1, 34) => sort_by,
        _ => return None,
    })
}

/// Makes nodes that stand where the macro's call stands.
pub(super) struct Maker<'a> {
    pub nodes: &'a mut Nodes,
    /// Where the call is.
    pub offset: usize,
}

impl Maker<'_> {
    fn node(&mut self, kind: ExprKind) -> Expr {
        let id = self.nodes.id_at(self.offset);
        Expr { id, kind }
    }

    fn literal(&mut self, literal: Literal) -> Expr {
        self.node(ExprKind::Literal(literal))
    }

    fn list(&mut self, elements: Vec<Expr>) -> Expr {
        self.node(ExprKind::List {
            elements,
            optionals: Vec::new(),
        })
    }

    fn ident(&mut self, name: &str) -> Expr {
        self.node(ExprKind::Ident(Arc::from(name)))
    }

    fn accumulator(&mut self) -> Expr {
        self.ident(ACCUMULATOR)
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.node(ExprKind::Call {
            function: Arc::from(function),
            target: None,
            args,
        })
    }

    fn member_call(&mut self, function: &str, target: Expr, args: Vec<Expr>) -> Expr {
        self.node(ExprKind::Call {
            function: Arc::from(function),
            target: Some(Box::new(target)),
            args,
        })
    }

    fn comprehension(&mut self, comprehension: Comprehension) -> Expr {
        self.node(ExprKind::Comprehension(Box::new(comprehension)))
    }

    /// `filter ? step : accumulator`, or the step alone.
    fn filtered(&mut self, filter: Option<Expr>, step: Expr) -> Expr {
        match filter {
            None => step,
            Some(filter) => {
                let accumulator = self.accumulator();
                self.call(op::CONDITIONAL, vec![filter, step, accumulator])
            }
        }
    }

    /// The same tree with nodes of its own.
    fn copy(&mut self, expr: &Expr) -> Expr {
        let offset = self.nodes.offset(expr.id).unwrap_or(self.offset);
        let id = self.nodes.id_at(offset);
        let kind = match &expr.kind {
            ExprKind::Nothing | ExprKind::Literal(_) | ExprKind::Ident(_) => expr.kind.clone(),
            ExprKind::Select {
                operand,
                field,
                test,
            } => ExprKind::Select {
                operand: Box::new(self.copy(operand)),
                field: field.clone(),
                test: *test,
            },
            ExprKind::Call {
                function,
                target,
                args,
            } => {
                let args = args.iter().map(|a| self.copy(a)).collect();
                ExprKind::Call {
                    function: function.clone(),
                    target: target.as_ref().map(|t| Box::new(self.copy(t))),
                    args,
                }
            }
            ExprKind::List {
                elements,
                optionals,
            } => ExprKind::List {
                elements: elements.iter().map(|e| self.copy(e)).collect(),
                optionals: optionals.clone(),
            },
            ExprKind::Map(entries) => ExprKind::Map(
                entries
                    .iter()
                    .map(|entry| crate::ast::MapEntry {
                        id: self.nodes.id_at(self.offset),
                        key: self.copy(&entry.key),
                        value: self.copy(&entry.value),
                        optional: entry.optional,
                    })
                    .collect(),
            ),
            ExprKind::Struct { name, fields } => ExprKind::Struct {
                name: name.clone(),
                fields: fields
                    .iter()
                    .map(|field| crate::ast::FieldInit {
                        id: self.nodes.id_at(self.offset),
                        name: field.name.clone(),
                        value: self.copy(&field.value),
                        optional: field.optional,
                    })
                    .collect(),
            },
            ExprKind::Comprehension(c) => ExprKind::Comprehension(Box::new(Comprehension {
                range: self.copy(&c.range),
                var: c.var.clone(),
                var2: c.var2.clone(),
                accumulator: c.accumulator.clone(),
                init: self.copy(&c.init),
                condition: self.copy(&c.condition),
                step: self.copy(&c.step),
                result: self.copy(&c.result),
            })),
        };
        Expr { id, kind }
    }
}

fn ident_of(expr: &Expr) -> Option<Arc<str>> {
    match &expr.kind {
        ExprKind::Ident(name) => Some(name.clone()),
        _ => None,
    }
}

fn refuse_accumulator(id: Id, name: &str) -> Result<(), Mistake> {
    if name == ACCUMULATOR || name == FORMER_ACCUMULATOR {
        let text = "iteration variable overwrites accumulator variable";
        return Err((id, text.to_owned()));
    }
    Ok(())
}

/// The variable of a macro of one.
fn variable(expr: &Expr, otherwise: &str) -> Result<Arc<str>, Mistake> {
    let name = ident_of(expr).ok_or_else(|| (expr.id, otherwise.to_owned()))?;
    refuse_accumulator(expr.id, &name)?;
    Ok(name)
}

/// The variables of a macro of two.
fn two_variables(first: &Expr, second: &Expr) -> Result<(Arc<str>, Arc<str>), Mistake> {
    let name = |expr: &Expr| {
        ident_of(expr).ok_or_else(|| (expr.id, "argument must be a simple name".to_owned()))
    };
    let (one, two) = (name(first)?, name(second)?);
    if one == two {
        return Err((second.id, format!("duplicate variable name: {one}")));
    }
    refuse_accumulator(first.id, &one)?;
    refuse_accumulator(second.id, &two)?;
    Ok((one, two))
}

/// The range of a receiver macro.
fn range(target: Option<Expr>) -> Result<Expr, Mistake> {
    target.ok_or_else(|| (0, "a range is missing".to_owned()))
}

fn has(maker: &mut Maker<'_>, _: Option<Expr>, mut args: Vec<Expr>) -> Result<Expr, Mistake> {
    let arg = args.remove(0);
    match arg.kind {
        ExprKind::Select { operand, field, .. } => Ok(maker.node(ExprKind::Select {
            operand,
            field,
            test: true,
        })),
        _ => Err((arg.id, "invalid argument to has() macro".to_owned())),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Quantifier {
    All,
    Exists,
    ExistsOne,
}

fn quantifier(
    maker: &mut Maker<'_>,
    target: Option<Expr>,
    mut args: Vec<Expr>,
    kind: Quantifier,
) -> Result<Expr, Mistake> {
    let (var, var2) = if args.len() == 3 {
        let (one, two) = two_variables(&args[0], &args[1])?;
        (one, Some(two))
    } else {
        (variable(&args[0], "argument must be a simple name")?, None)
    };
    let predicate = args.remove(args.len() - 1);
    let (init, condition, step, result);
    match kind {
        Quantifier::All => {
            init = maker.literal(Literal::Bool(true));
            let so_far = maker.accumulator();
            condition = maker.call(op::NOT_STRICTLY_FALSE, vec![so_far]);
            let so_far = maker.accumulator();
            step = maker.call(op::AND, vec![so_far, predicate]);
            result = maker.accumulator();
        }
        Quantifier::Exists => {
            init = maker.literal(Literal::Bool(false));
            let so_far = maker.accumulator();
            let none_yet = maker.call(op::NOT, vec![so_far]);
            condition = maker.call(op::NOT_STRICTLY_FALSE, vec![none_yet]);
            let so_far = maker.accumulator();
            step = maker.call(op::OR, vec![so_far, predicate]);
            result = maker.accumulator();
        }
        Quantifier::ExistsOne => {
            init = maker.literal(Literal::Int(0));
            condition = maker.literal(Literal::Bool(true));
            let (so_far, one) = (maker.accumulator(), maker.literal(Literal::Int(1)));
            let more = maker.call(op::ADD, vec![so_far, one]);
            let so_far = maker.accumulator();
            step = maker.call(op::CONDITIONAL, vec![predicate, more, so_far]);
            let (so_far, one) = (maker.accumulator(), maker.literal(Literal::Int(1)));
            result = maker.call(op::EQUALS, vec![so_far, one]);
        }
    }
    Ok(maker.comprehension(Comprehension {
        range: range(target)?,
        var,
        var2,
        accumulator: Arc::from(ACCUMULATOR),
        init,
        condition,
        step,
        result,
    }))
}

fn map(maker: &mut Maker<'_>, target: Option<Expr>, mut args: Vec<Expr>) -> Result<Expr, Mistake> {
    let var = variable(&args[0], "argument is not an identifier")?;
    let transform = args.remove(args.len() - 1);
    let filter = (args.len() == 2).then(|| args.remove(1));
    let init = maker.list(Vec::new());
    let condition = maker.literal(Literal::Bool(true));
    let so_far = maker.accumulator();
    let one_more = maker.list(vec![transform]);
    let step = maker.call(op::ADD, vec![so_far, one_more]);
    let step = maker.filtered(filter, step);
    let result = maker.accumulator();
    Ok(maker.comprehension(Comprehension {
        range: range(target)?,
        var,
        var2: None,
        accumulator: Arc::from(ACCUMULATOR),
        init,
        condition,
        step,
        result,
    }))
}

fn filter(
    maker: &mut Maker<'_>,
    target: Option<Expr>,
    mut args: Vec<Expr>,
) -> Result<Expr, Mistake> {
    let var = variable(&args[0], "argument is not an identifier")?;
    let predicate = args.remove(1);
    let init = maker.list(Vec::new());
    let condition = maker.literal(Literal::Bool(true));
    let so_far = maker.accumulator();
    let one_more = maker.list(vec![args.remove(0)]);
    let step = maker.call(op::ADD, vec![so_far, one_more]);
    let step = maker.filtered(Some(predicate), step);
    let result = maker.accumulator();
    Ok(maker.comprehension(Comprehension {
        range: range(target)?,
        var,
        var2: None,
        accumulator: Arc::from(ACCUMULATOR),
        init,
        condition,
        step,
        result,
    }))
}

fn transform_list(
    maker: &mut Maker<'_>,
    target: Option<Expr>,
    mut args: Vec<Expr>,
) -> Result<Expr, Mistake> {
    let (var, var2) = two_variables(&args[0], &args[1])?;
    let transform = args.remove(args.len() - 1);
    let filter = (args.len() == 3).then(|| args.remove(2));
    let so_far = maker.accumulator();
    let one_more = maker.list(vec![transform]);
    let step = maker.call(op::ADD, vec![so_far, one_more]);
    let step = maker.filtered(filter, step);
    let init = maker.list(Vec::new());
    let condition = maker.literal(Literal::Bool(true));
    let result = maker.accumulator();
    Ok(maker.comprehension(Comprehension {
        range: range(target)?,
        var,
        var2: Some(var2),
        accumulator: Arc::from(ACCUMULATOR),
        init,
        condition,
        step,
        result,
    }))
}

fn transform_map(
    maker: &mut Maker<'_>,
    target: Option<Expr>,
    mut args: Vec<Expr>,
    entry: bool,
) -> Result<Expr, Mistake> {
    let (var, var2) = two_variables(&args[0], &args[1])?;
    let transform = args.remove(args.len() - 1);
    let filter = (args.len() == 3).then(|| args.remove(2));
    let so_far = maker.accumulator();
    let insert = if entry {
        vec![so_far, transform]
    } else {
        vec![so_far, maker.ident(&var), transform]
    };
    let step = maker.call("cel.@mapInsert", insert);
    let step = maker.filtered(filter, step);
    let init = maker.node(ExprKind::Map(Vec::new()));
    let condition = maker.literal(Literal::Bool(true));
    let result = maker.accumulator();
    Ok(maker.comprehension(Comprehension {
        range: range(target)?,
        var,
        var2: Some(var2),
        accumulator: Arc::from(ACCUMULATOR),
        init,
        condition,
        step,
        result,
    }))
}

/// A variable bound to a value for one expression, as a comprehension over nothing.
fn bind(maker: &mut Maker<'_>, name: Arc<str>, value: Expr, body: Expr) -> Expr {
    let nothing = maker.list(Vec::new());
    let never = maker.literal(Literal::Bool(false));
    let step = maker.ident(&name);
    maker.comprehension(Comprehension {
        range: nothing,
        var: Arc::from("#unused"),
        var2: None,
        accumulator: name,
        init: value,
        condition: never,
        step,
        result: body,
    })
}

fn opt_map(
    maker: &mut Maker<'_>,
    target: Option<Expr>,
    mut args: Vec<Expr>,
    flat: bool,
) -> Result<Expr, Mistake> {
    let macro_name = if flat { "optFlatMap" } else { "optMap" };
    let name = ident_of(&args[0]).ok_or_else(|| {
        let text = format!("{macro_name}() variable name must be a simple identifier");
        (args[0].id, text)
    })?;
    let body = args.remove(1);
    let target = range(target)?;
    let copied = maker.copy(&target);
    let has_value = maker.member_call("hasValue", target, Vec::new());
    let value = maker.member_call("value", copied, Vec::new());
    let mut some = bind(maker, name, value, body);
    if !flat {
        some = maker.call("optional.of", vec![some]);
    }
    let none = maker.call("optional.none", Vec::new());
    Ok(maker.call(op::CONDITIONAL, vec![has_value, some, none]))
}

fn sort_by(maker: &mut Maker<'_>, target: Option<Expr>, args: Vec<Expr>) -> Result<Expr, Mistake> {
    const INPUT: &str = "@__sortBy_input__";
    let target = range(target)?;
    if !matches!(
        target.kind,
        ExprKind::List { .. }
            | ExprKind::Select { .. }
            | ExprKind::Ident(_)
            | ExprKind::Comprehension(_)
            | ExprKind::Call { .. }
    ) {
        let text = "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
        return Err((target.id, text.to_owned()));
    }
    let input = maker.ident(INPUT);
    let keys = map(maker, Some(input), args)?;
    let input = maker.ident(INPUT);
    let sorted = maker.member_call("@sortByAssociatedKeys", input, vec![keys]);
    Ok(bind(maker, Arc::from(INPUT), target, sorted))
}
