//! What the expressions of a mutating policy give.

use serde_json::{Map as JsonMap, Value as Json, json};

use crate::mutation::OBJECT;
use crate::value::{Map, Object, Value};

/// The largest whole number that a number of JSON surely holds; larger ones are written as texts.
const SAFE_INT_MAX: u64 = (1 << 53) - 1;
const MARSHAL: &str = "JSONPath valueExpression evaluated to a type that could not marshal to JSON";

/// Checks that a value is no larger than what a body may hold, before it is gone through: as parts of it may be shared,
/// a short expression can stand for more than any memory holds.
///
/// # Errors
/// When it nests deeper than so many levels, or holds more than so many values.
pub fn check_size(value: &Value<'_>, levels: usize, values_max: usize) -> Result<(), String> {
    let mut left = values_max;
    check_within(value, levels, &mut left).map_err(|excess| match excess {
        Excess::Levels => format!("nested deeper than {levels} levels"),
        Excess::Values => format!("more than {values_max} values"),
    })
}

#[derive(Clone, Copy)]
enum Excess {
    Levels,
    Values,
}

fn check_within(value: &Value<'_>, levels: usize, left: &mut usize) -> Result<(), Excess> {
    *left = left.checked_sub(1).ok_or(Excess::Values)?;
    let below = levels.checked_sub(1).ok_or(Excess::Levels);
    match value {
        Value::Object(object) => {
            let mut fields = object.fields.iter();
            fields.try_for_each(|(_, inner)| check_within(inner, below?, left))
        }
        Value::List(list) => {
            let mut items = list.iter().flatten();
            items.try_for_each(|inner| check_within(&inner, below?, left))
        }
        Value::Map(map) => {
            let mut values = map.iter().filter_map(|(_, value)| value.ok());
            values.try_for_each(|inner| check_within(&inner, below?, left))
        }
        Value::Optional(Some(inner)) => check_within(inner, levels, left),
        _ => Ok(()),
    }
}

/// The operations of a JSON patch, from the value of an expression that returns
/// [`JsonPatch`](super::Returns::JsonPatch).
///
/// # Errors
/// What is wrong with them, in kube-apiserver's words.
pub fn operations(value: &Value<'_>) -> Result<Vec<Json>, String> {
    let Value::List(list) = value else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
    };
    list.iter()
        .map(|item| match item {
            Ok(Value::Object(object)) => operation(&object),
            Ok(other) => Err(format!(
                "type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch, got element of {}",
                other.go_type()
            )),
            Err(e) => Err(e.to_string()),
        })
        .collect()
}

fn operation(object: &Object<'_>) -> Result<Json, String> {
    let mut out = JsonMap::new();
    for name in ["op", "path", "from"] {
        let text = object.get_or_empty(name);
        let text = text.as_str().unwrap_or("");
        if name != "from" || !text.is_empty() {
            out.insert(name.to_owned(), json!(text));
        }
    }
    if let Some(value) = object.get("value") {
        if let Value::Object(inner) = value {
            check_names(inner)?;
        }
        let value = to_json(value).map_err(|e| format!("{MARSHAL}: {e}"))?;
        out.insert("value".to_owned(), value);
    }
    Ok(Json::Object(out))
}

/// The object that is to be applied, from the value of an expression that returns
/// [`ApplyConfiguration`](super::Returns::ApplyConfiguration).
///
/// # Errors
/// What is wrong with it, in kube-apiserver's words.
pub fn configuration(value: &Value<'_>) -> Result<Json, String> {
    let Value::Object(object) = value else {
        return Err(format!(
            "unsupported return type from ApplyConfiguration expression: {}",
            value.type_of()
        ));
    };
    check_names(object)?;
    configured(object).ok_or_else(|| "invalid return type: *dynamic.ObjectVal".to_owned())
}

/// The type of each object within says where it is: `Object.spec` is the field `spec`.
fn check_names(object: &Object<'_>) -> Result<(), String> {
    let mut wrong = Vec::new();
    check_object(object, &object.type_name, &mut wrong);
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("type mismatch: {}", wrong.join("\n")))
    }
}

fn check_object(object: &Object<'_>, expected: &str, wrong: &mut Vec<String>) {
    if *object.type_name != *expected {
        wrong.push(format!(
            "unexpected type name {:?}, expected {expected:?}, which matches field name path from root {OBJECT} type",
            object.type_name
        ));
    }
    for (field, value) in &object.fields {
        check_value(value, &format!("{expected}.{field}"), wrong);
    }
}

fn check_value(value: &Value<'_>, expected: &str, wrong: &mut Vec<String>) {
    match value {
        Value::Object(object) => check_object(object, expected, wrong),
        Value::List(list) => {
            for item in list.iter().flatten() {
                check_value(&item, expected, wrong);
            }
        }
        Value::Map(map) => {
            for (_, item) in map.iter() {
                if let Ok(item) = item {
                    check_value(&item, expected, wrong);
                }
            }
        }
        _ => {}
    }
}

/// A value as data, as a JSON patch holds it.
fn to_json(value: &Value<'_>) -> Result<Json, String> {
    let unsupported = |name: &str| {
        Err(format!(
            "type conversion error from '{name}' to '*structpb.Value'"
        ))
    };
    match value {
        Value::Int(i) if i.unsigned_abs() > SAFE_INT_MAX => Ok(json!(i.to_string())),
        Value::Uint(u) if *u > SAFE_INT_MAX => Ok(json!(u.to_string())),
        Value::Double(d) => match crate::number::whole(*d) {
            Some(whole) if whole.unsigned_abs() <= SAFE_INT_MAX => Ok(json!(whole)),
            _ if d.is_finite() => Ok(json!(d)),
            _ => Err(format!(
                "google.protobuf.Value: {value} is no number of JSON"
            )),
        },
        Value::List(list) => {
            let items = list
                .iter()
                .map(|item| to_json(&item.map_err(|e| e.to_string())?));
            Ok(Json::Array(items.collect::<Result<_, _>>()?))
        }
        Value::Map(map) => {
            let entries = map.iter().map(|(key, value)| {
                let value = value.map_err(|e| e.to_string())?;
                match key.as_str() {
                    Some(key) => Ok((key.to_owned(), to_json(&value)?)),
                    None => Err(format!(
                        "unsupported type conversion from '{}' to string",
                        key.type_of().name()
                    )),
                }
            });
            Ok(Json::Object(entries.collect::<Result<JsonMap<_, _>, _>>()?))
        }
        Value::Object(object) if crate::mutation::is_opaque(value) => configured(object)
            .ok_or_else(|| format!("fail to convert a field of {}", object.type_name)),
        Value::Object(_) => Err("cannot convert to native type: *structpb.Value".to_owned()),
        Value::Optional(None) => Err("optional.none() dereference".to_owned()),
        Value::Optional(Some(inner)) => to_json(inner),
        Value::Quantity(_) => unsupported("Quantity"),
        Value::Url(_) => unsupported("URL"),
        Value::Ip(_) => unsupported("IP"),
        Value::Cidr(_) => unsupported("CIDR"),
        Value::Semver(_) => unsupported("Semver"),
        Value::Format(_) => unsupported("Format"),
        Value::Type(_) => Err("type conversion not supported for 'type'".to_owned()),
        other => other.to_json().ok_or_else(|| {
            format!(
                "type conversion error from '{}' to '*structpb.Value'",
                other.type_of()
            )
        }),
    }
}

/// An object as the data that is applied.
fn configured(object: &Object<'_>) -> Option<Json> {
    let fields = object
        .fields
        .iter()
        .map(|(name, value)| Some((name.to_string(), native(value)?)));
    Some(Json::Object(fields.collect::<Option<_>>()?))
}

/// The plain value behind one of an object's fields.
fn native(value: &Value<'_>) -> Option<Json> {
    Some(match value {
        // The number of the only value of its type.
        Value::Null => json!(0),
        Value::Double(d) => match crate::number::whole(*d) {
            Some(whole) if whole.unsigned_abs() <= SAFE_INT_MAX => json!(whole),
            _ => json!(d),
        },
        Value::List(list) if list.is_made() => {
            let items = list.iter().map(|item| native(&item.ok()?));
            Json::Array(items.collect::<Option<_>>()?)
        }
        Value::Map(Map::Entries(map)) => {
            let map = Map::Entries(map.clone());
            let entries = map
                .iter()
                .map(|(key, value)| Some((key.as_str()?.to_owned(), native(&value.ok()?)?)));
            Json::Object(entries.collect::<Option<_>>()?)
        }
        Value::Object(object) => configured(object)?,
        other => other.to_json()?,
    })
}
