//! The schedule and the time zone of a CronJob.

use croner::parser::{CronParser, Seconds, Year};

const DESCRIPTORS: &[&str] = &[
    "@yearly",
    "@annually",
    "@monthly",
    "@weekly",
    "@daily",
    "@midnight",
    "@hourly",
];

/// What is wrong with a schedule: five fields, or one of the words that start with `@`.
pub fn problem(schedule: &str) -> Option<String> {
    // A time zone in the schedule is told apart by the caller.
    let without_zone = match schedule
        .strip_prefix("TZ=")
        .or(schedule.strip_prefix("CRON_TZ="))
    {
        Some(rest) => rest.split_once(' ').map_or("", |(_, rest)| rest.trim()),
        None => schedule,
    };
    if without_zone.starts_with('@') {
        return descriptor_problem(without_zone);
    }
    let fields: Vec<&str> = without_zone.split_whitespace().collect();
    if fields.len() != 5 {
        let shown = fields.join(" ");
        return Some(format!(
            "expected exactly 5 fields, found {}: [{shown}]",
            fields.len()
        ));
    }
    // What croner knows and Kubernetes does not.
    for field in &fields {
        if let Some(other) = field
            .chars()
            .find(|c| "LW#+".contains(*c) && !is_name(field))
        {
            return Some(format!(
                "failed to parse int from {field}: unexpected '{other}'"
            ));
        }
    }
    let parser = CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build();
    parser.parse(&fields.join(" ")).err().map(|e| e.to_string())
}

/// Names of months and days have letters that otherwise are extensions.
fn is_name(field: &str) -> bool {
    !field.contains(['#', '+'])
        && field
            .split([',', '-', '/'])
            .all(|part| part.len() == 3 || part.bytes().all(|b| b.is_ascii_digit() || b == b'*'))
}

fn descriptor_problem(descriptor: &str) -> Option<String> {
    if DESCRIPTORS.contains(&descriptor) {
        return None;
    }
    match descriptor.strip_prefix("@every ") {
        Some(duration) if is_go_duration(duration) => None,
        Some(duration) => Some(format!(
            "failed to parse duration {descriptor}: time: invalid duration {duration:?}"
        )),
        None => Some(format!("unrecognized descriptor: {descriptor}")),
    }
}

/// A duration such as `1h30m`.
fn is_go_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .bytes()
            .take_while(|b| b.is_ascii_digit() || *b == b'.')
            .count();
        let units = ["ns", "us", "µs", "ms", "s", "m", "h"];
        let after = &rest[digits..];
        // `ms` before `m`: the longest unit that fits.
        let unit = units
            .iter()
            .filter(|u| after.starts_with(**u))
            .max_by_key(|u| u.len());
        match unit {
            Some(unit) if digits > 0 => rest = &after[unit.len()..],
            _ => return false,
        }
    }
    !text.is_empty()
}

/// What is wrong with the name of a time zone.
pub fn zone_problems(zone: &str) -> Vec<String> {
    if zone.is_empty() {
        return vec!["timeZone must be nil or non-empty string".to_owned()];
    }
    let mut problems = Vec::new();
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+');
    let part_ok = |part: &str| {
        !part.starts_with('-')
            && part != "."
            && part != ".."
            && (1..=14).contains(&part.len())
            && part.bytes().all(ok)
    };
    if !zone.split('/').all(part_ok) {
        problems.push(format!("unknown time zone {zone}"));
    }
    if zone.eq_ignore_ascii_case("local") {
        problems.push(
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
                .to_owned(),
        );
    }
    if problems.is_empty() && jiff::tz::TimeZone::get(zone).is_err() {
        problems.push(format!("unknown time zone {zone}"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_those_of_kubernetes() {
        for right in [
            "* * * * *",
            "*/5 0-6 1,15 JAN-MAR MON-FRI",
            "@hourly",
            "@every 1h30m",
            "0 0 * JUL SUN",
        ] {
            assert_eq!(problem(right), None, "{right}");
        }
        assert_eq!(
            problem("* * * *").as_deref(),
            Some("expected exactly 5 fields, found 4: [* * * *]")
        );
        for wrong in [
            "60 * * * *",
            "@often",
            "@every x",
            "* * * * * *",
            "0 0 L * *",
            "a b c d e",
        ] {
            assert!(problem(wrong).is_some(), "{wrong}");
        }
        assert_eq!(
            zone_problems("Mars/Olympus"),
            ["unknown time zone Mars/Olympus"]
        );
        assert!(zone_problems("UTC").is_empty());
    }
}
