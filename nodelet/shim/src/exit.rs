//! Exit records and time stamps.
//!
//! A record is written beside the container's bundle with write-to-temporary, sync and rename, so that a reader finds
//! either nothing or the whole record, whatever died in between.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::wait::WaitStatus;

use crate::protocol::ExitRecord;

/// The record's name inside the bundle directory.
pub const EXIT_FILE: &str = "exit.json";

/// Writes `record` into `bundle`.
pub fn write(bundle: &Path, record: &ExitRecord) -> std::io::Result<()> {
    let temporary = bundle.join("exit.json.tmp");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    std::fs::rename(&temporary, bundle.join(EXIT_FILE))
}

/// Reads the record of `bundle`, if its container ended.
pub fn read(bundle: &Path) -> std::io::Result<Option<ExitRecord>> {
    match std::fs::read(bundle.join(EXIT_FILE)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The exit code and signal of a wait status; `None` when the process has not ended.
pub(crate) fn code(status: WaitStatus) -> Option<(i32, Option<i32>)> {
    match status {
        WaitStatus::Exited(_, code) => Some((code, None)),
        WaitStatus::Signaled(_, signal, _) => Some((128 + signal as i32, Some(signal as i32))),
        _ => None,
    }
}

/// The present moment as RFC 3339 in UTC with nanoseconds.
pub fn now() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    format_time(since)
}

/// `2026-01-02T03:04:05.000000000Z` for a time since the epoch.
pub(crate) fn format_time(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        of_day / 3600,
        of_day % 3600 / 60,
        of_day % 60,
        since_epoch.subsec_nanos()
    )
}

/// Year, month and day of a day counted from 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let mut year = 1970;
    let mut left = days;
    // 400 Gregorian years are exactly 146,097 days, so the loop below never runs long.
    year += left / 146_097 * 400;
    left %= 146_097;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(
            format_time(Duration::new(0, 0)),
            "1970-01-01T00:00:00.000000000Z"
        );
        assert_eq!(
            format_time(Duration::new(1_709_210_096, 5)),
            "2024-02-29T12:34:56.000000005Z"
        );
        assert_eq!(
            format_time(Duration::new(4_102_444_799, 0)),
            "2099-12-31T23:59:59.000000000Z"
        );
    }
}
