//! From the written tree to the tree that means it: literals get their values, macros are expanded, `&&` and `||`
//! become balanced.

use std::collections::HashMap;
use std::sync::Arc;

use super::cst::{Cst, CstEntry, CstField, DEPTH_MAX};
use super::lexer::{Kind, Token};
use super::literal;
use super::macros::{self, Maker};
use crate::ast::{Expr, ExprKind, FieldInit, Id, Literal, MapEntry, op};
use crate::source::{Issue, Place, Source};
use crate::version::Version;

/// Words that no variable or function may be called.
const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "package",
    "namespace",
    "null",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// Numbers the nodes and keeps where they stand.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    last: Id,
    offsets: HashMap<Id, usize>,
}

impl Nodes {
    pub(super) fn id_at(&mut self, offset: usize) -> Id {
        self.last += 1;
        self.offsets.insert(self.last, offset);
        self.last
    }

    pub(super) fn offset(&self, id: Id) -> Option<usize> {
        self.offsets.get(&id).copied()
    }

    fn forget(&mut self, id: Id) {
        self.offsets.remove(&id);
        if id == self.last {
            self.last -= 1;
        }
    }

    pub(super) fn into_offsets(self) -> HashMap<Id, usize> {
        self.offsets
    }
}

/// The tree grew deeper than is allowed.
pub(super) struct TooDeep;

type Made<T = Expr> = Result<T, TooDeep>;

pub(super) struct Builder<'a> {
    pub source: &'a Source,
    pub version: Version,
    pub nodes: Nodes,
    pub issues: Vec<Issue>,
    pub depth: usize,
}

impl<'a> Builder<'a> {
    pub(super) fn new(source: &'a Source, version: Version) -> Self {
        Self {
            source,
            version,
            nodes: Nodes::default(),
            issues: Vec::new(),
            depth: 0,
        }
    }

    fn text(&self, token: Token) -> String {
        self.source.text(token.start, token.end)
    }

    fn node(&mut self, token: Token, kind: ExprKind) -> Expr {
        let id = self.nodes.id_at(token.start);
        Expr { id, kind }
    }

    fn wrong(&mut self, token: Token, message: String) -> Expr {
        let place = self.source.place(token.start);
        self.issues.push(Issue { place, message });
        self.node(token, ExprKind::Nothing)
    }

    fn deep<T>(&mut self, make: impl FnOnce(&mut Self) -> Made<T>) -> Made<T> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(TooDeep);
        }
        let made = make(self);
        self.depth -= 1;
        made
    }

    pub(super) fn expr(&mut self, cst: &Cst) -> Made {
        match cst {
            Cst::Ternary {
                condition,
                op,
                yes,
                no,
            } => self.deep(|m| {
                let condition = m.expr(condition)?;
                let id = m.nodes.id_at(op.start);
                let args = vec![condition, m.expr(yes)?, m.expr(no)?];
                Ok(m.call(id, op::CONDITIONAL, None, args))
            }),
            Cst::Logic {
                or,
                start,
                terms,
                ops,
            } => self.logic(*or, *start, terms, ops),
            Cst::Relation { op, left, right } | Cst::Calc { op, left, right } => self.deep(|m| {
                let left = m.expr(left)?;
                let id = m.nodes.id_at(op.start);
                let right = m.expr(right)?;
                let function = operator(op.kind);
                Ok(m.call(id, function, None, vec![left, right]))
            }),
            Cst::Unary { ops, operand } => {
                if ops.len() % 2 == 0 {
                    return self.expr(operand);
                }
                let id = self.nodes.id_at(ops[0].start);
                let function = if ops[0].kind == Kind::Not {
                    op::NOT
                } else {
                    op::NEGATE
                };
                let operand = self.expr(operand)?;
                Ok(self.call(id, function, None, vec![operand]))
            }
            Cst::Select {
                operand,
                op,
                optional,
                field,
            } => self.deep(|m| m.select(operand, *op, *optional, *field)),
            Cst::MemberCall {
                operand,
                name,
                open,
                args,
            } => self.deep(|m| {
                let operand = m.expr(operand)?;
                let id = m.nodes.id_at(open.start);
                let args = m.exprs(args)?;
                let name = m.text(*name);
                Ok(m.call(id, &name, Some(operand), args))
            }),
            Cst::Index {
                operand,
                op,
                optional,
                index,
            } => self.deep(|m| {
                let operand = m.expr(operand)?;
                let id = m.nodes.id_at(op.start);
                let index = m.expr(index)?;
                if *optional && !m.has_optionals() {
                    return Ok(m.wrong(*op, "unsupported syntax '[?'".to_owned()));
                }
                let function = if *optional { op::OPT_INDEX } else { op::INDEX };
                Ok(m.call(id, function, None, vec![operand, index]))
            }),
            Cst::Ident { dot, name } => {
                let text = self.text(*name);
                if RESERVED.contains(&text.as_str()) {
                    return Ok(
                        self.wrong(dot.unwrap_or(*name), format!("reserved identifier: {text}"))
                    );
                }
                let text = dotted(*dot, text);
                Ok(self.node(*name, ExprKind::Ident(text)))
            }
            Cst::GlobalCall {
                dot,
                name,
                open,
                args,
            } => {
                let text = self.text(*name);
                if RESERVED.contains(&text.as_str()) {
                    return Ok(
                        self.wrong(dot.unwrap_or(*name), format!("reserved identifier: {text}"))
                    );
                }
                let text = dotted(*dot, text);
                let id = self.nodes.id_at(open.start);
                let args = self.exprs(args)?;
                Ok(self.call(id, &text, None, args))
            }
            Cst::List { open, elements } => self.list(*open, elements),
            Cst::Map { open, entries } => self.map(*open, entries),
            Cst::Message {
                dot,
                names,
                open,
                fields,
            } => self.message(*dot, names, *open, fields),
            Cst::Literal { sign, token } => Ok(self.literal(*sign, *token)),
            Cst::NamelessSelect { operand, word } => self.deep(|m| {
                m.expr(operand)?;
                Ok(m.wrong(*word, "unsupported ident kind".to_owned()))
            }),
            Cst::Broken(start) => {
                let id = start.map_or(0, |t| self.nodes.id_at(t.start));
                Ok(Expr {
                    id,
                    kind: ExprKind::Nothing,
                })
            }
        }
    }

    fn has_optionals(&self) -> bool {
        self.version >= Version::new(1, 28)
    }

    fn exprs(&mut self, list: &[Cst]) -> Made<Vec<Expr>> {
        list.iter().map(|cst| self.expr(cst)).collect()
    }

    /// A call, or what the macro of that name makes of it.
    fn call(&mut self, id: Id, function: &str, target: Option<Expr>, args: Vec<Expr>) -> Expr {
        let Some(expand) = macros::find(self.version, function, target.is_some(), args.len())
        else {
            return Expr {
                id,
                kind: ExprKind::Call {
                    function: Arc::from(function),
                    target: target.map(Box::new),
                    args,
                },
            };
        };
        let offset = self.nodes.offset(id).unwrap_or(0);
        let mut maker = Maker {
            nodes: &mut self.nodes,
            offset,
        };
        match expand(&mut maker, target, args) {
            Ok(expr) => {
                self.nodes.forget(id);
                expr
            }
            Err((at, message)) => {
                let offset = self.nodes.offset(at);
                self.nodes.forget(id);
                let place = offset.map_or(Place::NONE, |o| self.source.place(o));
                self.issues.push(Issue { place, message });
                let id = self.nodes.id_at(offset.unwrap_or(0));
                Expr {
                    id,
                    kind: ExprKind::Nothing,
                }
            }
        }
    }

    fn logic(&mut self, or: bool, start: Token, terms: &[Cst], ops: &[Token]) -> Made {
        let mut made = vec![self.expr(&terms[0])?];
        let mut ids = Vec::new();
        for (i, op) in ops.iter().enumerate() {
            let Some(term) = terms.get(i + 1) else {
                let word = if or { "||" } else { "&&" };
                return Ok(self.wrong(start, format!("unexpected character, wanted '{word}'")));
            };
            made.push(self.expr(term)?);
            ids.push(self.nodes.id_at(op.start));
        }
        let function: Arc<str> = Arc::from(if or { op::OR } else { op::AND });
        let mut terms: Vec<Option<Expr>> = made.into_iter().map(Some).collect();
        Ok(balanced(&function, &mut terms, &ids, 0, ids.len()))
    }

    fn select(&mut self, operand: &Cst, op: Token, optional: bool, field: Token) -> Made {
        let operand = self.expr(operand)?;
        let name = self.field_name(field);
        if !optional {
            return Ok(self.node(
                op,
                ExprKind::Select {
                    operand: Box::new(operand),
                    field: Arc::from(name),
                    test: false,
                },
            ));
        }
        if !self.has_optionals() {
            return Ok(self.wrong(op, "unsupported syntax '.?'".to_owned()));
        }
        let name = self.node(field, ExprKind::Literal(Literal::String(Arc::from(name))));
        Ok(self.node(
            op,
            ExprKind::Call {
                function: Arc::from(op::OPT_SELECT),
                target: None,
                args: vec![operand, name],
            },
        ))
    }

    /// The name of a field. Kubernetes doesn't take names in back-quotes.
    fn field_name(&mut self, field: Token) -> String {
        if field.kind == Kind::EscapedIdent {
            self.wrong(field, "unsupported syntax: '`'".to_owned());
            return String::new();
        }
        self.text(field)
    }

    fn list(&mut self, open: Token, elements: &[(Option<Token>, Cst)]) -> Made {
        let id = self.nodes.id_at(open.start);
        let mut optionals = Vec::new();
        let mut made = Vec::with_capacity(elements.len());
        for (i, (optional, element)) in elements.iter().enumerate() {
            made.push(self.expr(element)?);
            if let Some(question) = optional {
                if self.has_optionals() {
                    optionals.push(i);
                } else {
                    self.wrong(*question, "unsupported syntax '?'".to_owned());
                }
            }
        }
        let kind = ExprKind::List {
            elements: made,
            optionals,
        };
        Ok(Expr { id, kind })
    }

    fn map(&mut self, open: Token, entries: &[CstEntry]) -> Made {
        let id = self.nodes.id_at(open.start);
        let mut made = Vec::with_capacity(entries.len());
        for entry in entries {
            let id = self.nodes.id_at(entry.colon.start);
            if let Some(question) = entry.optional.filter(|_| !self.has_optionals()) {
                self.wrong(question, "unsupported syntax '?'".to_owned());
                continue;
            }
            made.push(MapEntry {
                id,
                key: self.expr(&entry.key)?,
                value: self.expr(&entry.value)?,
                optional: entry.optional.is_some(),
            });
        }
        Ok(Expr {
            id,
            kind: ExprKind::Map(made),
        })
    }

    fn message(&mut self, dot: bool, names: &[Token], open: Token, fields: &[CstField]) -> Made {
        let names: Vec<String> = names.iter().map(|n| self.text(*n)).collect();
        let name = format!("{}{}", if dot { "." } else { "" }, names.join("."));
        let id = self.nodes.id_at(open.start);
        let mut made = Vec::with_capacity(fields.len());
        for field in fields {
            let id = self.nodes.id_at(field.colon.start);
            if let Some(question) = field.optional.filter(|_| !self.has_optionals()) {
                self.wrong(question, "unsupported syntax '?'".to_owned());
                continue;
            }
            if field.name.kind == Kind::EscapedIdent {
                let first = fields.first().map_or(field.name, |f| f.name);
                self.wrong(first, "unsupported syntax: '`'".to_owned());
                continue;
            }
            made.push(FieldInit {
                id,
                name: Arc::from(self.text(field.name)),
                value: self.expr(&field.value)?,
                optional: field.optional.is_some(),
            });
        }
        let kind = ExprKind::Struct {
            name: Arc::from(name),
            fields: made,
        };
        Ok(Expr { id, kind })
    }

    fn literal(&mut self, sign: Option<Token>, token: Token) -> Expr {
        let start = sign.unwrap_or(token);
        let mut text = self.text(token);
        if sign.is_some() {
            text.insert(0, '-');
        }
        let read = match token.kind {
            Kind::Int => literal::int(&text)
                .map(Literal::Int)
                .ok_or("invalid int literal"),
            Kind::Uint => literal::uint(&text)
                .map(Literal::Uint)
                .ok_or("invalid uint literal"),
            Kind::Float => literal::double(&text)
                .map(Literal::Double)
                .ok_or("invalid double literal"),
            Kind::True => Ok(Literal::Bool(true)),
            Kind::False => Ok(Literal::Bool(false)),
            Kind::Null => Ok(Literal::Null),
            Kind::Bytes => literal::bytes(&text[1..]).map(|b| Literal::Bytes(Arc::from(b))),
            _ => literal::string(&text).map(|s| Literal::String(Arc::from(s))),
        };
        match read {
            Ok(literal) => self.node(start, ExprKind::Literal(literal)),
            Err(message) => self.wrong(start, message.to_owned()),
        }
    }
}

fn dotted(dot: Option<Token>, name: String) -> Arc<str> {
    match dot {
        Some(_) => Arc::from(format!(".{name}")),
        None => Arc::from(name),
    }
}

/// The terms from `low` up to and with `high`, as a tree as flat as can be.
fn balanced(
    function: &Arc<str>,
    terms: &mut [Option<Expr>],
    ids: &[Id],
    low: usize,
    n_ops: usize,
) -> Expr {
    let nothing = || Expr {
        id: 0,
        kind: ExprKind::Nothing,
    };
    if n_ops == 0 {
        return terms[low].take().unwrap_or_else(nothing);
    }
    let n_left = n_ops / 2;
    let middle = low + n_left;
    let left = balanced(function, terms, ids, low, n_left);
    let right = balanced(function, terms, ids, middle + 1, n_ops - n_left - 1);
    Expr {
        id: ids[middle],
        kind: ExprKind::Call {
            function: function.clone(),
            target: None,
            args: vec![left, right],
        },
    }
}

fn operator(kind: Kind) -> &'static str {
    match kind {
        Kind::Eq => op::EQUALS,
        Kind::Ne => op::NOT_EQUALS,
        Kind::Lt => "_<_",
        Kind::Le => "_<=_",
        Kind::Gt => "_>_",
        Kind::Ge => "_>=_",
        Kind::In => "@in",
        Kind::Plus => op::ADD,
        Kind::Minus => "_-_",
        Kind::Star => "_*_",
        Kind::Slash => "_/_",
        _ => "_%_",
    }
}
