//! `/debug/pprof`: where the process spends its time, in the format that `go tool pprof` and other tools read. Heap profiles are
//! not there: the allocator does not know who asked it.

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use corral_api::status::Status;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, LOCATION, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;
use pprof::{ProfilerGuardBuilder, Report};
use tokio::sync::Mutex;

use crate::handlers::Call;
use crate::response::{self, Answer};

/// How long a profile is unless somebody says otherwise, as in Go.
const SECONDS: u64 = 30;
/// How long one may be.
const SECONDS_MAX: u64 = 600;
/// Samples for each second of a processor's time, as in Go.
const FREQUENCY: i32 = 100;
/// Code in which the stack cannot be looked at safely.
const LEFT_OUT: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

/// One profile at a time: there is one timer in a process.
static TURN: Mutex<()> = Mutex::const_new(());

const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// Answers a path below `/debug/pprof`.
///
/// # Errors
/// 404 when profiling is off, 500 when a profile is being made already.
pub async fn handle(call: &Call, rest: &[&str]) -> Result<Answer, Status> {
    if !call.shared.serving.profiling {
        return Err(Status::no_such_path());
    }
    match rest {
        [] if !call.info.path.ends_with('/') => Ok(moved()),
        [] => Ok(index()),
        ["profile"] => profile(call).await,
        _ => Ok(unknown()),
    }
}

fn moved() -> Answer {
    const TO: HeaderValue = HeaderValue::from_static("/debug/pprof/");
    let mut answer = response::text(302, "");
    answer.headers_mut().insert(LOCATION, TO);
    answer
}

fn index() -> Answer {
    const PAGE: &str = "<html>\n<head>\n<title>/debug/pprof/</title>\n</head>\n<body>\n<p>/debug/pprof/</p>\n\
        <ul>\n<li><a href='profile?seconds=30'>profile</a>: where the processor's time goes, over some seconds; \
        for tools that read pprof's format</li>\n</ul>\n</body>\n</html>\n";
    const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
    let mut answer = response::text(200, PAGE);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HTML);
    headers.insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    answer
}

/// What tools for Go take as an answer of the profiler itself.
fn failed(code: u16, text: String) -> Answer {
    const PPROF: HeaderName = HeaderName::from_static("x-go-pprof");
    let mut answer = response::text(code, text);
    let headers = answer.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    headers.insert(PPROF, HeaderValue::from_static("1"));
    answer
}

fn unknown() -> Answer {
    failed(404, "Unknown profile\n".to_owned())
}

async fn profile(call: &Call) -> Result<Answer, Status> {
    let seconds = call
        .info
        .query
        .get("seconds")
        .and_then(|text| text.parse().ok());
    let seconds = seconds.filter(|n| *n > 0).unwrap_or(SECONDS);
    if seconds > SECONDS_MAX {
        let text = format!("profile duration exceeds {SECONDS_MAX} seconds\n");
        return Ok(failed(400, text));
    }
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
        compressed(&encode(&report, began, time)).map_err(|error| error.to_string())
    });
    match made.await.map_err(Status::internal)? {
        Ok(bytes) => Ok(attachment(bytes)),
        Err(error) => Ok(refused(&error)),
    }
}

fn attachment(bytes: Vec<u8>) -> Answer {
    const ATTACHMENT: HeaderValue = HeaderValue::from_static("attachment; filename=\"profile\"");
    let mut answer = response::answer(200, "application/octet-stream", response::full(bytes));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_DISPOSITION, ATTACHMENT);
    headers.insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    answer
}

fn compressed(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes)?;
    gzip.finish()
}

/// A message of protobuf that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }
}

/// Numbers things from 1 on, each once.
#[derive(Default)]
struct Numbers<T>(HashMap<T, u64>);

impl<T: std::hash::Hash + Eq> Numbers<T> {
    /// The number of a thing, and whether it is new.
    fn of(&mut self, thing: T) -> (u64, bool) {
        let next = self.0.len() as u64 + 1;
        let number = *self.0.entry(thing).or_insert(next);
        (number, number == next)
    }
}

fn is_profilers(name: &str) -> bool {
    name.starts_with("backtrace::") || name.contains("pprof::")
}

/// A profile as <https://github.com/google/pprof/blob/main/proto/profile.proto> has it.
fn encode(report: &Report, began: Timestamp, time: Duration) -> Vec<u8> {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let period = 1_000_000_000 / u64::from(FREQUENCY.unsigned_abs());
    let mut strings = Numbers::<String>::default();
    // The first string is empty; it has no number above.
    let mut table = Message::default();
    table.bytes(6, b"");
    let mut string = |text: String| {
        let copy = text.clone();
        let (number, is_new) = strings.of(text);
        if is_new {
            table.bytes(6, copy.as_bytes());
        }
        number
    };
    let mut functions = Numbers::<(u64, u64)>::default();
    let mut locations = Numbers::<(u64, u32)>::default();
    let mut out = Message::default();
    let mut value_type = |what: &str, unit: &str| {
        let (what, unit) = (string(what.to_owned()), string(unit.to_owned()));
        move |message: &mut Message| {
            message.number(1, what);
            message.number(2, unit);
        }
    };
    out.message(1, value_type("samples", "count"));
    out.message(1, value_type("cpu", "nanoseconds"));
    let period_type = value_type("cpu", "nanoseconds");
    for (frames, count) in &report.data {
        let mut stack = Message::default();
        let symbols = frames.frames.iter().flatten();
        // Each stack was looked at from within the profiler.
        for symbol in symbols.skip_while(|symbol| is_profilers(&symbol.name())) {
            let (name, file) = (
                string(symbol.name()),
                string(symbol.filename().into_owned()),
            );
            let line = symbol.lineno();
            let (function, is_new) = functions.of((name, file));
            if is_new {
                out.message(5, |message| {
                    message.number(1, function);
                    message.number(2, name);
                    message.number(3, name);
                    message.number(4, file);
                });
            }
            let (location, is_new) = locations.of((function, line));
            if is_new {
                out.message(4, |message| {
                    message.number(1, location);
                    message.message(4, |message| {
                        message.number(1, function);
                        message.number(2, u64::from(line));
                    });
                });
            }
            stack.varint(location);
        }
        let count = u64::try_from(*count).unwrap_or(0);
        out.message(2, |message| {
            message.bytes(1, &stack.0);
            let mut values = Message::default();
            values.varint(count);
            values.varint(count * period);
            message.bytes(2, &values.0);
        });
    }
    out.number(9, u64::try_from(began.as_nanosecond()).unwrap_or(0));
    out.number(10, nanos(time));
    out.message(11, period_type);
    out.number(12, period);
    out.0.extend(table.0);
    out.0
}
