//! Checks values against a schema, in the words of Kubernetes.
//!
//! What a part of an object had wrong before an update, and still has because the update did not touch it, is forgiven:
//! a definition may become stricter without making its objects impossible to change.

use std::collections::HashMap;

use corral_api::field::{FieldError, FieldErrorKind, FieldPath};
use serde_json::Value;

use super::formats;
use super::structural::{Additional, Bound, Checks, ListType, Structural, Type};

/// Most faults that one answer lists.
const FAULTS_MAX: usize = 100;

/// Everything wrong with a value at a path. `old`: its state before an update.
pub fn validate(
    value: &Value,
    old: Option<&Value>,
    schema: &Structural,
    path: &FieldPath,
) -> Vec<FieldError> {
    let walk = Walk { prefix: path };
    walk.value(value, old, schema, "").faults
}

/// What a check found, and how many checks held, by which the best of several alternatives is told.
#[derive(Default)]
struct Outcome {
    faults: Vec<FieldError>,
    n_held: usize,
}

impl Outcome {
    fn is_good(&self) -> bool {
        self.faults.is_empty()
    }

    fn merge(&mut self, other: Self) {
        let room = FAULTS_MAX.saturating_sub(self.faults.len());
        self.faults.extend(other.faults.into_iter().take(room));
        self.n_held += other.n_held;
    }

    fn add(&mut self, fault: FieldError) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }
}

struct Walk<'a> {
    prefix: &'a FieldPath,
}

impl Walk<'_> {
    fn at(&self, path: &str) -> FieldPath {
        match path.trim_start_matches('.') {
            "" => self.prefix.clone(),
            below => self.prefix.child(below),
        }
    }

    fn invalid(&self, path: &str, value: &Value, why: &str) -> FieldError {
        let detail = format!("{path} in body {why}");
        FieldError::invalid(&self.at(path), shown(value), detail)
    }

    /// A fault of several schemas together, which Kubernetes tells without its place.
    fn composite(&self, path: &str, why: &str) -> FieldError {
        FieldError::invalid(self.prefix, "", format!("{path:?} {why}"))
    }

    fn value(
        &self,
        value: &Value,
        old: Option<&Value>,
        schema: &Structural,
        path: &str,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let none = Checks::default();
        let checks = schema.checks.as_deref().unwrap_or(&none);
        outcome.merge(self.kind(value, schema, checks, path));
        if value.is_null() {
            outcome.merge(self.allowed(value, checks, path));
        } else {
            outcome.n_held += 2;
            outcome.merge(self.combined(value, old, checks, path));
            match value {
                Value::String(text) => outcome.merge(self.text(text, schema, checks, path)),
                Value::Number(_) => outcome.merge(self.number(value, schema, checks, path)),
                Value::Array(items) => outcome.merge(self.list(items, old, schema, checks, path)),
                _ => {}
            }
            outcome.merge(self.allowed(value, checks, path));
            if value.is_object() {
                outcome.merge(self.object(value, old, schema, checks, path));
            }
        }
        if !outcome.is_good() && old.is_some_and(|old| old == value) {
            outcome.faults.clear();
        }
        outcome
    }

    fn kind(&self, value: &Value, schema: &Structural, checks: &Checks, path: &str) -> Outcome {
        let held = Outcome {
            n_held: 1,
            ..Outcome::default()
        };
        let wanted: &[Type] = match (schema.int_or_string, &schema.kind) {
            (true, _) => &[Type::Integer, Type::String],
            (false, Some(kind)) => std::slice::from_ref(kind),
            (false, None) if checks.format.is_empty() || value.is_null() => return held,
            (false, None) => &[],
        };
        let names = || {
            wanted
                .iter()
                .map(|kind| kind.as_str())
                .collect::<Vec<_>>()
                .join(",")
        };
        let mut outcome = Outcome::default();
        if value.is_null() {
            if schema.nullable {
                return held;
            }
            outcome.add(self.mistyped(path, &names(), "null"));
            return outcome;
        }
        let numeric = wanted
            .iter()
            .any(|kind| matches!(kind, Type::Integer | Type::Number));
        let textual = matches!(value, Value::String(_) | Value::Array(_));
        if wanted.iter().any(|kind| is_of(value, *kind))
            || (!numeric && textual && !checks.format.is_empty())
        {
            return held;
        }
        if !textual && !checks.format.is_empty() {
            outcome.add(self.mistyped(path, &checks.format, format_of(value)));
        } else {
            outcome.add(self.mistyped(path, &names(), type_of(value)));
        }
        outcome
    }

    fn mistyped(&self, path: &str, wanted: &str, found: &str) -> FieldError {
        FieldError {
            kind: FieldErrorKind::TypeInvalid,
            ..self.invalid(
                path,
                &found.into(),
                &format!("must be of type {wanted}: {found:?}"),
            )
        }
    }

    fn text(&self, text: &str, schema: &Structural, checks: &Checks, path: &str) -> Outcome {
        let mut outcome = Outcome {
            n_held: 1,
            ..Outcome::default()
        };
        let length = || text.chars().count() as u64;
        let value = || Value::from(text);
        if let Some(most) = checks.max_length.filter(|most| length() > *most) {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            outcome.add(FieldError::too_long(&self.at(path), most));
        } else if let Some(least) = checks.min_length.filter(|least| length() < *least) {
            let why = format!("should be at least {least} chars long");
            outcome.add(self.invalid(path, &value(), &why));
        } else if let Some(pattern) = checks
            .pattern
            .as_ref()
            .filter(|pattern| !pattern.matches(text))
        {
            let why = format!("should match '{}'", pattern.text);
            outcome.add(self.invalid(path, &value(), &why));
        }
        let of_text = !matches!(schema.kind, Some(Type::Integer | Type::Number));
        if of_text && !checks.format.is_empty() && !formats::matches(&checks.format, text) {
            let why = format!("must be of type {}: {text:?}", checks.format);
            outcome.add(FieldError {
                kind: FieldErrorKind::TypeInvalid,
                ..self.invalid(path, &value(), &why)
            });
        }
        outcome
    }

    fn number(&self, value: &Value, schema: &Structural, checks: &Checks, path: &str) -> Outcome {
        let mut outcome = Outcome {
            n_held: 2,
            ..Outcome::default()
        };
        let whole = value.as_i64();
        let number = value.as_f64().unwrap_or_default();
        let fits = match checks.format.as_str() {
            "int32" => number >= f64::from(i32::MIN) && number <= f64::from(i32::MAX),
            _ => true,
        };
        if schema.kind == Some(Type::Integer) && !(fits && is_whole(number)) {
            let format = match checks.format.as_str() {
                "" => "(default format)".to_owned(),
                format => format!("with format {format}"),
            };
            let detail = format!("Checked value must be of type integer {format} in {path}");
            outcome.add(FieldError::invalid(self.prefix, "", detail));
        }
        if let Some(factor) = checks.multiple_of {
            // Of whole numbers Go looks at the whole part of a factor.
            let factor = if whole.is_some() {
                factor.trunc()
            } else {
                factor
            };
            if factor <= 0.0 {
                let told = go_float(factor);
                let detail =
                    format!("factor MultipleOf declared for {path} must be positive: {told}");
                outcome.add(FieldError::invalid(&self.at(path), factor as i64, detail));
            }
            let times = if factor < 1.0 {
                1.0 / factor * number
            } else {
                number / factor
            };
            if factor > 0.0 && !is_whole(times) {
                let why = format!("should be a multiple of {}", go_float(factor));
                outcome.add(self.invalid(path, value, &why));
            }
        }
        let told = |bound: Bound| match whole {
            // Go compares whole numbers with the whole part of a bound.
            Some(_) => format!("{}", bound.at.trunc()),
            None => go_float(bound.at),
        };
        let beyond = |bound: Bound, sign: f64| {
            let at = if whole.is_some() {
                bound.at.trunc()
            } else {
                bound.at
            };
            let (number, at) = (number * sign, at * sign);
            number > at || (bound.exclusive && number >= at)
        };
        if let Some(bound) = checks.maximum.filter(|bound| beyond(*bound, 1.0)) {
            let or_equal = if bound.exclusive { "" } else { " or equal to" };
            let why = format!("should be less than{or_equal} {}", told(bound));
            outcome.add(self.invalid(path, value, &why));
        }
        if let Some(bound) = checks.minimum.filter(|bound| beyond(*bound, -1.0)) {
            let or_equal = if bound.exclusive { "" } else { " or equal to" };
            let why = format!("should be greater than{or_equal} {}", told(bound));
            outcome.add(self.invalid(path, value, &why));
        }
        outcome
    }

    fn list(
        &self,
        items: &[Value],
        old: Option<&Value>,
        schema: &Structural,
        checks: &Checks,
        path: &str,
    ) -> Outcome {
        let mut outcome = Outcome {
            n_held: 2,
            ..Outcome::default()
        };
        if let Some(item) = &schema.items {
            let before = Before::of(schema, old);
            for (index, inner) in items.iter().enumerate() {
                let old = before.counterpart(inner);
                outcome.merge(self.value(inner, old, item, &format!("{path}[{index}]")));
            }
        }
        let size = items.len() as u64;
        let shown = Value::from(size);
        if let Some(least) = checks.min_items.filter(|least| size < *least) {
            let why = format!("should have at least {least} items");
            outcome.add(self.invalid(path, &shown, &why));
        }
        if let Some(most) = checks.max_items.filter(|most| size > *most) {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            outcome.add(FieldError::too_many(&self.at(path), items.len(), most));
        }
        let repeated = |(index, item): (usize, &Value)| items[..index].contains(item);
        if checks.unique_items && items.iter().enumerate().any(repeated) {
            outcome.add(FieldError::invalid(
                &self.at(path),
                "",
                format!("{path} in body shouldn't contain duplicates"),
            ));
        }
        outcome
    }

    fn allowed(&self, value: &Value, checks: &Checks, path: &str) -> Outcome {
        let mut outcome = Outcome {
            n_held: 1,
            ..Outcome::default()
        };
        let same = |allowed: &Value| match (allowed.as_f64(), value.as_f64()) {
            (Some(one), Some(other)) => one == other,
            _ => allowed == value,
        };
        if checks.allowed.is_empty() || checks.allowed.iter().any(same) {
            return outcome;
        }
        let texts: Vec<String> = checks.allowed.iter().map(plain).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        outcome.add(FieldError::not_supported_of(
            &self.at(path),
            shown(value),
            &texts,
        ));
        outcome
    }

    fn object(
        &self,
        value: &Value,
        old: Option<&Value>,
        schema: &Structural,
        checks: &Checks,
        path: &str,
    ) -> Outcome {
        let mut outcome = Outcome {
            n_held: 1,
            ..Outcome::default()
        };
        let Value::Object(map) = value else {
            return outcome;
        };
        let size = map.len() as u64;
        if let Some(least) = checks.min_properties.filter(|least| size < *least) {
            let why = format!("should have at least {least} properties");
            outcome.add(self.invalid(path, &size.into(), &why));
        }
        if let Some(most) = checks.max_properties.filter(|most| size > *most) {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            outcome.add(FieldError::too_many(&self.at(path), map.len(), most));
        }
        for (name, inner) in map {
            let below = format!("{path}.{name}");
            let old = old.and_then(|old| old.get(name));
            // The type of an object is not what its writer meant to keep.
            let old =
                old.filter(|_| !path.is_empty() || !matches!(name.as_str(), "kind" | "apiVersion"));
            match (schema.properties.get(name), &schema.additional) {
                (Some(property), _) => {
                    let below = below.trim_start_matches('.');
                    outcome.merge(self.value(inner, old, property, below));
                }
                (None, Additional::Of(item)) => outcome.merge(self.value(inner, old, item, &below)),
                (None, Additional::Nothing) => {
                    let detail = format!("{path}.{name} in body is a forbidden property");
                    outcome.add(FieldError::invalid(&self.at(path), "", detail));
                }
                _ => {}
            }
        }
        for name in &checks.required {
            if !map.contains_key(name) {
                outcome.add(FieldError::required(
                    &self.at(&format!("{path}.{name}")),
                    "",
                ));
            }
        }
        outcome
    }

    fn combined(&self, value: &Value, old: Option<&Value>, checks: &Checks, path: &str) -> Outcome {
        let mut outcome = Outcome {
            n_held: 1,
            ..Outcome::default()
        };
        let check = |schema: &Structural| self.value(value, old, schema, path);
        if !checks.any_of.is_empty() {
            let (n_good, best) = best_of(&checks.any_of, &check, true);
            if n_good == 0 {
                outcome.add(self.composite(path, "must validate at least one schema (anyOf)"));
            }
            outcome.merge(best);
        }
        if !checks.one_of.is_empty() {
            let (n_good, best) = best_of(&checks.one_of, &check, false);
            if n_good != 1 {
                let found = match n_good {
                    0 => "Found none valid".to_owned(),
                    n => format!("Found {n} valid alternatives"),
                };
                let why = format!("must validate one and only one schema (oneOf). {found}");
                outcome.add(self.composite(path, &why));
            }
            outcome.merge(best);
        }
        if !checks.all_of.is_empty() {
            let mut n_good = 0;
            for schema in &checks.all_of {
                let one = check(schema);
                n_good += usize::from(one.is_good());
                outcome.merge(one);
            }
            if n_good != checks.all_of.len() {
                let none = if n_good == 0 { ". None validated" } else { "" };
                let why = format!("must validate all the schemas (allOf){none}");
                outcome.add(self.composite(path, &why));
            }
        }
        if checks.not.as_ref().is_some_and(|not| check(not).is_good()) {
            outcome.add(self.composite(path, "must not validate the schema (not)"));
        }
        outcome
    }
}

/// How many alternatives hold, and what is to be told: nothing of those that hold, else what the one that comes nearest
/// has wrong.
fn best_of(
    schemas: &[Structural],
    check: &dyn Fn(&Structural) -> Outcome,
    first_is_enough: bool,
) -> (usize, Outcome) {
    let mut n_good = 0;
    let mut best: Option<Outcome> = None;
    for schema in schemas {
        let one = check(schema);
        if one.is_good() {
            if n_good == 0 {
                best = Some(one);
            }
            n_good += 1;
            if first_is_enough {
                break;
            }
        } else if n_good == 0 && best.as_ref().is_none_or(|best| one.n_held > best.n_held) {
            best = Some(one);
        }
    }
    (n_good, best.unwrap_or_default())
}

/// The items of a list before an update by their keys, if they have any.
struct Before<'v> {
    keys: &'v [String],
    items: HashMap<Vec<Option<&'v Value>>, &'v Value>,
}

impl<'v> Before<'v> {
    fn of(schema: &'v Structural, old: Option<&'v Value>) -> Self {
        let keys = schema.list_keys.as_slice();
        let old = old.filter(|_| schema.list_type == ListType::Map);
        let items = old.and_then(Value::as_array).into_iter().flatten();
        // Of those that are there twice, the first counts.
        let items = items.rev().map(|item| (keys_of(keys, item), item));
        Self {
            keys,
            items: items.collect(),
        }
    }

    /// What an item was before.
    fn counterpart(&self, item: &Value) -> Option<&'v Value> {
        if self.items.is_empty() {
            return None;
        }
        self.items.get(&keys_of(self.keys, item)).copied()
    }
}

fn keys_of<'v>(keys: &[String], item: &'v Value) -> Vec<Option<&'v Value>> {
    keys.iter().map(|key| item.get(key)).collect()
}

fn is_whole(number: f64) -> bool {
    number.fract() == 0.0
}

fn is_of(value: &Value, kind: Type) -> bool {
    match kind {
        Type::Object => value.is_object(),
        Type::Array => value.is_array(),
        Type::String => value.is_string(),
        Type::Boolean => value.is_boolean(),
        Type::Number => value.is_number(),
        Type::Integer => value.is_number() && value.as_f64().is_some_and(is_whole),
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The format that Go finds in a value.
fn format_of(value: &Value) -> &'static str {
    match value {
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        _ => "",
    }
}

/// A number as Go prints it.
fn go_float(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e21 {
        format!("{number:.0}")
    } else {
        number.to_string()
    }
}

/// A value as errors show it: `null` as an empty text.
fn shown(value: &Value) -> Value {
    match value {
        Value::Null => "".into(),
        other => other.clone(),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(schema: Value, value: Value, old: Option<Value>) -> Vec<String> {
        let schema = Structural::parse(&schema);
        let errors = validate(&value, old.as_ref(), &schema, &FieldPath::root());
        errors.iter().map(ToString::to_string).collect()
    }

    fn spec(inner: Value) -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"x": inner}}}})
    }

    #[test]
    fn faults_are_told_in_the_words_of_kubernetes() {
        let cases = [
            (
                json!({"type": "integer"}),
                json!("a"),
                r#"spec.x: Invalid value: "string": spec.x in body must be of type integer: "string""#,
            ),
            (
                json!({"type": "integer", "minimum": 1}),
                json!(0),
                "spec.x: Invalid value: 0: spec.x in body should be greater than or equal to 1",
            ),
            (
                json!({"type": "string", "enum": ["a", "b"]}),
                json!("c"),
                r#"spec.x: Unsupported value: "c": supported values: "a", "b""#,
            ),
            (
                json!({"type": "string", "maxLength": 2}),
                json!("abc"),
                "spec.x: Too long: may not be more than 2 bytes",
            ),
            (
                json!({"type": "string", "pattern": "^a$"}),
                json!("b"),
                r#"spec.x: Invalid value: "b": spec.x in body should match '^a$'"#,
            ),
            (
                json!({"type": "array", "maxItems": 1, "items": {"type": "string"}}),
                json!(["a", "b"]),
                "spec.x: Too many: 2: must have at most 1 item",
            ),
            (
                json!({"type": "string"}),
                json!(null),
                r#"spec.x: Invalid value: "null": spec.x in body must be of type string: "null""#,
            ),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(1.5),
                r#"spec.x: Invalid value: "number": spec.x in body must be of type integer,string: "number""#,
            ),
            (
                json!({"type": "object", "required": ["y"]}),
                json!({}),
                "spec.x.y: Required value",
            ),
            (
                json!({"type": "object", "not": {"required": ["y"]}}),
                json!({"y": 1}),
                r#"<nil>: Invalid value: "": "spec.x" must not validate the schema (not)"#,
            ),
        ];
        for (schema, value, wanted) in cases {
            let value = json!({"spec": {"x": value}});
            assert_eq!(told(spec(schema), value, None), [wanted]);
        }
    }

    #[test]
    fn what_an_update_does_not_touch_is_forgiven() {
        let schema = spec(json!({"type": "integer", "minimum": 5}));
        let old = json!({"spec": {"x": 1}});
        assert!(
            told(
                schema.clone(),
                json!({"spec": {"x": 1, "y": 2}}),
                Some(old.clone())
            )
            .is_empty()
        );
        assert_eq!(told(schema, json!({"spec": {"x": 2}}), Some(old)).len(), 1);
    }

    #[test]
    fn of_alternatives_the_nearest_is_told() {
        let schema = spec(
            json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
            "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}),
        );
        assert!(told(schema.clone(), json!({"spec": {"x": {"a": "1"}}}), None).is_empty());
        let both = told(schema, json!({"spec": {"x": {"a": "1", "b": "2"}}}), None);
        assert_eq!(
            both,
            [
                r#"<nil>: Invalid value: "": "spec.x" must validate one and only one schema (oneOf). Found 2 valid alternatives"#
            ]
        );
    }
}
