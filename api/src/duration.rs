//! Durations as Go writes them.

/// Whether Go would read this as a duration, in its words where it would not.
///
/// # Errors
/// What Go says.
pub fn check(text: &str) -> Result<(), String> {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("\u{b5}s", 1e-6),
        ("\u{3bc}s", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    /// What 63 bits of nanoseconds hold.
    const SECONDS_MAX: f64 = 9_223_372_036.854_775;
    let invalid = || format!("time: invalid duration {text:?}");
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return Ok(());
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let (number, tail) = rest.split_at(rest.find(|c| !is_number(c)).unwrap_or(rest.len()));
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let (unit, tail) = tail.split_at(tail.find(is_number).unwrap_or(tail.len()));
        let known = UNITS.iter().find(|(known, _)| *known == unit);
        let Some((_, each)) = known else {
            return Err(match unit {
                "" => format!("time: missing unit in duration {text:?}"),
                _ => format!("time: unknown unit {unit:?} in duration {text:?}"),
            });
        };
        seconds += number * each;
        rest = tail;
    }
    match seconds <= SECONDS_MAX {
        true => Ok(()),
        false => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_duration_is_told_as_go_tells_it() {
        for text in ["0", "0s", "-5s", "+1.5h", "1us", ".5s", "1h1m1s1ms1ns"] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        for (text, told) in [
            ("", "invalid duration \"\""),
            ("x", "invalid duration \"x\""),
            (".s", "invalid duration \".s\""),
            ("5", "missing unit in duration \"5\""),
            ("1s5", "missing unit in duration \"1s5\""),
            ("1d", "unknown unit \"d\" in duration \"1d\""),
            ("99999999999h", "invalid duration \"99999999999h\""),
        ] {
            assert_eq!(check(text), Err(format!("time: {told}")), "{text}");
        }
    }
}
