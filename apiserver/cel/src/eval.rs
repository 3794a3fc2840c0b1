//! Evaluating a plan, and counting what it costs.

use std::sync::Arc;

use crate::ast::op;
use crate::cost::actual;
use crate::library;
use crate::mutation;
use crate::plan::{Attribute, Call, Fold, Node, Qualifier, QualifierKey, Root};
use crate::value::{Entries, Evaluated, EvaluationError, Key, List, Map, Object, Value};

/// The variables of an evaluation.
pub trait Activation<'a>: Sync {
    /// A variable's value; `None` if it has none.
    fn variable(&self, name: &str) -> Option<Evaluated<'a>>;

    /// A field of a variable whose fields are evaluated when they are needed. The outer `None` for every other
    /// variable, the inner for a field that there isn't.
    fn lazy_field(&self, _variable: &str, _field: &str) -> Option<Option<Evaluated<'a>>> {
        None
    }
}

/// No variables.
impl<'a> Activation<'a> for () {
    fn variable(&self, _: &str) -> Option<Evaluated<'a>> {
        None
    }
}

/// Variables by name.
impl<'a> Activation<'a> for std::collections::HashMap<&str, Value<'a>> {
    fn variable(&self, name: &str) -> Option<Evaluated<'a>> {
        self.get(name).cloned().map(Ok)
    }
}

/// What came out and what it cost.
#[derive(Debug)]
pub(crate) struct Outcome<'a> {
    pub value: Evaluated<'a>,
    pub cost: u64,
}

/// Evaluates a plan, which may cost so much.
pub(crate) fn run<'a>(node: &Node, activation: &dyn Activation<'a>, cost_max: u64) -> Outcome<'a> {
    let mut evaluation = Evaluation {
        activation,
        frames: Vec::new(),
        cost: 0,
        cost_max,
    };
    let value = evaluation.eval(node);
    Outcome {
        value,
        cost: evaluation.cost,
    }
}

/// Variables of a comprehension.
struct Frame<'p, 'a> {
    fold: &'p Fold,
    /// `None` until it is first looked at.
    accumulator: Option<Evaluated<'a>>,
    var: Evaluated<'a>,
    var2: Evaluated<'a>,
    /// Whether the loop is over, and its variables gone.
    over: bool,
}

struct Evaluation<'p, 'a, 'x> {
    activation: &'x dyn Activation<'a>,
    frames: Vec<Frame<'p, 'a>>,
    cost: u64,
    cost_max: u64,
}

/// A part that was found, or that is missing where that is no error.
type Found<'a> = Result<Option<Value<'a>>, EvaluationError>;

impl<'p, 'a> Evaluation<'p, 'a, '_> {
    fn charge(&mut self, cost: u64) -> Result<(), EvaluationError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.cost_max {
            return Err(EvaluationError::limit());
        }
        Ok(())
    }

    fn eval(&mut self, node: &'p Node) -> Evaluated<'a> {
        match node {
            Node::Constant(value) => Ok(value.clone()),
            Node::Attribute(attribute) => {
                let value = self.resolve(attribute);
                if value.as_ref().is_err_and(EvaluationError::ends_all) {
                    return value;
                }
                let is_test = attribute.qualifiers.last().is_some_and(|q| q.test);
                if !matches!(attribute.root, Root::Conditional(_)) && !is_test {
                    self.charge(1)?;
                }
                match value {
                    Ok(Value::Optional(inner)) if is_test => Ok(Value::Bool(inner.is_some())),
                    other => other,
                }
            }
            Node::Or(terms) => self.logic(&terms.0, &terms.1, true),
            Node::And(terms) => self.logic(&terms.0, &terms.1, false),
            Node::Equals(sides) => self.equality(&sides.0, &sides.1, false),
            Node::NotEquals(sides) => self.equality(&sides.0, &sides.1, true),
            Node::Call(call) => self.call(call),
            Node::Member(item, keys) => {
                let item = self.eval(item)?;
                let found = Key::of(&item).is_some_and(|key| keys.contains(&key));
                Ok(Value::Bool(found))
            }
            Node::OptionalOr(sides) => match self.eval(&sides.0)? {
                Value::Optional(None) => self.eval(&sides.1),
                other => Ok(other),
            },
            Node::OptionalOrValue(sides) => match self.eval(&sides.0)? {
                Value::Optional(None) => self.eval(&sides.1),
                Value::Optional(Some(inner)) => Ok((*inner).clone()),
                other => Ok(other),
            },
            Node::List(elements) => self.list(elements),
            Node::Map(entries) => self.map(entries),
            Node::Object { name, fields } => self.object(name, fields),
            Node::Fold(fold) => self.fold(fold),
        }
    }

    /// `||` if `absorbing`, else `&&`: the absorbing value of one side hides an error of the other.
    fn logic(&mut self, left: &'p Node, right: &'p Node, absorbing: bool) -> Evaluated<'a> {
        let mut wrong = None;
        for term in [left, right] {
            match self.eval(term) {
                Ok(Value::Bool(b)) if b == absorbing => return Ok(Value::Bool(absorbing)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => wrong = wrong.or_else(|| Some(EvaluationError::no_such_overload())),
                Err(e) if e.ends_all() => return Err(e),
                Err(e) => wrong = wrong.or(Some(e)),
            }
        }
        wrong.map_or(Ok(Value::Bool(!absorbing)), Err)
    }

    fn equality(&mut self, left: &'p Node, right: &'p Node, negated: bool) -> Evaluated<'a> {
        let left = self.not_limit(left)?;
        let right = self.not_limit(right)?;
        let cost = actual::equality(&left, &right, negated);
        let same = match (left, right) {
            (Ok(left), Ok(right)) => left.same_as(&right),
            (Err(e), _) | (_, Err(e)) => {
                self.charge(cost)?;
                return Err(e);
            }
        };
        self.charge(cost)?;
        if negated {
            // What can't be compared is not equal.
            Ok(Value::Bool(same != Ok(true)))
        } else {
            same.map(Value::Bool)
        }
    }

    /// A value or an error that evaluation can go on with.
    fn not_limit(&mut self, node: &'p Node) -> Result<Evaluated<'a>, EvaluationError> {
        match self.eval(node) {
            Err(e) if e.ends_all() => Err(e),
            other => Ok(other),
        }
    }

    fn call(&mut self, call: &'p Call) -> Evaluated<'a> {
        if matches!(
            call.function,
            op::NOT_STRICTLY_FALSE | "__not_strictly_false__"
        ) {
            let value = self.not_limit(&call.args[0])?;
            self.charge(1)?;
            return Ok(match value {
                Ok(Value::Bool(b)) => Value::Bool(b),
                _ => Value::Bool(true),
            });
        }
        let mut args = Vec::with_capacity(call.args.len());
        let mut wrong = None;
        for (i, arg) in call.args.iter().enumerate() {
            match self.not_limit(arg)? {
                Ok(value) => args.push(value),
                // What isn't evaluated any more is missed when the cost is counted.
                Err(e) if call.stops_early && i + 1 < call.args.len() => return Err(e),
                Err(e) => {
                    if let Some(broken) = actual::breaks(call.overload, i) {
                        return Err(EvaluationError::broken(broken));
                    }
                    wrong = wrong.or(Some(e));
                    args.push(Value::Null);
                }
            }
        }
        if let Some(e) = wrong {
            self.charge(actual::call(call.function, call.overload, &args, None))?;
            return Err(e);
        }
        if call.consumes {
            return self.grow(call, args);
        }
        let cost = |result: Option<&Value<'a>>, args: &[Value<'a>]| {
            actual::call(call.function, call.overload, args, result)
        };
        let result = match (&call.regex, args.as_slice()) {
            (Some(regex), [Value::String(text), _]) if call.function == "matches" => {
                Ok(Value::Bool(regex.is_match(text)))
            }
            (Some(regex), [Value::String(text), _]) if call.function == "find" => {
                Ok(Value::text(regex.find(text).map_or("", |m| m.as_str())))
            }
            (Some(regex), [Value::String(text), _, rest @ ..]) if call.function == "findAll" => {
                let n = rest.first().and_then(|n| match n {
                    Value::Int(n) => Some(*n),
                    _ => None,
                });
                Ok(library::find_all(regex, text, n))
            }
            (Some(_), _) if call.function == "matches" => Err(EvaluationError::no_such_overload()),
            _ => call.callable.call(call.function, &call.signatures, &args),
        };
        if result.as_ref().is_err_and(EvaluationError::ends_all) {
            return result;
        }
        let cost = cost(result.as_ref().ok(), &args);
        self.charge(cost)?;
        result
    }

    /// The step of a macro whose accumulator only it holds.
    fn grow(&mut self, call: &'p Call, mut args: Vec<Value<'a>>) -> Evaluated<'a> {
        if let Some(frame) = self.frames.last_mut() {
            frame.accumulator = Some(Ok(Value::Null));
        }
        let cost = actual::call(call.function, call.overload, &args, None);
        let result = match args.as_mut_slice() {
            [first @ Value::List(_), Value::List(more)] => {
                match std::mem::replace(first, Value::Null) {
                    Value::List(list) => list.push_all(more).map(Value::List),
                    other => Ok(other),
                }
            }
            [first @ Value::Map(Map::Entries(_)), key, value] => {
                match std::mem::replace(first, Value::Null) {
                    Value::Map(Map::Entries(mut entries)) => {
                        if entries.get(key).is_some() {
                            Err(EvaluationError::new(format!(
                                "insert failed: key {key} already exists"
                            )))
                        } else {
                            Arc::make_mut(&mut entries).set(key.clone(), value.clone());
                            Ok(Value::Map(Map::Entries(entries)))
                        }
                    }
                    other => Ok(other),
                }
            }
            _ => call.callable.call(call.function, &call.signatures, &args),
        };
        if !result.as_ref().is_err_and(EvaluationError::ends_all) {
            self.charge(cost)?;
        }
        result
    }

    fn list(&mut self, elements: &'p [(Node, bool)]) -> Evaluated<'a> {
        let mut values = Vec::with_capacity(elements.len());
        let mut wrong = None;
        for (element, optional) in elements {
            match self.not_limit(element)? {
                Err(e) => {
                    wrong = Some(e);
                    break;
                }
                Ok(value) if !optional => values.push(value),
                Ok(Value::Optional(None)) => {}
                Ok(Value::Optional(Some(inner))) => values.push((*inner).clone()),
                Ok(other) => {
                    wrong = Some(EvaluationError::new(format!(
                        "cannot initialize optional list element from non-optional value {other}"
                    )));
                    break;
                }
            }
        }
        self.charge(actual::LIST_COST)?;
        wrong.map_or_else(|| Ok(Value::List(List::of_values(values))), Err)
    }

    fn map(&mut self, nodes: &'p [(Node, Node, bool)]) -> Evaluated<'a> {
        let mut entries = Entries::default();
        let mut wrong = None;
        for (key, value, optional) in nodes {
            let pair = match self.not_limit(key)? {
                Ok(key) => self.not_limit(value)?.map(|value| (key, value)),
                Err(e) => Err(e),
            };
            let (key, value) = match pair {
                Ok(pair) => pair,
                Err(e) => {
                    wrong = Some(e);
                    break;
                }
            };
            let value = match value {
                value if !optional => value,
                Value::Optional(None) => continue,
                Value::Optional(Some(inner)) => (*inner).clone(),
                other => {
                    wrong = Some(EvaluationError::new(format!(
                        "cannot initialize optional entry '{key}' from non-optional value {other}"
                    )));
                    break;
                }
            };
            entries.set(key, value);
        }
        self.charge(actual::MAP_COST)?;
        wrong.map_or_else(|| Ok(Value::Map(Map::Entries(Arc::new(entries)))), Err)
    }

    fn object(&mut self, name: &Arc<str>, nodes: &'p [(Arc<str>, Node, bool)]) -> Evaluated<'a> {
        let mut fields = Vec::with_capacity(nodes.len());
        let mut wrong = None;
        for (field, node, optional) in nodes {
            match self.not_limit(node)? {
                Err(e) => {
                    wrong = Some(e);
                    break;
                }
                Ok(value) if !optional => fields.push((field.clone(), value)),
                Ok(Value::Optional(None)) => {}
                Ok(Value::Optional(Some(inner))) => fields.push((field.clone(), (*inner).clone())),
                Ok(other) => {
                    wrong = Some(EvaluationError::new(format!(
                        "cannot initialize optional entry '{field}' from non-optional value {other}"
                    )));
                    break;
                }
            }
        }
        self.charge(actual::OBJECT_COST)?;
        match wrong {
            Some(e) => Err(e),
            None => Object::build(name, fields),
        }
    }

    fn fold(&mut self, fold: &'p Fold) -> Evaluated<'a> {
        let range = self.eval(&fold.range)?;
        self.frames.push(Frame {
            fold,
            accumulator: None,
            var: Ok(Value::Null),
            var2: Ok(Value::Null),
            over: false,
        });
        let looped = self.iterate(fold, &range);
        let result = looped.and_then(|()| {
            if let Some(frame) = self.frames.last_mut() {
                frame.over = true;
            }
            self.eval(&fold.result)
        });
        self.frames.pop();
        result
    }

    fn iterate(&mut self, fold: &'p Fold, range: &Value<'a>) -> Result<(), EvaluationError> {
        let two = fold.var2.is_some();
        match range {
            Value::List(list) => {
                for (i, item) in list.iter().enumerate() {
                    let index = Ok(Value::Int(i64::try_from(i).unwrap_or(i64::MAX)));
                    let (var, var2) = if two {
                        (index, item)
                    } else {
                        (item, Ok(Value::Null))
                    };
                    if !self.turn(fold, var, var2)? {
                        break;
                    }
                }
                Ok(())
            }
            Value::Map(map) => {
                for key in map.keys() {
                    let value = if two {
                        map.get(&key)
                            .unwrap_or_else(|| Err(EvaluationError::no_such_key(&key)))
                    } else {
                        Ok(Value::Null)
                    };
                    if !self.turn(fold, Ok(key), value)? {
                        break;
                    }
                }
                Ok(())
            }
            other => {
                let name = other.go_type();
                Err(EvaluationError::new(if two {
                    format!("unsupported comprehension range type: {name}")
                } else {
                    format!("got '{name}', expected iterable type")
                }))
            }
        }
    }

    /// One turn of a loop; false if it is the last.
    fn turn(
        &mut self,
        fold: &'p Fold,
        var: Evaluated<'a>,
        var2: Evaluated<'a>,
    ) -> Result<bool, EvaluationError> {
        if let Some(frame) = self.frames.last_mut() {
            frame.var = var;
            frame.var2 = var2;
        }
        if let Ok(Value::Bool(false)) = self.not_limit(&fold.condition)? {
            return Ok(false);
        }
        let value = self.not_limit(&fold.step)?;
        if let Some(frame) = self.frames.last_mut() {
            frame.accumulator = Some(value);
        }
        Ok(true)
    }

    fn variable(&mut self, name: &str) -> Evaluated<'a> {
        for i in (0..self.frames.len()).rev() {
            let frame = &self.frames[i];
            if *frame.fold.accumulator == *name {
                if let Some(value) = &frame.accumulator {
                    return value.clone();
                }
                // It is made when it is first looked at, with what there is outside of the loop.
                let fold = frame.fold;
                let inner = self.frames.split_off(i);
                let value = self.not_limit(&fold.init);
                self.frames.extend(inner);
                let value = value?;
                self.frames[i].accumulator = Some(value.clone());
                return value;
            }
            if frame.over {
                continue;
            }
            if *frame.fold.var == *name {
                return frame.var.clone();
            }
            if frame.fold.var2.as_deref() == Some(name) {
                return frame.var2.clone();
            }
        }
        self.activation.variable(name).unwrap_or_else(|| {
            Err(EvaluationError::new(format!(
                "no such attribute(s): {name}"
            )))
        })
    }

    /// The value of an attribute, without the cost of looking at it.
    fn resolve(&mut self, attribute: &'p Attribute) -> Evaluated<'a> {
        match &attribute.root {
            Root::Conditional(branches) => {
                let (condition, yes, no) = &**branches;
                match self.eval(condition)? {
                    Value::Bool(true) => self.resolve(yes),
                    Value::Bool(false) => self.resolve(no),
                    _ => Err(EvaluationError::no_such_overload()),
                }
            }
            Root::Node(node) => {
                let value = self.eval(node)?;
                self.qualify_all(value, &attribute.qualifiers)
            }
            Root::Variable(name) => {
                if let Some((first, rest)) = attribute.qualifiers.split_first()
                    && let QualifierKey::Constant(Value::String(field)) = &first.key
                    && let Some(found) = self.activation.lazy_field(name, field)
                {
                    return self.lazy(first, rest, field, found);
                }
                let value = self.variable(name)?;
                self.qualify_all(value, &attribute.qualifiers)
            }
        }
    }

    /// A field that the activation evaluates by itself, and the way from it.
    fn lazy(
        &mut self,
        qualifier: &'p Qualifier,
        rest: &'p [Qualifier],
        field: &str,
        found: Option<Evaluated<'a>>,
    ) -> Evaluated<'a> {
        // A step that leads nowhere costs nothing where it may.
        if !qualifier.optional || matches!(found, Some(Ok(_))) {
            self.charge(1)?;
        }
        let found = found.transpose()?;
        match found {
            found if qualifier.test => Ok(Value::Bool(found.is_some())),
            Some(value) => self.qualify_rest(value, rest, qualifier.optional),
            None if qualifier.optional => Ok(Value::Optional(None)),
            None => Err(EvaluationError::no_such_key(&Value::text(field))),
        }
    }

    fn qualify_all(&mut self, value: Value<'a>, qualifiers: &'p [Qualifier]) -> Evaluated<'a> {
        let (value, optional) = match value {
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => (without_schema(&inner)?, true),
            other => (other, false),
        };
        self.qualify_rest(value, qualifiers, optional)
    }

    fn qualify_rest(
        &mut self,
        mut value: Value<'a>,
        qualifiers: &'p [Qualifier],
        mut optional: bool,
    ) -> Evaluated<'a> {
        for qualifier in qualifiers {
            optional |= qualifier.optional;
            match self.qualify(&value, qualifier, optional)? {
                Some(found) => value = found,
                None => return Ok(Value::Optional(None)),
            }
        }
        Ok(if optional { Value::some(value) } else { value })
    }

    /// One step. `None` only where something may be missing.
    fn qualify(
        &mut self,
        value: &Value<'a>,
        qualifier: &'p Qualifier,
        optional: bool,
    ) -> Found<'a> {
        let key = match &qualifier.key {
            QualifierKey::Constant(key) => Ok(key.clone()),
            QualifierKey::Attribute(attribute) => self.resolve(attribute),
            QualifierKey::Node(node) => self.eval(node),
        };
        let found = match key {
            Err(e) if e.ends_all() => return Err(e),
            Err(e) => Err(e),
            Ok(key) if !is_qualifier(&key) => Err(EvaluationError::new(format!(
                "invalid qualifier type: {}",
                key.go_type()
            ))),
            // Only a plain selection finds what such an object holds.
            Ok(_) if qualifier.optional && mutation::is_opaque(value) => Ok(None),
            Ok(key) => step(value, &key, optional || qualifier.test),
        };
        // A step that leads nowhere costs nothing where it may.
        if optional && !matches!(found, Ok(Some(_))) {
            return found;
        }
        self.charge(1)?;
        if qualifier.test {
            return Ok(Some(Value::Bool(found?.is_some())));
        }
        found
    }
}

/// What comes out of an optional value when it is looked at as a variable or for a part of it: kube-apiserver forgets
/// what the schema said of it.
fn without_schema<'a>(value: &Value<'a>) -> Evaluated<'a> {
    let unsupported = |name: &str, shown: &dyn std::fmt::Display| {
        Err(EvaluationError::new(format!(
            "unsupported conversion to ref.Val: ({name}){shown}"
        )))
    };
    match value {
        Value::Map(Map::Shaped(map, _)) => Ok(Value::Map(Map::of_json(map))),
        Value::List(list) => Ok(Value::List(list.without_schema())),
        Value::Preserved(json) => Ok(Value::of_json(json)),
        Value::Optional(None) => Ok(Value::Null),
        Value::Optional(Some(inner)) => without_schema(inner),
        Value::Type(t) => Ok(Value::text(t.name())),
        Value::Quantity(_) => unsupported("*resource.Quantity", value),
        Value::Ip(_) => unsupported("netip.Addr", value),
        Value::Cidr(_) => unsupported("netip.Prefix", value),
        Value::Url(url) => unsupported("*url.URL", url),
        Value::Semver(version) => unsupported("semver.Version", version),
        other => Ok(other.clone()),
    }
}

/// A part of a value. Whether it may be missing, or must be there.
fn step<'a>(value: &Value<'a>, key: &Value<'a>, presence: bool) -> Found<'a> {
    let missing = |what: EvaluationError| if presence { Ok(None) } else { Err(what) };
    match value {
        Value::Map(map) => match map.get(key) {
            Some(found) => found.map(Some),
            None => missing(EvaluationError::no_such_key(key)),
        },
        Value::List(list) => {
            let index = list_index(key)?;
            let found = usize::try_from(index).ok().and_then(|i| list.get(i));
            match found {
                Some(_) if list.is_of_schema() && !matches!(key, Value::Int(_)) => {
                    Err(EvaluationError::new(format!("unsupported index: {key}")))
                }
                Some(found) => found.map(Some),
                None => missing(EvaluationError::new(format!("index out of bounds: {key}"))),
            }
        }
        Value::Object(object) => {
            let name = key.as_str().unwrap_or("");
            Ok((!presence || object.has(name)).then(|| object.get_or_empty(name)))
        }
        _ => missing(EvaluationError::no_such_key(key)),
    }
}

/// Whether a value can say which part of another is meant.
fn is_qualifier(key: &Value<'_>) -> bool {
    matches!(
        key,
        Value::String(_) | Value::Int(_) | Value::Uint(_) | Value::Bool(_) | Value::Double(_)
    )
}

fn list_index(key: &Value<'_>) -> Result<i64, EvaluationError> {
    let unsupported = || EvaluationError::new(format!("unsupported index value {key} in list"));
    match key {
        Value::Int(i) => Ok(*i),
        Value::Double(d) => crate::number::whole(*d).ok_or_else(unsupported),
        Value::Uint(u) => i64::try_from(*u).map_err(|_| unsupported()),
        other => Err(EvaluationError::new(format!(
            "unsupported index type '{}' in list",
            other.type_of().name()
        ))),
    }
}
