//! Points and lengths of time as the language reads and writes them.

use std::cmp::Ordering;
use std::fmt::Write as _;

use jiff::tz::TimeZone;

const SECOND: i64 = 1_000_000_000;
/// The first second of year 1.
const SECONDS_MIN: i64 = -62_135_596_800;
/// The last second of year 9999.
const SECONDS_MAX: i64 = 253_402_300_799;

/// A point in time, with the distance to UTC it was written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp {
    seconds: i64,
    nanos: i32,
    offset_seconds: i32,
}

/// A part of a date or a time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Year,
    Month,
    DayOfYear,
    DayOfMonth,
    Date,
    DayOfWeek,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

/// Why a sum or difference isn't there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Overflow {
    #[error("integer overflow")]
    Duration,
    #[error("timestamp overflow")]
    Timestamp,
}

impl Timestamp {
    /// A second since 1970; `None` outside of the years 1 to 9999.
    pub(crate) fn of_seconds(seconds: i64) -> Option<Self> {
        (SECONDS_MIN..=SECONDS_MAX)
            .contains(&seconds)
            .then_some(Self {
                seconds,
                nanos: 0,
                offset_seconds: 0,
            })
    }

    /// Reads `2006-01-02T15:04:05.999Z` or with a distance such as `+01:00`. `None` for what isn't one.
    pub fn parse(text: &str) -> Option<Self> {
        // An hour may have one digit.
        if text.get(12..13) == Some(":") {
            return Self::parse(&format!("{}0{}", text.get(..11)?, &text[11..]));
        }
        let (date_time, rest) = Self::parse_local(text)?;
        let offset_seconds = match rest {
            "Z" => 0,
            _ => {
                let (sign, rest) = match rest.as_bytes().first()? {
                    b'+' => (1, &rest[1..]),
                    b'-' => (-1, &rest[1..]),
                    _ => return None,
                };
                let (hours, minutes) = rest.split_once(':')?;
                if hours.len() != 2 || minutes.len() != 2 {
                    return None;
                }
                let (hours, minutes) = (digits(hours, 24)?, digits(minutes, 60)?);
                sign * (hours * 3600 + minutes * 60)
            }
        };
        Some(Self::of_local(date_time, offset_seconds))
    }

    /// The same without a distance, which is then none.
    pub(crate) fn parse_lenient(text: &str) -> Option<Self> {
        Self::parse(text).or_else(|| {
            let (date_time, rest) = Self::parse_local(text)?;
            rest.is_empty().then(|| Self::of_local(date_time, 0))
        })
    }

    /// Reads `2006-01-02`.
    pub(crate) fn parse_date(text: &str) -> Option<Self> {
        let midnight = format!("{text}T00:00:00");
        let (date, rest) = Self::parse_local(&midnight)?;
        (rest.is_empty() && text.len() == 10).then(|| Self::of_local(date, 0))
    }

    fn of_local(local: Local, offset_seconds: i32) -> Self {
        Self {
            seconds: local.seconds() - i64::from(offset_seconds),
            nanos: local.nanos,
            offset_seconds,
        }
    }

    /// Date, time and fraction; and what follows.
    fn parse_local(text: &str) -> Option<(Local, &str)> {
        let bytes = text.as_bytes();
        let shape = b"dddd-dd-ddTdd:dd:dd";
        if bytes.len() < shape.len() || !text.is_char_boundary(shape.len()) {
            return None;
        }
        for (b, s) in bytes.iter().zip(shape) {
            let fits = if *s == b'd' {
                b.is_ascii_digit()
            } else {
                b == s
            };
            if !fits {
                return None;
            }
        }
        let n = |from: usize, to: usize| text[from..to].parse::<i64>().ok();
        let mut rest = &text[shape.len()..];
        let mut nanos = 0;
        if rest.starts_with(['.', ',']) {
            let fraction: &str = &rest[1..];
            let end = fraction
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(fraction.len());
            if end == 0 {
                return None;
            }
            let kept: String = fraction[..end]
                .chars()
                .chain("000000000".chars())
                .take(9)
                .collect();
            nanos = kept.parse().ok()?;
            rest = &fraction[end..];
        }
        let local = Local {
            year: n(0, 4)?,
            month: n(5, 7)?,
            day: n(8, 10)?,
            second_of_day: n(11, 13)? * 3600 + n(14, 16)? * 60 + n(17, 19)?,
            nanos,
        };
        let fits = (1..=12).contains(&local.month)
            && (1..=days_of_month(local.year, local.month)).contains(&local.day)
            && n(11, 13)? < 24
            && n(14, 16)? < 60
            && n(17, 19)? < 60;
        fits.then_some((local, rest))
    }

    /// Seconds since 1970, rounded down.
    pub fn unix_seconds(&self) -> i64 {
        self.seconds
    }

    fn total_nanos(self) -> i128 {
        i128::from(self.seconds) * i128::from(SECOND) + i128::from(self.nanos)
    }

    fn of_total(nanos: i128, offset_seconds: i32) -> Result<Self, Overflow> {
        let seconds = i64::try_from(nanos.div_euclid(i128::from(SECOND)))
            .ok()
            .filter(|s| (SECONDS_MIN..=SECONDS_MAX).contains(s))
            .ok_or(Overflow::Timestamp)?;
        Ok(Self {
            seconds,
            nanos: i32::try_from(nanos.rem_euclid(i128::from(SECOND))).unwrap_or(0),
            offset_seconds,
        })
    }

    pub(crate) fn plus(self, nanos: i64) -> Result<Self, Overflow> {
        Self::of_total(self.total_nanos() + i128::from(nanos), self.offset_seconds)
    }

    pub(crate) fn minus(self, nanos: i64) -> Result<Self, Overflow> {
        Self::of_total(self.total_nanos() - i128::from(nanos), self.offset_seconds)
    }

    /// The nanoseconds between two points.
    pub(crate) fn since(self, other: Self) -> Result<i64, Overflow> {
        i64::try_from(self.total_nanos() - other.total_nanos()).map_err(|_| Overflow::Duration)
    }

    pub(crate) fn same_time(&self, other: &Self) -> bool {
        self.compare(other) == Ordering::Equal
    }

    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        (self.seconds, self.nanos).cmp(&(other.seconds, other.nanos))
    }

    /// The first moment of year 1 counts as no time.
    pub(crate) fn is_zero(&self) -> bool {
        self.seconds == SECONDS_MIN && self.nanos == 0
    }

    /// As text, with the distance it was written with.
    pub(crate) fn text(&self) -> String {
        self.text_at(self.offset_seconds)
    }

    fn text_at(self, offset_seconds: i32) -> String {
        let t = Local::of(self.seconds + i64::from(offset_seconds), self.nanos);
        let (hour, minute) = (t.second_of_day / 3600, t.second_of_day / 60 % 60);
        let mut out = format!(
            "{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{:02}",
            t.year,
            t.month,
            t.day,
            t.second_of_day % 60
        );
        if self.nanos != 0 {
            let fraction = format!("{:09}", self.nanos);
            let _ = write!(out, ".{}", fraction.trim_end_matches('0'));
        }
        if offset_seconds == 0 {
            out.push('Z');
        } else {
            let minutes = offset_seconds.abs() / 60;
            let sign = if offset_seconds < 0 { '-' } else { '+' };
            let _ = write!(out, "{sign}{:02}:{:02}", minutes / 60, minutes % 60);
        }
        out
    }

    /// A part of the date or time in a zone: a name, `+01:00`, or UTC without one.
    pub(crate) fn part(&self, part: Part, zone: Option<&str>) -> Result<i64, String> {
        let offset = offset_at(zone, self.seconds)?;
        let seconds = self.seconds + offset;
        let t = Local::of(seconds, self.nanos);
        Ok(match part {
            Part::Year => t.year,
            Part::Month => t.month - 1,
            Part::DayOfYear => seconds.div_euclid(DAY) - days_of_civil(t.year, 1, 1),
            Part::DayOfMonth => t.day - 1,
            Part::Date => t.day,
            // The first of January 1970 was a Thursday.
            Part::DayOfWeek => (seconds.div_euclid(DAY) + 4).rem_euclid(7),
            Part::Hours => t.second_of_day / 3600,
            Part::Minutes => t.second_of_day / 60 % 60,
            Part::Seconds => t.second_of_day % 60,
            Part::Milliseconds => i64::from(t.nanos) / 1_000_000,
        })
    }
}

const DAY: i64 = 86_400;

/// A date and a time of day.
#[derive(Debug, Clone, Copy)]
struct Local {
    year: i64,
    month: i64,
    day: i64,
    second_of_day: i64,
    nanos: i32,
}

impl Local {
    fn of(seconds: i64, nanos: i32) -> Self {
        // Counted from March, years end with the day that isn't always there.
        let days = seconds.div_euclid(DAY) + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
            second_of_day: seconds.rem_euclid(DAY),
            nanos,
        }
    }

    fn seconds(self) -> i64 {
        days_of_civil(self.year, self.month, self.day) * DAY + self.second_of_day
    }
}

/// The days from 1970 to a date.
fn days_of_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn days_of_month(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Two digits below a limit.
fn digits(text: &str, below: i32) -> Option<i32> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|n| *n < below)
}

/// The seconds that local time in a zone is ahead of UTC.
fn offset_at(zone: Option<&str>, seconds: i64) -> Result<i64, String> {
    let Some(name) = zone.filter(|z| !z.is_empty() && *z != "UTC") else {
        return Ok(0);
    };
    let Some((hours, minutes)) = name.split_once(':') else {
        let zone = TimeZone::get(name).map_err(|_| format!("unknown time zone {name}"))?;
        let at = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
        return Ok(i64::from(zone.to_offset(at).seconds()));
    };
    let (hours, minutes) = (atoi(hours)?, atoi(minutes)?);
    let minutes = if name.starts_with('-') {
        hours.saturating_mul(60).saturating_sub(minutes)
    } else {
        hours.saturating_mul(60).saturating_add(minutes)
    };
    // Further away is no place.
    const MINUTES_MAX: i64 = 1 << 32;
    Ok(minutes.clamp(-MINUTES_MAX, MINUTES_MAX) * 60)
}

fn atoi(text: &str) -> Result<i64, String> {
    text.parse::<i64>().map_err(|_| {
        format!(
            "strconv.Atoi: parsing {}: invalid syntax",
            corral_api::field::go_quote(text)
        )
    })
}

const UNITS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3600 * SECOND),
];

/// Reads a length of time such as `1h30m` or `-1.5s`, in nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let whole: i128 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        total += whole.checked_mul(i128::from(*nanos))? + fraction_of(fraction, *nanos);
        if total > i128::from(i64::MAX) + 1 {
            return None;
        }
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// The part of a unit that digits behind a point are.
fn fraction_of(digits: &str, nanos: i64) -> i128 {
    const DIGITS_MAX: usize = 18;
    let kept = &digits[..digits.len().min(DIGITS_MAX)];
    let scale = 10_i128.pow(u32::try_from(kept.len()).unwrap_or(0));
    kept.parse::<i128>()
        .map_or(0, |n| n * i128::from(nanos) / scale)
}

/// The same with the days and weeks, and the names of units, that OpenAPI's `duration` takes.
pub(crate) fn parse_openapi_duration(text: &str) -> Option<i64> {
    if let Some(nanos) = parse_duration(text) {
        return Some(nanos);
    }
    const NAMES: [(&[&str], i64); 8] = [
        (&["ns", "nano"], 1),
        (&["us", "\u{b5}s", "micro"], 1_000),
        (&["ms", "milli"], 1_000_000),
        (&["s", "sec"], SECOND),
        (&["m", "min"], 60 * SECOND),
        (&["h", "hr", "hour"], 3600 * SECOND),
        (&["d", "day"], 86_400 * SECOND),
        (&["w", "wk", "week"], 7 * 86_400 * SECOND),
    ];
    let mut total: Option<i64> = None;
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let from = &rest[start..];
        let end = from
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(from.len());
        let after = from[end..].trim_start();
        let unit_end = after
            .find(|c: char| !c.is_ascii_alphabetic() && c != '\u{b5}')
            .unwrap_or(after.len());
        let unit = after[..unit_end].to_lowercase();
        rest = &after[unit_end..];
        if unit.is_empty() {
            continue;
        }
        let factor: i64 = from[..end].parse().ok()?;
        for (names, nanos) in NAMES {
            let (last, others) = names.split_last()?;
            if unit.starts_with(last) || others.contains(&unit.as_str()) {
                let sum = factor.wrapping_mul(nanos).wrapping_add(total.unwrap_or(0));
                total = Some(sum);
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        for text in [
            "2023-07-14T10:30:45.123Z",
            "2023-07-14T10:30:45+02:00",
            "0001-01-01T00:00:00Z",
            "1969-12-31T23:59:59.5-07:30",
        ] {
            assert_eq!(
                Timestamp::parse(text).map(|t| t.text()).as_deref(),
                Some(text)
            );
        }
        for text in [
            "2023-7-14T10:30:45Z",
            "2023-02-30T00:00:00Z",
            "2023-01-01T00:00:00",
            "x",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
        let t = Timestamp::parse("1969-12-31T23:59:59.5Z").expect("a time");
        assert_eq!(t.unix_seconds(), -1);
        assert_eq!(t.part(Part::Milliseconds, None), Ok(500));
        assert_eq!(t.part(Part::Hours, Some("-07:30")), Ok(16));
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(parse_duration("1h30m"), Some(5400 * SECOND));
        assert_eq!(parse_duration("-1.5s"), Some(-1_500_000_000));
        assert_eq!(parse_duration("0"), Some(0));
        assert_eq!(parse_duration("1"), None);
        assert_eq!(parse_duration("1d"), None);
        assert_eq!(parse_duration("9223372036854775807ns"), Some(i64::MAX));
        assert_eq!(parse_duration("9223372036854775808ns"), None);
        assert_eq!(parse_openapi_duration("2 days"), Some(2 * 86_400 * SECOND));
    }
}
