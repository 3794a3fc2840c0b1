//! A stack of its own for what nests deeply.
//!
//! Expressions may nest 250 levels, each of which takes several calls: more than a thread's usual stack holds.

use std::thread;

/// Enough for the deepest expression.
const STACK_BYTES: usize = 64 << 20;
/// What nests no deeper than this runs where it is.
const DEPTH_AT_HAND: usize = 25;

/// Runs work that nests at most so deeply.
pub(crate) fn run<T: Send>(depth_max: usize, work: impl FnOnce() -> T + Send) -> T {
    if depth_max <= DEPTH_AT_HAND {
        return work();
    }
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("cel".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .expect("a thread can be started");
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
