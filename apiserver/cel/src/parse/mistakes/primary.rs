//! What expressions are made of in the end: literals, names, lists, maps and messages.

use super::super::cst::{Cst, CstEntry, CstField};
use super::super::lexer::{Kind, Token};
use super::words::*;
use super::{Read, Reader, Rule};

impl Reader<'_> {
    pub(super) fn primary(&mut self, follow: Point) -> Read {
        let broken = self.broken();
        self.rule(follow, broken, |r, out| {
            r.sync(Point::Primary)?;
            match r.kind(0) {
                LParen => {
                    r.matched();
                    *out = r.expr(Point::GroupClose)?;
                    r.expect(RParen, Point::GroupClose, Point::PrimaryEnd)?;
                    Ok(())
                }
                LBracket => r.list(out),
                LBrace => r.map(out),
                Dot | Ident => r.named(out),
                kind if LITERAL.has(kind) => {
                    *out = r.literal(Point::PrimaryEnd)?;
                    Ok(())
                }
                _ => Err(r.no_way(0)),
            }
        })
    }

    fn literal(&mut self, follow: Point) -> Read {
        let broken = self.broken();
        self.rule(follow, broken, |r, out| {
            r.sync(Point::Literal)?;
            let is_signed = r.kind(0) == Minus;
            if is_signed && !matches!(r.kind(1), Int | Float) {
                return Err(r.no_way(1));
            }
            let sign = is_signed.then(|| r.matched());
            let token = r.matched();
            *out = Cst::Literal { sign, token };
            Ok(())
        })
    }

    fn named(&mut self, out: &mut Cst) -> Rule {
        let lead = usize::from(self.kind(0) == Dot);
        if self.kind(lead) != Ident {
            return Err(self.no_way(lead));
        }
        let mut ahead = lead + 1;
        while self.kind(ahead) == Dot && self.kind(ahead + 1) == Ident {
            ahead += 2;
        }
        let is_message = self.kind(ahead) == LBrace;
        let dot = (lead == 1).then(|| self.matched());
        let name = self.matched();
        if !is_message {
            *out = Cst::Ident { dot, name };
            if self.kind(0) == LParen {
                let open = self.matched();
                let (args, read) = self.args();
                *out = Cst::GlobalCall {
                    dot,
                    name,
                    open,
                    args,
                };
                return read;
            }
            return Ok(());
        }
        let mut names = vec![name];
        while self.kind(0) == Dot {
            self.matched();
            names.push(self.matched());
        }
        let open = self.matched();
        let mut fields = Vec::new();
        let read = self.fields(&mut fields);
        *out = Cst::Message {
            dot: dot.is_some(),
            names,
            open,
            fields,
        };
        read
    }

    /// What follows the items of brackets: maybe a comma, and the closing one.
    fn close(&mut self, kind: Kind, comma: Point, close: Point) -> Rule {
        self.sync(comma)?;
        if self.kind(0) == Comma {
            self.matched();
        }
        self.expect(kind, close, Point::PrimaryEnd)?;
        Ok(())
    }

    fn list(&mut self, out: &mut Cst) -> Rule {
        let open = self.matched();
        let mut elements = Vec::new();
        let read = self.list_into(&mut elements);
        *out = Cst::List { open, elements };
        read
    }

    fn list_into(&mut self, elements: &mut Vec<(Option<Token>, Cst)>) -> Rule {
        self.sync(Point::ListItems)?;
        if OPT_EXPR.has(self.kind(0)) {
            self.rule(Point::ListComma, Cst::Broken(None), |r, _| {
                elements.push(r.optional(Point::ListLoop)?);
                r.sync(Point::ListLoop)?;
                while r.kind(0) == Comma && OPT_EXPR.has(r.kind(1)) {
                    r.matched();
                    elements.push(r.optional(Point::ListLoop)?);
                    r.sync(Point::ListLoop)?;
                }
                Ok(())
            })?;
        }
        self.close(RBracket, Point::ListComma, Point::ListClose)
    }

    /// An expression that a question mark may stand before.
    fn optional(&mut self, follow: Point) -> Read<(Option<Token>, Cst)> {
        let mut question = None;
        let cst = self.rule(follow, Cst::Broken(None), |r, out| {
            r.sync(Point::OptExpr)?;
            if r.kind(0) == Question {
                question = Some(r.matched());
            }
            *out = r.expr(Point::RuleEnd)?;
            Ok(())
        })?;
        Ok((question, cst))
    }

    fn map(&mut self, out: &mut Cst) -> Rule {
        let open = self.matched();
        let mut entries = Vec::new();
        let read = self.map_into(&mut entries);
        *out = Cst::Map { open, entries };
        read
    }

    fn map_into(&mut self, entries: &mut Vec<CstEntry>) -> Rule {
        self.sync(Point::MapItems)?;
        if OPT_EXPR.has(self.kind(0)) {
            self.rule(Point::MapComma, Cst::Broken(None), |r, _| {
                entries.push(r.entry()?);
                r.sync(Point::MapLoop)?;
                while r.kind(0) == Comma && OPT_EXPR.has(r.kind(1)) {
                    r.matched();
                    entries.push(r.entry()?);
                    r.sync(Point::MapLoop)?;
                }
                Ok(())
            })?;
        }
        self.close(RBrace, Point::MapComma, Point::MapClose)
    }

    fn entry(&mut self) -> Rule<CstEntry> {
        let (optional, key) = self.optional(Point::MapColon)?;
        let colon = self.expect(Colon, Point::MapColon, Point::Operand)?;
        let value = self.expr(Point::MapLoop)?;
        Ok(CstEntry {
            optional,
            key,
            colon,
            value,
        })
    }

    fn fields(&mut self, fields: &mut Vec<CstField>) -> Rule {
        self.sync(Point::FieldItems)?;
        if OPT_NAME.has(self.kind(0)) {
            self.rule(Point::FieldComma, Cst::Broken(None), |r, _| {
                fields.extend(r.field()?);
                r.sync(Point::FieldLoop)?;
                while r.kind(0) == Comma && OPT_NAME.has(r.kind(1)) {
                    r.matched();
                    fields.extend(r.field()?);
                    r.sync(Point::FieldLoop)?;
                }
                Ok(())
            })?;
        }
        self.close(RBrace, Point::FieldComma, Point::FieldClose)
    }

    fn field(&mut self) -> Rule<Option<CstField>> {
        let (mut optional, mut name) = (None, None);
        self.rule(Point::FieldColon, Cst::Broken(None), |r, _| {
            r.sync(Point::OptField)?;
            if r.kind(0) == Question {
                optional = Some(r.matched());
            }
            name = r.name(Point::RuleEnd)?;
            Ok(())
        })?;
        let colon = self.expect(Colon, Point::FieldColon, Point::Operand)?;
        let value = self.expr(Point::FieldLoop)?;
        Ok(name.map(|name| CstField {
            optional,
            name,
            colon,
            value,
        }))
    }
}
