//! Supervised tasks: each has a name, ends at the common shutdown, and a panic in one stops all of them loudly.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A set of tasks with one shutdown token.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

impl Tasks {
    /// An empty set that ends with `shutdown`.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self {
            tracker: TaskTracker::new(),
            shutdown,
        }
    }

    /// The token that ends every task.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Starts a task. It is dropped at its next wait once shutdown is asked for.
    pub fn spawn(&self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        let name = name.into();
        let shutdown = self.shutdown.clone();
        self.tracker.spawn(async move {
            let guarded = AssertUnwindSafe(shutdown.run_until_cancelled(task)).catch_unwind();
            if guarded.await.is_err() {
                tracing::error!(task = %name, "task panicked; shutting down");
                shutdown.cancel();
            }
        });
    }

    /// Waits until every task has ended; call after cancelling the token.
    pub async fn join(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_the_whole_set() {
        let tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("waits", std::future::pending());
        tasks.spawn("panics", async { panic!("on purpose") });
        tasks.join().await;
        assert!(tasks.shutdown().is_cancelled());
    }
}
