//! Label and field selectors: their text syntax, their object form, and matching.

use std::collections::BTreeMap;
use std::fmt;

use crate::k8s::apimachinery::pkg::apis::meta::v1 as meta;
use crate::names;

/// Longest selector text that is parsed; a URL is bounded already, this bounds the work per request.
pub const SELECTOR_LENGTH_MAX: usize = 16 * 1024;

/// How a label is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How its value is compared.
    pub operator: Operator,
}

impl Requirement {
    /// Whether labels meet the condition.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| values.contains(v)),
            Operator::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(n) => value
                .and_then(|v| v.parse::<i64>().ok())
                .is_some_and(|v| v > *n),
            Operator::LessThan(n) => value
                .and_then(|v| v.parse::<i64>().ok())
                .is_some_and(|v| v < *n),
        }
    }
}

/// Conditions that must all hold; the empty selector matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    /// The conditions.
    pub requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Matches everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches nothing.
    pub fn nothing() -> Self {
        Self {
            nothing: true,
            ..Self::default()
        }
    }

    /// Whether every object is selected.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether labels meet every condition.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// Whether optional labels, as object metadata has them, meet every condition.
    pub fn matches_opt(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        static EMPTY: BTreeMap<String, String> = BTreeMap::new();
        self.matches(labels.unwrap_or(&EMPTY))
    }

    /// Selects exactly these labels.
    pub fn from_set<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let requirements = labels
            .into_iter()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::In(vec![value.clone()]),
            })
            .collect();
        Self {
            requirements,
            nothing: false,
        }
    }

    /// The selector of an API object: absent selects nothing, empty selects everything.
    ///
    /// # Errors
    /// When an operator is unknown or has the wrong number of values.
    pub fn from_object(selector: Option<&meta::LabelSelector>) -> Result<Self, String> {
        let Some(selector) = selector else {
            return Ok(Self::nothing());
        };
        let mut result = Self::from_set(selector.match_labels.iter().flatten());
        for expression in selector.match_expressions.iter().flatten() {
            let values = expression.values.clone().unwrap_or_default();
            let operator = match expression.operator.as_str() {
                "In" | "NotIn" if values.is_empty() => {
                    return Err(format!(
                        "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty (key {})",
                        expression.key
                    ));
                }
                "In" => Operator::In(values),
                "NotIn" => Operator::NotIn(values),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            result.requirements.push(Requirement {
                key: expression.key.clone(),
                operator,
            });
        }
        Ok(result)
    }

    /// Reads a selector text such as `app=web,tier in (a,b),!old`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > SELECTOR_LENGTH_MAX {
            return Err(format!(
                "selector is longer than {SELECTOR_LENGTH_MAX} bytes"
            ));
        }
        let mut parser = Parser { rest: text };
        let mut requirements = Vec::new();
        while !parser.at_end() {
            if !parser.begins_requirement() {
                let found = parser.token();
                return Err(format!(
                    "found '{found}', expected: !, identifier, or 'end of string'"
                ));
            }
            let requirement = parser.requirement();
            requirements
                .push(requirement.map_err(|why| format!("unable to parse requirement: {why}"))?);
            if parser.at_end() {
                break;
            }
            if parser.peek() != Some(',') {
                let found = parser.token();
                return Err(format!("found '{found}', expected: ',' or 'end of string'"));
            }
            parser.expect(',')?;
            if !parser.begins_requirement() {
                let found = parser.token();
                return Err(format!("found '{found}', expected: identifier after ','"));
            }
        }
        Ok(Self {
            requirements,
            nothing: false,
        })
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let key = &requirement.key;
            match &requirement.operator {
                Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Operator::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", values[0])?,
                Operator::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Operator::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
                Operator::Exists => f.write_str(key)?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::GreaterThan(n) => write!(f, "{key}>{n}")?,
                Operator::LessThan(n) => write!(f, "{key}<{n}")?,
            }
        }
        Ok(())
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn at_end(&mut self) -> bool {
        self.skip_space();
        self.rest.is_empty()
    }

    fn peek(&mut self) -> Option<char> {
        self.skip_space();
        self.rest.chars().next()
    }

    fn expect(&mut self, c: char) -> Result<(), String> {
        if self.peek() == Some(c) {
            self.rest = &self.rest[c.len_utf8()..];
            return Ok(());
        }
        let found = self.token();
        Err(match c {
            '(' => format!("found '{found}' expected: '('"),
            _ => format!("found '{found}', expected: '{c}'"),
        })
    }

    /// The next word or sign, for a message.
    fn token(&mut self) -> &'a str {
        self.skip_space();
        let signs = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];
        match signs.iter().find(|sign| self.rest.starts_with(**sign)) {
            Some(sign) => &self.rest[..sign.len()],
            None => Self { rest: self.rest }.word(),
        }
    }

    fn begins_requirement(&mut self) -> bool {
        let token = self.token();
        token == "!" || token.starts_with(|c: char| !"=!(),<>".contains(c))
    }

    fn word(&mut self) -> &'a str {
        self.skip_space();
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || "=!(),<>".contains(c))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn key(&mut self) -> Result<String, String> {
        let key = self.word();
        let errors = names::qualified_name(key);
        match errors.first() {
            None => Ok(key.to_owned()),
            Some(error) => Err(format!("<nil>: Invalid value: {key:?}: {error}")),
        }
    }

    fn value(&mut self) -> Result<String, String> {
        let value = self.word();
        match names::label_value(value).first() {
            None => Ok(value.to_owned()),
            Some(error) => Err(format!("values[0][]: Invalid value: {value:?}: {error}")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        self.expect('(')?;
        let mut values = vec![self.value()?];
        while self.peek() == Some(',') {
            self.expect(',')?;
            values.push(self.value()?);
        }
        self.expect(')')?;
        values.sort();
        Ok(values)
    }

    fn number(&mut self) -> Result<i64, String> {
        let word = self.word();
        word.parse()
            .map_err(|_| format!("values[0]: Invalid value: {word:?}: for 'Gt', 'Lt' operators, the value must be an integer"))
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        if self.peek() == Some('!') {
            self.expect('!')?;
            let key = self.key()?;
            return Ok(Requirement {
                key,
                operator: Operator::DoesNotExist,
            });
        }
        let key = self.key()?;
        let operator = match self.peek() {
            None | Some(',') => Operator::Exists,
            Some('=') => {
                self.expect('=')?;
                if self.rest.starts_with('=') {
                    self.expect('=')?;
                }
                Operator::In(vec![self.value()?])
            }
            Some('!') => {
                self.expect('!')?;
                self.expect('=')?;
                Operator::NotIn(vec![self.value()?])
            }
            Some('>') => {
                self.expect('>')?;
                Operator::GreaterThan(self.number()?)
            }
            Some('<') => {
                self.expect('<')?;
                Operator::LessThan(self.number()?)
            }
            _ => match self.word() {
                "in" => Operator::In(self.values()?),
                "notin" => Operator::NotIn(self.values()?),
                other => {
                    return Err(format!(
                        "found '{other}', expected: in, notin, =, ==, !=, gt, lt"
                    ));
                }
            },
        };
        Ok(Requirement { key, operator })
    }
}

/// A condition on a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    /// Path of the field, such as `spec.nodeName`.
    pub field: String,
    /// The value compared with.
    pub value: String,
    /// Whether the field must equal the value (or must not).
    pub equals: bool,
}

/// Conditions on fields that must all hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    /// The conditions.
    pub requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Reads a selector text such as `metadata.name=a,spec.nodeName!=b`; `\` escapes `,`, `=` and itself.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > SELECTOR_LENGTH_MAX {
            return Err(format!(
                "selector is longer than {SELECTOR_LENGTH_MAX} bytes"
            ));
        }
        let mut requirements = Vec::new();
        for term in split_terms(text).into_iter().filter(|t| !t.is_empty()) {
            let (field, value, equals) = split_operator(&term)
                .ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{term}'"))?;
            requirements.push(FieldRequirement {
                field: field.to_owned(),
                value: unescape(value)?,
                equals,
            });
        }
        Ok(Self { requirements })
    }

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an object meets every condition; `get` answers the value of a field (empty if unset).
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements
            .iter()
            .all(|r| (get(&r.field).unwrap_or("") == r.value) == r.equals)
    }

    /// The value that a field must have, if the selector says so.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|r| r.equals && r.field == field)
            .map(|r| r.value.as_str())
    }
}

fn split_terms(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            terms.push(String::new());
            continue;
        }
        escaped = c == '\\' && !escaped;
        if let Some(term) = terms.last_mut() {
            term.push(c);
        }
    }
    terms
}

fn split_operator(term: &str) -> Option<(&str, &str, bool)> {
    let at = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(at);
    if let Some(value) = rest.strip_prefix("!=") {
        Some((field, value, false))
    } else if let Some(value) = rest.strip_prefix("==") {
        Some((field, value, true))
    } else {
        rest.strip_prefix('=').map(|value| (field, value, true))
    }
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let other = other.map(String::from).unwrap_or_default();
                    return Err(format!(
                        "invalid field selector: invalid escape sequence: \\{other}"
                    ));
                }
            },
            '=' => {
                return Err(format!(
                    "invalid field selector: invalid character: = in {value}"
                ));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split(',')
            .filter_map(|pair| pair.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }

    #[test]
    fn label_selectors_parse_match_and_print() {
        for (text, set, matches) in [
            ("", "a=1", true),
            ("a=1", "a=1", true),
            ("a==1,b!=2", "a=1", true),
            ("a!=1", "a=1", false),
            ("a in (1, 2),c notin (x)", "a=2", true),
            ("!a", "a=2", false),
            ("a", "a=", true),
            ("a>5", "a=6", true),
            ("a<5", "a=6", false),
        ] {
            let selector = LabelSelector::parse(text).expect(text);
            assert_eq!(selector.matches(&labels(set)), matches, "{text} on {set}");
            assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
        }
        for text in ["a=1,", "a in ()x", "=1", "a b", "a in (1", "a=-"] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn field_selectors_parse_and_match() {
        let selector = FieldSelector::parse(r"metadata.name=a\,b,spec.nodeName!=n").expect("valid");
        assert_eq!(selector.required("metadata.name"), Some("a,b"));
        assert!(selector.matches(|f| (f == "metadata.name").then_some("a,b")));
        assert!(!selector.matches(|f| Some(if f == "metadata.name" { "a,b" } else { "n" })));
        assert!(FieldSelector::parse("nonsense").is_err());
    }
}
