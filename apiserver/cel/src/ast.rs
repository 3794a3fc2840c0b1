//! The tree of an expression after macros are expanded.

use std::collections::HashMap;
use std::sync::Arc;

/// The number of a node, as it is counted from one while reading.
pub(crate) type Id = u32;

/// A value that stands in the text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Expr {
    pub id: Id,
    pub kind: ExprKind,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ExprKind {
    /// What stands where something is wrong.
    Nothing,
    Literal(Literal),
    Ident(Arc<str>),
    Select {
        operand: Box<Expr>,
        field: Arc<str>,
        /// Whether only the presence is asked for.
        test: bool,
    },
    Call {
        function: Arc<str>,
        target: Option<Box<Expr>>,
        args: Vec<Expr>,
    },
    List {
        elements: Vec<Expr>,
        optionals: Vec<usize>,
    },
    Map(Vec<MapEntry>),
    Struct {
        name: Arc<str>,
        fields: Vec<FieldInit>,
    },
    Comprehension(Box<Comprehension>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MapEntry {
    pub id: Id,
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FieldInit {
    pub id: Id,
    pub name: Arc<str>,
    pub value: Expr,
    pub optional: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Comprehension {
    pub range: Expr,
    pub var: Arc<str>,
    pub var2: Option<Arc<str>>,
    pub accumulator: Arc<str>,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

/// A tree and where its nodes stand in the text.
#[derive(Debug, Clone)]
pub(crate) struct Ast {
    pub root: Expr,
    pub offsets: HashMap<Id, usize>,
}

/// The name that the accumulator of a macro has.
pub(crate) const ACCUMULATOR: &str = "@result";
/// The name that it had once, which is still refused.
pub(crate) const FORMER_ACCUMULATOR: &str = "__result__";

/// Names of operators as functions.
pub(crate) mod op {
    pub(crate) const CONDITIONAL: &str = "_?_:_";
    pub(crate) const AND: &str = "_&&_";
    pub(crate) const OR: &str = "_||_";
    pub(crate) const NOT: &str = "!_";
    pub(crate) const NEGATE: &str = "-_";
    pub(crate) const EQUALS: &str = "_==_";
    pub(crate) const NOT_EQUALS: &str = "_!=_";
    pub(crate) const ADD: &str = "_+_";
    pub(crate) const INDEX: &str = "_[_]";
    pub(crate) const OPT_INDEX: &str = "_[?_]";
    pub(crate) const OPT_SELECT: &str = "_?._";
    pub(crate) const NOT_STRICTLY_FALSE: &str = "@not_strictly_false";
}

impl Expr {
    /// The dotted name that an identifier or a chain of selections spells.
    pub(crate) fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            ExprKind::Ident(name) => Some(name.to_string()),
            ExprKind::Select {
                operand,
                field,
                test: false,
            } => operand
                .qualified_name()
                .map(|prefix| format!("{prefix}.{field}")),
            _ => None,
        }
    }
}
