//! Times as the API writes them: RFC 3339 in UTC, in seconds (`Time`) or microseconds (`MicroTime`).

use jiff::Timestamp;

pub use crate::k8s::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

/// `2026-01-02T03:04:05Z`.
pub fn format_seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-01-02T03:04:05.123456Z`.
pub fn format_micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// The time with its fraction of a second taken off, as it is after a trip through the API.
pub fn truncate_to_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).expect("a second inside the range of Timestamp")
}

/// How Go writes the form of a `Time`; messages show it.
pub const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
/// How Go writes the form of a `MicroTime`, which has exactly six digits after the second.
pub const MICRO_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";

/// The parts of a time up to the seconds: the name that Go has for each, its digits, the highest value, what follows.
const PARTS: [(&str, usize, u32, &str); 6] = [
    ("2006", 4, 9999, "-"),
    ("01", 2, 12, "-"),
    ("02", 2, 31, "T"),
    ("15", 2, 23, ":"),
    ("04", 2, 59, ":"),
    ("05", 2, 59, ""),
];

/// Checks that a text is a time of a layout, [`LAYOUT`] or [`MICRO_LAYOUT`].
///
/// # Errors
/// The message that Go's parser gives.
pub fn check(text: &str, layout: &str) -> Result<(), String> {
    let cannot = |rest: &str, part: &str| {
        Err(format!(
            "parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {part:?}"
        ))
    };
    let out_of_range = |what: &str| Err(format!("parsing time {text:?}: {what} out of range"));
    let mut rest = text;
    for (part, digits, max, after) in PARTS {
        let number = rest
            .get(..digits)
            .filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        let Some(number) = number.and_then(|d| d.parse::<u32>().ok()) else {
            return cannot(rest, part);
        };
        let least = u32::from(matches!(part, "01" | "02"));
        if number > max || number < least {
            return out_of_range(match part {
                "01" => "month",
                "02" => "day",
                "15" => "hour",
                "04" => "minute",
                _ => "second",
            });
        }
        rest = &rest[digits..];
        match rest.strip_prefix(after) {
            Some(left) => rest = left,
            None => return cannot(rest, after),
        }
    }
    let fraction = rest.strip_prefix('.').unwrap_or("");
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    let wanted = layout.contains(".000000");
    if wanted && digits != 6 {
        return cannot(rest, ".000000");
    }
    let zone = if digits > 0 {
        &fraction[digits..]
    } else {
        rest
    };
    if zone == "Z" {
        return match text.parse::<Timestamp>() {
            Ok(_) => Ok(()),
            Err(_) => out_of_range("day"),
        };
    }
    let shaped = zone.len() == 6 && zone.starts_with(['+', '-']) && zone.as_bytes()[3] == b':';
    match (shaped, text.parse::<Timestamp>()) {
        (true, Ok(_)) => Ok(()),
        _ => cannot(zone, "Z07:00"),
    }
}

/// How long something has lasted, as kubectl prints ages: `5s`, `3m10s`, `2d4h`, `400d`, `2y35d`.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |n: i64, unit: char, rest: i64, small: char| {
        if rest == 0 {
            format!("{n}{unit}")
        } else {
            format!("{n}{unit}{rest}{small}")
        }
    };
    match seconds {
        s if s < -1 => "<invalid>".to_owned(),
        s if s < 0 => "0s".to_owned(),
        s if s < 120 => format!("{s}s"),
        s if minutes < 10 => pair(minutes, 'm', s % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => pair(days, 'd', hours % 24, 'h'),
        _ if days < 730 => format!("{days}d"),
        _ if days < 8 * 365 => pair(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_refused_as_go_refuses_them() {
        for text in ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.12+01:00"] {
            assert_eq!(check(text, LAYOUT), Ok(()));
        }
        assert_eq!(check("2026-01-02T03:04:05.123456Z", MICRO_LAYOUT), Ok(()));
        for (text, layout, message) in [
            ("Not", LAYOUT, "cannot parse \"Not\" as \"2006\""),
            ("", LAYOUT, "cannot parse \"\" as \"2006\""),
            ("2026/01", LAYOUT, "cannot parse \"/01\" as \"-\""),
            (
                "2026-01-02T03:04:05",
                LAYOUT,
                "cannot parse \"\" as \"Z07:00\"",
            ),
            (
                "2026-01-02T03:04:05Z",
                MICRO_LAYOUT,
                "cannot parse \"Z\" as \".000000\"",
            ),
        ] {
            let told = format!("parsing time {text:?} as {layout:?}: {message}");
            assert_eq!(check(text, layout), Err(told));
        }
        let told = "parsing time \"2026-13-02T03:04:05Z\": month out of range";
        assert_eq!(check("2026-13-02T03:04:05Z", LAYOUT), Err(told.to_owned()));
    }

    #[test]
    fn durations_read_as_in_kubectl() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (185, "3m5s"),
            (3600, "60m"),
            (3 * 3600 + 60, "3h1m"),
            (50 * 3600, "2d2h"),
            (9 * 86_400, "9d"),
            (800 * 86_400, "2y70d"),
        ] {
            assert_eq!(human_duration(seconds), text);
        }
    }
}
