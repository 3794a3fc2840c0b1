//! What an expression may cost at most, from the sizes that its data can have.

mod overloads;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::{CHECK_COST, PATTERN, TRAVERSAL};
use crate::ast::{ACCUMULATOR, Comprehension, Expr, ExprKind, Id, Literal, op};
use crate::checker::{Checked, Reference};
use crate::number::times;
use crate::types::Type;

/// The least and the most that something can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The least.
    pub min: u64,
    /// The most.
    pub max: u64,
}

impl Range {
    pub(crate) const UNKNOWN: Self = Self {
        min: 0,
        max: u64::MAX,
    };

    pub(crate) const fn fixed(n: u64) -> Self {
        Self { min: n, max: n }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            min: self.min.saturating_add(other.min),
            max: self.max.saturating_add(other.max),
        }
    }

    fn multiplied(self, other: Self) -> Self {
        Self {
            min: self.min.saturating_mul(other.min),
            max: self.max.saturating_mul(other.max),
        }
    }

    fn times(self, factor: f64) -> Self {
        Self {
            min: times(self.min, factor),
            max: times(self.max, factor),
        }
    }

    fn union(self, other: Self) -> Self {
        Self {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }
}

/// Knows how large parts of the data can become.
pub(crate) trait Sizes {
    /// The size of what is at a path, whose first part is the variable.
    fn size(&self, path: &[Rc<str>]) -> Option<Range>;
}

/// Nothing is known.
impl Sizes for () {
    fn size(&self, _: &[Rc<str>]) -> Option<Range> {
        None
    }
}

/// Estimates the cost of a checked tree.
pub(crate) fn estimate(checked: &Checked, sizes: &dyn Sizes) -> Range {
    let mut estimator = Estimator {
        checked,
        sizes,
        paths: HashMap::new(),
        locals: Vec::new(),
        computed: HashMap::new(),
        entries: HashMap::new(),
    };
    estimator.cost(&checked.root)
}

/// What parsing and keeping a selector costs.
pub(super) fn selector_cost(length: u64) -> u64 {
    selector(Range::fixed(length)).max
}

fn selector(length: Range) -> Range {
    const REQUIREMENTS_PER_CHAR: f64 = 0.5;
    const PER_REQUIREMENT: f64 = 50.0;
    let requirements = length.times(REQUIREMENTS_PER_CHAR).times(PER_REQUIREMENT);
    Range::fixed(LIST)
        .plus(length.times(TRAVERSAL))
        .plus(requirements)
}

const LIST: u64 = 10;
const MAP: u64 = 30;
const OBJECT: u64 = 40;
/// The longest pattern of a named format.
const FORMAT_PATTERN_MAX: f64 = 128.0;
/// The longest text of a named format.
const FORMAT_MAX: u64 = 64;
const ONE: Range = Range::fixed(1);

type Path = Vec<Rc<str>>;

/// Sizes of what is in a list or map.
#[derive(Debug, Clone, Copy)]
struct Entries {
    is_list: bool,
    key: Range,
    value: Range,
}

impl Entries {
    fn union(self, other: Self) -> Self {
        Self {
            is_list: self.is_list,
            key: self.key.union(other.key),
            value: self.value.union(other.value),
        }
    }
}

struct Local {
    name: Arc<str>,
    path: Path,
    size: Option<Range>,
    entries: Option<Entries>,
}

struct Estimator<'a> {
    checked: &'a Checked,
    sizes: &'a dyn Sizes,
    paths: HashMap<Id, Path>,
    locals: Vec<Local>,
    computed: HashMap<Id, Range>,
    entries: HashMap<Id, Entries>,
}

/// The cost of a call, and the size of what it gives.
type CallCost = (Range, Option<Range>);

/// An argument of a call.
struct Arg<'e> {
    expr: &'e Expr,
    path: Path,
    size: Option<Range>,
}

impl<'a> Estimator<'a> {
    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|l| *l.name == *name)
    }

    fn path(&self, expr: &Expr) -> Path {
        if let ExprKind::Ident(name) = &expr.kind
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&expr.id).cloned().unwrap_or_default()
    }

    fn extended(&self, expr: &Expr, step: &str) -> Path {
        let mut path = self.path(expr);
        path.push(Rc::from(step));
        path
    }

    fn cost(&mut self, expr: &'a Expr) -> Range {
        match &expr.kind {
            ExprKind::Nothing | ExprKind::Literal(_) => Range::fixed(0),
            ExprKind::Ident(name) => {
                let path = match self.local(name) {
                    Some(local) => local.path.clone(),
                    None => vec![Rc::from(&**name)],
                };
                self.paths.insert(expr.id, path);
                ONE
            }
            ExprKind::Select {
                operand,
                field,
                test,
            } => {
                let mut sum = self.cost(operand);
                if *test {
                    return sum;
                }
                if matches!(
                    self.checked.type_of(operand),
                    Type::Map(_) | Type::Object(_) | Type::Param(_)
                ) {
                    sum = sum.plus(ONE);
                }
                let path = self.extended(operand, field);
                self.paths.insert(expr.id, path);
                sum
            }
            ExprKind::Call {
                function,
                target,
                args,
            } => self.call(expr, function, target.as_deref(), args),
            ExprKind::List { elements, .. } => self.list(expr, elements),
            ExprKind::Map(entries) => self.map(expr, entries),
            ExprKind::Struct { fields, .. } => fields
                .iter()
                .fold(Range::fixed(OBJECT), |sum, f| sum.plus(self.cost(&f.value))),
            ExprKind::Comprehension(c) => {
                if is_bind(c) {
                    self.bind(expr, c)
                } else {
                    self.comprehension(expr, c)
                }
            }
        }
    }

    fn list(&mut self, expr: &'a Expr, elements: &'a [Expr]) -> Range {
        let mut sum = Range::fixed(LIST);
        let mut item = empty_union(elements.is_empty());
        for element in elements {
            sum = sum.plus(self.cost(element));
            item = item.union(self.size_or_unknown(element));
        }
        let entries = Entries {
            is_list: true,
            key: ONE,
            value: item,
        };
        self.entries.insert(expr.id, entries);
        sum
    }

    fn map(&mut self, expr: &'a Expr, list: &'a [crate::ast::MapEntry]) -> Range {
        let mut sum = Range::fixed(MAP);
        let mut key = empty_union(list.is_empty());
        let mut value = key;
        for entry in list {
            sum = sum
                .plus(self.cost(&entry.key))
                .plus(self.cost(&entry.value));
            key = key.union(self.size_or_unknown(&entry.key));
            value = value.union(self.size_or_unknown(&entry.value));
        }
        let entries = Entries {
            is_list: false,
            key,
            value,
        };
        self.entries.insert(expr.id, entries);
        sum
    }

    fn is_list(&self, range: &Expr, entries: Option<Entries>) -> bool {
        entries.map_or_else(
            || matches!(self.checked.type_of(range), Type::List(_)),
            |e| e.is_list,
        )
    }

    fn push(&mut self, name: &Arc<str>, path: Path, size: Option<Range>, entries: Option<Entries>) {
        self.locals.push(Local {
            name: name.clone(),
            path,
            size,
            entries,
        });
    }

    fn comprehension(&mut self, expr: &'a Expr, c: &'a Comprehension) -> Range {
        let mut sum = self.cost(&c.range).plus(self.cost(&c.init));
        self.push_value(&c.accumulator, &c.init);
        let entries = self.entry_sizes(&c.range);
        let is_list = self.is_list(&c.range, entries);
        let (key, value) = (entries.map(|e| e.key), entries.map(|e| e.value));
        let n_locals = self.locals.len();
        match &c.var2 {
            Some(var2) => {
                let keys = if is_list { "@indices" } else { "@keys" };
                let values = if is_list { "@items" } else { "@values" };
                let path = self.extended(&c.range, keys);
                self.push(&c.var, path, key, None);
                let path = self.extended(&c.range, values);
                self.push(var2, path, value, None);
            }
            None => {
                let (step, size) = if is_list {
                    ("@items", value)
                } else {
                    ("@keys", key)
                };
                let path = self.extended(&c.range, step);
                self.push(&c.var, path, size, None);
            }
        }
        let turn = self.cost(&c.condition);
        let turn = self.cost(&c.step).plus(turn);
        self.locals.truncate(n_locals);
        sum = sum.plus(self.cost(&c.result));
        self.locals.pop();
        let n_turns = self.size_or_unknown(&c.range);
        sum = sum.plus(n_turns.multiplied(turn));
        match &c.init.kind {
            ExprKind::Literal(_) => {
                let size = self.size(&c.init);
                self.set_size(expr, size);
            }
            ExprKind::List { .. } | ExprKind::Map(_) => {
                self.set_size(expr, Some(n_turns));
                if let Some(entries) = self.entry_sizes(&c.step) {
                    self.entries.insert(expr.id, entries);
                }
            }
            _ => {}
        }
        sum
    }

    fn push_value(&mut self, name: &Arc<str>, value: &Expr) {
        let (path, size) = (self.path(value), self.size(value));
        let entries = self.entry_sizes(value);
        self.push(name, path, size, entries);
    }

    fn bind(&mut self, expr: &'a Expr, c: &'a Comprehension) -> Range {
        let sum = self.cost(&c.range).plus(self.cost(&c.init));
        self.push_value(&c.accumulator, &c.init);
        let sum = sum.plus(self.cost(&c.result));
        self.locals.pop();
        self.copy_sizes(expr, &c.result);
        sum
    }

    fn copy_sizes(&mut self, to: &Expr, from: &Expr) {
        let size = self.size(from);
        self.set_size(to, size);
        if let Some(entries) = self.entry_sizes(from) {
            self.entries.insert(to.id, entries);
        }
    }

    fn set_size(&mut self, expr: &Expr, size: Option<Range>) {
        if let Some(size) = size {
            self.computed.insert(expr.id, size);
        }
    }

    fn size_or_unknown(&mut self, expr: &Expr) -> Range {
        self.size(expr).unwrap_or(Range::UNKNOWN)
    }

    fn size(&mut self, expr: &Expr) -> Option<Range> {
        if let Some(size) = self.computed.get(&expr.id) {
            return Some(*size);
        }
        if let Some(size) = literal_size(expr) {
            return Some(size);
        }
        let path = self.path(expr);
        if !path.is_empty()
            && let Some(size) = self.sizes.size(&path)
        {
            self.computed.insert(expr.id, size);
            return Some(size);
        }
        if is_scalar(self.checked.type_of(expr)) {
            return Some(ONE);
        }
        match &expr.kind {
            ExprKind::Ident(name) => self.local(name).and_then(|l| l.size),
            _ => None,
        }
    }

    fn entry_sizes(&self, expr: &Expr) -> Option<Entries> {
        if let Some(entries) = self.entries.get(&expr.id) {
            return Some(*entries);
        }
        match &expr.kind {
            ExprKind::Ident(name) => self.local(name).and_then(|l| l.entries),
            _ => None,
        }
    }

    fn arg<'e>(&mut self, expr: &'e Expr) -> Arg<'e> {
        let mut path = self.path(expr);
        if path.first().is_some_and(|p| &**p == ACCUMULATOR) {
            path.clear();
        }
        Arg {
            expr,
            path,
            size: self.size(expr),
        }
    }

    fn call(
        &mut self,
        expr: &'a Expr,
        function: &str,
        target: Option<&'a Expr>,
        args: &'a [Expr],
    ) -> Range {
        if function == "dyn"
            && let [arg] = args
        {
            let cost = self.cost(arg);
            self.copy_sizes(expr, arg);
            return cost.plus(ONE);
        }
        let mut costs = Vec::with_capacity(args.len());
        let mut nodes = Vec::with_capacity(args.len());
        for arg in args {
            costs.push(self.cost(arg));
            nodes.push(self.arg(arg));
        }
        let overloads = match self.checked.references.get(&expr.id) {
            Some(Reference::Overloads(ids)) if !ids.is_empty() => ids.clone(),
            _ => return Range::fixed(0),
        };
        let mut sum = Range::fixed(0);
        let target = target.map(|t| {
            sum = sum.plus(self.cost(t));
            self.arg(t)
        });
        let mut of_call = Range {
            min: u64::MAX,
            max: 0,
        };
        let mut size: Option<Range> = None;
        for overload in overloads {
            let (cost, result) =
                self.overload(expr, function, overload, target.as_ref(), &nodes, &costs);
            of_call = of_call.union(cost);
            if let Some(result) = result {
                size = Some(size.map_or(result, |s| s.union(result)));
            }
            let step = match overload {
                "index_list" => Some("@items"),
                "index_map" => Some("@values"),
                _ => None,
            };
            if let (Some(step), Some(list)) = (step, args.first()) {
                size = self.entry_sizes(list).map(|e| e.value);
                let path = self.extended(list, step);
                self.paths.insert(expr.id, path);
            }
            if size.is_none() {
                size = self.size(expr);
            }
        }
        self.set_size(expr, size);
        sum.plus(of_call)
    }

    /// The size of an argument whose computed size isn't known, by where it is.
    fn arg_size(&self, arg: &Arg<'_>) -> Range {
        arg.size.unwrap_or_else(|| self.path_size(&arg.path))
    }

    fn path_size(&self, path: &Path) -> Range {
        if path.is_empty() {
            return Range::UNKNOWN;
        }
        self.sizes.size(path).unwrap_or(Range::UNKNOWN)
    }
}

/// The start of a union over elements.
fn empty_union(is_empty: bool) -> Range {
    Range {
        min: if is_empty { 0 } else { u64::MAX },
        max: 0,
    }
}

fn times_ceil(d: f64) -> u64 {
    crate::number::to_uint(d.ceil()).unwrap_or(u64::MAX)
}

fn matching(text: Range, pattern: Range) -> Range {
    text.plus(ONE)
        .times(TRAVERSAL)
        .multiplied(pattern.times(PATTERN))
}

/// A whole number that stands in the text; at least zero.
fn int_value(expr: &Expr, otherwise: u64) -> u64 {
    match &expr.kind {
        ExprKind::Literal(Literal::Int(i)) => u64::try_from(*i).unwrap_or(0),
        _ => otherwise,
    }
}

fn literal_size(expr: &Expr) -> Option<Range> {
    let n = match &expr.kind {
        ExprKind::Literal(Literal::String(s)) => s.chars().count(),
        ExprKind::Literal(Literal::Bytes(b)) => b.len(),
        ExprKind::Literal(_) => 1,
        ExprKind::List { elements, .. } => elements.len(),
        ExprKind::Map(entries) => entries.len(),
        _ => return None,
    };
    u64::try_from(n).ok().map(Range::fixed)
}

fn is_scalar(t: &Type) -> bool {
    match t {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => {
            true
        }
        other => other.unwrap_optional().is_some_and(is_scalar),
    }
}

/// Whether a comprehension is a variable bound to a value.
fn is_bind(c: &Comprehension) -> bool {
    matches!(&c.range.kind, ExprKind::List { elements, .. } if elements.is_empty())
        && c.condition.kind == ExprKind::Literal(Literal::Bool(false))
        && &*c.accumulator != ACCUMULATOR
}
