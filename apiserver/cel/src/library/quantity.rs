//! Quantities of resources as expressions handle them: exact, and of any size that fits 128 bits of digits.

use std::cmp::Ordering;

/// A quantity.
#[derive(Debug, Clone)]
pub struct Amount {
    /// The number is `digits * 10^scale`.
    digits: i128,
    scale: i32,
    /// Whether kube-apiserver keeps it as a 64-bit number, which can become a whole number.
    is_short: bool,
    format: Format,
    /// The text, as long as it is the shortest one.
    text: Option<String>,
    /// Whether it is a sum or difference. kube-apiserver can't compare anything with such a one by `==`.
    pub(crate) is_computed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Decimal,
    Exponent,
    Binary,
}

const FORMAT_WRONG: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
const SUFFIX_WRONG: &str = "unable to parse quantity's suffix";
/// The finest part that is kept.
const SCALE_MIN: i32 = -9;
const SHORT_DIGITS_MAX: i32 = 18;

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
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

fn power(base: i128, exponent: i32) -> Option<i128> {
    base.checked_pow(u32::try_from(exponent).ok()?)
}

/// The parts of a text: sign, digits before and behind the point, suffix.
fn split(text: &str) -> Result<(bool, &str, &str, &str), &'static str> {
    let negative = text.starts_with('-');
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(unsigned.len());
    let (whole, rest) = unsigned.split_at(end);
    let (fraction, suffix) = match rest.strip_prefix('.') {
        None => ("", rest),
        Some(rest) => {
            let end = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            rest.split_at(end)
        }
    };
    let letters = suffix.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
    let digits = letters.strip_prefix(['+', '-']).unwrap_or(letters);
    // Without any digits it is zero, but something must be there.
    if !text.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        Ok((negative, whole, fraction, suffix))
    } else {
        Err(FORMAT_WRONG)
    }
}

impl Amount {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::read(text).map_err(str::to_owned)
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        let (negative, whole, fraction, suffix) = split(text)?;
        let whole = whole.trim_start_matches('0');
        let binary = BINARY.iter().position(|s| *s == suffix);
        let (format, exponent) = if let Some(i) = binary {
            (Format::Binary, 10 * i32::try_from(i + 1).unwrap_or(0))
        } else if let Some((_, exponent)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
            (Format::Decimal, *exponent)
        } else {
            let digits = suffix.strip_prefix(['e', 'E']).ok_or(SUFFIX_WRONG)?;
            (Format::Exponent, digits.parse().map_err(|_| SUFFIX_WRONG)?)
        };
        let n_digits = i32::try_from(whole.len() + fraction.len()).unwrap_or(i32::MAX);
        let written = format!("{whole}{fraction}");
        let unscaled: i128 = if written.is_empty() {
            0
        } else {
            written.parse().map_err(|_| FORMAT_WRONG)?
        };
        let mut scale = -i32::try_from(fraction.len()).unwrap_or(i32::MAX);
        let mut digits = if negative { -unscaled } else { unscaled };
        let is_short = match format {
            Format::Binary => {
                digits = digits
                    .checked_mul(power(2, exponent).ok_or(FORMAT_WRONG)?)
                    .ok_or(FORMAT_WRONG)?;
                let whole_digits = i32::try_from(whole.len()).unwrap_or(i32::MAX);
                fraction.is_empty() && 15 - whole_digits - exponent * 3 / 10 > 0
            }
            _ => {
                scale = scale.saturating_add(exponent);
                n_digits <= SHORT_DIGITS_MAX && scale >= SCALE_MIN
            }
        };
        let is_short = is_short && i64::try_from(digits).is_ok();
        let is_shortest = match format {
            Format::Binary => unscaled & 7 != 0,
            _ => {
                scale % 3 == 0
                    && !written.ends_with("000")
                    && !written.starts_with('0')
                    && unscaled != 0
            }
        };
        let mut amount = Self {
            digits,
            scale,
            is_short,
            format,
            text: (is_short && is_shortest).then(|| text.to_owned()),
            is_computed: false,
        };
        if !is_short {
            amount.round();
        }
        Ok(amount)
    }

    /// Keeps nine digits behind the point, away from zero, and binary ones below 2^63.
    fn round(&mut self) {
        if self.scale < SCALE_MIN
            && let Some(factor) = power(10, SCALE_MIN - self.scale)
        {
            let rest = self.digits % factor;
            self.digits = self.digits / factor + rest.signum();
            self.scale = SCALE_MIN;
        } else if self.digits != 0
            && let Some(digits) = self.at(SCALE_MIN)
        {
            (self.digits, self.scale) = (digits, SCALE_MIN);
        }
        if self.format == Format::Binary {
            let max = Self::of_int(i64::MAX);
            if self.digits > 0 && self.compare(&max) == Ordering::Greater {
                (self.digits, self.scale) = (max.digits, max.scale);
            }
            let is_fraction = self.digits != 0 && self.compare(&Self::of_int(1)) == Ordering::Less;
            if is_fraction && self.digits > 0 {
                self.format = Format::Decimal;
            }
        }
    }

    /// A whole number.
    pub(crate) fn of_int(value: i64) -> Self {
        Self {
            digits: i128::from(value),
            scale: 0,
            is_short: true,
            format: Format::Exponent,
            text: None,
            is_computed: false,
        }
    }

    /// The digits at a scale that is not higher.
    fn at(&self, scale: i32) -> Option<i128> {
        self.digits.checked_mul(power(10, self.scale - scale)?)
    }

    /// The shortest text.
    pub(crate) fn text(&self) -> String {
        if let Some(text) = &self.text {
            return text.clone();
        }
        if self.digits == 0 {
            return "0".to_owned();
        }
        if self.format == Format::Binary
            && let Some(text) = self.binary_text()
        {
            return text;
        }
        let (mut digits, mut exponent) = (self.digits, self.scale);
        while digits % 10 == 0 {
            digits /= 10;
            exponent += 1;
        }
        let lower = exponent.rem_euclid(3);
        digits = digits.saturating_mul(power(10, lower).unwrap_or(1));
        exponent -= lower;
        if self.format == Format::Exponent {
            return if exponent == 0 {
                digits.to_string()
            } else {
                format!("{digits}e{exponent}")
            };
        }
        let suffix = DECIMAL.iter().find(|(_, e)| *e == exponent);
        format!("{digits}{}", suffix.map_or("", |(s, _)| s))
    }

    /// With a binary suffix, unless that would lose something.
    fn binary_text(&self) -> Option<String> {
        let mut units = if self.scale >= 0 {
            self.at(0)?
        } else {
            let factor = power(10, -self.scale)?;
            (self.digits % factor == 0).then_some(self.digits / factor)?
        };
        if units.abs() < 1024 {
            return None;
        }
        let mut suffix = "";
        for next in BINARY {
            if units % 1024 != 0 {
                break;
            }
            units /= 1024;
            suffix = next;
        }
        Some(format!("{units}{suffix}"))
    }

    /// The whole number that it is.
    pub(crate) fn as_int(&self) -> Option<i64> {
        if !self.is_short || self.scale < 0 {
            return None;
        }
        i64::try_from(self.at(0)?).ok()
    }

    pub(crate) fn as_double(&self) -> f64 {
        #[allow(clippy::cast_precision_loss)]
        let base = self.digits as f64;
        if self.scale == 0 {
            return base;
        }
        base * 10_f64.powi(self.scale)
    }

    pub(crate) fn sign(&self) -> i64 {
        i64::try_from(self.digits.signum()).unwrap_or(0)
    }

    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        let scale = self.scale.min(other.scale);
        match (self.at(scale), other.at(scale)) {
            (Some(a), Some(b)) => a.cmp(&b),
            // Only one of them is beyond what fits.
            _ => self
                .as_double()
                .partial_cmp(&other.as_double())
                .unwrap_or(Ordering::Equal),
        }
    }

    fn combine(&self, other: &Self, op: fn(i128, i128) -> i128) -> Self {
        let scale = match (self.digits, other.digits) {
            (0, _) => other.scale,
            (_, 0) => self.scale,
            _ => self.scale.min(other.scale),
        };
        let of = |amount: &Self| {
            if amount.digits == 0 {
                Some(0)
            } else {
                amount.at(scale)
            }
        };
        let digits = op(
            of(self).unwrap_or(i128::MAX),
            of(other).unwrap_or(i128::MAX),
        );
        Self {
            digits,
            scale,
            is_short: self.is_short && other.is_short && i64::try_from(digits).is_ok(),
            format: if self.digits == 0 {
                other.format
            } else {
                self.format
            },
            text: None,
            is_computed: true,
        }
    }

    pub(crate) fn plus(&self, other: &Self) -> Self {
        self.combine(other, i128::saturating_add)
    }

    pub(crate) fn minus(&self, other: &Self) -> Self {
        self.combine(other, i128::saturating_sub)
    }
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

    #[test]
    fn texts_are_the_shortest() {
        for (text, shortest) in [
            ("1000m", "1"),
            ("1.5Gi", "1536Mi"),
            ("0.5", "500m"),
            ("1024", "1024"),
            ("2000", "2k"),
            ("0.1n", "1n"),
            ("1e30", "1e30"),
            ("50000000000000000000", "50E"),
            ("-1.5", "-1500m"),
        ] {
            assert_eq!(Amount::parse(text).expect(text).text(), shortest);
        }
    }
}
