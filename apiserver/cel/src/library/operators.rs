//! What operators do.

use super::*;

pub(super) fn int<'a>(result: Option<i64>) -> Evaluated<'a> {
    result.map_or_else(|| wrong("integer overflow"), |i| Ok(Value::Int(i)))
}

pub(super) fn uint<'a>(result: Option<u64>) -> Evaluated<'a> {
    result.map_or_else(
        || wrong("unsigned integer overflow"),
        |u| Ok(Value::Uint(u)),
    )
}

pub(super) fn duration<'a>(result: Option<i64>) -> Evaluated<'a> {
    result.map_or_else(|| wrong("integer overflow"), |d| Ok(Value::Duration(d)))
}

pub(super) fn plus<'a>(a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_add(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_add(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::String(a), Value::String(b)) => Ok(Value::text(format!("{}{}", &**a, &**b))),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(Value::Bytes([&**a, &**b].concat().into())),
        (Value::List(a), Value::List(b)) => Ok(Value::List(a.clone().plus(b)?)),
        (Value::Duration(a), Value::Duration(b)) => duration(a.checked_add(*b)),
        (Value::Timestamp(t), Value::Duration(d)) | (Value::Duration(d), Value::Timestamp(t)) => {
            Ok(Value::Timestamp(t.plus(*d)?))
        }
        _ => no_overload(),
    }
}

pub(super) fn minus<'a>(a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_sub(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_sub(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a - b)),
        (Value::Duration(a), Value::Duration(b)) => duration(a.checked_sub(*b)),
        (Value::Timestamp(t), Value::Duration(d)) => Ok(Value::Timestamp(t.minus(*d)?)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Ok(Value::Duration(a.since(*b)?)),
        _ => no_overload(),
    }
}

pub(super) fn times<'a>(a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_mul(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_mul(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a * b)),
        _ => no_overload(),
    }
}

pub(super) fn divided<'a>(a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    match (a, b) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            wrong("division by zero")
        }
        (Value::Int(a), Value::Int(b)) => int(a.checked_div(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_div(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a / b)),
        _ => no_overload(),
    }
}

pub(super) fn remainder<'a>(a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    match (a, b) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            wrong("modulus by zero")
        }
        (Value::Int(a), Value::Int(b)) => int(a.checked_rem(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_rem(*b)),
        _ => no_overload(),
    }
}

pub(super) fn negated<'a>(a: &Value<'a>) -> Evaluated<'a> {
    match a {
        Value::Int(i) => int(i.checked_neg()),
        Value::Double(d) => Ok(Value::Double(-d)),
        Value::Duration(d) => duration(d.checked_neg()),
        _ => no_overload(),
    }
}

pub(super) fn is_in<'a>(item: &Value<'a>, container: &Value<'a>) -> Evaluated<'a> {
    match container {
        Value::List(list) => Ok(Value::Bool(list.contains(item)?)),
        Value::Map(map @ Map::Entries(_)) if !map.is_empty() && matches!(item, Value::Bytes(_)) => {
            Err(EvaluationError::broken(
                "runtime error: hash of unhashable type types.Bytes",
            ))
        }
        Value::Map(map) => match map.get(item) {
            Some(Err(e)) => Err(e),
            found => Ok(Value::Bool(found.is_some())),
        },
        _ => no_overload(),
    }
}
