//! Ends the process in order when it is told to.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by SIGINT or SIGTERM. A second one ends the process at once, for whoever cannot wait.
///
/// # Errors
/// When signals cannot be caught.
pub fn stop_token() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = token.clone();
    tokio::spawn(async move {
        for is_first in [true, false] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if !is_first {
                tracing::warn!("told to stop once more, ending at once");
                std::process::exit(1);
            }
            stop.cancel();
        }
    });
    Ok(token)
}
