//! `/debug/pprof`: where the process spends its time, and who holds its memory, in the format that `go tool pprof` and other
//! tools read.

use corral_api::status::Status;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, LOCATION, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue};

use crate::handlers::Call;
use crate::response::{self, Answer};

mod cpu;
mod encoded;
mod heap;

/// How long a profile may take.
const SECONDS_MAX: u64 = 600;

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
        ["profile"] => cpu::profile(call).await,
        ["heap"] => heap::profile(call, heap::Which::Heap).await,
        ["allocs"] => heap::profile(call, heap::Which::Allocs).await,
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
        <ul>\n<li><a href='allocs'>allocs</a>: what was allocated since the start, by who asked for it</li>\n\
        <li><a href='heap'>heap</a>: what is held of that</li>\n\
        <li><a href='profile?seconds=30'>profile</a>: where the processor's time goes, over some seconds</li>\n\
        </ul>\n<p>All are for tools that read pprof's format.</p>\n</body>\n</html>\n";
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

/// For how long a client wants a profile, if it says so.
fn seconds(call: &Call) -> Result<Option<u64>, Answer> {
    let wanted = call.info.query.get("seconds");
    let wanted = wanted.and_then(|text| text.parse().ok());
    match wanted.filter(|seconds| *seconds > 0) {
        Some(seconds) if seconds > SECONDS_MAX => {
            let text = format!("profile duration exceeds {SECONDS_MAX} seconds\n");
            Err(failed(400, text))
        }
        wanted => Ok(wanted),
    }
}

fn attachment(name: &str, bytes: Vec<u8>) -> Answer {
    let mut answer = response::answer(200, "application/octet-stream", response::full(bytes));
    let headers = answer.headers_mut();
    if let Ok(value) = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")) {
        headers.insert(CONTENT_DISPOSITION, value);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    answer
}
