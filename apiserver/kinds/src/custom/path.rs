//! JSONPath, as kubectl and printer columns write it: `.status.conditions[?(@.type=="Ready")].status`.

use serde_json::Value;

/// Longest path.
const LENGTH_MAX: usize = 4096;
/// Most steps of a path, filters inside included.
const STEPS_MAX: usize = 128;
/// Most values that a step may select; a path of a client must not multiply without end.
const SELECTED_MAX: usize = 10_000;

/// A path of one expression, parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    /// Every value of an object or array.
    All,
    /// The value and everything below it.
    Below,
    /// Some indices; negative ones count from the end.
    Indices(Vec<i64>),
    /// Start, end, step.
    Slice(Option<i64>, Option<i64>, i64),
    /// Several fields.
    Fields(Vec<String>),
    /// Items for which something holds.
    Filter(Box<Filter>),
}

#[derive(Debug, Clone, PartialEq)]
struct Filter {
    left: Operand,
    /// An operator with its right side; without one the left side must be there.
    test: Option<(Operator, Operand)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Literal(Value),
    Path(Path),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What is wrong with a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable(pub String);

struct Parser<'a> {
    rest: &'a str,
    n_steps: usize,
}

impl Path {
    /// Reads a path that begins with a dot or a bracket.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn parse(text: &str) -> Result<Self, Unreadable> {
        if text.len() > LENGTH_MAX {
            return Err(Unreadable(format!("longer than {LENGTH_MAX} bytes")));
        }
        let mut parser = Parser {
            rest: text,
            n_steps: 0,
        };
        let path = parser.path()?;
        match parser.rest {
            "" => Ok(path),
            rest => Err(Unreadable(format!("unexpected {rest:?}"))),
        }
    }

    /// The values that the path leads to, in order.
    pub fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let mut values = vec![root];
        for step in &self.0 {
            values = values
                .into_iter()
                .flat_map(|value| step.apply(value))
                .take(SELECTED_MAX)
                .collect();
        }
        values
    }

    /// The fields of a path that names nothing but fields; `None` for any other.
    pub fn fields(&self) -> Option<Vec<&str>> {
        let all = self.0.iter().all(|step| matches!(step, Step::Field(_)));
        let names = self.0.iter().filter_map(|step| match step {
            Step::Field(name) => Some(name.as_str()),
            _ => None,
        });
        all.then(|| names.collect())
    }
}

impl Parser<'_> {
    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), Unreadable> {
        match self.eat(token) {
            true => Ok(()),
            false => Err(Unreadable(format!(
                "{token:?} expected before {:?}",
                self.rest
            ))),
        }
    }

    fn spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn path(&mut self) -> Result<Path, Unreadable> {
        let mut steps = Vec::new();
        loop {
            self.n_steps += 1;
            if self.n_steps > STEPS_MAX {
                return Err(Unreadable(format!("more than {STEPS_MAX} steps")));
            }
            if self.eat("..") {
                steps.push(Step::Below);
                if !self.rest.starts_with('[') {
                    steps.push(self.name()?);
                }
            } else if self.eat(".") {
                // A dot alone is the object itself.
                let ends = self.rest.is_empty() || self.rest.starts_with(['[', '.']);
                if !ends {
                    steps.push(self.name()?);
                }
            } else if self.eat("[") {
                steps.push(self.bracket()?);
            } else {
                return Ok(Path(steps));
            }
        }
    }

    fn name(&mut self) -> Result<Step, Unreadable> {
        if self.eat("*") {
            return Ok(Step::All);
        }
        let mut name = String::new();
        let mut chars = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.extend(chars.next().map(|(_, escaped)| escaped)),
                '.' | '[' | ']' | ' ' | ')' | '=' | '!' | '<' | '>' | ',' => {
                    end = at;
                    break;
                }
                other => name.push(other),
            }
        }
        self.rest = &self.rest[end..];
        match name.is_empty() {
            true => Err(Unreadable(format!(
                "a name expected before {:?}",
                self.rest
            ))),
            false => Ok(Step::Field(name)),
        }
    }

    fn bracket(&mut self) -> Result<Step, Unreadable> {
        self.spaces();
        let step = if self.eat("*") {
            Step::All
        } else if self.eat("?(") {
            Step::Filter(Box::new(self.filter()?))
        } else if self.rest.starts_with(['\'', '"']) {
            self.quoted_fields()?
        } else {
            self.numbers()?
        };
        self.spaces();
        self.expect("]")?;
        Ok(step)
    }

    fn quoted(&mut self) -> Result<String, Unreadable> {
        let mut chars = self.rest.chars();
        let quote = chars.next().unwrap_or('\'');
        let mut text = String::new();
        while let Some(c) = chars.next() {
            match c {
                '\\' => text.extend(chars.next()),
                c if c == quote => {
                    self.rest = chars.as_str();
                    return Ok(text);
                }
                other => text.push(other),
            }
        }
        Err(Unreadable("unterminated quoted string".to_owned()))
    }

    fn quoted_fields(&mut self) -> Result<Step, Unreadable> {
        let mut names = vec![self.quoted()?];
        self.spaces();
        while self.eat(",") {
            self.spaces();
            names.push(self.quoted()?);
            self.spaces();
        }
        Ok(match names.len() {
            1 => Step::Field(names.remove(0)),
            _ => Step::Fields(names),
        })
    }

    fn integer(&mut self) -> Option<i64> {
        let end = self
            .rest
            .find(|c: char| c != '-' && !c.is_ascii_digit())
            .unwrap_or(self.rest.len());
        let number = self.rest[..end].parse().ok()?;
        self.rest = &self.rest[end..];
        Some(number)
    }

    fn numbers(&mut self) -> Result<Step, Unreadable> {
        let start = self.integer();
        if self.eat(":") {
            let end = self.integer();
            let step = if self.eat(":") {
                self.integer().unwrap_or(1)
            } else {
                1
            };
            return Ok(Step::Slice(start, end, step.max(1)));
        }
        let mut indices = Vec::from_iter(start);
        while self.eat(",") {
            self.spaces();
            indices.extend(self.integer());
        }
        match indices.is_empty() {
            true => Err(Unreadable(format!(
                "invalid array index before {:?}",
                self.rest
            ))),
            false => Ok(Step::Indices(indices)),
        }
    }

    fn filter(&mut self) -> Result<Filter, Unreadable> {
        let left = self.operand()?;
        self.spaces();
        let operators = [
            ("==", Operator::Equal),
            ("!=", Operator::NotEqual),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        let found = operators
            .iter()
            .find(|(token, _)| self.rest.starts_with(token));
        let test = match found {
            None => None,
            Some((token, operator)) => {
                self.expect(token)?;
                Some((*operator, self.operand()?))
            }
        };
        self.spaces();
        self.expect(")")?;
        Ok(Filter { left, test })
    }

    fn operand(&mut self) -> Result<Operand, Unreadable> {
        self.spaces();
        if self.eat("@") {
            return Ok(Operand::Path(self.path()?));
        }
        if self.rest.starts_with(['\'', '"']) {
            return Ok(Operand::Literal(self.quoted()?.into()));
        }
        let end = self
            .rest
            .find([')', ' ', '=', '!', '<', '>'])
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        let literal = serde_json::from_str(word)
            .map_err(|_| Unreadable(format!("a literal or a path expected, not {word:?}")))?;
        self.rest = rest;
        Ok(Operand::Literal(literal))
    }
}

/// An index that may count from the end.
fn place(index: i64, length: usize) -> Option<usize> {
    let length_signed = i64::try_from(length).ok()?;
    let index = if index < 0 {
        index + length_signed
    } else {
        index
    };
    usize::try_from(index).ok().filter(|index| *index < length)
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Fields(names) => names.iter().filter_map(|name| value.get(name)).collect(),
            Self::All => children(value),
            Self::Below => {
                let mut all = vec![value];
                let mut next = 0;
                while next < all.len() && all.len() < SELECTED_MAX {
                    all.extend(children(all[next]));
                    next += 1;
                }
                all
            }
            Self::Indices(indices) => {
                let Value::Array(items) = value else {
                    return Vec::new();
                };
                let places = indices
                    .iter()
                    .filter_map(|index| place(*index, items.len()));
                places.map(|at| &items[at]).collect()
            }
            Self::Slice(start, end, step) => {
                let Value::Array(items) = value else {
                    return Vec::new();
                };
                let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
                let from_end = |n: i64| {
                    if n < 0 {
                        (n + length).max(0)
                    } else {
                        n.min(length)
                    }
                };
                let start = usize::try_from(from_end(start.unwrap_or(0))).unwrap_or(0);
                let end = usize::try_from(from_end(end.unwrap_or(length))).unwrap_or(0);
                let step = usize::try_from(*step).unwrap_or(1);
                items.iter().take(end).skip(start).step_by(step).collect()
            }
            Self::Filter(filter) => {
                let holds = |item: &&Value| filter.holds(item);
                children(value).into_iter().filter(holds).collect()
            }
        }
    }
}

impl Filter {
    fn holds(&self, item: &Value) -> bool {
        let Some((operator, right)) = &self.test else {
            return self.left.value(item).is_some();
        };
        let (Some(left), Some(right)) = (self.left.value(item), right.value(item)) else {
            return false;
        };
        let ordering = match (left, right) {
            (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (a, b) if a == b => Some(std::cmp::Ordering::Equal),
            _ => None,
        };
        match operator {
            Operator::Equal => ordering.is_some_and(std::cmp::Ordering::is_eq),
            Operator::NotEqual => !ordering.is_some_and(std::cmp::Ordering::is_eq),
            Operator::Less => ordering.is_some_and(std::cmp::Ordering::is_lt),
            Operator::LessOrEqual => ordering.is_some_and(std::cmp::Ordering::is_le),
            Operator::Greater => ordering.is_some_and(std::cmp::Ordering::is_gt),
            Operator::GreaterOrEqual => ordering.is_some_and(std::cmp::Ordering::is_ge),
        }
    }
}

impl Operand {
    fn value<'a>(&'a self, item: &'a Value) -> Option<&'a Value> {
        match self {
            Self::Literal(literal) => Some(literal),
            Self::Path(path) => path.find(item).into_iter().next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_where_kubectl_finds_values() {
        let object = json!({"spec": {"n": 3, "a.b": "dot"}, "status": {
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Done", "status": "False", "n": 2}],
            "list": [1, 2, 3, 4]}});
        let cases = [
            (".spec.n", json!([3])),
            (".spec.missing", json!([])),
            (r".spec.a\.b", json!(["dot"])),
            (".spec['a.b']", json!(["dot"])),
            (
                r#".status.conditions[?(@.type=="Ready")].status"#,
                json!(["True"]),
            ),
            (
                ".status.conditions[?(@.type!='Ready')].status",
                json!(["False"]),
            ),
            (".status.conditions[?(@.n)].type", json!(["Done"])),
            (".status.conditions[?(@.n >= 2)].type", json!(["Done"])),
            (".status.conditions[*].type", json!(["Ready", "Done"])),
            (".status.list[-1]", json!([4])),
            (".status.list[0,2]", json!([1, 3])),
            (".status.list[1:3]", json!([2, 3])),
            (".status.list[::2]", json!([1, 3])),
            ("..type", json!(["Ready", "Done"])),
        ];
        for (text, wanted) in cases {
            let path = Path::parse(text).expect(text);
            assert_eq!(json!(path.find(&object)), wanted, "{text}");
        }
        let fields = Path::parse(".spec.replicas").expect("a path");
        assert_eq!(fields.fields(), Some(vec!["spec", "replicas"]));
        for text in [".a[", ".a[?(", ".a[x]", ".a..", "a", ".a['b"] {
            assert!(Path::parse(text).is_err(), "{text}");
        }
    }
}
