//! Where the processors' time goes.

use std::time::Duration;

use corral_api::status::Status;
use jiff::Timestamp;
use pprof::{ProfilerGuardBuilder, Report};
use tokio::sync::Mutex;

use super::encoded::{Frame, Profile};
use super::{attachment, failed};
use crate::handlers::Call;
use crate::response::Answer;

/// How long a profile is unless somebody says otherwise, as in Go.
const SECONDS: u64 = 30;
/// Samples for each second of a processor's time, as in Go.
const FREQUENCY: i32 = 100;
/// Code in which the stack cannot be looked at safely.
const LEFT_OUT: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

/// One profile at a time: there is one timer in a process.
static TURN: Mutex<()> = Mutex::const_new(());

/// Profiles for a while.
///
/// # Errors
/// When the task that looks names up is lost.
pub(super) async fn profile(call: &Call) -> Result<Answer, Status> {
    let seconds = match super::seconds(call) {
        Ok(seconds) => seconds.unwrap_or(SECONDS),
        Err(answer) => return Ok(answer),
    };
    let refused = |why: &dyn std::fmt::Display| {
        failed(500, format!("Could not enable CPU profiling: {why}\n"))
    };
    let Ok(_turn) = TURN.try_lock() else {
        return Ok(refused(&"cpu profiling already in use"));
    };
    let builder = ProfilerGuardBuilder::default().frequency(FREQUENCY);
    let guard = match builder.blocklist(&LEFT_OUT).build() {
        Ok(guard) => guard,
        Err(error) => return Ok(refused(&error)),
    };
    let (began, time) = (Timestamp::now(), Duration::from_secs(seconds));
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        // One that the server's end cuts short is not worth waiting for.
        () = call.shared.stop.cancelled() => return Ok(refused(&"the server is stopping")),
    }
    // Names are looked up in the program's own file, which takes a while.
    let made = tokio::task::spawn_blocking(move || {
        let report = guard.report().build().map_err(|error| error.to_string())?;
        encode(&report, began, time).map_err(|error| error.to_string())
    });
    match made.await.map_err(Status::internal)? {
        Ok(bytes) => Ok(attachment("profile", bytes)),
        Err(error) => Ok(refused(&error)),
    }
}

fn is_profilers(name: &str) -> bool {
    name.starts_with("backtrace::") || name.contains("pprof::")
}

fn encode(report: &Report, began: Timestamp, time: Duration) -> std::io::Result<Vec<u8>> {
    let period = 1_000_000_000 / u64::from(FREQUENCY.unsigned_abs());
    let cpu = ("cpu", "nanoseconds");
    let mut profile = Profile::new(&[("samples", "count"), cpu]);
    for (frames, count) in &report.data {
        let symbols = frames.frames.iter().flatten();
        // Each stack was looked at from within the profiler.
        let symbols = symbols.skip_while(|symbol| is_profilers(&symbol.name()));
        let frames: Vec<Frame> = symbols
            .map(|symbol| Frame {
                name: symbol.name(),
                file: symbol.filename().into_owned(),
                line: symbol.lineno(),
            })
            .collect();
        let count = u64::try_from(*count).unwrap_or(0);
        profile.add(frames.iter(), &[count, count * period]);
    }
    profile.finish((began, time), (cpu, period), "cpu")
}
