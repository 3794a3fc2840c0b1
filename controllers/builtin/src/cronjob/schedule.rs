//! When a CronJob is due: five-field patterns, macros and `@every`, in a time zone. Pure.
//!
//! A time that a change to summer time skips is not made up for, as with Kubernetes' own controller.

use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

/// A schedule in a time zone.
#[derive(Debug)]
pub struct Schedule {
    when: When,
    zone: TimeZone,
}

#[derive(Debug)]
enum When {
    Pattern(Box<Cron>),
    /// Counted from the last start.
    Every(Duration),
}

impl Schedule {
    /// Reads a schedule; an error names the reason of the event to be shown with it.
    pub fn parse(text: &str, zone: Option<&str>) -> Result<Self, (&'static str, String)> {
        let (own_zone, text) = match text
            .strip_prefix("TZ=")
            .or_else(|| text.strip_prefix("CRON_TZ="))
        {
            Some(rest) => {
                let (zone, pattern) = rest.split_once(' ').unwrap_or((rest, ""));
                (Some(zone), pattern.trim())
            }
            None => (None, text.trim()),
        };
        let zone = match zone.or(own_zone) {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|error| {
                (
                    "UnknownTimeZone",
                    format!("invalid timeZone: {name:?}: {error}"),
                )
            })?,
        };
        let when = match text.strip_prefix("@every ") {
            Some(period) => When::Every(every(period)?),
            None => When::Pattern(Box::new(pattern(text)?)),
        };
        Ok(Self { when, zone })
    }

    /// The first time after `now`; `since` is what `@every` counts from.
    pub fn next(&self, now: Timestamp, since: Timestamp) -> Option<Timestamp> {
        match &self.when {
            When::Every(period) => {
                let done = periods(since, now, *period);
                since
                    .checked_add(period.checked_mul(done.checked_add(1)?)?)
                    .ok()
            }
            When::Pattern(cron) => self.after(cron, now),
        }
    }

    /// The latest time after `from` and not after `now`.
    pub fn latest(&self, from: Timestamp, now: Timestamp) -> Option<Timestamp> {
        match &self.when {
            When::Every(period) => match periods(from, now, *period) {
                0 => None,
                n => from.checked_add(period.checked_mul(n)?).ok(),
            },
            When::Pattern(cron) => {
                let mut at = now.to_zoned(self.zone.clone());
                let mut inclusive = true;
                loop {
                    at = cron.find_previous_occurrence(&at, inclusive).ok()?;
                    inclusive = false;
                    if at.timestamp() <= from {
                        return None;
                    }
                    if is_real(cron, &at) {
                        return Some(at.timestamp());
                    }
                }
            }
        }
    }

    /// Whether more than `count` times lie after `from` and not after `now`.
    pub fn more_than(&self, count: usize, from: Timestamp, now: Timestamp) -> bool {
        match &self.when {
            When::Every(period) => {
                usize::try_from(periods(from, now, *period)).is_ok_and(|n| n > count)
            }
            When::Pattern(cron) => {
                let times = std::iter::successors(Some(from), |at| self.after(cron, *at)).skip(1);
                times.take_while(|at| *at <= now).take(count + 1).count() > count
            }
        }
    }

    /// A time as people in the schedule's zone write it.
    pub fn local(&self, at: Timestamp) -> String {
        let local = at.to_zoned(self.zone.clone());
        if local.offset().is_zero() {
            corral_api::time::format_seconds(at)
        } else {
            local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
        }
    }

    fn after(&self, cron: &Cron, at: Timestamp) -> Option<Timestamp> {
        let mut at = at.to_zoned(self.zone.clone());
        loop {
            at = cron.find_next_occurrence(&at, false).ok()?;
            if is_real(cron, &at) {
                return Some(at.timestamp());
            }
        }
    }
}

/// Whether a time is in the pattern, and not merely what the pattern's time was moved to by a change of the clocks.
fn is_real(cron: &Cron, at: &Zoned) -> bool {
    cron.is_time_matching(at).unwrap_or(false)
}

fn periods(from: Timestamp, to: Timestamp, period: Duration) -> u32 {
    let between = Duration::try_from(to.duration_since(from)).unwrap_or_default();
    u32::try_from(between.as_secs() / period.as_secs().max(1)).unwrap_or(u32::MAX)
}

fn unparseable(text: &str, error: impl std::fmt::Display) -> (&'static str, String) {
    (
        "UnparseableSchedule",
        format!("unparseable schedule: {text:?}: {error}"),
    )
}

fn pattern(text: &str) -> Result<Cron, (&'static str, String)> {
    let expanded = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        other => other,
    };
    let parser = CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .sloppy_ranges(true);
    parser
        .build()
        .parse(expanded)
        .map_err(|error| unparseable(text, error))
}

/// Reads durations such as `1h30m`; at least a second.
fn every(text: &str) -> Result<Duration, (&'static str, String)> {
    let span: Span = text
        .trim()
        .parse()
        .map_err(|error: jiff::Error| unparseable(text, error))?;
    let total = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours());
    let total = total.map_err(|error| unparseable(text, error))?;
    let total = Duration::try_from(total).map_err(|error| unparseable(text, error))?;
    Ok(Duration::from_secs(total.as_secs().max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a valid time")
    }

    #[test]
    fn patterns_are_read_in_their_time_zone() {
        let schedule = Schedule::parse("30 9 * * 1-5", Some("Europe/Berlin")).expect("valid");
        let due = schedule.latest(at("2024-07-01T00:00:00Z"), at("2024-07-03T12:00:00Z"));
        assert_eq!(due, Some(at("2024-07-03T07:30:00Z")));
        assert_eq!(
            schedule.next(at("2024-07-05T08:00:00Z"), at("2024-07-01T00:00:00Z")),
            Some(at("2024-07-08T07:30:00Z"))
        );
        assert_eq!(
            schedule.local(at("2024-07-03T07:30:00Z")),
            "2024-07-03T09:30:00+02:00"
        );
    }

    #[test]
    fn every_counts_from_the_last_start() {
        let schedule = Schedule::parse("@every 1h30m", None).expect("valid");
        let start = at("2024-07-01T00:00:00Z");
        assert_eq!(schedule.latest(start, at("2024-07-01T01:29:59Z")), None);
        assert_eq!(
            schedule.latest(start, at("2024-07-01T03:10:00Z")),
            Some(at("2024-07-01T03:00:00Z"))
        );
        assert_eq!(
            schedule.next(at("2024-07-01T03:10:00Z"), start),
            Some(at("2024-07-01T04:30:00Z"))
        );
    }

    #[test]
    fn a_time_that_summer_time_skips_is_not_made_up_for() {
        let schedule = Schedule::parse("30 2 * * *", Some("America/New_York")).expect("valid");
        let next = schedule.next(at("2024-03-10T05:00:00Z"), at("2024-03-01T00:00:00Z"));
        assert_eq!(next, Some(at("2024-03-11T06:30:00Z")));
    }

    #[test]
    fn macros_steps_and_errors() {
        for text in [
            "@hourly",
            "@daily",
            "*/5 * * * *",
            "0/10 * * * *",
            "0 0 1,15 * MON",
            "TZ=Asia/Tokyo 0 0 * * *",
        ] {
            assert!(Schedule::parse(text, None).is_ok(), "{text}");
        }
        for (text, zone) in [
            ("* * * *", None),
            ("61 * * * *", None),
            ("* * * * *", Some("Nowhere/Land")),
        ] {
            assert!(Schedule::parse(text, zone).is_err(), "{text}");
        }
    }
}
