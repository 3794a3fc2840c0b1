//! Numbers that may be given as a percentage.

pub use crate::k8s::apimachinery::pkg::util::intstr::IntOrString;

/// Which way a fraction is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Rounding {
    Up,
    Down,
}

/// The number that a value stands for when 100 % is `total`.
///
/// # Errors
/// When a text is not a whole number followed by `%`.
pub fn scaled(value: &IntOrString, total: i32, rounding: Rounding) -> Result<i32, String> {
    match value {
        IntOrString::Int(n) => Ok(*n),
        IntOrString::String(text) => {
            let percent = percent(text).ok_or_else(|| {
                format!("invalid value for IntOrString: {text:?} is not a percentage")
            })?;
            let product = i64::from(percent) * i64::from(total);
            let scaled = match rounding {
                Rounding::Up => product.div_euclid(100) + i64::from(product.rem_euclid(100) != 0),
                Rounding::Down => product.div_euclid(100),
            };
            i32::try_from(scaled).map_err(|_| format!("{text} of {total} is out of range"))
        }
    }
}

/// The number of a percentage such as `25%`.
pub fn percent(text: &str) -> Option<i32> {
    let digits = text.strip_suffix('%')?;
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_scale_and_round() {
        let quarter = IntOrString::String("25%".into());
        assert_eq!(scaled(&quarter, 10, Rounding::Up), Ok(3));
        assert_eq!(scaled(&quarter, 10, Rounding::Down), Ok(2));
        assert_eq!(scaled(&IntOrString::Int(7), 1, Rounding::Up), Ok(7));
        assert!(scaled(&IntOrString::String("7".into()), 1, Rounding::Up).is_err());
    }
}
