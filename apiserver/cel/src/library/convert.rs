//! Conversions between types.

use super::*;

pub(super) fn conversion(name: &str) -> Option<Implementation> {
    Some(match name {
        "bool" => |args| convert(&args[0], &Type::Bool),
        "bytes" => |args| convert(&args[0], &Type::Bytes),
        "double" => |args| convert(&args[0], &Type::Double),
        "duration" => |args| convert(&args[0], &Type::Duration),
        "int" => |args| convert(&args[0], &Type::Int),
        "string" => |args| convert(&args[0], &Type::String),
        "timestamp" => |args| convert(&args[0], &Type::Timestamp),
        "uint" => |args| convert(&args[0], &Type::Uint),
        _ => return None,
    })
}

pub(super) fn convert<'a>(value: &Value<'a>, to: &Type) -> Evaluated<'a> {
    if value.type_of() == *to {
        return Ok(value.clone());
    }
    match (value, to) {
        (Value::Int(i), Type::Uint) => uint(u64::try_from(*i).ok()),
        (Value::Int(i), Type::Double) => Ok(Value::Double(number::of_int(*i))),
        (Value::Int(i), Type::Timestamp) => Timestamp::of_seconds(*i)
            .map_or_else(|| wrong("timestamp overflow"), |t| Ok(Value::Timestamp(t))),
        (Value::Uint(u), Type::Int) => int(i64::try_from(*u).ok()),
        (Value::Uint(u), Type::Double) => Ok(Value::Double(number::of_uint(*u))),
        (Value::Double(d), Type::Int) => int(number::to_int(*d)),
        (Value::Double(d), Type::Uint) => uint(number::to_uint(*d)),
        (Value::Duration(d), Type::Int) => Ok(Value::Int(*d)),
        (Value::Timestamp(t), Type::Int) => Ok(Value::Int(t.unix_seconds())),
        (Value::Bytes(_), Type::String) => value.converted_to_string().map_or_else(
            || wrong("invalid UTF-8 in bytes, cannot convert to string"),
            |s| Ok(Value::text(s)),
        ),
        (Value::String(text), to) => convert_text(text, to),
        (value, Type::String) if !matches!(value, Value::Null | Value::Type(_)) => value
            .converted_to_string()
            .map_or_else(no_overload, |s| Ok(Value::text(s))),
        (value, to) => wrong(format!(
            "type conversion error from '{}' to '{}'",
            value.type_of().name(),
            to.name()
        )),
    }
}

pub(super) fn convert_text<'a>(text: &str, to: &Type) -> Evaluated<'a> {
    let converted = match to {
        Type::Int => parse_int(text).map(Value::Int),
        Type::Uint => parse_uint(text).map(Value::Uint),
        Type::Double => parse_double(text).map(Value::Double),
        Type::Bool => match text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(Value::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(Value::Bool(false)),
            _ => None,
        },
        Type::Bytes => Some(Value::Bytes(Arc::from(text.as_bytes()))),
        Type::Duration => parse_duration(text).map(Value::Duration),
        Type::Timestamp => match Timestamp::parse(text) {
            Some(t) if Timestamp::of_seconds(t.unix_seconds()).is_none() => {
                return wrong("timestamp overflow");
            }
            found => found.map(Value::Timestamp),
        },
        _ => None,
    };
    converted.map_or_else(
        || {
            wrong(format!(
                "type conversion error from 'string' to '{}'",
                to.name()
            ))
        },
        Ok,
    )
}

pub(super) fn parse_int(text: &str) -> Option<i64> {
    text.parse().ok()
}

pub(super) fn parse_uint(text: &str) -> Option<u64> {
    // A sign isn't taken here.
    (!text.starts_with('+')).then(|| text.parse().ok())?
}

pub(super) fn parse_double(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_word = ["inf", "infinity", "nan"]
        .iter()
        .any(|word| unsigned.eq_ignore_ascii_case(word));
    if is_word {
        let signed_nan = unsigned.len() != text.len() && unsigned.eq_ignore_ascii_case("nan");
        return (!signed_nan).then(|| text.parse().ok())?;
    }
    let digits = without_underscores(text)?;
    match hexadecimal(&digits) {
        Some(d) => Some(d),
        None => digits.parse().ok().filter(|d: &f64| d.is_finite()),
    }
}

/// Underscores may stand between digits.
pub(super) fn without_underscores(text: &str) -> Option<String> {
    let chars: Vec<char> = text.chars().collect();
    let is_digit = |i: Option<usize>| {
        i.and_then(|i| chars.get(i))
            .is_some_and(char::is_ascii_hexdigit)
    };
    for (i, _) in chars.iter().enumerate().filter(|(_, c)| **c == '_') {
        if !is_digit(i.checked_sub(1)) || !is_digit(Some(i + 1)) {
            return None;
        }
    }
    Some(text.replace('_', ""))
}

/// A number such as `0x1.8p-2`.
pub(super) fn hexadecimal(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = unsigned
        .strip_prefix("0x")
        .or_else(|| unsigned.strip_prefix("0X"))?;
    let (mantissa, exponent) = digits.split_once(['p', 'P'])?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let bits = u64::from_str_radix(&format!("{whole}{fraction}"), 16).ok()?;
    let exponent: i32 = exponent.parse().ok()?;
    let shift = exponent.checked_sub(i32::try_from(fraction.len()).ok()?.checked_mul(4)?)?;
    let magnitude = number::of_uint(bits) * 2_f64.powi(shift);
    let value = if text.starts_with('-') {
        -magnitude
    } else {
        magnitude
    };
    value.is_finite().then_some(value)
}
