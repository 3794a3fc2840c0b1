//! Durations as Go writes them, which configuration files and flags of Kubernetes use.

use std::time::Duration;

/// Reads a duration such as `1h30m`, `2.5s` or `300ms`.
///
/// # Errors
/// For anything else.
pub fn parse(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{text:?} is no duration such as 1m30s");
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, tail) = rest.split_at(digits.ok_or_else(invalid)?);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, tail) = tail.split_at(unit.unwrap_or(tail.len()));
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            _ => return Err(invalid()),
        };
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| invalid())?;
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = tail;
    }
    match text.is_empty() {
        true => Err(invalid()),
        false => Ok(total),
    }
}

/// Writes a duration so that [`parse`] reads it; of less than a millisecond nothing is said.
pub fn text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let part = |n: u64, unit: &str| match n {
        0 => String::new(),
        n => format!("{n}{unit}"),
    };
    let text = [
        part(hours, "h"),
        part(minutes, "m"),
        part(seconds % 60, "s"),
        part(u64::from(duration.subsec_millis()), "ms"),
    ]
    .concat();
    match text.is_empty() {
        true => "0s".to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, seconds) in [
            ("30s", 30.0),
            ("1m30s", 90.0),
            ("1h", 3600.0),
            ("1.5s", 1.5),
            ("300ms", 0.3),
        ] {
            assert_eq!(parse(text).map(|d| d.as_secs_f64()), Ok(seconds), "{text}");
        }
        for text in ["", "30", "s", "1d", "-1s", "1s2"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for (millis, written) in [
            (0, "0s"),
            (300, "300ms"),
            (30_000, "30s"),
            (90_500, "1m30s500ms"),
            (7_200_000, "2h"),
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!(text(duration), written);
            assert_eq!(parse(written), Ok(duration));
        }
    }
}
