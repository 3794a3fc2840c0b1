//! The ways in which a field is changed.

use serde_json::{Map, Value, json};

use super::fields::{Field, Path, Step, Type};

/// Longer than any name may be.
const LONG: usize = 300;

/// A change of one field.
#[derive(Debug, Clone)]
pub struct Mutation {
    /// What it is called.
    pub name: String,
    change: Change,
}

#[derive(Debug, Clone)]
enum Change {
    Set(Value),
    Remove,
    /// A field that nobody knows, beside what is there.
    Unknown,
    /// The field twice.
    Duplicate,
}

/// The changes of a field.
pub fn of(field: &Field) -> Vec<Mutation> {
    let mut found = vec![
        mutation("absent", Change::Remove),
        mutation("null", Change::Set(Value::Null)),
        mutation("wrong-type", Change::Set(wrong(field.holds))),
    ];
    if field.holds == Type::Object {
        found.push(mutation("unknown", Change::Unknown));
    } else {
        found.push(mutation("duplicate", Change::Duplicate));
    }
    let mut set = |name: &str, value: Value| found.push(mutation(name, Change::Set(value)));
    match field.holds {
        Type::String => {
            set("empty", "".into());
            set("plain", "plain".into());
            set("strange", "Not Valid!".into());
            set("long", "x".repeat(LONG).into());
        }
        Type::Int32 | Type::Int64 | Type::Number => {
            set("negative", (-1).into());
            set("zero", 0.into());
            set("one", 1.into());
            set("many", 70_000.into());
            set("fraction", 1.5.into());
            let beyond = match field.holds {
                Type::Int32 => json!(3_000_000_000_i64),
                _ => json!(10_000_000_000_000_000_000_u64),
            };
            set("beyond", beyond);
        }
        Type::Boolean => {
            set("yes", true.into());
            set("no", false.into());
        }
        Type::Object => set("empty", json!({})),
        Type::Array => {
            set("empty", json!([]));
            set("null-item", json!([null]));
        }
        Type::IntOrString => {
            set("number", 5.into());
            set("negative", (-5).into());
            set("percent", "50%".into());
            set("strange", "Not Valid!".into());
        }
        Type::Quantity => {
            set("amount", "100Mi".into());
            set("number", 1.into());
            set("negative", "-1".into());
            set("strange", "Not Valid!".into());
        }
        Type::Time => {
            set("past", "2020-01-01T00:00:00Z".into());
            set("fine", "2020-01-01T00:00:00.123456Z".into());
            set("strange", "Not Valid!".into());
        }
        Type::Any => set("plain", "plain".into()),
    }
    for value in &field.values {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            set(text, value.clone());
        }
    }
    found
}

fn mutation(name: &str, change: Change) -> Mutation {
    Mutation {
        name: name.to_owned(),
        change,
    }
}

fn wrong(holds: Type) -> Value {
    match holds {
        Type::String | Type::Time => 7.into(),
        Type::Quantity | Type::IntOrString => json!({"a": "b"}),
        Type::Any => json!([1]),
        _ => "wrong".into(),
    }
}

impl Mutation {
    /// Whether it says something about updates that creations do not.
    pub fn fits_update(&self) -> bool {
        !matches!(
            self.name.as_str(),
            "wrong-type" | "duplicate" | "unknown" | "fraction" | "beyond" | "null-item"
        )
    }

    /// The object with the field changed, as text; `None` where that changes nothing.
    pub fn apply(&self, object: &mut Value, path: &Path) -> Option<String> {
        let (last, parents) = path.0.split_last()?;
        if matches!(self.change, Change::Remove) && find(object, &path.0).is_none() {
            return None;
        }
        let parent = parents
            .iter()
            .fold(&mut *object, |value, step| enter(value, step));
        match (&self.change, last) {
            (Change::Set(value), step) => *enter(parent, step) = value.clone(),
            (Change::Remove, Step::Key(key)) => drop(parent.as_object_mut()?.remove(key)),
            (Change::Remove, Step::First) => drop(parent.as_array_mut()?.remove(0)),
            (Change::Unknown, step) => {
                let place = enter(parent, step);
                if !place.is_object() {
                    *place = Value::Object(Map::new());
                }
                place["unknownField"] = 1.into();
            }
            (Change::Duplicate, Step::Key(key)) => {
                let value = enter(parent, last).clone();
                let once = format!("{}:{value}", Value::from(key.as_str()));
                let mark = "a mark that is nowhere else";
                *enter(parent, last) = mark.into();
                let text = object.to_string();
                let marked = format!("{}:{}", Value::from(key.as_str()), Value::from(mark));
                return Some(text.replace(&marked, &format!("{once},{once}")));
            }
            (Change::Duplicate, Step::First) => {
                let item = enter(parent, last).clone();
                parent.as_array_mut()?.push(item);
            }
        }
        Some(object.to_string())
    }
}

fn find<'a>(object: &'a Value, path: &[Step]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::First => value.get(0),
    })
}

/// Goes into a value, making what is not there.
fn enter<'a>(value: &'a mut Value, step: &Step) -> &'a mut Value {
    match step {
        Step::Key(key) => {
            if !value.is_object() {
                *value = Value::Object(Map::new());
            }
            &mut value[key.as_str()]
        }
        Step::First => {
            if value.as_array().is_none_or(Vec::is_empty) {
                *value = json!([null]);
            }
            &mut value[0]
        }
    }
}
