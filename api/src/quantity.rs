//! Quantities of resources: exact decimal numbers with SI or binary suffixes.
//!
//! Kubernetes keeps nine digits after the point and rounds up what is finer; so does this. Magnitudes are capped at
//! 2^63-1 as there.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, Sub};

use crate::k8s::apimachinery::pkg::api::resource::Quantity as WireQuantity;

const NANO: i128 = 1_000_000_000;
const UNITS_MAX: i128 = i64::MAX as i128;

/// How a quantity is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub enum Format {
    #[default]
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// An exact amount, in billionths of a unit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)]
pub struct ParseError;

const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY: [(&str, u32); 6] = [
    ("Ki", 10),
    ("Mi", 20),
    ("Gi", 30),
    ("Ti", 40),
    ("Pi", 50),
    ("Ei", 60),
];

impl Quantity {
    /// A number of whole units.
    pub fn units(units: i64) -> Self {
        Self {
            nanos: i128::from(units) * NANO,
            format: Format::DecimalSi,
        }
    }

    /// A number of thousandths, the usual measure of CPU.
    pub fn millis(millis: i64) -> Self {
        Self {
            nanos: i128::from(millis) * (NANO / 1000),
            format: Format::DecimalSi,
        }
    }

    /// A number of whole units, written with binary suffixes, the usual way for memory.
    pub fn bytes(bytes: i64) -> Self {
        Self {
            nanos: i128::from(bytes) * NANO,
            format: Format::BinarySi,
        }
    }

    /// Reads a text such as `100m`, `1.5Gi` or `1e3`.
    ///
    /// # Errors
    /// [`ParseError`] when the text is not a quantity.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(ParseError);
        }
        let (format, scale) = parse_suffix(suffix)?;
        let magnitude = scaled_nanos(whole, fraction, scale);
        let capped = magnitude.min(UNITS_MAX * NANO);
        Ok(Self {
            nanos: if negative { -capped } else { capped },
            format,
        })
    }

    /// Reads the quantity of an API object.
    ///
    /// # Errors
    /// [`ParseError`] when the text is not a quantity.
    pub fn from_wire(wire: &WireQuantity) -> Result<Self, ParseError> {
        Self::parse(&wire.0)
    }

    /// As the quantity of an API object.
    pub fn to_wire(self) -> WireQuantity {
        WireQuantity(self.to_string())
    }

    /// Whole units, rounded up.
    pub fn value(self) -> i64 {
        div_ceil(self.nanos, NANO)
    }

    /// Thousandths, rounded up.
    pub fn milli_value(self) -> i64 {
        div_ceil(self.nanos, NANO / 1000)
    }

    /// Whether this is less than nothing.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether this is nothing.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// How it is written.
    pub fn format(self) -> Format {
        self.format
    }
}

fn div_ceil(n: i128, d: i128) -> i64 {
    let q = n.div_euclid(d) + i128::from(n.rem_euclid(d) != 0);
    i64::try_from(q).unwrap_or(if q > 0 { i64::MAX } else { i64::MIN })
}

enum Scale {
    Ten(i32),
    Two(u32),
}

fn parse_suffix(suffix: &str) -> Result<(Format, Scale), ParseError> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Ok((Format::DecimalSi, Scale::Ten(*exponent)));
    }
    if let Some((_, exponent)) = BINARY.iter().find(|(s, _)| *s == suffix) {
        return Ok((Format::BinarySi, Scale::Two(*exponent)));
    }
    let digits = suffix.strip_prefix(['e', 'E']).ok_or(ParseError)?;
    let exponent: i32 = digits.parse().map_err(|_| ParseError)?;
    Ok((Format::DecimalExponent, Scale::Ten(exponent)))
}

/// The number in billionths, rounded up, saturating.
fn scaled_nanos(whole: &str, fraction: &str, scale: Scale) -> i128 {
    // Digits beyond these can only lead to a capped or a rounded-up value.
    const DIGITS_MAX: usize = 30;
    let digits: String = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return 0;
    }
    let dropped = digits.len().saturating_sub(DIGITS_MAX);
    let (kept, rest) = digits.split_at(digits.len() - dropped);
    let mut value: i128 = kept.parse().unwrap_or(i128::MAX);
    let mut inexact = rest.bytes().any(|b| b != b'0');
    let mut exponent = i64::try_from(dropped).unwrap_or(i64::MAX)
        - i64::try_from(fraction.len()).unwrap_or(i64::MAX)
        + 9;
    match scale {
        Scale::Ten(e) => exponent += i64::from(e),
        Scale::Two(e) => match value.checked_mul(1 << e) {
            Some(v) => value = v,
            None => return i128::MAX,
        },
    }
    while exponent > 0 {
        match value.checked_mul(10) {
            Some(v) => value = v,
            None => return i128::MAX,
        }
        exponent -= 1;
    }
    while exponent < 0 && value != 0 {
        inexact |= value % 10 != 0;
        value /= 10;
        exponent += 1;
    }
    value + i128::from(inexact)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let below_1024 = self.nanos.abs() < 1024 * NANO;
        match self.format {
            Format::BinarySi if !below_1024 => {
                let mut units = i128::from(div_ceil(self.nanos, NANO));
                let mut suffix = "";
                for (next, _) in BINARY {
                    if units % 1024 != 0 {
                        break;
                    }
                    units /= 1024;
                    suffix = next;
                }
                write!(f, "{units}{suffix}")
            }
            Format::DecimalExponent => {
                let (mantissa, exponent) = decimal_parts(self.nanos);
                match exponent {
                    0 => write!(f, "{mantissa}"),
                    e => write!(f, "{mantissa}e{e}"),
                }
            }
            _ => {
                let (mantissa, exponent) = decimal_parts(self.nanos);
                let suffix = DECIMAL
                    .iter()
                    .find(|(_, e)| *e == exponent)
                    .map_or("", |(s, _)| s);
                write!(f, "{mantissa}{suffix}")
            }
        }
    }
}

/// The largest power of a thousand that leaves a whole mantissa.
fn decimal_parts(nanos: i128) -> (i128, i32) {
    let (mut mantissa, mut exponent) = (nanos, -9);
    while mantissa % 1000 == 0 && exponent < 18 {
        mantissa /= 1000;
        exponent += 3;
    }
    (mantissa, exponent)
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}
impl Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_add(other.nanos),
            format: if self.nanos == 0 {
                other.format
            } else {
                self.format
            },
        }
    }
}
impl Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_sub(other.nanos),
            format: if self.nanos == 0 {
                other.format
            } else {
                self.format
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_become_canonical() {
        for (text, canonical) in [
            ("0", "0"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("1500", "1500"),
            ("2000", "2k"),
            ("-1", "-1"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("1E", "1E"),
            ("99999999999999999999", "9223372036854775807"),
            (".5", "500m"),
            ("5.", "5"),
        ] {
            assert_eq!(
                Quantity::parse(text).expect(text).to_string(),
                canonical,
                "{text}"
            );
        }
        for text in ["", "x", "1x", "1.2.3", "1 Gi", "Ki", "--1", "1e", "1Kib"] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn values_round_up_and_compare() {
        let q = |t: &str| Quantity::parse(t).expect(t);
        assert_eq!(q("100m").value(), 1);
        assert_eq!(q("1500m").milli_value(), 1500);
        assert_eq!(q("1Gi").value(), 1 << 30);
        assert!(q("1Gi") > q("1G") && q("1000m") == q("1"));
        assert_eq!((q("1Gi") + q("1Mi")).to_string(), "1025Mi");
        assert!((q("1") - q("2")).is_negative());
    }
}
