//! The tree of an expression as it is written, and the quick reader of a text that has no mistakes.
//!
//! What has one is read again by [`super::mistakes`], which tells it as other implementations of the language do.

use super::lexer::{Kind, Token};

/// The deepest nesting of one rule of the grammar.
pub(crate) const DEPTH_MAX: usize = 250;

/// A written expression. Parentheses and rules that only pass one part through leave no trace.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cst {
    Ternary {
        condition: Box<Cst>,
        op: Token,
        yes: Box<Cst>,
        no: Box<Cst>,
    },
    /// `||` and `&&` with all their terms.
    Logic {
        or: bool,
        start: Token,
        terms: Vec<Cst>,
        ops: Vec<Token>,
    },
    Relation {
        op: Token,
        left: Box<Cst>,
        right: Box<Cst>,
    },
    Calc {
        op: Token,
        left: Box<Cst>,
        right: Box<Cst>,
    },
    /// `!` and `-`, maybe several of them.
    Unary {
        ops: Vec<Token>,
        operand: Box<Cst>,
    },
    Select {
        operand: Box<Cst>,
        op: Token,
        optional: bool,
        field: Token,
    },
    MemberCall {
        operand: Box<Cst>,
        name: Token,
        open: Token,
        args: Vec<Cst>,
    },
    Index {
        operand: Box<Cst>,
        op: Token,
        optional: bool,
        index: Box<Cst>,
    },
    Ident {
        dot: Option<Token>,
        name: Token,
    },
    GlobalCall {
        dot: Option<Token>,
        name: Token,
        open: Token,
        args: Vec<Cst>,
    },
    List {
        open: Token,
        elements: Vec<(Option<Token>, Cst)>,
    },
    Map {
        open: Token,
        entries: Vec<CstEntry>,
    },
    Message {
        dot: bool,
        names: Vec<Token>,
        open: Token,
        fields: Vec<CstField>,
    },
    Literal {
        sign: Option<Token>,
        token: Token,
    },
    /// A selection without a name, and the word that stands in its place.
    NamelessSelect {
        operand: Box<Cst>,
        word: Token,
    },
    /// What could not be read. Its place, if there is one, is where the rule began.
    Broken(Option<Token>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CstEntry {
    pub optional: Option<Token>,
    pub key: Cst,
    pub colon: Token,
    pub value: Cst,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CstField {
    pub optional: Option<Token>,
    pub name: Token,
    pub colon: Token,
    pub value: Cst,
}

/// Why the quick reader gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    Mistake,
    TooDeep,
}

/// Reads all words.
pub(crate) fn read(tokens: &[Token]) -> Result<Cst, Failure> {
    let mut reader = Reader {
        tokens,
        at: 0,
        expr_depth: 0,
        relation_depth: 0,
        calc_depth: 0,
    };
    let cst = reader.expr()?;
    reader.expect(Kind::Eof)?;
    Ok(cst)
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    expr_depth: usize,
    relation_depth: usize,
    calc_depth: usize,
}

type Read<T = Cst> = Result<T, Failure>;

fn deeper(depth: &mut usize) -> Read<()> {
    *depth += 1;
    if *depth > DEPTH_MAX {
        return Err(Failure::TooDeep);
    }
    Ok(())
}

impl Reader<'_> {
    fn peek(&self) -> Token {
        self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn kind(&self, ahead: usize) -> Kind {
        self.tokens
            .get(self.at + ahead)
            .map_or(Kind::Eof, |t| t.kind)
    }

    fn next(&mut self) -> Token {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn expect(&mut self, kind: Kind) -> Read<Token> {
        if self.kind(0) == kind {
            Ok(self.next())
        } else {
            Err(Failure::Mistake)
        }
    }

    /// The word that makes what follows optional.
    fn question(&mut self) -> Option<Token> {
        (self.kind(0) == Kind::Question).then(|| self.next())
    }

    fn accept(&mut self, kind: Kind) -> bool {
        let is = self.kind(0) == kind;
        self.at += usize::from(is);
        is
    }

    fn expr(&mut self) -> Read {
        deeper(&mut self.expr_depth)?;
        let condition = self.logic(true)?;
        let out = if self.kind(0) == Kind::Question {
            let op = self.next();
            let yes = self.logic(true)?;
            self.expect(Kind::Colon)?;
            let no = self.expr()?;
            Cst::Ternary {
                condition: Box::new(condition),
                op,
                yes: Box::new(yes),
                no: Box::new(no),
            }
        } else {
            condition
        };
        self.expr_depth -= 1;
        Ok(out)
    }

    fn logic(&mut self, or: bool) -> Read {
        let start = self.peek();
        let term = |reader: &mut Self| {
            if or {
                reader.logic(false)
            } else {
                reader.relation()
            }
        };
        let first = term(self)?;
        let word = if or { Kind::Or } else { Kind::And };
        if self.kind(0) != word {
            return Ok(first);
        }
        let (mut terms, mut ops) = (vec![first], Vec::new());
        while self.kind(0) == word {
            ops.push(self.next());
            terms.push(term(self)?);
        }
        Ok(Cst::Logic {
            or,
            start,
            terms,
            ops,
        })
    }

    fn relation(&mut self) -> Read {
        deeper(&mut self.relation_depth)?;
        let mut left = self.calc(0)?;
        while matches!(
            self.kind(0),
            Kind::Lt | Kind::Le | Kind::Ge | Kind::Gt | Kind::Eq | Kind::Ne | Kind::In
        ) {
            let op = self.next();
            deeper(&mut self.relation_depth)?;
            let right = self.calc(0)?;
            self.relation_depth -= 1;
            left = Cst::Relation {
                op,
                left: Box::new(left),
                right: Box::new(right),
            };
        }
        self.relation_depth -= 1;
        Ok(left)
    }

    /// Sums from precedence 0, products from 1, one operand at 2.
    fn calc(&mut self, precedence: u8) -> Read {
        deeper(&mut self.calc_depth)?;
        let mut left = self.unary()?;
        loop {
            let of_op = match self.kind(0) {
                Kind::Star | Kind::Slash | Kind::Percent if precedence < 2 => 1,
                Kind::Plus | Kind::Minus if precedence < 1 => 0,
                _ => break,
            };
            let op = self.next();
            let right = self.calc(of_op + 1)?;
            left = Cst::Calc {
                op,
                left: Box::new(left),
                right: Box::new(right),
            };
        }
        self.calc_depth -= 1;
        Ok(left)
    }

    fn unary(&mut self) -> Read {
        let op = match self.kind(0) {
            Kind::Minus if self.is_negative_number() => return self.member(),
            op @ (Kind::Minus | Kind::Not) => op,
            _ => return self.member(),
        };
        let mut ops = Vec::new();
        while self.kind(0) == op {
            ops.push(self.next());
        }
        Ok(Cst::Unary {
            ops,
            operand: Box::new(self.member()?),
        })
    }

    /// Whether the sign that comes next is that of a number.
    fn is_negative_number(&self) -> bool {
        matches!(self.kind(1), Kind::Int | Kind::Float)
    }

    fn member(&mut self) -> Read {
        let mut operand = self.primary()?;
        loop {
            let inner = Box::new(operand);
            operand = match self.kind(0) {
                Kind::Dot => {
                    let op = self.next();
                    self.after_dot(inner, op)?
                }
                Kind::LBracket => {
                    let op = self.next();
                    let optional = self.accept(Kind::Question);
                    let index = Box::new(self.expr()?);
                    self.expect(Kind::RBracket)?;
                    Cst::Index {
                        operand: inner,
                        op,
                        optional,
                        index,
                    }
                }
                _ => return Ok(*inner),
            };
        }
    }

    fn after_dot(&mut self, operand: Box<Cst>, op: Token) -> Read {
        if self.kind(0) == Kind::Ident && self.kind(1) == Kind::LParen {
            let name = self.next();
            let open = self.next();
            let args = self.args()?;
            return Ok(Cst::MemberCall {
                operand,
                name,
                open,
                args,
            });
        }
        let optional = self.accept(Kind::Question);
        if !matches!(self.kind(0), Kind::Ident | Kind::EscapedIdent) {
            return Err(Failure::Mistake);
        }
        Ok(Cst::Select {
            operand,
            op,
            optional,
            field: self.next(),
        })
    }

    /// Arguments up to the closing parenthesis.
    fn args(&mut self) -> Read<Vec<Cst>> {
        let mut args = Vec::new();
        if self.accept(Kind::RParen) {
            return Ok(args);
        }
        loop {
            args.push(self.expr()?);
            if !self.accept(Kind::Comma) {
                self.expect(Kind::RParen)?;
                return Ok(args);
            }
        }
    }

    fn primary(&mut self) -> Read {
        match self.kind(0) {
            Kind::LParen => {
                self.next();
                let inner = self.expr()?;
                self.expect(Kind::RParen)?;
                Ok(inner)
            }
            Kind::LBracket => self.list(),
            Kind::LBrace => self.map(),
            Kind::Dot | Kind::Ident => self.name(),
            Kind::Minus if self.is_negative_number() => {
                let sign = Some(self.next());
                let token = self.next();
                Ok(Cst::Literal { sign, token })
            }
            Kind::Int
            | Kind::Uint
            | Kind::Float
            | Kind::String
            | Kind::Bytes
            | Kind::True
            | Kind::False
            | Kind::Null => Ok(Cst::Literal {
                sign: None,
                token: self.next(),
            }),
            _ => Err(Failure::Mistake),
        }
    }

    fn name(&mut self) -> Read {
        let dot = (self.kind(0) == Kind::Dot).then(|| self.next());
        let name = self.expect(Kind::Ident)?;
        if self.kind(0) == Kind::LParen {
            let open = self.next();
            let args = self.args()?;
            return Ok(Cst::GlobalCall {
                dot,
                name,
                open,
                args,
            });
        }
        let mut ahead = 0;
        while self.kind(ahead) == Kind::Dot && self.kind(ahead + 1) == Kind::Ident {
            ahead += 2;
        }
        if self.kind(ahead) != Kind::LBrace {
            return Ok(Cst::Ident { dot, name });
        }
        let mut names = vec![name];
        while self.accept(Kind::Dot) {
            names.push(self.next());
        }
        let open = self.next();
        let fields = self.fields()?;
        Ok(Cst::Message {
            dot: dot.is_some(),
            names,
            open,
            fields,
        })
    }

    fn fields(&mut self) -> Read<Vec<CstField>> {
        let mut fields = Vec::new();
        while !self.closes(Kind::RBrace, fields.is_empty())? {
            let optional = self.question();
            if !matches!(self.kind(0), Kind::Ident | Kind::EscapedIdent) {
                return Err(Failure::Mistake);
            }
            let name = self.next();
            let colon = self.expect(Kind::Colon)?;
            let value = self.expr()?;
            fields.push(CstField {
                optional,
                name,
                colon,
                value,
            });
        }
        Ok(fields)
    }

    /// Whether a bracket closes here; else a comma was read if one was due. One may stand before the bracket.
    fn closes(&mut self, bracket: Kind, is_empty: bool) -> Read<bool> {
        if is_empty {
            if self.kind(0) == Kind::Comma && self.kind(1) == bracket {
                self.next();
            }
        } else if !self.accept(Kind::Comma) {
            self.expect(bracket)?;
            return Ok(true);
        }
        Ok(self.accept(bracket))
    }

    fn list(&mut self) -> Read {
        let open = self.next();
        let mut elements = Vec::new();
        while !self.closes(Kind::RBracket, elements.is_empty())? {
            let optional = self.question();
            elements.push((optional, self.expr()?));
        }
        Ok(Cst::List { open, elements })
    }

    fn map(&mut self) -> Read {
        let open = self.next();
        let mut entries = Vec::new();
        while !self.closes(Kind::RBrace, entries.is_empty())? {
            let optional = self.question();
            let key = self.expr()?;
            let colon = self.expect(Kind::Colon)?;
            let value = self.expr()?;
            entries.push(CstEntry {
                optional,
                key,
                colon,
                value,
            });
        }
        Ok(Cst::Map { open, entries })
    }
}
