//! The words of an expression.

use crate::source::{Issue, Source};

/// The kind of a word; the texts are what messages call them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
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
    String,
    Bytes,
    Ident,
    EscapedIdent,
    Eof,
}

impl Kind {
    /// How a list of expected words names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Eq => "'=='",
            Self::Ne => "'!='",
            Self::In => "'in'",
            Self::Lt => "'<'",
            Self::Le => "'<='",
            Self::Ge => "'>='",
            Self::Gt => "'>'",
            Self::And => "'&&'",
            Self::Or => "'||'",
            Self::LBracket => "'['",
            Self::RBracket => "']'",
            Self::LBrace => "'{'",
            Self::RBrace => "'}'",
            Self::LParen => "'('",
            Self::RParen => "')'",
            Self::Dot => "'.'",
            Self::Comma => "','",
            Self::Minus => "'-'",
            Self::Not => "'!'",
            Self::Question => "'?'",
            Self::Colon => "':'",
            Self::Plus => "'+'",
            Self::Star => "'*'",
            Self::Slash => "'/'",
            Self::Percent => "'%'",
            Self::True => "'true'",
            Self::False => "'false'",
            Self::Null => "'null'",
            Self::Float => "NUM_FLOAT",
            Self::Int => "NUM_INT",
            Self::Uint => "NUM_UINT",
            Self::String => "STRING",
            Self::Bytes => "BYTES",
            Self::Ident => "IDENTIFIER",
            Self::EscapedIdent => "ESC_IDENTIFIER",
            Self::Eof => "<EOF>",
        }
    }
}

/// A word and where it is, by code points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
}

/// What is no word at all.
#[derive(Debug, Default)]
pub(crate) struct Garbage {
    pub issues: Vec<Issue>,
    /// The parts of the text that no word has.
    pub dropped: Vec<std::ops::Range<usize>>,
}

/// All words, the last one is the end of the text; and what is no word at all.
pub(crate) fn words(source: &Source) -> (Vec<Token>, Garbage) {
    let chars = &source.chars;
    let (mut tokens, mut garbage) = (Vec::new(), Garbage::default());
    let mut at = 0;
    while at < chars.len() {
        if let Some(end) = blank(chars, at) {
            at = end;
            continue;
        }
        match word(chars, at) {
            Ok((kind, end)) => {
                tokens.push(Token {
                    kind,
                    start: at,
                    end,
                });
                at = end;
            }
            Err(offending) => {
                let text = source.text(at, offending + 1);
                garbage.dropped.push(at..offending + 1);
                garbage.issues.push(Issue {
                    place: source.place(at),
                    message: format!("Syntax error: token recognition error at: '{text}'"),
                });
                at = offending + 1;
            }
        }
    }
    tokens.push(Token {
        kind: Kind::Eof,
        start: chars.len(),
        end: chars.len(),
    });
    (tokens, garbage)
}

/// The end of blanks or of a comment that begins here.
fn blank(chars: &[char], at: usize) -> Option<usize> {
    let is_blank = |c: &char| matches!(c, '\t' | ' ' | '\r' | '\n' | '\u{c}');
    if is_blank(&chars[at]) {
        let n = chars[at..].iter().take_while(|c| is_blank(c)).count();
        return Some(at + n);
    }
    if chars[at..].starts_with(&['/', '/']) {
        let n = chars[at..].iter().take_while(|c| **c != '\n').count();
        return Some(at + n);
    }
    None
}

/// The word that begins here, or the code point at which none can be any more.
fn word(chars: &[char], at: usize) -> Result<(Kind, usize), usize> {
    let c = chars[at];
    let next = chars.get(at + 1).copied();
    let two = |second: char, kind: Kind| {
        if next == Some(second) {
            Ok((kind, at + 2))
        } else {
            Err(at + 1)
        }
    };
    let maybe_two = |second: char, long: Kind, short: Kind| {
        if next == Some(second) {
            Ok((long, at + 2))
        } else {
            Ok((short, at + 1))
        }
    };
    let one = |kind: Kind| Ok((kind, at + 1));
    match c {
        '=' => two('=', Kind::Eq),
        '&' => two('&', Kind::And),
        '|' => two('|', Kind::Or),
        '!' => maybe_two('=', Kind::Ne, Kind::Not),
        '<' => maybe_two('=', Kind::Le, Kind::Lt),
        '>' => maybe_two('=', Kind::Ge, Kind::Gt),
        '[' => one(Kind::LBracket),
        ']' => one(Kind::RBracket),
        '{' => one(Kind::LBrace),
        '}' => one(Kind::RBrace),
        '(' => one(Kind::LParen),
        ')' => one(Kind::RParen),
        ',' => one(Kind::Comma),
        '-' => one(Kind::Minus),
        '?' => one(Kind::Question),
        ':' => one(Kind::Colon),
        '+' => one(Kind::Plus),
        '*' => one(Kind::Star),
        '/' => one(Kind::Slash),
        '%' => one(Kind::Percent),
        '.' if next.is_some_and(|n| n.is_ascii_digit()) => Ok(number(chars, at)),
        '.' => one(Kind::Dot),
        '0'..='9' => Ok(number(chars, at)),
        '"' | '\'' => string(chars, at, false).map(|end| (Kind::String, end)),
        '`' => escaped_ident(chars, at),
        'a'..='z' | 'A'..='Z' | '_' => Ok(prefixed_string(chars, at).unwrap_or_else(|| {
            let n = chars[at..]
                .iter()
                .take_while(|c| c.is_ascii_alphanumeric() || **c == '_')
                .count();
            let text: String = chars[at..at + n].iter().collect();
            let kind = match text.as_str() {
                "in" => Kind::In,
                "true" => Kind::True,
                "false" => Kind::False,
                "null" => Kind::Null,
                _ => Kind::Ident,
            };
            (kind, at + n)
        })),
        _ => Err(at),
    }
}

/// A string with prefixes such as `r`, `b`, `bR`; `None` when it isn't a whole one, and the letters are a name.
fn prefixed_string(chars: &[char], at: usize) -> Option<(Kind, usize)> {
    let mut quote = at;
    let bytes = matches!(chars[quote], 'b' | 'B');
    quote += usize::from(bytes);
    let raw = matches!(chars.get(quote), Some('r' | 'R'));
    quote += usize::from(raw);
    if quote == at || !matches!(chars.get(quote), Some('"' | '\'')) {
        return None;
    }
    let end = string(chars, quote, raw).ok()?;
    Some((if bytes { Kind::Bytes } else { Kind::String }, end))
}

fn escaped_ident(chars: &[char], at: usize) -> Result<(Kind, usize), usize> {
    let n = chars[at + 1..]
        .iter()
        .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ' '))
        .count();
    let end = at + 1 + n;
    if n > 0 && chars.get(end) == Some(&'`') {
        Ok((Kind::EscapedIdent, end + 1))
    } else {
        Err(end)
    }
}

fn number(chars: &[char], at: usize) -> (Kind, usize) {
    let digits = |from: usize| {
        chars[from.min(chars.len())..]
            .iter()
            .take_while(|c| c.is_ascii_digit())
            .count()
    };
    let is_unsigned = |end: usize| matches!(chars.get(end), Some('u' | 'U'));
    if chars[at] == '0' && chars.get(at + 1) == Some(&'x') {
        let n = chars[at + 2..]
            .iter()
            .take_while(|c| c.is_ascii_hexdigit())
            .count();
        if n > 0 {
            let end = at + 2 + n;
            return if is_unsigned(end) {
                (Kind::Uint, end + 1)
            } else {
                (Kind::Int, end)
            };
        }
    }
    let mut end = at + digits(at);
    let mut kind = Kind::Int;
    if chars.get(end) == Some(&'.') && digits(end + 1) > 0 {
        end += 1 + digits(end + 1);
        kind = Kind::Float;
    }
    if matches!(chars.get(end), Some('e' | 'E')) {
        let sign = usize::from(matches!(chars.get(end + 1), Some('+' | '-')));
        let n = digits(end + 1 + sign);
        if n > 0 {
            return (Kind::Float, end + 1 + sign + n);
        }
    }
    if kind == Kind::Int && is_unsigned(end) {
        return (Kind::Uint, end + 1);
    }
    (kind, end)
}

/// The end of the string whose quote is here, or the code point at which it breaks off.
fn string(chars: &[char], at: usize, raw: bool) -> Result<usize, usize> {
    let quote = chars[at];
    let is_triple = |i: usize| (0..3).all(|k| chars.get(i + k) == Some(&quote));
    if is_triple(at) {
        let mut i = at + 3;
        while i < chars.len() && !is_triple(i) {
            match escape(chars, i).filter(|_| !raw) {
                Some(Ok(end)) => i = end,
                Some(Err(_)) => return Ok(at + 2),
                None => i += 1,
            }
        }
        // Without an end these are an empty string and a quote.
        return Ok(if i < chars.len() { i + 3 } else { at + 2 });
    }
    let mut i = at + 1;
    loop {
        match chars.get(i) {
            Some(c) if *c == quote => return Ok(i + 1),
            None | Some('\n' | '\r') => return Err(i),
            Some(_) => match escape(chars, i).filter(|_| !raw) {
                Some(end) => i = end?,
                None => i += 1,
            },
        }
    }
}

/// The end of the escape sequence that begins here, or the code point at which it breaks off; `None` for a plain one.
fn escape(chars: &[char], at: usize) -> Option<Result<usize, usize>> {
    if chars[at] != '\\' {
        return None;
    }
    let hex = |n: usize| {
        (at + 2..at + 2 + n)
            .find(|i| !chars.get(*i).is_some_and(char::is_ascii_hexdigit))
            .map_or(Ok(at + 2 + n), Err)
    };
    Some(match chars.get(at + 1) {
        Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`') => Ok(at + 2),
        Some('0'..='3') => (at + 2..at + 4)
            .find(|i| !matches!(chars.get(*i), Some('0'..='7')))
            .map_or(Ok(at + 4), Err),
        Some('x' | 'X') => hex(2),
        Some('u') => hex(4),
        Some('U') => hex(8),
        _ => Err(at + 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind> {
        words(&Source::new(text)).0.iter().map(|t| t.kind).collect()
    }

    #[test]
    fn words_are_as_long_as_they_can_be() {
        use Kind::*;
        assert_eq!(
            kinds("1.5e3 1.e 0x1fu 10u .5 1e"),
            [Float, Int, Dot, Ident, Uint, Uint, Float, Int, Ident, Eof]
        );
        assert_eq!(
            kinds(r#"r"\" b'a' bR'x' """a"b""" '' rb"#),
            [String, Bytes, Bytes, String, String, Ident, Eof]
        );
        assert_eq!(
            kinds("a in b // c\n&& !d"),
            [Ident, In, Ident, And, Not, Ident, Eof]
        );
    }

    #[test]
    fn what_is_no_word_is_told() {
        let (_, garbage) = words(&Source::new("a = \"x\\q\" # 'ab"));
        let texts: Vec<_> = garbage.issues.iter().map(|i| i.message.as_str()).collect();
        assert_eq!(
            texts,
            [
                "Syntax error: token recognition error at: '= '",
                "Syntax error: token recognition error at: '\"x\\q'",
                "Syntax error: token recognition error at: '\" # 'ab'",
            ]
        );
    }
}
