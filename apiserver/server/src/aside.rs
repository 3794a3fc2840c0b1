//! Work that takes a thread for long, done beside the threads on which everybody's requests wait.
//!
//! A task gives its thread back only where it waits. Reading, checking and writing a large object takes tens of
//! milliseconds without waiting for anything, and as many of them as there are threads would leave none for the others.
//! Such a request tells the runtime before each stretch of work that it is going to take long: another thread goes on with
//! what waits, and the system shares the processors among all.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use tokio::runtime::{Handle, RuntimeFlavor};

/// Bytes of a body, or of the object that it changes, above which a request may take long: some milliseconds, or more where
/// a policy's expressions are evaluated over it.
pub const LARGE_BYTES: usize = 16 * 1024;
/// The same for kinds with rules of users, which may compare every part with every other: a kilobyte can take a second.
pub const LARGE_RULED_BYTES: usize = 1024;

/// Groups whose objects hold patterns and expressions, which a write compiles: a short one may stand for a large machine.
pub const COMPILED_GROUPS: [&str; 2] = ["apiextensions.k8s.io", "admissionregistration.k8s.io"];

/// Whether a body may be many times larger than it looks: one in YAML whose parts stand for others.
pub fn has_aliases(headers: &HeaderMap, body: &[u8]) -> bool {
    let content = headers.get(CONTENT_TYPE);
    let content = content.and_then(|value| value.to_str().ok());
    content.is_some_and(|content| content.contains("yaml")) && body.contains(&b'&')
}

/// Work, and whether it may take long.
pub struct Aside<F> {
    work: F,
    is_long: bool,
}

impl<F> Aside<F> {
    /// Work that may take long or not.
    pub fn new(work: F, is_long: bool) -> Self {
        Self { work, is_long }
    }
}

impl<F: Future + Unpin> Future for Aside<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let is_long = self.is_long;
        let mut go_on = || Pin::new(&mut self.work).poll(cx);
        match is_long && has_threads() {
            true => tokio::task::block_in_place(go_on),
            false => go_on(),
        }
    }
}

/// Whether there is another thread to go on with what waits.
fn has_threads() -> bool {
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
}
