//! How much memory a role holds once it has started.
//!
//! Starting is unlike everything after it: every kind's schema is built, and nearly all code runs once. What that leaves
//! behind would be most of what an idle server holds, so it is given back.

#![allow(unsafe_code)] // the advice about memory below has no safe wrapper

use std::ffi::c_void;
use std::ptr::NonNull;
use std::time::Duration;

use nix::sys::mman::{MmapAdvise, madvise};
use nix::sys::prctl;

/// Watches and leases of controllers begin in this time after the start; what they run is better kept.
const SETTLING: Duration = Duration::from_secs(1);

/// To be called before anything is allocated in earnest. Until [`settle`], memory comes in small pages: what is allocated
/// at the start is spread thin, and in huge pages it would hold twice as much.
pub fn begin() {
    // Where the kernel knows nothing of this there are no huge pages either.
    let _ = prctl::set_thp_disable(true);
}

/// To be called when the role is ready: gives back, a moment later, what only the start needed.
pub async fn settle() {
    let _ = prctl::set_thp_disable(false);
    tokio::time::sleep(SETTLING).await;
    forget_code();
}

/// Lets go of all code. What runs again is found in the page cache, and is a tenth of what the start ran.
fn forget_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return;
    };
    let own = forget_code as *const () as usize;
    let Some((start, length)) = maps.lines().find_map(|line| code_around(line, own)) else {
        return;
    };
    let Some(start) = NonNull::new(std::ptr::without_provenance_mut::<c_void>(start)) else {
        return;
    };
    // SAFETY: the range is one whole mapping of the file of this program that nobody can write to: all its pages are as
    // they are in the file, and are read from there again when they are needed.
    if let Err(error) = unsafe { madvise(start, length, MmapAdvise::MADV_DONTNEED) } {
        tracing::debug!(%error, "the code that only the start needed is kept");
    }
}

/// Start and length of the mapping that a line of `/proc/self/maps` tells, if it is code and an address is in it.
fn code_around(line: &str, address: usize) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (number(start)?, number(end)?);
    let is_code = words.next()? == "r-xp";
    (is_code && (start..end).contains(&address)).then(|| (start, end - start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_this_program_is_found_and_nothing_else() {
        let code = "1000-3000 r-xp 00001000 fd:00 42  /usr/bin/corral";
        assert_eq!(code_around(code, 0x1000), Some((0x1000, 0x2000)));
        assert_eq!(code_around(code, 0x3000), None);
        let data = "1000-3000 r--p 00001000 fd:00 42  /usr/bin/corral";
        assert_eq!(code_around(data, 0x1000), None);
        assert_eq!(code_around("", 0), None);
    }

    #[test]
    fn what_was_forgotten_runs_again() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").expect("a status");
            let line = status.lines().find(|line| line.starts_with("RssFile:"));
            let size = line.and_then(|line| line.split_ascii_whitespace().nth(1));
            size.and_then(|size| size.parse::<usize>().ok())
                .expect("a size")
        };
        let before = resident();
        forget_code();
        assert!(resident() < before);
    }
}
