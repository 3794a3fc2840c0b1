//! Quantities of resources as expressions handle them.

use std::cmp::Ordering;

use corral_api::quantity::{Format, Quantity};

/// A quantity and how it came about.
#[derive(Debug, Clone)]
pub struct Amount {
    quantity: Quantity,
    /// The number as a whole one times a power of ten, unless it is kept as a decimal fraction of any length.
    scaled: Option<Scaled>,
    /// Whether it is a sum or difference. kube-apiserver can't compare anything with such a one by `==`.
    pub(crate) is_computed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Scaled {
    value: i64,
    scale: i32,
}

impl Scaled {
    /// The value at a lower scale.
    fn at(self, scale: i32) -> Option<i64> {
        let factor = 10_i64.checked_pow(u32::try_from(self.scale - scale).ok()?)?;
        self.value.checked_mul(factor)
    }

    fn combine(self, other: Self, op: fn(i64, i64) -> Option<i64>) -> Option<Self> {
        if self.value == 0 || other.value == 0 {
            let scale = if self.value == 0 {
                other.scale
            } else {
                self.scale
            };
            let value = op(self.value, other.value)?;
            return Some(Self { value, scale });
        }
        let scale = self.scale.min(other.scale);
        let value = op(self.at(scale)?, other.at(scale)?)?;
        Some(Self { value, scale })
    }
}

impl Amount {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let quantity = Quantity::parse(text).map_err(|e| {
            if text.is_empty() {
                "empty string for quantity".to_owned()
            } else if has_number_and_unknown_suffix(text) {
                "unable to parse quantity's suffix".to_owned()
            } else {
                e.to_string()
            }
        })?;
        Ok(Self {
            quantity,
            scaled: scaled(text, quantity.format()),
            is_computed: false,
        })
    }

    /// A whole number.
    pub(crate) fn of_int(value: i64) -> Self {
        Self {
            quantity: Quantity::units(value),
            scaled: Some(Scaled { value, scale: 0 }),
            is_computed: false,
        }
    }

    pub(crate) fn text(&self) -> String {
        self.quantity.to_string()
    }

    /// The whole number that it is.
    pub(crate) fn as_int(&self) -> Option<i64> {
        let scaled = self.scaled?;
        if scaled.scale < 0 { None } else { scaled.at(0) }
    }

    pub(crate) fn as_double(&self) -> f64 {
        match self.scaled {
            Some(Scaled { value, scale }) => {
                let text = format!("{value}e{scale}");
                text.parse().unwrap_or(f64::NAN)
            }
            None => {
                let milli = self.quantity - Quantity::units(0);
                let whole = crate::number::of_int(self.quantity.value());
                if Quantity::units(self.quantity.value()) == milli {
                    whole
                } else {
                    crate::number::of_int(self.quantity.milli_value()) / 1000.0
                }
            }
        }
    }

    pub(crate) fn sign(&self) -> i64 {
        if self.quantity.is_zero() {
            0
        } else if self.quantity.is_negative() {
            -1
        } else {
            1
        }
    }

    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        self.quantity.cmp(&other.quantity)
    }

    pub(crate) fn plus(&self, other: &Self) -> Self {
        Self {
            quantity: self.quantity + other.quantity,
            scaled: self
                .scaled
                .zip(other.scaled)
                .and_then(|(a, b)| a.combine(b, i64::checked_add)),
            is_computed: true,
        }
    }

    pub(crate) fn minus(&self, other: &Self) -> Self {
        Self {
            quantity: self.quantity - other.quantity,
            scaled: self
                .scaled
                .zip(other.scaled)
                .and_then(|(a, b)| a.combine(b, i64::checked_sub)),
            is_computed: true,
        }
    }
}

/// Whether the text is a number followed by letters that could be a suffix but are none.
fn has_number_and_unknown_suffix(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let is_number = number.bytes().any(|b| b.is_ascii_digit()) && number.matches('.').count() <= 1;
    let letters = suffix
        .trim_end_matches(|c: char| c.is_ascii_digit())
        .trim_end_matches(['+', '-']);
    is_number && !suffix.is_empty() && letters.chars().all(|c| "eEinumkKMGTP".contains(c))
}

/// The number as it is kept when it is short enough.
fn scaled(text: &str, format: Format) -> Option<Scaled> {
    const DIGITS_MAX: i32 = 18;
    let negative = text.starts_with('-');
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let n_digits = i32::try_from(whole.len() + fraction.len()).ok()?;
    let n_fraction = i32::try_from(fraction.len()).ok()?;
    let digits: i64 = format!("0{whole}{fraction}").parse().ok()?;
    let sign = if negative { -1 } else { 1 };
    let (value, scale) = match format {
        Format::BinarySi => {
            let exponent = 10 * i32::try_from("KMGTPE".find(suffix.chars().next()?)? + 1).ok()?;
            let precision = 15 - i32::try_from(whole.len()).ok()? - exponent * 3 / 10 - 1;
            if precision < 0 || !fraction.is_empty() {
                return None;
            }
            (
                digits.checked_mul(1_i64.checked_shl(u32::try_from(exponent).ok()?)?)?,
                0,
            )
        }
        Format::DecimalSi | Format::DecimalExponent => {
            let exponent = match suffix {
                "n" => -9,
                "u" => -6,
                "m" => -3,
                "" => 0,
                "k" => 3,
                "M" => 6,
                "G" => 9,
                "T" => 12,
                "P" => 15,
                "E" => 18,
                other => other[1..].parse().ok()?,
            };
            (digits, exponent - n_fraction)
        }
    };
    (n_digits <= DIGITS_MAX && scale >= -9).then_some(Scaled {
        value: sign * value,
        scale,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_found() {
        let of = |text: &str| Amount::parse(text).expect(text);
        assert_eq!(of("1k").as_int(), Some(1000));
        assert_eq!(of("1Mi").as_int(), Some(1 << 20));
        assert_eq!(of("1000m").as_int(), None);
        assert_eq!(of("1.5").as_int(), None);
        assert_eq!(of("1k").plus(&Amount::of_int(1)).as_int(), Some(1001));
        assert_eq!(of("50k").minus(&of("20k")).text(), "30k");
        assert!((of("1.5").as_double() - 1.5).abs() < 1e-12);
        assert!(Amount::parse("10Mo").is_err());
    }
}
