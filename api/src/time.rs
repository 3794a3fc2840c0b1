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
