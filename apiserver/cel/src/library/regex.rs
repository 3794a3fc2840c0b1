//! Regular expressions as Go has them, matched by the regex crate.
//!
//! The syntax of both is nearly the same. A pattern is read here first, which refuses what Go refuses, in its words,
//! and writes what differs as the crate wants it.

use regex::Regex;

/// The most memory that a compiled pattern takes.
const PROGRAM_BYTES_MAX: usize = 2 << 20;
/// The most times that a part may be asked to repeat.
const REPEAT_MAX: u32 = 1000;
/// The deepest nesting of groups.
const DEPTH_MAX: u32 = 250;

/// Compiles a pattern of Go's syntax within bounds.
///
/// # Errors
/// What is wrong with it, as Go tells it.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    let wrong = |what: String| format!("error parsing regexp: {what}");
    let translated = Translator::new(pattern).run().map_err(wrong)?;
    regex::RegexBuilder::new(&translated)
        .size_limit(PROGRAM_BYTES_MAX)
        .nest_limit(DEPTH_MAX * 2)
        .build()
        .map_err(|_| wrong("expression too large".to_owned()))
}

struct Translator<'a> {
    chars: Vec<char>,
    pattern: &'a str,
    at: usize,
    out: String,
    depth: u32,
}

type Step<T = ()> = Result<T, String>;

impl<'a> Translator<'a> {
    fn new(pattern: &'a str) -> Self {
        Self {
            chars: pattern.chars().collect(),
            pattern,
            at: 0,
            out: String::with_capacity(pattern.len() + 16),
            depth: 0,
        }
    }

    fn text(&self, from: usize, to: usize) -> String {
        self.chars[from..to.min(self.chars.len())].iter().collect()
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn starts_with(&self, text: &str) -> bool {
        text.chars()
            .enumerate()
            .all(|(i, c)| self.chars.get(self.at + i) == Some(&c))
    }

    fn run(mut self) -> Step<String> {
        // Whether there is something that an operator can repeat, and where the last operator began.
        let mut repeatable = false;
        let mut last_operator: Option<usize> = None;
        while let Some(c) = self.peek() {
            let start = self.at;
            match c {
                '(' => {
                    self.group()?;
                    repeatable = false;
                    last_operator = None;
                    continue;
                }
                ')' => {
                    if self.depth == 0 {
                        return Err(format!("unexpected ): `{}`", self.pattern));
                    }
                    self.depth -= 1;
                    self.plain(c);
                    repeatable = true;
                }
                '|' => {
                    self.plain(c);
                    repeatable = false;
                }
                '*' | '+' | '?' => {
                    self.operator(start, start + 1, repeatable, last_operator)?;
                    last_operator = Some(start);
                    continue;
                }
                '{' => match self.repeat_bounds() {
                    None => {
                        self.out.push_str("\\{");
                        self.at += 1;
                        repeatable = true;
                    }
                    Some((low, high, end)) => {
                        let is_bad =
                            low > REPEAT_MAX || high.is_some_and(|h| h > REPEAT_MAX || h < low);
                        if is_bad {
                            let text = self.text(start, end);
                            return Err(format!("invalid repeat count: `{text}`"));
                        }
                        self.operator(start, end, repeatable, last_operator)?;
                        last_operator = Some(start);
                        continue;
                    }
                },
                '[' => {
                    self.class()?;
                    repeatable = true;
                }
                '\\' => {
                    self.escape_outside()?;
                    repeatable = true;
                }
                '}' | ']' => {
                    self.out.push('\\');
                    self.plain(c);
                    repeatable = true;
                }
                '^' | '$' | '.' => {
                    self.plain(c);
                    repeatable = true;
                }
                c => {
                    self.plain(c);
                    repeatable = true;
                }
            }
            last_operator = None;
        }
        if self.depth > 0 {
            return Err(format!("missing closing ): `{}`", self.pattern));
        }
        Ok(self.out)
    }

    fn plain(&mut self, c: char) {
        self.out.push(c);
        self.at += 1;
    }

    fn operator(
        &mut self,
        start: usize,
        end: usize,
        repeatable: bool,
        last: Option<usize>,
    ) -> Step {
        let lazy = self.chars.get(end) == Some(&'?');
        let end = end + usize::from(lazy);
        if let Some(last) = last {
            let text = self.text(last, end);
            return Err(format!("invalid nested repetition operator: `{text}`"));
        }
        if !repeatable {
            let text = self.text(start, end);
            return Err(format!("missing argument to repetition operator: `{text}`"));
        }
        let text = self.text(start, end);
        self.out.push_str(&text);
        self.at = end;
        Ok(())
    }

    /// The bounds of `{n}`, `{n,}` or `{n,m}` and where it ends; `None` if the brace means itself.
    fn repeat_bounds(&self) -> Option<(u32, Option<u32>, usize)> {
        let number = |from: usize| {
            let n = self.chars[from..]
                .iter()
                .take_while(|c| c.is_ascii_digit())
                .count();
            let text = self.text(from, from + n);
            let is_number = n > 0 && !(n > 1 && text.starts_with('0'));
            is_number.then(|| (text.parse().unwrap_or(u32::MAX), from + n))
        };
        let (low, mut end) = number(self.at + 1)?;
        let mut high = Some(low);
        if self.chars.get(end) == Some(&',') {
            end += 1;
            high = None;
            if self.chars.get(end) != Some(&'}') {
                let (n, after) = number(end)?;
                (high, end) = (Some(n), after);
            }
        }
        (self.chars.get(end) == Some(&'}')).then_some((low, high, end + 1))
    }

    fn group(&mut self) -> Step {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("expression nests too deeply: `{}`", self.pattern));
        }
        if !self.starts_with("(?") {
            self.plain('(');
            return Ok(());
        }
        let rest = self.text(self.at, self.chars.len());
        for lead in ["(?P<", "(?<"] {
            if !rest.starts_with(lead) {
                continue;
            }
            let Some(end) = rest.find('>') else {
                return Err(format!("invalid named capture: `{rest}`"));
            };
            let name = &rest[lead.len()..end];
            let is_name =
                !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !is_name {
                return Err(format!("invalid named capture: `{}`", &rest[..=end]));
            }
            // Names don't matter for matching, and the crate is stricter about them.
            self.out.push('(');
            self.at += rest[..=end].chars().count();
            return Ok(());
        }
        let n = rest
            .chars()
            .skip(2)
            .take_while(|c| matches!(c, 'i' | 'm' | 's' | 'U' | '-'))
            .count();
        let end = 2 + n;
        match self.chars.get(self.at + end) {
            Some(')') if n > 0 => {
                self.depth -= 1;
                let text = self.text(self.at, self.at + end + 1);
                self.out.push_str(&text);
                self.at += end + 1;
                Ok(())
            }
            Some(':') => {
                let text = self.text(self.at, self.at + end + 1);
                self.out.push_str(&text);
                self.at += end + 1;
                Ok(())
            }
            None => Err(format!("missing closing ): `{}`", self.pattern)),
            Some(_) => {
                let text = self.text(self.at, self.at + end + 1);
                Err(format!("invalid or unsupported Perl syntax: `{text}`"))
            }
        }
    }

    fn class(&mut self) -> Step {
        let start = self.at;
        self.plain('[');
        if self.peek() == Some('^') {
            self.plain('^');
        }
        let mut first = true;
        loop {
            let Some(c) = self.peek() else {
                let text = self.text(start, self.chars.len());
                return Err(format!("missing closing ]: `{text}`"));
            };
            if c == ']' && !first {
                self.plain(c);
                return Ok(());
            }
            first = false;
            if self.starts_with("[:") {
                self.posix_class()?;
                continue;
            }
            if c == '\\' && self.perl_or_unicode_class(true)? {
                continue;
            }
            let at = self.at;
            let low = self.class_char()?;
            let is_range =
                self.peek() == Some('-') && self.chars.get(self.at + 1).is_some_and(|c| *c != ']');
            push_literal(&mut self.out, low);
            if is_range {
                self.plain('-');
                let high = self.class_char()?;
                if high < low {
                    let text = self.text(at, self.at);
                    return Err(format!("invalid character class range: `{text}`"));
                }
                push_literal(&mut self.out, high);
            }
        }
    }

    fn posix_class(&mut self) -> Step {
        let rest = self.text(self.at, self.chars.len());
        let Some(end) = rest[2..].find(":]").map(|i| i + 4) else {
            push_literal(&mut self.out, '[');
            self.at += 1;
            return Ok(());
        };
        const NAMES: [&str; 14] = [
            "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print",
            "punct", "space", "upper", "word", "xdigit",
        ];
        let name = rest[2..end - 2].trim_start_matches('^');
        if !NAMES.contains(&name) {
            return Err(format!("invalid character class range: `{}`", &rest[..end]));
        }
        self.out.push_str(&rest[..end]);
        self.at += end;
        Ok(())
    }

    /// `\d` and the like, or `\p{…}`; false if it is another escape.
    fn perl_or_unicode_class(&mut self, inside: bool) -> Step<bool> {
        let Some(c) = self.chars.get(self.at + 1).copied() else {
            return Ok(false);
        };
        let set = match c {
            'd' => Some(("0-9", false)),
            'D' => Some(("0-9", true)),
            'w' => Some(("0-9A-Za-z_", false)),
            'W' => Some(("0-9A-Za-z_", true)),
            's' => Some(("\\t\\n\\x0C\\r ", false)),
            'S' => Some(("\\t\\n\\x0C\\r ", true)),
            _ => None,
        };
        if let Some((set, negated)) = set {
            let caret = if negated { "^" } else { "" };
            if inside && !negated {
                self.out.push_str(set);
            } else {
                self.out.push_str(&format!("[{caret}{set}]"));
            }
            self.at += 2;
            return Ok(true);
        }
        if !matches!(c, 'p' | 'P') {
            return Ok(false);
        }
        let start = self.at;
        let end = if self.chars.get(start + 2) == Some(&'{') {
            let close = self.chars[start..].iter().position(|c| *c == '}');
            match close {
                Some(i) => start + i + 1,
                None => {
                    let text = self.text(start, self.chars.len());
                    return Err(format!("invalid character class range: `{text}`"));
                }
            }
        } else {
            start + 3
        };
        let text = self.text(start, end);
        if regex_syntax::parse(&text).is_err() {
            return Err(format!("invalid character class range: `{text}`"));
        }
        self.out.push_str(&text);
        self.at = end;
        Ok(true)
    }

    fn class_char(&mut self) -> Step<char> {
        match self.peek() {
            None => Err(format!("missing closing ]: `{}`", self.pattern)),
            Some('\\') => self.escape(),
            Some(c) => {
                self.at += 1;
                Ok(c)
            }
        }
    }

    fn escape_outside(&mut self) -> Step {
        match self.chars.get(self.at + 1) {
            Some('A' | 'z') => {
                let text = self.text(self.at, self.at + 2);
                self.out.push_str(&text);
                self.at += 2;
            }
            Some('b') => {
                self.out.push_str("(?-u:\\b)");
                self.at += 2;
            }
            Some('B') => {
                // Within valid text this is the same as the crate's own between ASCII letters.
                self.out.push_str("\\B");
                self.at += 2;
            }
            Some('C') => return Err("invalid escape sequence: `\\C`".to_owned()),
            Some('Q') => {
                let rest = self.text(self.at + 2, self.chars.len());
                let (literal, n) = match rest.split_once("\\E") {
                    Some((literal, _)) => (literal.to_owned(), literal.chars().count() + 4),
                    None => (rest.clone(), rest.chars().count() + 2),
                };
                self.out.push_str(&regex::escape(&literal));
                self.at += n;
            }
            _ => {
                if !self.perl_or_unicode_class(false)? {
                    let c = self.escape()?;
                    push_literal(&mut self.out, c);
                }
            }
        }
        Ok(())
    }

    /// An escaped character.
    fn escape(&mut self) -> Step<char> {
        let start = self.at;
        let Some(c) = self.chars.get(start + 1).copied() else {
            return Err("trailing backslash at end of expression: ``".to_owned());
        };
        self.at += 2;
        let simple = match c {
            'a' => '\u{7}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '0' => return Ok(self.octal(0)),
            '1'..='7' if self.peek().is_some_and(|d| d.is_digit(8)) => {
                return Ok(self.octal(c.to_digit(8).unwrap_or(0)));
            }
            'x' => return self.hex(start),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => c,
            _ => {
                let text = self.text(start, start + 2);
                return Err(format!("invalid escape sequence: `{text}`"));
            }
        };
        Ok(simple)
    }

    fn octal(&mut self, first: u32) -> char {
        let mut value = first;
        for _ in 0..2 {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) else {
                break;
            };
            value = value * 8 + digit;
            self.at += 1;
        }
        char::from_u32(value).unwrap_or('\0')
    }

    fn hex(&mut self, start: usize) -> Step<char> {
        let braced = self.peek() == Some('{');
        let from = self.at + usize::from(braced);
        let n = if braced {
            self.chars[from..]
                .iter()
                .take_while(|c| c.is_ascii_hexdigit())
                .count()
        } else {
            2
        };
        let text = self.text(from, from + n);
        let end = from + n + usize::from(braced);
        let is_closed = !braced || self.chars.get(from + n) == Some(&'}');
        let value = u32::from_str_radix(&text, 16).ok().and_then(char::from_u32);
        match value.filter(|_| is_closed && text.chars().count() == n && n > 0) {
            Some(c) => {
                self.at = end;
                Ok(c)
            }
            None => {
                let text = self.text(start, end);
                Err(format!("invalid escape sequence: `{text}`"))
            }
        }
    }
}

/// A character that means itself, inside and outside of classes.
fn push_literal(out: &mut String, c: char) {
    if c.is_ascii_alphanumeric() || !c.is_ascii() {
        out.push(c);
    } else {
        out.push_str(&format!("\\x{:02X}", u32::from(c)));
    }
}

/// The error of a pattern that isn't known before the evaluation.
pub(crate) fn illegal(message: &str) -> String {
    format!("Illegal regex: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_go() {
        for (pattern, text, matches) in [
            (r"^\d+$", "123", true),
            (r"^\d+$", "١٢٣", false),
            (r"^\w+$", "é", false),
            (r"^[\w.-]+$", "a.b-c", true),
            (r"^[^\s]+$", "ab", true),
            (r"^a{,2}$", "a{,2}", true),
            (r"^\Qa.b\E$", "a.b", true),
            (r"[[:alpha:]]", "1a", true),
            (r"[a&&b]", "&", true),
            (r"[[]", "[", true),
            (r"(?i)ABC", "abc", true),
            (r"(?P<name>x)", "x", true),
            (r"\bfoo\b", "a foo b", true),
            (r"\x{1F600}", "😀", true),
            (r"\101", "A", true),
            (r"^]$", "]", true),
        ] {
            let regex = compile(pattern).expect(pattern);
            assert_eq!(regex.is_match(text), matches, "{pattern} {text}");
        }
    }

    #[test]
    fn mistakes_are_told_as_in_go() {
        for (pattern, message) in [
            ("(", "missing closing ): `(`"),
            (")", "unexpected ): `)`"),
            ("[a", "missing closing ]: `[a`"),
            ("*", "missing argument to repetition operator: `*`"),
            ("a**", "invalid nested repetition operator: `**`"),
            (r"\y", r"invalid escape sequence: `\y`"),
            ("[z-a]", "invalid character class range: `z-a`"),
            ("a{1001}", "invalid repeat count: `{1001}`"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
            (r"\1", r"invalid escape sequence: `\1`"),
            ("a\\", "trailing backslash at end of expression: ``"),
        ] {
            assert_eq!(
                compile(pattern).map(|_| ()),
                Err(format!("error parsing regexp: {message}"))
            );
        }
    }
}
