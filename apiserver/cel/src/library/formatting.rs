//! `format`: texts with places for values.

use corral_api::field::go_quote;

use crate::value::{EvaluationError, List, Value};

/// A place in a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clause {
    String,
    Decimal,
    Fixed(Option<usize>),
    Scientific(Option<usize>),
    Binary,
    Hex { upper: bool },
    Octal,
}

/// The digits behind the point where none are asked for.
const PRECISION: usize = 6;
/// The most digits behind the point.
const PRECISION_MAX: usize = 1000;

impl Clause {
    /// Why a value of a type doesn't fit.
    pub(crate) fn mismatch(self, type_name: &str) -> String {
        let what = match self {
            Self::String => {
                "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps"
            }
            Self::Decimal => "decimal clause can only be used on integers",
            Self::Fixed(_) => "fixed-point clause can only be used on doubles",
            Self::Scientific(_) => "scientific clause can only be used on doubles",
            Self::Binary => "only integers and bools can be formatted as binary",
            Self::Hex { .. } => "only integers, byte buffers, and strings can be formatted as hex",
            Self::Octal => "octal clause can only be used on integers",
        };
        format!("{what}, was given {type_name}")
    }
}

/// A part of a format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part<'t> {
    Text(&'t str),
    Clause(Clause),
}

/// Reads the next part of a format and gives the rest; `None` at its end.
pub(crate) fn next_part(format: &str) -> Option<Result<(Part<'_>, &str), String>> {
    if format.is_empty() {
        return None;
    }
    let Some(rest) = format.strip_prefix('%') else {
        let end = format.find('%').unwrap_or(format.len());
        return Some(Ok((Part::Text(&format[..end]), &format[end..])));
    };
    if let Some(rest) = rest.strip_prefix('%') {
        return Some(Ok((Part::Text("%"), rest)));
    }
    if rest.is_empty() {
        return Some(Err("unexpected end of string".to_owned()));
    }
    Some(
        read_clause(rest)
            .map(|(clause, rest)| (Part::Clause(clause), rest))
            .map_err(|e| format!("could not parse formatting clause: {e}")),
    )
}

fn read_clause(text: &str) -> Result<(Clause, &str), String> {
    let (precision, rest) = match text.strip_prefix('.') {
        None => (None, text),
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_digit());
            let Some(end) = end else {
                return Err(
                    "error while parsing precision: could not find end of precision specifier"
                        .to_owned(),
                );
            };
            let digits = &rest[..end];
            let n: usize = digits.parse().map_err(|_| {
                let why = if digits.is_empty() {
                    "invalid syntax"
                } else {
                    "value out of range"
                };
                format!(
                    "error while parsing precision: error while converting precision to integer: strconv.Atoi: parsing {}: {why}",
                    go_quote(digits)
                )
            })?;
            (Some(n), &rest[end..])
        }
    };
    let Some(c) = rest.chars().next() else {
        return Err("unexpected end of string".to_owned());
    };
    let clause = match c {
        's' => Clause::String,
        'd' => Clause::Decimal,
        'f' => Clause::Fixed(precision),
        'e' => Clause::Scientific(precision),
        'b' => Clause::Binary,
        'x' => Clause::Hex { upper: false },
        'X' => Clause::Hex { upper: true },
        'o' => Clause::Octal,
        c => {
            let byte = char::from(c.to_string().as_bytes()[0]);
            return Err(format!("unrecognized formatting clause \"{byte}\""));
        }
    };
    Ok((clause, &rest[1..]))
}

/// The text with values in its places.
pub(super) fn format(format: &str, args: &List<'_>) -> Result<String, EvaluationError> {
    let mut out = String::new();
    let mut rest = format;
    let mut n_args = 0;
    while let Some(part) = next_part(rest) {
        // A value that is missing is told before what is wrong with its place.
        let is_clause = rest.starts_with('%') && !rest.starts_with("%%");
        let arg = args.get(n_args).transpose()?;
        if is_clause && arg.is_none() {
            return Err(EvaluationError::new(format!("index {n_args} out of range")));
        }
        let (part, after) = part.map_err(EvaluationError::new)?;
        rest = after;
        match (part, arg) {
            (Part::Text(text), _) => out.push_str(text),
            (Part::Clause(clause), Some(arg)) => {
                n_args += 1;
                let text = clause
                    .show(&arg)
                    .map_err(|e| EvaluationError::new(format!("error during formatting: {e}")))?;
                out.push_str(&text);
            }
            (Part::Clause(_), None) => {}
        }
    }
    Ok(out)
}

impl Clause {
    fn show(self, value: &Value<'_>) -> Result<String, String> {
        let mismatch = || Err(self.mismatch(value.type_of().name()));
        match self {
            Self::String => show_string(value),
            Self::Decimal => match value {
                Value::Int(i) => Ok(i.to_string()),
                Value::Uint(u) => Ok(u.to_string()),
                _ => mismatch(),
            },
            Self::Fixed(precision) => match as_double(value) {
                Some(d) => Ok(fixed(d, precision.unwrap_or(PRECISION))),
                None => mismatch(),
            },
            Self::Scientific(precision) => match as_double(value) {
                Some(d) => Ok(scientific(d, precision.unwrap_or(PRECISION))),
                None => mismatch(),
            },
            Self::Binary => match value {
                Value::Int(i) => Ok(signed(*i, |u| format!("{u:b}"))),
                Value::Uint(u) => Ok(format!("{u:b}")),
                Value::Bool(b) => Ok(u8::from(*b).to_string()),
                _ => mismatch(),
            },
            Self::Octal => match value {
                Value::Int(i) => Ok(signed(*i, |u| format!("{u:o}"))),
                Value::Uint(u) => Ok(format!("{u:o}")),
                _ => mismatch(),
            },
            Self::Hex { upper } => {
                let of_bytes =
                    |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
                let text = match value {
                    Value::Int(i) => signed(*i, |u| format!("{u:x}")),
                    Value::Uint(u) => format!("{u:x}"),
                    Value::String(s) => of_bytes(s.as_bytes()),
                    Value::Bytes(b) => of_bytes(b),
                    _ => return mismatch(),
                };
                Ok(if upper { text.to_uppercase() } else { text })
            }
        }
    }
}

fn signed(i: i64, show: fn(u64) -> String) -> String {
    let sign = if i < 0 { "-" } else { "" };
    format!("{sign}{}", show(i.unsigned_abs()))
}

fn as_double(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(d) => Some(*d),
        Value::String(s) => match &**s {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// What no number can be written for.
fn special(d: f64) -> Option<&'static str> {
    if d.is_nan() {
        Some("NaN")
    } else if d.is_infinite() {
        Some(if d > 0.0 { "∞" } else { "-∞" })
    } else {
        None
    }
}

/// Zero has no sign.
fn without_sign(d: f64) -> f64 {
    if d == 0.0 { 0.0 } else { d }
}

/// With a fixed number of digits behind the point, and commas between thousands as in English.
fn fixed(d: f64, precision: usize) -> String {
    if let Some(special) = special(d) {
        return special.to_owned();
    }
    let text = format!("{:.*}", precision.min(PRECISION_MAX), without_sign(d));
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.as_str()),
    };
    let (whole, fraction) = match digits.find('.') {
        Some(at) => digits.split_at(at),
        None => (digits, ""),
    };
    let mut grouped = String::new();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(c);
    }
    format!("{sign}{grouped}{fraction}")
}

/// With an exponent as English writes it. What is asked for is the width, not the digits.
fn scientific(d: f64, width: usize) -> String {
    let width = width.min(PRECISION_MAX);
    if let Some(special) = special(d) {
        return format!("{special:>width$}");
    }
    let text = format!("{:.PRECISION$e}", without_sign(d));
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits = format!("{:02}", exponent.abs());
    let raised: String = digits
        .chars()
        .map(|c| match c {
            '1' => '¹',
            '2' => '²',
            '3' => '³',
            '0' => '⁰',
            c => char::from_u32(u32::from(c) - u32::from('4') + u32::from('⁴')).unwrap_or(c),
        })
        .collect();
    let sign = if exponent < 0 { "⁻" } else { "" };
    let text = format!("{mantissa}\u{a0}×\u{a0}10{sign}{raised}").replace('\u{a0}', "");
    format!("{text:>width$}")
}

fn show_string(value: &Value<'_>) -> Result<String, String> {
    match value {
        Value::List(list) => {
            let shown: Result<Vec<String>, String> = list
                .iter()
                .map(|item| show_inside(&item.map_err(|e| e.to_string())?))
                .collect();
            Ok(format!("[{}]", shown?.join(", ")))
        }
        Value::Map(map) => {
            let mut shown = Vec::with_capacity(map.len());
            for (key, value) in map.iter() {
                let key = match &key {
                    Value::String(s) => go_quote(s),
                    Value::Bool(_) | Value::Int(_) | Value::Uint(_) => key.to_string(),
                    other => {
                        let name = other.type_of();
                        let name = name.name();
                        return Err(format!("no formatting function for map key of type {name}"));
                    }
                };
                let value = show_inside(&value.map_err(|e| e.to_string())?)?;
                shown.push((key, value));
            }
            shown.sort();
            let shown: Vec<String> = shown.iter().map(|(k, v)| format!("{k}:{v}")).collect();
            Ok(format!("{{{}}}", shown.join(", ")))
        }
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Uint(_)
        | Value::Double(_)
        | Value::String(_)
        | Value::Bytes(_)
        | Value::Duration(_)
        | Value::Timestamp(_)
        | Value::Type(_) => value
            .converted_to_string()
            .ok_or_else(|| "could not convert argument to string".to_owned()),
        other => Err(Clause::String.mismatch(other.type_of().name())),
    }
}

/// A value within a list or map.
fn show_inside(value: &Value<'_>) -> Result<String, String> {
    Ok(match value {
        Value::String(s) => go_quote(s),
        Value::Bytes(b) => format!("b{}", go_quote(&String::from_utf8_lossy(b))),
        Value::Double(d) if d.is_nan() => "\"NaN\"".to_owned(),
        Value::Double(d) if d.is_infinite() => {
            if *d > 0.0 { "\"+Inf\"" } else { "\"-Inf\"" }.to_owned()
        }
        Value::Double(d) => format!("{d:.PRECISION$}"),
        Value::Timestamp(_) => format!("timestamp({})", go_quote(&show_string(value)?)),
        Value::Duration(_) => format!("duration({})", go_quote(&show_string(value)?)),
        Value::Int(_)
        | Value::Uint(_)
        | Value::Bool(_)
        | Value::Null
        | Value::Type(_)
        | Value::List(_)
        | Value::Map(_) => show_string(value)?,
        other => {
            let name = other.type_of();
            return Err(format!("no formatting function for {}", name.name()));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled() {
        let args = List::of_values(vec![
            Value::text("a"),
            Value::Int(-10),
            Value::Double(1234.5),
            Value::list(vec![Value::text("x"), Value::Double(1.0)]),
        ]);
        assert_eq!(
            format("%s %x %.2f %s%%", &args).as_deref(),
            Ok("a -a 1,234.50 [\"x\", 1.000000]%")
        );
        assert!(format("%d", &args).is_err() && format("%q", &args).is_err());
        assert!(format("%s%s%s%s%s", &args).is_err());
    }
}
