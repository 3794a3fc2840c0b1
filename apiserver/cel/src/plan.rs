//! A checked tree made ready to be evaluated often: constants are folded, patterns compiled, functions found.
//!
//! The shape follows what kube-apiserver's evaluator makes of a tree, because costs are counted by it.

use std::sync::Arc;

use crate::ast::{Comprehension, Expr, ExprKind, Literal, op};
use crate::checker::{Checked, Reference};
use crate::functions::{Function, Library, Overload};
use crate::library::{self, Callable};
use crate::types::Type;
use crate::value::{Entries, Key, List, Map, Value};

pub(crate) type Constant = Value<'static>;

/// A step of an evaluation.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Constant(Constant),
    Attribute(Box<Attribute>),
    Or(Box<(Node, Node)>),
    And(Box<(Node, Node)>),
    Equals(Box<(Node, Node)>),
    NotEquals(Box<(Node, Node)>),
    Call(Box<Call>),
    /// Membership in a list of constants.
    Member(Box<Node>, Arc<Vec<Key>>),
    OptionalOr(Box<(Node, Node)>),
    OptionalOrValue(Box<(Node, Node)>),
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    Object {
        name: Arc<str>,
        fields: Vec<(Arc<str>, Node, bool)>,
    },
    Fold(Box<Fold>),
}

/// A variable or value and the way from it to a part of it.
#[derive(Debug, Clone)]
pub(crate) struct Attribute {
    pub root: Root,
    pub qualifiers: Vec<Qualifier>,
}

#[derive(Debug, Clone)]
pub(crate) enum Root {
    Variable(Arc<str>),
    Node(Node),
    Conditional(Box<(Node, Attribute, Attribute)>),
}

/// One step of such a way.
#[derive(Debug, Clone)]
pub(crate) struct Qualifier {
    pub key: QualifierKey,
    pub optional: bool,
    /// Whether only the presence is asked for.
    pub test: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum QualifierKey {
    Constant(Constant),
    Attribute(Attribute),
    Node(Node),
}

#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub function: &'static str,
    /// The signature if there is only one.
    pub overload: &'static str,
    pub signatures: Vec<&'static Overload>,
    pub callable: Callable,
    pub args: Vec<Node>,
    /// Whether an error of one argument keeps the next from being evaluated.
    pub stops_early: bool,
    /// The pattern, if it is a constant.
    pub regex: Option<regex::Regex>,
    /// Whether the first argument is an accumulator that nothing looks at any more.
    pub consumes: bool,
}

impl std::fmt::Debug for Callable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Callable")
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Fold {
    pub accumulator: Arc<str>,
    pub var: Arc<str>,
    pub var2: Option<Arc<str>>,
    pub range: Node,
    pub init: Node,
    pub condition: Node,
    pub step: Node,
    pub result: Node,
}

/// Plans a tree. The error is about constants: a text that is no number, a pattern that is none.
pub(crate) fn plan(checked: &Checked, library: Library) -> Result<Node, String> {
    Planner { checked, library }.plan(&checked.root)
}

struct Planner<'a> {
    checked: &'a Checked,
    library: Library,
}

type Planned<T = Node> = Result<T, String>;

pub(crate) fn constant(literal: &Literal) -> Constant {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(i) => Value::Int(*i),
        Literal::Uint(u) => Value::Uint(*u),
        Literal::Double(d) => Value::Double(*d),
        Literal::String(s) => Value::text(s.clone()),
        Literal::Bytes(b) => Value::Bytes(b.clone()),
    }
}

impl Planner<'_> {
    fn plan(&self, expr: &Expr) -> Planned {
        match &expr.kind {
            ExprKind::Nothing => Err("unsupported expr".to_owned()),
            ExprKind::Literal(literal) => Ok(Node::Constant(constant(literal))),
            ExprKind::Ident(name) => Ok(self.ident(expr, name)),
            ExprKind::Select {
                operand,
                field,
                test,
            } => {
                let mut attribute = self.attribute(operand)?;
                attribute.add(Qualifier {
                    key: QualifierKey::Constant(Value::text(field.clone())),
                    optional: false,
                    test: *test,
                });
                Ok(Node::Attribute(Box::new(attribute)))
            }
            ExprKind::Call {
                function,
                target,
                args,
            } => self.call(expr, function, target.as_deref(), args),
            ExprKind::List {
                elements,
                optionals,
            } => self.list(elements, optionals),
            ExprKind::Map(entries) => self.map(entries),
            ExprKind::Struct { name, fields } => {
                let fields: Planned<Vec<_>> = fields
                    .iter()
                    .map(|f| Ok((f.name.clone(), self.plan(&f.value)?, f.optional)))
                    .collect();
                Ok(Node::Object {
                    name: name.clone(),
                    fields: fields?,
                })
            }
            ExprKind::Comprehension(c) => self.fold(c),
        }
    }

    fn ident(&self, expr: &Expr, name: &Arc<str>) -> Node {
        if let Type::Type(inner) = self.checked.type_of(expr) {
            let named = inner.as_deref().cloned().unwrap_or(Type::Type(None));
            return Node::Constant(Value::Type(named));
        }
        Node::Attribute(Box::new(Attribute {
            root: Root::Variable(name.clone()),
            qualifiers: Vec::new(),
        }))
    }

    /// What is selected from or indexed.
    fn attribute(&self, operand: &Expr) -> Planned<Attribute> {
        Ok(into_attribute(self.plan(operand)?))
    }

    fn call(
        &self,
        expr: &Expr,
        function: &Arc<str>,
        target: Option<&Expr>,
        args: &[Expr],
    ) -> Planned {
        let mut planned = Vec::with_capacity(args.len() + 1);
        for arg in target.into_iter().chain(args) {
            planned.push(self.plan(arg)?);
        }
        let pair = |mut planned: Vec<Node>| {
            let second = planned.pop();
            let first = planned.pop();
            first
                .zip(second)
                .map(Box::new)
                .ok_or_else(|| format!("no such overload: {function}"))
        };
        match &**function {
            op::AND => return pair(planned).map(Node::And),
            op::OR => return pair(planned).map(Node::Or),
            op::EQUALS => return pair(planned).map(Node::Equals),
            op::NOT_EQUALS => return pair(planned).map(Node::NotEquals),
            op::CONDITIONAL => return conditional(planned),
            op::INDEX => return index(planned, false),
            op::OPT_INDEX | op::OPT_SELECT => return index(planned, true),
            "or" if planned.len() == 2 => return pair(planned).map(Node::OptionalOr),
            "orValue" if planned.len() == 2 => return pair(planned).map(Node::OptionalOrValue),
            _ => {}
        }
        let Some(found) = self.library.find(function) else {
            return Err(format!("no such overload: {function}"));
        };
        let ids: &[&'static str] = match self.checked.references.get(&expr.id) {
            Some(Reference::Overloads(ids)) => ids,
            _ => &[],
        };
        self.finish_call(found, ids, planned)
    }

    fn finish_call(&self, function: &'static Function, ids: &[&str], args: Vec<Node>) -> Planned {
        let name = function.name;
        let Some(callable) = callable(name) else {
            return Err(format!("no such overload: {name}"));
        };
        let signatures: Vec<&'static Overload> = function
            .overloads
            .iter()
            .filter(|o| ids.contains(&o.id))
            .collect();
        let overload = match signatures.as_slice() {
            [only] => only.id,
            _ => "",
        };
        if overload == "in_list"
            && let Some(member) = membership(&args)
        {
            return Ok(member);
        }
        if is_conversion(name)
            && let [Node::Constant(value)] = args.as_slice()
        {
            return callable
                .call(name, &signatures, std::slice::from_ref(value))
                .map(Node::Constant)
                .map_err(|e| e.to_string());
        }
        let regex = match (name, args.get(1)) {
            ("matches" | "find" | "findAll", Some(Node::Constant(Value::String(pattern)))) => {
                Some(library::regex::compile(pattern)?)
            }
            _ => None,
        };
        let stops_early = args.len() > 2
            || regex.is_some()
            || name == "format"
            || (signatures.len() != 1 && !is_singleton(name));
        Ok(Node::Call(Box::new(Call {
            function: name,
            overload,
            signatures,
            callable,
            args,
            stops_early,
            regex,
            consumes: false,
        })))
    }

    fn list(&self, elements: &[Expr], optionals: &[usize]) -> Planned {
        let planned: Planned<Vec<Node>> = elements.iter().map(|e| self.plan(e)).collect();
        let planned = planned?;
        let constants: Option<Vec<Constant>> = planned
            .iter()
            .map(|node| match node {
                Node::Constant(value) => Some(value.clone()),
                _ => None,
            })
            .collect();
        if let Some(constants) = constants {
            return Ok(Node::Constant(Value::List(List::of_values(constants))));
        }
        let items = planned.into_iter().enumerate();
        Ok(Node::List(
            items
                .map(|(i, node)| (node, optionals.contains(&i)))
                .collect(),
        ))
    }

    fn map(&self, entries: &[crate::ast::MapEntry]) -> Planned {
        let mut planned = Vec::with_capacity(entries.len());
        for entry in entries {
            planned.push((
                self.plan(&entry.key)?,
                self.plan(&entry.value)?,
                entry.optional,
            ));
        }
        let mut constants = Entries::default();
        let all_constant = planned.iter().all(|(key, value, _)| match (key, value) {
            (Node::Constant(key), Node::Constant(value)) => {
                constants.set(key.clone(), value.clone());
                true
            }
            _ => false,
        });
        Ok(if all_constant {
            Node::Constant(Value::Map(Map::Entries(Arc::new(constants))))
        } else {
            Node::Map(planned)
        })
    }

    fn fold(&self, c: &Comprehension) -> Planned {
        let init = self.plan(&c.init)?;
        let range = self.plan(&c.range)?;
        let condition = self.plan(&c.condition)?;
        let mut step = self.plan(&c.step)?;
        consume(&mut step, &c.accumulator);
        Ok(Node::Fold(Box::new(Fold {
            accumulator: c.accumulator.clone(),
            var: c.var.clone(),
            var2: c.var2.clone(),
            range,
            init,
            condition,
            step,
            result: self.plan(&c.result)?,
        })))
    }
}

impl Attribute {
    /// One step further; both ways of a condition go it.
    fn add(&mut self, qualifier: Qualifier) {
        if let Root::Conditional(branches) = &mut self.root {
            branches.1.add(qualifier.clone());
            branches.2.add(qualifier);
        } else {
            self.qualifiers.push(qualifier);
        }
    }
}

fn into_attribute(node: Node) -> Attribute {
    match node {
        Node::Attribute(attribute) => *attribute,
        other => Attribute {
            root: Root::Node(other),
            qualifiers: Vec::new(),
        },
    }
}

fn conditional(planned: Vec<Node>) -> Planned {
    let [condition, yes, no]: [Node; 3] = planned
        .try_into()
        .map_err(|_| "no such overload: _?_:_".to_owned())?;
    Ok(Node::Attribute(Box::new(Attribute {
        root: Root::Conditional(Box::new((
            condition,
            into_attribute(yes),
            into_attribute(no),
        ))),
        qualifiers: Vec::new(),
    })))
}

fn index(planned: Vec<Node>, optional: bool) -> Planned {
    let [operand, key]: [Node; 2] = planned
        .try_into()
        .map_err(|_| "no such overload: _[_]".to_owned())?;
    let key = match key {
        Node::Constant(
            value @ (Value::String(_)
            | Value::Int(_)
            | Value::Uint(_)
            | Value::Bool(_)
            | Value::Double(_)),
        ) => QualifierKey::Constant(value),
        Node::Constant(other) => {
            return Err(format!("invalid qualifier type: {}", other.go_type()));
        }
        Node::Attribute(attribute) => QualifierKey::Attribute(*attribute),
        other => QualifierKey::Node(other),
    };
    let mut attribute = into_attribute(operand);
    attribute.add(Qualifier {
        key,
        optional,
        test: false,
    });
    Ok(Node::Attribute(Box::new(attribute)))
}

/// The functions that are evaluated at once when their argument is a constant.
fn is_conversion(name: &str) -> bool {
    matches!(
        name,
        "bool"
            | "bytes"
            | "double"
            | "duration"
            | "dyn"
            | "int"
            | "string"
            | "timestamp"
            | "type"
            | "uint"
    )
}

/// Functions with one implementation for all their signatures.
fn is_singleton(name: &str) -> bool {
    matches!(
        name,
        "_+_"
            | "_-_"
            | "_*_"
            | "_/_"
            | "_%_"
            | "-_"
            | "!_"
            | "_<_"
            | "_<=_"
            | "_>_"
            | "_>=_"
            | "@in"
            | "_in_"
            | "size"
            | "type"
            | "dyn"
            | "matches"
            | "sort"
            | "@sortByAssociatedKeys"
    )
}

fn callable(name: &str) -> Option<Callable> {
    library::find(match name {
        op::NOT_STRICTLY_FALSE | "__not_strictly_false__" => "dyn",
        other => other,
    })
}

/// Membership in a list of constants that can be looked up.
fn membership(args: &[Node]) -> Option<Node> {
    let [item, Node::Constant(Value::List(list))] = args else {
        return None;
    };
    if list.is_empty() {
        return Some(Node::Constant(Value::Bool(false)));
    }
    let key_of = |value: Value<'_>| Key::of(&value).filter(|key| *key != Key::Null);
    let keys: Option<Vec<Key>> = list.iter().map(|v| key_of(v.ok()?)).collect();
    Some(Node::Member(Box::new(item.clone()), Arc::new(keys?)))
}

/// Marks the call by which a macro's step grows its accumulator.
fn consume(step: &mut Node, accumulator: &str) {
    let is_accumulator = |node: &Node| match node {
        Node::Attribute(a) => {
            a.qualifiers.is_empty()
                && matches!(&a.root, Root::Variable(name) if **name == *accumulator)
        }
        _ => false,
    };
    match step {
        Node::Call(call) if matches!(call.function, "_+_" | "cel.@mapInsert") => {
            call.consumes = call.args.first().is_some_and(is_accumulator);
        }
        Node::Attribute(attribute) => {
            if let Root::Conditional(branches) = &mut attribute.root
                && let Root::Node(node) = &mut branches.1.root
            {
                consume(node, accumulator);
            }
        }
        _ => {}
    }
}
