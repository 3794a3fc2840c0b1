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

/// Writes a duration as Go does, but for parts of a millisecond, which are its decimals.
pub fn text(duration: Duration) -> String {
    let (whole, nanoseconds) = (duration.as_secs(), duration.subsec_nanos());
    let seconds = Duration::new(whole % 60, nanoseconds).as_secs_f64();
    match (whole / 3600, whole / 60 % 60) {
        (0, 0) if duration.is_zero() => "0s".to_owned(),
        (0, 0) if whole == 0 => format!("{}ms", f64::from(nanoseconds) / 1e6),
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
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
        for (micros, written) in [
            (0, "0s"),
            (500, "0.5ms"),
            (300_000, "300ms"),
            (30_000_000, "30s"),
            (90_500_000, "1m30.5s"),
            (7_200_000_000, "2h0m0s"),
        ] {
            let duration = Duration::from_micros(micros);
            assert_eq!(text(duration), written);
            assert_eq!(parse(written), Ok(duration));
        }
    }
}
