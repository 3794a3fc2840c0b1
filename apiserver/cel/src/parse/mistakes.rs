//! Reading a text with mistakes.
//!
//! Users know the messages of kube-apiserver, whose reader is generated from a grammar and goes on after a mistake:
//! it drops a word that stands in the way of the right one, takes a missing one as there, or skips to a word that
//! can follow. This reader does the same, so that it tells the same mistakes at the same places. [`Point`] is a place
//! in the grammar, with the words that can come there.

mod primary;
mod words;

use std::collections::HashSet;

use super::cst::{Cst, DEPTH_MAX};
use super::lexer::{Garbage, Kind, Token};
use crate::source::{Issue, Place, Source};
use words::*;

/// How often reading may go on after a mistake.
const RECOVERIES_MAX: usize = 30;
/// The most mistakes that are told.
const ISSUES_MAX: usize = 100;

/// What can be read of it, and what is wrong; or only what is wrong when reading had to stop.
pub(super) fn read(
    source: &Source,
    tokens: &[Token],
    garbage: Garbage,
) -> Result<(Cst, Vec<Issue>), Vec<Issue>> {
    let mut reader = Reader {
        source,
        tokens,
        at: 0,
        state: Point::StartEnd,
        around: Vec::new(),
        recovering: false,
        last_error: None,
        n_recoveries: 0,
        issues: garbage.issues,
        dropped: garbage.dropped,
        expr_depth: 0,
        relation_depth: 0,
        calc_depth: 0,
    };
    let root = reader.start();
    match root {
        Ok(cst) => Ok((cst, reader.issues)),
        Err(Stop) => Err(reader.issues),
    }
}

/// A mistake that ends a rule.
enum Mistake {
    /// No way of the grammar fits from one word to another.
    NoWay { from: usize, to: usize },
    /// A word that isn't one of those expected.
    Unexpected { word: usize, expected: Words },
}

/// Reading can't go on at all.
struct Stop;

enum Broken {
    Mistake(Mistake),
    Stop,
}

impl From<Stop> for Broken {
    fn from(_: Stop) -> Self {
        Self::Stop
    }
}

type Rule<T = ()> = Result<T, Broken>;
type Read<T = Cst> = Result<T, Stop>;

struct Reader<'a> {
    source: &'a Source,
    tokens: &'a [Token],
    at: usize,
    state: Point,
    /// Where each rule around goes on.
    around: Vec<Point>,
    recovering: bool,
    last_error: Option<(usize, HashSet<Point>)>,
    n_recoveries: usize,
    issues: Vec<Issue>,
    dropped: Vec<std::ops::Range<usize>>,
    expr_depth: usize,
    relation_depth: usize,
    calc_depth: usize,
}

impl Reader<'_> {
    fn token(&self, ahead: usize) -> Token {
        self.tokens[(self.at + ahead).min(self.tokens.len() - 1)]
    }

    fn kind(&self, ahead: usize) -> Kind {
        self.token(ahead).kind
    }

    fn next(&mut self) -> Token {
        let token = self.token(0);
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    // What is told.

    fn tell(&mut self, word: usize, message: String) -> Read<()> {
        let token = self.tokens[word.min(self.tokens.len() - 1)];
        let place = if self.source.chars.is_empty() {
            // The end of nothing is before its first column.
            Place {
                line: 1,
                column: -1,
            }
        } else {
            self.source.place(token.start)
        };
        let is_last = self.issues.len() >= ISSUES_MAX;
        let message = if is_last {
            format!("More than {ISSUES_MAX} syntax errors")
        } else {
            message
        };
        self.issues.push(Issue {
            place,
            message: format!("Syntax error: {message}"),
        });
        if is_last { Err(Stop) } else { Ok(()) }
    }

    /// A part of the text without what is no word.
    fn text(&self, start: usize, end: usize) -> String {
        let kept = (start..end).filter(|i| !self.dropped.iter().any(|range| range.contains(i)));
        kept.filter_map(|i| self.source.chars.get(i)).collect()
    }

    fn shown(&self, word: usize) -> String {
        let token = self.tokens[word.min(self.tokens.len() - 1)];
        if token.kind == Eof {
            return "'<EOF>'".to_owned();
        }
        quoted(&self.source.text(token.start, token.end))
    }

    fn report(&mut self, mistake: &Mistake) -> Read<()> {
        if self.recovering {
            return Ok(());
        }
        self.recovering = true;
        match mistake {
            Mistake::Unexpected { word, expected } => {
                let message = format!(
                    "mismatched input {} expecting {}",
                    self.shown(*word),
                    expected.show()
                );
                self.tell(*word, message)
            }
            Mistake::NoWay { from, to } => {
                let (first, last) = (self.tokens[*from], self.tokens[*to]);
                let text = if first.kind == Eof {
                    "<EOF>".to_owned()
                } else {
                    self.text(first.start, last.end)
                };
                let reserved = text
                    .chars()
                    .next()
                    .map(|c| &text[c.len_utf8()..])
                    .filter(|rest| matches!(*rest, "true" | "false" | "null"));
                let message = match reserved {
                    Some(word) => format!("mismatched input '{word}' expecting IDENTIFIER"),
                    None => format!("no viable alternative at input {}", quoted(&text)),
                };
                self.tell(*to, message)
            }
        }
    }

    fn report_extraneous(&mut self) -> Read<()> {
        if self.recovering {
            return Ok(());
        }
        self.recovering = true;
        let expected = self.expected(self.state).show();
        let message = format!(
            "extraneous input {} expecting {expected}",
            self.shown(self.at)
        );
        self.tell(self.at, message)
    }

    fn report_missing(&mut self) -> Read<()> {
        if self.recovering {
            return Ok(());
        }
        self.recovering = true;
        let expected = self.expected(self.state).show();
        let message = format!("missing {expected} at {}", self.shown(self.at));
        self.tell(self.at, message)
    }

    // What can come, and going on.

    /// The words at a place, and behind the rules that may end there.
    fn expected(&self, point: Point) -> Words {
        let mut words = point.words();
        for follow in self.around.iter().rev() {
            if !words.may_end() {
                return words;
            }
            words = words.without_end().or(follow.words());
        }
        if words.may_end() {
            words = words.without_end().or(Words::of(&[Eof]));
        }
        words
    }

    /// The words at which rules around can go on.
    fn recovery_words(&self) -> Words {
        self.around
            .iter()
            .fold(Words(0), |all, point| all.or(point.words()))
            .without_end()
    }

    fn skip_to(&mut self, words: Words) {
        while self.kind(0) != Eof && !words.has(self.kind(0)) {
            self.next();
        }
    }

    fn count_recovery(&mut self) -> Read<()> {
        if self.n_recoveries == RECOVERIES_MAX {
            let message = format!("error recovery attempt limit exceeded: {RECOVERIES_MAX}");
            self.tell(self.at, message)?;
            return Err(Stop);
        }
        self.n_recoveries += 1;
        Ok(())
    }

    /// Ends a rule with a mistake: skips to a word at which a rule around can go on.
    fn recover(&mut self) -> Read<()> {
        self.count_recovery()?;
        let state = self.state;
        let is_stuck = self
            .last_error
            .as_ref()
            .is_some_and(|(at, states)| *at == self.at && states.contains(&state));
        if is_stuck {
            self.next();
        }
        let states = match self.last_error.take() {
            Some((_, mut states)) => {
                states.insert(state);
                states
            }
            None => HashSet::from([state]),
        };
        self.last_error = Some((self.at, states));
        let words = self.recovery_words();
        self.skip_to(words);
        Ok(())
    }

    /// Drops a word if the one behind it is right.
    fn drop_one(&mut self) -> Read<bool> {
        if !self.expected(self.state).has(self.kind(1)) {
            return Ok(false);
        }
        // Behind the end there is the end.
        self.report_extraneous()?;
        self.next();
        self.recovering = false;
        Ok(true)
    }

    /// Before a choice: makes sure that one of its ways can be gone.
    fn sync(&mut self, point: Point) -> Rule {
        self.state = point;
        let words = point.words();
        if self.recovering || words.may_end() || words.has(self.kind(0)) {
            return Ok(());
        }
        if self.drop_one()? {
            return Ok(());
        }
        Err(self.unexpected())
    }

    /// At the end of a turn of a loop that must turn once.
    fn sync_loop(&mut self, point: Point) -> Rule {
        self.state = point;
        let words = point.words();
        if self.recovering || words.may_end() || words.has(self.kind(0)) {
            return Ok(());
        }
        self.report_extraneous()?;
        let words = self.expected(point).or(self.recovery_words());
        self.skip_to(words);
        Ok(())
    }

    fn unexpected(&self) -> Broken {
        Broken::Mistake(Mistake::Unexpected {
            word: self.at,
            expected: self.expected(self.state),
        })
    }

    fn no_way(&self, ahead: usize) -> Broken {
        let to = (self.at + ahead).min(self.tokens.len() - 1);
        Broken::Mistake(Mistake::NoWay { from: self.at, to })
    }

    fn matched(&mut self) -> Token {
        self.recovering = false;
        self.next()
    }

    /// Reads a word, or goes on as if it were there; `after` is where the rule goes on.
    fn expect(&mut self, kind: Kind, point: Point, after: Point) -> Rule<Token> {
        self.state = point;
        if self.kind(0) == kind {
            return Ok(self.matched());
        }
        self.count_recovery()?;
        if self.drop_one()? {
            return Ok(self.next());
        }
        if self.expected(after).has(self.kind(0)) {
            self.report_missing()?;
            let here = self.token(0);
            return Ok(Token {
                kind,
                start: here.start,
                end: here.start,
            });
        }
        Err(self.unexpected())
    }

    /// A rule: what it read before a mistake stays.
    fn rule(
        &mut self,
        follow: Point,
        out: Cst,
        body: impl FnOnce(&mut Self, &mut Cst) -> Rule,
    ) -> Read {
        self.around.push(follow);
        let mut out = out;
        match body(self, &mut out) {
            Ok(()) => {}
            Err(Broken::Stop) => return Err(Stop),
            Err(Broken::Mistake(mistake)) => {
                self.report(&mistake)?;
                self.recover()?;
            }
        }
        self.around.pop();
        Ok(out)
    }

    fn deeper(&mut self, depth: fn(&mut Self) -> &mut usize) -> Read<()> {
        *depth(self) += 1;
        if *depth(self) > DEPTH_MAX {
            self.issues.push(Issue {
                place: Place::NONE,
                message: format!("expression recursion limit exceeded: {DEPTH_MAX}"),
            });
            return Err(Stop);
        }
        Ok(())
    }

    fn broken(&self) -> Cst {
        Cst::Broken(Some(self.token(0)))
    }

    // The rules.

    fn start(&mut self) -> Read {
        let cst = self.expr(Point::StartEnd)?;
        match self.expect(Eof, Point::StartEnd, Point::RuleEnd) {
            Ok(_) => Ok(cst),
            Err(Broken::Stop) => Err(Stop),
            Err(Broken::Mistake(mistake)) => {
                self.report(&mistake)?;
                self.recover()?;
                Ok(cst)
            }
        }
    }

    fn expr(&mut self, follow: Point) -> Read {
        self.deeper(|r| &mut r.expr_depth)?;
        let broken = self.broken();
        let out = self.rule(follow, broken, |r, out| {
            let condition = r.logic(true, Point::Condition)?;
            *out = condition;
            r.sync(Point::Condition)?;
            if r.kind(0) != Question {
                return Ok(());
            }
            let op = r.matched();
            let yes = r.logic(true, Point::Yes)?;
            let condition = std::mem::replace(out, Cst::Broken(None));
            *out = Cst::Ternary {
                condition: Box::new(condition),
                op,
                yes: Box::new(yes),
                no: Box::new(Cst::Broken(None)),
            };
            r.expect(Colon, Point::Yes, Point::AfterColon)?;
            let read = r.expr(Point::RuleEnd)?;
            if let Cst::Ternary { no, .. } = out {
                **no = read;
            }
            Ok(())
        });
        self.expr_depth -= 1;
        out
    }

    fn logic(&mut self, or: bool, follow: Point) -> Read {
        let start = self.token(0);
        let (word, point) = if or {
            (Or, Point::OrLoop)
        } else {
            (And, Point::AndLoop)
        };
        let broken = self.broken();
        self.rule(follow, broken, |r, out| {
            let term = |r: &mut Self| {
                if or {
                    r.logic(false, point)
                } else {
                    r.relation(point)
                }
            };
            let mut terms = vec![term(r)?];
            let mut ops = Vec::new();
            r.sync(point)?;
            while r.kind(0) == word {
                ops.push(r.matched());
                terms.push(term(r)?);
                r.sync(point)?;
            }
            *out = if ops.is_empty() {
                terms.remove(0)
            } else {
                Cst::Logic {
                    or,
                    start,
                    terms,
                    ops,
                }
            };
            Ok(())
        })
    }

    fn relation(&mut self, follow: Point) -> Read {
        self.deeper(|r| &mut r.relation_depth)?;
        let broken = self.broken();
        let out = self.rule(follow, broken, |r, out| {
            *out = r.calc(0, Point::RelationLoop)?;
            r.sync(Point::RelationLoop)?;
            while RELATION.has(r.kind(0)) {
                let op = r.matched();
                let right = r.relation_operand()?;
                let left = std::mem::replace(out, Cst::Broken(None));
                *out = Cst::Relation {
                    op,
                    left: Box::new(left),
                    right: Box::new(right),
                };
                r.sync(Point::RelationLoop)?;
            }
            Ok(())
        });
        self.relation_depth -= 1;
        out
    }

    /// The second operand, behind which the loop of operators goes on outside.
    fn relation_operand(&mut self) -> Read {
        self.deeper(|r| &mut r.relation_depth)?;
        let broken = self.broken();
        let out = self.rule(Point::RelationLoop, broken, |r, out| {
            *out = r.calc(0, Point::RelationLoop)?;
            r.sync(Point::RelationLoop)
        });
        self.relation_depth -= 1;
        out
    }

    fn calc(&mut self, precedence: u8, follow: Point) -> Read {
        self.deeper(|r| &mut r.calc_depth)?;
        let broken = self.broken();
        let out = self.rule(follow, broken, |r, out| {
            *out = r.unary(Point::CalcLoop)?;
            r.sync(Point::CalcLoop)?;
            loop {
                let of_op = match r.kind(0) {
                    kind if PRODUCT.has(kind) && precedence < 2 => 1,
                    kind if SUM.has(kind) && precedence < 1 => 0,
                    _ => return Ok(()),
                };
                let op = r.matched();
                let right = r.calc(of_op + 1, Point::CalcLoop)?;
                let left = std::mem::replace(out, Cst::Broken(None));
                *out = Cst::Calc {
                    op,
                    left: Box::new(left),
                    right: Box::new(right),
                };
                r.sync(Point::CalcLoop)?;
            }
        });
        self.calc_depth -= 1;
        out
    }

    fn unary(&mut self, follow: Point) -> Read {
        let broken = self.broken();
        self.rule(follow, broken, |r, out| {
            r.sync(Point::Unary)?;
            let kind = r.kind(0);
            if kind == Minus && !matches!(r.kind(1), Int | Float) {
                return r.negations(out);
            }
            if kind == Not {
                return r.nots(out);
            }
            if !MEMBER.has(kind) {
                return Err(r.no_way(0));
            }
            *out = r.member(Point::UnaryEnd)?;
            Ok(())
        })
    }

    fn nots(&mut self, out: &mut Cst) -> Rule {
        let mut ops = Vec::new();
        loop {
            ops.push(self.expect(Not, Point::NotLoop, Point::NotLoop)?);
            self.sync_loop(Point::NotLoop)?;
            if self.kind(0) != Not {
                break;
            }
        }
        let operand = Box::new(self.member(Point::UnaryEnd)?);
        *out = Cst::Unary { ops, operand };
        Ok(())
    }

    fn negations(&mut self, out: &mut Cst) -> Rule {
        if !MEMBER.has(self.kind(1)) {
            return Err(self.no_way(1));
        }
        let mut ops = Vec::new();
        loop {
            ops.push(self.expect(Minus, Point::MinusLoop, Point::MinusLoop)?);
            self.sync_loop(Point::MinusLoop)?;
            if self.kind(0) != Minus {
                break;
            }
            if !MEMBER.has(self.kind(1)) {
                return Err(self.no_way(1));
            }
        }
        let operand = Box::new(self.member(Point::UnaryEnd)?);
        *out = Cst::Unary { ops, operand };
        Ok(())
    }

    fn member(&mut self, follow: Point) -> Read {
        let broken = self.broken();
        self.rule(follow, broken, |r, out| {
            *out = r.primary(Point::MemberLoop)?;
            loop {
                r.sync(Point::MemberLoop)?;
                match r.kind(0) {
                    Dot => r.after_dot(out)?,
                    LBracket => r.index(out)?,
                    _ => return Ok(()),
                }
            }
        })
    }

    fn after_dot(&mut self, out: &mut Cst) -> Rule {
        if !OPT_NAME.has(self.kind(1)) {
            return Err(self.no_way(1));
        }
        let operand = Box::new(std::mem::replace(out, Cst::Broken(None)));
        if self.kind(1) == Ident && self.kind(2) == LParen {
            self.matched();
            let name = self.matched();
            let open = self.matched();
            *out = Cst::MemberCall {
                operand,
                name,
                open,
                args: Vec::new(),
            };
            let read = self.args();
            if let Cst::MemberCall { args, .. } = out {
                *args = read.0;
            }
            return read.1;
        }
        let op = self.matched();
        let optional = self.kind(0) == Question;
        if optional {
            self.matched();
        }
        let word = self.token(0);
        match self.name(Point::MemberLoop)? {
            Some(field) => {
                *out = Cst::Select {
                    operand,
                    op,
                    optional,
                    field,
                };
            }
            None => *out = Cst::NamelessSelect { operand, word },
        }
        Ok(())
    }

    /// A name, which may be in back-quotes.
    fn name(&mut self, follow: Point) -> Read<Option<Token>> {
        let mut name = None;
        self.rule(follow, Cst::Broken(None), |r, _| {
            r.sync(Point::Name)?;
            if !NAME.has(r.kind(0)) {
                return Err(r.no_way(0));
            }
            name = Some(r.matched());
            Ok(())
        })?;
        Ok(name)
    }

    fn index(&mut self, out: &mut Cst) -> Rule {
        let op = self.matched();
        let operand = std::mem::replace(out, Cst::Broken(Some(op)));
        if let Err(mistake) = self.sync(Point::IndexKey) {
            // What was read before is still looked at.
            *out = operand;
            return Err(mistake);
        }
        let operand = Box::new(operand);
        let optional = self.kind(0) == Question;
        if optional {
            self.matched();
        }
        let index = Box::new(self.expr(Point::IndexClose)?);
        *out = Cst::Index {
            operand,
            op,
            optional,
            index,
        };
        self.expect(RBracket, Point::IndexClose, Point::MemberLoop)?;
        Ok(())
    }

    /// Arguments up to the closing parenthesis; what was read before a mistake stays.
    fn args(&mut self) -> (Vec<Cst>, Rule) {
        let mut args = Vec::new();
        let read = self.args_into(&mut args);
        (args, read)
    }

    fn args_into(&mut self, args: &mut Vec<Cst>) -> Rule {
        self.sync(Point::Args)?;
        if EXPR.has(self.kind(0)) {
            self.rule(Point::ArgsClose, Cst::Broken(None), |r, _| {
                args.push(r.expr(Point::ArgLoop)?);
                r.sync(Point::ArgLoop)?;
                while r.kind(0) == Comma {
                    r.matched();
                    args.push(r.expr(Point::ArgLoop)?);
                    r.sync(Point::ArgLoop)?;
                }
                Ok(())
            })?;
        }
        self.expect(RParen, Point::ArgsClose, Point::MemberLoop)?;
        Ok(())
    }
}

/// A text in quotes without line breaks.
fn quoted(text: &str) -> String {
    let text = text
        .replace('\t', "\\t")
        .replace('\n', "\\n")
        .replace('\r', "\\r");
    format!("'{text}'")
}
