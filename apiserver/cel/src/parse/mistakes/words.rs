//! Places in the grammar, and the words that can come there.

use super::super::lexer::Kind;
pub(super) use Kind::{
    And, Bytes, Colon, Comma, Dot, Eof, Eq, EscapedIdent, False, Float, Ge, Gt, Ident, In, Int,
    LBrace, LBracket, LParen, Le, Lt, Minus, Ne, Not, Null, Or, Percent, Plus, Question, RBrace,
    RBracket, RParen, Slash, Star, String as Str, True, Uint,
};

/// A set of words; one bit says that the rule may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Words(pub(super) u64);

pub(super) const END: u64 = 1 << 63;

impl Words {
    pub(super) const fn of(kinds: &[Kind]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < kinds.len() {
            bits |= 1 << kinds[i] as u64;
            i += 1;
        }
        Self(bits)
    }

    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn or_end(self) -> Self {
        Self(self.0 | END)
    }

    pub(super) fn has(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u64) != 0
    }

    pub(super) fn may_end(self) -> bool {
        self.0 & END != 0
    }

    pub(super) fn without_end(self) -> Self {
        Self(self.0 & !END)
    }

    /// As messages list them.
    pub(super) fn show(self) -> String {
        let names: Vec<&str> = std::iter::once(Kind::Eof)
            .chain(ALL.iter().copied())
            .filter(|kind| self.has(*kind))
            .map(Kind::name)
            .collect();
        match names.as_slice() {
            [one] => (*one).to_owned(),
            _ => format!("{{{}}}", names.join(", ")),
        }
    }
}

const ALL: [Kind; 35] = [
    Eq,
    Ne,
    In,
    Lt,
    Le,
    Ge,
    Gt,
    And,
    Or,
    LBracket,
    RBracket,
    LBrace,
    RBrace,
    LParen,
    RParen,
    Dot,
    Comma,
    Minus,
    Not,
    Question,
    Colon,
    Plus,
    Star,
    Slash,
    Percent,
    True,
    False,
    Null,
    Float,
    Int,
    Uint,
    Str,
    Bytes,
    Ident,
    EscapedIdent,
];
pub(super) const LITERAL: Words =
    Words::of(&[Minus, True, False, Null, Float, Int, Uint, Str, Bytes]);
pub(super) const MEMBER: Words = LITERAL.or(Words::of(&[LBracket, LBrace, LParen, Dot, Ident]));
pub(super) const EXPR: Words = MEMBER.or(Words::of(&[Not]));
pub(super) const OPT_EXPR: Words = EXPR.or(Words::of(&[Question]));
pub(super) const NAME: Words = Words::of(&[Ident, EscapedIdent]);
pub(super) const OPT_NAME: Words = NAME.or(Words::of(&[Question]));
pub(super) const RELATION: Words = Words::of(&[Lt, Le, Ge, Gt, Eq, Ne, In]);
pub(super) const PRODUCT: Words = Words::of(&[Star, Slash, Percent]);
pub(super) const SUM: Words = Words::of(&[Plus, Minus]);

/// A place in the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Point {
    StartEnd,
    Condition,
    Yes,
    AfterColon,
    OrLoop,
    AndLoop,
    RelationLoop,
    CalcLoop,
    Unary,
    NotLoop,
    MinusLoop,
    UnaryEnd,
    MemberLoop,
    Name,
    Args,
    ArgsClose,
    IndexKey,
    IndexClose,
    Primary,
    PrimaryEnd,
    GroupClose,
    ListItems,
    ListComma,
    ListClose,
    MapItems,
    MapComma,
    MapClose,
    FieldItems,
    FieldComma,
    FieldClose,
    ArgLoop,
    ListLoop,
    MapLoop,
    MapColon,
    FieldLoop,
    FieldColon,
    OptField,
    OptExpr,
    Literal,
    RuleEnd,
    Operand,
}

impl Point {
    /// The words that can come at a place of a rule.
    pub(super) const fn words(self) -> Words {
        match self {
            Self::StartEnd => Words::of(&[Eof]),
            Self::Condition => Words::of(&[Question]).or_end(),
            Self::Yes | Self::MapColon | Self::FieldColon => Words::of(&[Colon]),
            Self::AfterColon | Self::Operand => EXPR,
            Self::OrLoop => Words::of(&[Or]).or_end(),
            Self::AndLoop => Words::of(&[And]).or_end(),
            Self::RelationLoop => RELATION.or_end(),
            Self::CalcLoop => PRODUCT.or(SUM).or_end(),
            Self::Unary => EXPR,
            Self::NotLoop => MEMBER.or(Words::of(&[Not])),
            Self::MinusLoop | Self::Primary => MEMBER,
            Self::UnaryEnd | Self::PrimaryEnd | Self::RuleEnd => Words(END),
            Self::MemberLoop => Words::of(&[Dot, LBracket]).or_end(),
            Self::OptField => OPT_NAME,
            Self::Name => NAME,
            Self::Args => EXPR.or(Words::of(&[RParen])),
            Self::ArgsClose | Self::GroupClose => Words::of(&[RParen]),
            Self::IndexKey | Self::OptExpr => OPT_EXPR,
            Self::IndexClose | Self::ListClose => Words::of(&[RBracket]),
            Self::ListItems => OPT_EXPR.or(Words::of(&[Comma, RBracket])),
            Self::ListComma => Words::of(&[Comma, RBracket]),
            Self::MapItems => OPT_EXPR.or(Words::of(&[Comma, RBrace])),
            Self::MapComma | Self::FieldComma => Words::of(&[Comma, RBrace]),
            Self::MapClose | Self::FieldClose => Words::of(&[RBrace]),
            Self::FieldItems => OPT_NAME.or(Words::of(&[Comma, RBrace])),
            Self::ArgLoop | Self::ListLoop | Self::MapLoop | Self::FieldLoop => {
                Words::of(&[Comma]).or_end()
            }
            Self::Literal => LITERAL,
        }
    }
}
