//! Values as text.

use std::fmt;
use std::fmt::Write as _;

use super::Value;

/// A floating-point number without exponent and with as many digits as it needs.
pub(crate) fn plain_double(d: f64) -> String {
    if d.is_nan() {
        return "NaN".to_owned();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    format!("{d}")
}

/// From this exponent on it is written.
const EXPONENT_MAX: i32 = 6;

/// A floating-point number in the shorter of both forms, as Go's `%g` has it.
pub(crate) fn short_double(d: f64) -> String {
    if !d.is_finite() || d == 0.0 {
        return if d == 0.0 && d.is_sign_negative() {
            "-0".to_owned()
        } else {
            plain_double(d)
        };
    }
    let scientific = format!("{d:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..EXPONENT_MAX).contains(&exponent) {
        return plain_double(d);
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

impl Value<'_> {
    /// What `string()` gives, for what it takes.
    pub(crate) fn converted_to_string(&self) -> Option<String> {
        Some(match self {
            Self::Null => "null".to_owned(),
            Self::Bool(b) => b.to_string(),
            Self::Int(i) => i.to_string(),
            Self::Uint(u) => u.to_string(),
            Self::Double(d) => short_double(*d),
            Self::String(s) => s.to_string(),
            Self::Bytes(b) => String::from_utf8(b.to_vec()).ok()?,
            Self::Duration(nanos) => format!("{}s", plain_double(seconds(*nanos))),
            Self::Timestamp(t) => t.text(),
            Self::Type(t) => t.name().to_owned(),
            Self::Ip(ip) => ip.to_string(),
            Self::Cidr(cidr) => cidr.to_string(),
            _ => return None,
        })
    }
}

/// Nanoseconds as seconds.
pub(crate) fn seconds(nanos: i64) -> f64 {
    const SECOND: i64 = 1_000_000_000;
    crate::number::of_int(nanos / SECOND) + crate::number::of_int(nanos % SECOND) / 1e9
}

impl fmt::Display for Value<'_> {
    /// As error messages show values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(list) => {
                f.write_char('[')?;
                for (i, item) in list.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    match item {
                        Ok(item) => write!(f, "{item}")?,
                        Err(e) => write!(f, "{e}")?,
                    }
                }
                f.write_char(']')
            }
            Self::Map(map) => {
                f.write_char('{')?;
                for (i, (key, value)) in map.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    match value {
                        Ok(value) => write!(f, "{key}: {value}")?,
                        Err(e) => write!(f, "{key}: {e}")?,
                    }
                }
                f.write_char('}')
            }
            Self::Optional(Some(value)) => write!(f, "optional({value})"),
            Self::Optional(None) => f.write_str("optional.none()"),
            Self::Quantity(q) => f.write_str(&q.text()),
            other => match other.converted_to_string() {
                Some(text) => f.write_str(&text),
                None => f.write_str(other.type_of().name()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_read_as_in_go() {
        for (d, text) in [
            (1.0, "1"),
            (0.1, "0.1"),
            (1e21, "1e+21"),
            (1e20, "1e+20"),
            (123456.0, "123456"),
            (1234567.0, "1.234567e+06"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (-2.5e-10, "-2.5e-10"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(short_double(d), text);
        }
    }
}
