//! Who holds how much memory.

use std::collections::HashMap;
use std::time::Duration;

use corral_api::status::Status;
use corral_heap::Site;
use jiff::Timestamp;

use super::encoded::{Frame, Measure, Profile};
use super::{attachment, failed};
use crate::handlers::Call;
use crate::response::Answer;

const MEASURES: [Measure; 4] = [
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
];

/// The allocator's own frames are among so many innermost ones.
const ALLOCATOR_FRAMES_MAX: usize = 32;

/// Two profiles of the same samples, as in Go: they differ in what tools show first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// What is held.
    Heap,
    /// What was allocated, freed or not.
    Allocs,
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Self::Heap => "heap",
            Self::Allocs => "allocs",
        }
    }

    fn shown(self) -> &'static str {
        match self {
            Self::Heap => "inuse_space",
            Self::Allocs => "alloc_space",
        }
    }
}

/// Answers what was sampled since the start; with `seconds`, what has changed in that time.
///
/// # Errors
/// When the task that looks names up is lost.
pub(super) async fn profile(call: &Call, which: Which) -> Result<Answer, Status> {
    if call.info.query.get("debug").is_some_and(|text| text != "0") {
        let text =
            "only the compressed form is there: leave debug out, and read it with go tool pprof\n";
        return Ok(failed(400, text.to_owned()));
    }
    let seconds = match super::seconds(call) {
        Ok(seconds) => seconds,
        Err(answer) => return Ok(answer),
    };
    let nothing = || {
        failed(
            500,
            "the allocator of this process takes no samples\n".to_owned(),
        )
    };
    let began = Timestamp::now();
    let Some(mut profile) = corral_heap::profile() else {
        return Ok(nothing());
    };
    let time = Duration::from_secs(seconds.unwrap_or(0));
    if !time.is_zero() {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            // One that the server's end cuts short is not worth waiting for.
            () = call.shared.stop.cancelled() => {
                return Ok(failed(500, "the server is stopping\n".to_owned()));
            }
        }
        let Some(after) = corral_heap::profile() else {
            return Ok(nothing());
        };
        profile.sites = since(profile.sites, after.sites);
    }
    // Names are looked up in the program's own file, which takes a while.
    let made = tokio::task::spawn_blocking(move || encode(&profile.sites, which, began, time));
    match made.await.map_err(Status::internal)? {
        Ok(bytes) => Ok(attachment(which.name(), bytes)),
        Err(error) => Ok(failed(500, format!("{error}\n"))),
    }
}

/// How what was sampled has changed. What was freed since counts as nothing held.
fn since(before: Vec<Site>, after: Vec<Site>) -> Vec<Site> {
    let mut before: HashMap<Vec<usize>, Site> = before
        .into_iter()
        .map(|mut site| (std::mem::take(&mut site.stack), site))
        .collect();
    let change = |mut site: Site| {
        if let Some(before) = before.remove(&site.stack) {
            site.alloc_objects -= before.alloc_objects;
            site.alloc_bytes -= before.alloc_bytes;
            site.live_objects -= before.live_objects;
            site.live_bytes -= before.live_bytes;
        }
        site
    };
    after.into_iter().map(change).collect()
}

fn encode(
    sites: &[Site],
    which: Which,
    began: Timestamp,
    time: Duration,
) -> std::io::Result<Vec<u8>> {
    let mut profile = Profile::new(&MEASURES);
    let mut known: HashMap<usize, Vec<Frame>> = HashMap::new();
    for site in sites {
        let Site {
            stack,
            alloc_objects,
            alloc_bytes,
            live_objects,
            live_bytes,
        } = site;
        let values = [alloc_objects, alloc_bytes, live_objects, live_bytes];
        let values = values.map(|value| value.round().max(0.0) as u64);
        if values == [0; 4] {
            continue;
        }
        for address in stack {
            known.entry(*address).or_insert_with(|| frames(*address));
        }
        let frames = stack.iter().filter_map(|address| known.get(address));
        let frames: Vec<&Frame> = frames.flatten().collect();
        profile.add(asking(&frames).iter().copied(), &values);
    }
    let period = u64::try_from(corral_heap::PERIOD).unwrap_or(u64::MAX);
    let period = (("space", "bytes"), period);
    profile.finish((began, time), period, which.shown())
}

/// The functions at an address, the innermost first: more than one where calls were inlined.
fn frames(address: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    // What returns to an address was called just before it.
    let call = std::ptr::without_provenance_mut(address.saturating_sub(1));
    backtrace::resolve(call, |symbol| {
        let name = symbol.name().map(|name| format!("{name:#}"));
        let file = symbol.filename().map(|file| file.display().to_string());
        frames.push(Frame {
            name: name.unwrap_or_else(|| format!("{address:#x}")),
            file: file.unwrap_or_default(),
            line: symbol.lineno().unwrap_or(0),
        });
    });
    frames
}

/// The frames of who has asked for memory: each stack was looked at from within the allocator.
fn asking<'a, 'f>(frames: &'a [&'f Frame]) -> &'a [&'f Frame] {
    let mut inner = frames.iter().take(ALLOCATOR_FRAMES_MAX);
    let inner = inner.rposition(|frame| is_allocators(&frame.name));
    &frames[inner.map_or(0, |at| at + 1)..]
}

fn is_allocators(name: &str) -> bool {
    // Of a method the name begins with the type's. Where a thread begins there is a `std::sys::backtrace` of its own.
    let path = name.trim_start_matches('<');
    path.starts_with("backtrace::")
        || path.starts_with("corral_heap::")
        || name.contains("__rust_alloc")
        || name.contains("__rust_realloc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_allocator_calls_is_left_out_and_nothing_else() {
        let frames = [
            "backtrace::backtrace::libunwind::trace",
            "corral_heap::sites::add",
            "core::option::Option<T>::map",
            "<corral_heap::Sampled<A> as core::alloc::global::GlobalAlloc>::alloc",
            "__rustc::__rust_alloc",
            "alloc::vec::Vec<T>::push",
            "core::ptr::drop_in_place<corral_heap::Profile>",
            "std::sys::backtrace::__rust_begin_short_backtrace",
            "std::thread::main",
        ];
        let frames = frames.map(|name| Frame {
            name: name.to_owned(),
            file: String::new(),
            line: 0,
        });
        let frames: Vec<&Frame> = frames.iter().collect();
        let asking: Vec<&str> = asking(&frames).iter().map(|f| f.name.as_str()).collect();
        assert_eq!(
            asking,
            frames[5..].iter().map(|f| &f.name[..]).collect::<Vec<_>>()
        );
    }
}
